//! The rows of the documents' tables: each way of execution in turn, in one process.

use std::time::Instant;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use harness::statistics::median;
use kernels::device::Gpu;
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Way};
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem};

use super::forward::{FP16_FOR_FP8, KERNELS, SPEEDUP, room};
use super::memory::{self, Before, LAYER_TWICE};
use super::payback::{self, BREAK_EVEN, FIRST_RUN};
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{
    EVERY_LAYER, INTEGRITY, METRIC, NOT_RUN, TIME, rounded, tflops, unwritten,
};

/// The time call by call over the time of the recorded graph, pass by pass.
pub const GRAPH: &str = "graph_speedup_ratio";
/// The time call by call with the heuristic's algorithms over that of a graph with searched ones.
pub const SEARCH: &str = "search_speedup_ratio";
/// The time call by call over that of the fastest other way, pass by pass.
pub const BEST: &str = "best_speedup_ratio";
/// Device memory that a graph takes besides, over what the model takes.
pub const EXTRA: &str = "graph_memory_ratio";

/// The fewest samples that have an interval.
const FEWEST: usize = 6;

/// A workload.
struct Row {
    name: &'static str,
    config: Config,
    problem: Problem,
    passes: usize,
    /// Whether FP8 is measured beside fp16.
    eight: bool,
    /// Whether passes are also taken as a graph of the heuristic's algorithms.
    graph: bool,
    /// Whether faults are planted.
    faults: bool,
    /// Searches more, and [`RECORDINGS`], where a dear way is planted.
    dear: u32,
}

/// Recordings of a pass where a dear graph is planted.
const RECORDINGS: u32 = 256;

const fn row(name: &'static str, batches: u32, tokens: u32) -> Row {
    let passes = FEWEST;
    let problem = Problem { batches, tokens, chunks: 1 };
    let config = Config::SEED_002;
    Row { name, config, problem, passes, eight: true, graph: false, faults: false, dear: 0 }
}

/// 1.2 billion parameters in the linears: 24 layers, 2048 wide.
const SMALL: Config = Config { layers: 24, d_model: 2048, d_ff: 8192, ..Config::SEED_002 };
/// 8.1 billion: 40 layers, 4096 wide.
const MEDIUM: Config = Config { layers: 40, d_model: 4096, d_ff: 16384, ..Config::SEED_002 };

static SMALL_ROWS: [Row; 2] = [
    Row {
        config: SMALL,
        passes: 24,
        eight: false,
        graph: true,
        dear: 39,
        ..row("1b-1x1024", 1, 1024)
    },
    Row {
        config: MEDIUM,
        passes: 8,
        eight: false,
        graph: true,
        faults: true,
        ..row("8b-8x1024", 8, 1024)
    },
];
static ROWS: [Row; 4] = [
    Row { graph: true, faults: true, dear: 2, ..row("8x1024", 8, 1024) },
    Row { graph: true, ..row("4x2048", 4, 2048) },
    Row { graph: true, ..row("2x4096", 2, 4096) },
    Row { graph: true, ..row("1x8192", 1, 8192) },
];
static LONG_ROWS: [Row; 3] = [
    Row { faults: true, ..row("1x12288", 1, 12288) },
    row("2x8192", 2, 8192),
    row("1x16384", 1, 16384),
];

