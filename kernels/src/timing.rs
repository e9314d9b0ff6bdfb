//! Time by device events: enough enqueued work, behind a latch, after warm-up.
//!
//! A sample is `launches` calls of the work between two events. All of it is enqueued while a
//! latch kernel holds the stream, and only then does the host open the latch, so the time the CPU
//! needs to enqueue is in no number. The latch waits for a word in pinned host memory, bounded by
//! the global timer; where it times out, the sample is an error and never a number.
//!
//! The work must not wait for the device (no copy to the host, no allocation, no first launch of a
//! kernel): it would wait for the latch. At most about a thousand launches fit behind a latch; the
//! driver blocks beyond its queue and the latch then times out, which is reported.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::device::{Buffer, CudaStream, Event, Function, Gpu, Grid, KernelParams, Module, Pinned};
use crate::generator::with_generator;
use crate::{Error, KernelSource, Result};

/// The latch and the L2 sweep.
pub const SOURCE: KernelSource = KernelSource {
    name: "timing",
    source: with_generator!("timing.cu"),
    entries: &["timing_latch", "timing_sweep"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// How long a latch holds before it gives up.
pub const LATCH_TIMEOUT: Duration = Duration::from_secs(2);

/// A rest is no longer than this.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// Most calls of the work in one sample.
pub const MOST_LAUNCHES: u32 = 512;

/// Bytes of the sweep as a multiple of the L2 cache.
const SWEEP_L2_MULTIPLE: u64 = 4;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimingParams {
    pub(crate) data: u64,
    pub(crate) result: u64,
    pub(crate) amount: u64,
    pub(crate) target: u32,
    pub(crate) reserved: u32,
}
const _: () = assert!(size_of::<TimingParams>() == 32);
// SAFETY: repr(C) without padding, equal to the struct in timing.cu.
unsafe impl KernelParams for TimingParams {}

/// Pushes other data out of the L2 cache by reading four times its size, so that what remains in
/// it is clean and no write-back is charged to the measured kernel.
#[derive(Debug)]
pub struct L2Flush {
    sweep: Function,
    buffer: Buffer,
    sum: Buffer,
    blocks: u32,
}

impl L2Flush {
    /// Allocates the swept memory. `module` is [`SOURCE`].
    pub fn new(gpu: &Gpu, module: &Module) -> Result<L2Flush> {
        let bytes = (gpu.l2_bytes.max(1 << 20) * SWEEP_L2_MULTIPLE).next_multiple_of(16);
        let flush = L2Flush {
            sweep: module.entry("timing_sweep")?,
            buffer: gpu.alloc(bytes)?,
            sum: gpu.alloc(8)?,
            blocks: gpu.sm_count * 4,
        };
        flush.buffer.fill_u32(gpu.stream(), 1)?;
        flush.sum.fill_u32(gpu.stream(), 0)?;
        gpu.stream().synchronize()?;
        Ok(flush)
    }

    /// Enqueues one sweep.
    pub fn run(&self, stream: &CudaStream) -> Result<()> {
        let params = TimingParams {
            data: self.buffer.ptr(),
            result: self.sum.ptr(),
            amount: self.buffer.len_bytes() / 16,
            target: 0,
            reserved: 0,
        };
        // SAFETY: both buffers live as long as self and the sizes are theirs.
        unsafe { self.sweep.launch(stream, Grid::linear(self.blocks, 512), &params) }
    }
}

/// Holds a stream for a while: the latch with a flag that never comes.
#[derive(Debug)]
pub struct Hold {
    latch: Function,
    words: Buffer,
}

impl Hold {
    /// `module` is [`SOURCE`].
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Hold> {
        let words = gpu.alloc(8)?;
        words.fill_u32(gpu.stream(), 0)?;
        gpu.stream().synchronize()?;
        Ok(Hold { latch: module.entry("timing_latch")?, words })
    }

    /// Enqueues work that takes so long and does nothing.
    pub fn run(&self, stream: &CudaStream, time: Duration) -> Result<()> {
        let params = TimingParams {
            data: self.words.ptr(),
            result: self.words.ptr() + 4,
            amount: time.as_nanos() as u64,
            target: 1,
            reserved: 0,
        };
        // SAFETY: flag and result are two words that live as long as self; the flag stays 0.
        unsafe { self.latch.launch(stream, Grid::linear(1, 32), &params) }
    }
}

/// What to time and how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Calls of the work before the first sample, at least 1: first launches load their code.
    pub warmup: u32,
    /// Most samples.
    pub samples: u32,
    /// Fewest samples, even where the budget is spent.
    pub fewest_samples: u32,
    /// Calls of the work in one sample, at most [`MOST_LAUNCHES`].
    pub launches: u32,
    /// No further sample begins after this long; `None` takes all samples.
    pub budget: Option<Duration>,
    /// Rest before each sample, so many times as long as the last one took: 3 keeps a GPU at a
    /// quarter of its time, under the power limit. Before the first it is the longest one. 0 measures
    /// without a rest.
    pub rest: u32,
}

/// Lets the GPU idle for so many times the last time, at most 100 ms; for these where there was none yet, and not
/// at all for no times.
pub(crate) fn rest(times: u32, last_ms: Option<f64>) {
    if times > 0 {
        let rest = |last_ms: f64| Duration::from_secs_f64(f64::from(times) * last_ms / 1e3);
        std::thread::sleep(last_ms.map_or(LONGEST_REST, rest).min(LONGEST_REST));
    }
}

/// Single samples of several kinds of work in turn, each behind a rest of so many times the sample before it, whichever
/// work that was, and the first behind the longest rest.
#[derive(Debug)]
pub struct InTurn<'t> {
    timer: &'t mut Timer,
    rest: u32,
    last_ms: Option<f64>,
}

