//! Small copies, each timed by itself.

use harness::case::{Control, Expect, control};
use harness::evidence::Metric;
use harness::record::{At, Recorder, Stop};
use kernels::device::Event;
use kernels::links::{CopyFault, Mover, Route};
use kernels::timing::{Plan, Timer};

use super::bench::{Bench, CONTROL_SAMPLES, Site};

pub(super) const SMALL_BYTES: u64 = 4096;
pub(super) const COPY_AT: At = &[("bytes", "4096")];

/// Copies of a chain and the events around them, all of which fit behind a latch. Of so many the 99th
/// percentile is the longest but one.
const COPIES: usize = 128;

/// Copies that follow each other, an event between each two.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    copies: usize,
    /// Every so many copies one waits for so many nanoseconds: planted.
    held: Option<(usize, u64)>,
}

pub(super) const PLAIN: Chain = Chain { copies: COPIES, held: None };

/// Every copy waits; fewer of them, since each needs a kernel besides.
const fn each_held(microseconds: u64) -> Chain {
    Chain { copies: COPIES / 2, held: Some((1, 1000 * microseconds)) }
}

/// Four copies of a chain wait.
const fn some_held(microseconds: u64) -> Chain {
    Chain { copies: COPIES, held: Some((32, 1000 * microseconds)) }
}

pub(super) const P50_NEAR: Control = control(
    "each-copy-held-25-us",
    "every copy waits for 25 us behind a kernel, timed with it",
    "copy_p50_us",
    Expect::Refuted,
);
pub(super) const P50_GROSS: Control = control(
    "each-copy-held-100-us",
    "every copy waits for 100 us behind a kernel, timed with it",
    "copy_p50_us",
    Expect::Refuted,
);
pub(super) const P99_NEAR: Control = control(
    "32nd-copy-held-50-us",
    "every 32nd copy waits for 50 us behind a kernel, timed with it",
    "copy_p99_us",
    Expect::Refuted,
);
pub(super) const P99_GROSS: Control = control(
    "32nd-copy-held-400-us",
    "every 32nd copy waits for 400 us behind a kernel, timed with it",
    "copy_p99_us",
    Expect::Refuted,
);
pub(super) const FLIPPED: Control = control(
    "flipped-payload",
    "one bit of one word of a small copy is flipped after it arrived",
    "wrong_count",
    Expect::Corrupt,
);

const P50_PLANTED: [(Control, Chain); 2] = [(P50_NEAR, each_held(25)), (P50_GROSS, each_held(100))];
const P99_PLANTED: [(Control, Chain); 2] = [(P99_NEAR, some_held(50)), (P99_GROSS, some_held(400))];

/// Medians and tails of chains, in microseconds.
#[derive(Default)]
pub(super) struct Times {
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

impl Times {
    pub(super) fn p50(&self, gpus: &[u32]) -> Metric {
        Metric::sampled("copy_p50_us", COPY_AT, gpus, self.p50_us.clone())
    }

    pub(super) fn p99(&self, gpus: &[u32]) -> Metric {
        Metric::sampled("copy_p99_us", COPY_AT, gpus, self.p99_us.clone())
    }
}

/// Times of so many chains of copies which a GPU writes into another one's memory.
pub(super) fn times(
    bench: &mut Bench,
    from: usize,
    to: usize,
    chains: usize,
    chain: Chain,
) -> Result<Times, Stop> {
    let Bench { sites, timers, .. } = bench;
    let site = &sites[from];
    let route = Route::new(site.source(), sites[to].target(), 0, SMALL_BYTES)?;
    let event = |_| site.gpu.new_event();
    let events: Vec<Event> = (0..=chain.copies).map(event).collect::<Result<_, _>>()?;
    let mut times = Times::default();
    for _ in 0..chains {
        let mut us = one(&mut timers[from], site, &route, &events, chain.held)?;
        us.sort_unstable_by(f64::total_cmp);
        times.p50_us.push(at_rank(&us, 50));
        times.p99_us.push(at_rank(&us, 99));
    }
    Ok(times)
}

/// Microseconds from each event of one chain to the next.
fn one(
    timer: &mut Timer,
    site: &Site<'_>,
    route: &Route<'_>,
    events: &[Event],
    held: Option<(usize, u64)>,
) -> Result<Vec<f64>, Stop> {
    // A chain that does not count comes first, and records the same events.
    let plan =
        Plan { warmup: 1, samples: 1, fewest_samples: 1, launches: 1, budget: None, rest: 0 };
    timer.measure(plan, None, |stream| {
        events[0].record(stream)?;
        for (copy, done) in events[1..].iter().enumerate() {
            if let Some((every, nanoseconds)) = held
                && copy % every == 0
            {
                site.links.hold(stream, nanoseconds)?;
            }
            route.enqueue(stream, Mover::Engine, CopyFault::default())?;
            done.record(stream)?;
        }
        Ok(())
    })?;
    let pairs = events.windows(2);
    let us = pairs.map(|pair| Ok(1e3 * pair[1].elapsed_ms_since(&pair[0])?));
    us.collect()
}

/// The so many-th percent of sorted times, to a tenth of a microsecond: events tell no more than half a one.
fn at_rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (percent * sorted.len()).div_ceil(100).clamp(1, sorted.len());
    (sorted[rank - 1] * 10.0).round() / 10.0
}

/// The faults, planted between one pair.
pub(super) fn controls(
    bench: &mut Bench,
    from: usize,
    to: usize,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let gpus = [bench.sites[from].index, bench.sites[to].index];
    let count = CONTROL_SAMPLES as usize;
    for (control, chain) in P50_PLANTED {
        recorder.control(control.name, times(bench, from, to, count, chain)?.p50(&gpus));
    }
    for (control, chain) in P99_PLANTED {
        recorder.control(control.name, times(bench, from, to, count, chain)?.p99(&gpus));
    }
    bench.sites[from].fill(bench.seed_of(from))?;
    times(bench, from, to, 1, PLAIN)?;
    let site = &bench.sites[to];
    site.patterns.flip(site.gpu.stream(), &site.target, 321, 1 << 5)?;
    let wrong = site.wrong(SMALL_BYTES, bench.seed_of(from))?;
    recorder.control(FLIPPED.name, Metric::exact("wrong_count", COPY_AT, &gpus, wrong as f64));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_by_hand() {
        let sorted: Vec<f64> = (1..=128).map(f64::from).collect();
        assert_eq!(at_rank(&sorted, 50), 64.0);
        assert_eq!(at_rank(&sorted, 99), 127.0);
        assert_eq!(at_rank(&[6.14], 50), 6.1);
    }

    #[test]
    fn what_is_held_is_what_its_rank_tells() {
        // Four copies of a chain are more than the one behind the 99th percentile.
        let held = |Chain { copies, held }: Chain| {
            held.map_or(0, |(every, _)| (0..copies).filter(|copy| copy % every == 0).count())
        };
        assert_eq!(held(some_held(50)), 4);
        assert_eq!(held(each_held(25)), COPIES / 2);
        assert_eq!(held(PLAIN), 0);
    }
}
