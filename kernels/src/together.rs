//! Time of work on several GPUs that begins on all of them at once.
//!
//! Each GPU's stream is held by a latch ([`crate::timing`]); the host enqueues everything and opens
//! all latches by one word of pinned memory. They see it within about a microsecond of each other,
//! which is the error of a common start. Each GPU's own events give its time; the time of the whole
//! is the longest.
//!
//! A GPU that waits for another one inside the work is safe: nothing runs before all is enqueued.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::device::{CudaStream, Event, Function, Gpu, Grid, Module, Pinned};
use crate::timing::{LATCH_TIMEOUT, TimingParams};
use crate::{Error, Result};

/// One GPU's part.
#[derive(Debug)]
struct Lane {
    latch: Function,
    start: Event,
    end: Event,
    stream: CudaStream,
}

/// Times work on several GPUs from a common start.
#[derive(Debug)]
pub struct Together {
    lanes: Vec<Lane>,
    /// Word 0: the host's flag. Word 1 + i: the turn of lane i's latch that timed out.
    flag: Pinned,
    turn: u32,
}

impl Together {
    /// One lane for each GPU, with its module of [`crate::timing::SOURCE`].
    pub fn new(gpus: &[(&Gpu, &Module)]) -> Result<Together> {
        let first =
            gpus.first().ok_or_else(|| Error::Shape { what: "a start of no gpu".into() })?;
        let lane = |(gpu, module): &(&Gpu, &Module)| -> Result<Lane> {
            Ok(Lane {
                latch: module.entry("timing_latch")?,
                start: gpu.new_event()?,
                end: gpu.new_event()?,
                stream: gpu.new_stream()?,
            })
        };
        let lanes: Vec<Lane> = gpus.iter().map(lane).collect::<Result<_>>()?;
        let flag = first.0.alloc_pinned(4 * (1 + lanes.len()).next_multiple_of(2))?;
        Ok(Together { lanes, flag, turn: 0 })
    }

    /// The stream of a lane.
    pub fn stream(&self, lane: usize) -> &CudaStream {
        &self.lanes[lane].stream
    }

    /// Milliseconds of `work` on each of the lanes named, one row a sample. The work is given the
    /// lanes' streams in their order; `warmup` calls of it, at least one, come before the first sample.
    pub fn measure(
        &mut self,
        lanes: &[usize],
        warmup: u32,
        samples: u32,
        mut work: impl FnMut(&[&CudaStream]) -> Result<()>,
    ) -> Result<Vec<Vec<f64>>> {
        if warmup == 0 || samples == 0 || lanes.iter().any(|lane| *lane >= self.lanes.len()) {
            let what = format!("{samples} samples after {warmup} on lanes {lanes:?}");
            return Err(Error::Shape { what });
        }
        // The latch's own first launch loads its code.
        self.sample(lanes, &mut |_| Ok(()))?;
        for _ in 0..warmup {
            // Without latches: a first launch may have to load code.
            work(&self.streams(lanes))?;
            lanes.iter().try_for_each(|lane| self.lanes[*lane].stream.synchronize())?;
        }
        (0..samples).map(|_| self.sample(lanes, &mut work)).collect()
    }

    /// Milliseconds of each lane from the opening of its latch to the end of its work.
    fn sample(
        &mut self,
        lanes: &[usize],
        work: &mut impl FnMut(&[&CudaStream]) -> Result<()>,
    ) -> Result<Vec<f64>> {
        self.turn = self.turn.wrapping_add(1);
        let enqueued = self.enqueue(lanes, work);
        // Opened even where enqueueing failed, so that the streams run dry at once.
        self.word(0).store(self.turn, Ordering::Release);
        enqueued?;
        let lane = |lane: &usize| -> Result<f64> {
            let it = &self.lanes[*lane];
            it.end.synchronize()?;
            if self.word(1 + lane).load(Ordering::Acquire) == self.turn {
                let reason = format!("latch timed out after {LATCH_TIMEOUT:?}: the work waits");
                return Err(Error::Driver { call: "timing_latch", reason });
            }
            it.end.elapsed_ms_since(&it.start)
        };
        lanes.iter().map(lane).collect()
    }

    fn enqueue(
        &self,
        lanes: &[usize],
        work: &mut impl FnMut(&[&CudaStream]) -> Result<()>,
    ) -> Result<()> {
        for lane in lanes {
            let it = &self.lanes[*lane];
            let params = TimingParams {
                data: self.flag.device_ptr(),
                result: self.flag.device_ptr() + 4 * (1 + *lane as u64),
                amount: LATCH_TIMEOUT.as_nanos() as u64,
                target: self.turn,
                reserved: 0,
            };
            // SAFETY: the flag is portable pinned memory, at one address for every GPU, with a word
            // for the host and one for each lane; it lives as long as self.
            unsafe { it.latch.launch(&it.stream, Grid::linear(1, 32), &params)? };
            it.start.record(&it.stream)?;
        }
        work(&self.streams(lanes))?;
        lanes.iter().try_for_each(|lane| self.lanes[*lane].end.record(&self.lanes[*lane].stream))
    }

    fn streams(&self, lanes: &[usize]) -> Vec<&CudaStream> {
        lanes.iter().map(|lane| &self.lanes[*lane].stream).collect()
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index <= self.lanes.len(), "a word for the host and one for each lane");
        // SAFETY: aligned words of pinned memory that host and devices share as atomics only.
        unsafe { &*self.flag.host_ptr().cast::<AtomicU32>().add(index) }
    }
}

/// The longest of each row: when the last GPU was done.
pub fn longest(rows: &[Vec<f64>]) -> Vec<f64> {
    rows.iter().map(|row| row.iter().copied().fold(0.0, f64::max)).collect()
}

/// One lane's column.
pub fn column(rows: &[Vec<f64>], lane: usize) -> Vec<f64> {
    rows.iter().map(|row| row[lane]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_gpu_counts() {
        let rows = [vec![1.0, 2.0], vec![4.0, 3.0]];
        assert_eq!(longest(&rows), [2.0, 4.0]);
        assert_eq!(column(&rows, 1), [2.0, 3.0]);
    }
}
