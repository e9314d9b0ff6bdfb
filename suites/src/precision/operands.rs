//! Matrices of halves and codes that several cases share.

use half::f16;
use harness::record::Stop;
use kernels::device::{Buffer, Gpu};
use kernels::generator::draw;

/// A draw in -1 to 1.
pub fn unit(seed: u64, at: u64) -> f32 {
    draw(seed, at) as i32 as f32 * 2f32.powi(-31)
}

/// Halves whose rows differ in magnitude by up to 2^8, as activations do, one value in 2048 thirty times as
/// large as its row, as outliers are, and a row of zeros.
pub fn activations(seed: u64, rows: u64, columns: u64) -> Vec<f16> {
    let value = |at: u64| {
        let row = at / columns;
        if row == 5 {
            return 0.0;
        }
        // The sum of three uniforms, nearly normal.
        let sum = unit(seed, 3 * at) + unit(seed, 3 * at + 1) + unit(seed, 3 * at + 2);
        let outlier = if draw(seed ^ 1, at) & 2047 == 0 { 30.0 } else { 1.0 };
        sum * outlier * 2f32.powi((draw(seed ^ 2, row) % 9) as i32 - 4)
    };
    (0..rows * columns).map(|at| f16::from_f32(value(at))).collect()
}

/// A buffer of halves.
pub fn halves(gpu: &Gpu, halves: &[f16]) -> Result<Buffer, Stop> {
    let codes: Vec<u16> = halves.iter().map(|half| half.to_bits()).collect();
    let buffer = gpu.alloc(2 * codes.len() as u64)?;
    buffer.write(gpu.stream(), 0, &codes)?;
    Ok(buffer)
}

/// A buffer of bytes.
pub fn bytes(gpu: &Gpu, bytes: &[u8]) -> Result<Buffer, Stop> {
    let buffer = gpu.alloc(bytes.len() as u64)?;
    buffer.write(gpu.stream(), 0, bytes)?;
    Ok(buffer)
}

/// A buffer of f32.
pub fn floats(gpu: &Gpu, values: &[f32]) -> Result<Buffer, Stop> {
    let buffer = gpu.alloc(4 * values.len() as u64)?;
    buffer.write(gpu.stream(), 0, values)?;
    Ok(buffer)
}
