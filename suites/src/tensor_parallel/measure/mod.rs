//! `touchstone measure model`: an operator's own model over any number of GPUs, timed; judges nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::record::Stop;
use harness::statistics;
use kernels::attention::variant::Kernel;
use kernels::device::Gpu;
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Kept, Watch};
use kernels::model::rank::Tools;
use kernels::model::weights::Split;
use kernels::model::{Config, HEAD_SIZE, Precision, Problem};

use super::bench;
use super::rates::MARGIN;
use crate::lab;
use crate::model::smart;

mod report;
mod watch;

use report::{Report, Row};

/// In what the linears multiply.
#[derive(Debug, Clone, Copy, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Format {
    /// Halves
    Fp16,
    /// bfloat16, attention too
    Bf16,
    /// E4M3 with a scale for each output and each token
    Fp8,
    /// The same by this project's kernel, sums of 256 columns; on sm_90
    Fp8Own,
    /// Weights alone in E4M3 with a scale for each output: each becomes halves in front of its product
    W8a16,
}

/// In what attention multiplies.
#[derive(Debug, Clone, Copy, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum AttentionFormat {
    /// Halves, or bfloat16 where the linears do
    Fp16,
    /// E4M3 with a scale for each head of a sequence; keys and values that are kept with a scale of 1
    Fp8,
}

/// Whose attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Backend {
    /// The fastest that the GPU has
    Auto,
    /// By TMA and wgmma; sm_90
    Hopper,
    /// By mma.sync; sm_80 and later
    Portable,
}

impl Backend {
    /// The kernel that is asked for on GPUs of this compute capability, and in what it multiplies.
    ///
    /// Errors: one that the GPU lacks, or that has no E4M3.
    fn kernel(
        self,
        capability: (u32, u32),
        format: AttentionFormat,
    ) -> Result<Option<Kernel>, String> {
        match (self, format) {
            (Backend::Auto, _) => Ok(None),
            (Backend::Hopper, _) if capability == (9, 0) => Ok(Some(Kernel::Hopper)),
            (Backend::Hopper, _) => Err(format!(
                "--attention-backend hopper is for compute capability 9.0, this GPU has {}.{}",
                capability.0, capability.1
            )),
            (Backend::Portable, AttentionFormat::Fp16) => Ok(Some(Kernel::Portable)),
            (Backend::Portable, AttentionFormat::Fp8) => {
                Err("--attention-backend portable has no --attention fp8".to_owned())
            }
        }
    }
}

/// How a pass is enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
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
#[derive(Debug, Clone, clap::Args, serde::Serialize)]
pub struct Options {
    /// Blocks of attention and MLP
    #[arg(long, default_value_t = 48)]
    layers: u32,
    /// Elements of a token
    #[arg(long, default_value_t = 8192)]
    d_model: u32,
    /// Heads of attention, each of 128 elements: d-model / 128, which is taken where it is not given
    #[arg(long)]
    heads: Option<u32>,
    /// Elements of a token inside the MLP
    #[arg(long, default_value_t = 32768)]
    d_ff: u32,
    /// Rows of embedding and head
    #[arg(long, default_value_t = 50304)]
    vocab: u32,
    /// In what the linears multiply
    #[arg(long, value_enum, default_value_t = Format::Fp16)]
    precision: Format,
    /// In what attention multiplies: fp8 makes queries, keys and values E4M3, and of one sequence in several chunks keeps
    /// keys and values in nothing else; on sm_90
    #[arg(long, value_enum, default_value_t = AttentionFormat::Fp16)]
    attention: AttentionFormat,
    /// Whose attention
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    attention_backend: Backend,
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
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    budget_s: f64,
    /// Seconds that each stage (build, compare, weights, tune, capture, run) may take: one that takes longer is ended and
    /// leaves a bundle under target/hangs; 0 is no end
    #[arg(long, default_value_t = 900.0, value_parser = seconds)]
    stage_budget_s: f64,
    /// Compare every layer with one GPU's, bit by bit
    #[arg(long)]
    compare: bool,
    /// Samples
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Write all that was measured to this file: every sample, GPUs, versions, algorithms
    #[arg(long)]
    #[serde(skip)]
    json: Option<PathBuf>,
}

/// Measures in a process whose stages have a budget, or here where they have none; the exit code.
///
/// Errors: see [`text`].
pub fn run(root: &Path, options: &Options) -> Result<i32, String> {
    let seconds = options.stage_budget_s;
    if seconds > 0.0 && !watch::is_watched() {
        let most = Duration::try_from_secs_f64(seconds);
        return watch::watched(root, most.map_err(|e| format!("--stage-budget-s: {e}"))?);
    }
    watch::begin()?;
    print!("{}", text(root, options)?);
    Ok(0)
}

