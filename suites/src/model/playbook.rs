//! What long sequences take of each GPU's memory by the formula, over 1 to 8 GPUs, and what to choose when: a note
//! of the checklist of long contexts.

use harness::report::measured::{Place, Shown, Table};
use kernels::model::decode::Cache;
use kernels::model::{Config, Precision, Problem};

use super::forward::PRECISIONS;
use super::{long, memory};
use crate::tensor_parallel::longer;
use crate::tensor_parallel::rates::{MARGIN, MEMORY, TIME};

/// Over how many GPUs.
const DEGREES: [u32; 4] = [1, 2, 4, 8];
/// Tokens of a sequence.
const LENGTHS: [u32; 9] = [8192, 12288, 16384, 32768, 65536, 131_072, 262_144, 524_288, 1_048_576];
/// Device memory of an H200, as NVML tells it.
pub const H200: u64 = 150_754_820_096;

/// Bytes of a cache by configuration, sequences and tokens.
type CacheBytes = fn(&Config, u32, u32) -> u64;

/// What a cache of keys and values may be in, and whether a pass that fills it has one chunk.
const CACHES: [(&str, CacheBytes, bool); 2] =
    [("fp16", Cache::bytes, false), ("E4M3", Cache::bytes_e4m3, true)];

/// What was measured of it.
pub const MEASURED: Table = Table {
    heading: "Measured memory and time by length and GPUs",
    intro: "GiB of weights and activations on the GPU that took the most of a pass over one sequence, as they were allocated, and \
            milliseconds of one single pass, looks at rows included, mostly under the power limit: of the evidence of the verified \
            claims that hold memory to the formula. No claim judges these times. `fp8-cache`, `fp8, E4M3` below, keeps keys and \
            values in E4M3 alone.",
    claims: &[
        "model::long-memory-by-formula",
        "tensor-parallel::long-memory-by-formula-tp2",
        "tensor-parallel::longer-memory-by-formula-tp2",
        "tensor-parallel::long-fp8-cache-memory-by-formula-tp2",
        "tensor-parallel::longer-fp8-cache-memory-by-formula-tp2",
        "tensor-parallel::longest-memory-by-formula-tp2",
        "tensor-parallel::long-memory-by-formula-tp4",
        "tensor-parallel::longer-memory-by-formula-tp4",
        "tensor-parallel::long-fp8-cache-memory-by-formula-tp4",
        "tensor-parallel::longer-fp8-cache-memory-by-formula-tp4",
        "tensor-parallel::longest-memory-by-formula-tp4",
        "tensor-parallel::long-memory-by-formula-tp8",
        "tensor-parallel::longer-memory-by-formula-tp8",
        "tensor-parallel::long-fp8-cache-memory-by-formula-tp8",
        "tensor-parallel::longer-fp8-cache-memory-by-formula-tp8",
        "tensor-parallel::longest-memory-by-formula-tp8",
    ],
    places: &[
        Place { key: "precision", title: "precision", otherwise: "fp8" },
        Place { key: "degree", title: "GPUs", otherwise: "1" },
        Place { key: "tokens", title: "tokens", otherwise: "-" },
    ],
    figures: &[(MEMORY, "GiB", Shown::Largest), (TIME, "ms", Shown::Largest)],
};

/// The note in Markdown.
pub fn text() -> String {
    format!("{}\n\n{}\n\n{}", introduction(), table().join("\n"), rules().join("\n"))
}

