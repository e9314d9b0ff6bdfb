//! The GPUs of a case with all that a model needs.

use std::path::Path;

use harness::record::{Assignment, Recorder, Stop};
use kernels::attention::program::Program;
use kernels::attention::variant::{Kernel, Variant};
use kernels::attention::{self, forward::Forward};
use kernels::dequantise_rows::{self, RowDequantiser};
use kernels::device::{Gpu, Module};
use kernels::element::Element;
use kernels::generator::below;
use kernels::libraries::Library;
use kernels::matmul::{Choice, Lt};
use kernels::model::drift::Difference;
use kernels::model::group::{Group, Watch};
use kernels::model::rank::Tools;
use kernels::model::weights::{Linear, Split};
use kernels::model::{self, Config, HEAD_SIZE, Kernels, Precision, Problem};
use kernels::operands::{self, Operands};
use kernels::pattern::{self, Patterns};
use kernels::quantise::{self, Quantiser};
use kernels::timing::{self, Hold};
use kernels::{KernelSource, jit, peer};

use crate::attention::backend;
use crate::e4m3;
use crate::lab::{self, Lab};

/// Kernels whose digests the evidence of every case carries, beside attention, which differs by board.
pub const KERNELS: &[&str] = &["model", "operands", "pattern", "timing"];

/// Algorithms that are tried for each product.
pub const CANDIDATES: usize = 16;

/// GPUs, in order, with their tools.
pub struct Bench {
    /// The opened GPUs; the tools lie beside them in the same order.
    pub lab: Lab,
    tools: Vec<Tools>,
}

impl Bench {
    /// Opens the GPUs of a case, with peer access among them where there are several.
    pub fn open(assignment: &Assignment, recorder: &mut Recorder) -> Result<Bench, Stop> {
        let lab = Lab::open(assignment, recorder)?;
        lab::require(Library::CublasLt)?;
        peer::enable(&lab.gpus)?;
        let mut all = Vec::new();
        for gpu in &lab.gpus {
            gpu.bind()?;
            all.push(tools(gpu, &mut |source| lab.module(gpu, source, recorder))?);
        }
        Ok(Bench { lab, tools: all })
    }

    /// Loads attention over E4M3 too, for models of [`Config::attention_e4m3`].
    ///
    /// Errors: not applicable without sm_90; what cannot be compiled or loaded.
    pub fn load_attention_e4m3(&mut self, recorder: &mut Recorder) -> Result<(), Stop> {
        for (gpu, tools) in self.lab.gpus.iter().zip(&mut self.tools) {
            gpu.bind()?;
            let load = &mut |source| self.lab.module(gpu, source, recorder);
            tools.attention_e4m3 = Some(attention_e4m3(gpu, load)?);
        }
        Ok(())
    }

    /// Loads what models in bf16 need.
    ///
    /// Errors: what cannot be compiled or loaded.
    pub fn load_bf16(&mut self, recorder: &mut Recorder) -> Result<(), Stop> {
        for (gpu, tools) in self.lab.gpus.iter().zip(&mut self.tools) {
            gpu.bind()?;
            let load = &mut |source| self.lab.module(gpu, source, recorder);
            tools.bf16 = Some(bf16((gpu, backend::kernel_for(gpu)), load)?);
        }
        Ok(())
    }

    /// Loads what models in [`Precision::E4m3Promoted`] need.
    ///
    /// Errors: not applicable without sm_90; what cannot be compiled or loaded.
    pub fn load_promoted(&mut self, recorder: &mut Recorder) -> Result<(), Stop> {
        for (gpu, tools) in self.lab.gpus.iter().zip(&mut self.tools) {
            gpu.bind()?;
            let load = &mut |source| self.lab.module(gpu, source, recorder);
            tools.promoted = Some(e4m3::promoted(gpu, load)?);
        }
        Ok(())
    }

    /// Loads what passes of models in [`Precision::WeightsE4m3`] need.
    ///
    /// Errors: what cannot be compiled or loaded.
    pub fn load_widener(&mut self, recorder: &mut Recorder) -> Result<(), Stop> {
        for (gpu, tools) in self.lab.gpus.iter().zip(&mut self.tools) {
            gpu.bind()?;
            let module = self.lab.module(gpu, &dequantise_rows::SOURCE, recorder)?;
            tools.widener = Some(RowDequantiser::new(&module)?);
        }
        Ok(())
    }

    /// GPUs that were given.
    pub fn count(&self) -> usize {
        self.tools.len()
    }

    /// The first so many GPUs.
    pub fn first(&self, count: usize) -> Vec<(&Gpu, &Tools)> {
        self.lab.gpus.iter().zip(&self.tools).take(count).collect()
    }

