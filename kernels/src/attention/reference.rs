//! The oracle: drawn rows of an attention in f64.
//!
//! The error of a row is held against that of a plain 16-bit implementation of the same row, as
//! FlashAttention's own tests do: what rounding to 16 bits costs is not guessed but computed.

use super::decode::{Pages, Step};
use super::forward::{Problem, rows};
use super::{Data, Shape, Tensor};
use std::collections::BTreeMap;

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::Element;
use crate::{Error, Result};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ReferenceParams {
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    lse: u64,
    samples: u64,
    scratch: u64,
    results: u64,
    q_offsets: u64,
    k_offsets: u64,
    lengths: u64,
    pages: u64,
    k_scales: u64,
    v_scales: u64,
    data: u64,
    q_steps: [i64; 3],
    k_steps: [i64; 3],
    v_steps: [i64; 3],
    out_steps: [i64; 3],
    heads: u32,
    group: u32,
    queries: i32,
    keys: i32,
    head_size: u32,
    cache_type: u32,
    page_size: u32,
    page_stride: u32,
    lse_queries: u32,
    left: i32,
    right: i32,
    count: i32,
    number: i32,
    factor: f32,
    scale: f32,
    masked: u32,
}
const _: () = assert!(size_of::<ReferenceParams>() == 280);
// SAFETY: repr(C) without padding, equal to the struct in reference.cu.
unsafe impl KernelParams for ReferenceParams {}

/// One row of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Sequence.
    pub batch: u32,
    /// Head of queries.
    pub head: u32,
    /// Query of the sequence.
    pub query: u32,
}

/// What was found in one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Which row.
    pub row: Row,
    /// The kernel's elements.
    pub values: Vec<f64>,
    /// The same in f64.
    pub reference: Vec<f64>,
    /// The same by a plain 16-bit implementation.
    pub plain: Vec<f64>,
    /// The kernel's log-sum-exp; 0 where none was written.
    pub lse: f64,
    /// The same in f64.
    pub lse_reference: f64,
}

/// Errors over all rows. What is not a number counts as infinite.
///
/// A row over many keys has small elements, whose errors vanish beside those of a row over few. So
/// [`Errors::over_plain`] is the worst over groups of rows within a factor of four of each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Errors {
    /// Largest |value - reference|.
    pub largest: f64,
    /// The same of the plain 16-bit implementation.
    pub plain_largest: f64,
    /// Largest |reference|.
    pub reference_largest: f64,
    /// Root mean square of value - reference over that of plain - reference.
    pub rms_ratio: f64,
    /// Root mean square of value - reference over that of reference.
    pub relative_rms: f64,
    /// Largest |lse - reference| / max(1, |reference|).
    pub lse_largest: f64,
    /// Largest error of a group of rows over that of a plain implementation, or over half a unit in the
    /// last place of the group's largest output where that is more: no output is nearer than that.
    pub over_plain: f64,
}

/// Largest error, the same of the plain implementation, and largest output of a group of rows.
type Group = [f64; 3];

/// The errors of these rows of outputs in `element`.
pub fn errors(found: &[Found], element: Element) -> Errors {
    let number = |x: f64| if x.is_nan() { f64::INFINITY } else { x.abs() };
    let (mut largest, mut plain_largest, mut lse_largest) = (0.0, 0.0, 0.0);
    let mut reference_largest: f64 = 0.0;
    let mut groups: BTreeMap<i32, Group> = BTreeMap::new();
    let (mut squares, mut plain_squares, mut reference_squares) = (0.0, 0.0, 0.0);
    for row in found {
        let size = row.reference.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        // Binary exponents, two to a group; a row of zeros is a group of its own.
        let exponent = if size > 0.0 { size.log2().floor() as i32 } else { i32::MIN };
        let group = groups.entry(exponent.div_euclid(2)).or_default();
        for ((value, reference), plain) in row.values.iter().zip(&row.reference).zip(&row.plain) {
            let (error, plain_error) = (number(value - reference), number(plain - reference));
            largest = f64::max(largest, error);
            plain_largest = f64::max(plain_largest, plain_error);
            reference_largest = reference_largest.max(reference.abs());
            let worse = [error, plain_error, reference.abs()];
            *group = std::array::from_fn(|i| group[i].max(worse[i]));
            squares += error * error;
            plain_squares += plain_error * plain_error;
            reference_squares += reference * reference;
        }
        let same = row.lse == row.lse_reference;
        let error = number(row.lse - row.lse_reference) / row.lse_reference.abs().max(1.0);
        lse_largest = f64::max(lse_largest, if same { 0.0 } else { number(error) });
    }
    let over = |base: f64| if squares == 0.0 { 0.0 } else { (squares / base).sqrt() };
    let (rms_ratio, relative_rms) = (over(plain_squares), over(reference_squares));
    let ratio = |[error, plain, size]: &Group| match *error {
        0.0 => 0.0,
        error => error / element.half_ulp(*size).max(*plain),
    };
    let over_plain = groups.values().map(ratio).fold(0.0, f64::max);
    Errors {
        largest,
        plain_largest,
        reference_largest,
        rms_ratio,
        relative_rms,
        lse_largest,
        over_plain,
    }
}

