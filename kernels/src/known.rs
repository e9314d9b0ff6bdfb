//! Known answers: every entry point of every kernel is asked a small question whose answer the
//! CPU computes, on the architecture at hand. An entry without a question is an error.
//!
//! A planted fault changes one bit of one entry's answer, so that a caller can show that a wrong
//! answer is seen.

mod cache;
mod integers;
mod language;
mod model;
mod precision;
mod promoted;
mod weightonly;

use std::collections::BTreeMap;

use crate::attention::Tensor;
use crate::attention::quantise::{self, Layout, Quantised, Quantiser};
use crate::device::{Buffer, CudaStream, Gpu, Grid, Module};
use crate::element::Element;
use crate::fault::{self, Fault as Planted};
use crate::generator::hash_word;
use crate::operands::{Operands, Scales, Values};
use crate::pattern::{Content, Patterns};
use crate::product::{Accumulation, Checker, Product, Scale, weight};
use crate::stream::{Fault, Job, Kind, Output, Streaming, sums_bytes};
use crate::timing::TimingParams;
use crate::variant::{Hint, Spread, Unroll, Variant};
use crate::{Error, KERNELS, KernelSource, Result};

mod exchange;

/// Seed of the questions: the answers are known, so it does not change.
const SEED: u64 = 0x5EED_0000_1234_5678;

