//! The own products of E4M3 with their quantisation beside fp16's, and alone beside cuBLASLt's precise ones.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{CudaStream, Gpu};
use kernels::libraries::Library;
use kernels::matmul::{Dtype, Lt, Request, WORKSPACE_BYTES};
use kernels::model::Config;
use kernels::operands::{self, Operands};
use kernels::promoted::{self, Promoted};
use kernels::tensorcore::Adder;
use kernels::timing::{self, InTurn, Timer};

use super::products::{
    Drawn, Planned, REST, SAMPLES as PRODUCT_SAMPLES, SPEEDUP, UNPREDICTED, UNWRITTEN, given,
    quantised,
};
use super::{Bench, TOKENS, rounded};
use crate::e4m3;
use crate::lab::{self, Lab};

/// cuBLASLt's time over the own one's.
pub const OVER_LIBRARY: &str = "own_over_cublaslt_ratio";

/// Milliseconds for which one of both runs in its turn under load, and before that what does not count: the power limit
/// takes its time.
const HELD_MS: f64 = 150.0;
const BEFORE_MS: f64 = 80.0;

const UNWRITTEN_OUTPUT: Control = Control {
    name: "unwritten-output",
    fault: "a product is not run",
    trips: UNWRITTEN,
    expect: Expect::Corrupt,
};
const GROUPS_OF_128: Control = Control {
    name: "groups-of-128",
    fault: "the model adds groups of 128 in f32",
    trips: UNPREDICTED,
    expect: Expect::Corrupt,
};
const TWICE_THE_WORK: Control = Control {
    name: "twice-the-work",
    fault: "the own products are done twice and counted once, beside cuBLASLt's",
    trips: OVER_LIBRARY,
    expect: Expect::Refuted,
};
static CONTROLS: [Control; 4] = [
    UNWRITTEN_OUTPUT,
    GROUPS_OF_128,
    Control {
        name: "multiplied-twice",
        fault: "the own products are done twice and counted once",
        trips: SPEEDUP,
        expect: Expect::Refuted,
    },
    TWICE_THE_WORK,
];
static LOAD_CONTROLS: [Control; 3] = [UNWRITTEN_OUTPUT, GROUPS_OF_128, TWICE_THE_WORK];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::promoted-rates",
    revision: 2,
    figures_since: 2,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The four products of a layer of the 48-layer model over 8192 tokens, random data: in fp16 by cuBLASLt, and \
                in E4M3 with scales by row by this project's kernel, of activations that are quantised by row before \
                each. The same products of E4M3 alone by that kernel and by cuBLASLt with precise accumulation. \
                cuBLASLt's algorithms by search among its first eight. A sample of each in turn, and of the own ones \
                done twice, alone and quantised, each behind a rest of three times the one before, so that cuBLASLt's \
                rests longest; the ratios are those of the sums over the four products. Results are poisoned before \
                and all numbers afterwards, of E4M3 those of the own kernel, which comes last; of them 64 drawn elements \
                of each product have the bits of the model of E4M3's adder with groups of 256.",
    samples: PRODUCT_SAMPLES,
    expected_s: 14.0,
    deadline_s: 240.0,
    kernels: &["promoted", "quantise", "operands", "timing"],
    integrity: &[UNWRITTEN, UNPREDICTED],
    controls: &CONTROLS,
    run: |assignment, recorder| measured(assignment, recorder, rested),
};

/// Each GPU.
pub static LOAD_CASE: Case = Case {
    id: "precision::promoted-load",
    procedure: "The four products of a layer of the 48-layer model over 8192 tokens in E4M3 with scales by row, random data, by \
                this project's kernel and by cuBLASLt with precise accumulation, whose algorithms are searched for among \
                its first eight. Each in turn for as many launches as take 150 ms rested, without a rest, behind as many \
                as take 80 that do not count, so that the power limit has its say; then the own ones done twice. The \
                ratio is that of the sums over the four products. Results are held as in precision::promoted-rates.",
    expected_s: 28.0,
    controls: &LOAD_CONTROLS,
    run: |assignment, recorder| measured(assignment, recorder, under_load),
    ..CASE
};