const EAGER_OF_TWICE: Control = Control {
    name: "eager-of-twice",
    fault: "the pass call by call runs every layer twice",
    trips: BEST,
    expect: Expect::Refuted,
};
const GRAPH_OF_TWICE: Control = Control {
    name: "graph-of-twice",
    fault: "what is recorded runs a quarter of the layers twice",
    trips: GRAPH,
    expect: Expect::Refuted,
};
const SEARCH_OF_TWICE: Control = Control {
    name: "search-of-twice",
    fault: "the graph with searched algorithms runs a quarter of the layers twice",
    trips: SEARCH,
    expect: Expect::Refuted,
};
const COPY_BESIDE: Control = Control {
    name: "a-copy-beside",
    fault: "a graph that holds a twentieth of the model's memory besides",
    trips: EXTRA,
    expect: Expect::Refuted,
};
/// Names of what makes a way dear.
const RECORDED_OFTEN: &str = "recorded-256-times";
const SEARCHED_OFTEN: &str = "searched-again";
const DEAR_GRAPH: Control = Control {
    name: RECORDED_OFTEN,
    fault: "the pass is recorded 256 times before its first launch",
    trips: FIRST_RUN,
    expect: Expect::Refuted,
};
const DEAR_SEARCH: Control = Control {
    name: SEARCHED_OFTEN,
    fault: "algorithms are searched three times before the first pass",
    trips: FIRST_RUN,
    expect: Expect::Refuted,
};
const UNPAID_GRAPH: Control = Control { trips: BREAK_EVEN, ..DEAR_GRAPH };
const UNPAID_SEARCH: Control = Control {
    fault: "algorithms are searched 40 times before the first pass",
    trips: BREAK_EVEN,
    ..DEAR_SEARCH
};
const LAYERS_TWICE: Control = Control {
    name: "six-layers-twice-in-memory",
    fault: "the weights of six layers are held twice",
    trips: memory::DRIVER,
    expect: Expect::Refuted,
};
/// Layers that are held twice under it.
const TWICE: u64 = 6;
static SMALL_CONTROLS: [Control; 5] =
    [GRAPH_OF_TWICE, SEARCH_OF_TWICE, UNPAID_GRAPH, UNPAID_SEARCH, NOT_RUN];
static CONTROLS: [Control; 11] = [
    EVERY_LAYER,
    EAGER_OF_TWICE,
    GRAPH_OF_TWICE,
    SEARCH_OF_TWICE,
    FP16_FOR_FP8,
    COPY_BESIDE,
    DEAR_GRAPH,
    DEAR_SEARCH,
    LAYER_TWICE,
    LAYERS_TWICE,
    NOT_RUN,
];
static LONG_CONTROLS: [Control; 6] =
    [EVERY_LAYER, SEARCH_OF_TWICE, FP16_FOR_FP8, LAYER_TWICE, LAYERS_TWICE, NOT_RUN];

macro_rules! procedure {
    ($what:literal, $graph:literal, $eight:literal, $where:literal) => {
        concat!(
            $what,
            ", in fp16: a pass call by call with the algorithms that cuBLASLt's heuristic names first (the \
             documents' eager), ",
            $graph,
            "and a graph with algorithms by trying 16 candidates of each product (their max-autotune)",
            $eight,
            ". Passes are taken in turn, one of each way, behind one of each that does not count. What a way costs \
             before its first pass is the host's time to try candidates and to record and instantiate; what its first \
             launch takes longer is left out. It has paid for itself after that time over what a pass saves, by both \
             ends of the interval of the median of what pairs of passes save; where that interval holds zero, no count \
             is given. Memory is what a model's weights and a row's activations were allocated at once during a pass, \
             and what the driver has less of, beside the closed formula. Faults are planted in ",
            $where,
            ". Nothing here is torch.compile: there is no fusion of code that a compiler finds, since norm, \
             GELU, residual and attention are fused by hand in every way."
        )
    };
}

/// One GPU, 8192 tokens.
pub static CASE: Case = TABLE;
/// One GPU, the smaller models.
pub static SMALL_CASE: Case = Case {
    id: "model::table-small",
    procedure: procedure!(
        "Models of 1.2 and 8.1 billion parameters in the linears",
        "the same recorded as a CUDA graph (their reduce-overhead), ",
        "",
        "8b-8x1024"
    ),
    expected_s: 18.0,
    deadline_s: 300.0,
    controls: &SMALL_CONTROLS,
    run: |assignment, recorder| run(&SMALL_ROWS, &SMALL_CONTROLS, assignment, recorder),
    ..TABLE
};
/// One GPU, 12288 and 16384 tokens.
pub static LONG_CASE: Case = Case {
    id: "model::table-long",
    procedure: procedure!(
        "The workloads of 12288 and 16384 tokens of 002's tables",
        "",
        "; then FP8 W8A8 as such a graph",
        "1x12288"
    ),
    expected_s: 185.0,
    deadline_s: 400.0,
    controls: &LONG_CONTROLS,
    run: |assignment, recorder| run(&LONG_ROWS, &LONG_CONTROLS, assignment, recorder),
    ..TABLE
};