/// Asks one entry and counts the wrong words of its answer.
type Ask = fn(&Asker<'_>, &str) -> Result<u64>;

/// Every question, by kernel and entry.
const QUESTIONS: &[(&str, &str, Ask)] = &[
    ("allreduce", "allreduce_one_shot", |asker, name| asker.one_shot(name)),
    ("allreduce", "allreduce_two_shot", |asker, name| asker.two_shot(name)),
    ("allreduce", "allreduce_pushed", |asker, name| asker.pushed(name)),
    ("attention-quantise", "attention_largest", |asker, name| asker.quantised(name, true)),
    ("attention-quantise", "attention_quantise", |asker, name| asker.quantised(name, false)),
    ("bulk", "bulk_copy", |asker, name| asker.ring(name, Kind::Copy)),
    ("bulk", "bulk_read", |asker, name| asker.ring(name, Kind::Read)),
    ("bulk", "bulk_write", |asker, name| asker.ring(name, Kind::Write)),
    ("bulk", "bulk_triad", |asker, name| asker.ring(name, Kind::Triad)),
    ("cache", "cache_largest", cache::ask),
    ("cache", "cache_fill", cache::ask),
    ("cache", "cache_step", cache::ask),
    ("dequantise", "dequantise_nvfp4", precision::ask),
    ("dequantise", "dequantise_mxfp8", precision::ask),
    ("dequantise", "dequantise_mxfp4", precision::ask),
    ("dequantise_rows", "dequantise_rows", precision::ask),
    ("fault", "fault_illegal_address", |asker, name| asker.unarmed(name, Planted::IllegalAddress)),
    ("fault", "fault_endless", |asker, name| asker.unarmed(name, Planted::Endless)),
    ("fault", "fault_past_end", |asker, name| asker.unarmed(name, Planted::PastEnd)),
    ("finite", "finite_first", |asker, name| asker.finite_first(name)),
    ("formats", "formats_encode", precision::ask),
    ("formats", "formats_decode", precision::ask),
    ("formats", "formats_sweep", precision::ask),
    ("integers", "integers_encode", |asker, name| asker.integers_encode(name)),
    ("integers", "integers_decode", |asker, name| asker.integers_decode(name)),
    ("integers", "integers_rows", |asker, name| asker.integers_rows(name)),
    ("ternary", "ternary_sum", |asker, name| asker.ternary_sum(name)),
    ("ternary", "ternary_encode", |asker, name| asker.ternary_encode(name)),
    ("language", "language_embed", language::ask),
    ("language", "language_norm", language::ask),
    ("language", "language_gelu", language::ask),
    ("language", "language_add", language::ask),
    ("language", "language_finish", language::ask),
    ("language", "language_product", language::ask),
    ("language", "language_attention", language::ask),
    ("language", "language_score", language::ask),
    ("links", "links_copy", |asker, name| asker.linked_copy(name)),
    ("links", "links_chase", |asker, name| asker.walk(name)),
    ("links", "links_hold", |asker, name| asker.hold(name)),
    ("model", "model_weights", model::ask),
    ("model", "model_embed", model::ask),
    ("model", "model_norm", model::ask),
    ("model", "model_gelu", model::ask),
    ("model", "model_add", model::ask),
    ("model", "model_compare", model::ask),
    ("model-bf16", "model_weights", model::ask_bf16),
    ("model-bf16", "model_embed", model::ask_bf16),
    ("model-bf16", "model_norm", model::ask_bf16),
    ("model-bf16", "model_gelu", model::ask_bf16),
    ("model-bf16", "model_add", model::ask_bf16),
    ("model-bf16", "model_compare", model::ask_bf16),
    ("operands", "operand_integers", |asker, name| asker.integers(name)),
    ("operands", "operand_normals", |asker, name| {
        asker.filled(name, &[Values::Normals { scale: 1.5 }])
    }),
    ("operands", "operand_scales", |asker, name| asker.scales(name)),
    ("operands", "operand_nonfinite", |asker, name| asker.nonfinite(name)),
    ("pattern", "pattern_fill", |asker, name| asker.pattern_fill(name)),
    ("pattern", "pattern_check", |asker, name| asker.pattern_check(name)),
    ("pattern", "pattern_sum", |asker, name| asker.pattern_sum(name)),
    ("pattern", "pattern_flip", |asker, name| asker.pattern_flip(name)),
    ("product", "product_fold", |asker, name| asker.product(name, ProductPart::Fold)),
    ("product", "product_rows", |asker, name| asker.product(name, ProductPart::Rows)),
    ("product", "product_sample", |asker, name| asker.product(name, ProductPart::Sample)),
    ("promoted", "promoted_half", promoted::ask),
    ("promoted", "promoted_bf16", promoted::ask),
    ("promoted-one-accumulator", "promoted_half", promoted::ask_planted),
    ("promoted-one-accumulator", "promoted_bf16", promoted::ask_planted),
    ("quantise", "quantise_row", precision::ask),
    ("quantise", "quantise_row_long", precision::ask),
    ("quantise", "quantise_gelu_row", precision::ask),
    ("quantise", "quantise_gelu_row_long", precision::ask),
    ("quantise", "quantise_norm_row", precision::ask),
    ("quantise", "quantise_norm_row_whole", precision::ask),
    ("quantise", "quantise_largest", precision::ask),
    ("quantise", "quantise_tensor", precision::ask),
    ("quantise", "quantise_block128", precision::ask),
    ("quantise", "quantise_nvfp4", precision::ask),
    ("quantise", "quantise_mxfp8", precision::ask),
    ("quantise", "quantise_mxfp4", precision::ask),
    ("quantise", "quantise_square128", precision::ask),
    ("reduction", "reduction_fill", |asker, name| asker.reduction_fill(name)),
    ("reduction", "reduction_check", |asker, name| asker.reduction_check(name)),
    ("reduction", "reduction_error", |asker, name| asker.reduction_error(name)),
    ("reduction", "reduction_compare", |asker, name| asker.reduction_compare(name)),
    ("stream", "stream_read_u1", |asker, name| asker.vectors(name, Kind::Read, Unroll::U1)),
    ("stream", "stream_write_u1", |asker, name| asker.vectors(name, Kind::Write, Unroll::U1)),
    ("stream", "stream_copy_u1", |asker, name| asker.vectors(name, Kind::Copy, Unroll::U1)),
    ("stream", "stream_triad_u1", |asker, name| asker.vectors(name, Kind::Triad, Unroll::U1)),
    ("stream", "stream_read_u2", |asker, name| asker.vectors(name, Kind::Read, Unroll::U2)),
    ("stream", "stream_write_u2", |asker, name| asker.vectors(name, Kind::Write, Unroll::U2)),
    ("stream", "stream_copy_u2", |asker, name| asker.vectors(name, Kind::Copy, Unroll::U2)),
    ("stream", "stream_triad_u2", |asker, name| asker.vectors(name, Kind::Triad, Unroll::U2)),
    ("stream", "stream_read_u4", |asker, name| asker.vectors(name, Kind::Read, Unroll::U4)),
    ("stream", "stream_write_u4", |asker, name| asker.vectors(name, Kind::Write, Unroll::U4)),
    ("stream", "stream_copy_u4", |asker, name| asker.vectors(name, Kind::Copy, Unroll::U4)),
    ("stream", "stream_triad_u4", |asker, name| asker.vectors(name, Kind::Triad, Unroll::U4)),
    ("stream", "stream_read_u8", |asker, name| asker.vectors(name, Kind::Read, Unroll::U8)),
    ("stream", "stream_write_u8", |asker, name| asker.vectors(name, Kind::Write, Unroll::U8)),
    ("stream", "stream_copy_u8", |asker, name| asker.vectors(name, Kind::Copy, Unroll::U8)),
    ("stream", "stream_triad_u8", |asker, name| asker.vectors(name, Kind::Triad, Unroll::U8)),
    ("timing", "timing_latch", |asker, name| asker.latch(name)),
    ("timing", "timing_sweep", |asker, name| asker.sweep(name)),
    ("weightonly", "weightonly_e4m3_8", |asker, name| asker.weight_only(name, true, 7)),
    ("weightonly", "weightonly_e4m3_16", |asker, name| asker.weight_only(name, true, 13)),
    ("weightonly", "weightonly_e4m3_norm", |asker, name| asker.weight_only_normed(name, true, 2)),
    ("weightonly", "weightonly_f16_norm", |asker, name| asker.weight_only_normed(name, false, 1)),
    ("weightonly", "weightonly_f16_8", |asker, name| asker.weight_only(name, false, 8)),
    ("weightonly", "weightonly_f16_16", |asker, name| asker.weight_only(name, false, 16)),
];

/// Asks every entry of every kernel that has a target for this GPU.
///
/// `load` compiles and loads a source. `planted` is an entry, or none, of whose answer one bit is
/// changed on purpose. Returns `kernel::entry` and the count of wrong words of each, 0 where the
/// answer is right. Kernels without a target for this GPU are not asked and not in the answer.
pub fn known_answers(
    gpu: &Gpu,
    load: impl Fn(&KernelSource) -> Result<Module>,
    planted: Option<&str>,
) -> Result<Vec<(String, u64)>> {
    if let Some((kernel, entry)) = unasked().first() {
        return Err(Error::Shape { what: format!("{kernel}::{entry} has no known answer") });
    }
    let mut modules = BTreeMap::new();
    for source in KERNELS.iter().filter(|source| has_target(source, gpu.compute_capability)) {
        modules.insert(source.name, load(source)?);
    }
    if modules.is_empty() {
        return Err(Error::Shape {
            what: format!("no kernel has a target for {:?}", gpu.compute_capability),
        });
    }
    // `kernel::entry` and the entry alone both name it.
    let planted = planted.map(|name| name.rsplit("::").next().unwrap_or(name));
    if let Some(entry) = planted
        && !QUESTIONS.iter().any(|question| question.1 == entry)
    {
        return Err(Error::Shape { what: format!("a fault planted in unknown entry {entry}") });
    }
    let asker = Asker { gpu, modules, planted };
    let asked = QUESTIONS.iter().filter(|question| asker.modules.contains_key(question.0));
    asked
        .map(|(kernel, entry, ask)| Ok((format!("{kernel}::{entry}"), ask(&asker, entry)?)))
        .collect()
}

/// Whether a source has code for a compute capability. A target with `a` runs on exactly its own;
/// a plain one also on later minor versions.
fn has_target(source: &KernelSource, (major, minor): (u32, u32)) -> bool {
    let number = 10 * major + minor;
    let runs = |architecture: &str| {
        let Some(name) = architecture.strip_prefix("sm_") else { return false };
        match name.strip_suffix('a') {
            Some(exact) => exact.parse() == Ok(number),
            None => name.parse().is_ok_and(|base: u32| base / 10 == major && base <= number),
        }
    };
    source.architectures.iter().any(|architecture| runs(architecture))
}

/// Entries of [`KERNELS`] that no question asks.
fn unasked() -> Vec<(&'static str, &'static str)> {
    let entries = KERNELS.iter().flat_map(|s| s.entries.iter().map(|entry| (s.name, *entry)));
    entries.filter(|(k, e)| !QUESTIONS.iter().any(|q| q.0 == *k && q.1 == *e)).collect()
}

/// Which check of a product is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProductPart {
    Fold,
    Rows,
    Sample,
}

