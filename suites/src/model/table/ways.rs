//! The models of a table, and a row of it: every way of execution in turn.

use std::time::Instant;

use harness::case::Control;
use harness::evidence::Metric;
use harness::record::{Assignment, Recorder, Stop};
use harness::statistics::median;
use kernels::device::Gpu;
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Way};
use kernels::model::rank::Place;
use kernels::model::weights::{Linear, Split};
use kernels::model::{Config, Precision};

use super::{
    BEST, COPY_BESIDE, EAGER_OF_TWICE, EXTRA, FEWEST, GRAPH, GRAPH_OF_TWICE, LAYERS_TWICE,
    RECORDED_OFTEN, RECORDINGS, Row, SEARCH, SEARCH_OF_TWICE, SEARCHED_OFTEN, SMART,
    SMART_OF_TWICE, TWICE, of_a_layer,
};
use crate::model::forward::{BITS, FLIPPED_BIT, FP16_FOR_FP8, SPEEDUP, apart};
use crate::model::memory::{self, Before, LAYER_TWICE};
use crate::model::payback::{self, BREAK_EVEN, FIRST_RUN};
use crate::model::smart::{self, Ran};
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{
    EVERY_LAYER, INTEGRITY, METRIC, NOT_RUN, TIME, rounded, tflops, unwritten,
};

/// Layer and element of the weight of which a bit is flipped.
const FLIPPED: (u32, u64) = (20, 1_000_003);
/// Seconds of the smart way's budget, more than any search takes.
const BUDGET_S: f64 = 600.0;

/// A model, and what its weights took.
struct Held<'a> {
    config: Config,
    group: Group<'a>,
    weights: memory::Taken,
}

/// Models whose weights are kept from row to row.
pub(super) struct Models<'a> {
    bench: &'a Bench,
    gpu: &'a Gpu,
    on: [u32; 1],
    assignment: &'a Assignment,
    /// What the case plants.
    controls: &'static [Control],
    held: Vec<Held<'a>>,
}

/// What a model's memory is measured from: before a row's activations.
struct Memory {
    config: Config,
    weights: memory::Taken,
    before: Before,
}

/// A way of execution with what it has taken.
struct Taken {
    name: &'static str,
    way: Way,
    times: Vec<f64>,
    /// Milliseconds before its first pass.
    cost: f64,
    /// The same where a dear way is planted.
    dear: Option<f64>,
}

