//! What weight-only products cost: their rate beside memory's, and the memory that they take besides.

use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, CudaStream, Gpu};
use kernels::element::Element;
use kernels::operands::{self, Operands, Values};
use kernels::stream::{self, Fault, Job, Kind};
use kernels::timing::{self, Plan, Timer};
use kernels::variant;
use kernels::weightonly::{self, MOST_ROWS, WeightOnly, oracle};

use crate::lab::Lab;

/// A product's bytes a second over those of reading as many.
pub const OVER_READ: &str = "over_read_ratio";
/// Most device memory that was taken while products ran, beyond what was there before.
pub const TRANSIENT: &str = "transient_bytes";
/// The same of products of so many rows.
pub const TRANSIENT_OF_ROWS: &str = "transient_of_rows_bytes";
/// Drawn elements of timed products that are further from f64 than their bound.
const WRONG: &str = "wrong_count";

const SAMPLES: usize = 15;
const CONTROL_SAMPLES: usize = 9;
/// Launches of a sample.
const LAUNCHES: u32 = 8;
/// The largest product of the 48-layer model.
const N: u32 = 32768;
const K: u32 = 8192;
/// Rows of weights whose elements are looked at: both ends and some between.
const DRAWN: u32 = 64;

/// Rows of activations at which that is asked, as evidence names them.
const ROWS: [(u32, &str); 5] = [(1, "1"), (2, "2"), (4, "4"), (8, "8"), (MOST_ROWS, "16")];

static CONTROLS: [Control; 4] = [
    Control {
        name: "half-the-rows",
        fault: "the second half of the weights is left out",
        trips: WRONG,
        expect: Expect::Corrupt,
    },
    Control {
        name: "read-twice",
        fault: "weights are multiplied twice and counted once",
        trips: OVER_READ,
        expect: Expect::Refuted,
    },
    Control {
        name: "copied-to-halves",
        fault: "memory for the weights in fp16 is taken for the product",
        trips: TRANSIENT,
        expect: Expect::Refuted,
    },
    Control {
        name: "copied-to-halves-of-rows",
        fault: "memory for the weights in fp16 is taken for the products of 16 rows",
        trips: TRANSIENT_OF_ROWS,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::weight-only-rates",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "One row of activations by 32768 x 8192 weights in E4M3 with a scale a row, and in fp16, random data, and as \
                many bytes are read, a sample of each in turn, 8 launches a sample, enqueued behind a latch. Bytes are \
                weights, scales, activations and results. Results are poisoned before, and those of 64 rows of weights \
                compared with f64 afterwards. Free device memory is asked for before and 64 times while 64 products are \
                under way, of one row, and again of 1, 2, 4, 8 and 16.",
    samples: SAMPLES,
    expected_s: 4.0,
    deadline_s: 240.0,
    kernels: &["weightonly", "operands", "timing", "stream", "bulk", "pattern"],
    integrity: &[WRONG],
    controls: &CONTROLS,
    run: checked,
};

fn plan() -> Plan {
    Plan {
        warmup: 1,
        samples: 1,
        fewest_samples: 1,
        launches: LAUNCHES,
        budget: Some(Duration::from_secs(30)),
        rest: 0,
    }
}

/// One type's weights and their products.
struct Bench<'a> {
    gpu: &'a Gpu,
    product: &'a WeightOnly,
    activations: Buffer,
    weights: Buffer,
    scales: Option<Buffer>,
    out: Buffer,
}

impl<'a> Bench<'a> {
    fn new(
        gpu: &'a Gpu,
        (product, operands): (&'a WeightOnly, &Operands),
        scaled: bool,
        seed: u64,
    ) -> Result<Bench<'a>, Stop> {
        let element = if scaled { Element::E4m3 } else { Element::F16 };
        let fill = |element: Element, count: u64, seed: u64| -> Result<Buffer, Stop> {
            let buffer = gpu.alloc(element.bytes() * count)?;
            let normal = Values::Normals { scale: 1.0 };
            operands.fill(gpu.stream(), &buffer, element, count, seed, normal)?;
            Ok(buffer)
        };
        let scales = match scaled {
            true => {
                let of = |row: u32| 0.5 + (row % 1024) as f32 / 1024.0;
                let scales: Vec<f32> = (0..N).map(of).collect();
                Some(super::operands::floats(gpu, &scales)?)
            }
            false => None,
        };
        let rows = u64::from(MOST_ROWS);
        Ok(Bench {
            gpu,
            product,
            activations: fill(Element::F16, rows * u64::from(K), seed)?,
            weights: fill(element, u64::from(N) * u64::from(K), seed ^ 1)?,
            scales,
            out: gpu.alloc(2 * rows * u64::from(N))?,
        })
    }

    fn run(&self, stream: &CudaStream, (m, n): (u32, u32)) -> kernels::Result<()> {
        let scales = self.scales.as_ref();
        self.product.run(stream, &self.activations, &self.weights, scales, &self.out, (m, n, K))
    }

    /// Bytes that must move for so many rows.
    fn bytes(&self, m: u32) -> u64 {
        let scales = self.scales.as_ref().map_or(0, Buffer::len_bytes);
        let (m, n, k) = (u64::from(m), u64::from(N), u64::from(K));
        self.weights.len_bytes() + scales + 2 * m * (k + n)
    }