struct Asker<'g> {
    gpu: &'g Gpu,
    modules: BTreeMap<&'static str, Module>,
    planted: Option<&'g str>,
}

impl Asker<'_> {
    fn stream(&self) -> &CudaStream {
        self.gpu.stream()
    }

    fn module(&self, name: &str) -> Result<&Module> {
        self.modules.get(name).ok_or_else(|| Error::Shape { what: format!("no module {name}") })
    }

    fn patterns(&self) -> Result<Patterns> {
        Patterns::new(self.gpu, self.module("pattern")?)
    }

    /// A buffer with these words.
    fn with_words(&self, words: &[u32]) -> Result<Buffer> {
        let buffer = self.gpu.alloc(4 * words.len() as u64)?;
        buffer.write(self.stream(), 0, words)?;
        Ok(buffer)
    }

    /// Counts the words of an answer that differ from the CPU's.
    fn compare(&self, name: &str, mut found: Vec<u32>, wanted: &[u32]) -> u64 {
        if self.planted == Some(name)
            && let Some(word) = found.first_mut()
        {
            *word ^= 1;
        }
        let missing = found.len().abs_diff(wanted.len()) as u64;
        missing + found.iter().zip(wanted).filter(|(found, wanted)| found != wanted).count() as u64
    }

    /// As `compare`, with the answer in device memory and the planted bit changed there.
    fn compare_buffer(&self, name: &str, buffer: &Buffer, wanted: &[u32]) -> Result<u64> {
        let stream = self.stream();
        if self.planted == Some(name) {
            let word: Vec<u32> = buffer.read_vec(stream, 1)?;
            buffer.write(stream, 0, &[word[0] ^ 1])?;
        }
        let found: Vec<u32> = buffer.read_vec(stream, wanted.len())?;
        Ok(found.iter().zip(wanted).filter(|(found, wanted)| found != wanted).count() as u64)
    }

    fn compare_u64(&self, name: &str, found: &[u64], wanted: &[u64]) -> u64 {
        let words = |numbers: &[u64]| -> Vec<u32> {
            numbers.iter().flat_map(|n| [*n as u32, (*n >> 32) as u32]).collect()
        };
        self.compare(name, words(found), &words(wanted))
    }

    fn pattern_fill(&self, name: &str) -> Result<u64> {
        let patterns = self.patterns()?;
        let buffer = self.gpu.alloc(4 * 4100)?;
        let mut wrong = 0;
        for content in contents() {
            buffer.poison(self.stream())?;
            patterns.fill(self.stream(), &buffer, buffer.len_bytes(), content)?;
            let wanted: Vec<u32> = (0..4100).map(|i| content.word(i)).collect();
            wrong += self.compare_buffer(name, &buffer, &wanted)?;
        }
        Ok(wrong)
    }

    fn pattern_check(&self, name: &str) -> Result<u64> {
        let patterns = self.patterns()?;
        let mut wrong = 0;
        for content in contents() {
            let mut words: Vec<u32> = (0..4100).map(|i| content.word(i)).collect();
            words[1003] ^= 0x8000_0000;
            words[4099] ^= 1;
            let buffer = self.with_words(&words)?;
            let bytes = buffer.len_bytes();
            let found = patterns.check(self.stream(), &buffer, bytes, content)?;
            let found = [found.count, found.first_word.unwrap_or(u64::MAX)];
            wrong += self.compare_u64(name, &found, &[2, 1003]);
        }
        Ok(wrong)
    }

    fn pattern_sum(&self, name: &str) -> Result<u64> {
        let patterns = self.patterns()?;
        let mut wrong = 0;
        for content in contents() {
            let found = patterns.expected_sum(self.stream(), 4 * 4100, content)?;
            wrong += self.compare_u64(name, &[found], &[content.sum(4 * 4100)]);
        }
        Ok(wrong)
    }

    fn pattern_flip(&self, name: &str) -> Result<u64> {
        let buffer = self.with_words(&[5, 6, 7, 8])?;
        self.patterns()?.flip(self.stream(), &buffer, 2, 0x8000_0001)?;
        self.compare_buffer(name, &buffer, &[5, 6, 0x8000_0006, 8])
    }

    /// A fault that is not armed writes one word and nothing else.
    fn unarmed(&self, name: &str, planted: Planted) -> Result<u64> {
        let buffer = self.with_words(&[1, 2, 3, 4])?;
        fault::launch(self.gpu, self.module("fault")?, planted, &buffer, false)?;
        self.compare_buffer(name, &buffer, &[fault::UNARMED, 2, 3, 4])
    }

    fn latch(&self, name: &str) -> Result<u64> {
        let latch = self.module("timing")?.entry("timing_latch")?;
        let words = self.with_words(&[0, 0, 7, 0])?;
        // The first flag never comes and the latch must say so; the second is there already.
        for (flag, target) in [(0u64, 3u32), (8, 7)] {
            let params = TimingParams {
                data: words.ptr() + flag,
                result: words.ptr() + flag + 4,
                amount: 1_000_000,
                target,
                reserved: 0,
            };
            // SAFETY: flag and result are two words of the buffer.
            unsafe { latch.launch(self.stream(), Grid::linear(1, 32), &params)? };
        }
        self.compare_buffer(name, &words, &[0, 3, 7, 0])
    }

    fn sweep(&self, name: &str) -> Result<u64> {
        let sweep = self.module("timing")?.entry("timing_sweep")?;
        let words: Vec<u32> = (0..40_004).map(|i| hash_word(SEED, i)).collect();
        let buffer = self.with_words(&words)?;
        let sum = self.with_words(&[0, 0])?;
        let amount = buffer.len_bytes() / 16;
        let (data, result) = (buffer.ptr(), sum.ptr());
        let params = TimingParams { data, result, amount, target: 0, reserved: 0 };
        // SAFETY: the vectors lie inside the buffer and the sum is a u64.
        unsafe { sweep.launch(self.stream(), Grid::linear(7, 512), &params)? };
        let found: Vec<u64> = sum.read_vec(self.stream(), 1)?;
        let wanted = Content::Hash { seed: SEED }.sum(buffer.len_bytes());
        Ok(self.compare_u64(name, &found, &[wanted]))
    }

    fn vectors(&self, name: &str, kind: Kind, unroll: Unroll) -> Result<u64> {
        // Tiles and a remainder, in every order and with every hint.
        let threads = unroll.most_threads() / 2;
        let tile = u64::from(16 * unroll.accesses() * threads);
        let bytes = 5 * tile + 37 * 16;
        let hints = [Hint::Plain, Hint::Streaming, Hint::EvictFirst, Hint::EvictFirstLoads];
        let variants = hints.into_iter().flat_map(|hint| {
            spreads().map(move |spread| Variant::Vector { unroll, threads, spread, hint })
        });
        self.streamed(name, kind, bytes, &variants.collect::<Vec<_>>())
    }

    fn ring(&self, name: &str, kind: Kind) -> Result<u64> {
        // Two blocks turn each ring several times; the last chunk is a part.
        let bytes = 41 * 2048 + 37 * 16;
        let variants = [3, 4, 8].into_iter().flat_map(|stages| {
            spreads().map(|spread| Variant::Bulk {
                stage_bytes: 2048,
                stages,
                spread,
                evict_first: stages == 4,
            })
        });
        self.streamed(name, kind, bytes, &variants.collect::<Vec<_>>())
    }

    /// Runs each variant on all multiprocessors and on two blocks, and compares all words.
    fn streamed(&self, name: &str, kind: Kind, bytes: u64, variants: &[Variant]) -> Result<u64> {
        let (gpu, stream) = (self.gpu, self.stream());
        let bulk = self.modules.get("bulk");
        let pattern = self.module("pattern")?;
        let streaming = Streaming::new(gpu, self.module("stream")?, bulk, pattern)?;
        let (b_seed, c_seed) = (SEED, SEED ^ 0xABCD);
        let (b_content, wanted) = match kind {
            Kind::Triad => {
                (Content::SmallFloat { seed: b_seed }, Content::Triad { b_seed, c_seed })
            }
            Kind::Read | Kind::Write | Kind::Copy => {
                (Content::Hash { seed: b_seed }, Content::Hash { seed: b_seed })
            }
        };
        let (a, b, c) = (gpu.alloc(bytes)?, gpu.alloc(bytes)?, gpu.alloc(bytes)?);
        let sums = gpu.alloc(sums_bytes(gpu, bytes))?;
        streaming.patterns().fill(stream, &b, bytes, b_content)?;
        streaming.patterns().fill(stream, &c, bytes, Content::SmallFloat { seed: c_seed })?;
        let job = match kind {
            Kind::Read => Job::Read { source: &b, sums: &sums },
            Kind::Write => Job::Write { target: &a, output: Output::Hash { seed: b_seed } },
            Kind::Copy => Job::Copy { target: &a, source: &b },
            Kind::Triad => Job::Triad { a: &a, b: &b, c: &c, scalar: 3.0 },
        };
        let words: Vec<u32> = (0..bytes / 4).map(|i| wanted.word(i)).collect();
        let mut wrong = 0;
        for &variant in variants {
            for blocks in [None, Some(2)] {
                let fault = Fault { blocks, ..Fault::default() };
                let prepared = streaming.prepare(job, bytes, variant, fault)?;
                a.poison(stream)?;
                sums.poison(stream)?;
                prepared.launch(stream)?;
                wrong += match kind {
                    Kind::Read => {
                        let found = prepared.checksum(stream)?;
                        self.compare_u64(name, &[found], &[wanted.sum(bytes)])
                    }
                    Kind::Write | Kind::Copy | Kind::Triad => {
                        self.compare_buffer(name, &a, &words)?
                    }
                };
            }
        }
        if kind == Kind::Write {
            let output = Output::Constant { word: 0xC0FF_EE11 };
            let job = Job::Write { target: &a, output };
            a.poison(stream)?;
            streaming.prepare(job, bytes, variants[0], Fault::default())?.launch(stream)?;
            wrong += self.compare_buffer(name, &a, &vec![0xC0FF_EE11; words.len()])?;
        }
        Ok(wrong)
    }

    fn operands(&self) -> Result<Operands> {
        Operands::new(self.gpu, self.module("operands")?)
    }

    fn integers(&self, name: &str) -> Result<u64> {
        self.filled(name, &[Values::Integers { density_ppm: 300_000 }, Values::FullInt8])
    }

    fn filled(&self, name: &str, values: &[Values]) -> Result<u64> {
        let operands = self.operands()?;
        let mut wrong = 0;
        for element in Element::INPUTS {
            for &values in values {
                let (count, wanted) = codes(element, values, SEED, 1600);
                let buffer = self.gpu.alloc(4 * wanted.len() as u64)?;
                buffer.poison(self.stream())?;
                operands.fill(self.stream(), &buffer, element, count, SEED, values)?;
                wrong += self.compare_buffer(name, &buffer, &wanted)?;
            }
        }
        Ok(wrong)
    }

    fn scales(&self, name: &str) -> Result<u64> {
        let operands = self.operands()?;
        let mut wrong = 0;
        for scales in [Scales::PowersOfTwo, Scales::Random] {
            let buffer = self.gpu.alloc(4 * 500)?;
            operands.fill_scales(self.stream(), &buffer, 500, SEED, scales)?;
            let wanted: Vec<u32> = (0..500).map(|i| scales.value(SEED, i).to_bits()).collect();
            wrong += self.compare_buffer(name, &buffer, &wanted)?;
        }
        Ok(wrong)
    }

    /// Three heads of 70 rows of two sequences in E4M3, from fp16 and bf16: their scales, or their codes in
    /// both layouts and what these hold.
    fn quantised(&self, name: &str, scales: bool) -> Result<u64> {
        let quantiser = Quantiser::new(self.module("attention-quantise")?)?;
        let [batches, rows, heads] = Drawn::SIZES;
        let stream = self.stream();
        let mut wrong = 0;
        for element in [Element::F16, Element::Bf16] {
            let drawn = Drawn::new(element);
            let source = self.with_words(&drawn.words)?;
            let source = Tensor::packed(&source, rows, heads, quantise::HEAD_SIZE);
            for layout in [Layout::Rows, Layout::Transposed] {
                let target = Quantised::allocate(self.gpu, layout, batches, rows, heads)?;
                let rounded = self.gpu.alloc(4 * drawn.words.len() as u64)?;
                for buffer in [&target.codes, &target.scales, &rounded] {
                    buffer.poison(stream)?;
                }
                quantiser.run(stream, &source, element, &target, Some(&rounded))?;
                if scales {
                    let bits: Vec<u32> =
                        drawn.scales.iter().map(|&scale| (scale as f32).to_bits()).collect();
                    wrong += self.compare_buffer(name, &target.scales, &bits)?;
                    continue;
                }
                let codes = drawn.codes(layout, target.codes.len_bytes() as usize);
                wrong += self.compare_buffer(name, &target.codes, &codes)?;
                wrong += self.compare_buffer(name, &rounded, &drawn.rounded())?;
            }
        }
        Ok(wrong)
    }

    fn nonfinite(&self, name: &str) -> Result<u64> {
        let operands = self.operands()?;
        let mut wrong = 0;
        for element in [Element::F16, Element::Bf16, Element::F32, Element::E4m3] {
            let (count, mut words) = codes(element, Values::Normals { scale: 1.0 }, SEED, 1600);
            // A word of ones holds one NaN for each element in it.
            words[17] = u32::MAX;
            let buffer = self.with_words(&words)?;
            let found = operands.count_nonfinite(self.stream(), &buffer, element, count)?;
            wrong += self.compare_u64(name, &[found], &[4 / element.bytes()]);
        }
        Ok(wrong)
    }

    /// A small product of integers, right and with one wrong element.
    fn product(&self, name: &str, part: ProductPart) -> Result<u64> {
        const M: u32 = 24;
        const N: u32 = 80;
        const K: u32 = 96;
        let checker = Checker::new(self.module("product")?)?;
        let (gpu, stream) = (self.gpu, self.stream());
        let pairs = [
            (Element::F16, Element::F16),
            (Element::Bf16, Element::Bf16),
            (Element::F32, Element::F32),
            (Element::E4m3, Element::Bf16),
            (Element::Int8, Element::Int32),
        ];
        let scale_words: Vec<u32> =
            (0..u64::from(N)).map(|i| Scales::PowersOfTwo.value(SEED, i).to_bits()).collect();
        let scale_buffer = self.with_words(&scale_words)?;
        let mut wrong = 0;
        for (input, output) in pairs {
            let values = match input {
                Element::Int8 => Values::FullInt8,
                _ => Values::Integers { density_ppm: 400_000 },
            };
            let (b_seed, rows) = (SEED + 1, output == Element::Bf16);
            let at = |seed, row: u32, column: u32| {
                f64::from(values.value(seed, u64::from(row * K + column)))
            };
            let scale = |row: u32| match rows {
                true => f64::from(Scales::PowersOfTwo.value(SEED, row.into())),
                false => 1.0,
            };
            let dot = |row: u32, column: u32| -> f64 {
                (0..K).map(|k| at(SEED, row, k) * at(b_seed, column, k)).sum()
            };
            let d_codes: Vec<u32> = (0..M * N)
                .map(|i| dot(i / N, i % N) * scale(i / N) * scale(i % N))
                .map(|x| {
                    if output == Element::Int32 { x as i32 as u32 } else { output.encode(x as f32) }
                })
                .collect();
            let a = self.with_words(&codes(input, values, SEED, M * K).1)?;
            let b = self.with_words(&codes(input, values, b_seed, N * K).1)?;
            let d = self.with_words(&output.pack(&d_codes))?;
            let scales = if rows { Scale::Rows(&scale_buffer) } else { Scale::Unit };
            let (scale_a, scale_b) = (scales, scales);
            let alpha = 1.0;
            let (m, n, k) = (M, N, K);
            let product =
                Product { a: &a, b: &b, d: &d, m, n, k, input, output, scale_a, scale_b, alpha };
            wrong += match part {
                ProductPart::Fold => {
                    let fold = checker.folded(gpu, stream, &product, SEED)?;
                    let found: Vec<u64> = fold.read_vec(stream, K as usize)?;
                    let column = |k: u32| -> i64 {
                        (0..N).map(|row| at(b_seed, row, k) as i64 * weight(SEED, row.into())).sum()
                    };
                    let wanted: Vec<u64> = (0..K).map(|k| column(k) as u64).collect();
                    self.compare_u64(name, &found, &wanted)
                }
                ProductPart::Rows => {
                    let right = checker.freivalds(gpu, stream, &product, SEED)?;
                    let mut d_codes = d_codes;
                    // A wrong integer, and a value that is no integer or a wrong one.
                    d_codes[(5 * N + 7) as usize] ^= 1 << (8 * output.bytes() as u32 - 1);
                    d_codes[(9 * N + 3) as usize] ^= 1;
                    let nonzero = u64::from(dot(5, 7) != 0.0 || output == Element::Int32);
                    d.write(stream, 0, &output.pack(&d_codes))?;
                    let planted = checker.freivalds(gpu, stream, &product, SEED)?;
                    let first = if nonzero == 1 { 5 } else { 9 };
                    let found = [
                        right.rows,
                        right.not_integral,
                        planted.rows,
                        planted.first_row.unwrap_or(u64::MAX),
                    ];
                    self.compare_u64(name, &found, &[0, 0, 1 + nonzero, first])
                }
                ProductPart::Sample => {
                    let accumulation = Accumulation::of(input, false);
                    let found = checker.sample(gpu, stream, &product, 130, SEED, accumulation)?;
                    let exact = |index: u64| {
                        let (row, column) = (index as u32 / N, index as u32 % N);
                        dot(row, column) * scale(row) * scale(column)
                    };
                    let (found, wanted): (Vec<u64>, Vec<u64>) = found
                        .samples
                        .iter()
                        .flat_map(|s| [(s.reference, exact(s.index)), (s.value, exact(s.index))])
                        .map(|(found, wanted)| ((found + 0.0).to_bits(), (wanted + 0.0).to_bits()))
                        .unzip();
                    self.compare_u64(name, &found, &wanted)
                }
            };
        }
        Ok(wrong)
    }
}

