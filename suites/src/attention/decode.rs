//! A few new queries over a cache: right, the same bits in any batch, and how fast the cache is read.

use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Metric;
use harness::record::{Assignment, Recorder, Stop};
use kernels::KernelSource;
use kernels::attention::decode::{Decode, Pages, Splits, Step};
use kernels::attention::program::Program;
use kernels::attention::quantise::HeadScales;
use kernels::attention::reference::{self, Reference, Row};
use kernels::attention::variant::{Fault, Kernel, Variant};
use kernels::attention::{Data, Shape, Tensor};
use kernels::device::{Buffer, Gpu, Module};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::operands::{self, Operands, Values};
use kernels::timing::{self, Plan, Timer};

use super::{bits, exact};
use crate::lab::{Lab, differing, finite};

/// Bytes of keys and values a second.
pub const RATE_METRIC: &str = "cache_read_gbps";

const PAGE_KEYS: u32 = 64;
const SPLITS: u32 = 4;
const SAMPLES: usize = 15;
const CONTROL_SAMPLES: u32 = 9;

/// Which cache, and how many heads share it.
#[derive(Debug, Clone, Copy)]
struct Cache {
    name: &'static str,
    e4m3: bool,
    paged: bool,
    heads: u32,
    kv_heads: u32,
    rows: u32,
    head_size: u32,
    /// Of queries and outputs, and of the cache unless it is E4M3.
    element: Element,
    splits: u32,
    left: Option<u32>,
}

const fn cache(name: &'static str, e4m3: bool, paged: bool, heads: (u32, u32), rows: u32) -> Cache {
    Cache {
        name,
        e4m3,
        paged,
        heads: heads.0,
        kv_heads: heads.1,
        rows,
        head_size: 128,
        element: Element::F16,
        splits: SPLITS,
        left: None,
    }
}

impl Cache {
    const fn one_split(self) -> Cache {
        Cache { splits: 1, ..self }
    }

    const fn heads_of_64(self) -> Cache {
        Cache { head_size: 64, ..self }
    }

    const fn bf16(self) -> Cache {
        Cache { element: Element::Bf16, ..self }
    }

    const fn windowed(self) -> Cache {
        Cache { left: Some(100), ..self }
    }
}

/// Caches whose results are checked: every kind, one to sixteen rows in a block.
const CHECKED: [Cache; 14] = [
    cache("fp16", false, false, (8, 8), 1),
    cache("fp16-paged", false, true, (8, 8), 1),
    cache("fp16-grouped-4-rows", false, false, (16, 4), 4),
    cache("fp16-16-rows", false, true, (4, 4), 16),
    cache("e4m3", true, false, (8, 8), 1),
    cache("e4m3-paged-grouped", true, true, (16, 2), 2),
    cache("fp16-one-split", false, false, (8, 8), 1).one_split(),
    cache("fp16-paged-grouped-one-split", false, true, (16, 2), 1).one_split(),
    cache("e4m3-one-split", true, false, (8, 8), 1).one_split(),
    cache("fp16-64", false, false, (8, 4), 2).heads_of_64(),
    cache("e4m3-64-paged", true, true, (8, 4), 1).heads_of_64(),
    cache("bf16-paged", false, true, (8, 4), 2).bf16(),
    cache("fp16-windowed-3-rows", false, true, (8, 4), 3).windowed(),
    cache("bf16-64-windowed-one-split", false, false, (8, 8), 1)
        .bf16()
        .heads_of_64()
        .windowed()
        .one_split(),
];
/// Those of which each sequence is also run alone.
const ALONE: [&str; 4] = ["fp16", "fp16-paged", "e4m3", "e4m3-paged-grouped"];
/// Sequences of the checked caches: a tail, one slab of keys, a whole page, many pages.
const LENGTHS: [u32; 5] = [1000, 16, 64, 4096, 333];

/// Caches whose rate is taken: 64 sequences of 8192 keys.
const TIMED: [Cache; 3] = [
    cache("fp16", false, false, (64, 64), 1).one_split(),
    cache("fp16-grouped", false, true, (64, 8), 1).one_split(),
    cache("e4m3", true, false, (64, 64), 1).one_split(),
];
const TIMED_BATCH: u32 = 64;
const TIMED_KEYS: u32 = 8192;

