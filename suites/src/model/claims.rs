//! The claims of the suite.

use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};

use super::{
    bf16, cached, decode, eight, every, forward, hangs, long, memory, payback, peak_drop, promoted,
    rival, smart, table, weight_only, weight_only_pass,
};
use crate::tensor_parallel::rival::METRIC as OVER_PYTORCH;
use crate::tensor_parallel::{oracle, rates};

const LARGE: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "Benchmark Configuration",
    printed: "Architecture: 48 layers, d_model=8192, n_heads=64, d_ff=32768; weights occupy ~79 GB",
    board: "B200",
};
const MEASURED: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "Measured Results",
    printed: "Eager and compiled latency, speedup, throughput and peak memory of each workload.",
    board: "B200",
};
const STATE: Source = Source {
    printed: "Activation tensors stay small (~0.13 GB), but transformer state reaches ~160 GB.",
    ..MEASURED
};
const OVERHEAD: Source = Source {
    printed: "Batch=1, Seq=8192, eager 576.05 ms, compiled 708.02 ms, speedup 0.81x (reduce-overhead)",
    ..MEASURED
};
const BOUND: Source = Source {
    printed: "Long contexts keep the workload memory-bound; `torch.compile` fusion alone does not overcome the HBM ceiling.",
    ..MEASURED
};
const FP8: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "FP8 weight-only",
    printed: "staying within ~1-2% of FP16 throughput up to 4K tokens",
    board: "B200",
};
const MEMORY: Source = Source {
    printed: "Peak memory drops by ~35% relative to FP16 weights (80.6 GB -> 41.8 GB for 2-4K token runs)",
    ..FP8
};
const CLASSES: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "torch.compile",
    printed: "Small models (1B): 1.02x; medium models (8B): 1.00x; large models (40B+): 0.98x",
    board: "8x B200",
};
const LONG: Source = Source {
    document: "004-llm-validation-checklist.md",
    section: "Long-Context & FP8 Validation",
    printed: "32K+ tokens, FP8: verify no OOM",
    board: "8x B200",
};
const HANGS: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "torch.compile",
    printed: "Large models (40B+): Compilation hangs indefinitely",
    board: "8x B200",
};
const REPRO: Source = Source {
    document: "004-llm-validation-checklist.md",
    section: "2. torch.compile Hang Investigation (40B+)",
    printed: "Reproduce with and without `--compile-mode smart` on the 40B checkpoint; collect stdout/stderr logs and \
              attach to the repro bundle",
    board: "8x B200",
};
const OWN: Source = Source {
    document: "touchstone",
    section: "model",
    printed: "what the tables stand on",
    board: "",
};
const PYTORCH: Source = Source {
    document: "touchstone",
    section: "rivals",
    printed: "what an operator would run instead: a compiled PyTorch",
    board: "",
};

type At = &'static [(&'static str, &'static str)];
type Place = (&'static str, &'static str, At);

const fn claim(id: &'static str, text: &'static str, source: Source, place: Place) -> Claim {
    Claim {
        id,
        text,
        source,
        relation: Relation::Holds,
        case: place.0,
        metric: place.1,
        at: place.2,
        reduce: Reduce::Worst,
        ceiling: None,
        gpus: GpuCount::AtLeast(1),
        kind: Kind::Claim,
    }
}

const fn at_most(id: &'static str, text: &'static str, source: Source, place: Place) -> Claim {
    Claim { relation: Relation::AtMost, ..claim(id, text, source, place) }
}

const fn at_least(id: &'static str, text: &'static str, source: Source, place: Place) -> Claim {
    Claim { relation: Relation::AtLeast, ..claim(id, text, source, place) }
}

