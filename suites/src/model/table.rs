//! The rows of the documents' tables: each way of execution in turn, in one process. [`ways`]: a row.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::{Config, Precision, Problem};

use super::forward::{FLIPPED_BIT, FP16_FOR_FP8, KERNELS, room};
use super::memory::{self, LAYER_TWICE};
use super::payback::{BREAK_EVEN, FIRST_RUN};
use crate::tensor_parallel::bench::Bench;
use crate::tensor_parallel::rates::{EVERY_LAYER, INTEGRITY, NOT_RUN};

mod ways;

use ways::Models;

/// The time call by call over the time of the recorded graph, pass by pass.
pub const GRAPH: &str = "graph_speedup_ratio";
/// The time call by call with the heuristic's algorithms over that of a graph with searched ones.
pub const SEARCH: &str = "search_speedup_ratio";
/// The time call by call over that of the fastest other way, pass by pass.
pub const BEST: &str = "best_speedup_ratio";
/// The time call by call over that of what the smart way makes ready, pass by pass.
pub const SMART: &str = "smart_speedup_ratio";
/// Device memory that a graph takes besides, over what the model takes.
pub const EXTRA: &str = "graph_memory_ratio";

/// The fewest samples that have an interval.
const FEWEST: usize = 6;

/// A workload.
struct Row {
    name: &'static str,
    config: Config,
    problem: Problem,
    /// Of the ways.
    precision: Precision,
    passes: usize,
    /// Whether FP8 is measured beside fp16.
    eight: bool,
    /// Whether passes are also taken as a graph of the heuristic's algorithms.
    graph: bool,
    /// Whether passes are also taken as the smart way makes them ready, and what memory each way takes is measured.
    smart: bool,
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
    let precision = Precision::F16;
    Row {
        name,
        config,
        problem,
        precision,
        passes,
        eight: true,
        graph: false,
        smart: false,
        faults: false,
        dear: 0,
    }
}

/// The same in FP8, call by call, as a graph and with searched algorithms, and nothing beside it.
const fn in_eight(row: Row) -> Row {
    Row { precision: Precision::E4m3, eight: false, graph: true, ..row }
}

/// The same in a precision in every way of execution, the smart one too, and nothing beside it.
const fn in_every_way(precision: Precision, row: Row) -> Row {
    Row { precision, eight: false, graph: true, smart: true, ..row }
}

