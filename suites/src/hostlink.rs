//! Suite `bandwidth`, part host link: pinned host memory to and from each GPU, alone and all at once.

use std::sync::Barrier;

use harness::case::{Case, Control, Expect, Scope};
use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::hostlink::{Direction, Fault, Link};
use kernels::pattern::{self, Patterns};

use crate::lab::{Lab, gbps};

const NVBANDWIDTH: Source = Source {
    document: "touchstone",
    section: "host link",
    printed: "what nvbandwidth measures as host_to_device_memcpy_ce and device_to_host_memcpy_ce",
    board: "",
};

const fn claim(
    id: &'static str,
    text: &'static str,
    metric: &'static str,
    at: &'static [(&'static str, &'static str)],
) -> Claim {
    Claim {
        id,
        text,
        source: NVBANDWIDTH,
        relation: Relation::AtLeast,
        case: LINK.id,
        metric,
        at,
        reduce: Reduce::Worst,
        ceiling: Some("pcie_gbps"),
        gpus: GpuCount::AtLeast(1),
        kind: Kind::Claim,
    }
}

/// Claims about the host link, in checklist order.
pub static CLAIMS: &[&Claim] = &[&TO_DEVICE, &TO_HOST, &TO_DEVICE_ALL, &TO_HOST_ALL];

static TO_DEVICE: Claim = claim(
    "bandwidth::host-to-device",
    "Each GPU alone takes pinned host memory at the rate of its link.",
    "to_device_gbps",
    &[("who", "alone")],
);
static TO_HOST: Claim = claim(
    "bandwidth::device-to-host",
    "Each GPU alone gives pinned host memory at the rate of its link.",
    "to_host_gbps",
    &[("who", "alone")],
);
static TO_DEVICE_ALL: Claim = claim(
    "bandwidth::host-to-device-all",
    "All GPUs at once take pinned host memory at their rate.",
    "to_device_gbps",
    &[("who", "all")],
);
static TO_HOST_ALL: Claim = claim(
    "bandwidth::device-to-host-all",
    "All GPUs at once give pinned host memory at their rate.",
    "to_host_gbps",
    &[("who", "all")],
);

/// A share of the payload is copied twice: this many parts in a million.
const REPEAT_PPM: u32 = 25_000;
/// A copy in pieces of this size, each waited for.
const PIECE_BYTES: u64 = 16 << 10;
const COPY_BYTES: u64 = 256 << 20;
/// A copy in small pieces takes long: its control copies less.
const PIECED_BYTES: u64 = 16 << 20;
const SAMPLES: usize = 12;
const CONTROL_SAMPLES: u32 = 9;

/// Cases about the host link, in the order in which they run.
pub static CASES: &[&Case] = &[&LINK];

static LINK: Case = Case {
    id: "bandwidth::host-link",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Copies 256 MiB between pinned host memory and each GPU by its copy engine, each \
                GPU alone and then all at once from a common start, between device events. The \
                payload is generated for the run and compared word by word on the far side.",
    samples: SAMPLES,
    expected_s: 8.0,
    deadline_s: 240.0,
    kernels: &["pattern"],
    integrity: &["wrong_count"],
    controls: &[
        Control {
            name: "to-device-2.5-percent-twice",
            fault: "2.5 % of the payload is copied twice and counted once",
            trips: "to_device_gbps",
            expect: Expect::Regressed,
        },
        Control {
            name: "to-host-2.5-percent-twice",
            fault: "2.5 % of the payload is copied twice and counted once",
            trips: "to_host_gbps",
            expect: Expect::Regressed,
        },
        Control {
            name: "to-device-in-pieces",
            fault: "the payload goes in pieces of 16 KiB, each waited for",
            trips: "to_device_gbps",
            expect: Expect::Refuted,
        },
        Control {
            name: "to-host-in-pieces",
            fault: "the payload goes in pieces of 16 KiB, each waited for",
            trips: "to_host_gbps",
            expect: Expect::Refuted,
        },
        Control {
            name: "flipped-bit",
            fault: "one bit of one word is flipped after it arrived",
            trips: "wrong_count",
            expect: Expect::Corrupt,
        },
    ],
    run: host_link,
};

/// One GPU with its link.
struct End<'a> {
    gpu: &'a Gpu,
    index: u32,
    patterns: Patterns,
    link: Link,
}