/// The oracle of one program and one element type.
#[derive(Debug)]
pub struct Reference {
    function: Function,
}

/// Most bytes of scratch; rows beyond are computed in further launches.
const SCRATCH_BYTES: u64 = 1 << 30;

impl Reference {
    /// Finds the entry of a variant of [`super::variant::Kernel::Reference`].
    pub fn new(module: &Module) -> Result<Reference> {
        Ok(Reference { function: module.entry("attention_reference")? })
    }

    /// Drawn rows of a forward attention; waits for the answer. `masked` takes the program's mask, else
    /// the limits of the problem hold.
    pub fn forward(
        &self,
        gpu: &Gpu,
        stream: &CudaStream,
        problem: &Problem<'_>,
        masked: bool,
        drawn: &[Row],
    ) -> Result<Vec<Found>> {
        self.function.same_context(problem.buffers())?;
        let (_, queries, _) = rows(problem);
        let limit = |keys: Option<u32>| keys.map_or(1 << 30, |keys| keys.min(1 << 30) as i32);
        let params = ReferenceParams {
            lse: problem.lse.map_or(0, Buffer::ptr),
            q_offsets: problem.ragged.map_or(0, |ragged| ragged.query_offsets.ptr()),
            k_offsets: problem.ragged.map_or(0, |ragged| ragged.key_offsets.ptr()),
            lse_queries: queries,
            left: limit(problem.left),
            right: limit(problem.right),
            masked: masked.into(),
            ..params(
                [&problem.q, &problem.k, &problem.v, &problem.out],
                2,
                &problem.shape,
                &problem.data,
                problem.scale,
            )
        };
        self.run(gpu, stream, params, &problem.shape, drawn)
    }

    /// Drawn rows of a decoding step; waits for the answer.
    pub fn decode(
        &self,
        gpu: &Gpu,
        stream: &CudaStream,
        step: &Step<'_>,
        masked: bool,
        drawn: &[Row],
    ) -> Result<Vec<Found>> {
        self.function.same_context(step.buffers())?;
        let e4m3 = step.scales.is_some();
        let Pages { keys, stride, .. } =
            step.pages.unwrap_or(Pages { table: step.lengths, stride: 0, keys: 0, count: 0 });
        let params = ReferenceParams {
            lengths: step.lengths.ptr(),
            pages: step.pages.map_or(0, |pages| pages.table.ptr()),
            page_size: keys,
            page_stride: stride,
            k_scales: step.scales.map_or(0, |(keys, _)| keys.address()),
            v_scales: step.scales.map_or(0, |(_, values)| values.address()),
            cache_type: if e4m3 { Element::E4m3.code() } else { 0 },
            left: step.left.map_or(1 << 30, |left| left.min(1 << 30) as i32),
            right: 0,
            masked: masked.into(),
            ..params(
                [&step.q, &step.k, &step.v, &step.out],
                if e4m3 { 1 } else { 2 },
                &step.shape,
                &step.data,
                step.scale,
            )
        };
        self.run(gpu, stream, params, &step.shape, drawn)
    }

    fn run(
        &self,
        gpu: &Gpu,
        stream: &CudaStream,
        params: ReferenceParams,
        shape: &Shape,
        drawn: &[Row],
    ) -> Result<Vec<Found>> {
        let outside = |row: &&Row| {
            row.batch >= shape.batches || row.head >= shape.heads || row.query >= shape.queries
        };
        if let Some(row) = drawn.iter().find(outside) {
            return Err(Error::Shape { what: format!("{row:?} of {shape:?}") });
        }
        let row_bytes = 16 * u64::from(shape.keys);
        let at_once = (SCRATCH_BYTES / row_bytes).clamp(1, 4096) as usize;
        let numbers = 3 * shape.head_size as usize + 2;
        let mut found = Vec::with_capacity(drawn.len());
        for part in drawn.chunks(at_once) {
            let samples: Vec<u32> =
                part.iter().flat_map(|row| [row.batch, row.head, row.query]).collect();
            let sample_buffer = gpu.alloc(4 * samples.len() as u64)?;
            sample_buffer.write(stream, 0, &samples)?;
            let scratch = gpu.alloc(row_bytes * part.len() as u64)?;
            let results = gpu.alloc(8 * (numbers * part.len()) as u64)?;
            results.poison(stream)?;
            let params = ReferenceParams {
                samples: sample_buffer.ptr(),
                scratch: scratch.ptr(),
                results: results.ptr(),
                ..params
            };
            let grid = Grid::linear(part.len() as u32, 256);
            // SAFETY: rows lie inside the shape, whose tensors the kernel under test was checked
            // against; the scratch has a pair for each row and key.
            unsafe { self.function.launch(stream, grid, &params)? };
            let all: Vec<f64> = results.read_vec(stream, numbers * part.len())?;
            let size = shape.head_size as usize;
            for (row, numbers) in part.iter().zip(all.chunks_exact(numbers)) {
                found.push(Found {
                    row: *row,
                    values: numbers[..size].to_vec(),
                    reference: numbers[size..2 * size].to_vec(),
                    plain: numbers[2 * size..3 * size].to_vec(),
                    lse: numbers[3 * size],
                    lse_reference: numbers[3 * size + 1],
                });
            }
        }
        Ok(found)
    }
}