impl Row {
    /// Of the ways' precision, in evidence.
    fn precision_name(&self) -> &'static str {
        match self.precision {
            Precision::Bf16 => "bf16",
            Precision::WeightsE4m3 => "w8a16",
            precision if precision.is_fp8() => "fp8",
            _ => "fp16",
        }
    }
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
static EIGHT_SMALL_ROWS: [Row; 2] = [
    Row { config: SMALL, passes: 24, dear: 1, ..in_eight(row("1b-1x1024", 1, 1024)) },
    Row { config: MEDIUM, passes: 16, faults: true, ..in_eight(row("8b-8x1024", 8, 1024)) },
];
static EIGHT_ROWS: [Row; 1] = [Row { faults: true, dear: 1, ..in_eight(row("8x1024", 8, 1024)) }];
static LONG_ROWS: [Row; 3] = [
    Row { faults: true, ..row("1x12288", 1, 12288) },
    row("2x8192", 2, 8192),
    row("1x16384", 1, 16384),
];
static OTHER_ROWS: [Row; 2] = [
    Row { dear: 3, ..in_every_way(Precision::Bf16, row("2x1024-bf16", 2, 1024)) },
    Row { faults: true, ..in_every_way(Precision::WeightsE4m3, row("2x1024-w8a16", 2, 1024)) },
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
const SMART_OF_TWICE: Control = Control {
    name: "smart-of-twice",
    fault: "what the smart way records runs a quarter of the layers twice",
    trips: SMART,
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
const DEARER_SEARCH: Control =
    Control { fault: "algorithms are searched four times before the first pass", ..DEAR_SEARCH };
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
// The fewer candidates a product has, the less a search takes, and cuBLASLt names one alone for E4M3 with scales of rows: no
// search is planted.
static EIGHT_SMALL_CONTROLS: [Control; 5] =
    [GRAPH_OF_TWICE, SEARCH_OF_TWICE, UNPAID_GRAPH, FLIPPED_BIT, NOT_RUN];
static EIGHT_CONTROLS: [Control; 6] =
    [GRAPH_OF_TWICE, SEARCH_OF_TWICE, COPY_BESIDE, DEAR_GRAPH, FLIPPED_BIT, NOT_RUN];
static OTHER_CONTROLS: [Control; 8] = [
    GRAPH_OF_TWICE,
    SEARCH_OF_TWICE,
    SMART_OF_TWICE,
    COPY_BESIDE,
    DEAR_GRAPH,
    DEARER_SEARCH,
    FLIPPED_BIT,
    NOT_RUN,
];
static LONG_CONTROLS: [Control; 6] =
    [EVERY_LAYER, SEARCH_OF_TWICE, FP16_FOR_FP8, LAYER_TWICE, LAYERS_TWICE, NOT_RUN];

macro_rules! procedure {
    ($what:literal, $precision:literal, $graph:literal, $eight:literal, $where:literal) => {
        concat!(
            $what,
            ", in ",
            $precision,
            ": a pass call by call with the algorithms that cuBLASLt's heuristic names first (the \
             documents' eager), ",
            $graph,
            "and a graph with algorithms by trying up to 16 candidates of each product (their max-autotune)",
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
        "fp16",
        "the same recorded as a CUDA graph (their reduce-overhead), ",
        "",
        "8b-8x1024, dear ways in 1b-1x1024"
    ),
    expected_s: 18.0,
    deadline_s: 300.0,
    controls: &SMALL_CONTROLS,
    run: |assignment, recorder| run(&SMALL_ROWS, &SMALL_CONTROLS, assignment, recorder),
    ..TABLE
};
/// One GPU, the smaller models in FP8.
pub static EIGHT_SMALL_CASE: Case = Case {
    id: "model::table-small-fp8",
    revision: 1,
    procedure: procedure!(
        "Models of 1.2 and 8.1 billion parameters in the linears",
        "FP8 W8A8",
        "the same recorded as a CUDA graph (their reduce-overhead), ",
        ", of which cuBLASLt may name one alone. Residual stream and logits of the three are compared by their hashes",
        "8b-8x1024, dear ways in 1b-1x1024"
    ),
    expected_s: 13.0,
    deadline_s: 300.0,
    controls: &EIGHT_SMALL_CONTROLS,
    run: |assignment, recorder| run(&EIGHT_SMALL_ROWS, &EIGHT_SMALL_CONTROLS, assignment, recorder),
    ..TABLE
};
/// One GPU, 8192 tokens in FP8.
pub static EIGHT_CASE: Case = Case {
    id: "model::table-fp8",
    revision: 1,
    procedure: procedure!(
        "The workload 8x1024 of 002's tables",
        "FP8 W8A8",
        "the same recorded as a CUDA graph (their reduce-overhead), ",
        ", of which cuBLASLt may name one alone. Residual stream and logits of the three are compared by their hashes",
        "it"
    ),
    expected_s: 30.0,
    deadline_s: 300.0,
    controls: &EIGHT_CONTROLS,
    run: |assignment, recorder| run(&EIGHT_ROWS, &EIGHT_CONTROLS, assignment, recorder),
    ..TABLE
};
/// One GPU, bf16 and W8A16.
pub static OTHER_CASE: Case = Case {
    id: "model::ways-bf16-w8a16",
    revision: 1,
    figures_since: 1,
    procedure: procedure!(
        "Two sequences of 1024 tokens through the 48-layer model of seed 002",
        "bf16, and then with weights alone in E4M3 (W8A16)",
        "the same recorded as a CUDA graph (their reduce-overhead), what `measure model --exec-mode smart` makes ready \
         with a budget of 600 s, ",
        ". Residual stream and logits of the four are compared by their hashes. What the driver has less of once a way \
         is ready stands beside what the model takes",
        "2x1024-w8a16, dear ways in 2x1024-bf16, a copy beside a graph in both"
    ),
    expected_s: 36.0,
    deadline_s: 300.0,
    kernels: &[
        "model",
        "model-bf16",
        "operands",
        "pattern",
        "timing",
        "quantise",
        "dequantise_rows",
    ],
    controls: &OTHER_CONTROLS,
    run: |assignment, recorder| run(&OTHER_ROWS, &OTHER_CONTROLS, assignment, recorder),
    ..TABLE
};
/// One GPU, 12288 and 16384 tokens.
pub static LONG_CASE: Case = Case {
    id: "model::table-long",
    procedure: procedure!(
        "The workloads of 12288 and 16384 tokens of 002's tables",
        "fp16",
        "",
        "; then FP8 W8A8 as such a graph",
        "1x12288, of memory in every row"
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
        "fp16",
        "the same recorded as a CUDA graph (their reduce-overhead), ",
        "; then FP8 W8A8 as such a graph",
        "8x1024, of memory in every row"
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
    let mut bench = Bench::open(assignment, recorder)?;
    if rows.iter().any(|row| row.precision == Precision::Bf16) {
        bench.load_bf16(recorder)?;
    }
    if rows.iter().any(|row| row.precision == Precision::WeightsE4m3) {
        bench.load_widener(recorder)?;
    }
    {
        let (gpu, index) = bench.lab.only()?;
        let beside = TWICE * of_a_layer(&Config::SEED_002);
        room(gpu, most(rows) + beside)?;
        let on = [index];
        let mut models = Models::new((&bench, gpu, on), assignment, controls);
        for row in rows {
            recorder.progress(row.name);
            models.row(row, recorder)?;
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

/// Bytes of the largest of the rows, and of the largest in FP8 beside.
fn most(rows: &[Row]) -> u64 {
    let bytes =
        |precision, row: &Row| memory::formula(&Config { precision, ..row.config }, &row.problem);
    let ways = rows.iter().map(|row| bytes(row.precision, row)).max();
    let beside = rows.iter().filter(|row| row.eight);
    let beside = beside.map(|row| bytes(Precision::E4m3, row)).max();
    ways.unwrap_or(0) + beside.unwrap_or(0)
}

/// Bytes of a layer's weights.
fn of_a_layer(config: &Config) -> u64 {
    config.weight_bytes(1) / u64::from(config.layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dear_ways_are_as_often_made_ready_as_their_controls_say() {
        assert!(UNPAID_SEARCH.fault.contains(&format!("{} times", SMALL_ROWS[0].dear + 1)));
        assert_eq!((ROWS[0].dear, RECORDINGS), (2, 256));
        assert!(DEAR_SEARCH.fault.contains("three times"));
        assert!(EIGHT_SMALL_ROWS[0].dear > 0 && EIGHT_ROWS[0].dear > 0);
        assert!(DEARER_SEARCH.fault.contains("four times") && OTHER_ROWS[0].dear == 3);
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
