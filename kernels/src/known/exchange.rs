//! Questions to the kernels that move and add data between GPUs, asked on one GPU: its own memory is
//! reached by the same instructions.

use super::{Asker, SEED};
use crate::allreduce::{self, Algorithm, AllReduce, Call};
use crate::device::Buffer;
use crate::element::Element;
use crate::generator::hash_word;
use crate::links::{ChaseFault, CopyFault, End, Links, Mover, Ring, Route};
use crate::reduction::{Part, Reduction, Values, code_of, error_unit};
use crate::{Error, Result};

const ELEMENTS: [Element; 3] = [Element::F16, Element::Bf16, Element::F32];

/// Seeds of ranks.
const SEEDS: [u64; 8] = {
    let mut seeds = [SEED; 8];
    let mut rank = 0;
    while rank < 8 {
        seeds[rank] = SEED + 1000 * rank as u64;
        rank += 1;
    }
    seeds
};

/// Elements of each question, whole vectors in every type.
const COUNT: u64 = 8 * 1403;

/// The words in which a rank's values lie, or a sum's.
fn words(element: Element, values: Values, seeds: &[u64], first: u64) -> Vec<u32> {
    let codes: Vec<u32> =
        (first..first + COUNT).map(|index| values.summed(element, seeds, index)).collect();
    element.pack(&codes)
}

