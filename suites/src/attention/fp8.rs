//! Attention over queries, keys and values in E4M3 with a scale for each head: how much it errs, and how
//! fast it runs.

use std::time::Duration;

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Metric;
use harness::record::{Assignment, At, Recorder, Stop};
use kernels::attention::Shape;
use kernels::attention::forward::Problem;
use kernels::attention::quantise::{HeadScales, Scales};
use kernels::attention::variant::{Fault, Kernel};
use kernels::device::{Buffer, CudaStream, Gpu};
use kernels::timing::{self, Plan, Timer};

use super::rates::{self, SHAPES, Timed};
use super::scene::{Scene, Setting};
use super::{backend, bits};
use crate::lab::{Lab, differing, finite};

/// Root mean square of the error, over that of the output, against f64 on what E4M3 holds.
pub const METRIC: &str = "e4m3_rms_ratio";
/// The same against f64 on the operands before they were rounded to E4M3.
pub const ROUNDING_METRIC: &str = "e4m3_rounding_rms_ratio";
/// |output - 1| where every weight is equal and every value is 1.
pub const SUM_METRIC: &str = "e4m3_sum_error_ratio";
/// Rate of a shape.
pub const RATE_METRIC: &str = "e4m3_attention_tflops";
/// Rate over that of fp16, sample by sample in turn.
pub const OVER_METRIC: &str = "e4m3_over_fp16_ratio";

const SHIFTED_KEY: Control = Control {
    name: "shifted-key",
    fault: "every key is read from one row further on, and the last not at all",
    trips: METRIC,
    expect: Expect::Refuted,
};

