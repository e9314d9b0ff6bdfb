//! `touchstone measure model`: an operator's own model over any number of GPUs, timed; judges nothing.

use std::path::Path;

use harness::record::Stop;
use harness::statistics;
use kernels::device::Gpu;
use kernels::model::group::{Fault, Group, Kept, Watch};
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem};

use super::bench;
use super::rates::MARGIN;
use crate::lab;

/// In what the linears multiply.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Halves
    Fp16,
    /// bfloat16, attention too
    Bf16,
    /// E4M3 with a scale for each output and each token
    Fp8,
}

/// In what attention multiplies.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum AttentionFormat {
    /// Halves, or bfloat16 where the linears do
    Fp16,
    /// E4M3 with a scale for each head of a sequence
    Fp8,
}

/// How a pass is enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Call by call, with the algorithms that cuBLASLt's heuristic names first
    Eager,
    /// The same as a CUDA graph; one GPU
    Graph,
    /// With algorithms by trying, as a graph on one GPU
    Search,
    /// As search where it is ready within the budget, else as eager; says which ran
    Smart,
}

/// What `smart` says where it searched in vain.
const LATE: &str =
    "smart: call by call, the heuristic's algorithms, since the search took longer than the budget";

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Blocks of attention and MLP
    #[arg(long, default_value_t = 48)]
    layers: u32,
    /// Elements of a token
    #[arg(long, default_value_t = 8192)]
    d_model: u32,
    /// Elements of a token inside the MLP
    #[arg(long, default_value_t = 32768)]
    d_ff: u32,
    /// Rows of embedding and head
    #[arg(long, default_value_t = 50304)]
    vocab: u32,
    /// In what the linears multiply
    #[arg(long, value_enum, default_value_t = Format::Fp16)]
    precision: Format,
    /// In what attention multiplies: fp8 makes queries, keys and values E4M3; on sm_90, of whole sequences
    #[arg(long, value_enum, default_value_t = AttentionFormat::Fp16)]
    attention: AttentionFormat,
    /// Sequences
    #[arg(long, default_value_t = 4)]
    batch: u32,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 2048)]
    seq: u32,
    /// Degrees of tensor parallel, each measured
    #[arg(long, value_delimiter = ',', default_value = "1")]
    degree: Vec<usize>,
    /// Parts of the tokens that take turns; each count is measured
    #[arg(long, value_delimiter = ',', default_value = "2")]
    chunks: Vec<u32>,
    /// How a pass is enqueued
    #[arg(long, value_enum, default_value_t = Mode::Search)]
    exec_mode: Mode,
    /// Seconds that --exec-mode smart may take to get ready
    #[arg(long, default_value_t = 10.0)]
    budget_s: f64,
    /// Compare every layer with one GPU's, bit by bit
    #[arg(long)]
    compare: bool,
    /// Samples
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
}

/// Times and differences as lines of text.
///
/// Errors: sizes that cannot be shared, too few GPUs, too little memory.
pub fn text(root: &Path, options: &Options) -> Result<String, String> {
    measured(root, options).map_err(Stop::why)
}

