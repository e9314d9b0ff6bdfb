//! `touchstone`: the hardware run without cargo, and what an operator asks beside it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand};
use harness::attest;
use suites::{bundle, doctor, explain, root, selftest, tune};

#[derive(Parser)]
#[command(name = "touchstone", version, about = "Claims about GPU machines, measured and judged.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure or judge claims: the options of `cargo test --test hardware`
    #[command(disable_help_flag = true)]
    Hardware {
        /// Passed on as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What this machine has and lacks, and what each lack costs in claims
    Doctor,
    /// A claim: its sentence, source, procedure, bounds, controls and last evidence
    Explain {
        /// The claim's id, for example bandwidth::hbm-read
        claim: String,
    },
    /// Pack this executable with goldens, fixtures and evidence for a node that has no Rust
    Bundle {
        /// The .tar.gz to write
        file: PathBuf,
    },
    /// Compile every kernel for every architecture; needs NVRTC, but no GPU
    Kernels {
        /// Compare with kernels/cubins.lock and fail on spills: what CI runs
        #[arg(long)]
        gate: bool,
        /// Write kernels/cubins.lock
        #[arg(long, conflicts_with = "gate")]
        lock: bool,
    },
    /// Every streaming variant on one GPU, for a new board; judges nothing
    Tune {
        /// CUDA's ordinal
        #[arg(long, default_value_t = 0)]
        gpu: u32,
        /// Size of each array
        #[arg(long, default_value_t = 8)]
        gib: u64,
    },
    /// A workload of your own: rate and errors; judges nothing
    Measure {
        #[command(subcommand)]
        what: Measured,
    },
    /// Contradictions of Markdown documents: with themselves, each other and physics
    Audit(harness::audit::command::Options),
    /// Two runs of one board, claim by claim: faster, slower, same, ambiguous
    Compare(harness::compare::command::Options),
    /// Make a key for sealing: FILE, read by its owner alone, and FILE.pub
    Keygen {
        /// Where the key goes
        file: PathBuf,
    },
    /// Seal a run: an in-toto statement in a DSSE envelope, signed with ed25519
    Seal {
        /// The beginning of a recorded run's digest or id, a run's folder, or its archive
        run: String,
        /// The key's file
        #[arg(long, required_unless_present = "key_variable", conflicts_with = "key_variable")]
        key: Option<PathBuf>,
        /// Name of an environment variable that holds the key
        #[arg(long)]
        key_variable: Option<String>,
        /// Where the envelope goes
        #[arg(long)]
        out: PathBuf,
    },
    /// Verify a sealed run: its signature, digests and schemas, and every figure from its samples
    Verify {
        /// The run, as for seal
        run: String,
        /// The envelope
        envelope: PathBuf,
        /// Public keys that are trusted; without one only integrity is checked
        #[arg(long)]
        trust: Vec<PathBuf>,
        /// Compile every kernel again and compare with kernels/cubins.lock
        #[arg(long)]
        kernels: bool,
    },
    /// Write the manifest of a run whose process ended before it could, from what it left; the manifest says so
    Recover {
        /// The run's folder
        folder: PathBuf,
        /// Why the run did not write it
        #[arg(long)]
        because: String,
        /// Where an archive of the run goes, for hardware --record
        #[arg(long)]
        archive: Option<PathBuf>,
    },
    /// Planted faults: broken files and every recorded control, and how many are seen as what they are
    Detector,
    /// Measure on a schedule, archive each run, and alert when a golden or a trend breaks
    Watch(harness::watch::command::Options),
    /// The generated checklists
    Checklists {
        /// Fail if a committed checklist is not what the recorded evidence gives
        #[arg(long)]
        check: bool,
    },
}

#[derive(Subcommand)]
enum Measured {
    /// Forward attention
    Attention(suites::attention::measure::Options),
    /// The 48-layer model, or one of other sizes, over any number of GPUs
    Model(suites::tensor_parallel::measure::Options),
    /// Collectives over several GPUs, ours and NCCL's
    Collectives(suites::collectives::measure::Options),
    /// A trained model of your own in several precisions: perplexity, divergence, agreement and a verdict
    Accuracy(suites::precision::measure::Options),
    /// A matrix product in the precision that keeps your accuracy, or in one that you name
    Product(suites::precision::product::Options),
}

