//! Matrices of halves and codes that several cases share.

use half::f16;
use harness::record::Stop;
use kernels::device::{Buffer, Gpu};
use kernels::generator::draw;

use crate::lab::over_cores;

/// A draw in -1 to 1.
pub fn unit(seed: u64, at: u64) -> f32 {
    draw(seed, at) as i32 as f32 * 2f32.powi(-31)
}

/// Places that are looked at one by one in a square of so many rows: row, column.
pub fn drawn_of(side: u32, count: u64) -> impl Iterator<Item = (usize, usize)> {
    (0..count).map(move |i| {
        let word = draw(0xD2A7, i);
        ((word % side) as usize, (word / side % side) as usize)
    })
}

/// The row of zeros of [`spread`].
pub const EMPTY_ROW: u64 = 5;

/// Halves whose rows differ in magnitude by up to 2^8, as activations do, one value in 2048 thirty times as
/// large as its row, as outliers are, and a row of zeros.
pub fn activations(seed: u64, rows: u64, columns: u64) -> Vec<f16> {
    spread(seed, rows, columns, 9)
}

/// As [`activations`], rows of so many powers of two.
pub fn spread(seed: u64, rows: u64, columns: u64, powers: u32) -> Vec<f16> {
    let value = |at: u64| {
        let row = at / columns;
        if row == EMPTY_ROW {
            return 0.0;
        }
        // The sum of three uniforms, nearly normal.
        let sum = unit(seed, 3 * at) + unit(seed, 3 * at + 1) + unit(seed, 3 * at + 2);
        let outlier = if draw(seed ^ 1, at) & 2047 == 0 { 30.0 } else { 1.0 };
        sum * outlier * 2f32.powi((draw(seed ^ 2, row) % powers) as i32 - powers as i32 / 2)
    };
    let row = |row: &u64| -> Vec<f16> {
        (row * columns..(row + 1) * columns).map(|at| f16::from_f32(value(at))).collect()
    };
    over_cores(&(0..rows).collect::<Vec<u64>>(), row).concat()
}

/// Nearly normal halves, rows alike and nothing that stands out, as weights are.
pub fn weights(seed: u64, rows: u64, columns: u64) -> Vec<f16> {
    let value = |at: u64| {
        f16::from_f32(unit(seed, 3 * at) + unit(seed, 3 * at + 1) + unit(seed, 3 * at + 2))
    };
    let row = |row: &u64| -> Vec<f16> { (row * columns..(row + 1) * columns).map(value).collect() };
    over_cores(&(0..rows).collect::<Vec<u64>>(), row).concat()
}

/// Activations with rows at the edges: all of the least half, the largest one among small ones, negative zeros,
/// blocks of 16 that shrink from the largest half to nothing, and ties of E4M3 and E2M1.
pub fn with_edges(seed: u64, rows: u64, columns: u64) -> Vec<f16> {
    let mut halves = activations(seed, rows, columns);
    let mut fill = |row: u64, value: &dyn Fn(u64) -> f32| {
        for column in 0..columns {
            halves[(row * columns + column) as usize] = f16::from_f32(value(column));
        }
    };
    let sign = |column: u64| if column.is_multiple_of(3) { -1.0 } else { 1.0 };
    fill(7, &|column| sign(column) * 2f32.powi(-24));
    fill(8, &|column| if column == 77 { -65504.0 } else { sign(column) * 0.01 });
    fill(10, &|_| -0.0);
    fill(11, &|column| sign(column) * 65504.0 * 2f32.powi(-((column / 16 % 41) as i32)));
    fill(13, &|column| sign(column) * (1.0 + (column % 256) as f32 / 16.0));
    halves
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