    /// All GPUs' indices on the node.
    pub fn indices(&self, count: usize) -> &[u32] {
        &self.lab.indices[..count]
    }

    /// Degrees of 2, 4 and 8 for which there are GPUs.
    pub fn degrees(&self) -> Vec<usize> {
        [2, 4, 8].into_iter().filter(|&degree| degree <= self.count()).collect()
    }
}

/// Everything that a GPU needs for its share, with the fastest attention that it has.
pub fn tools(
    gpu: &Gpu,
    load: &mut dyn FnMut(&'static KernelSource) -> Result<Module, Stop>,
) -> Result<Tools, Stop> {
    tools_with((gpu, backend::kernel_for(gpu)), load)
}

/// The same with this kernel for attention.
fn tools_with(
    (gpu, kernel): (&Gpu, Kernel),
    load: &mut dyn FnMut(&'static KernelSource) -> Result<Module, Stop>,
) -> Result<Tools, Stop> {
    Ok(Tools {
        kernels: Kernels::new(gpu, &load(&model::SOURCE)?)?,
        attention: attention((gpu, kernel), Element::F16, load)?,
        bf16: None,
        attention_e4m3: None,
        quantiser: Quantiser::new(gpu, &load(&quantise::SOURCE)?)?,
        operands: Operands::new(gpu, &load(&operands::SOURCE)?)?,
        lt: Lt::new(gpu)?,
        promoted: None,
        widener: None,
        hold: Hold::new(gpu, &load(&timing::SOURCE)?)?,
        patterns: Patterns::new(gpu, &load(&pattern::SOURCE)?)?,
    })
}

/// What lies between the products, and attention, over bf16.
fn bf16(
    by: (&Gpu, Kernel),
    load: &mut dyn FnMut(&'static KernelSource) -> Result<Module, Stop>,
) -> Result<(Kernels, Forward), Stop> {
    let kernels = Kernels::new(by.0, &load(&model::SOURCE_BF16)?)?;
    Ok((kernels, attention(by, Element::Bf16, load)?))
}

/// Attention over halves or bf16, by a kernel that the GPU has.
fn attention(
    (gpu, kernel): (&Gpu, Kernel),
    element: Element,
    load: &mut dyn FnMut(&'static KernelSource) -> Result<Module, Stop>,
) -> Result<Forward, Stop> {
    let variant = Variant::new(kernel, element, HEAD_SIZE, Program::PLAIN);
    Ok(Forward::new(gpu, &load(variant.source()?)?, variant)?)
}

/// Attention over E4M3, and what makes that of halves.
///
/// Errors: not applicable without sm_90.
pub fn attention_e4m3(
    gpu: &Gpu,
    load: &mut dyn FnMut(&'static KernelSource) -> Result<Module, Stop>,
) -> Result<(attention::quantise::Quantiser, Forward), Stop> {
    if backend::kernel_for(gpu) != Kernel::Hopper {
        return Err(Stop::NotApplicable("attention over E4M3 is for sm_90".into()));
    }
    let variant = Variant::new(Kernel::Hopper, Element::E4m3, HEAD_SIZE, Program::PLAIN);
    let quantiser = attention::quantise::Quantiser::new(&load(&attention::quantise::SOURCE)?)?;
    Ok((quantiser, Forward::new(gpu, &load(variant.source()?)?, variant)?))
}

/// The kernel that is asked for on GPUs of a compute capability, or none for the fastest.
pub type ChosenKernel<'a> = &'a dyn Fn((u32, u32)) -> Result<Option<Kernel>, Stop>;

/// The first so many GPUs of a process that is no case's, reaching each other, and the tools of a model.
pub fn opened(
    count: usize,
    cache: &Path,
    config: &Config,
    attention_by: ChosenKernel<'_>,
) -> Result<(Vec<Gpu>, Vec<Tools>), Stop> {
    let gpus = (0..count as u32).map(Gpu::open).collect::<kernels::Result<Vec<_>>>()?;
    peer::enable(&gpus)?;
    let tools = |gpu: &Gpu| {
        gpu.bind()?;
        let architecture = jit::architecture_of(gpu.compute_capability)
            .ok_or_else(|| Stop::NotApplicable("no kernel for this GPU".into()))?;
        let mut load = |source| -> Result<Module, Stop> {
            Ok(gpu.load(&jit::cached(source, architecture, cache)?.bytes)?)
        };
        let chosen = attention_by(gpu.compute_capability)?;
        let by = (gpu, chosen.unwrap_or_else(|| backend::kernel_for(gpu)));
        let mut tools = tools_with(by, &mut load)?;
        if config.precision == Precision::Bf16 {
            tools.bf16 = Some(bf16(by, &mut load)?);
        }
        if config.precision == Precision::E4m3Promoted {
            tools.promoted = Some(e4m3::promoted(gpu, &mut load)?);
        }
        if config.precision == Precision::WeightsE4m3 {
            tools.widener = Some(RowDequantiser::new(&load(&dequantise_rows::SOURCE)?)?);
        }
        if config.attention_e4m3 {
            tools.attention_e4m3 = Some(attention_e4m3(gpu, &mut load)?);
        }
        Ok(tools)
    };
    let tools = gpus.iter().map(tools).collect::<Result<_, Stop>>()?;
    Ok((gpus, tools))
}

/// Each first number over its second, to five places.
pub fn ratios(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter().zip(under).map(|(over, under)| (over / under * 1e5).round() / 1e5).collect()
}

/// A model over the given GPUs with its problem and tokens set.
pub fn group<'g>(
    gpus: &[(&'g Gpu, &'g Tools)],
    config: Config,
    split: Split,
    problem: Problem,
    tokens: &[u32],
) -> Result<Group<'g>, Stop> {
    let mut group = Group::new(gpus, config, split)?;
    group.set(problem, CANDIDATES)?;
    group.set_tokens(tokens)?;
    Ok(group)
}

/// Enqueues the layers of groups that follow each other, each on its own GPU, chunk behind chunk. Of `withheld`, a group
/// and a chunk, nothing is handed on: a planted fault.
pub fn pipeline(
    stages: &mut [Group<'_>],
    chunks: u32,
    each: Watch<'_>,
    withheld: Option<(usize, u32)>,
) -> Result<(), Stop> {
    if let Some(first) = stages.first() {
        first.embed()?;
    }
    for chunk in 0..chunks {
        for at in 0..stages.len() {
            let (done, next) = stages.split_at_mut(at + 1);
            done[at].pass_chunk(chunk, each)?;
            if let Some(next) = next.first()
                && withheld != Some((at, chunk))
            {
                done[at].hand_over(next, chunk)?;
            }
        }
    }
    Ok(())
}

/// Tokens of a problem, drawn by a seed.
pub fn tokens(config: &Config, problem: &Problem, seed: u64) -> Vec<u32> {
    (0..u64::from(problem.rows())).map(|at| below(seed, at, config.vocab)).collect()
}

/// Writes down the algorithm of every product.
pub fn write_choices(recorder: &mut Recorder, what: &str, group: &Group<'_>) -> Result<(), Stop> {
    for (linear, choice) in group.choices()? {
        recorder.option(&format!("algorithm {what} {}", name(linear)), algorithm(&choice));
    }
    Ok(())
}

/// The name of a linear in evidence.
pub fn name(linear: Linear) -> &'static str {
    match linear {
        Linear::Qkv => "qkv",
        Linear::Out => "out",
        Linear::Up => "up",
        Linear::Down => "down",
        Linear::Head => "head",
    }
}

/// An algorithm's configuration in one line.
pub fn algorithm(choice: &Choice) -> String {
    let a = &choice.algorithm;
    format!(
        "id {} tile {} stages {} split-k {} reduction {} swizzle {} custom {} inner {} cluster {}, \
         rank {} of {}",
        a.id,
        a.tile_id,
        a.stages_id,
        a.split_k,
        a.reduction_scheme,
        a.swizzle,
        a.custom_option,
        a.inner_shape_id,
        a.cluster_shape_id,
        choice.rank,
        choice.candidates
    )
}

/// Differences of all ranks and layers summed up.
pub struct Drift {
    /// Elements that differ, over all ranks and layers; one for each layer that was never compared.
    pub count: u64,
    /// Largest of the ranks' and layers'.
    pub ulp: u32,
    /// Largest of the ranks' and layers'.
    pub delta: f32,
    /// The first layer that differs; the number of layers stands for the logits.
    pub first_layer: Option<usize>,
    /// Layers in which two ranks' residual streams hash differently.
    pub disagreeing: u64,
    /// The first rank's hashes, by layer, last that of its logits.
    pub hashes: Vec<u64>,
}

/// Sums up what a pass found.
pub fn drift(differences: &[Vec<Difference>]) -> Drift {
    let all = || differences.iter().flatten();
    let layers = differences.first().map_or(0, Vec::len);
    let differs = |layer: usize| {
        differences.iter().any(|rank| rank[layer].count > 0 || rank[layer].hash == 0)
    };
    // Logits are each rank's own columns, so only layers can agree.
    let split = |layer: &usize| {
        let mut hashes = differences.iter().map(|rank| rank[*layer].hash);
        let first = hashes.next();
        hashes.any(|hash| Some(hash) != first)
    };
    Drift {
        count: all().map(|found| found.count + u64::from(found.hash == 0)).sum(),
        ulp: all().map(|difference| difference.ulp).max().unwrap_or(0),
        delta: all().map(|difference| difference.delta).fold(0.0, f32::max),
        first_layer: (0..layers).find(|&layer| differs(layer)),
        disagreeing: (0..layers.saturating_sub(1)).filter(split).count() as u64,
        hashes: differences
            .first()
            .map_or_else(Vec::new, |rank| rank.iter().map(|difference| difference.hash).collect()),
    }
}

impl Drift {
    /// In one line, as evidence has it.
    pub fn text(&self) -> String {
        let first = match self.first_layer {
            None => "none".to_owned(),
            Some(layer) if layer + 1 == self.hashes.len() => "logits".to_owned(),
            Some(layer) => layer.to_string(),
        };
        format!(
            "{} elements differ, max |delta| {:.3e}, max {} ulp, first layer {first}",
            self.count, self.delta, self.ulp
        )
    }

    /// Sixteen hexadecimal digits for each layer, last the logits'.
    pub fn hash_text(&self) -> String {
        self.hashes.iter().map(|hash| format!("{hash:016x}")).collect::<Vec<_>>().join(" ")
    }
}

/// Logits by sequence, the ranks' columns side by side.
pub fn logits(group: &Group<'_>, vocab: u32) -> Result<Vec<Vec<f64>>, Stop> {
    let ranks = group.logits()?;
    let columns = (vocab / group.degree()) as usize;
    let element = group.precision().element();
    let batches = ranks.first().map_or(0, |rank| rank.len() / columns);
    let row = |batch: usize| {
        ranks
            .iter()
            .flat_map(|rank| numbers(element, &rank[batch * columns..][..columns]))
            .collect()
    };
    Ok((0..batches).map(row).collect())
}

/// Numbers of codes of fp16.
pub fn halves(codes: &[u16]) -> Vec<f64> {
    numbers(Element::F16, codes)
}

/// Numbers of codes of 16 bits.
pub fn numbers(element: Element, codes: &[u16]) -> Vec<f64> {
    codes.iter().map(|code| element.decode((*code).into())).collect()
}

/// Numbers that are not finite.
pub fn nonfinite(found: &[Vec<f64>]) -> f64 {
    found.iter().flatten().filter(|x| !x.is_finite()).count() as f64
}

/// Root mean square of the differences over that of the wanted numbers.
pub fn apart(found: &[Vec<f64>], wanted: &[Vec<f64>]) -> f64 {
    let pairs = || found.iter().flatten().zip(wanted.iter().flatten());
    let errors: f64 = pairs().map(|(found, wanted)| (found - wanted).powi(2)).sum();
    let all: f64 = pairs().map(|(_, wanted)| wanted.powi(2)).sum();
    (errors / all).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_by_hand() {
        let wanted = vec![vec![3.0, 4.0]];
        assert_eq!(apart(&[vec![3.0, 4.0]], &wanted), 0.0);
        assert_eq!(apart(&[vec![3.0, 5.0]], &wanted), 0.2);
        assert!(apart(&[vec![f64::NAN, 4.0]], &wanted).is_nan());
    }

    #[test]
    fn infinities_and_nans_are_counted() {
        let found = halves(&[0x3C00, 0xC500, 0x7C00, 0x7E00, 0xFC00]);
        assert_eq!(found[..2], [1.0, -5.0]);
        assert_eq!(nonfinite(&[found, vec![0.0]]), 3.0);
    }

    fn rank(counts: [u64; 3], hashes: [u64; 3]) -> Vec<Difference> {
        let entry = |(count, hash): (u64, u64)| Difference {
            count,
            first: None,
            hash,
            ulp: count as u32,
            delta: count as f32,
        };
        counts.into_iter().zip(hashes).map(entry).collect()
    }

    #[test]
    fn drift_is_summed_over_ranks_and_layers() {
        let found = drift(&[rank([0, 0, 2], [1, 2, 3]), rank([0, 1, 4], [1, 7, 9])]);
        assert_eq!((found.count, found.ulp, found.first_layer), (7, 4, Some(1)));
        // The logits are different columns, so their hashes may differ.
        assert_eq!(found.disagreeing, 1);
        assert!(found.text().starts_with("7 elements differ, max |delta| 4.000e0, max 4 ulp"));
        let skipped = drift(&[rank([0; 3], [1, 0, 3])]);
        assert_eq!((skipped.count, skipped.first_layer), (1, Some(1)));
        let none = drift(&[rank([0; 3], [1, 2, 3])]);
        assert!(none.text().ends_with("first layer none"), "{}", none.text());
        let logits = drift(&[rank([0, 0, 1], [1, 2, 3])]);
        assert!(logits.text().ends_with("first layer logits"), "{}", logits.text());
    }
}
