//! One attention on one GPU: its operands, its kernel, and what is asked of both.

use harness::record::Stop;
use kernels::attention::blocks::{BlockMap, Blocks, DependsOn};
use kernels::attention::forward::{Forward, Problem, Ragged};
use kernels::attention::program::Program;
use kernels::attention::quantise::{self, HeadScales, Layout, Quantised, Quantiser, Scales};
use kernels::attention::reference::{self, Errors, Found, Reference, Row};
use kernels::attention::variant::{Fault, Kernel, Variant};
use kernels::attention::{self, Data, Shape, Tensor};
use kernels::device::{Buffer, CudaStream, Gpu, Module};
use kernels::element::Element;
use kernels::generator::below;
use kernels::operands::{Operands, Values};
use kernels::{KernelSource, operands};

/// Rows of zeros behind queries, keys and values, for planted faults that reach beyond the last.
pub const MARGIN_ROWS: u32 = 256;

/// Compiles and loads a source.
pub type Load<'a> = &'a mut dyn FnMut(&'static KernelSource) -> Result<Module, Stop>;

/// Which attention.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Sizes; where sequences are ragged, those of the longest.
    pub shape: Shape,
    /// F16 or Bf16.
    pub element: Element,
    /// Hopper or Portable.
    pub kernel: Kernel,
    /// Mask and score.
    pub program: Program,
    /// Keys before the own position; `None` for all.
    pub left: Option<u32>,
    /// Keys behind the own position; `Some(0)` is causal.
    pub right: Option<u32>,
    /// Lengths of ragged sequences, queries and keys alike; empty where all are as long.
    pub lengths: Vec<u32>,
    /// The program's numbers.
    pub numbers: Vec<i32>,
    /// The program's parameter.
    pub number: i32,
    /// The program's parameter.
    pub factor: f32,
    /// Queries, keys and values are rounded to E4M3, with a scale for each head.
    pub e4m3: bool,
    /// A planted fault of the forward kernel.
    pub fault: Fault,
}

impl Setting {
    /// Plain attention over packed sequences, causal or full.
    pub fn plain(kernel: Kernel, shape: Shape, causal: bool) -> Setting {
        Setting {
            shape,
            element: Element::F16,
            kernel,
            program: Program::PLAIN,
            left: None,
            right: causal.then_some(0),
            lengths: Vec::new(),
            numbers: Vec::new(),
            number: 0,
            factor: 0.0,
            e4m3: false,
            fault: Fault::None,
        }
    }

    /// A sequence, or several of one length, of this many heads of queries and of keys.
    pub fn shape(batches: u32, tokens: u32, heads: u32, kv_heads: u32, head_size: u32) -> Shape {
        Shape { batches, heads, kv_heads, queries: tokens, keys: tokens, head_size }
    }

    fn variant(&self, kernel: Kernel) -> Variant {
        let program = self.program.clone();
        let forward = kernel == self.kernel;
        let element = if forward && self.e4m3 { Element::E4m3 } else { self.element };
        let fault = if forward { self.fault } else { Fault::None };
        Variant { fault, ..Variant::new(kernel, element, self.shape.head_size, program) }
    }

    /// Queries of all sequences together.
    fn tokens(&self) -> u32 {
        match self.lengths.as_slice() {
            [] => self.shape.batches * self.shape.queries,
            lengths => lengths.iter().sum(),
        }
    }

    fn key_tokens(&self) -> u32 {
        match self.lengths.as_slice() {
            [] => self.shape.batches * self.shape.keys,
            lengths => lengths.iter().sum(),
        }
    }

    /// Keys that one head's queries see over all sequences, counted pair by pair; for a program, those
    /// that its mask lets through would have to be asked of the device.
    pub fn pairs(&self) -> f64 {
        let lengths: Vec<(u32, u32)> = match self.lengths.as_slice() {
            [] => vec![(self.shape.queries, self.shape.keys); self.shape.batches as usize],
            lengths => lengths.iter().map(|&length| (length, length)).collect(),
        };
        let seen = |(queries, keys): (u32, u32)| -> f64 {
            let each = |query: u32| {
                let position = i64::from(query) + i64::from(keys) - i64::from(queries);
                let low = self.left.map_or(0, |left| (position - i64::from(left)).max(0));
                let high = self.right.map_or(i64::from(keys) - 1, |right| {
                    (position + i64::from(right)).min(i64::from(keys) - 1)
                });
                (high - low + 1).max(0) as f64
            };
            (0..queries).map(each).sum()
        };
        lengths.into_iter().map(seen).sum()
    }