    /// Drawn elements of the first row of results that are beyond their bound, or no numbers.
    fn wrong(&self) -> Result<u64, Stop> {
        let stream = self.gpu.stream();
        let found: Vec<u16> = self.out.read_vec(stream, N as usize)?;
        let activations: Vec<u16> = self.activations.read_vec(stream, K as usize)?;
        let numbers = |codes: &[u32], element: Element| -> Vec<f64> {
            codes.iter().map(|code| element.decode(*code)).collect()
        };
        let codes: Vec<u32> = activations.into_iter().map(u32::from).collect();
        let activations = numbers(&codes, Element::F16);
        let scales: Option<Vec<f32>> = match &self.scales {
            Some(scales) => Some(scales.read_vec(stream, N as usize)?),
            None => None,
        };
        let mut wrong = 0;
        for i in 0..DRAWN {
            let row = (u64::from(i) * u64::from(N - 1) / u64::from(DRAWN - 1)) as usize;
            let weights = match self.scales {
                Some(_) => numbers(&self.row::<u8>(row)?, Element::E4m3),
                None => numbers(&self.row::<u16>(row)?, Element::F16),
            };
            let scale = scales.as_ref().map(|scales| scales[row]);
            let (sum, bound) = oracle::exact(&activations, &weights, scale);
            let error = (Element::F16.decode(found[row].into()) - sum).abs();
            let right = error <= bound;
            wrong += u64::from(!right);
        }
        Ok(wrong)
    }

    /// Codes of a row of weights.
    fn row<T>(&self, row: usize) -> Result<Vec<u32>, Stop>
    where
        T: kernels::device::Plain + Default + Into<u32>,
    {
        let mut codes = vec![T::default(); K as usize];
        let offset = (row * K as usize * size_of::<T>()) as u64;
        self.weights.read(self.gpu.stream(), offset, &mut codes)?;
        Ok(codes.into_iter().map(Into::into).collect())
    }

    /// Bytes by which free memory sinks while products of so many rows run; with `copy` also those of a copy in fp16.
    fn transient(&self, m: u32, copy: bool) -> Result<u64, Stop> {
        const ASKED: u32 = 64;
        let stream = self.gpu.stream();
        self.run(stream, (m, N))?;
        stream.synchronize()?;
        let (before, _) = self.gpu.mem_info()?;
        let halves = match copy {
            true => Some(self.gpu.alloc(2 * u64::from(N) * u64::from(K))?),
            false => None,
        };
        let mut least = before;
        for _ in 0..ASKED {
            self.run(stream, (m, N))?;
            least = least.min(self.gpu.mem_info()?.0);
        }
        stream.synchronize()?;
        drop(halves);
        Ok(before - least)
    }
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let streaming = lab.streaming(gpu, recorder)?;
    let product = WeightOnly::new(gpu, &lab.module(gpu, &weightonly::SOURCE, recorder)?)?;
    let operands = Operands::new(gpu, &lab.module(gpu, &operands::SOURCE, recorder)?)?;
    let variant = variant::default_variant(Kind::Read, gpu.compute_capability);
    recorder.option("variant.read", variant);
    let samples = assignment.samples(SAMPLES);
    for (name, scaled) in [("e4m3", true), ("fp16", false)] {
        recorder.progress(name);
        let bench = Bench::new(gpu, (&product, &operands), scaled, assignment.seed)?;
        let mut ratios = |m: u32, times: u32, samples: usize| -> Result<Metric, Stop> {
            let bytes = bench.bytes(m) / 4096 * 4096;
            let source = gpu.alloc(bytes)?;
            source.fill_u32(gpu.stream(), 1)?;
            let sums = gpu.alloc(stream::sums_bytes(gpu, bytes))?;
            let job = Job::Read { source: &source, sums: &sums };
            let read = streaming.prepare(job, bytes, variant, Fault::default())?;
            let mut ratios = Vec::new();
            for _ in 0..samples {
                let alone = timer.measure(plan(), None, |stream| read.launch(stream))?[0];
                let multiplied = timer.measure(plan(), None, |stream| {
                    (0..times).try_for_each(|_| bench.run(stream, (m, N)))
                })?[0];
                ratios.push((alone / multiplied * 1e5).round() / 1e5);
            }
            let rows = if m == 1 { "1" } else { "16" };
            Ok(Metric::sampled(OVER_READ, &[("weights", name), ("m", rows)], &[index], ratios))
        };
        let at = [("weights", name)];
        bench.out.poison(gpu.stream())?;
        recorder.metric(ratios(1, 1, samples)?);
        let count = |wrong: u64| Metric::exact(WRONG, &at, &[index], wrong as f64);
        recorder.metric(count(bench.wrong()?));
        recorder.metric(ratios(MOST_ROWS, 1, CONTROL_SAMPLES)?);
        recorder.control("read-twice", ratios(1, 2, CONTROL_SAMPLES)?);
        bench.out.poison(gpu.stream())?;
        bench.run(gpu.stream(), (1, N / 2))?;
        recorder.control("half-the-rows", count(bench.wrong()?));
        let transient = |bytes: u64| Metric::exact(TRANSIENT, &at, &[index], bytes as f64);
        recorder.metric(transient(bench.transient(1, false)?));
        if scaled {
            recorder.control("copied-to-halves", transient(bench.transient(1, true)?));
        }
        of_rows(&bench, (name, index), recorder)?;
    }
    lab.close(recorder);
    Ok(())
}

/// Memory that products of several numbers of rows take.
fn of_rows(
    bench: &Bench<'_>,
    (weights, index): (&'static str, u32),
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let metric = |rows, bytes: u64| {
        let at = [("weights", weights), ("m", rows)];
        Metric::exact(TRANSIENT_OF_ROWS, &at, &[index], bytes as f64)
    };
    for (m, rows) in ROWS {
        recorder.metric(metric(rows, bench.transient(m, false)?));
    }
    if bench.scales.is_some() {
        let bytes = bench.transient(MOST_ROWS, true)?;
        recorder.control("copied-to-halves-of-rows", metric("16", bytes));
    }
    Ok(())
}