static EXACT_CONTROLS: [Control; 3] = [
    Control {
        name: "unscaled-once",
        fault: "what was summed before a warp's second slab is not rescaled there",
        trips: exact::METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "wrong-page",
        fault: "the first page of a sequence is that of another",
        trips: exact::METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "other-splits",
        fault: "the sequence alone is split otherwise than in the batch",
        trips: bits::METRIC,
        expect: Expect::Refuted,
    },
];
static RATE_CONTROLS: [Control; 4] = [
    Control {
        name: "a-sixteenth-unread",
        fault: "the last sixteenth of every cache is not read",
        trips: exact::METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "a-sixteenth-more",
        fault: "every sequence has a sixteenth more keys than is counted",
        trips: RATE_METRIC,
        expect: Expect::Regressed,
    },
    Control {
        name: "three-times",
        fault: "every step is done three times and counted once",
        trips: RATE_METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "unwritten-output",
        fault: "the output stays poisoned",
        trips: "nonfinite_count",
        expect: Expect::Corrupt,
    },
];

/// Correctness and bits.
pub static EXACT_CASE: Case = Case {
    id: "attention::decode",
    revision: 2,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: super::TIER,
    self_test_only: false,
    procedure: "One to sixteen new queries of five sequences of 16 to 4096 keys over contiguous and \
                paged caches, fp16, bf16 and E4M3 with a scale a head, heads of 64 and 128, in one split \
                and in four, two of them in a window of 101 keys: every row is compared with f64 over the \
                same cache. The pages of a cache stand in reverse order. Then, contiguous and paged, fp16 \
                and E4M3, each sequence alone with the same splits, and the step run 20 times, word by word.",
    samples: 0,
    expected_s: 4.0,
    deadline_s: 240.0,
    kernels: &["operands"],
    integrity: &[],
    controls: &EXACT_CONTROLS,
    run: checked,
};

/// Rates.
pub static RATE_CASE: Case = Case {
    id: "attention::decode-rates",
    revision: 2,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: super::TIER,
    self_test_only: false,
    procedure: "One new query of 64 sequences over 8192 keys each, 64 heads of 128: one launch a \
                sample, behind a latch. Bytes are those of the keys and values of the cache, which is \
                far larger than the L2 cache. The whole output is finite afterwards, and a row of each \
                sequence is compared with f64.",
    samples: SAMPLES,
    expected_s: 4.0,
    deadline_s: 240.0,
    kernels: &["operands", "timing"],
    integrity: &["nonfinite_count"],
    controls: &RATE_CONTROLS,
    run: rates,
};

/// A step with its operands and its kernel.
struct Scene {
    cache: Cache,
    shape: Shape,
    buffers: [Buffer; 4],
    lengths: Buffer,
    pages: Option<(Buffer, u32)>,
    scales: Option<(Buffer, Buffer)>,
    decode: Decode,
}

impl Scene {
    fn new(
        gpu: &Gpu,
        load: &mut dyn FnMut(&'static KernelSource) -> Result<Module, Stop>,
        cache: Cache,
        lengths: &[u32],
        fault: Fault,
        seed: u64,
    ) -> Result<Scene, Stop> {
        let variant = variant(cache, fault);
        let decode = Decode::new(gpu, &load(variant.source()?)?, variant)?;
        let maker = Operands::new(gpu, &load(&operands::SOURCE)?)?;
        let keys = lengths.iter().copied().max().unwrap_or(1).next_multiple_of(PAGE_KEYS);
        let batches = lengths.len() as u32;
        let Cache { heads, kv_heads, rows, head_size, .. } = cache;
        let shape = Shape { batches, heads, kv_heads, queries: rows, keys, head_size };
        let element = if cache.e4m3 { Element::E4m3 } else { cache.element };
        let filled = |count: u32, heads: u32, element: Element, seed: u64| {
            let elements =
                u64::from(batches) * u64::from(count) * u64::from(heads) * u64::from(head_size);
            let buffer = gpu.alloc(elements * element.bytes())?;
            let values = Values::Normals { scale: 1.0 };
            maker.fill(gpu.stream(), &buffer, element, elements, seed, values)?;
            Ok::<Buffer, Stop>(buffer)
        };
        let buffers = [
            filled(rows, heads, cache.element, seed)?,
            filled(keys, kv_heads, element, seed + 1)?,
            filled(keys, kv_heads, element, seed + 2)?,
            filled(rows, heads, cache.element, seed + 3)?,
        ];
        let numbers = |values: &[u32]| -> Result<Buffer, Stop> {
            let buffer = gpu.alloc(4 * values.len() as u64)?;
            buffer.write(gpu.stream(), 0, values)?;
            Ok(buffer)
        };
        let scale = |of: u32, head: u32| {
            let drawn = draw(seed + u64::from(of), head.into());
            (0.5 + f64::from(drawn) / f64::from(u32::MAX)) as f32
        };
        let scales = |of: u32| -> Result<Buffer, Stop> {
            let bits: Vec<u32> = (0..kv_heads).map(|head| scale(of, head).to_bits()).collect();
            numbers(&bits)
        };
        let each = keys / PAGE_KEYS;
        // In reverse, so that no page stands where a contiguous cache would have it.
        let table: Vec<u32> = (0..batches * each).rev().collect();
        let scene = Scene {
            cache,
            shape,
            buffers,
            lengths: numbers(lengths)?,
            pages: if cache.paged { Some((numbers(&table)?, each)) } else { None },
            scales: if cache.e4m3 { Some((scales(4)?, scales(5)?)) } else { None },
            decode,
        };
        gpu.synchronize()?;
        Ok(scene)
    }

    fn step(&self) -> Step<'_> {
        let Shape { heads, kv_heads, queries, keys, head_size, .. } = self.shape;
        let tokens = if self.cache.paged { PAGE_KEYS } else { keys };
        Step {
            shape: self.shape,
            q: Tensor::packed(&self.buffers[0], queries, heads, head_size),
            k: Tensor::packed(&self.buffers[1], tokens, kv_heads, head_size),
            v: Tensor::packed(&self.buffers[2], tokens, kv_heads, head_size),
            out: Tensor::packed(&self.buffers[3], queries, heads, head_size),
            lengths: &self.lengths,
            pages: self.pages.as_ref().map(|(table, each)| Pages {
                table,
                stride: *each,
                keys: PAGE_KEYS,
                count: self.shape.batches * each,
            }),
            scales: self
                .scales
                .as_ref()
                .map(|(keys, values)| (HeadScales::whole(keys), HeadScales::whole(values))),
            left: self.cache.left,
            scale: 1.0 / (head_size as f32).sqrt(),
            data: Data::default(),
        }
    }

