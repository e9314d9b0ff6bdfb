//! Matrices of E4M3 codes with their scales, and what their products should be: in f64, and by the model of
//! the tensor cores, bit by bit.

use harness::record::Stop;
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::matmul::Dtype;
use kernels::quantise::{Quantised, Scheme, oracle};
use kernels::tensorcore::{self, Adder};

use super::{accumulator, operands};
use crate::lab::{self, finite};

/// Rows of A, rows of B, and columns of both.
pub const SIDE: u32 = 512;
pub const K: u32 = 2048;
/// Powers of two among the rows of a matrix with one scale: none.
pub const ALIKE: u32 = 1;
/// Columns that share a scale of a block, and that precise accumulation adds in one accumulator.
const GROUP: usize = 128;
/// Instructions of these.
const INSTRUCTIONS: usize = 4;

/// How a product is scaled and added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaling {
    /// As evidence names it.
    pub name: &'static str,
    /// Types of the product.
    pub dtype: Dtype,
    /// Scales of A and of B.
    pub a: Scheme,
    pub b: Scheme,
    /// Whether accumulation is fast.
    pub fast: bool,
    /// Instructions whose products one accumulator adds up where it is not.
    pub instructions: usize,
}

impl Scaling {
    const fn new(name: &'static str, dtype: Dtype, a: Scheme, b: Scheme) -> Scaling {
        Scaling { name, dtype, a, b, fast: false, instructions: INSTRUCTIONS }
    }
}

/// Scales by row, by blocks and by tensor, the last with f32 out.
pub const ROW: Scaling = Scaling::new("row", Dtype::E4m3Row, Scheme::Row, Scheme::Row);
pub const BLOCK: Scaling =
    Scaling::new("block", Dtype::E4m3Block, Scheme::Block128, Scheme::Square128);
pub const TENSOR: Scaling = Scaling::new("tensor", Dtype::E4m3Wide, Scheme::Tensor, Scheme::Tensor);
/// The same with fast accumulation, which blocks do not have.
pub const ROW_FAST: Scaling = Scaling { name: "row-fast", fast: true, ..ROW };
pub const TENSOR_FAST: Scaling = Scaling { name: "tensor-fast", fast: true, ..TENSOR };
/// Scales by row by the own kernel, whose groups are of [`kernels::promoted::GROUP`] columns.
pub const PROMOTED: Scaling =
    Scaling { instructions: kernels::promoted::GROUP as usize / 32, ..ROW };

/// Codes and scales of a matrix on the host, as the GPU's buffers hold them.
#[derive(Debug, Clone)]
pub struct Side {
    pub scheme: Scheme,
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
}

/// Which of the two matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    A,
    B,
}

impl Side {
    /// What each element stands for.
    pub fn numbers(&self) -> Vec<f64> {
        let scales: Vec<u32> = self.scales.iter().map(|scale| scale.to_bits()).collect();
        oracle::dequantise(self.scheme, &self.codes, &scales, K as usize, 0.0)
    }

    fn new(scheme: Scheme, seed: u64, code: impl Fn(u64, u64) -> u32) -> Side {
        // Rows differ by up to 2^40; of blocks, whose sums are added, only so far that f32 holds them.
        let (powers, least) = if scheme == Scheme::Row { (41, -20) } else { (3, -1) };
        let power = |i| 2f32.powi((draw(seed ^ 5, i) % powers) as i32 + least);
        let scales = scheme.scale_bytes(SIDE.into(), K) / 4;
        let element = |at: u64| code(at / u64::from(K), at % u64::from(K)) as u8;
        Side {
            scheme,
            codes: (0..u64::from(SIDE) * u64::from(K)).map(element).collect(),
            scales: (0..scales).map(power).collect(),
        }
    }

    /// Integers up to 15 with powers of two as scales. Groups of 128 add up to 2^12 to 2^14, which an
    /// accumulator of 13 bits holds and one of 12 does not, and alternate in sign, so that the whole is small
    /// enough for a lost unit to be seen behind the rounding to bfloat16.
    pub fn integers(scheme: Scheme, which: Which, seed: u64) -> Side {
        Side::new(scheme, seed, |row, column| {
            let magnitude = (draw(seed, row * u64::from(K) + column) % 16) as f32;
            let group = if which == Which::A { column / GROUP as u64 } else { 0 };
            let sign = if (row + group).is_multiple_of(2) { 1.0 } else { -1.0 };
            Element::E4m3.encode(sign * magnitude)
        })
    }

    /// Random codes over the exponents of normal numbers, with powers of two as scales.
    pub fn random(scheme: Scheme, seed: u64) -> Side {
        Side::new(scheme, seed, |row, column| {
            accumulator::wide_code(Element::E4m3, seed, row * u64::from(K) + column)
        })
    }

