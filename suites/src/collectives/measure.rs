//! `touchstone measure collectives`: one collective at some sizes and ways; judges nothing.

use std::path::Path;
use std::process::Command;

use harness::node::Node;
use harness::record::Stop;
use harness::statistics;
use kernels::allreduce::{Algorithm, AllReduce, Call, ONE_SHOT_MOST};
use kernels::device::{Buffer, CudaStream, Gpu, Module};
use kernels::element::Element;
use kernels::graph;
use kernels::libraries::{self, Library};
use kernels::nccl::{self, Collective, Communicators, Operation};
use kernels::together::Together;
use kernels::{KernelSource, allreduce, jit, timing};

use super::bench::{microseconds, milliseconds, replayed, sized};
use crate::{environment, lab, node};

/// What to measure. Lists are separated by commas; every combination is a line.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// GPUs, the first of the node
    #[arg(long, default_value_t = 4)]
    gpus: u32,
    /// Sizes as nccl-tests count them
    #[arg(long, value_delimiter = ',', default_values_t = [512, 32 << 10, 1 << 20, 128 << 20])]
    bytes: Vec<u64>,
    /// all-reduce, all-gather, reduce-scatter, broadcast, all-to-all or send-recv; NCCL has them all
    #[arg(long, default_value = "all-reduce")]
    op: String,
    /// nccl, one-shot, two-shot, pushed
    #[arg(long, value_delimiter = ',', default_values_t = ["one-shot".to_owned(), "two-shot".to_owned(), "pushed".to_owned()])]
    backend: Vec<String>,
    /// Blocks of the own kernels; what suits the size where not given
    #[arg(long, value_delimiter = ',')]
    blocks: Vec<u32>,
    /// Threads of a block of the own kernels, whole warps; what suits the size where not given
    #[arg(long)]
    threads: Option<u32>,
    /// fp16, bf16 or f32
    #[arg(long, default_value = "fp16")]
    precision: String,
    /// Calls of a sample; what suits the size where not given
    #[arg(long)]
    calls: Option<u32>,
    /// Samples
    #[arg(long, default_value_t = 11)]
    samples: u32,
    /// Enqueued one by one, not in a graph
    #[arg(long)]
    eager: bool,
    /// Set once the libraries are linked for this process
    #[arg(long, hide = true)]
    linked: bool,
}

/// Microseconds and bandwidths as lines of text.
///
/// Errors: options that are none, a library that is missing, a GPU that fails.
pub fn text(root: &Path, options: &Options) -> Result<String, String> {
    if !options.linked {
        return linked(root);
    }
    measured(root, options).map_err(Stop::why)
}

/// This command once more, with the libraries and variables that a child of a run gets: NCCL is found by
/// the loader alone, and multicast stays off.
fn linked(root: &Path) -> Result<String, String> {
    let folder = root.join("target/measure");
    let variables = node::Machine::new(root.to_path_buf()).child_environment(&folder)?;
    let executable = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(executable)
        .args(std::env::args_os().skip(1))
        .arg("--linked")
        .envs(variables)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("error: ").to_owned())
}

/// All GPUs with their buffers.
struct Setup<'a> {
    gpus: &'a [Gpu],
    streams: Vec<&'a CudaStream>,
    inputs: Vec<Buffer>,
    outputs: Vec<Buffer>,
    together: Together,
}

fn measured(root: &Path, options: &Options) -> Result<String, Stop> {
    let wrong = environment::violations(|name| std::env::var(name).ok());
    if !wrong.is_empty() {
        return Err(Stop::Error(format!("{} is not as a child has it", wrong.join(", "))));
    }
    lab::require(Library::Cuda)?;
    lab::require(Library::Nvrtc)?;
    let gpus: Vec<Gpu> = (0..options.gpus).map(Gpu::open).collect::<Result<_, _>>()?;
    let first = gpus.first().ok_or_else(|| Stop::Error("no GPU".into()))?;
    let architecture = jit::architecture_of(first.compute_capability)
        .ok_or_else(|| Stop::NotApplicable("no kernel for this GPU".into()))?;
    let load = |source: &KernelSource| -> Result<Vec<Module>, Stop> {
        let cubin = jit::cached(source, architecture, &root.join("target/cubins"))?;
        Ok(gpus.iter().map(|gpu| gpu.load(&cubin.bytes)).collect::<Result<_, _>>()?)
    };
    let latches = load(&timing::SOURCE)?;
    let lanes: Vec<_> = gpus.iter().zip(&latches).collect();
    let most = options.bytes.iter().copied().max().unwrap_or(16).max(4096);
    let alloc = |gpu: &Gpu| gpu.alloc(most);
    let mut setup = Setup {
        gpus: &gpus,
        streams: gpus.iter().map(Gpu::stream).collect(),
        inputs: gpus.iter().map(alloc).collect::<Result<_, _>>()?,
        outputs: gpus.iter().map(alloc).collect::<Result<_, _>>()?,
        together: Together::new(&lanes)?,
    };
    for (gpu, buffer) in gpus.iter().zip(&setup.inputs) {
        buffer.fill_u32(gpu.stream(), 0)?;
    }
    setup.gpus.iter().try_for_each(Gpu::synchronize)?;
    let own = AllReduce::new(&gpus, &load(&allreduce::SOURCE)?)?;
    let nccl = options.backend.iter().any(|name| name == "nccl");
    let comms = match nccl {
        true => {
            libraries::require(Library::Nccl)?;
            Some(Communicators::new(&gpus)?)
        }
        false => None,
    };
    table(&mut setup, &own, comms.as_ref(), options)
}