fn introduction() -> String {
    format!(
        "GiB of weights and activations on each GPU for one pass of the 48-layer model over one sequence, and what they leave \
         of an H200, by the formula: one GPU in chunks of 8192 tokens, several with columns shared, in chunks of 32768 tokens or two of \
         shorter sequences. Such a pass keeps \
         nothing: who goes on token by token needs the cache of keys and values beside it, which has its own rows; \
         several GPUs share it by heads, and decoding over them is recorded behind 2048 tokens over a cache in fp16 and \
         behind 32768 over one in E4M3, with weights in E4M3. This is the formula; what was measured stands in the table above. The claims named here hold it to evidence where they are \
         ticked, none over eight GPUs yet; \
         no claim runs more than 1048576 tokens. `model::long-memory-by-formula` holds one GPU to it, \
         `tensor-parallel::long-memory-by-formula-tp2`, `-tp4` and `-tp8` every rank at 32768 and 65536 tokens; the \
         longest sequence is what leaves {} GiB of an H200's {}. Under `fp8, E4M3` a pass of several \
         chunks keeps its keys and values in E4M3 alone (`touchstone measure model --attention fp8`): \
         `tensor-parallel::long-fp8-cache-memory-by-formula-tp2`, `-tp4` and `-tp8` hold 131072 tokens to it, \
         `tensor-parallel::longer-fp8-cache-memory-by-formula-tp2`, `-tp4` and `-tp8` 262144, \
         `tensor-parallel::longer-memory-by-formula-tp2`, `-tp4` and `-tp8` 262144 in FP8, and \
         `tensor-parallel::longest-memory-by-formula-tp2`, `-tp4` and `-tp8` 262144 in fp16, and 524288 and 1048576 with keys \
         and values in E4M3.",
        gib(MARGIN),
        gib(H200)
    )
}