/// Measures, and prints a table of it.
///
/// Errors: sizes that cannot be shared, too few GPUs; too little memory for one degree, or a pass that failed, behind
/// all that could be measured.
fn text(root: &Path, options: &Options) -> Result<String, String> {
    measured(root, options).map_err(Stop::why)
}

fn measured(root: &Path, options: &Options) -> Result<String, Stop> {
    let Options { layers, d_model, d_ff, vocab, .. } = *options;
    let precision = match options.precision {
        Format::Fp16 => Precision::F16,
        Format::Bf16 => Precision::Bf16,
        Format::Fp8 => Precision::E4m3,
        Format::Fp8Own => Precision::E4m3Promoted,
        Format::W8a16 => Precision::WeightsE4m3,
    };
    let attention_e4m3 = matches!(options.attention, AttentionFormat::Fp8);
    let config = Config { layers, d_model, d_ff, vocab, seed: 0x5EED, precision, attention_e4m3 };
    of_128(options)?;
    let by = |capability| {
        let Options { attention_backend, attention, .. } = *options;
        attention_backend.kernel(capability, attention).map_err(Stop::Error)
    };
    // What no GPU has is refused before one is opened.
    by((9, 0))?;
    let problem = |chunks| Problem { batches: options.batch, tokens: options.seq, chunks };
    options.chunks.iter().try_for_each(|&chunks| problem(chunks).check())?;
    options.degree.iter().try_for_each(|&degree| config.check(degree as u32))?;
    if let (Mode::Graph, Some(degree)) =
        (options.exec_mode, options.degree.iter().find(|degree| **degree > 1))
    {
        let why = format!("--exec-mode graph is for one GPU, and --degree has {degree}");
        return Err(Stop::Error(why));
    }
    watch::stage("build");
    lab::load_cublaslt(root)?;
    let most = options.degree.iter().copied().max().unwrap_or(1);
    let (gpus, tools) = bench::opened(most, &root.join("target/cubins"), &config, &by)?;
    println!("attention by {}", attention_name(&tools[0], &config));
    let all: Vec<_> = gpus.iter().zip(&tools).collect();
    let uuids: Vec<String> = gpus.iter().map(Gpu::uuid_string).collect();
    let mut report = Report::new(&uuids, &config, options);
    report.rows = foreseen(&gpus, options, &config)?;
    let tokens = bench::tokens(&config, &problem(1), 0x5EED);
    let kept = match options.compare {
        true => {
            watch::stage("compare");
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
    let measuring = Measuring { all: &all, options, config, tokens: &tokens, kept: kept.as_ref() };
    let mut going = true;
    for rows in report.rows.chunk_by_mut(|one, next| one.degree == next.degree) {
        going = going && measuring.degree(rows);
        for row in rows.iter_mut().filter(|row| !going && row.ms.is_empty()) {
            let why = format!("{}: not reached", row.name());
            row.why_not.get_or_insert(why);
        }
    }
    // The table first: a file that cannot be written takes nothing with it.
    print!("{}", report.table());
    if let Some(file) = &options.json {
        report.write(file).map_err(Stop::Error)?;
    }
    match report.left_out() {
        None => Ok(String::new()),
        Some(why) => Err(Stop::Error(why)),
    }
}

/// Seconds, none or more.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is no number of seconds"))?;
    match seconds >= 0.0 {
        true => Ok(seconds),
        false => Err(format!("{text} is no number of seconds from 0 on")),
    }
}

/// The kernel that is attention of the model.
fn attention_name(tools: &Tools, config: &Config) -> String {
    let attention = match (&tools.attention_e4m3, &tools.bf16) {
        (Some((_, eight)), _) if config.attention_e4m3 => eight,
        (_, Some((_, bf16))) if config.precision == Precision::Bf16 => bf16,
        _ => &tools.attention,
    };
    attention.variant().name()
}

/// Refuses heads of another size.
fn of_128(options: &Options) -> Result<(), Stop> {
    let Options { d_model, heads, .. } = *options;
    match heads {
        Some(heads) if heads.checked_mul(HEAD_SIZE) != Some(d_model) => Err(Stop::Error(format!(
            "--heads {heads} of --d-model {d_model}: heads have {HEAD_SIZE} elements here, so that it would be {}",
            d_model / HEAD_SIZE
        ))),
        _ => Ok(()),
    }
}

/// Every degree with every number of chunks, by the formula, and why it does not fit where it does not. With --compare
/// GPU 0 holds a whole model first, and what it keeps of that one until the end.
///
/// Errors: the whole model of --compare does not fit.
fn foreseen(gpus: &[Gpu], options: &Options, config: &Config) -> Result<Vec<Row>, Stop> {
    let free = gpus.iter().map(|gpu| Ok(gpu.mem_info()?.0)).collect::<Result<Vec<u64>, Stop>>()?;
    let problem = |chunks| Problem { batches: options.batch, tokens: options.seq, chunks };
    let kept = if options.compare { kept_bytes(config, &problem(1)) } else { 0 };
    if options.compare {
        let whole = config.weight_bytes(1) + config.activation_bytes(&problem(1), 1);
        println!("--compare: {:.2} GiB kept on GPU 0", gib(kept));
        let what = "--compare, for which GPU 0 holds the whole model first";
        refused(what, whole + kept, &free[..1]).map_err(Stop::Error)?;
    }
    let mut rows = Vec::new();
    for &degree in &options.degree {
        for &chunks in &options.chunks {
            let weight_bytes = config.weight_bytes(degree as u32);
            let activation_bytes = config.activation_bytes(&problem(chunks), degree as u32);
            let bytes = weight_bytes + activation_bytes;
            let free_bytes = free[..degree].iter().min().copied().unwrap_or(0);
            println!(
                "degree {degree} chunks {chunks}: {:.2} GiB of weights and {:.2} of activations on each GPU by the \
                 formula, {:.2} free",
                gib(weight_bytes),
                gib(activation_bytes),
                gib(free_bytes)
            );
            let what = format!("degree {degree}, chunks {chunks}");
            let fits = refused(&what, bytes + kept, &free[..1])
                .and_then(|()| refused(&what, bytes, &free[..degree]));
            let why_not = fits.err();
            let of = Row {
                degree,
                chunks,
                weight_bytes,
                activation_bytes,
                free_bytes,
                ..Row::default()
            };
            rows.push(Row { why_not, ..of });
        }
    }
    Ok(rows)
}

/// What every degree takes.
struct Measuring<'a> {
    all: &'a [(&'a Gpu, &'a Tools)],
    options: &'a Options,
    config: Config,
    tokens: &'a [u32],
    kept: Option<&'a Kept>,
}