fn table(
    setup: &mut Setup<'_>,
    own: &AllReduce,
    comms: Option<&Communicators<'_>>,
    options: &Options,
) -> Result<String, Stop> {
    let unknown = |what: &str| Stop::Error(format!("{what} is not known"));
    let operation = Operation::ALL.into_iter().find(|operation| operation.name() == options.op);
    let operation = operation.ok_or_else(|| unknown(&options.op))?;
    let element = match options.precision.as_str() {
        "fp16" => Element::F16,
        "bf16" => Element::Bf16,
        "f32" => Element::F32,
        other => return Err(unknown(other)),
    };
    let ranks = setup.gpus.len();
    let mut text = format!(
        "{:>12} {:10} {:>6} {:>7} {:>10} {:>10} {:>10} {:>9} {:>9}\n",
        "bytes", "backend", "blocks", "threads", "us p50", "least", "most", "algbw", "busbw"
    );
    for size in &options.bytes {
        let bytes = sized(*size, ranks);
        for backend in &options.backend {
            let algorithm = match backend.as_str() {
                "nccl" => None,
                "one-shot" => Some(Algorithm::OneShot),
                "two-shot" => Some(Algorithm::TwoShot),
                "pushed" => Some(Algorithm::Pushed),
                other => return Err(unknown(other)),
            };
            let no_own = operation != Operation::AllReduce && algorithm.is_some();
            if no_own || algorithm == Some(Algorithm::OneShot) && bytes > ONE_SHOT_MOST {
                continue;
            }
            let given: Vec<Option<u32>> = match algorithm.is_none() || options.blocks.is_empty() {
                true => vec![None],
                false => options.blocks.iter().copied().map(Some).collect(),
            };
            for blocks in given {
                let call = Call {
                    blocks,
                    threads: options.threads,
                    ..Call::new(bytes, element, own.ranks())
                };
                let line = match (algorithm, comms) {
                    (None, None) => return Err(unknown("nccl")),
                    (None, Some(comms)) => {
                        let collective = Collective { operation, bytes, element };
                        of_nccl(setup, comms, collective, options).map(|us| (us, (0, 0)))
                    }
                    (Some(algorithm), _) => of_own(setup, own, Call { algorithm, ..call }, options),
                };
                match line {
                    Ok(line) => text.push_str(&row(operation, ranks, bytes, backend, line)),
                    // What was measured before a failure is not lost with it.
                    Err(stop) => {
                        text.push_str(&format!("{bytes:>12} {backend:10} {}\n", stop.why()));
                    }
                }
            }
        }
    }
    Ok(text)
}

/// One line of the table.
fn row(
    operation: Operation,
    ranks: usize,
    bytes: u64,
    backend: &str,
    (us, (blocks, threads)): (Vec<f64>, (u32, u32)),
) -> String {
    let median = statistics::median(&us).unwrap_or(f64::NAN);
    let least = us.iter().copied().fold(f64::INFINITY, f64::min);
    let most = us.iter().copied().fold(0.0, f64::max);
    let (algorithm, bus) = nccl::bandwidths(operation, ranks, bytes, median / 1e3);
    format!(
        "{bytes:>12} {backend:10} {blocks:>6} {threads:>7} {median:>10.3} {least:>10.3} {most:>10.3} \
         {algorithm:>9.2} {bus:>9.2}\n"
    )
}

/// Calls of a sample: some milliseconds at most.
fn calls(options: &Options, bytes: u64) -> u32 {
    options.calls.unwrap_or(match bytes {
        0..=1_048_576 => 50,
        1_048_577..=16_777_216 => 20,
        _ => 4,
    })
}

fn of_nccl(
    setup: &mut Setup<'_>,
    comms: &Communicators<'_>,
    collective: Collective,
    options: &Options,
) -> Result<Vec<f64>, Stop> {
    let Setup { gpus, streams, inputs, outputs, together } = setup;
    let prepared = comms.prepare(inputs, outputs, collective)?;
    let count = calls(options, collective.bytes);
    prepared.launch(streams)?;
    gpus.iter().try_for_each(Gpu::synchronize)?;
    let us = if options.eager {
        let ms = milliseconds(together, gpus.len(), options.samples, |streams| {
            (0..count).try_for_each(|_| prepared.launch(streams))
        })?;
        microseconds(&ms, count)
    } else {
        let lanes: Vec<_> = gpus.iter().zip(streams.iter().copied()).collect();
        let mut graphs =
            graph::capture_each(&lanes, || (0..count).try_for_each(|_| prepared.launch(streams)))?;
        microseconds(&replayed(together, options.samples, &mut graphs)?, count)
    };
    comms.check()?;
    Ok(us)
}

fn of_own(
    setup: &mut Setup<'_>,
    own: &AllReduce,
    call: Call,
    options: &Options,
) -> Result<(Vec<f64>, (u32, u32)), Stop> {
    let Setup { gpus, streams, inputs, outputs, together } = setup;
    let prepared = own.prepare(&*inputs, &*outputs, call)?;
    let count = calls(options, call.bytes);
    let us = if options.eager {
        let ms = milliseconds(together, gpus.len(), options.samples, |streams| {
            (0..count).try_for_each(|_| prepared.launch_all(streams))
        })?;
        microseconds(&ms, count)
    } else {
        let lanes: Vec<_> = gpus.iter().zip(streams.iter().copied()).collect();
        let mut graphs = graph::capture_each(&lanes, || {
            (0..count).try_for_each(|_| prepared.launch_all(streams))
        })?;
        microseconds(&replayed(together, options.samples, &mut graphs)?, count)
    };
    Ok((us, prepared.grid()))
}
