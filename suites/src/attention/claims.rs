//! The claims of the suite.

use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};

use super::{bits, decode, exact, fp8, rates, rival};

const FLEX: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "5. FlexAttention Limitations",
    printed: "Basic FlexAttention integration in GPT benchmark; vmap control flow errors with complex \
              mask functions",
    board: "8x B200",
};
const LONG: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "9. Extended Sequence Length Support",
    printed: "Still missing: 32K token sequence support, 64K+ token sequence support",
    board: "8x B200",
};
const TABLES: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "findings",
    printed: "Long contexts keep the workload memory-bound",
    board: "B200",
};
const SHARDED: Source = Source {
    document: "001-known-gaps.md",
    section: "7. FlexAttention Integration",
    printed: "Load tester exercises FlexAttention paths across tensor-parallel ranks",
    board: "8x B200",
};
const SERVING: Source = Source {
    document: "004-llm-validation-checklist.md",
    section: "1. Multi-GPU Inference Benchmark (NVLink Mesh)",
    printed: "inference_server_load_test.py --duration 300 --target-qps 28 --attention-backend flex",
    board: "8x B200",
};
const RIVAL: Source = Source {
    document: "touchstone",
    section: "rivals",
    printed: "what an operator would run instead: PyTorch",
    board: "",
};

const fn claim(
    id: &'static str,
    text: &'static str,
    source: Source,
    case: &'static str,
    metric: &'static str,
    at: &'static [(&'static str, &'static str)],
) -> Claim {
    Claim {
        id,
        text,
        source,
        relation: Relation::AtMost,
        case,
        metric,
        at,
        reduce: Reduce::Worst,
        ceiling: None,
        gpus: GpuCount::AtLeast(1),
        kind: Kind::Claim,
    }
}

/// No word differs.
const fn same(
    id: &'static str,
    text: &'static str,
    source: Source,
    at: &'static [(&'static str, &'static str)],
) -> Claim {
    let case = bits::CASE.id;
    Claim { relation: Relation::Holds, ..claim(id, text, source, case, bits::METRIC, at) }
}

const fn rate(
    id: &'static str,
    text: &'static str,
    at: &'static [(&'static str, &'static str)],
) -> Claim {
    Claim {
        relation: Relation::AtLeast,
        ceiling: Some("fp16_sheet_tflops"),
        ..claim(id, text, TABLES, rates::CASE.id, rates::METRIC, at)
    }
}

const fn against(
    id: &'static str,
    text: &'static str,
    at: &'static [(&'static str, &'static str)],
) -> Claim {
    Claim {
        relation: Relation::AtLeast,
        ..claim(id, text, RIVAL, rival::CASE.id, "over_pytorch_ratio", at)
    }
}

/// In checklist order.
pub static CLAIMS: &[&Claim] = &[
    &EXACT_FP16,
    &EXACT_BF16,
    &LSE,
    &PROGRAMMABLE,
    &WINDOW_MASK,
    &DATA_DEPENDENT,
    &EXACT_8K,
    &EXACT_32K,
    &EXACT_64K,
    &EXACT_128K,
    &MEMORY,
    &RUN_TO_RUN,
    &BATCH,
    &HEADS_ALONE,
    &CHUNKS,
    &RAGGED,
    &FUSED,
    &WINDOW_AS_LONG,
    &WINDOW_PROGRAM,
    &OUTSIDE,
    &BACKEND_FLEX,
    &BACKEND_SDPA,
    &BACKEND_AUTO,
    &HEADS_2,
    &HEADS_4,
    &HEADS_8,
    &DECODE,
    &DECODE_BATCH,
    &DECODE_RUNS,
    &FULL_8K,
    &FULL_16K,
    &CAUSAL_2K,
    &CAUSAL_8K,
    &CAUSAL_16K,
    &CAUSAL_32K,
    &TIMED,
    &WINDOW_RATE,
    &DECODE_FP16,
    &DECODE_GROUPED,
    &DECODE_E4M3,
    &DECODE_TIMED,
    &VS_FULL_8K,
    &VS_FULL_16K,
    &VS_CAUSAL_2K,
    &VS_CAUSAL_8K,
    &VS_CAUSAL_16K,
    &VS_CAUSAL_32K,
    &VS_RIGHT,
    &VS_FLEX,
    &VS_FLEX_RIGHT,
    &RAGGED_EXACT,
    &ISOLATED,
    &UNSEEN,
    &UNSEEN_ZERO,
    &UNSEEN_OTHERS,
    &MEANING,
    &PROGRAM_LSE,
    &LONG_LSE,
    &E4M3_EXACT,
    &E4M3_ROUNDED,
    &E4M3_SUMS,
    &E4M3_RUNS,
    &E4M3_BATCH,
    &E4M3_FULL_8K,
    &E4M3_FULL_16K,
    &E4M3_CAUSAL_16K,
    &E4M3_OVER_FP16,
    &E4M3_TIMED,
];