static CONTROLS: [Control; 4] = [
    Control {
        name: "neighbours-scale",
        fault: "every head of keys has the scale of the next",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    Control { trips: ROUNDING_METRIC, ..SHIFTED_KEY },
    Control {
        name: "one-accumulator",
        fault: "the tensor cores add the products of all tiles, in their 14 bits",
        trips: SUM_METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "scale-two-ulps-off",
        fault: "the scale of the second run is two units in the last place larger",
        trips: bits::METRIC,
        expect: Expect::Refuted,
    },
];

/// Accuracy and bits.
pub static CASE: Case = Case {
    id: "attention::fp8",
    revision: 2,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: super::TIER,
    self_test_only: false,
    procedure: "N(0, 1) operands whose heads differ in magnitude are rounded to E4M3, each head by its own \
                scale: full, causal and windowed, 1000 to 8192 tokens, single and shared heads of keys. \
                Rows are compared with f64, on what E4M3 holds and on the operands before. Then 65536 \
                keys of equal weight and value 1, and one problem 20 times and each sequence alone, word \
                by word. Not applicable where there is no sm_90.",
    samples: 0,
    expected_s: 4.0,
    deadline_s: 240.0,
    kernels: &["operands", "attention-quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

static RATE_CONTROLS: [Control; 4] = [
    Control {
        name: "a-sixteenth-more",
        fault: "there is a sixteenth more keys than is counted",
        trips: RATE_METRIC,
        expect: Expect::Regressed,
    },
    Control {
        name: "three-times",
        fault: "the attention is done three times and counted once",
        trips: RATE_METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "an-eighth-more",
        fault: "the E4M3 attention has an eighth more keys than the one in fp16",
        trips: OVER_METRIC,
        expect: Expect::Refuted,
    },
    SHIFTED_KEY,
];

/// Rates.
pub static RATE_CASE: Case = Case {
    id: "attention::fp8-rates",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: super::TIER,
    self_test_only: false,
    procedure: "64 heads of 128, as in attention::rates, on operands that are E4M3 already and values that \
                are transposed already. Beside fp16: one sample of each in turn, over 8192 tokens, full. \
                Rows of what was timed are compared with f64. Not applicable where there is no sm_90.",
    samples: SAMPLES,
    expected_s: 4.0,
    deadline_s: 240.0,
    kernels: &["operands", "timing", "attention-quantise"],
    integrity: &[],
    controls: &RATE_CONTROLS,
    run: timed,
};

struct Bench<'a> {
    lab: &'a Lab,
    gpu: &'a Gpu,
    index: u32,
    seed: u64,
}

fn setting(shape: Shape, causal: bool) -> Setting {
    Setting { e4m3: true, ..Setting::plain(Kernel::Hopper, shape, causal) }
}

impl Bench<'_> {
    fn scene(&mut self, setting: Setting, recorder: &mut Recorder) -> Result<Scene, Stop> {
        self.seed += 16;
        let (lab, gpu) = (self.lab, self.gpu);
        Scene::new(gpu, &mut |source| lab.module(gpu, source, recorder), setting, self.seed)
    }

    fn metric(&self, name: &str, at: &[(&str, &str)], value: f64) -> Metric {
        Metric::exact(name, at, &[self.index], finite(value))
    }

    /// Runs a problem and compares rows: the error on what E4M3 holds, and on the operands before.
    fn errors(
        &self,
        scene: &Scene,
        problem: &Problem<'_>,
        recorder: &mut Recorder,
    ) -> Result<[f64; 2], Stop> {
        scene.run(self.gpu.stream(), problem)?;
        self.errors_of_last(scene, recorder)
    }

    fn errors_of_last(&self, scene: &Scene, recorder: &mut Recorder) -> Result<[f64; 2], Stop> {
        let (lab, gpu) = (self.lab, self.gpu);
        let oracle = scene.reference(&mut |source| lab.module(gpu, source, recorder))?;
        let rows = scene.rows(64, self.seed);
        let held = scene.errors(gpu, &oracle, &rows)?;
        let before = scene.errors_of_rounding_too(gpu, &oracle, &rows)?;
        Ok([held.relative_rms, before.relative_rms])
    }

    /// Largest |output - 1| over 65536 keys of weight 1 / 65536 and value 1.
    fn sum_error(&mut self, fault: Fault, recorder: &mut Recorder) -> Result<f64, Stop> {
        let shape = Shape { queries: 64, keys: 65536, ..Setting::shape(1, 64, 2, 1, 128) };
        let scene = self.scene(Setting { fault, ..setting(shape, false) }, recorder)?;
        let stream = self.gpu.stream();
        let one = u32::from(f16::ONE.to_bits());
        scene.q.fill_u32(stream, 0)?;
        scene.v.fill_u32(stream, one | one << 16)?;
        scene.quantise(stream)?;
        scene.run(stream, &scene.problem())?;
        let out: Vec<u16> = scene.out.read_vec(stream, scene.out.len_bytes() as usize / 2)?;
        let errors = out.iter().map(|&code| (f16::from_bits(code).to_f64() - 1.0).abs());
        Ok(errors.fold(0.0, |most: f64, error| most.max(finite(error))))
    }
}

fn needs_hopper(gpu: &Gpu) -> Result<(), Stop> {
    if backend::kernel_for(gpu) == Kernel::Hopper {
        return Ok(());
    }
    Err(Stop::NotApplicable("attention over E4M3 operands is written for sm_90".into()))
}

/// Multiplies each head by a power of two of its own, so that a wrong head's scale shows.
fn spread(stream: &CudaStream, buffer: &Buffer, heads: u32) -> Result<(), Stop> {
    let mut codes: Vec<u16> = buffer.read_vec(stream, buffer.len_bytes() as usize / 2)?;
    for (i, code) in codes.iter_mut().enumerate() {
        let head = (i / 128) as u32 % heads;
        *code = (f16::from_bits(*code) * f16::from_f32(2f32.powi(-(head as i32 % 4)))).to_bits();
    }
    Ok(buffer.write(stream, 0, &codes)?)
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    needs_hopper(gpu)?;
    let mut bench = Bench { lab: &lab, gpu, index, seed: assignment.seed };
    let windowed = Setting { left: Some(300), ..setting(Setting::shape(1, 1000, 4, 2, 128), true) };
    let settings = [
        ("full-1000", setting(Setting::shape(2, 1000, 8, 4, 128), false)),
        ("causal-777", setting(Setting::shape(3, 777, 8, 8, 128), true)),
        ("window-1000", windowed),
        ("full-8192", setting(Setting::shape(1, 8192, 4, 4, 128), false)),
    ];
    for (name, setting) in settings {
        recorder.progress(name);
        let at = [("shape", name)];
        let shape = setting.shape;
        let scene = bench.scene(setting, recorder)?;
        spread(gpu.stream(), &scene.k, shape.kv_heads)?;
        spread(gpu.stream(), &scene.v, shape.kv_heads)?;
        scene.quantise(gpu.stream())?;
        let [held, before] = bench.errors(&scene, &scene.problem(), recorder)?;
        recorder.metric(bench.metric(METRIC, &at, held));
        recorder.metric(bench.metric(ROUNDING_METRIC, &at, before));
        if name == "full-1000" {
            let shifted = bench.errors(&scene, &shifted_key(&scene), recorder)?[1];
            recorder.control("shifted-key", bench.metric(ROUNDING_METRIC, &at, shifted));
            let neighbours = neighbours(gpu, &scene)?;
            let mut wrong = scene.problem();
            wrong.scales =
                wrong.scales.map(|scales| Scales { k: HeadScales::whole(&neighbours), ..scales });
            let wrong = bench.errors(&scene, &wrong, recorder)?[0];
            recorder.control("neighbours-scale", bench.metric(METRIC, &at, wrong));
            same_bits(&bench, &scene, recorder)?;
        }
    }
    recorder.progress("sums");
    let healthy = bench.sum_error(Fault::None, recorder)?;
    recorder.metric(bench.metric(SUM_METRIC, &[], healthy));
    let planted = bench.sum_error(Fault::OneAccumulator, recorder)?;
    recorder.control("one-accumulator", bench.metric(SUM_METRIC, &[], planted));
    lab.close(recorder);
    Ok(())
}

/// All keys but the first, over the values of all but the last.
fn shifted_key(scene: &Scene) -> Problem<'_> {
    let mut shifted = scene.problem();
    shifted.k.offset += shifted.k.row;
    shifted.shape.keys -= 1;
    shifted
}