    /// Multiplications and additions of those pairs.
    pub fn flops(&self) -> f64 {
        attention::flops(self.pairs(), self.shape.heads, self.shape.head_size)
    }
}

/// Operands in memory and the loaded kernel.
#[derive(Debug)]
pub struct Scene {
    /// Which attention.
    pub setting: Setting,
    /// Queries.
    pub q: Buffer,
    /// Keys.
    pub k: Buffer,
    /// Values.
    pub v: Buffer,
    /// Outputs.
    pub out: Buffer,
    /// Log-sum-exp.
    pub lse: Buffer,
    /// The operands in E4M3, where the setting asks for it.
    pub eight: Option<Eight>,
    offsets: Option<Buffer>,
    numbers: Option<Buffer>,
    forward: Forward,
    blocks: Option<(Blocks, BlockMap)>,
}

/// Operands in E4M3.
#[derive(Debug)]
pub struct Eight {
    /// Queries.
    pub q: Quantised,
    /// Keys.
    pub k: Quantised,
    /// Values, transposed.
    pub v: Quantised,
    /// What E4M3 holds of queries, keys and values, in 16 bits.
    rounded: [Buffer; 3],
    quantiser: Quantiser,
}

impl Eight {
    fn new(gpu: &Gpu, load: Load<'_>, shape: Shape) -> Result<Eight, Stop> {
        let Shape { batches, heads, kv_heads, queries, keys, .. } = shape;
        let tensor = |layout, rows, heads| Quantised::allocate(gpu, layout, batches, rows, heads);
        let rounded = |rows: u32, heads: u32| {
            let elements = u64::from(batches) * u64::from(rows) * u64::from(heads);
            gpu.alloc(2 * elements * u64::from(quantise::HEAD_SIZE))
        };
        Ok(Eight {
            q: tensor(Layout::Rows, queries, heads)?,
            k: tensor(Layout::Rows, keys, kv_heads)?,
            v: tensor(Layout::Transposed, keys, kv_heads)?,
            rounded: [rounded(queries, heads)?, rounded(keys, kv_heads)?, rounded(keys, kv_heads)?],
            quantiser: Quantiser::new(&load(&quantise::SOURCE)?)?,
        })
    }
}

impl Scene {
    /// Fills q, k and v with fresh N(0, 1) data, loads the kernel, makes the block map.
    pub fn new(gpu: &Gpu, load: Load<'_>, setting: Setting, seed: u64) -> Result<Scene, Stop> {
        let forward_variant = setting.variant(setting.kernel);
        let module = load(forward_variant.source()?)?;
        let forward = Forward::new(gpu, &module, forward_variant)?;
        let maker = Operands::new(gpu, &load(&operands::SOURCE)?)?;
        let Shape { heads, kv_heads, head_size, .. } = setting.shape;
        let filled = |tokens: u32, heads: u32, seed: u64| -> Result<Buffer, Stop> {
            let row = u64::from(heads) * u64::from(head_size);
            let elements = u64::from(tokens) * row;
            let buffer = gpu.alloc(2 * (elements + u64::from(MARGIN_ROWS) * row))?;
            buffer.fill_u32(gpu.stream(), 0)?;
            let values = Values::Normals { scale: 1.0 };
            maker.fill(gpu.stream(), &buffer, setting.element, elements, seed, values)?;
            Ok(buffer)
        };
        let (tokens, key_tokens) = (setting.tokens(), setting.key_tokens());
        let out_bytes = 2 * u64::from(tokens) * u64::from(heads) * u64::from(head_size);
        let numbers = match setting.numbers.as_slice() {
            [] => None,
            numbers => {
                let buffer = gpu.alloc(4 * numbers.len() as u64)?;
                buffer.write(gpu.stream(), 0, numbers)?;
                Some(buffer)
            }
        };
        let mut scene = Scene {
            q: filled(tokens, heads, seed)?,
            k: filled(key_tokens, kv_heads, seed + 1)?,
            v: filled(key_tokens, kv_heads, seed + 2)?,
            out: gpu.alloc(out_bytes)?,
            lse: gpu.alloc(4 * u64::from(tokens) * u64::from(heads))?,
            eight: None,
            offsets: offsets(gpu, &setting.lengths)?,
            numbers,
            forward,
            blocks: None,
            setting,
        };
        if scene.setting.e4m3 {
            scene.eight = Some(Eight::new(gpu, load, scene.setting.shape)?);
            scene.quantise(gpu.stream())?;
        }
        if scene.setting.program.masks() {
            let variant = scene.setting.variant(Kernel::Blocks);
            let blocks = Blocks::new(&load(variant.source()?)?, variant)?;
            let map =
                blocks.allocate(gpu, &scene.forward, &scene.problem(), DependsOn::default())?;
            scene.blocks = Some((blocks, map));
            scene.map_blocks(gpu.stream(), 0)?;
        }
        gpu.synchronize()?;
        Ok(scene)
    }