fn measured(root: &Path, options: &Options) -> Result<String, Stop> {
    let Options { layers, d_model, d_ff, vocab, .. } = *options;
    let precision = match options.precision {
        Format::Fp16 => Precision::F16,
        Format::Bf16 => Precision::Bf16,
        Format::Fp8 => Precision::E4m3,
    };
    let attention_e4m3 = matches!(options.attention, AttentionFormat::Fp8);
    let config = Config { layers, d_model, d_ff, vocab, seed: 0x5EED, precision, attention_e4m3 };
    let problem = |chunks| Problem { batches: options.batch, tokens: options.seq, chunks };
    options.chunks.iter().try_for_each(|&chunks| problem(chunks).check())?;
    options.degree.iter().try_for_each(|&degree| config.check(degree as u32))?;
    lab::load_cublaslt(root)?;
    let most = options.degree.iter().copied().max().unwrap_or(1);
    let (gpus, tools) = bench::opened(most, &root.join("target/cubins"), &config)?;
    let all: Vec<_> = gpus.iter().zip(&tools).collect();
    fits(&gpus, options, &config)?;
    let tokens = bench::tokens(&config, &problem(1), 0x5EED);
    let kept = match options.compare {
        true => {
            let kept = Kept::new(&gpus[0], &config, &problem(1))?;
            let mut one = bench::group(&all[..1], config, Split::Outputs, problem(1), &tokens)?;
            one.poison()?;
            one.forward(Watch::Keep(&kept))?;
            one.wait()?;
            println!("kept one GPU's residual streams");
            Some(kept)
        }
        false => None,
    };
    for &degree in &options.degree {
        let started = std::time::Instant::now();
        let mut group = Group::new(&all[..degree], config, Split::Outputs)?;
        println!("degree {degree}: weights made in {:.1} s", started.elapsed().as_secs_f64());
        for &chunks in &options.chunks {
            let started = std::time::Instant::now();
            let mode = ready(&mut group, options, problem(chunks), &tokens)?;
            let elapsed = started.elapsed().as_secs_f64();
            println!("  {chunks} chunks: {mode}, ready in {elapsed:.1} s");
            line(&mut group, options, &config, &problem(chunks), kept.as_ref())?;
        }
    }
    Ok(String::new())
}

/// Prints what the formula says of each GPU's memory, and refuses what does not fit before anything is made. With
/// --compare GPU 0 holds a whole model first, and what it keeps of that one until the end.
fn fits(gpus: &[Gpu], options: &Options, config: &Config) -> Result<(), Stop> {
    let free = gpus.iter().map(|gpu| Ok(gpu.mem_info()?.0)).collect::<Result<Vec<u64>, Stop>>()?;
    let problem = |chunks| Problem { batches: options.batch, tokens: options.seq, chunks };
    let kept = if options.compare { kept_bytes(config, &problem(1)) } else { 0 };
    if options.compare {
        let whole = config.weight_bytes(1) + config.activation_bytes(&problem(1), 1);
        println!("--compare: {:.2} GiB kept on GPU 0", gib(kept));
        refused(
            "--compare, for which GPU 0 holds the whole model first",
            whole + kept,
            &free[..1],
        )?;
    }
    for &degree in &options.degree {
        for &chunks in &options.chunks {
            let weights = config.weight_bytes(degree as u32);
            let activations = config.activation_bytes(&problem(chunks), degree as u32);
            let least = free[..degree].iter().min().copied().unwrap_or(0);
            println!(
                "degree {degree} chunks {chunks}: {:.2} GiB of weights and {:.2} of activations on each GPU by the \
                 formula, {:.2} free",
                gib(weights),
                gib(activations),
                gib(least)
            );
            let what = format!("degree {degree}, chunks {chunks}");
            refused(&what, weights + activations + kept, &free[..1])?;
            refused(&what, weights + activations, &free[..degree])?;
        }
    }
    Ok(())
}

/// Bytes of what [`Kept::new`] makes.
fn kept_bytes(config: &Config, problem: &Problem) -> u64 {
    let Config { layers, d_model, vocab, .. } = *config;
    let rows = u64::from(layers) * u64::from(problem.rows()) * u64::from(d_model);
    2 * (rows + u64::from(problem.batches) * u64::from(vocab))
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}

/// Refuses what does not leave [`MARGIN`] of each GPU's free bytes.
fn refused(what: &str, bytes: u64, free: &[u64]) -> Result<(), Stop> {
    let least = free.iter().min().copied().unwrap_or(0);
    match bytes.saturating_add(MARGIN) <= least {
        true => Ok(()),
        false => Err(Stop::Error(format!(
            "{what}: {:.2} GiB and {:.0} beside them do not fit into {:.2}: fewer tokens, more chunks, a higher \
             degree, or --precision fp8",
            gib(bytes),
            gib(MARGIN),
            gib(least)
        ))),
    }
}