impl<'a> Models<'a> {
    /// None yet.
    pub(super) fn new(
        (bench, gpu, on): (&'a Bench, &'a Gpu, [u32; 1]),
        assignment: &'a Assignment,
        controls: &'static [Control],
    ) -> Models<'a> {
        Models { bench, gpu, on, assignment, controls, held: Vec::new() }
    }

    /// A model, kept or made anew; others of its precision go. Nothing is set.
    fn take(&mut self, config: Config) -> Result<Held<'a>, Stop> {
        if let Some(at) = self.held.iter().position(|held| held.config == config) {
            let mut held = self.held.remove(at);
            held.group.clear()?;
            return Ok(held);
        }
        self.held.retain(|held| held.config.precision != config.precision);
        let before = Before::now(self.gpu)?;
        let group = Group::new(&self.bench.first(1), config, Split::Outputs)?;
        Ok(Held { config, group, weights: before.left(self.gpu)? })
    }

    /// Measures a row.
    pub(super) fn row(&mut self, row: &Row, recorder: &mut Recorder) -> Result<(), Stop> {
        let config = self.config(row);
        let tokens = bench::tokens(&config, &row.problem, config.seed);
        if !row.eight {
            // No other model is kept beside this one.
            self.held.retain(|held| held.config == config);
        }
        let mut held = self.take(config)?;
        let memory = Memory { config, weights: held.weights, before: Before::now(self.gpu)? };
        let own = &mut held.group;
        own.set(row.problem, 1)?;
        self.gpu.ledger().reset_peak();
        own.set_tokens(&tokens)?;
        let mut ways = self.ways(row, (own, &memory), recorder)?;
        let mut eight = Vec::new();
        if row.eight {
            let config = Config { precision: Precision::E4m3, ..config };
            eight.push((self.eight(row, (config, &tokens), recorder)?, Vec::new()));
        }
        for _ in 0..self.assignment.samples(row.passes) {
            for taken in &mut ways {
                own.exchange(&mut taken.way)?;
                taken.times.extend(own.time(0, 1)?);
                own.exchange(&mut taken.way)?;
            }
            for (eight, times) in &mut eight {
                times.extend(eight.group.time(0, 1)?);
            }
        }
        self.write(row, &ways, recorder);
        self.write_costs(row, &ways, recorder);
        self.looked_at(row, own, &mut ways, recorder)?;
        if row.faults {
            self.planted(row, own, &mut ways, recorder)?;
        }
        for (mut eight, times) in eight {
            self.write_eight(row, (&times, &ways), &mut eight.group, recorder)?;
            self.held.push(eight);
        }
        drop(ways);
        self.held.push(held);
        Ok(())
    }

    /// The model in FP8 as a graph with searched algorithms, which has run once.
    fn eight(
        &mut self,
        row: &Row,
        (config, tokens): (Config, &[u32]),
        recorder: &mut Recorder,
    ) -> Result<Held<'a>, Stop> {
        let mut held = self.take(config)?;
        let memory = Memory { config, weights: held.weights, before: Before::now(self.gpu)? };
        let group = &mut held.group;
        group.set(row.problem, bench::CANDIDATES)?;
        self.gpu.ledger().reset_peak();
        group.set_tokens(tokens)?;
        group.time(1, 0)?;
        group.record()?;
        group.time(1, 0)?;
        self.peak(row, ("fp8", "search"), &memory, recorder)?;
        Ok(held)
    }

    /// Call by call, as a graph, and as a graph with searched algorithms; each has run once.
    fn ways(
        &self,
        row: &Row,
        (group, memory): (&mut Group<'_>, &Memory),
        recorder: &mut Recorder,
    ) -> Result<Vec<Taken>, Stop> {
        let on = &self.on;
        let at = [("problem", row.name)];
        group.poison()?;
        let nonfinite = |count: u64| Metric::exact(INTEGRITY, &at, on, count as f64);
        recorder.control(NOT_RUN.name, nonfinite(unwritten(group)?));
        let first = group.time(0, 1)?;
        recorder.option(&format!("first pass of {}, ms", row.name), rounded(&first)[0]);
        recorder.metric(nonfinite(unwritten(group)?));
        self.peak(row, (row.precision_name(), "eager"), memory, recorder)?;
        let graph = match row.graph {
            true => Some(self.recorded(row, group, recorder)?),
            false => None,
        };
        let search = self.searched(row, group, recorder)?;
        self.peak(row, (row.precision_name(), "search"), memory, recorder)?;
        let eager = group.as_it_is();
        let mut ways =
            vec![Taken { name: "eager", way: eager, times: Vec::new(), cost: 0.0, dear: None }];
        ways.push(search);
        ways.extend(graph);
        if row.smart {
            ways.push(self.smart(row, group, recorder)?);
        }
        Ok(ways)
    }

    /// A pass as the smart way makes it ready, and what that takes of memory. The group is left with the heuristic's
    /// algorithms, call by call.
    fn smart(
        &self,
        row: &Row,
        group: &mut Group<'_>,
        recorder: &mut Recorder,
    ) -> Result<Taken, Stop> {
        let before = Before::now(self.gpu)?;
        // What is in use goes where the smart way has found another.
        let mut way = group.way(1)?;
        let begun = Instant::now();
        let ran = smart::ready(group, || begun.elapsed().as_secs_f64() > BUDGET_S)?;
        let cost = millis(begun.elapsed());
        recorder.option(&format!("smart ran, {}", row.name), ran.words());
        if ran != Ran::Searched {
            return Err(Stop::Error(format!("within {BUDGET_S} s: {}", ran.words())));
        }
        group.time(1, 0)?;
        recorder.metric(self.extra((row, &[("way", "smart")]), &before)?);
        group.exchange(&mut way)?;
        let again = searched_again(row, group)?;
        let dear = (row.dear > 0).then_some(cost + again);
        Ok(Taken { name: "smart", way, times: Vec::new(), cost, dear })
    }

    /// What the driver has less of since `before`, over what the model takes.
    fn extra(&self, (row, way): (&Row, &[(&str, &str)]), before: &Before) -> Result<Metric, Stop> {
        let at = [&[("problem", row.name)][..], way].concat();
        let model = memory::formula(&self.config(row), &row.problem) as f64;
        let extra = before.taken(self.gpu)?.driver as f64;
        Ok(Metric::exact(EXTRA, &at, &self.on, extra / model))
    }

    /// A row's model.
    fn config(&self, row: &Row) -> Config {
        Config { seed: self.assignment.seed, precision: row.precision, ..row.config }
    }

    /// A pass as a graph with searched algorithms. The group is left as it was.
    fn searched(
        &self,
        row: &Row,
        group: &mut Group<'_>,
        recorder: &mut Recorder,
    ) -> Result<Taken, Stop> {
        let before = Before::now(self.gpu)?;
        let begun = Instant::now();
        let mut way = group.way(bench::CANDIDATES)?;
        let searched = millis(begun.elapsed());
        recorder.option(&format!("algorithms of {} searched in, ms", row.name), searched);
        let again = searched_again(row, group)?;
        // What was tried beside is gone.
        self.gpu.ledger().reset_peak();
        group.exchange(&mut way)?;
        bench::write_choices(recorder, row.name, group)?;
        group.time(1, 0)?;
        let begun = Instant::now();
        group.record()?;
        let cost = searched + millis(begun.elapsed());
        group.time(1, 0)?;
        if row.smart {
            recorder.metric(self.extra((row, &[("way", "search")]), &before)?);
        }
        group.exchange(&mut way)?;
        let dear = (row.dear > 0).then_some(cost + again);
        Ok(Taken { name: "search", way, times: Vec::new(), cost, dear })
    }

    /// A pass as a graph, and what it takes of memory. The group is left as it was.
    fn recorded(
        &self,
        row: &Row,
        group: &mut Group<'_>,
        recorder: &mut Recorder,
    ) -> Result<Taken, Stop> {
        let mut way = group.as_it_is();
        let before = Before::now(self.gpu)?;
        let begun = Instant::now();
        group.record()?;
        let cost = millis(begun.elapsed());
        recorder.option(&format!("graph of {} recorded in, ms", row.name), cost);
        group.time(1, 0)?;
        recorder.metric(self.extra((row, &[]), &before)?);
        if self.plants(&COPY_BESIDE) {
            let beside = self.gpu.alloc(memory::formula(&self.config(row), &row.problem) / 20)?;
            recorder.control(COPY_BESIDE.name, self.extra((row, &[]), &before)?);
            drop(beside);
        }
        let mut dear = None;
        if row.dear > 0 {
            let begun = Instant::now();
            for _ in 1..RECORDINGS {
                group.record()?;
            }
            dear = Some(cost + millis(begun.elapsed()));
            group.time(1, 0)?;
        }
        group.exchange(&mut way)?;
        Ok(Taken { name: "graph", way, times: Vec::new(), cost, dear })
    }

    /// What a model takes of memory with a row's activations, since the last
    /// [`kernels::memory::Ledger::reset_peak`]; with layers held twice besides, where that is planted.
    fn peak(
        &self,
        row: &Row,
        (precision, way): (&str, &str),
        memory: &Memory,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let at = [("problem", row.name), ("precision", precision), ("way", way)];
        let formula = memory::formula(&memory.config, &row.problem);
        let taken = || -> Result<[Metric; 3], Stop> {
            let taken = memory.weights.and(memory.before.taken(self.gpu)?);
            Ok(memory::metrics(taken, formula, &at, &self.on))
        };
        taken()?.into_iter().for_each(|metric| recorder.metric(metric));
        if self.plants(&LAYERS_TWICE) {
            let layer = of_a_layer(&memory.config);
            let one = self.gpu.alloc(layer)?;
            let [by_formula, ..] = taken()?;
            recorder.control(LAYER_TWICE.name, by_formula);
            let others = self.gpu.alloc((TWICE - 1) * layer)?;
            let [_, by_driver, _] = taken()?;
            recorder.control(LAYERS_TWICE.name, by_driver);
            drop((one, others));
        }
        Ok(())
    }

    fn write(&self, row: &Row, ways: &[Taken], recorder: &mut Recorder) {
        let on = &self.on;
        for taken in ways {
            let precision = row.precision_name();
            let at = [("problem", row.name), ("precision", precision), ("way", taken.name)];
            recorder.metric(Metric::sampled(TIME, &at, on, rounded(&taken.times)));
        }
        let at = [("problem", row.name)];
        let [eager, others @ ..] = ways else { return };
        let [search, more @ ..] = others else { return };
        let over = |under: &Taken| bench::ratios(&eager.times, &under.times);
        recorder.metric(Metric::sampled(SEARCH, &at, on, over(search)));
        recorder.metric(self.rate(row, row.precision_name(), &search.times));
        for taken in more {
            if taken.name == "smart" {
                recorder.metric(Metric::sampled(SMART, &at, on, over(taken)));
                continue;
            }
            recorder.metric(Metric::sampled(GRAPH, &at, on, over(taken)));
            recorder.metric(Metric::sampled(BEST, &at, on, best(&eager.times, others)));
        }
    }

    /// What each way costs before its first pass, and after how many passes that is paid for.
    fn write_costs(&self, row: &Row, ways: &[Taken], recorder: &mut Recorder) {
        let [eager, others @ ..] = ways else { return };
        let pass = median(&eager.times).unwrap_or(f64::NAN);
        for Taken { name, times, cost, dear, .. } in others {
            let at = [("problem", row.name), ("way", *name)];
            let exact = |metric: &str, value| Metric::exact(metric, &at, &self.on, value);
            let first_run = |cost: f64| exact(FIRST_RUN, cost / pass);
            let paid = |cost: f64| {
                let count = payback::break_even(cost, &eager.times, times);
                count.map(|(_, most)| exact(BREAK_EVEN, most))
            };
            let said = payback::said(*cost, &eager.times, times);
            recorder.option(&format!("{name} of {}", row.name), said);
            recorder.metric(first_run(*cost));
            paid(*cost).into_iter().for_each(|metric| recorder.metric(metric));
            let fault = if *name == "graph" { RECORDED_OFTEN } else { SEARCHED_OFTEN };
            let control = self.controls.iter().find(|control| control.name == fault);
            let (Some(control), Some(dear)) = (control, *dear) else { continue };
            let planted = match control.trips {
                FIRST_RUN => Some(first_run(dear)),
                _ => paid(dear),
            };
            planted.into_iter().for_each(|metric| recorder.control(control.name, metric));
        }
    }

    /// What each timed way leaves: numbers, and the bits of the pass call by call.
    fn looked_at(
        &self,
        row: &Row,
        group: &mut Group<'_>,
        ways: &mut [Taken],
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let mut wanted = None;
        for taken in ways.iter_mut() {
            group.exchange(&mut taken.way)?;
            group.poison()?;
            group.pass()?;
            let wrong = unwritten(group)?;
            let found = group.fingerprint()?;
            group.exchange(&mut taken.way)?;
            let differ = u64::from(wanted.get_or_insert_with(|| found.clone()) != &found);
            let at = [("problem", row.name), ("way", taken.name)];
            recorder.metric(Metric::exact(INTEGRITY, &at, &self.on, (wrong + differ) as f64));
        }
        match wanted {
            Some(wanted) if self.plants(&FLIPPED_BIT) => {
                self.bits(row, (group, &wanted), ways, recorder)
            }
            _ => Ok(()),
        }
    }

    /// Hashes of what each other way leaves beside those of the pass call by call, and of the graph behind a flipped bit.
    fn bits(
        &self,
        row: &Row,
        (group, wanted): (&mut Group<'_>, &[u64]),
        ways: &mut [Taken],
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let place = Place::Linear(Linear::Up, FLIPPED.0);
        for taken in ways.iter_mut().filter(|taken| taken.name != "eager") {
            let at = [("problem", row.name), ("way", taken.name)];
            let mut found = |group: &mut Group<'_>| -> Result<Metric, Stop> {
                group.exchange(&mut taken.way)?;
                group.poison()?;
                group.pass()?;
                let found = group.fingerprint()?;
                group.exchange(&mut taken.way)?;
                Ok(Metric::exact(BITS, &at, &self.on, apart(&found, wanted)))
            };
            recorder.metric(found(group)?);
            if row.faults && taken.name == "graph" {
                group.flip(0, place, FLIPPED.1)?;
                recorder.control(FLIPPED_BIT.name, found(group)?);
                group.flip(0, place, FLIPPED.1)?;
            }
        }
        Ok(())
    }

    fn rate(&self, row: &Row, precision: &str, times: &[f64]) -> Metric {
        let flops = row.config.flops(&row.problem);
        let at = [("problem", row.name), ("precision", precision)];
        Metric::sampled(METRIC, &at, &self.on, tflops(flops, times))
    }

    fn plants(&self, control: &Control) -> bool {
        self.controls.iter().any(|own| own.name == control.name)
    }

    /// Faults of the passes in each way.
    fn planted(
        &self,
        row: &Row,
        group: &mut Group<'_>,
        ways: &mut [Taken],
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let layers = row.config.layers;
        let at = [("problem", row.name)];
        let sampled = |name, ratios| Metric::sampled(name, &at, &self.on, ratios);
        let [eager, others @ ..] = ways else { return Ok(()) };
        if self.plants(&EVERY_LAYER) {
            group.plant(Some(Fault::Repeated { layers }));
            let twice = group.time(0, FEWEST as u32)?;
            group.plant(None);
            recorder.control(EVERY_LAYER.name, self.rate(row, row.precision_name(), &twice));
            if self.plants(&EAGER_OF_TWICE) {
                recorder.control(EAGER_OF_TWICE.name, sampled(BEST, best(&twice, others)));
            }
        }
        for taken in others {
            let quarter = repeated(group, &mut taken.way, layers / 4)?;
            let ratios = bench::ratios(&eager.times, &quarter);
            let control = match taken.name {
                "search" => SEARCH_OF_TWICE,
                "smart" => SMART_OF_TWICE,
                _ => GRAPH_OF_TWICE,
            };
            recorder.control(control.name, sampled(control.trips, ratios));
        }
        Ok(())
    }

    fn write_eight(
        &self,
        row: &Row,
        (times, ways): (&[f64], &[Taken]),
        eight: &mut Group<'_>,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let on = &self.on;
        let at = [("problem", row.name), ("precision", "fp8"), ("way", "search")];
        recorder.metric(Metric::sampled(TIME, &at, on, rounded(times)));
        recorder.metric(self.rate(row, "fp8", times));
        eight.poison()?;
        eight.pass()?;
        let at = [("problem", row.name), ("precision", "fp8")];
        recorder.metric(Metric::exact(INTEGRITY, &at, on, unwritten(eight)? as f64));
        let [eager, search, ..] = ways else { return Ok(()) };
        let at = [("problem", row.name)];
        let over = |under: &[f64]| bench::ratios(&search.times, under);
        recorder.metric(Metric::sampled(SPEEDUP, &at, on, over(times)));
        if row.faults {
            let same = Metric::sampled(SPEEDUP, &at, on, over(&eager.times));
            recorder.control(FP16_FOR_FP8.name, same);
        }
        Ok(())
    }
}