static EXACT_FP16: Claim = claim(
    "attention::exact-fp16",
    "Tiled attention in fp16 errs at most twice as much as a plain 16-bit implementation, at 27 lengths \
     around the edges of its tiles.",
    FLEX,
    exact::TAILS_CASE.id,
    exact::METRIC,
    &[("dtype", "fp16")],
);
static EXACT_BF16: Claim = claim(
    "attention::exact-bf16",
    "Tiled attention in bf16 errs at most twice as much as a plain 16-bit implementation, at 27 lengths \
     around the edges of its tiles.",
    FLEX,
    exact::TAILS_CASE.id,
    exact::METRIC,
    &[("dtype", "bf16")],
);
static LSE: Claim = claim(
    "attention::log-sum-exp",
    "The log-sum-exp of every checked row is right to 1e-5.",
    FLEX,
    exact::TAILS_CASE.id,
    exact::LSE_METRIC,
    &[],
);
static PROGRAMMABLE: Claim = claim(
    "attention::programmable",
    "Causal, window, prefix, document, dilated, ALiBi, soft-cap and branching attention, each written \
     as a program, err at most twice as much as a plain 16-bit implementation.",
    FLEX,
    exact::PROGRAMS_CASE.id,
    exact::METRIC,
    &[],
);
static WINDOW_MASK: Claim = claim(
    "attention::sliding-window",
    "A sliding window written as a program errs at most twice as much as a plain 16-bit implementation.",
    FLEX,
    exact::PROGRAMS_CASE.id,
    exact::METRIC,
    &[("program", "window")],
);
static DATA_DEPENDENT: Claim = claim(
    "attention::data-dependent-mask",
    "A mask with control flow that depends on data compiles and errs at most twice as much as a plain \
     16-bit implementation.",
    FLEX,
    exact::PROGRAMS_CASE.id,
    exact::METRIC,
    &[("program", "branching")],
);
static EXACT_8K: Claim = long("attention::exact-8k", &[("tokens", "8192")]);
static EXACT_32K: Claim = long("attention::exact-32k", &[("tokens", "32768")]);
static EXACT_64K: Claim = long("attention::exact-64k", &[("tokens", "65536")]);
static EXACT_128K: Claim = long("attention::exact-128k", &[("tokens", "131072")]);
const fn long(id: &'static str, at: &'static [(&'static str, &'static str)]) -> Claim {
    claim(
        id,
        "Attention over a sequence of this length errs at most twice as much as a plain 16-bit \
         implementation.",
        LONG,
        exact::LONG_CASE.id,
        exact::METRIC,
        at,
    )
}
static MEMORY: Claim = claim(
    "attention::memory-linear",
    "A launch without a program takes no memory that grows with the square of the tokens: at most 16 \
     bytes a token beside inputs and outputs.",
    LONG,
    exact::LONG_CASE.id,
    exact::MEMORY_METRIC,
    &[],
);
static RUN_TO_RUN: Claim = same(
    "attention::run-to-run",
    "The same attention gives the same bits twenty times.",
    FLEX,
    &[("against", "run-to-run")],
);
static BATCH: Claim = same(
    "attention::batch-invariant",
    "A sequence gives the same bits alone and in a batch.",
    SERVING,
    &[("against", "sequence-alone")],
);
static HEADS_ALONE: Claim = same(
    "attention::heads-invariant",
    "Half of the heads give the same bits alone.",
    SHARDED,
    &[("against", "half-of-the-heads")],
);
static CHUNKS: Claim = same(
    "attention::chunk-invariant",
    "The first 1300 and the last 200 of 1500 queries, computed apart, give the bits of the whole.",
    SERVING,
    &[("against", "chunks-of-queries")],
);
static RAGGED: Claim = same(
    "attention::ragged-equals-padded",
    "Ragged sequences of 1500, 700 and 129 tokens give the bits, and the log-sum-exps, of each alone.",
    SERVING,
    &[("against", "ragged")],
);
static FUSED: Claim = same(
    "attention::fused-qkv",
    "q, k and v inside one fused tensor give the bits of separate ones, without a split pass.",
    SERVING,
    &[("against", "fused")],
);
static WINDOW_AS_LONG: Claim = same(
    "attention::window-as-long-is-causal",
    "A window as long as the sequence gives the bits of a causal mask.",
    FLEX,
    &[("against", "window-as-long")],
);
static WINDOW_PROGRAM: Claim = same(
    "attention::window-program-is-plain",
    "A window written as a program gives the bits of the plain kernel's own window.",
    FLEX,
    &[("against", "window-program")],
);
static OUTSIDE: Claim = same(
    "attention::outside-the-window",
    "Changing the first key and the last one before the window changes no bit of the last query's output.",
    SHARDED,
    &[("against", "outside-the-window")],
);
static BACKEND_FLEX: Claim = same(
    "attention::backend-flex",
    "The backend flex loads the programmable kernel, which gives the bits of the plain one.",
    FLEX,
    &[("against", "backend-flex")],
);
static BACKEND_SDPA: Claim = same(
    "attention::backend-sdpa",
    "The backend sdpa loads the plain kernel, and gives its bits.",
    FLEX,
    &[("against", "backend-sdpa")],
);
static BACKEND_AUTO: Claim = same(
    "attention::backend-auto",
    "The backend auto loads the plain kernel where it has the mask and a program where it has not, with \
     the same bits under the same mask.",
    FLEX,
    &[("against", "backend-auto")],
);
static HEADS_2: Claim = heads(
    "attention::heads-over-gpus-tp2",
    "Heads divided over two GPUs, causal and windowed, give the bits of one.",
    &[("degree", "2")],
    2,
);
static HEADS_4: Claim = heads(
    "attention::heads-over-gpus-tp4",
    "Heads divided over four GPUs, causal and windowed, give the bits of one.",
    &[("degree", "4")],
    4,
);
static HEADS_8: Claim = heads(
    "attention::heads-over-gpus-tp8",
    "Heads divided over eight GPUs, causal and windowed, give the bits of one.",
    &[("degree", "8")],
    8,
);
const fn heads(
    id: &'static str,
    text: &'static str,
    at: &'static [(&'static str, &'static str)],
    gpus: u32,
) -> Claim {
    Claim {
        relation: Relation::Holds,
        gpus: GpuCount::AtLeast(gpus),
        ..claim(id, text, SHARDED, bits::HEADS_CASE.id, bits::METRIC, at)
    }
}
static DECODE: Claim = claim(
    "attention::decode-exact",
    "One to sixteen new queries over contiguous and paged fp16, bf16 and E4M3 caches, with heads of 64 \
     and 128, in one split and in four, windowed too, err at most twice as much as a plain 16-bit \
     implementation over the same cache.",
    SERVING,
    decode::EXACT_CASE.id,
    exact::METRIC,
    &[],
);
static DECODE_BATCH: Claim = Claim {
    relation: Relation::Holds,
    ..claim(
        "attention::decode-batch-invariant",
        "A decoded sequence gives the same bits alone and in a batch, the number of splits pinned, over \
         contiguous and paged fp16 and E4M3 caches.",
        SERVING,
        decode::EXACT_CASE.id,
        bits::METRIC,
        &[("against", "sequence-alone")],
    )
};
static DECODE_RUNS: Claim = Claim {
    relation: Relation::Holds,
    ..claim(
        "attention::decode-run-to-run",
        "The same decoding step gives the same bits twenty times.",
        SERVING,
        decode::EXACT_CASE.id,
        bits::METRIC,
        &[("against", "run-to-run")],
    )
};
static DECODE_TIMED: Claim = claim(
    "attention::decode-timed-is-right",
    "What the timed decoding steps left errs at most twice as much as a plain 16-bit implementation over \
     the same cache.",
    SERVING,
    decode::RATE_CASE.id,
    exact::METRIC,
    &[],
);
static FULL_8K: Claim = rate(
    "attention::full-8k",
    "Full attention over 8192 tokens keeps its rate.",
    &[("shape", "full-8k")],
);
static FULL_16K: Claim = rate(
    "attention::full-16k",
    "Full attention over 16384 tokens keeps its rate.",
    &[("shape", "full-16k")],
);
static CAUSAL_2K: Claim = rate(
    "attention::causal-4x2k",
    "Causal attention over 4 sequences of 2048 tokens keeps its rate.",
    &[("shape", "causal-4x2k")],
);
static CAUSAL_8K: Claim = rate(
    "attention::causal-8k",
    "Causal attention over 8192 tokens keeps its rate.",
    &[("shape", "causal-8k")],
);
static CAUSAL_16K: Claim = rate(
    "attention::causal-16k",
    "Causal attention over 16384 tokens keeps its rate.",
    &[("shape", "causal-16k")],
);
static CAUSAL_32K: Claim = rate(
    "attention::causal-32k",
    "Causal attention over 32768 tokens keeps its rate.",
    &[("shape", "causal-32k")],
);
static TIMED: Claim = claim(
    "attention::timed-is-right",
    "What the timed launches left errs at most twice as much as a plain 16-bit implementation, at \
     every timed shape.",
    TABLES,
    rates::CASE.id,
    exact::METRIC,
    &[],
);
static WINDOW_RATE: Claim = Claim {
    relation: Relation::AtLeast,
    ..claim(
        "attention::window-rate",
        "A window of 4096 of 65536 tokens visits tiles at no less than 0.8 of the causal rate.",
        SHARDED,
        rates::CASE.id,
        rates::WINDOW_METRIC,
        &[],
    )
};
const fn cache_rate(id: &'static str, at: &'static [(&'static str, &'static str)]) -> Claim {
    Claim {
        relation: Relation::AtLeast,
        ceiling: Some("hbm_gbps"),
        ..claim(
            id,
            "Decoding 64 sequences reads their caches of 8192 keys at the documented share of the memory's rate.",
            SERVING,
            decode::RATE_CASE.id,
            decode::RATE_METRIC,
            at,
        )
    }
}
static DECODE_FP16: Claim = cache_rate("attention::decode-rate-fp16", &[("cache", "fp16")]);
static DECODE_GROUPED: Claim =
    cache_rate("attention::decode-rate-grouped", &[("cache", "fp16-grouped")]);