/// Sets the problem and the way of execution; says which.
fn ready(
    group: &mut Group<'_>,
    options: &Options,
    problem: Problem,
    tokens: &[u32],
) -> Result<&'static str, Stop> {
    let begun = std::time::Instant::now();
    let searched = options.exec_mode == Mode::Search;
    group.set(problem, if searched { bench::CANDIDATES } else { 1 })?;
    group.set_tokens(tokens)?;
    let alone = group.degree() == 1;
    if alone {
        // What a graph needs is there once a pass has run.
        group.pass()?;
        group.wait()?;
    }
    let late = || begun.elapsed().as_secs_f64() > options.budget_s;
    Ok(match options.exec_mode {
        Mode::Eager => "call by call",
        Mode::Graph | Mode::Search if alone => {
            group.record()?;
            if searched { "a graph, algorithms searched" } else { "a graph" }
        }
        Mode::Graph => return Err(Stop::Error("--exec-mode graph is for one GPU".into())),
        Mode::Search => "call by call, algorithms searched",
        Mode::Smart if late() => "smart: call by call, the budget is spent",
        Mode::Smart if alone => {
            let mut way = group.way(bench::CANDIDATES)?;
            if late() {
                return Ok(LATE);
            }
            group.exchange(&mut way)?;
            group.record()?;
            "smart: a graph, algorithms searched"
        }
        Mode::Smart => {
            group.set(problem, bench::CANDIDATES)?;
            let late = late();
            if late {
                group.set(problem, 1)?;
            }
            group.set_tokens(tokens)?;
            if late { LATE } else { "smart: call by call, algorithms searched" }
        }
    })
}

/// Prints one degree's time, what it is without exchanges, and its differences.
fn line(
    group: &mut Group<'_>,
    options: &Options,
    config: &Config,
    problem: &Problem,
    kept: Option<&Kept>,
) -> Result<(), Stop> {
    let times = group.time(2, options.samples)?;
    let ms = statistics::median(&times).unwrap_or(f64::NAN);
    let host = std::time::Instant::now();
    group.pass()?;
    let host = host.elapsed().as_secs_f64() * 1e3;
    group.wait()?;
    let (degree, chunks) = (group.degree(), problem.chunks);
    let rate = config.flops(problem) / ms / 1e9 / f64::from(degree);
    println!(
        "  degree {degree} chunks {chunks}: {ms:.2} ms, {rate:.1} TFLOP/s a GPU; enqueued in {host:.1} ms"
    );
    if degree > 1 {
        let mut without = |fault| -> Result<f64, Stop> {
            group.plant(Some(fault));
            let times = group.time(1, options.samples)?;
            group.plant(None);
            Ok(statistics::median(&times).unwrap_or(f64::NAN))
        };
        let flat = without(Fault::Flat)?;
        let in_step = without(Fault::Silent { in_step: true })?;
        let silent = without(Fault::Silent { in_step: false })?;
        println!(
            "    sent flat {flat:.2} ms, nothing sent {in_step:.2} ms, nor waited for {silent:.2} ms"
        );
    }
    for (linear, choice) in group.choices()? {
        println!("    {:5} {}", bench::name(linear), bench::algorithm(&choice));
    }
    if let Some(kept) = kept {
        group.poison()?;
        group.forward(Watch::Compare(kept, 0, 0))?;
        println!("    against one GPU: {}", bench::drift(&group.differences()?).text());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_by_hand() {
        let config = Config { layers: 2, d_model: 128, d_ff: 512, vocab: 1024, ..Config::SEED_002 };
        let problem = Problem { batches: 2, tokens: 64, chunks: 1 };
        assert_eq!(kept_bytes(&config, &problem), 2 * 2 * 128 * 128 + 2 * 2 * 1024);
    }

    #[test]
    fn what_leaves_no_margin_is_refused() {
        let free = [80 << 30, 10 << 30];
        assert!(refused("all", 8 << 30, &free).is_ok());
        assert!(refused("the first", 78 << 30, &free[..1]).is_ok());
        let why = refused("all", (8 << 30) + 1, &free).map_err(|stop| format!("{stop:?}"));
        assert!(
            why.is_err_and(|why| why.contains("8.00 GiB and 2 beside them do not fit into 10.00"))
        );
    }
}
