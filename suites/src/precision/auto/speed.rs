//! Is what was chosen the fastest of those that keep the wish?

use harness::evidence::Metric;
use harness::record::{Recorder, Stop};
use harness::statistics;
use kernels::auto::{Arithmetic, Asked, Multiplication};
use kernels::timing::{InTurn, Timer};

use super::names::{self, DRAWN_TIMED, Drawn};
use super::{ANY, Bench, Matrices, OVER_OTHERS, Request, UNWRITTEN, note};
use crate::precision::rates::products::REST;

/// An arithmetic that can be had, its measured error, and milliseconds a product.
struct Timed<'a> {
    arithmetic: Arithmetic,
    product: Multiplication<'a>,
    error: f64,
    ms: Vec<f64>,
}

/// Times every arithmetic at one shape, holds what was chosen against those that keep the wish, and proves by bits
/// that what was timed is what was named.
pub fn speed(
    bench: &Bench<'_>,
    timer: &mut Timer,
    request: Request,
    samples: usize,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress(request.name);
    let matrices = bench.random(request.shape, request.wish.keeps_sums)?;
    let chosen = matrices.multiplied(bench.tools, Asked::Auto, request.wish)?;
    let (named, foretold_us) = (chosen.chosen().arithmetic, chosen.chosen().foretold_us);
    note(recorder, "speed", request.name, &chosen);
    let mut all = had(bench, &matrices, request, chosen, recorder)?;
    // Enough launches for a millisecond, of what was chosen.
    let launches = (1000.0 / foretold_us).clamp(4.0, 128.0) as u32;
    // The timer has a stream of its own.
    bench.tools.gpu.stream().synchronize()?;
    sampled(timer, launches, samples, &mut all)?;
    let mut unwritten = 0.0;
    for Timed { product, .. } in &all {
        let stream = bench.tools.gpu.stream();
        matrices.d.poison(stream)?;
        product.run(stream)?;
        unwritten += bench.nonfinite(&matrices)?;
    }
    recorder.metric(bench.exact(UNWRITTEN, request.name, unwritten));
    for Timed { arithmetic, ms, .. } in &all {
        let median = statistics::median(ms).unwrap_or(f64::NAN);
        let name = format!("ms.{}.{}", request.name, arithmetic.name());
        recorder.option(&name, format!("{median:.6}"));
    }
    judged(bench, request, named, &all, recorder)?;
    if named == Arithmetic::E4m3RowFast {
        matrices.d.poison(bench.tools.gpu.stream())?;
        let missing = bench.exact(UNWRITTEN, request.name, bench.nonfinite(&matrices)?);
        recorder.control("unwritten-output", missing);
    }
    // The products that were timed, over rows that tell their adders apart.
    let drawn = Drawn::new(request.shape, bench.seed, DRAWN_TIMED);
    drawn.upload(bench.tools.gpu, &matrices)?;
    for Timed { product, .. } in all.iter().filter(|one| one.arithmetic == named) {
        product.weights_changed()?;
        names::prove(bench, (&matrices, &drawn), product, ("speed", request.name), recorder)?;
    }
    Ok(())
}

/// What was chosen and every other arithmetic that can be had, with its error.
fn had<'a>(
    bench: &Bench<'a>,
    matrices: &'a Matrices,
    request: Request,
    chosen: Multiplication<'a>,
    recorder: &mut Recorder,
) -> Result<Vec<Timed<'a>>, Stop> {
    let named = chosen.chosen().arithmetic;
    let mut all = vec![(named, chosen)];
    for arithmetic in Arithmetic::ALL.into_iter().filter(|one| *one != named) {
        match matrices.multiplied(bench.tools, Asked::Only(arithmetic), ANY) {
            Err(kernels::Error::Refused(_)) => {}
            other => all.push((arithmetic, other?)),
        }
    }
    let mut timed = Vec::new();
    for (arithmetic, product) in all {
        let error = bench.error(matrices, &product)?;
        recorder.option(&format!("error.{}.{}", request.name, arithmetic.name()), error);
        timed.push(Timed { arithmetic, product, error, ms: Vec::new() });
    }
    Ok(timed)
}

/// A sample of each in turn, with a rest before it.
fn sampled(
    timer: &mut Timer,
    launches: u32,
    samples: usize,
    all: &mut [Timed<'_>],
) -> Result<(), Stop> {
    let mut turns = InTurn::new(timer, REST);
    for _ in 0..samples {
        for Timed { product, ms, .. } in all.iter_mut() {
            ms.push(turns.sample(launches, |stream| product.run(stream))?);
        }
    }
    Ok(())
}

/// What was chosen beside the others that keep the wish, and others called the choice.
fn judged(
    bench: &Bench<'_>,
    request: Request,
    named: Arithmetic,
    all: &[Timed<'_>],
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let able: Vec<&Timed<'_>> =
        all.iter().filter(|one| one.error <= request.wish.relative_error).collect();
    if able.len() < 2 {
        let what = format!("nothing beside what was chosen keeps the wish of {}", request.name);
        return Err(Stop::Error(what));
    }
    let times: Vec<Vec<f64>> = able.iter().map(|one| one.ms.clone()).collect();
    let metric = |own: usize| {
        let at = [("request", request.name)];
        Metric::sampled(OVER_OTHERS, &at, &[bench.index], over_others(&times, own))
    };
    let place = |arithmetic: Arithmetic| {
        let found = able.iter().position(|one| one.arithmetic == arithmetic);
        found.ok_or_else(|| {
            let name = arithmetic.name();
            Stop::Error(format!("{name} does not keep the wish of {}", request.name))
        })
    };
    recorder.metric(metric(place(named)?));
    if named == Arithmetic::E4m3RowFast {
        recorder.control("always-fp16", metric(place(Arithmetic::F16)?));
        recorder.control("second-best", metric(second_best(&times)));
    }
    Ok(())
}

/// Sample by sample one's time over the least of all others.
fn over_others(times: &[Vec<f64>], own: usize) -> Vec<f64> {
    let ratio = |(sample, time): (usize, &f64)| {
        let others = times.iter().enumerate().filter(|(at, _)| *at != own);
        let least = others.map(|(_, times)| times[sample]).fold(f64::INFINITY, f64::min);
        (time / least * 1e5).round() / 1e5
    };
    times[own].iter().enumerate().map(ratio).collect()
}

/// The one whose median is the least but one, of two or more.
fn second_best(times: &[Vec<f64>]) -> usize {
    let median = |at: &usize| statistics::median(&times[*at]).unwrap_or(f64::INFINITY);
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|x, y| median(x).total_cmp(&median(y)));
    order[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_held_against_the_fastest_other_one() {
        let times = [vec![2.0, 3.0], vec![4.0, 1.5], vec![1.0, 6.0]];
        assert_eq!(over_others(&times, 0), [2.0, 2.0]);
        assert_eq!(over_others(&times, 2), [0.5, 4.0]);
    }

    #[test]
    fn the_second_best_is_slower_than_one_alone() {
        let times = [vec![3.0, 3.0, 9.0], vec![1.0, 2.0, 1.0], vec![2.0, 2.5, 2.0]];
        assert_eq!(second_best(&times), 2);
        assert_eq!(second_best(&times[..2]), 0);
        assert_eq!(over_others(&times, second_best(&times)), [2.0, 1.25, 2.0]);
    }
}