    /// Enqueues the making of the block map, with the last `dropped` tiles of every list left out; does
    /// nothing where the program has no mask.
    pub fn map_blocks(&self, stream: &CudaStream, dropped: u32) -> Result<(), Stop> {
        if let Some((blocks, map)) = &self.blocks {
            blocks.build(stream, &self.problem(), map, dropped)?;
        }
        Ok(())
    }

    /// Enqueues the rounding of the operands to E4M3; does nothing where the setting does not ask for it.
    pub fn quantise(&self, stream: &CudaStream) -> Result<(), Stop> {
        let Some(eight) = &self.eight else { return Ok(()) };
        let exact = self.sixteen();
        let tensors = [(&exact.q, &eight.q), (&exact.k, &eight.k), (&exact.v, &eight.v)];
        for ((source, target), rounded) in tensors.into_iter().zip(&eight.rounded) {
            let element = self.setting.element;
            eight.quantiser.run(stream, source, element, target, Some(rounded))?;
        }
        Ok(())
    }

    /// What was compiled for it and loaded.
    pub fn loaded(&self) -> &Variant {
        self.forward.variant()
    }

    /// Keys of a tile.
    pub fn tile_keys(&self) -> u32 {
        self.forward.tile_keys()
    }

    /// Bytes taken beside inputs and outputs.
    pub fn workspace_bytes(&self) -> u64 {
        let map = self.blocks.as_ref().map_or(0, |(_, map)| map.bytes());
        self.forward.workspace_bytes() + map
    }

    /// Tiles that the block map visits: partial ones, full ones.
    pub fn visited(&self, stream: &CudaStream) -> Result<Option<(u64, u64)>, Stop> {
        let map = self.blocks.as_ref().map(|(_, map)| map.visited(stream));
        Ok(map.transpose()?)
    }