fn main() -> ExitCode {
    // A child of a run is started as `touchstone --child ASSIGNMENT`.
    let arguments: Vec<String> =
        std::env::args_os().map(|given| given.to_string_lossy().into_owned()).collect();
    if arguments.get(1).is_some_and(|first| first == "--child" || first == selftest::PLANT) {
        return code(suites::hardware(&arguments));
    }
    match run(Cli::parse().command) {
        Ok(status) => code(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            code(harness::app::USAGE)
        }
    }
}

/// A file's text; the error names it.
fn read(file: &std::path::Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}

/// Exit codes of the run are 0 to 4 and 130.
fn code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}

fn run(command: Command) -> anyhow::Result<i32> {
    let message = |text: String| anyhow!(text);
    if let Command::Audit(options) = &command {
        return audit(options);
    }
    let root = root::find().map_err(message)?;
    match command {
        Command::Audit(options) => audit(&options),
        Command::Hardware { arguments } => {
            let line: Vec<String> =
                std::iter::once("touchstone hardware".to_owned()).chain(arguments).collect();
            Ok(suites::hardware(&line))
        }
        Command::Doctor => {
            let text = suites::with_world(root, doctor::text).map_err(message)?;
            print!("{text}");
            Ok(0)
        }
        Command::Explain { claim } => {
            let text = suites::with_world(root, |world| explain::text(world, &claim));
            print!("{}", text.map_err(message)?);
            Ok(0)
        }
        Command::Bundle { file } => {
            let size = bundle::write(&root, &file).map_err(message)?;
            println!(
                "{}: {:.1} MB; unpack it and run ./touchstone hardware --gpus N",
                file.display(),
                size as f64 / 1e6
            );
            Ok(0)
        }
        Command::Kernels { gate, lock } => kernels_command(&root, gate, lock),
        Command::Tune { gpu, gib } => {
            print!("{}", tune::text(&root, gpu, gib << 30)?);
            Ok(0)
        }
        Command::Measure { what: Measured::Attention(options) } => {
            print!("{}", suites::attention::measure::text(&root, &options).map_err(message)?);
            Ok(0)
        }
        Command::Measure { what: Measured::Model(options) } => {
            suites::tensor_parallel::measure::run(&root, &options).map_err(message)
        }
        Command::Measure { what: Measured::Collectives(options) } => {
            print!("{}", suites::collectives::measure::text(&root, &options).map_err(message)?);
            Ok(0)
        }
        Command::Measure { what: Measured::Accuracy(options) } => {
            suites::precision::measure::run(&root, &options).map_err(message)
        }
        Command::Measure { what: Measured::Product(options) } => {
            print!("{}", suites::precision::product::text(&root, &options).map_err(message)?);
            Ok(0)
        }
        Command::Compare(options) => suites::with_world(root, |world| {
            let ended = harness::compare::command::run(&options, world)?;
            print!("{}", ended.text);
            Ok(ended.status)
        }),
        Command::Keygen { file } => {
            println!("key {} in {}", attest::make_key(&file)?, file.display());
            Ok(0)
        }
        Command::Seal { run, key, key_variable, out } => suites::with_world(root, |world| {
            let (name, text) = match (key, key_variable) {
                (Some(file), _) => (file.display().to_string(), read(&file)?),
                (None, Some(name)) => {
                    let text = std::env::var(&name).map_err(|_| anyhow!("{name} is not set"))?;
                    (name, text)
                }
                (None, None) => return Err(anyhow!("no key")),
            };
            let key = attest::signing_key(&name, &text)?;
            let opened = attest::open(world, &run)?;
            let envelope = attest::seal(world, &opened.finished, &key)?;
            let text = attest::render(&envelope)?;
            harness::files::write(&out, text.as_bytes()).map_err(message)?;
            println!("sealed {} in {}", opened.finished.run.run, out.display());
            Ok(0)
        }),
        Command::Verify { run, envelope, trust, kernels } => {
            let ended = suites::with_world(root.clone(), |world| -> anyhow::Result<i32> {
                let mut trusted = Vec::new();
                for file in &trust {
                    trusted.push(attest::public_key(&file.display().to_string(), &read(file)?)?);
                }
                let opened = attest::open(world, &run)?;
                let sealed = (envelope.display().to_string(), read(&envelope)?);
                let sealed = (sealed.0.as_str(), sealed.1.as_str());
                let report = attest::verify(world, &opened.finished, sealed, &trusted)?;
                print!("{}", report.text);
                Ok(i32::from(!report.holds))
            })?;
            let again = if kernels { kernels_command(&root, true, false)? } else { 0 };
            Ok(ended.max(again))
        }
        Command::Recover { folder, because, archive } => {
            let (run, sha256) = harness::recover::recover(&folder, &because).map_err(message)?;
            if let Some(file) = archive {
                harness::files::archive(&folder, &run.run, &file).map_err(message)?;
                println!("archive   {}", file.display());
            }
            let cut = if run.interrupted { ", not all that were planned" } else { "" };
            println!("recovered {}: {} cases{cut}", run.run, run.cases.len());
            println!("manifest  sha256:{sha256}");
            Ok(0)
        }
        Command::Detector => suites::with_world(root, |world| {
            let (text, holds) = harness::detector::account(world).map_err(message)?;
            print!("{text}");
            Ok(i32::from(!holds))
        }),
        Command::Watch(options) => suites::with_world(root, |world| {
            Ok(harness::watch::command::run(&options, world, &measure)?)
        }),
        Command::Checklists { check } => suites::with_world(root, |world| {
            if !check {
                let written = harness::pages::update(world).map_err(message)?;
                written.iter().for_each(|file| println!("wrote {file}"));
                return Ok(0);
            }
            let stale = harness::pages::stale(world).map_err(message)?;
            stale.iter().for_each(|file| println!("{file} is not what the evidence gives"));
            println!("{} checklists differ", stale.len());
            Ok(i32::from(!stale.is_empty()))
        }),
    }
}