const fn sheet(precision: &'static str) -> Option<&'static str> {
    match precision.as_bytes() {
        b"fp16" | b"bf16" => Some("fp16_sheet_tflops"),
        _ => Some("fp8_sheet_tflops"),
    }
}

/// One row of a table in one way.
macro_rules! row {
    (graph $case:expr, $row:literal, $source:expr) => {
        &at_least(
            concat!("model::graph-", $row),
            "A pass as a CUDA graph is at most 5 % slower than call by call.",
            $source,
            ($case.id, table::GRAPH, &[("problem", $row)]),
        )
    };
    (graph_eight $case:expr, $row:literal, $source:expr) => {
        &at_least(
            concat!("model::graph-", $row, "-fp8"),
            "In FP8 W8A8 a pass as a CUDA graph is at most 5 % slower than call by call.",
            $source,
            ($case.id, table::GRAPH, &[("problem", $row)]),
        )
    };
    (search_eight $case:expr, $row:literal, $source:expr) => {
        &at_least(
            concat!("model::search-", $row, "-fp8"),
            "In FP8 W8A8 a graph with searched algorithms is at most 5 % slower than call by call with the heuristic's.",
            $source,
            ($case.id, table::SEARCH, &[("problem", $row)]),
        )
    };
    (in_precision $way:literal, $metric:expr, $text:literal, $precision:literal) => {
        &at_least(
            concat!("model::", $way, "-2x1024-", $precision),
            $text,
            OWN,
            (table::OTHER_CASE.id, $metric, &[("problem", concat!("2x1024-", $precision))]),
        )
    };
    (search $case:expr, $row:literal, $source:expr) => {
        &at_least(
            concat!("model::search-", $row),
            "A graph with searched algorithms is at most 5 % slower than call by call with the heuristic's.",
            $source,
            ($case.id, table::SEARCH, &[("problem", $row)]),
        )
    };
    (rate $case:expr, $row:literal, $precision:literal, $source:expr) => {
        &Claim {
            ceiling: sheet($precision),
            ..at_least(
                concat!("model::rate-", $row, "-", $precision),
                "The 48-layer model runs over this workload at the documented share of the sheet's rate, as a graph with searched algorithms.",
                $source,
                (
                    $case.id,
                    rates::METRIC,
                    &[("precision", $precision), ("problem", $row)],
                ),
            )
        }
    };
    (peak $case:expr, $row:literal, $precision:literal, $source:expr) => {
        &at_most(
            concat!("model::peak-", $row, "-", $precision),
            "What the driver has less of in passes over this workload, weights and activations together, is within 3 % \
             of what a closed formula of the model's sizes says.",
            $source,
            (
                $case.id,
                memory::DRIVER,
                &[("precision", $precision), ("problem", $row)],
            ),
        )
    };
    (speedup $case:expr, $row:literal) => {
        &at_least(
            concat!("model::fp8-speedup-", $row),
            "FP8 W8A8, quantisation included, is faster than fp16 over this workload.",
            FP8,
            ($case.id, forward::SPEEDUP, &[("problem", $row)]),
        )
    };
}

/// One long sequence in one precision.
macro_rules! long {
    (fits $name:literal, $tokens:literal, $precision:literal) => {
        &at_most(
            concat!("model::fits-", $name, "-", $precision),
            "A sequence of this length runs through the 48-layer model on one GPU, its logits finite, in \
             no more memory than 002's rows extrapolate to.",
            LONG,
            (long::CASE.id, rates::MEMORY, &[("precision", $precision), ("tokens", $tokens)]),
        )
    };
    (right $name:literal, $tokens:literal, $precision:literal) => {
        &at_most(
            concat!("model::right-", $name, "-", $precision),
            "Sampled elements of rows of the first, a middle and the last layer err by at most 4 % of a stage's size at every stage of a pass of this length.",
            LONG,
            (long::CASE.id, long::ERROR, &[("precision", $precision), ("tokens", $tokens)]),
        )
    };
    (shorter $name:literal, $tokens:literal, $precision:literal) => {
        &Claim {
            case: long::FROM_8K_CASE.id,
            ..*long!(right $name, $tokens, $precision)
        }
    };
}

/// Token by token behind one context.
macro_rules! decode {
    (rate $case:expr, $id:literal, $context:literal, $precision:literal) => {
        &Claim {
            ceiling: Some("hbm_gbps"),
            ..at_least(
                $id,
                "Decoding with a cache of keys and values of this length takes no longer than reading weights and cache once at \
                 the documented share of the memory's rate.",
                LONG,
                ($case, decode::RATE, &[("precision", $precision), ("context", $context)]),
            )
        }
    };
    (right $case:expr, $id:literal, $context:literal, $precision:literal) => {
        &at_most(
            $id,
            "The last of eight tokens decoded over a cache of keys and values has the logits of a whole pass, within the documented root mean square.",
            LONG,
            ($case, decode::ERROR, &[("precision", $precision), ("context", $context)]),
        )
    };
}

/// Token by token over a cache in E4M3.
macro_rules! cached {
    (rate $id:literal, $context:literal, $precision:literal) => {
        &Claim {
            ceiling: Some("hbm_gbps"),
            ..at_least(
                $id,
                "Decoding with a cache of keys and values in E4M3 of this length takes no longer than reading weights and \
                 cache once at the documented share of the memory's rate.",
                LONG,
                (
                    cached::CASE.id,
                    decode::RATE,
                    &[("precision", $precision), ("context", $context)],
                ),
            )
        }
    };
    (right $id:literal, $precision:literal) => {
        &at_most(
            $id,
            "The last of eight tokens decoded over a cache in E4M3 has the logits of one over a cache in fp16 within \
             12 %, behind 56, 2048 and 32768 tokens.",
            LONG,
            (cached::CASE.id, cached::ERROR, &[("precision", $precision)]),
        )
    };
    (bits $id:literal, $part:literal, $text:literal) => {
        &claim($id, $text, OWN, (cached::CASE.id, cached::BITS, &[("part", $part)]))
    };
}

/// Beside PyTorch, one workload.
macro_rules! beside {
    ($case:expr, $name:literal, $precision:literal, $problem:literal $(, $how:literal)?) => {
        &at_least(
            concat!("model::", $name, "-vs-pytorch"),
            concat!(
                "A pass ",
                $($how,)?
                "takes at most 5 % longer than that of PyTorch, compiled in torch.compile's default mode, with cuDNN \
                 attention on the same GPU."
            ),
            PYTORCH,
            ($case.id, OVER_PYTORCH, &[("precision", $precision), ("problem", $problem)]),
        )
    };
}

/// In checklist order.
pub static CLAIMS: &[&Claim] = &[
    &at_most(
        "model::memory-fp16",
        "A pass over 8192 tokens in fp16 takes no more memory, weights and activations together, than 002 printed.",
        LARGE,
        (forward::CASE.id, rates::MEMORY, &[("precision", "fp16")]),
    ),
    &at_most(
        "model::memory-fp8",
        "A pass over 8192 tokens in FP8 takes no more memory, weights and activations together, than 002 printed.",
        FP8,
        (forward::CASE.id, rates::MEMORY, &[("precision", "fp8")]),
    ),
    &at_least(
        "model::fp8-peak-drop",
        "A pass of the 48-layer model over 8192 tokens allocates at its peak 48 % less memory with its linears in FP8 than in fp16.",
        MEMORY,
        (peak_drop::CASE.id, peak_drop::DROP, &[("by", "allocated")]),
    ),
    &Claim {
        kind: Kind::FalseRecord,
        ..at_least(
            "model::fp8-peak-drop-35-percent-is-false",
            "FP8 drops the peak memory that the driver gives a pass over 8192 tokens by about 35 %.",
            MEMORY,
            (peak_drop::CASE.id, peak_drop::DROP, &[("by", "driver")]),
        )
    },
    &Claim {
        kind: Kind::FalseRecord,
        ..at_most(
            "model::fp8-frees-35-percent-of-hbm-is-false",
            "FP8 frees more than 35 % of the device's memory.",
            Source {
                section: "Interpretation",
                printed: "Fused FP8 weight-only storage frees >35% of HBM",
                ..MEMORY
            },
            (peak_drop::CASE.id, peak_drop::FREED, &[]),
        )
    },
    &Claim {
        kind: Kind::FalseRecord,
        ..at_least(
            "model::activations-of-130-mb-is-false",
            "What a pass over 8192 tokens takes beside its weights stays small, about 0.13 GB.",
            STATE,
            (peak_drop::CASE.id, peak_drop::ACTIVATIONS, &[]),
        )
    },
    &at_most(
        "model::memory-by-formula",
        "What a model allocates at 8192 tokens is what a closed formula of its sizes says, to a thousandth.",
        OWN,
        (forward::CASE.id, memory::FORMULA, &[]),
    ),
    &at_most(
        "model::memory-by-driver",
        "What the driver has less of at 8192 tokens is what the formula says, to the documented share of it.",
        OWN,
        (forward::CASE.id, memory::DRIVER, &[]),
    ),
    &at_most(
        "model::activations-by-formula",
        "What a model allocates beside its weights at 8192 tokens is what the formula says, to 3 %.",
        OWN,
        (forward::CASE.id, memory::ACTIVATIONS, &[]),
    ),
    &at_most(
        "model::memory-by-nvml",
        "What NVML says is used more at 8192 tokens is what the formula says, to the documented share of it.",
        OWN,
        (forward::CASE.id, memory::NVML, &[]),
    ),
    &at_most(
        "model::chunked-memory",
        "Attention and MLP in four chunks take at least a fifth less memory for activations.",
        OWN,
        (forward::CASE.id, forward::CHUNKED, &[]),
    ),
    &claim(
        "model::chunked-keeps-bits",
        "Attention and MLP in four chunks give the same bits.",
        OWN,
        (forward::CASE.id, forward::BITS, &[("way", "four-chunks")]),
    ),
    &claim(
        "model::chunked-logits-keep-bits",
        "Logits of all 32768 tokens, made 1024 tokens at a time, have the bits of those made at once, in fp16 and FP8.",
        OWN,
        (every::CASE.id, every::APART, &[("way", "1024")]),
    ),
    &claim(
        "model::few-logits-keep-bits",
        "Logits of 768 tokens, made 24 at a time, have the bits of those made 32768 at once, in fp16 and FP8.",
        OWN,
        (every::CASE.id, every::APART, &[("way", "24")]),
    ),
    &claim(
        "model::last-logits-among-all",
        "Logits that a pass makes of its last token alone have the bits of that token's among those of all 32768.",
        OWN,
        (every::CASE.id, every::APART, &[("way", "last-token")]),
    ),
    &at_most(
        "model::chunked-logits-memory",
        "Logits of 32768 tokens, made 1024 tokens at a time, take at most a thirtieth of the memory that they take at once.",
        OWN,
        (every::CASE.id, every::MEMORY, &[]),
    ),
    &claim(
        "model::run-to-run",
        "A pass call by call gives the same bits again.",
        OWN,
        (forward::CASE.id, forward::BITS, &[("way", "again")]),
    ),
    &claim(
        "model::graph-keeps-bits",
        "A pass as a CUDA graph gives the bits of the pass call by call.",
        MEASURED,
        (forward::CASE.id, forward::BITS, &[("way", "graph")]),
    ),
    &claim(
        "model::bf16-keeps-bits",
        "A pass in bf16 gives the same bits again, with the heuristic's algorithms, and as a CUDA graph.",
        MEASURED,
        (bf16::MODES_CASE.id, forward::BITS, &[]),
    ),
    &claim(
        "model::algorithms-keep-bits",
        "The heuristic's algorithms give the bits of the searched ones.",
        MEASURED,
        (forward::CASE.id, forward::BITS, &[("way", "heuristic")]),
    ),
    &Claim {
        ceiling: sheet("fp16"),
        ..at_least(
            "model::rate-fp16",
            "The 48-layer model has the documented share of the sheet's rate over 8192 tokens in fp16.",
            MEASURED,
            (forward::CASE.id, rates::METRIC, &[("precision", "fp16")]),
        )
    },
    &Claim {
        ceiling: sheet("fp8"),
        ..at_least(
            "model::rate-fp8",
            "The 48-layer model has the documented share of the sheet's rate over 8192 tokens in FP8 with precise accumulation.",
            FP8,
            (forward::CASE.id, rates::METRIC, &[("precision", "fp8")]),
        )
    },
    &Claim {
        ceiling: sheet("fp8"),
        ..at_least(
            "model::rate-fp8-fast",
            "The 48-layer model has the documented share of the sheet's rate over 8192 tokens in FP8 with fast accumulation.",
            FP8,
            (forward::CASE.id, rates::METRIC, &[("precision", "fp8-fast")]),
        )
    },
    &at_least(
        "model::fp8-speedup",
        "FP8 W8A8 with precise accumulation, quantisation included, is half again as fast as fp16 over 8192 tokens.",
        FP8,
        (forward::CASE.id, forward::SPEEDUP, &[]),
    ),
    &at_least(
        "model::fp8-own-speedup",
        "FP8 W8A8 by the own products, quantisation included, is half again as fast as fp16 over 8192 tokens.",
        FP8,
        (promoted::CASE.id, forward::SPEEDUP, &[]),
    ),
    &at_least(
        "model::fp8-own-vs-cublaslt",
        "A pass over 8192 tokens in FP8 takes no longer by the own products than by cuBLASLt's with precise accumulation.",
        OWN,
        (promoted::LIBRARY_CASE.id, promoted::OVER_LIBRARY, &[]),
    ),
    &at_most(
        "model::fp8-own-right",
        "A small model's logits in FP8 by the own products differ from those of the whole in f64 on the same codes by at most 8 % by root mean square.",
        OWN,
        (promoted::CASE.id, promoted::ERROR, &[]),
    ),
    &claim(
        "model::fp8-own-keeps-bits",
        "A pass in FP8 by the own products gives the same bits again, as a CUDA graph, and in four chunks.",
        OWN,
        (promoted::CASE.id, forward::BITS, &[]),
    ),
    &Claim {
        kind: Kind::FalseRecord,
        ..at_least(
            "model::fp8-within-2-percent-is-false",
            "FP8 has only the throughput of FP16.",
            FP8,
            (forward::CASE.id, forward::SPEEDUP, &[]),
        )
    },
    &Claim {
        kind: Kind::FalseRecord,
        ..at_most(
            "model::state-of-160-gb-is-false",
            "The model's state reaches 160 GB.",
            STATE,
            (forward::CASE.id, rates::MEMORY, &[("precision", "fp16")]),
        )
    },
    &Claim {
        kind: Kind::FalseRecord,
        ceiling: sheet("fp16"),
        ..at_least(
            "model::memory-bound-is-false",
            "A pass over 16384 tokens waits for memory most of its time.",
            BOUND,
            (table::LONG_CASE.id, rates::METRIC, &[("precision", "fp16"), ("problem", "1x16384")]),
        )
    },
    &at_most(
        "model::right-bf16",
        "In bf16 sampled numbers of the first, a middle and the last layer differ at every stage from f64 by no more than \
         roundings by at most 2^-8, bf16's unit roundoff, explain.",
        OWN,
        (bf16::CASE.id, bf16::ERROR, &[]),
    ),
    &at_most(
        "model::bf16-logits-vs-f64",
        "In bf16 the logits of a small model differ from the whole model in f64 by no more than eight times what they may \
         in fp16, whose unit roundoff is an eighth.",
        OWN,
        (bf16::CASE.id, oracle::METRIC, &[]),
    ),
    &at_most(
        "model::memory-bf16",
        "In bf16 the 48-layer model allocates what the closed formula says of fp16, to a thousandth.",
        OWN,
        (bf16::CASE.id, memory::FORMULA, &[]),
    ),
    &Claim {
        ceiling: sheet("bf16"),
        ..at_least(
            "model::rate-bf16",
            "The 48-layer model has the documented share of the sheet's rate over 4 sequences of 2048 tokens in bf16.",
            OWN,
            (bf16::CASE.id, rates::METRIC, &[("precision", "bf16")]),
        )
    },
    &at_least(
        "model::bf16-as-fast-as-fp16",
        "A pass over 4 sequences of 2048 tokens through 12 of the 48 layers takes in bf16 at most 5 % longer than in fp16.",
        OWN,
        (bf16::CASE.id, bf16::SPEEDUP, &[]),
    ),
    row!(graph table::SMALL_CASE, "1b-1x1024", CLASSES),
    row!(graph table::SMALL_CASE, "8b-8x1024", CLASSES),
    row!(graph table::CASE, "8x1024", CLASSES),
    row!(graph table::CASE, "4x2048", MEASURED),
    row!(graph table::CASE, "2x4096", MEASURED),
    row!(graph table::CASE, "1x8192", MEASURED),
    row!(search table::SMALL_CASE, "1b-1x1024", CLASSES),
    row!(search table::SMALL_CASE, "8b-8x1024", CLASSES),
    row!(search table::CASE, "8x1024", MEASURED),
    row!(search table::CASE, "4x2048", MEASURED),
    row!(search table::CASE, "2x4096", MEASURED),
    row!(search table::CASE, "1x8192", MEASURED),
    row!(search table::LONG_CASE, "2x8192", MEASURED),
    row!(search table::LONG_CASE, "1x12288", MEASURED),
    row!(search table::LONG_CASE, "1x16384", MEASURED),
    &at_most(
        "model::graph-memory",
        "A CUDA graph of a pass over 8192 tokens takes at most 2.6 % more memory, which is the most that 002 printed.",
        MEASURED,
        (table::CASE.id, table::EXTRA, &[]),
    ),
    &at_most(
        "model::graph-first-run",
        "Recording a pass of the 48-layer model over 8192 tokens and instantiating its graph takes at most a twentieth of \
         a pass.",
        MEASURED,
        (table::CASE.id, payback::FIRST_RUN, &[("way", "graph")]),
    ),
    &at_most(
        "model::graph-pays-1b",
        "What it takes to record a pass of 1024 tokens through a model of 1.2 billion parameters is saved again after at \
         most 100 passes as a graph.",
        CLASSES,
        (table::SMALL_CASE.id, payback::BREAK_EVEN, &[("problem", "1b-1x1024"), ("way", "graph")]),
    ),
    &at_most(
        "model::search-first-run",
        "Trying up to 16 candidates of each product of the 48-layer model over 8192 tokens, and recording a pass with the fastest, \
         takes at most 3.4 passes.",
        MEASURED,
        (table::CASE.id, payback::FIRST_RUN, &[("way", "search")]),
    ),
    &at_most(
        "model::search-pays-1b",
        "What it takes to search algorithms for 1024 tokens through a model of 1.2 billion parameters and to record a pass \
         with them is saved again after at most 1000 passes.",
        CLASSES,
        (table::SMALL_CASE.id, payback::BREAK_EVEN, &[("problem", "1b-1x1024"), ("way", "search")]),
    ),
    row!(graph_eight table::EIGHT_SMALL_CASE, "1b-1x1024", CLASSES),
    row!(graph_eight table::EIGHT_SMALL_CASE, "8b-8x1024", CLASSES),
    row!(graph_eight table::EIGHT_CASE, "8x1024", FP8),
    row!(search_eight table::EIGHT_SMALL_CASE, "1b-1x1024", CLASSES),
    row!(search_eight table::EIGHT_SMALL_CASE, "8b-8x1024", CLASSES),
    row!(search_eight table::EIGHT_CASE, "8x1024", FP8),
    &claim(
        "model::ways-keep-bits-fp8",
        "In FP8 W8A8 a pass over 8 sequences of 1024 tokens through the 48-layer model gives the bits of the pass call by call \
         as a CUDA graph and as one with searched algorithms.",
        FP8,
        (table::EIGHT_CASE.id, forward::BITS, &[]),
    ),
    &claim(
        "model::ways-keep-bits-fp8-small",
        "In FP8 W8A8 passes through models of 1.2 and 8.1 billion parameters give the bits of the pass call by call as a CUDA \
         graph and as one with searched algorithms.",
        CLASSES,
        (table::EIGHT_SMALL_CASE.id, forward::BITS, &[]),
    ),
    &at_most(
        "model::graph-memory-fp8",
        "In FP8 W8A8 a CUDA graph of a pass over 8192 tokens takes at most 2.6 % more memory, which is the most that 002 printed.",
        MEASURED,
        (table::EIGHT_CASE.id, table::EXTRA, &[]),
    ),
    &at_most(
        "model::graph-first-run-fp8",
        "In FP8 W8A8 recording a pass of the 48-layer model over 8192 tokens and instantiating its graph takes at most a \
         twentieth of a pass.",
        MEASURED,
        (table::EIGHT_CASE.id, payback::FIRST_RUN, &[("way", "graph")]),
    ),
    &at_most(
        "model::graph-pays-1b-fp8",
        "In FP8 W8A8 what it takes to record a pass of 1024 tokens through a model of 1.2 billion parameters is saved again after \
         at most 100 passes as a graph.",
        CLASSES,
        (
            table::EIGHT_SMALL_CASE.id,
            payback::BREAK_EVEN,
            &[("problem", "1b-1x1024"), ("way", "graph")],
        ),
    ),
    row!(in_precision
        "graph",
        table::GRAPH,
        "In bf16 a pass over 2 sequences of 1024 tokens as a CUDA graph is at most 8 % slower than call by call.",
        "bf16"
    ),
    row!(in_precision
        "graph",
        table::GRAPH,
        "In W8A16 a pass over 2 sequences of 1024 tokens as a CUDA graph is at most 8 % slower than call by call.",
        "w8a16"
    ),
    row!(in_precision
        "search",
        table::SEARCH,
        "In bf16 a graph of a pass over 2 sequences of 1024 tokens with searched algorithms is at most 8 % slower than call by call with the \
         heuristic's.",
        "bf16"
    ),
    row!(in_precision
        "search",
        table::SEARCH,
        "In W8A16 a graph of a pass over 2 sequences of 1024 tokens with searched algorithms is at most 8 % slower than call by call with the \
         heuristic's.",
        "w8a16"
    ),
    row!(in_precision
        "smart",
        table::SMART,
        "In bf16 what the smart way makes ready over 2 sequences of 1024 tokens within a budget that is large is at most 8 % slower \
         than call by call with the heuristic's algorithms.",
        "bf16"
    ),
    row!(in_precision
        "smart",
        table::SMART,
        "In W8A16 what the smart way makes ready over 2 sequences of 1024 tokens within a budget that is large is at most 8 % slower \
         than call by call with the heuristic's algorithms.",
        "w8a16"
    ),
    &claim(
        "model::ways-keep-bits-bf16-w8a16",
        "In bf16 and in W8A16 a pass over 2 sequences of 1024 tokens through the 48-layer model gives the bits of the pass call by \
         call as a CUDA graph, as one with searched algorithms, and as the smart way makes it ready.",
        OWN,
        (table::OTHER_CASE.id, forward::BITS, &[]),
    ),
    &at_most(
        "model::ways-memory-bf16-w8a16",
        "In bf16 and in W8A16 a CUDA graph of a pass over 2 sequences of 1024 tokens, one with searched algorithms, and what the \
         smart way makes ready each take at most 2.6 % more memory than the model.",
        OWN,
        (table::OTHER_CASE.id, table::EXTRA, &[]),
    ),
    &at_most(
        "model::graph-first-run-bf16-w8a16",
        "In bf16 and in W8A16 recording a pass of the 48-layer model over 2 sequences of 1024 tokens and instantiating its graph \
         takes at most a tenth of a pass.",
        OWN,
        (table::OTHER_CASE.id, payback::FIRST_RUN, &[("way", "graph")]),
    ),
    &at_most(
        "model::search-first-run-bf16-w8a16",
        "In bf16 and in W8A16 trying up to 16 candidates of each product of the 48-layer model over 2 sequences of 1024 tokens, \
         and recording a pass with the fastest, takes at most 3.4 passes.",
        OWN,
        (table::OTHER_CASE.id, payback::FIRST_RUN, &[("way", "search")]),
    ),
    &at_most(
        "model::smart-first-run-bf16-w8a16",
        "In bf16 and in W8A16 the smart way has a pass of the 48-layer model over 2 sequences of 1024 tokens ready, searched and \
         recorded, within the time of 3.4 passes.",
        OWN,
        (table::OTHER_CASE.id, payback::FIRST_RUN, &[("way", "smart")]),
    ),
    &Claim {
        kind: Kind::FalseRecord,
        ..at_least(
            "model::reduce-overhead-loses-is-false",
            "Recording a pass of 8192 tokens instead of enqueueing it costs a fifth.",
            OVERHEAD,
            (table::CASE.id, table::GRAPH, &[("problem", "1x8192")]),
        )
    },
    &Claim {
        kind: Kind::FalseRecord,
        ..at_most(
            "model::speedup-of-1.65-is-false",
            "Another way of execution makes a large model 1.65 times as fast.",
            CLASSES,
            (table::CASE.id, table::BEST, &[]),
        )
    },
    row!(rate table::CASE, "8x1024", "fp16", MEASURED),
    row!(rate table::CASE, "4x2048", "fp16", MEASURED),
    row!(rate table::CASE, "2x4096", "fp16", MEASURED),
    row!(rate table::CASE, "1x8192", "fp16", MEASURED),
    row!(rate table::LONG_CASE, "2x8192", "fp16", MEASURED),
    row!(rate table::LONG_CASE, "1x12288", "fp16", MEASURED),
    row!(rate table::LONG_CASE, "1x16384", "fp16", MEASURED),
    row!(rate table::CASE, "8x1024", "fp8", FP8),
    row!(rate table::CASE, "4x2048", "fp8", FP8),
    row!(rate table::CASE, "2x4096", "fp8", FP8),
    row!(rate table::LONG_CASE, "2x8192", "fp8", FP8),
    row!(rate table::LONG_CASE, "1x12288", "fp8", FP8),
    row!(rate table::LONG_CASE, "1x16384", "fp8", FP8),
    row!(speedup table::CASE, "8x1024"),
    row!(speedup table::CASE, "4x2048"),
    row!(speedup table::CASE, "2x4096"),
    row!(speedup table::LONG_CASE, "2x8192"),
    row!(speedup table::LONG_CASE, "1x12288"),
    row!(speedup table::LONG_CASE, "1x16384"),
    row!(peak table::CASE, "8x1024", "fp16", MEASURED),
    row!(peak table::CASE, "4x2048", "fp16", MEASURED),
    row!(peak table::CASE, "2x4096", "fp16", MEASURED),
    row!(peak table::CASE, "1x8192", "fp16", MEASURED),
    row!(peak table::LONG_CASE, "2x8192", "fp16", MEASURED),
    row!(peak table::LONG_CASE, "1x12288", "fp16", MEASURED),
    row!(peak table::LONG_CASE, "1x16384", "fp16", MEASURED),
    row!(peak table::CASE, "8x1024", "fp8", FP8),
    row!(peak table::CASE, "4x2048", "fp8", FP8),
    row!(peak table::CASE, "2x4096", "fp8", FP8),
    row!(peak table::LONG_CASE, "2x8192", "fp8", FP8),
    row!(peak table::LONG_CASE, "1x12288", "fp8", FP8),
    row!(peak table::LONG_CASE, "1x16384", "fp8", FP8),
    &at_most(
        "model::table-memory-by-formula",
        "What is allocated at once in a pass over each workload of 8192 tokens of the tables is what a closed formula of \
         the model's sizes says, to a thousandth.",
        MEASURED,
        (table::CASE.id, memory::FORMULA, &[]),
    ),
    &at_most(
        "model::table-long-memory-by-formula",
        "What is allocated at once in a pass over each workload of 12288 and 16384 tokens of the tables is what a closed \
         formula of the model's sizes says, to a thousandth.",
        MEASURED,
        (table::LONG_CASE.id, memory::FORMULA, &[]),
    ),
    long!(fits "12k", "12288", "fp16"),
    long!(fits "16k", "16384", "fp16"),
    long!(fits "32k", "32768", "fp16"),
    long!(fits "64k", "65536", "fp16"),
    long!(fits "128k", "131072", "fp16"),
    long!(fits "12k", "12288", "fp8"),
    long!(fits "16k", "16384", "fp8"),
    long!(fits "32k", "32768", "fp8"),
    long!(fits "64k", "65536", "fp8"),
    long!(fits "128k", "131072", "fp8"),
    long!(shorter "12k", "12288", "fp16"),
    long!(shorter "16k", "16384", "fp16"),
    long!(shorter "12k", "12288", "fp8"),
    long!(shorter "16k", "16384", "fp8"),
    long!(right "32k", "32768", "fp16"),
    long!(right "64k", "65536", "fp16"),
    long!(right "128k", "131072", "fp16"),
    long!(right "32k", "32768", "fp8"),
    long!(right "64k", "65536", "fp8"),
    long!(right "128k", "131072", "fp8"),
    &at_most(
        "model::long-memory-by-formula",
        "What a model allocates at 8192 to 131072 tokens is what a closed formula of its sizes says, to a thousandth.",
        LONG,
        (long::CASE.id, memory::FORMULA, &[]),
    ),
    &at_most(
        "model::long-memory-by-driver",
        "What the driver has less of at 8192 to 131072 tokens is what the formula says, to the documented share of it.",
        LONG,
        (long::CASE.id, memory::DRIVER, &[]),
    ),
    &at_most(
        "model::long-activations-by-formula",
        "What a model allocates beside its weights at 8192 to 131072 tokens is what the formula says, to 3 %.",
        LONG,
        (long::CASE.id, memory::ACTIVATIONS, &[]),
    ),
    &at_most(
        "model::long-memory-by-nvml",
        "What NVML says is used more at 8192 to 131072 tokens is what the formula says, to the documented share of it.",
        LONG,
        (long::CASE.id, memory::NVML, &[]),
    ),
    &at_most(
        "model::memory-slope",
        "Memory grows with the tokens by the bytes a token that the formula says, to a hundredth.",
        LONG,
        (long::CASE.id, long::SLOPE, &[]),
    ),
    &at_most(
        "model::memory-straight",
        "From 16384 tokens on memory over tokens is a straight line, to 0.003 of it.",
        LONG,
        (long::CASE.id, long::BENT, &[]),
    ),
    &at_most(
        "model::from-8k-memory-by-formula",
        "In chunks of 4096 tokens, from 32768 tokens on allocated and overwritten without a pass, what a model allocates at 8192 to 131072 tokens is what a closed formula of its sizes says, to a thousandth.",
        LONG,
        (long::FROM_8K_CASE.id, memory::FORMULA, &[]),
    ),
    &at_most(
        "model::from-8k-activations-by-formula",
        "In chunks of 4096 tokens, from 32768 tokens on allocated and overwritten without a pass, what a model allocates beside its weights at 8192 to 131072 tokens is what the formula says, to 3 %.",
        LONG,
        (long::FROM_8K_CASE.id, memory::ACTIVATIONS, &[]),
    ),
    &at_most(
        "model::from-8k-memory-by-nvml",
        "In chunks of 4096 tokens, from 32768 tokens on allocated and overwritten without a pass, what NVML says is used more at 8192 to 131072 tokens is what the formula says, to the documented share of it.",
        LONG,
        (long::FROM_8K_CASE.id, memory::NVML, &[]),
    ),
    &at_most(
        "model::from-8k-memory-slope",
        "In chunks of 4096 tokens, from 32768 tokens on allocated and overwritten without a pass, memory grows from 8192 tokens on by the bytes a token that the formula says, to a hundredth.",
        LONG,
        (long::FROM_8K_CASE.id, long::SLOPE, &[]),
    ),
    &at_most(
        "model::from-8k-memory-straight",
        "In chunks of 4096 tokens, from 32768 tokens on allocated and overwritten without a pass, memory over tokens is a straight line from 8192 to 131072 tokens, to 3 % of the least of its activations.",
        LONG,
        (long::FROM_8K_CASE.id, long::BENT, &[]),
    ),
    &at_most(
        "model::no-growth",
        "From pass to pass of 8192 tokens the driver's free memory changes by no more than 64 KiB a pass, by the line through eight passes.",
        LONG,
        (long::CASE.id, long::GROWTH, &[]),
    ),
    &claim(
        "model::no-leak",
        "A pass leaves no more bytes allocated by this project than there were before it.",
        LONG,
        (long::CASE.id, long::LEAKED, &[]),
    ),
    &claim(
        "model::too-long-is-refused",
        "What a limit that leaves 5 % less than the formula says of activations does not allow is refused before anything \
         runs, and the next pass gives the bits of the one before.",
        LONG,
        (long::CASE.id, long::ACCEPTED, &[]),
    ),
    &at_most(
        "model::w8a16-logits-vs-f64",
        "The logits of a small model with weights in E4M3 and activations in fp16, decoded token by token, differ from the \
         whole model in f64 on the numbers of those weights by at most what roundings to halves explain.",
        FP8,
        (weight_only::CASE.id, oracle::METRIC, &[]),
    ),
    &at_most(
        "model::w8a16-memory",
        "Weights in E4M3 of 12 of the 48 layers take at most 0.53 of the memory of those in fp16, an embedding in fp16 \
         included.",
        FP8,
        (weight_only::CASE.id, weight_only::WEIGHTS, &[]),
    ),
    &at_most(
        "model::w8a16-memory-by-formula",
        "What a model with weights in E4M3 is allocated for them is a byte an element and four an output of its linears, and two an element of its embedding, gain and bias, to a thousandth.",
        OWN,
        (weight_only::CASE.id, memory::FORMULA, &[("precision", "w8a16")]),
    ),
    &at_least(
        "model::w8a16-speedup",
        "A token behind seven others at most, through 12 of the 48 layers, is half again as fast with weights in E4M3 and activations in fp16 as in fp16.",
        FP8,
        (weight_only::CASE.id, weight_only::SPEEDUP, &[]),
    ),
    &claim(
        "model::w8a16-pass-keeps-bits",
        "A pass of 2048 tokens through four layers with weights in E4M3 and activations in fp16 gives the bits of a pass in fp16 \
         over the same weights as halves, call by call and as a CUDA graph.",
        FP8,
        (weight_only_pass::CASE.id, forward::BITS, &[]),
    ),
    &at_most(
        "model::w8a16-pass-is-right",
        "With weights in E4M3 and activations in fp16, sampled elements of rows of the first, a middle and the last of 48 layers \
         err by at most 4 % of a stage's size at every stage of a pass over 4 sequences of 2048 tokens.",
        FP8,
        (weight_only_pass::CASE.id, long::ERROR, &[]),
    ),
    &at_most(
        "model::w8a16-pass-memory-by-formula",
        "What a pass with weights in E4M3 and activations in fp16 allocates is what a closed formula of the model's sizes says, \
         to a thousandth: of the weights of products no more than the largest one is there in halves at a time.",
        FP8,
        (weight_only_pass::CASE.id, memory::FORMULA, &[]),
    ),
    &at_least(
        "model::w8a16-pass-vs-fp16",
        "A pass over 4 sequences of 2048 tokens through 12 of the 48 layers has, with weights in E4M3 and activations in fp16, \
         at least 0.9 of its rate in fp16.",
        FP8,
        (weight_only_pass::CASE.id, weight_only_pass::BESIDE_FP16, &[]),
    ),
    decode!(rate decode::CASE.id, "model::decode-2k-fp16", "2048", "fp16"),
    decode!(rate decode::CASE.id, "model::decode-2k-fp8", "2048", "fp8"),
    decode!(rate decode::LONG_CASE.id, "model::decode-32k-fp16", "32768", "fp16"),
    decode!(rate decode::LONG_CASE.id, "model::decode-32k-fp8", "32768", "fp8"),
    decode!(right decode::CASE.id, "model::decode-is-right-fp16", "56", "fp16"),
    decode!(right decode::CASE.id, "model::decode-is-right-fp8", "56", "fp8"),
    decode!(right decode::LONG_CASE.id, "model::decode-32k-is-right-fp16", "32768", "fp16"),
    decode!(right decode::LONG_CASE.id, "model::decode-32k-is-right-fp8", "32768", "fp8"),
    cached!(right "model::fp8-cache-is-right-fp16", "fp16"),
    cached!(right "model::fp8-cache-is-right-fp8", "fp8"),
    cached!(bits
        "model::fp8-cache-filled",
        "filled",
        "What a pass leaves in a cache in E4M3 are the codes of its fp16 keys and values times 448 / (2 amax) of their \
         head, in nine drawn heads of three layers."
    ),
    cached!(bits
        "model::fp8-cache-appended",
        "appended",
        "What a step appends to a cache in E4M3 are the codes of its fp16 keys and values by the scales that the pass \
         made, in nine drawn heads of three layers."
    ),
    cached!(bits
        "model::fp8-cache-scales",
        "scales",
        "The scales of a cache in E4M3 are 2 amax / 448 of the keys and of the values that the pass left of each head, \
         in nine drawn heads of three layers."
    ),
    &claim(
        "model::fp8-cache-memory",
        "A cache in E4M3 is allocated half the bytes of one in fp16, and 16 for each head of each layer.",
        LONG,
        (cached::CASE.id, cached::BYTES, &[]),
    ),
    cached!(rate "model::decode-2k-fp8-cache-fp16", "2048", "fp16"),
    cached!(rate "model::decode-2k-fp8-cache-fp8", "2048", "fp8"),
    cached!(rate "model::decode-32k-fp8-cache-fp16", "32768", "fp16"),
    cached!(rate "model::decode-32k-fp8-cache-fp8", "32768", "fp8"),
    beside!(rival::CASE, "fp16-4x2048", "fp16", "4x2048"),
    beside!(rival::CASE, "fp16-1x32768", "fp16", "1x32768"),
    beside!(rival::FP8_CASE, "fp8-8x1024", "fp8", "8x1024", "with fast accumulation "),
    beside!(rival::FP8_CASE, "fp8-1x8192", "fp8", "1x8192", "with fast accumulation "),
    beside!(rival::FP8_CASE, "fp8-1x32768", "fp8", "1x32768", "with fast accumulation "),
    beside!(
        rival::E4M3_ATTENTION_CASE,
        "fp8-attention-1x8192",
        "fp8-attention",
        "1x8192",
        "with fast accumulation and attention over E4M3 "
    ),
    beside!(
        rival::E4M3_ATTENTION_CASE,
        "fp8-attention-1x32768",
        "fp8-attention",
        "1x32768",
        "with fast accumulation and attention over E4M3 "
    ),
    &at_most(
        "model::fp8-attention-is-right",
        "Inside the model in FP8, attention over queries, keys and values in E4M3 errs by at most 1.6 times what E4M3's roundings \
         explain, over three rows of a drawn head in three layers.",
        OWN,
        (eight::CASE.id, eight::ERROR, &[]),
    ),
    &at_most(
        "model::fp8-attention-memory",
        "What a model with attention over E4M3 allocates is what a closed formula of its sizes says, to a thousandth.",
        OWN,
        (eight::CASE.id, memory::FORMULA, &[]),
    ),
    &at_most(
        "model::memory-vs-pytorch",
        "Passes in FP8 take no more memory than those of PyTorch, compiled in torch.compile's default mode.",
        PYTORCH,
        (rival::FP8_CASE.id, rival::MEMORY, &[]),
    ),
    &at_most(
        "model::memory-fp16-vs-pytorch",
        "Passes in fp16 take no more memory than those of PyTorch, compiled in torch.compile's default mode.",
        PYTORCH,
        (rival::CASE.id, rival::MEMORY, &[]),
    ),
    &claim(
        "model::smart-says-which-ran",
        "Over four layers of the model and 2048 tokens the smart way runs a graph with searched algorithms within a budget that is \
         large, call by call where there is none or the search takes longer, and says which.",
        REPRO,
        (smart::CASE.id, smart::OTHERWISE, &[]),
    ),
    &claim(
        "model::smart-same-bits",
        "Over four layers of the model and 2048 tokens, what the smart way runs gives the bits of the same way by itself.",
        REPRO,
        (smart::CASE.id, forward::BITS, &[]),
    ),
    &claim(
        "model::smart-48-says-which-ran",
        "Over all 48 layers of the model and 2048 tokens the smart way runs a graph with searched algorithms within a budget that \
         is large, call by call where the search takes longer, and says which.",
        REPRO,
        (smart::WHOLE_CASE.id, smart::OTHERWISE, &[]),
    ),
    &claim(
        "model::smart-48-same-bits",
        "Over all 48 layers of the model and 2048 tokens, what the smart way runs gives the bits of the pass call by call.",
        REPRO,
        (smart::WHOLE_CASE.id, forward::BITS, &[]),
    ),
    &claim(
        "model::no-stage-hangs",
        "The 48-layer model over 4 sequences of 8192 tokens on one GPU, its kernels compiled anew, is compiled, tuned, recorded \
         and run, and without tuning and recording compiled and run, each stage within its budget; so are the healthy passes \
         beside it.",
        HANGS,
        (hangs::CASE.id, hangs::ALARMS, &[]),
    ),
    &at_most(
        "model::hang-is-ended",
        "A loop of the host in compiling, tuning or recording, or a kernel that never ends behind a pass, is ended within \
         seconds of the end of its stage's budget.",
        HANGS,
        (hangs::CASE.id, hangs::LATE, &[]),
    ),
    &claim(
        "model::hang-is-named",
        "A hang is named by the stage in which it is, and no process of it is left.",
        HANGS,
        (hangs::CASE.id, hangs::MISNAMED, &[]),
    ),
    &claim(
        "model::hang-leaves-a-bundle",
        "A hang leaves its command, the environment and versions, the log, its threads with their stacks, its stage, and what was handed to \
         the GPU last, and nothing that names the machine.",
        REPRO,
        (hangs::CASE.id, hangs::PIECES, &[]),
    ),
    &claim(
        "model::hang-harms-no-later-pass",
        "Behind hangs that were ended in every stage, the GPU gives the bits that it gave before.",
        HANGS,
        (hangs::CASE.id, forward::BITS, &[("pass", "afterwards")]),
    ),
    &claim(
        "model::plain-way-behind-a-hang",
        "Where recording hangs and was ended, the same pass call by call with the heuristic's algorithms gives the bits of the \
         searched and recorded one.",
        REPRO,
        (hangs::CASE.id, forward::BITS, &[("pass", "fallback")]),
    ),
    &claim(
        "model::smart-hangs-not",
        "The 48-layer model over 4 sequences of 8192 tokens on one GPU, its kernels compiled anew, is compiled, made ready by the \
         smart way and run, each stage within its budget; so are the healthy passes beside it.",
        REPRO,
        (hangs::SMART_CASE.id, hangs::ALARMS, &[]),
    ),
    &at_most(
        "model::smart-hang-is-ended",
        "A loop of the host in the smart way's search is ended within seconds of the end of its stage's budget.",
        REPRO,
        (hangs::SMART_CASE.id, hangs::LATE, &[]),
    ),
    &claim(
        "model::smart-hang-is-named",
        "A hang in the smart way's search is named as that, and no process of it is left.",
        REPRO,
        (hangs::SMART_CASE.id, hangs::MISNAMED, &[]),
    ),
    &claim(
        "model::smart-hang-leaves-a-bundle",
        "A hang in the smart way's search leaves its command, the environment and versions, the log, its threads with their stacks, \
         its stage, and what was handed to the GPU last, and nothing that names the machine.",
        REPRO,
        (hangs::SMART_CASE.id, hangs::PIECES, &[]),
    ),
    &claim(
        "model::plain-way-behind-a-smart-hang",
        "Where the smart way's search hangs and was ended, the same pass call by call with the heuristic's algorithms, and then the \
         smart way again, give the bits that the smart way gave before.",
        REPRO,
        (hangs::SMART_CASE.id, forward::BITS, &[]),
    ),
];