/// Milliseconds of passes in a way whose graph runs its first layers twice. The way is left as it was.
fn repeated(group: &mut Group<'_>, way: &mut Way, layers: u32) -> Result<Vec<f64>, Stop> {
    let mut healthy = group.as_it_is();
    group.exchange(way)?;
    group.exchange(&mut healthy)?;
    group.plant(Some(Fault::Repeated { layers }));
    group.record()?;
    group.plant(None);
    let times = group.time(0, FEWEST as u32)?;
    group.exchange(&mut healthy)?;
    group.exchange(way)?;
    Ok(times)
}

/// Times call by call over the shortest of the others', pass by pass.
fn best(eager: &[f64], others: &[Taken]) -> Vec<f64> {
    let shortest = |at: usize| {
        let times = others.iter().filter_map(|taken| taken.times.get(at).copied());
        times.fold(f64::INFINITY, f64::min)
    };
    bench::ratios(eager, &(0..eager.len()).map(shortest).collect::<Vec<_>>())
}

/// Milliseconds of the searches that make a dear way of a row: a planted fault.
fn searched_again(row: &Row, group: &Group<'_>) -> Result<f64, Stop> {
    let begun = Instant::now();
    for _ in 0..row.dear {
        drop(group.way(bench::CANDIDATES)?);
    }
    Ok(millis(begun.elapsed()))
}

/// Milliseconds to a microsecond.
fn millis(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