    fn run(&self, gpu: &Gpu, step: &Step<'_>, splits: u32) -> Result<Vec<u32>, Stop> {
        let splits = Splits::new(gpu, &step.shape, splits)?;
        self.buffers[3].poison(gpu.stream())?;
        self.decode.prepare(step, &splits)?.launch(gpu.stream())?;
        Ok(self.buffers[3].read_vec(gpu.stream(), self.buffers[3].len_bytes() as usize / 4)?)
    }

    /// Every row.
    fn rows(&self) -> Vec<Row> {
        let Shape { batches, heads, queries, .. } = self.shape;
        let mut rows = Vec::new();
        for batch in 0..batches {
            for head in 0..heads {
                rows.extend((0..queries).map(|query| Row { batch, head, query }));
            }
        }
        rows
    }

    /// A row of each sequence, over all heads in turn.
    fn row_of_each(&self) -> Vec<Row> {
        let Shape { batches, heads, .. } = self.shape;
        (0..batches).map(|batch| Row { batch, head: 7 * batch % heads, query: 0 }).collect()
    }

    /// Error ratio of rows of the last run.
    fn error(&self, gpu: &Gpu, oracle: &Reference, rows: &[Row]) -> Result<f64, Stop> {
        let found = oracle.decode(gpu, gpu.stream(), &self.step(), false, rows)?;
        Ok(finite(reference::errors(&found, self.cache.element).over_plain))
    }

    /// A sequence's own line of the page table.
    fn pages_of(&self, gpu: &Gpu, pages: Pages<'_>, batch: u64) -> Result<Buffer, Stop> {
        let mut line = vec![0u32; pages.stride as usize];
        let bytes = 4 * u64::from(pages.stride);
        pages.table.read(gpu.stream(), batch * bytes, &mut line)?;
        let table = gpu.alloc(bytes)?;
        table.write(gpu.stream(), 0, &line)?;
        Ok(table)
    }

    /// Each sequence alone, put together: what the batch must equal.
    fn alone(&self, gpu: &Gpu, splits: u32) -> Result<Vec<u32>, Stop> {
        let whole = self.step();
        let split_memory = Splits::new(gpu, &Shape { batches: 1, ..self.shape }, splits)?;
        let lengths: Vec<u32> = self.lengths.read_vec(gpu.stream(), self.shape.batches as usize)?;
        self.buffers[3].poison(gpu.stream())?;
        for (batch, length) in (0u64..).zip(lengths) {
            let one = gpu.alloc(4)?;
            one.write(gpu.stream(), 0, &[length])?;
            let mut step = Step { lengths: &one, ..whole };
            step.shape.batches = 1;
            step.q.offset += batch * whole.q.batch;
            step.out.offset += batch * whole.out.batch;
            let own = whole.pages.map(|pages| self.pages_of(gpu, pages, batch)).transpose()?;
            match (&own, whole.pages) {
                (Some(table), Some(pages)) => step.pages = Some(Pages { table, ..pages }),
                _ => {
                    step.k.offset += batch * whole.k.batch;
                    step.v.offset += batch * whole.v.batch;
                }
            }
            self.decode.prepare(&step, &split_memory)?.launch(gpu.stream())?;
            gpu.synchronize()?;
        }
        Ok(self.buffers[3].read_vec(gpu.stream(), self.buffers[3].len_bytes() as usize / 4)?)
    }
}