static DECODE_E4M3: Claim = cache_rate("attention::decode-rate-e4m3", &[("cache", "e4m3")]);

static VS_FULL_8K: Claim = vs("attention::full-8k-vs-pytorch", &[("shape", "full-8k")]);
static VS_FULL_16K: Claim = vs("attention::full-16k-vs-pytorch", &[("shape", "full-16k")]);
static VS_CAUSAL_2K: Claim = vs("attention::causal-4x2k-vs-pytorch", &[("shape", "causal-4x2k")]);
static VS_CAUSAL_8K: Claim = vs("attention::causal-8k-vs-pytorch", &[("shape", "causal-8k")]);
static VS_CAUSAL_16K: Claim = vs("attention::causal-16k-vs-pytorch", &[("shape", "causal-16k")]);
static VS_CAUSAL_32K: Claim = vs("attention::causal-32k-vs-pytorch", &[("shape", "causal-32k")]);
const fn vs(id: &'static str, at: &'static [(&'static str, &'static str)]) -> Claim {
    against(
        id,
        "Attention of this shape is at least 0.9 as fast as PyTorch's best on the same GPU.",
        at,
    )
}
static VS_RIGHT: Claim = claim(
    "attention::vs-pytorch-is-right",
    "What was timed beside PyTorch errs at most twice as much as a plain 16-bit implementation.",
    RIVAL,
    rival::CASE.id,
    exact::METRIC,
    &[],
);
static VS_FLEX: Claim = Claim {
    relation: Relation::AtLeast,
    ..claim(
        "attention::documents-vs-flex",
        "A mask of documents runs at least 1.2 times as fast as PyTorch's FlexAttention on the same GPU.",
        RIVAL,
        rival::FLEX_CASE.id,
        "over_pytorch_ratio",
        &[],
    )
};
static VS_FLEX_RIGHT: Claim = claim(
    "attention::documents-vs-flex-is-right",
    "What was timed beside FlexAttention errs at most twice as much as a plain 16-bit implementation.",
    RIVAL,
    rival::FLEX_CASE.id,
    exact::METRIC,
    &[],
);
static RAGGED_EXACT: Claim = claim(
    "attention::ragged-exact",
    "Ragged sequences of 1 to 1500 tokens err at most twice as much as a plain 16-bit implementation.",
    SERVING,
    exact::TAILS_CASE.id,
    exact::METRIC,
    &[("rows", "ragged")],
);
static ISOLATED: Claim = Claim {
    relation: Relation::Holds,
    ..claim(
        "attention::sequences-are-isolated",
        "Infinite values of a later sequence change no bit of two earlier ones in the same ragged tensor.",
        SERVING,
        exact::TAILS_CASE.id,
        bits::METRIC,
        &[("rows", "before-infinite")],
    )
};
static UNSEEN: Claim = claim(
    "attention::queries-without-keys",
    "A query that sees no key gives a log-sum-exp of minus infinity.",
    FLEX,
    exact::TAILS_CASE.id,
    exact::LSE_METRIC,
    &[("rows", "unseen")],
);
static UNSEEN_ZERO: Claim = Claim {
    relation: Relation::Holds,
    ..claim(
        "attention::queries-without-keys-give-zeros",
        "Every output of a query that sees no key is zero.",
        FLEX,
        exact::TAILS_CASE.id,
        exact::NONZERO_METRIC,
        &[("rows", "unseen")],
    )
};
static UNSEEN_OTHERS: Claim = claim(
    "attention::more-queries-than-keys",
    "300 queries over 100 keys, of which 200 see none, err at most twice as much as a plain 16-bit \
     implementation.",
    FLEX,
    exact::TAILS_CASE.id,
    exact::METRIC,
    &[("rows", "unseen")],
);
static MEANING: Claim = claim(
    "attention::programs-mean-what-they-say",
    "The oracle's mask and score under each program give, row by row, what plain loops give that know \
     them by definition.",
    FLEX,
    exact::PROGRAMS_CASE.id,
    exact::ORACLE_METRIC,
    &[],
);
static PROGRAM_LSE: Claim = claim(
    "attention::programmable-log-sum-exp",
    "The log-sum-exp under every program is right to 1e-5.",
    FLEX,
    exact::PROGRAMS_CASE.id,
    exact::LSE_METRIC,
    &[],
);
static LONG_LSE: Claim = claim(
    "attention::long-log-sum-exp",
    "The log-sum-exp over 8192 to 131072 tokens is right to 1e-5: not a tile of keys is lost.",
    LONG,
    exact::LONG_CASE.id,
    exact::LSE_METRIC,
    &[],
);

