//! `touchstone measure attention`: an operator's own attention, timed and checked; judges nothing.

use std::path::Path;
use std::time::Duration;

use harness::record::Stop;
use harness::statistics;
use kernels::attention::program::Program;
use kernels::attention::variant::Kernel;
use kernels::device::{Gpu, Module};
use kernels::element::Element;
use kernels::timing::{self, Plan, Timer};
use kernels::{KernelSource, jit};

use crate::lab;

use super::backend;
use super::scene::{Scene, Setting};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// CUDA's ordinal
    #[arg(long, default_value_t = 0)]
    gpu: u32,
    /// Sequences
    #[arg(long, default_value_t = 1)]
    batch: u32,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 8192)]
    seq: u32,
    /// Heads of queries
    #[arg(long, default_value_t = 64)]
    heads: u32,
    /// Heads of keys and values; as many as of queries where not given
    #[arg(long)]
    kv_heads: Option<u32>,
    /// Elements of a head, 64 or 128
    #[arg(long, default_value_t = 128)]
    head_size: u32,
    /// fp16, bf16 or fp8 (E4M3 queries, keys and values with a scale a head)
    #[arg(long, default_value = "fp16")]
    precision: String,
    /// flex (programmable), sdpa (plain), auto; add -portable for the kernel without wgmma
    #[arg(long, default_value = "auto")]
    attention_backend: String,
    /// Every key for every query; causal where not given
    #[arg(long)]
    full: bool,
    /// Keys that a query sees, its own included
    #[arg(long)]
    window: Option<u32>,
    /// A file with a mask or a score of your own; see kernels/src/attention/program.cuh
    #[arg(long)]
    program: Option<std::path::PathBuf>,
    /// Samples
    #[arg(long, default_value_t = 11)]
    samples: u32,
}

/// Rate and errors as lines of text.
///
/// Errors: options that are none, a program that does not compile (with the line of its own text), a
/// GPU that fails.
pub fn text(root: &Path, options: &Options) -> Result<String, String> {
    measured(root, options).map_err(Stop::why)
}

fn measured(root: &Path, options: &Options) -> Result<String, Stop> {
    lab::load_libraries(root)?;
    let gpu = Gpu::open(options.gpu)?;
    let architecture = jit::architecture_of(gpu.compute_capability)
        .ok_or_else(|| Stop::NotApplicable("no kernel for this GPU".into()))?;
    let cache = root.join("target/cubins");
    let mut load = |source: &'static KernelSource| -> Result<Module, Stop> {
        Ok(gpu.load(&jit::cached(source, architecture, &cache)?.bytes)?)
    };
    let setting = setting(options, &gpu)?;
    let scene = Scene::new(&gpu, &mut load, setting, 0x5EED)?;
    scene.run(gpu.stream(), &scene.problem())?;
    let oracle = scene.reference(&mut load)?;
    let errors = scene.errors(&gpu, &oracle, &scene.rows(64, 1))?;
    let mut timer = Timer::new(&gpu, &load(&timing::SOURCE)?)?;
    let plan = Plan {
        warmup: 2,
        samples: options.samples,
        fewest_samples: 3,
        launches: 1,
        budget: Some(Duration::from_secs(10)),
        rest: 3,
    };
    let prepared = scene.prepared()?;
    let ms = timer.measure(plan, None, |stream| prepared.launch(stream))?;
    let ms = statistics::median(&ms).unwrap_or(f64::NAN);
    let setting = &scene.setting;
    let mut text = format!(
        "kernel      {:?}, program {}\n{:?}\ntime        {ms:.4} ms\n",
        setting.kernel, setting.program.name, setting.shape
    );
    match scene.visited(gpu.stream())? {
        Some((partial, full)) => {
            text.push_str(&format!("tiles       {partial} partial, {full} full\n"))
        }
        None => text.push_str(&format!("rate        {:.1} TFLOP/s\n", setting.flops() / ms / 1e9)),
    }
    text.push_str(&format!(
        "error       {:.3e}, of a plain 16-bit implementation {:.3e}; rms {:.3} of that, {:.2e} of the output; lse {:.1e}\n",
        errors.largest, errors.plain_largest, errors.rms_ratio, errors.relative_rms, errors.lse_largest
    ));
    text.push_str(&format!("workspace   {} bytes\n", scene.workspace_bytes()));
    Ok(text)
}

fn setting(options: &Options, gpu: &Gpu) -> Result<Setting, Stop> {
    let error = |what: String| Stop::Error(what);
    let (name, portable) = match options.attention_backend.strip_suffix("-portable") {
        Some(name) => (name, true),
        None => (options.attention_backend.as_str(), false),
    };
    let kernel = if portable { Kernel::Portable } else { backend::kernel_for(gpu) };
    let (element, e4m3) = match options.precision.as_str() {
        "fp16" => (Element::F16, false),
        "bf16" => (Element::Bf16, false),
        "fp8" => (Element::F16, true),
        other => return Err(error(format!("--precision {other} is not fp16, bf16 or fp8"))),
    };
    let kv_heads = options.kv_heads.unwrap_or(options.heads);
    let shape =
        Setting::shape(options.batch, options.seq, options.heads, kv_heads, options.head_size);
    let mut setting = Setting { element, e4m3, ..Setting::plain(kernel, shape, !options.full) };
    setting.left = options.window.map(|window| window.max(1) - 1);
    if let Some(file) = &options.program {
        let text = std::fs::read_to_string(file)
            .map_err(|why| error(format!("{}: {why}", file.display())))?;
        let file_name =
            file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        setting.program = Program { name: file_name.into(), text: text.into() };
    }
    backend::choose(name, &mut setting).map_err(error)?;
    Ok(setting)
}
