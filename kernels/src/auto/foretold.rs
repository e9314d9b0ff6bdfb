//! What an arithmetic is foretold to err and to take: formulas of the formats, and rates of one H200.

use super::{Arithmetic, Shape};

/// The foretold root mean square of the error over that of the product: the sum of
/// 1. rounding to E4M3, where it rounds: by at most 2^-4 of a normal number, spread evenly 2^-4 / sqrt(3); of two
///    operands sqrt(2) of that. Numbers below 2^-15 of their row's largest are subnormal and may err by more;
/// 2. adding: an adder that keeps 13 bits below its running sum takes half a unit from each product. Over a run of r
///    products that is r 2^-15 of a sum of one sign, and sqrt(r) 2^-14 of one of both signs, whose running sum grows
///    as sqrt(r). A run is 128 with precise accumulation and k with fast; fp16's 25 and 23 bits lose k 2^-27;
/// 3. rounding to fp16: 2^-11.
pub fn relative_error(arithmetic: Arithmetic, k: u32, keeps_sums: bool) -> f64 {
    let k = f64::from(k);
    let operands = f64::from(arithmetic.rounded_operands());
    let rounding = operands.sqrt() * f64::powi(2.0, -4) / 3f64.sqrt();
    let narrow = |run: f64| match keeps_sums {
        true => run * f64::powi(2.0, -15),
        false => run.sqrt() * f64::powi(2.0, -14),
    };
    let adding = match arithmetic {
        Arithmetic::F16 | Arithmetic::WeightOnly => k * f64::powi(2.0, -27),
        Arithmetic::E4m3Row => narrow(k.min(128.0)),
        Arithmetic::E4m3RowFast => narrow(k),
    };
    rounding + adding + f64::powi(2.0, -11)
}

/// What a kernel takes at least, in microseconds. No recorded case times so small a kernel: it is what was seen, and
/// every other constant is what is left of a recorded time without it.
pub(super) const KERNEL_US: f64 = 3.0;
/// Bytes a microsecond that an H200 reads: `read_gbps` of `bandwidth::read`, 4610 on both GPUs.
///
/// It serves the quantiser of rows as it is: `over_copy_ratio` of `precision::quantiser-rates`, 1.016 of `copy_gbps`
/// 4287, says that 3 bytes a number over 8192 x 8192 take 46.2 us, and this foretells 46.7.
pub(super) const READ_RATE: f64 = 4.61e6;
/// The share of that rate which the weight-only kernel reaches for up to 8 rows: `over_read_ratio` of
/// `precision::weight-only-rates` for one row of 32768 x 8192 is 0.945, so that 268.5 MB take 61.7 us, of which 58.7
/// are left for bytes.
pub(super) const FEW_ROWS_SHARE: f64 = 0.993;
/// The same for more rows: 0.674 for 16, so that 269.7 MB take 86.9 us, of which 83.9 are left.
pub(super) const MORE_ROWS_SHARE: f64 = 0.698;
/// The same for cuBLASLt's products of few rows: `time_over_others_ratio` of `precision::auto` at 1x32768x8192 is
/// 0.684, so that E4M3 takes 90.1 us where weight-only takes 61.7; without two kernels 84.1 are left for 268.5 MB.
pub(super) const LIBRARY_SHARE: f64 = 0.692;
/// Operations a microsecond of cuBLASLt's large products in whole waves: `product_tflops` of `compute::fp16` for
/// 8192x4096x8192 is 769.8, 714.2 us for 15.5 waves, of which 16 have to be paid for.
pub(super) const F16_RATE: f64 = 797e6;
/// The same of E4M3 with fast accumulation: 1509 of `compute::fp8-rowwise`, 364.2 us.
pub(super) const E4M3_FAST_RATE: f64 = 1570e6;
/// The same with precise accumulation: fast takes 0.928 of its time at 4096x8192x8192 in `precision::auto`,
/// quantisation included, so that precise takes 418.9 us, of which 391.1 are left for the product.
pub(super) const E4M3_RATE: f64 = 1450e6;
/// Rows and columns of a tile, and tiles that are under way at once.
const TILE: u32 = 128;
const AT_ONCE: f64 = 132.0;

/// The foretold time in microseconds, A's quantisation included, B's not: weights are quantised once.
///
/// A kernel takes [`KERNEL_US`] and the larger of the time of its tiles, in whole waves, and of its bytes.
///
/// Constants are medians, means of two GPUs, of the recorded run 20261122T002921Z-3d2bafb6. That run's ratios of the
/// chosen one's time to the next best one's, from which two of them come, beside what is foretold with them:
///
/// | shape | chosen | next | recorded | foretold |
/// |---|---|---|---|---|
/// | 4096x8192x8192 | E4M3, fast | E4M3, precise | 0.928 | 0.929 |
/// | 1x32768x8192 | weight-only | E4M3 | 0.684 | 0.684 |
/// | 8x8192x8192 | weight-only | E4M3 | 0.643 | 0.619 |
/// | 128x512x512 | fp16 | E4M3 | 0.513 | 0.775 |
/// | 256x256x16384 | E4M3, precise | fp16 | 0.364 | 0.627 |
///
/// The last two are of few tiles, whose time is none of rates: the order is right and the distance is not. Of
/// 16x8192x8192 0.838 is foretold, weight-only over E4M3.
pub fn foretold_us(arithmetic: Arithmetic, shape: Shape) -> f64 {
    let [m, n, k] = [shape.m, shape.n, shape.k].map(f64::from);
    let waves =
        (f64::from(shape.m.div_ceil(TILE)) * f64::from(shape.n.div_ceil(TILE)) / AT_ONCE).ceil();
    let side = f64::from(TILE);
    let product = |rate: f64, bytes: f64| {
        let computing = waves * AT_ONCE * 2.0 * side * side * k / rate;
        let moving = ((m + n) * k * bytes + 2.0 * m * n) / (READ_RATE * LIBRARY_SHARE);
        KERNEL_US + computing.max(moving)
    };
    let quantising = KERNEL_US + 3.0 * m * k / READ_RATE;
    match arithmetic {
        Arithmetic::F16 => product(F16_RATE, 2.0),
        Arithmetic::E4m3Row => quantising + product(E4M3_RATE, 1.0),
        Arithmetic::E4m3RowFast => quantising + product(E4M3_FAST_RATE, 1.0),
        Arithmetic::WeightOnly => {
            let share = if shape.m <= 8 { FEW_ROWS_SHARE } else { MORE_ROWS_SHARE };
            KERNEL_US + (n * k + 2.0 * m * (n + k)) / (READ_RATE * share)
        }
    }
}