fn variant(cache: Cache, fault: Fault) -> Variant {
    let kernel = Kernel::Decode { e4m3: cache.e4m3 };
    Variant { fault, ..Variant::new(kernel, cache.element, cache.head_size, Program::PLAIN) }
}

/// The oracle of an element; it takes heads of any size.
fn oracle(
    lab: &Lab,
    gpu: &Gpu,
    element: Element,
    recorder: &mut Recorder,
) -> Result<Reference, Stop> {
    let variant = Variant::new(Kernel::Reference, element, 128, Program::PLAIN);
    Ok(Reference::new(&lab.module(gpu, variant.source()?, recorder)?)?)
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    recorder.option("page_keys", PAGE_KEYS);
    let mut seed = assignment.seed;
    let mut scene = |cache: Cache, fault: Fault, recorder: &mut Recorder| {
        seed += 16;
        let load = &mut |source: &'static KernelSource| lab.module(gpu, source, recorder);
        Scene::new(gpu, load, cache, &LENGTHS, fault, seed)
    };
    let [sixteen, brain] =
        [Element::F16, Element::Bf16].map(|element| oracle(&lab, gpu, element, recorder));
    let (sixteen, brain) = (sixteen?, brain?);
    let error =
        |name: &str, ratio: f64| Metric::exact(exact::METRIC, &[("cache", name)], &[index], ratio);
    let bits = |against: &str, cache: &str, count: u64| {
        let at = [("against", against), ("cache", cache)];
        Metric::exact(bits::METRIC, &at, &[index], count as f64)
    };
    for cache in CHECKED {
        recorder.progress(cache.name);
        recorder.option(&format!("splits.{}", cache.name), cache.splits);
        let scene = scene(cache, Fault::None, recorder)?;
        let whole = scene.run(gpu, &scene.step(), cache.splits)?;
        let oracle = if cache.element == Element::Bf16 { &brain } else { &sixteen };
        recorder.metric(error(cache.name, scene.error(gpu, oracle, &scene.rows())?));
        if ALONE.contains(&cache.name) {
            let count = differing(&whole, &scene.alone(gpu, cache.splits)?);
            recorder.metric(bits("sequence-alone", cache.name, count));
        }
    }
    recorder.progress("bits");
    let (name, splits) = (CHECKED[0].name, CHECKED[0].splits);
    let healthy = scene(CHECKED[0], Fault::None, recorder)?;
    let whole = healthy.run(gpu, &healthy.step(), splits)?;
    let other = differing(&whole, &healthy.alone(gpu, splits + 1)?);
    recorder.control("other-splits", bits("sequence-alone", name, other));
    let mut most = 0;
    for _ in 1..20 {
        most = most.max(differing(&whole, &healthy.run(gpu, &healthy.step(), splits)?));
    }
    recorder.metric(bits("run-to-run", name, most));
    recorder.progress("controls");
    let unscaled = scene(CHECKED[0], Fault::UnscaledOnce, recorder)?;
    unscaled.run(gpu, &unscaled.step(), splits)?;
    let ratio = unscaled.error(gpu, &sixteen, &unscaled.rows())?;
    recorder.control("unscaled-once", error(name, ratio));
    let paged = scene(CHECKED[1], Fault::None, recorder)?;
    if let Some((table, each)) = &paged.pages {
        // The step reads another sequence's page; the oracle afterwards the right one.
        let right: Vec<u32> = table.read_vec(gpu.stream(), *each as usize + 1)?;
        table.write(gpu.stream(), 0, &right[*each as usize..])?;
        paged.run(gpu, &paged.step(), CHECKED[1].splits)?;
        table.write(gpu.stream(), 0, &right[..1])?;
    }
    let ratio = paged.error(gpu, &sixteen, &paged.rows())?;
    recorder.control("wrong-page", error(CHECKED[1].name, ratio));
    lab.close(recorder);
    Ok(())
}