const TABLE: Case = Case {
    id: "model::table",
    revision: 2,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: procedure!(
        "The workloads of 8192 tokens of 002's tables",
        "the same recorded as a CUDA graph (their reduce-overhead), ",
        "; then FP8 W8A8 as such a graph",
        "8x1024"
    ),
    samples: FEWEST,
    expected_s: 180.0,
    deadline_s: 500.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run: |assignment, recorder| run(&ROWS, &CONTROLS, assignment, recorder),
};

fn run(
    rows: &[Row],
    controls: &'static [Control],
    assignment: &Assignment,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        let beside = TWICE * of_a_layer(&Config::SEED_002);
        room(gpu, most(rows, Precision::F16) + most(rows, Precision::E4m3) + beside)?;
        let on = [index];
        let mut models = Models { bench: &bench, gpu, on, assignment, controls, held: Vec::new() };
        for row in rows {
            recorder.progress(row.name);
            models.row(row, recorder)?;
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

/// Bytes of the largest of the rows in a precision.
fn most(rows: &[Row], precision: Precision) -> u64 {
    let measured = rows.iter().filter(|row| row.eight || !precision.is_fp8());
    let bytes = |row: &Row| memory::formula(&Config { precision, ..row.config }, &row.problem);
    measured.map(bytes).max().unwrap_or(0)
}

/// Bytes of a layer's weights.
fn of_a_layer(config: &Config) -> u64 {
    config.weight_bytes(1) / u64::from(config.layers)
}

/// A model, and what its weights took.
struct Held<'a> {
    config: Config,
    group: Group<'a>,
    weights: memory::Taken,
}

/// Models whose weights are kept from row to row.
struct Models<'a> {
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

    fn row(&mut self, row: &Row, recorder: &mut Recorder) -> Result<(), Stop> {
        let seed = self.assignment.seed;
        let config = Config { seed, precision: Precision::F16, ..row.config };
        let tokens = bench::tokens(&config, &row.problem, seed);
        let mut held = self.take(config)?;
        let memory = Memory { config, weights: held.weights, before: Before::now(self.gpu)? };
        let sixteen = &mut held.group;
        sixteen.set(row.problem, 1)?;
        self.gpu.ledger().reset_peak();
        sixteen.set_tokens(&tokens)?;
        let mut ways = self.ways(row, (sixteen, &memory), recorder)?;
        let mut eight = Vec::new();
        if row.eight {
            let config = Config { precision: Precision::E4m3, ..config };
            eight.push((self.eight(row, (config, &tokens), recorder)?, Vec::new()));
        }
        for _ in 0..self.assignment.samples(row.passes) {
            for taken in &mut ways {
                sixteen.exchange(&mut taken.way)?;
                taken.times.extend(sixteen.time(0, 1)?);
                sixteen.exchange(&mut taken.way)?;
            }
            for (eight, times) in &mut eight {
                times.extend(eight.group.time(0, 1)?);
            }
        }
        self.write(row, &ways, recorder);
        self.write_costs(row, &ways, recorder);
        self.looked_at(row, sixteen, &mut ways, recorder)?;
        if row.faults {
            self.planted(row, sixteen, &mut ways, recorder)?;
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
        self.peak(row, ("fp16", "eager"), memory, recorder)?;
        let graph = match row.graph {
            true => Some(self.recorded(row, group, recorder)?),
            false => None,
        };
        let search = self.searched(row, group, recorder)?;
        self.peak(row, ("fp16", "search"), memory, recorder)?;
        let eager = group.as_it_is();
        let mut ways =
            vec![Taken { name: "eager", way: eager, times: Vec::new(), cost: 0.0, dear: None }];
        ways.push(search);
        ways.extend(graph);
        Ok(ways)
    }

    /// A pass as a graph with searched algorithms. The group is left as it was.
    fn searched(
        &self,
        row: &Row,
        group: &mut Group<'_>,
        recorder: &mut Recorder,
    ) -> Result<Taken, Stop> {
        let begun = Instant::now();
        let mut way = group.way(bench::CANDIDATES)?;
        let searched = millis(begun.elapsed());
        recorder.option(&format!("algorithms of {} searched in, ms", row.name), searched);
        let begun = Instant::now();
        for _ in 0..row.dear {
            drop(group.way(bench::CANDIDATES)?);
        }
        let again = millis(begun.elapsed());
        // What was tried beside is gone.
        self.gpu.ledger().reset_peak();
        group.exchange(&mut way)?;
        bench::write_choices(recorder, row.name, group)?;
        group.time(1, 0)?;
        let begun = Instant::now();
        group.record()?;
        let cost = searched + millis(begun.elapsed());
        group.time(1, 0)?;
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
        let at = [("problem", row.name)];
        let mut way = group.as_it_is();
        let before = Before::now(self.gpu)?;
        let begun = Instant::now();
        group.record()?;
        let cost = millis(begun.elapsed());
        recorder.option(&format!("graph of {} recorded in, ms", row.name), cost);
        group.time(1, 0)?;
        let model = memory::formula(&row.config, &row.problem) as f64;
        let ratio = || -> Result<Metric, Stop> {
            let extra = before.taken(self.gpu)?.driver as f64;
            Ok(Metric::exact(EXTRA, &at, &self.on, extra / model))
        };
        recorder.metric(ratio()?);
        if self.plants(&COPY_BESIDE) {
            let beside = self.gpu.alloc((model / 20.0) as u64)?;
            recorder.control(COPY_BESIDE.name, ratio()?);
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
            let at = [("problem", row.name), ("precision", "fp16"), ("way", taken.name)];
            recorder.metric(Metric::sampled(TIME, &at, on, rounded(&taken.times)));
        }
        let at = [("problem", row.name)];
        let [eager, others @ ..] = ways else { return };
        let [search, graph @ ..] = others else { return };
        let over = |under: &Taken| bench::ratios(&eager.times, &under.times);
        recorder.metric(Metric::sampled(SEARCH, &at, on, over(search)));
        recorder.metric(self.rate(row, "fp16", &search.times));
        for graph in graph {
            recorder.metric(Metric::sampled(GRAPH, &at, on, over(graph)));
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
            let fault = if *name == "search" { SEARCHED_OFTEN } else { RECORDED_OFTEN };
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
        for taken in ways {
            group.exchange(&mut taken.way)?;
            group.poison()?;
            group.pass()?;
            let wrong = unwritten(group)?;
            let found = group.fingerprint()?;
            group.exchange(&mut taken.way)?;
            let apart = u64::from(wanted.get_or_insert_with(|| found.clone()) != &found);
            let at = [("problem", row.name), ("way", taken.name)];
            recorder.metric(Metric::exact(INTEGRITY, &at, &self.on, (wrong + apart) as f64));
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

    /// Faults of the fp16 passes.
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
            recorder.control(EVERY_LAYER.name, self.rate(row, "fp16", &twice));
            if self.plants(&EAGER_OF_TWICE) {
                recorder.control(EAGER_OF_TWICE.name, sampled(BEST, best(&twice, others)));
            }
        }
        for taken in others {
            let quarter = repeated(group, &mut taken.way, layers / 4)?;
            let ratios = bench::ratios(&eager.times, &quarter);
            let control = match taken.name {
                "search" => SEARCH_OF_TWICE,
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

/// Milliseconds to a microsecond.
fn millis(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dear_ways_are_as_often_made_ready_as_their_controls_say() {
        assert!(UNPAID_SEARCH.fault.contains(&format!("{} times", SMALL_ROWS[0].dear + 1)));
        assert_eq!((ROWS[0].dear, RECORDINGS), (2, 256));
        assert!(DEAR_SEARCH.fault.contains("three times"));
        assert!(RECORDED_OFTEN.contains(&RECORDINGS.to_string()));
    }

    /// The bounds of golden/documented.toml, 0.001 and 0.03 of the whole.
    #[test]
    fn layers_held_twice_are_more_than_the_bounds_in_every_row() {
        for row in ROWS.iter().chain(&LONG_ROWS) {
            for precision in [Precision::F16, Precision::E4m3] {
                let config = Config { precision, ..row.config };
                let layer = of_a_layer(&config) as f64;
                let all = memory::formula(&config, &row.problem) as f64;
                assert!(layer / all > 0.015 && TWICE as f64 * layer / all > 0.09);
            }
        }
    }
}