impl Measuring<'_> {
    /// Fills the rows of one degree, those that fit; false where one failed, which says why. Those behind it say that
    /// they were not reached.
    fn degree(&self, rows: &mut [Row]) -> bool {
        let mut fitting = rows.iter_mut().filter(|row| row.why_not.is_none()).peekable();
        let Some(degree) = fitting.peek().map(|row| row.degree) else { return true };
        watch::stage("weights");
        let started = std::time::Instant::now();
        let group = Group::new(&self.all[..degree], self.config, Split::Outputs);
        if group.is_ok() {
            println!("degree {degree}: weights made in {:.1} s", started.elapsed().as_secs_f64());
        }
        let mut going = group.map_err(|error| error.to_string());
        for row in fitting {
            let found = match &mut going {
                Ok(group) => self.row(group, row).map_err(Stop::why),
                Err(why) => Err(why.clone()),
            };
            if let Err(why) = found {
                row.why_not = Some(format!("{}: {why}", row.name()));
                going = Err("not reached".to_owned());
            }
        }
        going.is_ok()
    }

    fn row(&self, group: &mut Group<'_>, row: &mut Row) -> Result<(), Stop> {
        watch::stage("tune");
        // The row before has a peak of its own.
        group.clear()?;
        let gpus = || self.all[..row.degree].iter().map(|(gpu, _)| gpu.ledger());
        gpus().for_each(|ledger| ledger.reset_peak());
        let Options { batch: batches, seq: tokens, .. } = *self.options;
        let problem = Problem { batches, tokens, chunks: row.chunks };
        let started = std::time::Instant::now();
        let mode = ready(group, self.options, problem, self.tokens)?;
        let elapsed = started.elapsed().as_secs_f64();
        println!("  {} chunks: {mode}, ready in {elapsed:.1} s", row.chunks);
        (row.mode, row.ready_s) = (Some(mode), Some(elapsed));
        let peak = gpus().map(|ledger| ledger.peak()).max();
        watch::stage("run");
        line(group, self.options, &self.config, &problem, self.kept, row)?;
        row.peak_bytes = peak;
        Ok(())
    }
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
fn refused(what: &str, bytes: u64, free: &[u64]) -> Result<(), String> {
    let least = free.iter().min().copied().unwrap_or(0);
    kernels::model::room(bytes, MARGIN, least).map_err(|error| {
        format!("{what}: {error}: fewer tokens, more chunks, a higher degree, or --precision fp8 or w8a16")
    })
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
            watch::stage("capture");
            group.record()?;
            if searched { "a graph, algorithms searched" } else { "a graph" }
        }
        // Refused before anything was made.
        Mode::Graph => return Err(Stop::Error("--exec-mode graph is for one GPU".into())),
        Mode::Search => "call by call, algorithms searched",
        Mode::Smart if alone => smart::ready(group, late)?.words(),
        Mode::Smart => smart::ready_over_several(group, (problem, tokens), late)?.words(),
    })
}