/// Heads that the quantiser is asked to round, and what it must make of them.
struct Drawn {
    element: Element,
    /// `[batch][row][head][element]`, as 16-bit codes.
    words: Vec<u32>,
    /// Of each `[batch][head]`.
    scales: Vec<f64>,
}

impl Drawn {
    /// Sequences, rows and heads.
    const SIZES: [u32; 3] = [2, 70, 3];
    const SIZE: usize = quantise::HEAD_SIZE as usize;

    fn new(element: Element) -> Drawn {
        let [batches, rows, heads] = Drawn::SIZES;
        let count = batches * rows * heads * quantise::HEAD_SIZE;
        let (_, words) = codes(element, Values::Normals { scale: 1.5 }, SEED, count);
        let mut drawn = Drawn { element, words, scales: Vec::new() };
        let mut most = vec![0.0; (batches * heads) as usize];
        for place in 0..drawn.len() {
            let line = Drawn::line(place).0;
            most[line] = f64::max(most[line], drawn.value(place).abs());
        }
        drawn.scales = most.iter().map(|most| (most / 448.0).log2().ceil().exp2()).collect();
        drawn
    }

    fn len(&self) -> usize {
        2 * self.words.len()
    }

    fn value(&self, place: usize) -> f64 {
        self.element.decode(self.words[place / 2] >> (place % 2 * 16) & 0xFFFF)
    }

