//! How much less memory the weights of a model take in E4M3.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::weights::{Split, Weights};
use kernels::model::{self, Config, Kernels, Precision, Share};
use kernels::quantise::{self, Quantiser};

use crate::lab::Lab;

/// Device memory that weights in E4M3 take less than in fp16, over that of fp16.
pub const DROP: &str = "weights_drop_percent";
/// Device memory of a model's weights.
const WEIGHTS: &str = "weights_gib";

/// Memory that the weights in fp16 need, with room for what is made besides.
const NEEDED_BYTES: u64 = 85_000_000_000;
/// Layers that the control leaves in fp16.
const LEFT: u32 = 16;

static CONTROLS: [Control; 1] = [Control {
    name: "a-third-in-halves",
    fault: "16 of 48 layers stay in fp16",
    trips: DROP,
    expect: Expect::Refuted,
}];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::weight-memory",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The weights of the 48-layer model are made on one GPU in fp16, and again with every linear in E4M3 with an \
                f32 scale a row, embedding, gains and biases in fp16. What each takes is the free device memory \
                before less that afterwards. Not run with less than 85 GB of free memory.",
    samples: 0,
    expected_s: 3.0,
    deadline_s: 300.0,
    kernels: &["model", "quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

/// Bytes of free memory that some layers take, each range in a precision.
fn taken(
    gpu: &Gpu,
    makers: (&Kernels, &Quantiser),
    parts: &[(Precision, std::ops::Range<u32>)],
) -> Result<u64, Stop> {
    gpu.synchronize()?;
    let (before, _) = gpu.mem_info()?;
    let mut weights = Vec::new();
    for (precision, layers) in parts {
        let config = Config { precision: *precision, ..Config::SEED_002 };
        let alone = Share { rank: 0, degree: 1 };
        weights.push(Weights::new(gpu, makers, &config, layers.clone(), alone, Split::Outputs)?);
    }
    gpu.synchronize()?;
    let (after, _) = gpu.mem_info()?;
    Ok(before - after)
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let (free, _) = gpu.mem_info()?;
    if free < NEEDED_BYTES {
        return Err(Stop::NotRun(format!(
            "{free} bytes of free device memory, the weights need {NEEDED_BYTES}"
        )));
    }
    let kernels = Kernels::new(gpu, &lab.module(gpu, &model::SOURCE, recorder)?)?;
    let quantiser = Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?;
    let take =
        |parts: &[(Precision, std::ops::Range<u32>)]| taken(gpu, (&kernels, &quantiser), parts);
    let layers = Config::SEED_002.layers;
    recorder.progress("fp16");
    let halves = take(&[(Precision::F16, 0..layers)])?;
    let drop = |bytes: u64| {
        let percent = 100.0 * (1.0 - bytes as f64 / halves as f64);
        Metric::exact(DROP, &[], &[index], (percent * 1e4).round() / 1e4)
    };
    let size = |precision, bytes: u64| {
        let gib = bytes as f64 / f64::from(1 << 30);
        Metric::exact(WEIGHTS, &[("weights", precision)], &[index], gib)
    };
    recorder.progress("e4m3");
    let codes = take(&[(Precision::E4m3, 0..layers)])?;
    recorder.metric(size("fp16", halves));
    recorder.metric(size("e4m3", codes));
    recorder.metric(drop(codes));
    recorder.progress("a third in fp16");
    let mixed =
        take(&[(Precision::E4m3, 0..layers - LEFT), (Precision::F16, layers - LEFT..layers)])?;
    recorder.control("a-third-in-halves", drop(mixed));
    lab.close(recorder);
    Ok(())
}