/// Measures and prints one degree's time, what it is without exchanges, and its differences.
fn line(
    group: &mut Group<'_>,
    options: &Options,
    config: &Config,
    problem: &Problem,
    kept: Option<&Kept>,
    row: &mut Row,
) -> Result<(), Stop> {
    row.ms = group.time(2, options.samples)?;
    let ms = statistics::median(&row.ms).unwrap_or(f64::NAN);
    let host = std::time::Instant::now();
    group.pass()?;
    let host = host.elapsed().as_secs_f64() * 1e3;
    group.wait()?;
    let (degree, chunks) = (group.degree(), problem.chunks);
    let rate = config.flops(problem) / ms / 1e9 / f64::from(degree);
    (row.enqueued_ms, row.tflops) = (Some(host), Some(rate));
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
        row.without = Some([flat, in_step, silent]);
    }
    for (linear, choice) in group.choices()? {
        let (name, algorithm) = (bench::name(linear), bench::algorithm(&choice));
        println!("    {name:5} {algorithm}");
        row.algorithms.insert(name, algorithm);
    }
    if let Some(kept) = kept {
        group.poison()?;
        group.forward(Watch::Compare(kept, 0, 0))?;
        let differences = bench::drift(&group.differences()?).text();
        println!("    against one GPU: {differences}");
        row.differences = Some(differences);
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
    fn heads_of_another_size_are_refused() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            options: Options,
        }
        let asked = |arguments: &[&str]| {
            let all = ["model"].iter().chain(arguments);
            of_128(&Command::parse_from(all).options).map_err(Stop::why)
        };
        assert_eq!(asked(&[]), Ok(()));
        assert_eq!(asked(&["--heads", "64"]), Ok(()));
        let why = asked(&["--heads", "64", "--d-model", "4096"]).expect_err("64 elements");
        assert!(why.starts_with("--heads 64 of --d-model 4096") && why.ends_with("be 32"), "{why}");
    }

    #[test]
    fn a_backend_that_is_not_there_is_refused() {
        let of = |backend: Backend, format| backend.kernel((9, 0), format);
        assert_eq!(of(Backend::Auto, AttentionFormat::Fp8), Ok(None));
        assert_eq!(of(Backend::Hopper, AttentionFormat::Fp8), Ok(Some(Kernel::Hopper)));
        assert_eq!(of(Backend::Portable, AttentionFormat::Fp16), Ok(Some(Kernel::Portable)));
        let why = of(Backend::Portable, AttentionFormat::Fp8).expect_err("no E4M3");
        assert!(why.contains("portable has no --attention fp8"), "{why}");
        let why = Backend::Hopper.kernel((8, 0), AttentionFormat::Fp16).expect_err("no wgmma");
        assert!(why.ends_with("this GPU has 8.0"), "{why}");
    }

    #[test]
    fn a_budget_is_a_time() {
        assert_eq!(seconds("2.5"), Ok(2.5));
        for text in ["nan", "-1", "soon"] {
            assert!(seconds(text).is_err_and(|why| why.starts_with(text)), "{text}");
        }
    }

    #[test]
    fn what_leaves_no_margin_is_refused() {
        let free = [80 << 30, 10 << 30];
        assert!(refused("all", 8 << 30, &free).is_ok());
        assert!(refused("the first", 78 << 30, &free[..1]).is_ok());
        let why = refused("all", (8 << 30) + 1, &free);
        assert!(
            why.is_err_and(|why| why.contains("8.00 GiB and 2 beside them do not fit into 10.00"))
        );
    }
}