    /// Which `[batch][head]`, row and element stands at a place.
    fn line(place: usize) -> (usize, usize, usize) {
        let [_, rows, heads] = Drawn::SIZES.map(|size| size as usize);
        let (element, line) = (place % Drawn::SIZE, place / Drawn::SIZE);
        let (head, line) = (line % heads, line / heads);
        (line / rows * heads + head, line % rows, element)
    }

    fn code(&self, place: usize) -> u32 {
        Element::E4m3.encode((self.value(place) / self.scales[Drawn::line(place).0]) as f32)
    }

    /// `len` bytes of codes in a layout; behind the last row zeros.
    fn codes(&self, layout: Layout, len: usize) -> Vec<u32> {
        let mut bytes = vec![0u8; len];
        for place in 0..self.len() {
            let (line, row, element) = Drawn::line(place);
            let to = match layout {
                Layout::Rows => place,
                Layout::Transposed => {
                    let padded = len / (self.scales.len() * Drawn::SIZE);
                    // Of each 16 keys: 0 1 8 9, 2 3 10 11, 4 5 12 13, 6 7 14 15.
                    let key = row % 16;
                    let within = key % 8 / 2 * 4 + key / 8 * 2 + key % 2;
                    (line * Drawn::SIZE + element) * padded + row / 16 * 16 + within
                }
            };
            bytes[to] = self.code(place) as u8;
        }
        let word = |four: &[u8]| four.iter().rev().fold(0, |word, &b| word << 8 | u32::from(b));
        bytes.chunks(4).map(word).collect()
    }