fn table() -> Vec<String> {
    let mut lines = vec![
        "| precision | tokens | 1 GPU | 2 GPUs | 4 GPUs | 8 GPUs |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    let [(half, _), (eight, _)] = [PRECISIONS[0], PRECISIONS[1]];
    for (name, precision, attention_e4m3) in
        [("fp16", half, false), ("fp8", eight, false), ("fp8, E4M3", eight, true)]
    {
        let config = Config { precision, attention_e4m3, ..Config::SEED_002 };
        let mut row = |what: &str, cell: &dyn Fn(u32) -> String| {
            let cells = DEGREES.map(cell).join(" | ");
            lines.push(format!("| {name} | {what} | {cells} |"));
        };
        row("weights alone", &|degree| gib(config.weight_bytes(degree)));
        for tokens in LENGTHS {
            row(&tokens.to_string(), &|degree| match bytes(&config, tokens, degree) {
                bytes if bytes + MARGIN <= H200 => {
                    format!("{}, {} left", gib(bytes), gib(H200 - bytes))
                }
                _ => "too long".to_owned(),
            });
        }
        row("1024 more, MiB", &|degree| format!("{:.1}", more(&config, degree)));
        row("longest on an H200", &|degree| longest_pass(&config, degree).to_string());
        // A pass that keeps E4M3 fills no other cache.
        for (what, cache, whole) in CACHES.into_iter().filter(|_| !attention_e4m3) {
            // Shared by heads.
            let of = |tokens: u32, degree: u32| cache(&config, 1, tokens) / u64::from(degree);
            row(&format!("cache of 1024 tokens in {what}, MiB"), &|degree| {
                format!("{:.1}", of(1024, degree) as f64 / f64::from(1 << 20))
            });
            let how = if whole { ", in one chunk" } else { "" };
            row(&format!("longest with its cache in {what}{how}"), &|degree| {
                let pass = |tokens| match whole {
                    true => {
                        memory::share(&config, &Problem { batches: 1, tokens, chunks: 1 }, degree)
                    }
                    false => bytes(&config, tokens, degree),
                };
                let step = if whole { 1024 } else { chunk(degree) };
                longest(step, &|tokens| pass(tokens) + of(tokens, degree)).to_string()
            });
        }
    }
    lines
}

fn rules() -> [String; 5] {
    let sixteen = Config::SEED_002;
    let eight = Config { precision: Precision::E4m3, ..sixteen };
    let kept = Config { attention_e4m3: true, ..eight };
    let embedding = 2 * u64::from(sixteen.vocab) * u64::from(sixteen.d_model);
    [
        format!(
            "- One GPU as long as the pass fits: nothing is exchanged. 1024 tokens more take {:.1} MiB of it, of each of two \
             {:.1} and of eight {:.1}: every rank holds the residual stream of all tokens, queries, keys and values of \
             its own heads, and rows inside the MLP of two chunks.",
            more(&sixteen, 1),
            more(&sixteen, 2),
            more(&sixteen, 8)
        ),
        format!(
            "- FP8 before a second GPU: 65536 tokens take {} GiB of one GPU in FP8, and {} of each of two in fp16.",
            gib(bytes(&eight, 65536, 1)),
            gib(bytes(&sixteen, 65536, 2))
        ),
        format!(
            "- Keys and values in E4M3 where memory is short: 1024 tokens more take {:.1} MiB of one GPU in place of {:.1}, \
             and attention multiplies E4M3, which costs accuracy: `model::fp8-attention-is-right`, \
             `tensor-parallel::attention-128k-fp8-cache-tp2`.",
            more(&kept, 1),
            more(&eight, 1)
        ),
        format!(
            "- More GPUs for weights that one cannot hold, for time, or for length; each holds its part of the linears and the \
             whole embedding of {} GiB.",
            gib(embedding)
        ),
        "- Other sizes: `touchstone measure model --batch 1 --seq TOKENS --degree 2 --precision fp8` prints the formula \
         first, and refuses what does not leave that margin of every GPU before anything is made. It wants as many GPUs \
         as the degree; one GPU takes what the table says with `--degree 1 --chunks N`, N being the tokens by 8192, \
         several what it says with the tokens by 32768, but 2 at least; the rows `fp8, E4M3` want `--attention fp8` too."
            .to_owned(),
    ]
}

/// One sequence as it is run over so many GPUs.
fn problem(tokens: u32, degree: u32) -> Problem {
    if degree == 1 { long::problem(tokens) } else { longer::problem(tokens) }
}

/// Bytes of each GPU.
fn bytes(config: &Config, tokens: u32, degree: u32) -> u64 {
    memory::share(config, &problem(tokens, degree), degree)
}

/// MiB of each GPU for 1024 tokens more, between the two longest sequences of the table.
fn more(config: &Config, degree: u32) -> f64 {
    let [.., shorter, longer] = LENGTHS;
    let bytes = bytes(config, longer, degree) - bytes(config, shorter, degree);
    bytes as f64 / f64::from((longer - shorter) / 1024) / f64::from(1 << 20)
}

/// The longest sequence of a pass that fills no cache.
fn longest_pass(config: &Config, degree: u32) -> u32 {
    longest(chunk(degree), &|tokens| bytes(config, tokens, degree))
}

/// The longest sequence, in steps of so many tokens, that leaves [`MARGIN`] of an H200 beside the bytes that it takes.
fn longest(step: u32, taken: &dyn Fn(u32) -> u64) -> u32 {
    let fits = |tokens: &u32| taken(*tokens) + MARGIN <= H200;
    (1..=1u32 << 10).map(|steps| step * steps).take_while(fits).last().unwrap_or(0)
}

/// Tokens of a chunk of a long sequence.
fn chunk(degree: u32) -> u32 {
    if degree == 1 { 8192 } else { longer::CHUNK }
}

fn gib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1u32 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_more_by_hand() {
        let config = Config::SEED_002;
        // The stream, queries, keys and values, and a token's number.
        approx::assert_abs_diff_eq!(more(&config, 1), (8.0 * 8192.0 + 4.0) / 1024.0);
        // Of several at four chunks in place of two: as many rows are held of two chunks; half of the three.
        let two = 16384.0 + 24576.0 + 4.0;
        approx::assert_abs_diff_eq!(more(&config, 2), two / 1024.0);
    }

    #[test]
    fn what_the_rules_say_is_so() {
        let sixteen = Config::SEED_002;
        let eight = Config { precision: Precision::E4m3, ..sixteen };
        assert!(bytes(&eight, 65536, 1) < bytes(&sixteen, 65536, 2));
        let kept = Config { attention_e4m3: true, ..eight };
        assert!(more(&kept, 1) < more(&eight, 1));
        for config in [sixteen, eight, kept] {
            let lengths = DEGREES.map(|degree| longest_pass(&config, degree));
            assert!(lengths.is_sorted() && lengths[3] > lengths[0], "{lengths:?}");
        }
    }

    #[test]
    fn the_longest_is_the_last_that_fits() {
        let config = Config::SEED_002;
        for degree in DEGREES {
            let tokens = longest_pass(&config, degree);
            assert!(bytes(&config, tokens, degree) + MARGIN <= H200, "{degree}");
            assert!(bytes(&config, tokens + chunk(degree), degree) + MARGIN > H200, "{degree}");
        }
    }

    #[test]
    fn every_row_is_there() {
        let table = table();
        assert_eq!(table.len(), 2 + 3 * (LENGTHS.len() + 3) + 2 * 2 * CACHES.len());
        assert!(table[6].starts_with("| fp16 | 32768 | 75.7, 64.7 left |"), "{}", table[6]);
    }
}