    /// The problem as the launcher takes it.
    pub fn problem(&self) -> Problem<'_> {
        let sixteen = self.sixteen();
        let Some(eight) = &self.eight else { return sixteen };
        let [q, k, v] =
            [&eight.q, &eight.k, &eight.v].map(|tensor| HeadScales::whole(&tensor.scales));
        let scales = Scales { q, k, v };
        Problem {
            q: eight.q.tensor(),
            k: eight.k.tensor(),
            v: eight.v.tensor(),
            scales: Some(scales),
            ..sixteen
        }
    }

    /// The problem as the oracle takes it: in 16 bits, with what E4M3 holds where it is that.
    fn held(&self) -> Problem<'_> {
        let mut held = self.sixteen();
        if let Some(eight) = &self.eight {
            [held.q.buffer, held.k.buffer, held.v.buffer] = eight.rounded.each_ref();
        }
        held
    }

    /// The problem over the operands as they were drawn.
    fn sixteen(&self) -> Problem<'_> {
        let Shape { heads, kv_heads, queries, keys, head_size, .. } = self.setting.shape;
        let setting = &self.setting;
        Problem {
            shape: setting.shape,
            q: Tensor::packed(&self.q, queries, heads, head_size),
            k: Tensor::packed(&self.k, keys, kv_heads, head_size),
            v: Tensor::packed(&self.v, keys, kv_heads, head_size),
            out: Tensor::packed(&self.out, queries, heads, head_size),
            lse: Some(&self.lse),
            ragged: self.offsets.as_ref().map(|offsets| Ragged {
                query_offsets: offsets,
                key_offsets: offsets,
                queries: setting.tokens(),
                keys: setting.key_tokens(),
            }),
            left: setting.left,
            right: setting.right,
            scale: 1.0 / (head_size as f32).sqrt(),
            data: Data {
                numbers: self.numbers.as_ref(),
                first: 0,
                number: setting.number,
                factor: setting.factor,
            },
            scales: None,
        }
    }

    /// The problem with every key read from one row further on: a planted fault.
    pub fn shifted_key(&self) -> Problem<'_> {
        let mut shifted = self.problem();
        shifted.k.offset += shifted.k.row;
        shifted
    }

    /// Runs a problem over these operands into poisoned outputs, and waits.
    pub fn run(&self, stream: &CudaStream, problem: &Problem<'_>) -> Result<(), Stop> {
        self.out.poison(stream)?;
        self.lse.poison(stream)?;
        self.launch(stream, problem)?;
        stream.synchronize()?;
        Ok(())
    }

    /// Enqueues a problem over these operands.
    pub fn launch(&self, stream: &CudaStream, problem: &Problem<'_>) -> Result<(), Stop> {
        let map = self.blocks.as_ref().map(|(_, map)| map);
        Ok(self.forward.prepare(problem, map)?.launch(stream)?)
    }

    /// A launch to be timed.
    pub fn prepared(&self) -> Result<kernels::attention::forward::Prepared<'_>, Stop> {
        let map = self.blocks.as_ref().map(|(_, map)| map);
        Ok(self.forward.prepare(&self.problem(), map)?)
    }

    /// Every value of so many tokens from one on becomes infinite, in half precision.
    pub fn spoil_values(
        &self,
        stream: &CudaStream,
        first_token: u32,
        tokens: u32,
    ) -> Result<(), Stop> {
        let Shape { kv_heads, head_size, .. } = self.setting.shape;
        let row = u64::from(kv_heads) * u64::from(head_size);
        // Exponents of all ones and no fraction.
        let infinite = vec![0x7C00u16; tokens as usize * row as usize];
        Ok(self.v.write(stream, 2 * u64::from(first_token) * row, &infinite)?)
    }

    /// The oracle of this program and element type.
    pub fn reference(&self, load: Load<'_>) -> Result<Reference, Stop> {
        Ok(Reference::new(&load(self.setting.variant(Kernel::Reference).source()?)?)?)
    }

    /// Errors of the last run's outputs over drawn rows, whatever was run.
    pub fn errors(&self, gpu: &Gpu, oracle: &Reference, rows: &[Row]) -> Result<Errors, Stop> {
        self.errors_against(&self.held(), gpu, oracle, rows)
    }

    /// The same against the operands as they were before they were rounded to E4M3.
    pub fn errors_of_rounding_too(
        &self,
        gpu: &Gpu,
        oracle: &Reference,
        rows: &[Row],
    ) -> Result<Errors, Stop> {
        self.errors_against(&self.sixteen(), gpu, oracle, rows)
    }

    fn errors_against(
        &self,
        problem: &Problem<'_>,
        gpu: &Gpu,
        oracle: &Reference,
        rows: &[Row],
    ) -> Result<Errors, Stop> {
        let masked = self.setting.program.masks();
        let found = oracle.forward(gpu, gpu.stream(), problem, masked, rows)?;
        Ok(reference::errors(&found, self.setting.element))
    }

    /// What the oracle says of rows of the operands as they were drawn.
    pub fn found(&self, gpu: &Gpu, oracle: &Reference, rows: &[Row]) -> Result<Vec<Found>, Stop> {
        let masked = self.setting.program.masks();
        Ok(oracle.forward(gpu, gpu.stream(), &self.sixteen(), masked, rows)?)
    }

    /// The first and last rows, those around edges of tiles, and `more` drawn ones, spread over heads
    /// and sequences; of ragged sequences the edges of each.
    pub fn rows(&self, more: u32, seed: u64) -> Vec<Row> {
        let Shape { batches, heads, queries, .. } = self.setting.shape;
        let length = |batch: u32| match self.setting.lengths.as_slice() {
            [] => queries,
            lengths => lengths[batch as usize],
        };
        let edges = [0, 1, 63, 64, 111, 112, 127, 128, 191, 192, queries / 2];
        let mut rows = Vec::new();
        for (i, edge) in edges.into_iter().enumerate() {
            let i = i as u32;
            let of = match self.setting.lengths.as_slice() {
                [] => i % batches..i % batches + 1,
                _ => 0..batches,
            };
            for batch in of {
                for query in [edge, length(batch).saturating_sub(1 + edge)] {
                    rows.push(Row { batch, head: i % heads, query });
                }
            }
        }
        for i in 0..u64::from(more) {
            let batch = below(seed, 3 * i, batches);
            rows.push(Row {
                batch,
                head: below(seed, 3 * i + 1, heads),
                query: below(seed, 3 * i + 2, length(batch)),
            });
        }
        rows.retain(|row| row.query < length(row.batch));
        rows.sort_by_key(|row| (row.batch, row.head, row.query));
        rows.dedup();
        rows
    }

    /// The last run's outputs as 32-bit words, behind them the log-sum-exps.
    pub fn words(&self, stream: &CudaStream) -> Result<Vec<u32>, Stop> {
        let mut words: Vec<u32> = self.out.read_vec(stream, self.out.len_bytes() as usize / 4)?;
        words.extend(self.lse.read_vec::<u32>(stream, self.lse.len_bytes() as usize / 4)?);
        Ok(words)
    }

    /// As [`Scene::words`], of the first tokens of ragged sequences alone.
    pub fn words_of_first(&self, stream: &CudaStream, tokens: u32) -> Result<Vec<u32>, Stop> {
        let Shape { heads, head_size, .. } = self.setting.shape;
        let words = self.words(stream)?;
        let (outputs, lse) = words.split_at(self.out.len_bytes() as usize / 4);
        let mut first = outputs[..(tokens * heads * head_size / 2) as usize].to_vec();
        // `[head][token]`.
        for line in lse.chunks_exact(self.setting.tokens() as usize) {
            first.extend(&line[..tokens as usize]);
        }
        Ok(first)
    }
}

