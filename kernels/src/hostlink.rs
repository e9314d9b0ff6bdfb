//! Copies between pinned host memory and a GPU by its copy engine.
//!
//! The payload is the generator's and is verified on the far side, word by word: what arrived on
//! the device by a kernel, what arrived on the host by the CPU. Bandwidth is payload bytes over
//! the time between two events around one copy. Several GPUs are measured at once by one thread
//! each with a common [`Barrier`]: a few microseconds of skew beside milliseconds of copy.

use std::sync::Barrier;

use crate::device::{Buffer, CudaStream, Event, Gpu, Pinned};
use crate::generator::hash_vector;
use crate::pattern::{Content, Patterns, Wrong};
use crate::{Error, Result};

/// Way of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Host to device.
    HostToDevice,
    /// Device to host.
    DeviceToHost,
}

/// Faults planted in the copies. The default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fault {
    /// Copies in pieces of so many bytes, each waited for before the next.
    pub piece_bytes: Option<u64>,
    /// That share of the payload is copied a second time and not counted.
    pub repeat_fraction_ppm: u32,
}

/// Pinned memory, device memory and a stream for copies of one size.
#[derive(Debug)]
pub struct Link {
    host: Pinned,
    device: Buffer,
    stream: CudaStream,
    start: Event,
    end: Event,
}

impl Link {
    /// Allocates both sides.
    pub fn new(gpu: &Gpu, bytes: u64) -> Result<Link> {
        let size = usize::try_from(bytes).ok().filter(|size| *size > 0 && size.is_multiple_of(16));
        let Some(size) = size else {
            return Err(Error::Shape { what: format!("a host link of {bytes} bytes") });
        };
        Ok(Link {
            host: gpu.alloc_pinned(size)?,
            device: gpu.alloc(bytes)?,
            stream: gpu.new_stream()?,
            start: gpu.new_event()?,
            end: gpu.new_event()?,
        })
    }

    /// Bytes of one copy.
    pub fn bytes(&self) -> u64 {
        self.device.len_bytes()
    }

    /// The device side, for a planted fault.
    pub fn device(&self) -> &Buffer {
        &self.device
    }

    /// Puts the payload of `seed` on the side where the copy starts and other data where it ends.
    pub fn prepare(&mut self, patterns: &Patterns, way: Direction, seed: u64) -> Result<()> {
        let bytes = self.bytes();
        match way {
            Direction::HostToDevice => {
                fill_host(self.host.slice_mut(), seed);
                self.device.poison(&self.stream)?;
            }
            Direction::DeviceToHost => {
                self.host.slice_mut::<u8>().fill(0xFF);
                patterns.fill(&self.stream, &self.device, bytes, Content::Hash { seed })?;
            }
        }
        self.stream.synchronize()
    }

    /// Counts the words that did not arrive as they left.
    pub fn verify(&self, patterns: &Patterns, way: Direction, seed: u64) -> Result<Wrong> {
        match way {
            Direction::HostToDevice => {
                patterns.check(&self.stream, &self.device, self.bytes(), Content::Hash { seed })
            }
            Direction::DeviceToHost => {
                self.stream.synchronize()?;
                Ok(check_host(self.host.slice(), seed))
            }
        }
    }

    /// Milliseconds of each copy. `start_line`, where given, is waited at before every copy; all
    /// its threads must take equally many samples.
    pub fn measure(
        &mut self,
        way: Direction,
        samples: u32,
        start_line: Option<&Barrier>,
        fault: Fault,
    ) -> Result<Vec<f64>> {
        if fault.piece_bytes == Some(0) {
            return Err(Error::Shape { what: "a copy in pieces of 0 bytes".into() });
        }
        let mut milliseconds = Vec::with_capacity(samples as usize);
        let mut failed = None;
        for _ in 0..samples {
            if let Some(line) = start_line {
                line.wait();
            }
            // A thread that failed still comes to the line, or the others would wait forever.
            if failed.is_none() {
                match self.sample(way, fault) {
                    Ok(ms) => milliseconds.push(ms),
                    Err(error) => failed = Some(error),
                }
            }
        }
        failed.map_or(Ok(milliseconds), Err)
    }

    fn sample(&mut self, way: Direction, fault: Fault) -> Result<f64> {
        let bytes = self.bytes();
        let repeated = u128::from(bytes) * u128::from(fault.repeat_fraction_ppm) / 1_000_000;
        self.start.record(&self.stream)?;
        match fault.piece_bytes {
            None => self.copy(way, 0, bytes)?,
            Some(piece) => {
                let mut offset = 0;
                while offset < bytes {
                    self.copy(way, offset, piece.min(bytes - offset))?;
                    self.stream.synchronize()?;
                    offset += piece;
                }
            }
        }
        let repeated = (repeated as u64).min(bytes);
        if repeated > 0 {
            self.copy(way, 0, repeated)?;
        }
        self.end.record(&self.stream)?;
        self.end.synchronize()?;
        self.end.elapsed_ms_since(&self.start)
    }

    fn copy(&mut self, way: Direction, offset: u64, bytes: u64) -> Result<()> {
        // SAFETY: self is borrowed exclusively, both sides belong to it, and every caller drains
        // the stream before the borrow ends or reports the stream's error.
        unsafe {
            match way {
                Direction::HostToDevice => {
                    self.host.copy_to_device(&self.stream, &self.device, offset, bytes)
                }
                Direction::DeviceToHost => {
                    self.host.copy_from_device(&self.stream, &self.device, offset, bytes)
                }
            }
        }
    }
}

/// Writes the generator's words.
fn fill_host(words: &mut [u32], seed: u64) {
    for (vector, group) in words.chunks_exact_mut(4).enumerate() {
        group.copy_from_slice(&hash_vector(seed, vector as u64));
    }
}

/// Compares every word with the generator.
fn check_host(words: &[u32], seed: u64) -> Wrong {
    let mut wrong = Wrong { count: 0, first_word: None };
    for (vector, group) in words.chunks_exact(4).enumerate() {
        let wanted = hash_vector(seed, vector as u64);
        if group == wanted {
            continue;
        }
        for lane in (0..4).filter(|&lane| group[lane] != wanted[lane]) {
            wrong.count += 1;
            wrong.first_word.get_or_insert((4 * vector + lane) as u64);
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_word_on_the_host_is_found() {
        let mut words = vec![0u32; 64];
        fill_host(&mut words, 21);
        assert_eq!(check_host(&words, 21), Wrong { count: 0, first_word: None });
        assert_eq!(words[6], crate::generator::hash_word(21, 6));
        words[6] ^= 1 << 31;
        words[40] ^= 1;
        assert_eq!(check_host(&words, 21), Wrong { count: 2, first_word: Some(6) });
        assert!(check_host(&words, 22).count > 60);
    }
}
