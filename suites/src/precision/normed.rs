//! The norm on a weight-only product's way in, of as many columns as it takes and of two rows, where blocks go from
//! rows of weights to further ones.

use harness::evidence::Metric;
use harness::record::{Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::model::{Affine, Kernels, Matrix};
use kernels::tensorcore::Adder;
use kernels::weightonly::{Out, oracle};

use super::operands;
use super::weight_only::{Bench, UNEQUAL, UNPREDICTED, cancelling, turned, twin};

const M: u32 = 2;
const K: u32 = 8192;
/// Rows of weights: 264 blocks, two for each of 132 multiprocessors, take 16 of them two or three times, the last
/// block eight at last.
const N: u32 = 9000;
const SIZES: &str = "2x9000x8192";
/// Rows of weights that are drawn, and come again with other scales. A block's rows lie a multiple of 4224 apart, which
/// is none of this.
const DISTINCT: u32 = 499;
/// Elements that are compared with the model.
const DRAWN: u64 = 256;
/// Bytes behind a product that must stay as they are.
const GUARD: u64 = 512;

/// Codes of fp16 of the drawn weights, and the whole matrix on the GPU.
struct Weights {
    codes: Vec<u32>,
    buffer: Buffer,
    scales: Option<(Vec<f32>, Buffer)>,
}

impl Weights {
    fn new(gpu: &Gpu, scaled: bool, codes: Vec<u32>) -> Result<Weights, Stop> {
        let eight = |code: &u32| Element::E4m3.encode(Element::F16.decode(*code) as f32);
        let words = match scaled {
            true => Element::E4m3.pack(&codes.iter().map(eight).collect::<Vec<_>>()),
            false => Element::F16.pack(&codes),
        };
        let row = words.len() / DISTINCT as usize;
        let buffer = gpu.alloc(4 * row as u64 * u64::from(N))?;
        for first in (0..N).step_by(DISTINCT as usize) {
            let count = DISTINCT.min(N - first) as usize;
            let offset = 4 * row as u64 * u64::from(first);
            buffer.write(gpu.stream(), offset, &words[..count * row])?;
        }
        let scale = |row: u32| 2f32.powi((row / DISTINCT % 5) as i32);
        let scales: Vec<f32> = (0..N).map(scale).collect();
        let scales = match scaled {
            true => Some(operands::floats(gpu, &scales).map(|buffer| (scales, buffer))?),
            false => None,
        };
        Ok(Weights { codes, buffer, scales })
    }

    fn row(&self, row: u32) -> (&[u32], Option<f32>) {
        let first = (row % DISTINCT) as usize * K as usize;
        let scale = self.scales.as_ref().map(|(scales, _)| scales[row as usize]);
        (&self.codes[first..][..K as usize], scale)
    }
}

/// Codes of fp16 on the GPU.
fn halves(gpu: &Gpu, codes: &[u32]) -> Result<Buffer, Stop> {
    let words = Element::F16.pack(codes);
    let buffer = gpu.alloc(4 * words.len() as u64)?;
    buffer.write(gpu.stream(), 0, &words)?;
    Ok(buffer)
}

/// Codes of gain and bias: of twins the same gain, and biases that differ in sign, so that what cancels does so
/// behind the norm.
fn affine(seed: u64) -> [Vec<u32>; 2] {
    let number = |of: u64, column: u64| {
        let eighths = draw(seed ^ of, twin(column, K.into()).unwrap_or(column)) % 49;
        Element::F16.encode((eighths as f32 - 24.0) / 8.0 + 1.0 / 16.0)
    };
    let sign = |column: u64| u32::from(twin(column, K.into()).is_some()) << 15;
    let each = || 0..u64::from(K);
    [
        each().map(|column| number(1, column)).collect(),
        each().map(|column| number(2, column) ^ sign(column)).collect(),
    ]
}

/// Codes [M][N], and halves that were written behind them.
fn product(
    bench: &Bench<'_>,
    activations: &Buffer,
    weights: &Weights,
    norm: Option<Affine<'_>>,
) -> Result<(Vec<u16>, u64), Stop> {
    let stream = bench.gpu.stream();
    let count = u64::from(M * N);
    let out = bench.gpu.alloc(2 * count + GUARD)?;
    out.poison(stream)?;
    let scales = weights.scales.as_ref().map(|(_, buffer)| buffer);
    let parts = [Matrix::packed(&out, N)];
    let how = Out { norm, early: true, ..Out::plain(&parts) };
    bench.product.run_into(stream, activations, (&weights.buffer, scales), &how, (M, N, K))?;
    let mut codes: Vec<u16> = out.read_vec(stream, (count + GUARD / 2) as usize)?;
    let behind = codes.split_off(count as usize);
    Ok((codes, behind.iter().filter(|code| **code != u16::MAX).count() as u64))
}

fn apart(a: &[u16], b: &[u16]) -> u64 {
    a.iter().zip(b).filter(|(a, b)| a != b).count() as u64
}

/// Drawn elements of a product of normed rows whose bits are not those of the model of the tensor cores.
fn unpredicted(adder: Adder, normed: &[u32], weights: &Weights, found: &[u16]) -> u64 {
    let element = |i: &u64| {
        let word = draw(0x40A3, *i);
        let (row, column) = (word % M, word / M % N);
        let (codes, scale) = weights.row(column);
        let activations = &normed[(row * K) as usize..][..K as usize];
        let wanted = oracle::foretold(adder, activations, codes, scale);
        wanted != u32::from(found[(row * N + column) as usize])
    };
    (0..DRAWN).filter(element).count() as u64
}

/// The norm on the way in beside a kernel of its own, and drawn elements beside the model on what that kernel made.
///
/// Errors: of the driver.
pub fn checked(
    bench: &Bench<'_>,
    kernels: &Kernels,
    (name, scaled): (&str, bool),
    adder: Adder,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let (gpu, stream) = (bench.gpu, bench.gpu.stream());
    let half = |code: u32| Element::F16.encode(Element::E4m3.decode(code) as f32);
    let drawn = cancelling(Element::E4m3, bench.seed ^ 10, (DISTINCT, K));
    let weights = Weights::new(gpu, scaled, drawn.into_iter().map(half).collect())?;
    let activations = halves(gpu, &cancelling(Element::F16, bench.seed ^ 9, (M, K)))?;
    let [gain, bias] = affine(bench.seed ^ 11);
    let [gain, bias] = [halves(gpu, &gain)?, halves(gpu, &bias)?];
    let norm = Affine { gain: &gain, bias: &bias };
    let between = gpu.alloc(2 * u64::from(M * K))?;
    between.poison(stream)?;
    let [to, from] = [&between, &activations].map(|buffer| Matrix::packed(buffer, K));
    kernels.norm(stream, to, from, norm, (M, K))?;
    let normed: Vec<u16> = between.read_vec(stream, (M * K) as usize)?;
    let normed: Vec<u32> = normed.into_iter().map(u32::from).collect();
    let (wanted, _) = product(bench, &between, &weights, None)?;
    let (found, strays) = product(bench, &activations, &weights, Some(norm))?;
    let (plain, _) = product(bench, &activations, &weights, None)?;
    let at = [("weights", name), ("sizes", SIZES)];
    let metric = |name: &str, count: u64| Metric::exact(name, &at, &[bench.index], count as f64);
    // What neither of them wrote is equal, too.
    let unwritten = wanted.iter().filter(|code| **code == u16::MAX).count() as u64;
    recorder.metric(metric(UNEQUAL, apart(&wanted, &found) + unwritten + strays));
    recorder.control("norm-left-out", metric(UNEQUAL, apart(&plain, &found)));
    recorder.metric(metric(UNPREDICTED, unpredicted(adder, &normed, &weights, &found)));
    let other = Weights::new(gpu, scaled, turned(&weights.codes, K))?;
    let (other, _) = product(bench, &halves(gpu, &turned(&normed, K))?, &other, None)?;
    let wrong = unpredicted(adder, &normed, &weights, &other);
    recorder.control("other-order", metric(UNPREDICTED, wrong));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::model::reference;

    #[test]
    fn no_block_takes_the_same_weights_twice() {
        let blocks = 2 * 132;
        let tiles = N.div_ceil(16);
        assert_eq!((tiles.div_ceil(blocks), N % 16), (3, 8));
        for turn in 1..3 {
            assert_ne!(16 * blocks * turn % DISTINCT, 0);
        }
        assert_eq!(SIZES, format!("{M}x{N}x{K}"));
    }

    #[test]
    fn what_cancels_behind_the_norm_shows_the_order_of_its_sum() {
        let half = |code: u32| Element::F16.encode(Element::E4m3.decode(code) as f32);
        let weights: Vec<u32> =
            cancelling(Element::E4m3, 1, (8, K)).into_iter().map(half).collect();
        let numbers =
            |codes: &[u32]| codes.iter().map(|x| Element::F16.decode(*x)).collect::<Vec<f64>>();
        let [gain, bias] = affine(3).map(|codes| numbers(&codes));
        let both: Vec<(f64, f64)> = gain.into_iter().zip(bias).collect();
        let rows = cancelling(Element::F16, 2, (1, K));
        let normed = reference::norm(&numbers(&rows), &both);
        let normed: Vec<u32> = normed.iter().map(|x| Element::F16.encode(*x as f32)).collect();
        let foretold =
            |a: &[u32], b: &[u32], scale| oracle::foretold(Adder::HOPPER_F16, a, b, scale);
        for scale in [Some(2.0), None] {
            let different = weights.chunks(K as usize).filter(|row| {
                let other = foretold(&turned(&normed, K), &turned(row, K), scale);
                let one = foretold(&normed, row, scale);
                one != other && one & 0x7FFF != 0
            });
            let different = different.count();
            assert!(different >= 6, "{different} of 8");
        }
    }
}