/// First tokens of ragged sequences and their end.
fn offsets(gpu: &Gpu, lengths: &[u32]) -> Result<Option<Buffer>, Stop> {
    if lengths.is_empty() {
        return Ok(None);
    }
    let mut offsets = vec![0u32];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    let buffer = gpu.alloc(4 * offsets.len() as u64)?;
    buffer.write(gpu.stream(), 0, &offsets)?;
    Ok(Some(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(left: Option<u32>, right: Option<u32>, lengths: &[u32], expect: f64) {
        let shape = Setting::shape(2, 4, 1, 1, 64);
        let plain = Setting::plain(Kernel::Portable, shape, false);
        let setting = Setting { left, right, lengths: lengths.to_vec(), ..plain };
        assert_eq!(setting.pairs(), expect);
    }

    #[test]
    fn pairs_are_counted() {
        check(None, None, &[], 32.0);
        check(None, Some(0), &[], 20.0);
        // Windows of two keys: 1, 2, 2, 2.
        check(Some(1), Some(0), &[], 14.0);
        check(None, Some(0), &[3, 4], 16.0);
    }

    /// Five new queries over eight keys: the last stands beside the last.
    #[test]
    fn queries_stand_at_the_end() {
        let shape = Shape { queries: 5, keys: 8, ..Setting::shape(1, 8, 1, 1, 64) };
        let setting = Setting::plain(Kernel::Portable, shape, true);
        assert_eq!(setting.pairs(), (4 + 5 + 6 + 7 + 8) as f64);
    }
}