impl Asker<'_> {
    fn links(&self) -> Result<Links> {
        Links::new(self.gpu, self.module("links")?)
    }

    /// Whole tiles and a remainder, by all multiprocessors and by two blocks.
    pub(super) fn linked_copy(&self, name: &str) -> Result<u64> {
        let links = self.links()?;
        let words: Vec<u32> = (0..3 * 16_384 + 37 * 4).map(|i| hash_word(SEED, i)).collect();
        let source = self.with_words(&words)?;
        let target = self.gpu.alloc(source.len_bytes())?;
        let end = |buffer| End { gpu: self.gpu, buffer };
        let mut wrong = 0;
        for blocks in [None, Some(2)] {
            target.poison(self.stream())?;
            let route = Route::new(end(&source), end(&target), 0, source.len_bytes())?;
            route.enqueue(self.stream(), Mover::Kernel(&links, blocks), CopyFault::default())?;
            wrong += self.compare_buffer(name, &target, &words)?;
        }
        Ok(wrong)
    }

    /// A walk whose hops are single and one whose hops are three.
    pub(super) fn walk(&self, name: &str) -> Result<u64> {
        let links = self.links()?;
        let memory = self.gpu.alloc(128 * 100)?;
        let ring = Ring::lay(self.stream(), &memory, 100, 777, SEED)?;
        let mut wrong = 0;
        for extra_hops in [0, 2] {
            let fault = ChaseFault { extra_hops, spin_cycles: 0 };
            let found = links.walk(self.stream(), &ring, fault)?;
            wrong += self.compare_u64(name, &[found.last], &[ring.last(1 + extra_hops)]);
        }
        Ok(wrong)
    }

    /// A hold ends, and says so.
    pub(super) fn hold(&self, name: &str) -> Result<u64> {
        let links = self.links()?;
        links.hold(self.stream(), 50_000)?;
        Ok(self.compare(name, vec![links.held(self.stream())?], &[1]))
    }

    fn reduction(&self) -> Result<Reduction> {
        Reduction::new(self.gpu, self.module("reduction")?)
    }

    pub(super) fn reduction_fill(&self, name: &str) -> Result<u64> {
        let reduction = self.reduction()?;
        let mut wrong = 0;
        for element in ELEMENTS {
            for values in [Values::Integers, Values::Uniform] {
                let wanted = words(element, values, &SEEDS[..1], 77);
                let buffer = self.gpu.alloc(4 * wanted.len() as u64)?;
                let part = Part { first: 77, ..Part::whole(&buffer, buffer.len_bytes()) };
                reduction.fill(self.stream(), part, element, values, SEEDS[0])?;
                wrong += self.compare_buffer(name, &buffer, &wanted)?;
            }
        }
        Ok(wrong)
    }

    /// Right sums, and sums of which two elements are wrong.
    pub(super) fn reduction_check(&self, name: &str) -> Result<u64> {
        let reduction = self.reduction()?;
        let mut wrong = 0;
        for element in ELEMENTS {
            for ranks in [1, 3, 8] {
                let seeds = &SEEDS[..ranks];
                let mut words = words(element, Values::Uniform, seeds, 5);
                for planted in [false, true] {
                    if planted {
                        words[100] ^= 1;
                        words[333] ^= 1;
                    }
                    let buffer = self.with_words(&words)?;
                    let part = Part { first: 5, ..Part::whole(&buffer, buffer.len_bytes()) };
                    let stream = self.stream();
                    let found = reduction.check(stream, part, element, Values::Uniform, seeds)?;
                    let first = 100 * 4 / element.bytes();
                    let wanted = if planted { [2, first] } else { [0, u64::MAX] };
                    let found = [found.count, found.first_word.unwrap_or(u64::MAX)];
                    wrong += self.compare_u64(name, &found, &wanted);
                }
            }
        }
        Ok(wrong)
    }

    /// One rank's own values have no error; one that is a quarter off has the error of a quarter.
    pub(super) fn reduction_error(&self, name: &str) -> Result<u64> {
        let reduction = self.reduction()?;
        let mut wrong = 0;
        for element in ELEMENTS {
            let index = (0..COUNT)
                .find(|index| Values::Integers.value(element, SEED, *index) == 16.0)
                .unwrap_or(0);
            let mut codes: Vec<u32> = (0..COUNT)
                .map(|index| code_of(element, Values::Integers.value(element, SEED, index)))
                .collect();
            for (value, error) in [(16.0, 0.0), (20.0, 0.25 / error_unit(element, 2) as f32)] {
                codes[index as usize] = code_of(element, value);
                let buffer = self.with_words(&element.pack(&codes))?;
                let part = Part::whole(&buffer, buffer.len_bytes());
                let stream = self.stream();
                let found = reduction.error(stream, part, element, Values::Integers, &[SEED])?;
                wrong += self.compare(name, vec![(found as f32).to_bits()], &[error.to_bits()]);
            }
        }
        Ok(wrong)
    }

    pub(super) fn reduction_compare(&self, name: &str) -> Result<u64> {
        let mut words: Vec<u32> = (0..4100).map(|i| hash_word(SEED, i)).collect();
        let one = self.with_words(&words)?;
        words[1003] ^= 1 << 31;
        words[4099] ^= 1;
        let other = self.with_words(&words)?;
        let reduction = self.reduction()?;
        let found = reduction.compare(self.stream(), &one, &other, one.len_bytes())?;
        let found = [found.count, found.first_word.unwrap_or(u64::MAX)];
        Ok(self.compare_u64(name, &found, &[2, 1003]))
    }

    /// Inputs of so many ranks, and outputs that hold nothing.
    fn ranks_of(&self, element: Element, ranks: usize) -> Result<(Vec<Buffer>, Vec<Buffer>)> {
        let input = |rank| self.with_words(&words(element, Values::Uniform, &[SEEDS[rank]], 0));
        let inputs: Vec<Buffer> = (0..ranks).map(input).collect::<Result<_>>()?;
        let output = |input: &Buffer| {
            let output = self.gpu.alloc(input.len_bytes())?;
            output.poison(self.stream())?;
            Ok(output)
        };
        let outputs = inputs.iter().map(output).collect::<Result<_>>()?;
        Ok((inputs, outputs))
    }

    /// The last rank, asked while its mailbox holds what the others would have sent: its sum, and what
    /// it sent itself.
    pub(super) fn one_shot(&self, name: &str) -> Result<u64> {
        let mut wrong = 0;
        for (ranks, element) in [2, 3, 4, 8].into_iter().flat_map(|n| ELEMENTS.map(|e| (n, e))) {
            let all = AllReduce::rehearsal(self.gpu, self.module("allreduce")?, ranks)?;
            let (inputs, outputs) = self.ranks_of(element, ranks)?;
            let rank = ranks - 1;
            let packets = |from: usize| -> Vec<u32> {
                let sent = words(element, Values::Uniform, &[SEEDS[from]], 0);
                sent.into_iter().flat_map(|word| [word, 1]).collect()
            };
            for from in 0..rank {
                let at = allreduce::staging_of(1, from as u64, ranks as u64);
                all.mailbox(rank).write(self.stream(), at, &packets(from))?;
            }
            let bytes = inputs[0].len_bytes();
            let call = Call { algorithm: Algorithm::OneShot, ..Call::new(bytes, element, ranks) };
            all.prepare(&inputs, &outputs, call)?.launch(rank, self.stream())?;
            let wanted = words(element, Values::Uniform, &SEEDS[..ranks], 0);
            wrong += self.compare_buffer(name, &outputs[rank], &wanted)?;
            let wanted = packets(rank);
            let mut sent = vec![0u32; wanted.len()];
            let at = allreduce::staging_of(1, rank as u64, ranks as u64);
            all.mailbox(0).read(self.stream(), at, &mut sent)?;
            wrong += self.compare(name, sent, &wanted);
            let epoch: Vec<u32> = all.mailbox(rank).read_vec(self.stream(), 2)?;
            wrong += self.compare(name, epoch, &[1, 0]);
        }
        Ok(wrong)
    }

    /// Rank 0, asked while its flags say that the others came: its slice in every output, and nothing
    /// else.
    pub(super) fn two_shot(&self, name: &str) -> Result<u64> {
        let mut wrong = 0;
        for (ranks, element) in [2, 3, 4, 8].into_iter().flat_map(|n| ELEMENTS.map(|e| (n, e))) {
            let all = AllReduce::rehearsal(self.gpu, self.module("allreduce")?, ranks)?;
            let (inputs, outputs) = self.ranks_of(element, ranks)?;
            let (at, bytes) = allreduce::FLAGS;
            all.mailbox(0).write(self.stream(), at, &vec![1u32; (bytes / 4) as usize])?;
            let bytes = inputs[0].len_bytes();
            let algorithm = Algorithm::TwoShot;
            let call = Call { algorithm, blocks: Some(2), ..Call::new(bytes, element, ranks) };
            all.prepare(&inputs, &outputs, call)?.launch(0, self.stream())?;
            let mut wanted = words(element, Values::Uniform, &SEEDS[..ranks], 0);
            let slice = (bytes / 16).div_ceil(ranks as u64) as usize * 4;
            wanted[slice..].fill(u32::MAX);
            for output in &outputs {
                wrong += self.compare_buffer(name, output, &wanted)?;
            }
            let epoch: Vec<u32> = all.mailbox(0).read_vec(self.stream(), 2)?;
            wrong += self.compare(name, epoch, &[1, 0]);
        }
        Ok(wrong)
    }

    /// Rank 0, asked while its ring holds what the others would have pushed and its flags say that they have done
    /// every step: its slice in every output and nothing else there, what it pushed to the others, and what it said of
    /// its own steps. Nobody holds it back, so that no slot and no barrier may be used twice.
    pub(super) fn pushed(&self, name: &str) -> Result<u64> {
        const BLOCKS: u64 = 2;
        const WORKERS: u64 = 256;
        let mut wrong = 0;
        for (ranks, element) in [2, 3, 4, 5, 8].into_iter().flat_map(|n| ELEMENTS.map(|e| (n, e))) {
            let all = AllReduce::rehearsal(self.gpu, self.module("allreduce")?, ranks)?;
            let (inputs, outputs) = self.ranks_of(element, ranks)?;
            let (at, flags) = allreduce::PROGRESS;
            let done = [0u32, 2].repeat((flags / 8) as usize);
            all.mailbox(0).write(self.stream(), at, &done)?;
            let bytes = inputs[0].len_bytes();
            let slice = (bytes / 16).div_ceil(ranks as u64);
            // Vectors of a tile, as the kernel cuts them: two of each thread, or one of more than four ranks.
            let tile = if ranks <= 4 { 2 * WORKERS } else { WORKERS };
            let steps = slice.div_ceil(tile * BLOCKS) as u32 + allreduce::LAG;
            if u64::from(steps) > allreduce::RING {
                return Err(Error::Shape {
                    what: format!("{steps} steps of a ring that nobody empties"),
                });
            }
            let tiles: Vec<(u64, u64, u64)> = (0..slice.div_ceil(tile))
                .map(|index| (index * tile, index % BLOCKS, index / BLOCKS))
                .collect();
            let of_slice = |from: usize, owner: usize, begin: u64| -> Vec<u32> {
                let words = words(element, Values::Uniform, &[SEEDS[from]], 0);
                let vectors = words.len() as u64 / 4;
                let end = (slice * owner as u64 + slice.min(begin + tile)).min(vectors);
                let begin = (slice * owner as u64 + begin).min(end);
                words[4 * begin as usize..4 * end as usize].to_vec()
            };
            for (from, (begin, block, step)) in
                (1..ranks).flat_map(|from| tiles.iter().map(move |tile| (from, *tile)))
            {
                let at = allreduce::slot_of(from as u64, block, step, ranks as u64);
                all.mailbox(0).write(self.stream(), at, &of_slice(from, 0, begin))?;
            }
            let call = Call {
                algorithm: Algorithm::Pushed,
                blocks: Some(BLOCKS as u32),
                threads: Some(WORKERS as u32),
                ..Call::new(bytes, element, ranks)
            };
            all.prepare(&inputs, &outputs, call)?.launch(0, self.stream())?;
            let mut wanted = words(element, Values::Uniform, &SEEDS[..ranks], 0);
            wanted[4 * slice as usize..].fill(u32::MAX);
            for output in &outputs {
                wrong += self.compare_buffer(name, output, &wanted)?;
            }
            for (to, (begin, block, step)) in
                (1..ranks).flat_map(|to| tiles.iter().map(move |tile| (to, *tile)))
            {
                let wanted = of_slice(0, to, begin);
                let mut pushed = vec![0u32; wanted.len()];
                let at = allreduce::slot_of(0, block, step, ranks as u64);
                all.mailbox(to).read(self.stream(), at, &mut pushed)?;
                wrong += self.compare(name, pushed, &wanted);
            }
            for to in 1..ranks {
                let mut said = [0u32; 2 * BLOCKS as usize];
                all.mailbox(to).read(self.stream(), allreduce::PROGRESS.0, &mut said)?;
                wrong += self.compare(name, said.to_vec(), &[steps, 1, steps, 1]);
            }
            let epoch: Vec<u32> = all.mailbox(0).read_vec(self.stream(), 2)?;
            wrong += self.compare(name, epoch, &[1, 0]);
        }
        Ok(wrong)
    }
}