/// What timed products left: results that are no numbers, such ones where nothing ran, and drawn elements that the model
/// does not foretell, with groups of 256 and of 128.
#[derive(Debug, Default)]
struct Held {
    unwritten: u64,
    missing: u64,
    unpredicted: u64,
    of_128: u64,
}

impl Held {
    fn add(&mut self, other: &Held) {
        self.unwritten += other.unwritten;
        self.missing += other.missing;
        self.unpredicted += other.unpredicted;
        self.of_128 += other.of_128;
    }
}

/// What both cases need.
struct Setting<'a> {
    gpu: &'a Gpu,
    index: u32,
    seed: u64,
    lt: Lt,
    operands: Operands,
    kernel: Promoted,
    bench: Bench<'a>,
    samples: usize,
}

fn measured(
    assignment: &Assignment,
    recorder: &mut Recorder,
    measure: fn(&Setting<'_>, &mut Timer, &mut Recorder) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    let kernel = e4m3::promoted(gpu, &mut |source| lab.module(gpu, source, recorder))?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let setting = Setting {
        gpu,
        index,
        seed: assignment.seed,
        lt: Lt::new(gpu)?,
        operands: Operands::new(gpu, &lab.module(gpu, &operands::SOURCE, recorder)?)?,
        kernel,
        bench: Bench::new(&lab, gpu, assignment.seed, recorder)?,
        samples: assignment.samples(PRODUCT_SAMPLES),
    };
    recorder.option("cublaslt", setting.lt.version());
    measure(&setting, &mut timer, recorder)?;
    lab.close(recorder);
    Ok(())
}

impl Setting<'_> {
    /// A product in a type with cuBLASLt's algorithm, its result poisoned.
    fn planned(
        &self,
        dtype: Dtype,
        (n, k): (u32, u32),
        recorder: &mut Recorder,
    ) -> Result<Planned, Stop> {
        let request =
            Request { workspace_bytes: WORKSPACE_BYTES, ..Request::new(dtype, TOKENS, n, k) };
        let planned = Planned::new(self.gpu, &self.lt, &self.operands, request, self.seed)?;
        let what = if dtype == Dtype::F16 { "fp16" } else { "e4m3 precise" };
        let algorithm = format!("{:?}", planned.plan.choice().algorithm);
        recorder.option(&format!("algorithm.{TOKENS}x{n}x{k}.{what}"), algorithm);
        planned.d.poison(self.gpu.stream())?;
        Ok(planned)
    }

    /// The own kernel in place of cuBLASLt's algorithm.
    fn own(&self, planned: &Planned, stream: &CudaStream) -> kernels::Result<()> {
        let operands = given(&planned.a, &planned.b, &planned.d, planned.scale_b.as_ref());
        self.kernel.run(stream, planned.plan.request(), &operands)
    }

    /// What the last timed products, the own ones, left.
    fn held(&self, eight: &Planned, (n, k): (u32, u32)) -> Result<Held, Stop> {
        let unwritten = eight.nonfinite(self.gpu, &self.operands, n)?;
        let ways = [promoted::GROUP, 128].map(|columns| Some((columns / 32) as usize));
        let drawn = Drawn { gpu: self.gpu, seed: self.seed, adder: Adder::HOPPER_E4M3 };
        let [unpredicted, of_128] = drawn.unpredicted(eight, (n, k), ways)?;
        eight.d.poison(self.gpu.stream())?;
        let missing = eight.nonfinite(self.gpu, &self.operands, n)?;
        Ok(Held { unwritten, missing, unpredicted, of_128 })
    }

    fn write(&self, held: &Held, recorder: &mut Recorder) {
        let count = |name, count: u64| Metric::exact(name, &[], &[self.index], count as f64);
        recorder.metric(count(UNWRITTEN, held.unwritten));
        recorder.control(UNWRITTEN_OUTPUT.name, count(UNWRITTEN, held.missing));
        recorder.metric(count(UNPREDICTED, held.unpredicted));
        recorder.control(GROUPS_OF_128.name, count(UNPREDICTED, held.of_128));
    }

    fn ratios(&self, name: &str, way: &str, ratios: impl Iterator<Item = f64>) -> Metric {
        Metric::sampled(name, &[("way", way)], &[self.index], ratios.map(rounded).collect())
    }
}

