//! All GPUs with memory to copy from and to, and their timers.

use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::links::{self, CopyFault, End, Links, Mover, Route};
use kernels::pattern::{self, Content, Patterns};
use kernels::peer;
use kernels::timing::{self, Plan, Timer};
use kernels::together::Together;

use crate::lab::{Lab, gbps};

/// Bytes of one copy.
pub(super) const COPY_BYTES: u64 = 512 << 20;
/// Copies of one sample.
pub(super) const LAUNCHES: u32 = 4;
pub(super) const SAMPLES: usize = 9;
pub(super) const CONTROL_SAMPLES: u32 = 7;
/// A share of the payload is copied twice: this many parts in a million.
pub(super) const TWICE: CopyFault = CopyFault { piece_bytes: None, repeat_ppm: 30_000 };
/// Small pieces, of which [`PIECED_BYTES`] make as many as fit behind a latch.
pub(super) const PIECES: CopyFault = CopyFault { piece_bytes: Some(16 << 10), repeat_ppm: 0 };
pub(super) const PIECED_BYTES: u64 = 4 << 20;

/// Who moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Engine,
    Kernel,
}

impl By {
    pub(super) fn name(self) -> &'static str {
        match self {
            By::Engine => "copy-engine",
            By::Kernel => "kernel",
        }
    }

    pub(super) fn mover(self, links: &Links, blocks: Option<u32>) -> Mover<'_> {
        match self {
            By::Engine => Mover::Engine,
            By::Kernel => Mover::Kernel(links, blocks),
        }
    }
}

/// Which end's GPU moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The source's: it writes over the link.
    Write,
    /// The destination's: it reads over the link.
    Read,
}

impl Way {
    pub(super) const BOTH: [Way; 2] = [Way::Write, Way::Read];

    pub(super) fn name(self) -> &'static str {
        match self {
            Way::Write => "write",
            Way::Read => "read",
        }
    }

    pub(super) fn metric(self) -> &'static str {
        match self {
            Way::Write => "write_gbps",
            Way::Read => "read_gbps",
        }
    }
}

/// One GPU's place on the bench.
pub(super) struct Site<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) index: u32,
    pub(super) patterns: Patterns,
    pub(super) links: Links,
    pub(super) source: Buffer,
    pub(super) target: Buffer,
}

impl Site<'_> {
    pub(super) fn source(&self) -> End<'_> {
        End { gpu: self.gpu, buffer: &self.source }
    }

    pub(super) fn target(&self) -> End<'_> {
        End { gpu: self.gpu, buffer: &self.target }
    }

    /// Fills the source with a seed's words.
    pub(super) fn fill(&self, seed: u64) -> Result<(), Stop> {
        let bytes = self.source.len_bytes();
        self.patterns.fill(self.gpu.stream(), &self.source, bytes, Content::Hash { seed })?;
        Ok(self.gpu.synchronize()?)
    }

    /// Puts other data where a copy will end.
    pub(super) fn poison(&self) -> Result<(), Stop> {
        self.target.poison(self.gpu.stream())?;
        Ok(self.gpu.synchronize()?)
    }

    /// Words of the target's first `bytes` that are not the seed's.
    pub(super) fn wrong(&self, bytes: u64, seed: u64) -> Result<u64, Stop> {
        let content = Content::Hash { seed };
        Ok(self.patterns.check(self.gpu.stream(), &self.target, bytes, content)?.count)
    }
}

/// All GPUs of the case.
pub(super) struct Bench<'a> {
    pub(super) sites: Vec<Site<'a>>,
    pub(super) timers: Vec<Timer>,
    pub(super) together: Together,
    pub(super) seed: u64,
}

/// A copy between two sites.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) way: Way,
    pub(super) by: By,
    pub(super) bytes: u64,
    pub(super) launches: u32,
    pub(super) blocks: Option<u32>,
    pub(super) fault: CopyFault,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        lab: &'a Lab,
        assignment: &Assignment,
        recorder: &mut Recorder,
    ) -> Result<Bench<'a>, Stop> {
        peer::enable(&lab.gpus)?;
        recorder.option("copy_bytes", COPY_BYTES);
        recorder.option("copies_per_sample", LAUNCHES);
        let (mut sites, mut timers, mut latches) = (Vec::new(), Vec::new(), Vec::new());
        for (gpu, index) in lab.gpus.iter().zip(&lab.indices) {
            let latch = lab.module(gpu, &timing::SOURCE, recorder)?;
            timers.push(Timer::new(gpu, &latch)?);
            latches.push(latch);
            sites.push(Site {
                gpu,
                index: *index,
                patterns: Patterns::new(gpu, &lab.module(gpu, &pattern::SOURCE, recorder)?)?,
                links: Links::new(gpu, &lab.module(gpu, &links::SOURCE, recorder)?)?,
                source: gpu.alloc(COPY_BYTES)?,
                target: gpu.alloc(COPY_BYTES)?,
            });
        }
        let lanes: Vec<_> = lab.gpus.iter().zip(&latches).collect();
        let together = Together::new(&lanes)?;
        Ok(Bench { sites, timers, together, seed: assignment.seed })
    }

    /// The seed of a site's source.
    pub(super) fn seed_of(&self, site: usize) -> u64 {
        self.seed.wrapping_add(1 + site as u64)
    }

    /// Every ordered pair of sites.
    pub(super) fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.sites.len();
        let all = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        all.filter(|(from, to)| from != to).collect()
    }

    /// GB/s of each sample of a copy that has the links to itself.
    pub(super) fn rates(&mut self, job: Job, samples: u32) -> Result<Vec<f64>, Stop> {
        let Bench { sites, timers, .. } = self;
        let runs_on = match job.way {
            Way::Write => job.from,
            Way::Read => job.to,
        };
        let route = Route::new(sites[job.from].source(), sites[job.to].target(), 0, job.bytes)?;
        let mover = job.by.mover(&sites[runs_on].links, job.blocks);
        let plan = Plan {
            warmup: 1,
            samples,
            fewest_samples: samples,
            launches: job.launches,
            budget: None,
            rest: 0,
        };
        let enqueue = |stream: &_| route.enqueue(stream, mover, job.fault);
        let milliseconds = timers[runs_on].measure(plan, None, enqueue)?;
        Ok(gbps(job.bytes, &milliseconds))
    }
}