fn rates(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    recorder.option("splits", 1);
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let maker = Operands::new(gpu, &lab.module(gpu, &operands::SOURCE, recorder)?)?;
    let oracle = oracle(&lab, gpu, Element::F16, recorder)?;
    let error = |scene: &Scene| -> Result<Metric, Stop> {
        let ratio = scene.error(gpu, &oracle, &scene.row_of_each())?;
        Ok(Metric::exact(exact::METRIC, &[("cache", scene.cache.name)], &[index], ratio))
    };
    let mut nonfinite = Vec::new();
    let mut seed = assignment.seed;
    let mut scene = |cache: Cache, keys: u32, recorder: &mut Recorder| {
        seed += 16;
        let load = &mut |source: &'static KernelSource| lab.module(gpu, source, recorder);
        Scene::new(gpu, load, cache, &[keys; TIMED_BATCH as usize], Fault::None, seed)
    };
    let mut rate = |scene: &Scene, times: u32, samples: u32| -> Result<Metric, Stop> {
        let splits = Splits::new(gpu, &scene.shape, scene.cache.splits)?;
        scene.buffers[3].poison(timer.stream())?;
        let step = scene.step();
        let prepared = scene.decode.prepare(&step, &splits)?;
        let plan = Plan {
            warmup: 2,
            samples,
            fewest_samples: samples,
            launches: 1,
            budget: Some(Duration::from_secs(20)),
            rest: 1,
        };
        let ms = timer
            .measure(plan, None, |stream| (0..times).try_for_each(|_| prepared.launch(stream)))?;
        let bytes = counted_bytes(scene.cache);
        let rates = ms.iter().map(|ms| (bytes / ms / 1e6 * 10.0).round() / 10.0).collect();
        Ok(Metric::sampled(RATE_METRIC, &[("cache", scene.cache.name)], &[index], rates))
    };
    let count = |scene: &Scene| -> Result<f64, Stop> {
        let out = &scene.buffers[3];
        let elements = out.len_bytes() / 2;
        Ok(maker.count_nonfinite(gpu.stream(), out, Element::F16, elements)? as f64)
    };
    let all = |values: Vec<f64>| {
        let metric = Metric::exact("nonfinite_count", &[("cache", "each")], &[index], 0.0);
        Metric { values, ..metric }
    };
    for cache in TIMED {
        recorder.progress(cache.name);
        let healthy = scene(cache, TIMED_KEYS, recorder)?;
        recorder.metric(rate(&healthy, 1, assignment.samples(SAMPLES) as u32)?);
        nonfinite.push(count(&healthy)?);
        recorder.metric(error(&healthy)?);
        if cache.name == TIMED[0].name {
            let lengths = [TIMED_KEYS; TIMED_BATCH as usize];
            healthy.lengths.write(gpu.stream(), 0, &lengths.map(|keys| keys / 16 * 15))?;
            healthy.run(gpu, &healthy.step(), cache.splits)?;
            healthy.lengths.write(gpu.stream(), 0, &lengths)?;
            recorder.control("a-sixteenth-unread", error(&healthy)?);
            recorder.control("three-times", rate(&healthy, 3, CONTROL_SAMPLES)?);
            healthy.buffers[3].poison(gpu.stream())?;
            recorder.control("unwritten-output", all(vec![count(&healthy)?]));
            drop(healthy);
            let longer = scene(cache, TIMED_KEYS / 16 * 17, recorder)?;
            recorder.control("a-sixteenth-more", rate(&longer, 1, CONTROL_SAMPLES)?);
        }
    }
    recorder.metric(all(nonfinite));
    lab.close(recorder);
    Ok(())
}

/// Keys and values of all sequences.
fn counted_bytes(cache: Cache) -> f64 {
    let element = if cache.e4m3 { 1.0 } else { 2.0 };
    2.0 * element
        * f64::from(TIMED_BATCH)
        * f64::from(TIMED_KEYS)
        * f64::from(cache.kv_heads)
        * f64::from(cache.head_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        // 2 x 64 x 8192 x 64 x 128 x 2 bytes.
        assert_eq!(counted_bytes(TIMED[0]), 17_179_869_184.0);
        assert_eq!(counted_bytes(TIMED[2]), counted_bytes(TIMED[0]) / 2.0);
    }

    #[test]
    fn every_sequence_holds_its_new_rows() {
        let most = CHECKED.iter().map(|cache| cache.rows).max().unwrap_or(0);
        assert!(LENGTHS.iter().all(|&length| length >= most));
    }

    #[test]
    fn caches_have_names_of_their_own() {
        let names = CHECKED.map(|cache| cache.name);
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name}");
        }
        assert!(ALONE.iter().all(|name| names.contains(name)));
    }
}