/// The scales of keys, each head's that of the next.
fn neighbours(gpu: &Gpu, scene: &Scene) -> Result<Buffer, Stop> {
    let scales = scene.problem().scales.ok_or_else(|| Stop::Error("no scales".into()))?;
    let healthy = scales.k.buffer();
    let mut of: Vec<f32> = healthy.read_vec(gpu.stream(), healthy.len_bytes() as usize / 4)?;
    of.rotate_left(1);
    let buffer = gpu.alloc(healthy.len_bytes())?;
    buffer.write(gpu.stream(), 0, &of)?;
    Ok(buffer)
}

fn same_bits(bench: &Bench<'_>, scene: &Scene, recorder: &mut Recorder) -> Result<(), Stop> {
    let stream = bench.gpu.stream();
    let words = |problem: &Problem<'_>| -> Result<Vec<u32>, Stop> {
        scene.run(stream, problem)?;
        scene.words(stream)
    };
    let healthy = scene.problem();
    let whole = words(&healthy)?;
    let count = |name: &'static str, count: u64| {
        Metric::exact(bits::METRIC, &[("against", name)], &[bench.index], count as f64)
    };
    let mut most = 0;
    for _ in 1..20 {
        most = most.max(differing(&whole, &words(&healthy)?));
    }
    recorder.metric(count("e4m3-run-to-run", most));
    recorder.metric(count("e4m3-sequence-alone", sequences(scene, stream, &whole)?));
    let scale = healthy.scale.next_up().next_up();
    let other = words(&Problem { scale, ..healthy })?;
    recorder.control("scale-two-ulps-off", count("e4m3-run-to-run", differing(&whole, &other)));
    Ok(())
}