/// A hardware run as a process of its own: this executable again, with these options.
fn measure(arguments: &[String]) -> Result<i32, harness::watch::WatchError> {
    let not_started =
        |error: std::io::Error| harness::watch::WatchError::NotStarted(error.to_string());
    let own = std::env::current_exe().map_err(not_started)?;
    let status = std::process::Command::new(own).arg("hardware").args(arguments).status();
    // Ended by a signal: interrupted.
    Ok(status.map_err(not_started)?.code().unwrap_or(130))
}

/// Needs no root, as a document may lie anywhere; only numbers bound to evidence need the records.
fn audit(options: &harness::audit::command::Options) -> anyhow::Result<i32> {
    use harness::audit::{Nothing, WorldRecords, command};
    let ended = match root::find() {
        Ok(root) => {
            suites::with_world(root, |world| command::run(options, &WorldRecords::new(world)))?
        }
        Err(reason) => command::run(options, &Nothing(reason))?,
    };
    ended.changed.iter().for_each(|line| eprintln!("rewrote {line}"));
    print!("{}", ended.report);
    Ok(ended.status)
}

/// Compiles every kernel for every architecture and prints what each entry uses.
fn kernels_command(root: &std::path::Path, gate: bool, lock: bool) -> anyhow::Result<i32> {
    use kernels::libraries::{self, Library};
    let found = libraries::find(Some(root));
    let nvrtc = found.iter().find(|found| found.library == Library::Nvrtc);
    libraries::preload(nvrtc.context("no place to look for nvrtc")?)?;
    let cubins = kernels::jit::gate(&kernels::sources())?;
    print!("{}", kernels::jit::table(&cubins));
    let rendered = kernels::jit::render_lock(&cubins);
    let path = root.join("kernels/cubins.lock");
    if lock {
        std::fs::write(&path, &rendered).with_context(|| path.display().to_string())?;
        println!("wrote kernels/cubins.lock");
    }
    if gate {
        let locked = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if locked != rendered {
            for (was, is) in locked.lines().zip(rendered.lines()).filter(|(was, is)| was != is) {
                println!("locked: {was}\n    is: {is}");
            }
            println!(
                "kernels/cubins.lock is not what the compiler gives: touchstone kernels --lock"
            );
            return Ok(1);
        }
        println!("{} cubins are what kernels/cubins.lock says", cubins.len());
    }
    Ok(0)
}