    /// The scale of a group of 128 columns of a row.
    fn scale(&self, row: usize, group: usize) -> f32 {
        let groups = K as usize / GROUP;
        match self.scheme {
            Scheme::Block128 => self.scales[group * SIDE as usize + row],
            Scheme::Square128 => self.scales[row / GROUP * groups.next_multiple_of(4) + group],
            Scheme::Row => self.scales[row],
            _ => self.scales[0],
        }
    }

    /// The places of all scales of a row; those of a tensor or of a square are other rows' too.
    pub fn places(&self, row: usize) -> Vec<usize> {
        match self.scheme {
            Scheme::Block128 => {
                (0..K as usize / GROUP).map(|group| group * SIDE as usize + row).collect()
            }
            Scheme::Row => vec![row],
            _ => vec![0],
        }
    }

    fn row(&self, row: usize) -> Vec<u32> {
        let codes = &self.codes[row * K as usize..][..K as usize];
        codes.iter().map(|code| u32::from(*code)).collect()
    }

    pub fn upload(&self, gpu: &Gpu) -> Result<Quantised, Stop> {
        Ok(Quantised {
            codes: operands::bytes(gpu, &self.codes)?,
            scales: operands::floats(gpu, &self.scales)?,
        })
    }

    pub fn download(scheme: Scheme, gpu: &Gpu, quantised: &Quantised) -> Result<Side, Stop> {
        let read = |buffer: &Buffer| buffer.len_bytes() as usize;
        Ok(Side {
            scheme,
            codes: quantised.codes.read_vec(gpu.stream(), read(&quantised.codes))?,
            scales: quantised.scales.read_vec(gpu.stream(), read(&quantised.scales) / 4)?,
        })
    }
}

/// The code of one element of a product as the adder makes it. Scales are powers of two, so that they may be
/// applied in any order.
pub fn foretold(
    scaling: Scaling,
    adder: Adder,
    (a, b): (&Side, &Side),
    (row, column): (usize, usize),
) -> u32 {
    let (left, right) = (a.row(row), b.row(column));
    let scale = |group| a.scale(row, group) * b.scale(column, group);
    let sum = if scaling.dtype == Dtype::E4m3Block {
        let groups = left.chunks(GROUP).zip(right.chunks(GROUP)).enumerate();
        groups.fold(0.0, |sum, (group, (a, b))| {
            sum + tensorcore::dot(adder, Element::E4m3, None, a, b) * scale(group)
        })
    } else {
        let promoted = (!scaling.fast).then_some(scaling.instructions);
        tensorcore::dot(adder, Element::E4m3, promoted, &left, &right) * scale(0)
    };
    match scaling.dtype.output() {
        // As it is: an element of f32 is tf32 where it is an operand.
        Element::F32 => sum.to_bits(),
        output => output.encode(sum),
    }
}

/// Places that are looked at one by one: row, column.
pub fn drawn(count: u64) -> impl Iterator<Item = (usize, usize)> {
    operands::drawn_of(SIDE, count)
}

/// A[m, k] B[n, k]^T in f64, eight sums to a dot product, rows over all cores.
pub fn multiplied(a: &[f64], b: &[f64]) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| {
        let mut sums = [0.0; 8];
        for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += a * b;
            }
        }
        sums.iter().sum::<f64>()
    };
    let rows: Vec<&[f64]> = a.chunks(K as usize).collect();
    let row = |a: &&[f64]| b.chunks(K as usize).map(|b| dot(a, b)).collect::<Vec<f64>>();
    lab::over_cores(&rows, row).concat()
}

/// Euclidean norms of rows; one for a row of zeros.
pub fn sizes(matrix: &[f64]) -> Vec<f64> {
    let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
    let norms = matrix.chunks(K as usize).map(norm);
    norms.map(|norm| if norm == 0.0 { 1.0 } else { norm }).collect()
}

/// Of all rows and columns the largest root mean square of found less wanted, over that of wanted. Each
/// element counts by the sizes of its row of A and its row of B, so that no small one hides behind a large
/// one. An error where nothing is wanted is beyond every bound.
pub fn worst_error(found: &[f64], wanted: &[f64], sizes: (&[f64], &[f64])) -> f64 {
    let (rows, columns) = (sizes.0.len(), sizes.1.len());
    let mut squares = vec![[0.0; 2]; rows + columns];
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let (row, column) = (i / columns, i % columns);
        let size = sizes.0[row] * sizes.1[column];
        for at in [row, rows + column] {
            squares[at][0] += ((found - wanted) / size).powi(2);
            squares[at][1] += (wanted / size).powi(2);
        }
    }
    let ratio = |[error, whole]: [f64; 2]| if error == 0.0 { 0.0 } else { (error / whole).sqrt() };
    squares.into_iter().map(|pair| finite(ratio(pair))).fold(0.0, f64::max)
}

/// Seeds of the two matrices with one scale each, of a case's seed.
pub fn alike_seeds(seed: u64) -> [u64; 2] {
    [seed ^ 78, seed ^ 79]
}