/// Output words that differ once each sequence has been run alone, with its own scales.
fn sequences(scene: &Scene, stream: &CudaStream, whole: &[u32]) -> Result<u64, Stop> {
    let healthy = scene.problem();
    scene.out.poison(stream)?;
    for batch in 0..u64::from(healthy.shape.batches) {
        let mut alone = Problem { lse: None, ..healthy };
        alone.shape.batches = 1;
        for tensor in [&mut alone.q, &mut alone.k, &mut alone.v, &mut alone.out] {
            tensor.offset += batch * tensor.batch;
        }
        alone.scales = healthy.scales.map(|scales| Scales {
            q: of_sequence(scales.q, batch, healthy.shape.heads),
            k: of_sequence(scales.k, batch, healthy.shape.kv_heads),
            v: of_sequence(scales.v, batch, healthy.shape.kv_heads),
        });
        scene.launch(stream, &alone)?;
    }
    let outputs = scene.out.len_bytes() as usize / 4;
    Ok(differing(&whole[..outputs], &scene.out.read_vec(stream, outputs)?))
}

fn of_sequence<'a>(scales: HeadScales<'a>, batch: u64, heads: u32) -> HeadScales<'a> {
    HeadScales::part(scales.buffer(), batch * u64::from(heads), heads.into())
}

const SAMPLES: usize = 11;
const CONTROL_SAMPLES: u32 = 9;

fn plan(samples: u32) -> Plan {
    Plan {
        warmup: 3,
        samples,
        fewest_samples: samples,
        launches: 1,
        budget: Some(Duration::from_secs(30)),
        rest: rates::REST,
    }
}

fn timed(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    needs_hopper(gpu)?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let mut bench = Bench { lab: &lab, gpu, index, seed: assignment.seed };
    let samples = assignment.samples(SAMPLES) as u32;
    let mut milliseconds = |scene: &Scene, times: u32, samples: u32| -> Result<Vec<f64>, Stop> {
        scene.out.poison(timer.stream())?;
        timer.stream().synchronize()?;
        let prepared = scene.prepared()?;
        Ok(timer.measure(plan(samples), None, |stream| {
            (0..times).try_for_each(|_| prepared.launch(stream))
        })?)
    };
    let eight = |timed: Timed| Setting { e4m3: true, ..rates::setting(Kernel::Hopper, timed) };
    for shape in [SHAPES[0], SHAPES[1], SHAPES[4]] {
        recorder.progress(shape.name);
        let at: At = &[("shape", shape.name)];
        let scene = bench.scene(eight(shape), recorder)?;
        let ms = milliseconds(&scene, 1, samples)?;
        recorder.metric(rates::rate(RATE_METRIC, shape, index, &ms));
        let held = bench.errors_of_last(&scene, recorder)?[0];
        recorder.metric(bench.metric(METRIC, at, held));
        if shape.name != SHAPES[0].name {
            continue;
        }
        let three = milliseconds(&scene, 3, CONTROL_SAMPLES)?;
        recorder.control("three-times", rates::rate(RATE_METRIC, shape, index, &three));
        let sixteen = bench.scene(rates::setting(Kernel::Hopper, shape), recorder)?;
        let longer =
            |keys: u32| Setting { shape: Shape { keys, ..eight(shape).shape }, ..eight(shape) };
        let eighth = bench.scene(longer(shape.tokens / 8 * 9), recorder)?;
        let mut ratios = |eight: &Scene, samples: u32| -> Result<Metric, Stop> {
            let mut ratios = Vec::new();
            for _ in 0..samples {
                let own = milliseconds(eight, 1, 1)?;
                let base = milliseconds(&sixteen, 1, 1)?;
                ratios.push((base[0] / own[0] * 1e4).round() / 1e4);
            }
            Ok(Metric::sampled(OVER_METRIC, &[], &[index], ratios))
        };
        recorder.metric(ratios(&scene, samples)?);
        recorder.control("an-eighth-more", ratios(&eighth, CONTROL_SAMPLES)?);
        drop((eighth, sixteen));
        let shifted = bench.errors(&scene, &shifted_key(&scene), recorder)?[0];
        recorder.control("shifted-key", bench.metric(METRIC, at, shifted));
        let sixteenth = bench.scene(longer(shape.tokens / 16 * 17), recorder)?;
        let slow = milliseconds(&sixteenth, 1, CONTROL_SAMPLES)?;
        recorder.control("a-sixteenth-more", rates::rate(RATE_METRIC, shape, index, &slow));
    }
    lab.close(recorder);
    Ok(())
}