const FP8: Source = Source {
    document: "004-llm-validation-checklist.md",
    section: "1. Multi-GPU Inference Benchmark (NVLink Mesh)",
    printed: "--attention-backend flex --fp8-mode transformer-engine",
    board: "8x B200",
};

static E4M3_EXACT: Claim = claim(
    "attention::fp8-exact",
    "Attention over E4M3 queries, keys and values errs by no more than the rounding of its weights to E4M3 \
     must cost.",
    FP8,
    fp8::CASE.id,
    fp8::METRIC,
    &[],
);
static E4M3_ROUNDED: Claim = claim(
    "attention::fp8-of-fp16",
    "Normal operands that are rounded to E4M3 for it give attention within 8 % of its root mean square.",
    FP8,
    fp8::CASE.id,
    fp8::ROUNDING_METRIC,
    &[],
);
static E4M3_SUMS: Claim = claim(
    "attention::fp8-sums",
    "E4M3 attention over 65536 keys of equal weight and value 1 gives 1, to 0.1 %.",
    FP8,
    fp8::CASE.id,
    fp8::SUM_METRIC,
    &[],
);
static E4M3_RUNS: Claim = Claim {
    relation: Relation::Holds,
    ..claim(
        "attention::fp8-run-to-run",
        "The same E4M3 attention gives the same bits twenty times.",
        FP8,
        fp8::CASE.id,
        bits::METRIC,
        &[("against", "e4m3-run-to-run")],
    )
};
static E4M3_BATCH: Claim = Claim {
    relation: Relation::Holds,
    ..claim(
        "attention::fp8-batch-invariant",
        "A sequence of an E4M3 batch has the same bits alone.",
        FP8,
        fp8::CASE.id,
        bits::METRIC,
        &[("against", "e4m3-sequence-alone")],
    )
};