/// A whole product as the adder makes it, rows over all cores.
pub fn made(scaling: Scaling, adder: Adder, sides: (&Side, &Side)) -> Vec<f64> {
    let places: Vec<usize> = (0..SIDE as usize).collect();
    let element = |row: usize, column: usize| {
        scaling.dtype.output().decode(foretold(scaling, adder, sides, (row, column)))
    };
    let row = |row: &usize| places.iter().map(|column| element(*row, *column)).collect();
    lab::over_cores::<_, Vec<f64>>(&places, row).concat()
}

/// A matrix as the quantiser by tensor makes it of what [`operands::spread`] gives, and the sizes of its rows.
fn foretold_side(seed: u64) -> (Side, Vec<f64>) {
    let halves = operands::spread(seed, SIDE.into(), K.into(), ALIKE);
    let (scale, inverse) = oracle::scale_of(oracle::amax(&halves));
    let code = |x: &half::f16| Element::E4m3.encode(x.to_f32() * inverse) as u8;
    let codes = halves.iter().map(code).collect();
    let numbers: Vec<f64> = halves.iter().map(|half| half.to_f64()).collect();
    (Side { scheme: Scheme::Tensor, codes, scales: vec![scale] }, sizes(&numbers))
}

/// What the model of the adder foretells of products with scales by tensor in a run with such a seed: the error of the
/// worst row or column beside f64 on the codes, with precise and with fast accumulation, and the latter with a scale
/// that is a 128th too large. Bounds of tensor-scales-arithmetic and of its fast form rest on it:
/// `cargo run --release -p touchstone-suites --example foretold-errors [SEED...]`.
pub fn foretold_errors(seed: u64) -> [f64; 3] {
    let [(a, sizes_a), (b, sizes_b)] = alike_seeds(seed).map(foretold_side);
    let held = multiplied(&a.numbers(), &b.numbers());
    let product = |scaling| made(scaling, Adder::HOPPER_E4M3, (&a, &b));
    let error = |found: &[f64]| worst_error(found, &held, (&sizes_a, &sizes_b));
    let fast = product(TENSOR_FAST);
    let larger: Vec<f64> = fast.iter().map(|x| x * (1.0 + 1.0 / 128.0)).collect();
    [error(&product(TENSOR)), error(&fast), error(&larger)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_row_does_not_hide() {
        let (wanted, sizes) = ([1e6, 1e6, 1e-6, 1e-6], [1e6, 1e-6]);
        let wrong = |at: usize, factor: f64| {
            let mut found = wanted;
            found[at] *= factor;
            worst_error(&found, &wanted, (&sizes, &[1.0; 2]))
        };
        assert_eq!(wrong(3, 1.0), 0.0);
        // One of the two elements of the small row is off by a tenth.
        assert!((wrong(3, 1.1) - 0.1 / 2f64.sqrt()).abs() < 1e-9);
        assert_eq!(wrong(3, f64::NAN), 1e300);
    }

    #[test]
    fn an_error_where_nothing_is_wanted_is_beyond_every_bound() {
        assert_eq!(worst_error(&[1e-30, 1.0], &[0.0, 1.0], (&[1.0, 1.0], &[1.0])), 1e300);
        assert_eq!(worst_error(&[0.0, 1.0], &[0.0, 1.0], (&[1.0, 1.0], &[1.0])), 0.0);
    }

    /// Drawn elements of integers that an adder of so many bits does not get right.
    fn wrong(scaling: Scaling, bits: i32) -> usize {
        let a = Side::integers(scaling.a, Which::A, 11);
        let b = Side::integers(scaling.b, Which::B, 12);
        let (left, right) = (a.numbers(), b.numbers());
        let adder = Adder { aligned_bits: bits, kept_bits: bits, ..Adder::HOPPER_E4M3 };
        let places = drawn(256).filter(|&(row, column)| {
            let part =
                |matrix: &[f64], row: usize| matrix[row * K as usize..][..K as usize].to_vec();
            let exact = multiplied(&part(&left, row), &part(&right, column))[0] as f32;
            let wanted = match scaling.dtype.output() {
                Element::F32 => exact.to_bits(),
                output => output.encode(exact),
            };
            foretold(scaling, adder, (&a, &b), (row, column)) != wanted
        });
        places.count()
    }

    #[test]
    fn integers_need_thirteen_bits_and_no_more() {
        for scaling in [ROW, BLOCK, TENSOR, PROMOTED] {
            let missed: Vec<usize> = [13, 12, 10].map(|bits| wrong(scaling, bits)).to_vec();
            assert_eq!(missed[0], 0, "{}", scaling.name);
            assert!(missed[2] > 20, "{}: {missed:?}", scaling.name);
            // What f32 shows of every lost unit bfloat16 shows of a few, and of blocks, whose scales make
            // the whole larger, of hardly any.
            let least = match scaling.name {
                "row" => 5,
                "tensor" => 50,
                _ => 0,
            };
            assert!(missed[1] >= least, "{}: {missed:?}", scaling.name);
        }
    }
}