fn params(
    tensors: [&Tensor<'_>; 4],
    cache_bytes: u64,
    shape: &Shape,
    data: &Data<'_>,
    scale: f32,
) -> ReferenceParams {
    let [q, k, v, out] = tensors;
    let steps = |t: &Tensor<'_>| [t.row, t.head, t.batch].map(|step| step as i64);
    ReferenceParams {
        q: q.address(2),
        k: k.address(cache_bytes),
        v: v.address(cache_bytes),
        out: out.address(2),
        lse: 0,
        samples: 0,
        scratch: 0,
        results: 0,
        q_offsets: 0,
        k_offsets: 0,
        lengths: 0,
        pages: 0,
        k_scales: 0,
        v_scales: 0,
        data: data.address(),
        q_steps: steps(q),
        k_steps: steps(k),
        v_steps: steps(v),
        out_steps: steps(out),
        heads: shape.heads,
        group: shape.group(),
        queries: shape.queries as i32,
        keys: shape.keys as i32,
        head_size: shape.head_size,
        cache_type: 0,
        page_size: 0,
        page_stride: 0,
        lse_queries: 0,
        left: 0,
        right: 0,
        count: data.count(),
        number: data.number,
        factor: data.factor,
        scale,
        masked: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(values: &[f64], plain: &[f64], lse: f64) -> Found {
        Found {
            row: Row { batch: 0, head: 0, query: 0 },
            values: values.to_vec(),
            reference: vec![1.0, 2.0],
            plain: plain.to_vec(),
            lse,
            lse_reference: 4.0,
        }
    }

    #[test]
    fn errors_by_hand() {
        let rows = [found(&[1.25, 2.0], &[1.0, 1.5], 4.0), found(&[1.0, 2.0], &[1.0, 2.0], 3.0)];
        let errors = errors(&rows, Element::F16);
        assert_eq!((errors.largest, errors.plain_largest), (0.25, 0.5));
        assert_eq!((errors.rms_ratio, errors.lse_largest), (0.5, 0.25));
        assert_eq!((errors.reference_largest, errors.over_plain), (2.0, 0.5));
    }

    #[test]
    fn an_error_is_no_smaller_than_what_the_format_costs() {
        // Half a unit in the last place of 2 in half precision is 2^-10.
        let exact = [found(&[1.25, 2.0], &[1.0, 2.0], 4.0)];
        assert_eq!(errors(&exact, Element::F16).over_plain, 256.0);
    }

    #[test]
    fn a_small_row_is_held_against_small_rows() {
        let small = Found {
            reference: vec![0.001, 0.002],
            ..found(&[0.003, 0.002], &[0.001, 0.0021], 4.0)
        };
        let rows = [found(&[1.0, 2.0], &[1.0, 1.5], 4.0), small];
        // 0.002 over 0.0001, and not over the large row's 0.5.
        approx::assert_relative_eq!(errors(&rows, Element::F16).over_plain, 20.0, epsilon = 1e-9);
    }

    #[test]
    fn what_is_no_number_is_infinitely_wrong() {
        let errors = errors(&[found(&[f64::NAN, 2.0], &[1.0, 1.5], f64::NAN)], Element::F16);
        assert_eq!((errors.largest, errors.lse_largest), (f64::INFINITY, f64::INFINITY));
        assert_eq!(errors.rms_ratio, f64::INFINITY);
    }

    #[test]
    fn two_rows_that_saw_nothing_agree() {
        let nothing = f64::NEG_INFINITY;
        let row = Found { lse_reference: nothing, ..found(&[1.0, 2.0], &[1.0, 2.0], nothing) };
        assert_eq!(errors(&[row], Element::F16).lse_largest, 0.0);
    }
}
