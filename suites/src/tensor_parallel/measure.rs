//! `touchstone measure model`: an operator's own model over any number of GPUs, timed; judges nothing.

use std::path::Path;

use harness::record::Stop;
use harness::statistics;
use kernels::device::Gpu;
use kernels::libraries::{self, Library};
use kernels::model::group::{Fault, Group, Kept, Watch};
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem};

use super::bench;
use crate::lab;

/// In what the linears multiply.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Halves
    Fp16,
    /// E4M3 with a scale for each output and each token
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
    #[arg(long, default_value_t = 5)]
    samples: u32,
}

/// Times and differences as lines of text.
///
/// Errors: sizes that cannot be shared, too few GPUs, too little memory.
pub fn text(root: &Path, options: &Options) -> Result<String, String> {
    measured(root, options).map_err(|stop| match stop {
        Stop::NotRun(why) | Stop::NotApplicable(why) | Stop::Error(why) => why,
    })
}

fn measured(root: &Path, options: &Options) -> Result<String, Stop> {
    let Options { layers, d_model, d_ff, vocab, .. } = *options;
    let precision = match options.precision {
        Format::Fp16 => Precision::F16,
        Format::Fp8 => Precision::E4m3,
    };
    let config = Config { layers, d_model, d_ff, vocab, seed: 0x5EED, precision };
    let problem = |chunks| Problem { batches: options.batch, tokens: options.seq, chunks };
    options.chunks.iter().try_for_each(|&chunks| problem(chunks).check())?;
    options.degree.iter().try_for_each(|&degree| config.check(degree as u32))?;
    lab::load_libraries(root)?;
    let found = libraries::find(Some(root));
    if let Some(found) = found.iter().find(|found| found.library == Library::CublasLt) {
        libraries::preload(found)?;
    }
    lab::require(Library::CublasLt)?;
    let most = options.degree.iter().copied().max().unwrap_or(1);
    let (gpus, tools) = bench::opened(most, &root.join("target/cubins"))?;
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

/// Prints what the formula says of each GPU's memory, and refuses what does not fit before anything is made.
fn fits(gpus: &[Gpu], options: &Options, config: &Config) -> Result<(), Stop> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1u32 << 30);
    let free = gpus.iter().map(|gpu| Ok(gpu.mem_info()?.0)).collect::<Result<Vec<u64>, Stop>>()?;
    let free = free.into_iter().min().unwrap_or(0);
    for &degree in &options.degree {
        for &chunks in &options.chunks {
            let problem = Problem { batches: options.batch, tokens: options.seq, chunks };
            let weights = config.weight_bytes(degree as u32);
            let activations = config.activation_bytes(&problem, degree as u32);
            let needs = gib(weights + activations);
            println!(
                "degree {degree} chunks {chunks}: {:.2} GiB of weights and {:.2} of activations on each GPU by the \
                 formula, {:.2} free",
                gib(weights),
                gib(activations),
                gib(free)
            );
            if weights + activations > free {
                return Err(Stop::Error(format!(
                    "degree {degree}, chunks {chunks}: {needs:.2} GiB do not fit into {:.2}: fewer tokens, more \
                     chunks, a higher degree, or --precision fp8",
                    gib(free)
                )));
            }
        }
    }
    Ok(())
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
                return Ok("smart: call by call, the search took longer than the budget");
            }
            group.exchange(&mut way)?;
            group.record()?;
            "smart: a graph, algorithms searched"
        }
        Mode::Smart => {
            group.set(problem, bench::CANDIDATES)?;
            group.set_tokens(tokens)?;
            "smart: call by call, algorithms searched"
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