impl<'t> InTurn<'t> {
    /// Nothing was timed yet.
    pub fn new(timer: &'t mut Timer, rest: u32) -> InTurn<'t> {
        InTurn { timer, rest, last_ms: None }
    }

    /// Milliseconds a call of `work`: one sample of so many calls, behind the rest and a call that does not count.
    pub fn sample(
        &mut self,
        launches: u32,
        work: impl FnMut(&CudaStream) -> Result<()>,
    ) -> Result<f64> {
        rest(self.rest, self.last_ms);
        let one =
            Plan { warmup: 1, samples: 1, fewest_samples: 1, launches, budget: None, rest: 0 };
        let ms = self.timer.measure(one, None, work)?[0];
        self.last_ms = Some(f64::from(launches) * ms);
        Ok(ms)
    }
}

/// Times work on one stream of one GPU.
#[derive(Debug)]
pub struct Timer {
    latch: Function,
    flag: Pinned,
    timeout: Duration,
    turn: u32,
    start: Event,
    end: Event,
    stream: CudaStream,
}

impl Timer {
    /// A timer with a stream of its own. `module` is [`SOURCE`].
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Timer> {
        Ok(Timer {
            latch: module.entry("timing_latch")?,
            flag: gpu.alloc_pinned(8)?,
            timeout: LATCH_TIMEOUT,
            turn: 0,
            start: gpu.new_event()?,
            end: gpu.new_event()?,
            stream: gpu.new_stream()?,
        })
    }

    /// The stream on which the work is timed.
    pub fn stream(&self) -> &CudaStream {
        &self.stream
    }

    /// Replaces [`LATCH_TIMEOUT`].
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Milliseconds a call of `work`, one number a sample. With `flush`, the L2 cache is swept
    /// before each sample, ahead of the latch and outside the time.
    pub fn measure(
        &mut self,
        plan: Plan,
        flush: Option<&L2Flush>,
        mut work: impl FnMut(&CudaStream) -> Result<()>,
    ) -> Result<Vec<f64>> {
        if plan.warmup == 0 || plan.samples == 0 || plan.fewest_samples > plan.samples {
            return Err(Error::Shape { what: format!("a timing of {plan:?}") });
        }
        if plan.launches == 0 || plan.launches > MOST_LAUNCHES {
            let what = format!("{} launches a sample, of 1 to {MOST_LAUNCHES}", plan.launches);
            return Err(Error::Shape { what });
        }
        if let Some(flush) = flush {
            flush.run(&self.stream)?;
        }
        for _ in 0..plan.warmup {
            work(&self.stream)?;
        }
        self.stream.synchronize()?;
        // The latch's own first launch loads its code; held for no time.
        self.latched(|_| Ok(()))?;
        let begun = Instant::now();
        let launches = f64::from(plan.launches);
        let mut milliseconds = Vec::with_capacity(plan.samples as usize);
        for sample in 0..plan.samples {
            let spent = plan.budget.is_some_and(|budget| begun.elapsed() >= budget);
            if spent && sample >= plan.fewest_samples {
                break;
            }
            if let Some(flush) = flush {
                flush.run(&self.stream)?;
            }
            rest(plan.rest, milliseconds.last().map(|last| last * launches));
            let elapsed = self.latched(|stream| {
                for _ in 0..plan.launches {
                    work(stream)?;
                }
                Ok(())
            })?;
            milliseconds.push(elapsed / launches);
        }
        Ok(milliseconds)
    }

    /// Milliseconds from the opening of the latch to the end of `work`.
    fn latched(&mut self, work: impl FnOnce(&CudaStream) -> Result<()>) -> Result<f64> {
        self.turn = self.turn.wrapping_add(1);
        let params = TimingParams {
            data: self.flag.device_ptr(),
            result: self.flag.device_ptr() + 4,
            amount: self.timeout.as_nanos() as u64,
            target: self.turn,
            reserved: 0,
        };
        // SAFETY: the flag is pinned memory of two words that lives as long as self.
        unsafe { self.latch.launch(&self.stream, Grid::linear(1, 32), &params)? };
        let enqueued = self.start.record(&self.stream).and_then(|()| work(&self.stream));
        let enqueued = enqueued.and_then(|()| self.end.record(&self.stream));
        // Opened even where enqueueing failed, so that the stream runs dry at once.
        self.flag_word(0).store(self.turn, Ordering::Release);
        enqueued?;
        self.end.synchronize()?;
        if self.flag_word(1).load(Ordering::Acquire) == self.turn {
            let reason = format!("latch timed out after {:?}: the work waits", self.timeout);
            return Err(Error::Driver { call: "timing_latch", reason });
        }
        self.end.elapsed_ms_since(&self.start)
    }

    /// Word 0: the host's flag. Word 1: the turn of a latch that timed out.
    fn flag_word(&self, index: usize) -> &AtomicU32 {
        assert!(index < 2, "the flag has two words");
        // SAFETY: 8 aligned bytes of pinned memory that host and device share as atomics only.
        unsafe { &*self.flag.host_ptr().cast::<AtomicU32>().add(index) }
    }
}