    /// What E4M3 holds, in 16 bits.
    fn rounded(&self) -> Vec<u32> {
        let held = |place: usize| {
            let scale = self.scales[Drawn::line(place).0];
            self.element.encode((Element::E4m3.decode(self.code(place)) * scale) as f32)
        };
        self.element.pack(&(0..self.len()).map(held).collect::<Vec<_>>())
    }
}

/// One content of each kind.
fn contents() -> [Content; 7] {
    [
        Content::Hash { seed: SEED },
        Content::Constant { word: 0xA5A5_5A5A },
        Content::SmallFloat { seed: SEED },
        Content::Triad { b_seed: SEED, c_seed: SEED ^ 0xFF },
        Content::WalkingOne { phase: 3 },
        Content::WalkingZero { phase: 31 },
        Content::Address { mask: u32::MAX },
    ]
}

/// One spread of each kind.
fn spreads() -> [Spread; 3] {
    [
        Spread::Interleaved { blocks_per_sm: 2 },
        Spread::Contiguous { blocks_per_sm: 1 },
        Spread::Pieces { per_block: 2 },
    ]
}

/// `count` codes of an operand, packed into words, and the count.
fn codes(element: Element, values: Values, seed: u64, count: u32) -> (u64, Vec<u32>) {
    let count = u64::from(count);
    let codes: Vec<u32> = (0..count).map(|i| element.encode(values.value(seed, i))).collect();
    (count, element.pack(&codes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_a_question_and_every_question_an_entry() {
        assert_eq!(unasked(), []);
        for (kernel, entry, _) in QUESTIONS {
            let source = KERNELS.iter().find(|source| source.name == *kernel);
            assert!(source.is_some_and(|s| s.entries.contains(entry)), "{kernel}::{entry}");
        }
    }

    #[test]
    fn targets_by_compute_capability() {
        assert!(has_target(&crate::bulk::SOURCE, (9, 0)));
        assert!(!has_target(&crate::bulk::SOURCE, (8, 0)));
        assert!(has_target(&crate::stream::SOURCE, (8, 9)));
        assert!(!has_target(&crate::stream::SOURCE, (7, 5)));
        assert!(!has_target(&crate::stream::SOURCE, (10, 3)));
    }

    #[test]
    fn entries_stand_in_their_sources() {
        for source in KERNELS {
            for entry in source.entries {
                // The stream entries are stamped out by a macro from the name before the count.
                let stem = entry.trim_end_matches(|c: char| c.is_ascii_digit());
                assert!(source.source.contains(stem), "{entry}");
            }
        }
    }

    #[test]
    fn what_e4m3_holds_is_near_what_was_drawn() {
        for element in [Element::F16, Element::Bf16] {
            let drawn = Drawn::new(element);
            let rounded = Drawn { words: drawn.rounded(), ..Drawn::new(element) };
            // Half a unit of 3 bits of mantissa, and of the least subnormal number.
            for place in 0..drawn.len() {
                let (value, held) = (drawn.value(place), rounded.value(place));
                let most = (value.abs() / 16.0).max(drawn.scales[Drawn::line(place).0] / 1024.0);
                assert!((value - held).abs() <= most, "{value} became {held}");
            }
            let rows = Drawn::SIZES.iter().product::<u32>() as usize * Drawn::SIZE;
            let codes = drawn.codes(Layout::Rows, rows);
            assert_eq!(codes[0] & 0xFF, drawn.code(0));
            let padded = drawn.codes(Layout::Transposed, rows / 70 * 128);
            // Row 8 of the first element stands third.
            assert_eq!(padded[0] >> 16 & 0xFF, drawn.code(8 * 3 * Drawn::SIZE));
        }
    }
}