fn host_link(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    recorder.option("copy_bytes", COPY_BYTES);
    let mut ends = Vec::new();
    for (gpu, index) in lab.gpus.iter().zip(&lab.indices) {
        gpu.bind()?;
        let module = lab.module(gpu, &pattern::SOURCE, recorder)?;
        let patterns = Patterns::new(gpu, &module)?;
        ends.push(End { gpu, index: *index, patterns, link: Link::new(gpu, COPY_BYTES)? });
    }
    let samples = assignment.samples(SAMPLES) as u32;
    let seed = assignment.seed;
    for end in &mut ends {
        recorder.progress(&format!("gpu{} alone", end.index));
        end.gpu.bind()?;
        for way in [Direction::HostToDevice, Direction::DeviceToHost] {
            let rates = end.rates(way, samples, None, Fault::default(), seed)?;
            let wrong = end.wrong(way, seed)?;
            recorder.metric(end.rate(way, "alone", rates));
            recorder.metric(end.exact(way, "alone", wrong));
        }
        end.controls(recorder, seed)?;
    }
    for way in [Direction::HostToDevice, Direction::DeviceToHost] {
        recorder.progress("all at once");
        for (end, rates, wrong) in all_at_once(&mut ends, way, samples, seed)? {
            recorder.metric(end.rate(way, "all", rates));
            recorder.metric(end.exact(way, "all", wrong));
        }
    }
    drop(ends);
    lab.close(recorder);
    Ok(())
}

/// A GPU with its rates and its wrong words.
type Copied<'e, 'a> = (&'e End<'a>, Vec<f64>, u64);

/// Rates and wrong words of each GPU while all copy.
fn all_at_once<'e, 'a>(
    ends: &'e mut [End<'a>],
    way: Direction,
    samples: u32,
    seed: u64,
) -> Result<Vec<Copied<'e, 'a>>, Stop> {
    let line = Barrier::new(ends.len());
    let line = &line;
    let measured: Vec<Result<Vec<f64>, Stop>> = std::thread::scope(|scope| {
        let threads: Vec<_> = ends
            .iter_mut()
            .map(|end| {
                scope.spawn(move || {
                    end.gpu.bind()?;
                    end.rates(way, samples, Some(line), Fault::default(), seed)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Stop::Error("a copying thread died".into())))
            })
            .collect()
    });
    let mut all = Vec::new();
    for (end, rates) in ends.iter().zip(measured) {
        end.gpu.bind()?;
        all.push((end, rates?, end.wrong(way, seed)?));
    }
    Ok(all)
}

impl End<'_> {
    /// GB/s of each copy.
    fn rates(
        &mut self,
        way: Direction,
        samples: u32,
        line: Option<&Barrier>,
        fault: Fault,
        seed: u64,
    ) -> Result<Vec<f64>, Stop> {
        self.link.prepare(&self.patterns, way, seed + u64::from(self.index))?;
        // The first copy touches every page once.
        self.link.measure(way, 1, line, Fault::default())?;
        let milliseconds = self.link.measure(way, samples, line, fault)?;
        Ok(gbps(self.link.bytes(), &milliseconds))
    }

    fn wrong(&self, way: Direction, seed: u64) -> Result<u64, Stop> {
        Ok(self.link.verify(&self.patterns, way, seed + u64::from(self.index))?.count)
    }

    fn controls(&mut self, recorder: &mut Recorder, seed: u64) -> Result<(), Stop> {
        let mut pieced = Link::new(self.gpu, PIECED_BYTES)?;
        for (way, twice, pieces) in [
            (Direction::HostToDevice, "to-device-2.5-percent-twice", "to-device-in-pieces"),
            (Direction::DeviceToHost, "to-host-2.5-percent-twice", "to-host-in-pieces"),
        ] {
            let fault = Fault { repeat_fraction_ppm: REPEAT_PPM, ..Fault::default() };
            let rates = self.rates(way, CONTROL_SAMPLES, None, fault, seed)?;
            recorder.control(twice, self.rate(way, "alone", rates));
            let fault = Fault { piece_bytes: Some(PIECE_BYTES), ..Fault::default() };
            let milliseconds = pieced.measure(way, CONTROL_SAMPLES, None, fault)?;
            recorder.control(pieces, self.rate(way, "alone", gbps(PIECED_BYTES, &milliseconds)));
        }
        let way = Direction::HostToDevice;
        self.rates(way, 1, None, Fault::default(), seed)?;
        let stream = self.gpu.stream();
        self.patterns.flip(stream, self.link.device(), 9_876_543, 1 << 5)?;
        stream.synchronize()?;
        let wrong = self.wrong(way, seed)?;
        recorder.control("flipped-bit", self.exact(way, "alone", wrong));
        Ok(())
    }

    fn rate(&self, way: Direction, who: &str, rates: Vec<f64>) -> Metric {
        let metric = match way {
            Direction::HostToDevice => "to_device_gbps",
            Direction::DeviceToHost => "to_host_gbps",
        };
        Metric::sampled(metric, &[("who", who)], &[self.index], rates)
    }

    fn exact(&self, way: Direction, who: &str, wrong: u64) -> Metric {
        let way = match way {
            Direction::HostToDevice => "to-device",
            Direction::DeviceToHost => "to-host",
        };
        Metric::exact("wrong_count", &[("who", who), ("way", way)], &[self.index], wrong as f64)
    }
}