const fn rate_e4m3(
    id: &'static str,
    text: &'static str,
    at: &'static [(&'static str, &'static str)],
) -> Claim {
    Claim {
        relation: Relation::AtLeast,
        ceiling: Some("fp8_sheet_tflops"),
        ..claim(id, text, TABLES, fp8::RATE_CASE.id, fp8::RATE_METRIC, at)
    }
}

static E4M3_FULL_8K: Claim = rate_e4m3(
    "attention::fp8-full-8k",
    "Full attention in E4M3 over 8192 tokens keeps its rate.",
    &[("shape", "full-8k")],
);
static E4M3_FULL_16K: Claim = rate_e4m3(
    "attention::fp8-full-16k",
    "Full attention in E4M3 over 16384 tokens keeps its rate.",
    &[("shape", "full-16k")],
);
static E4M3_CAUSAL_16K: Claim = rate_e4m3(
    "attention::fp8-causal-16k",
    "Causal attention in E4M3 over 16384 tokens keeps its rate.",
    &[("shape", "causal-16k")],
);
static E4M3_OVER_FP16: Claim = Claim {
    relation: Relation::AtLeast,
    ..claim(
        "attention::fp8-over-fp16",
        "Full attention over 8192 tokens runs at least 1.25 times as fast in E4M3 as in fp16.",
        TABLES,
        fp8::RATE_CASE.id,
        fp8::OVER_METRIC,
        &[],
    )
};
static E4M3_TIMED: Claim = claim(
    "attention::fp8-timed-is-right",
    "What the timed E4M3 launches left errs by no more than the rounding of its weights must cost.",
    TABLES,
    fp8::RATE_CASE.id,
    fp8::METRIC,
    &[],
);