/// Behind a rest.
fn rested(setting: &Setting<'_>, timer: &mut Timer, recorder: &mut Recorder) -> Result<(), Stop> {
    // Milliseconds, summed over the four products: of fp16, of the own ones with quantisation once and twice, of
    // cuBLASLt's alone, and of the own ones alone once and twice.
    let mut sums = vec![[0.0; 6]; setting.samples];
    let mut held = Held::default();
    for (n, k) in Config::SEED_002.products() {
        recorder.progress(&format!("{TOKENS}x{n}x{k}"));
        let sixteen = setting.planned(Dtype::F16, (n, k), recorder)?;
        let eight = setting.planned(Dtype::E4m3Row, (n, k), recorder)?;
        let own = |stream: &CudaStream| setting.own(&eight, stream);
        let with_quantisation = |stream: &CudaStream, times: u32| {
            quantised(&setting.bench, stream, &eight, k)?;
            (0..times).try_for_each(|_| own(stream))
        };
        let mut turns = InTurn::new(timer, REST);
        for sums in &mut sums {
            sums[0] += turns.sample(1, |stream| sixteen.run(stream))?;
            sums[1] += turns.sample(1, |stream| with_quantisation(stream, 1))?;
            sums[2] += turns.sample(1, |stream| with_quantisation(stream, 2))?;
            sums[3] += turns.sample(1, |stream| eight.run(stream))?;
            sums[4] += turns.sample(1, own)?;
            sums[5] += turns.sample(1, |stream| (0..2).try_for_each(|_| own(stream)))?;
        }
        held.unwritten += sixteen.nonfinite(setting.gpu, &setting.operands, n)?;
        held.add(&setting.held(&eight, (n, k))?);
    }
    setting.write(&held, recorder);
    let ratios = |name, over: usize, under: usize| {
        setting.ratios(name, "rested", sums.iter().map(|sums| sums[over] / sums[under]))
    };
    recorder.metric(ratios(SPEEDUP, 0, 1));
    recorder.control("multiplied-twice", ratios(SPEEDUP, 0, 2));
    recorder.metric(ratios(OVER_LIBRARY, 3, 4));
    recorder.control(TWICE_THE_WORK.name, ratios(OVER_LIBRARY, 3, 5));
    Ok(())
}

/// Without a rest.
fn under_load(
    setting: &Setting<'_>,
    timer: &mut Timer,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    // Milliseconds, summed over the four products, of cuBLASLt's and of the own ones once and twice.
    let mut sums = vec![[0.0; 3]; setting.samples];
    let mut held = Held::default();
    for (n, k) in Config::SEED_002.products() {
        recorder.progress(&format!("{TOKENS}x{n}x{k}"));
        let eight = setting.planned(Dtype::E4m3Row, (n, k), recorder)?;
        let own = |stream: &CudaStream| setting.own(&eight, stream);
        let mut turns = InTurn::new(timer, 0);
        let ms = turns.sample(1, own)?;
        let [before, counted] = [BEFORE_MS, HELD_MS].map(|all| (all / ms).clamp(1.0, 400.0) as u32);
        for sums in &mut sums {
            turns.sample(before, |stream| eight.run(stream))?;
            sums[0] += turns.sample(counted, |stream| eight.run(stream))?;
            turns.sample(before, own)?;
            sums[1] += turns.sample(counted, own)?;
            let twice = |stream: &CudaStream| (0..2).try_for_each(|_| own(stream));
            sums[2] += turns.sample((counted / 2).max(1), twice)?;
        }
        held.add(&setting.held(&eight, (n, k))?);
    }
    setting.write(&held, recorder);
    let ratios = |under: usize| {
        setting.ratios(OVER_LIBRARY, "load", sums.iter().map(|sums| sums[0] / sums[under]))
    };
    recorder.metric(ratios(1));
    recorder.control(TWICE_THE_WORK.name, ratios(2));
    Ok(())
}
