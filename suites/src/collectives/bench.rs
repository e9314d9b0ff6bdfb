//! All GPUs with what a collective is given and where it leaves its result.

use harness::evidence::Metric;
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, CudaStream, Gpu, Module};
use kernels::element::Element;
use kernels::graph::Graph;
use kernels::links::{self, Links};
use kernels::nccl::Operation;
use kernels::pattern::{self, Patterns};
use kernels::peer;
use kernels::reduction::{self, Part, Reduction, Values};
use kernels::timing;
use kernels::together::{self, Together};
use kernels::{KernelSource, allreduce};

use crate::lab::Lab;

/// Types of which sums are tried.
pub(super) const ELEMENTS: [(Element, &str); 3] =
    [(Element::F16, "f16"), (Element::Bf16, "bf16"), (Element::F32, "f32")];

/// All GPUs of the case, rank i on the i-th.
pub(super) struct Bench<'a> {
    pub(super) gpus: &'a [Gpu],
    pub(super) indices: &'a [u32],
    pub(super) reductions: Vec<Reduction>,
    pub(super) patterns: Vec<Patterns>,
    pub(super) links: Vec<Links>,
    pub(super) inputs: Vec<Buffer>,
    pub(super) outputs: Vec<Buffer>,
    pub(super) together: Together,
    pub(super) seeds: Vec<u64>,
}

/// The values that ranks are given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payload {
    pub(super) element: Element,
    pub(super) values: Values,
}

impl Payload {
    pub(super) fn integers(element: Element) -> Payload {
        Payload { element, values: Values::Integers }
    }

    pub(super) fn uniform(element: Element) -> Payload {
        Payload { element, values: Values::Uniform }
    }
}

/// A part of a rank's result and what it must hold: from that byte on so many bytes, which continue the
/// sum over the seeds from that element on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) first: u64,
    pub(super) seeds: Vec<u64>,
}

/// What a rank must hold after a collective of so many bytes of elements of `each` bytes.
pub(super) fn wanted(
    operation: Operation,
    rank: usize,
    seeds: &[u64],
    bytes: u64,
    each: u64,
) -> Vec<Wanted> {
    let ranks = seeds.len() as u64;
    let part = bytes / ranks;
    let own = rank as u64 * (part / each);
    let whole = |seeds: Vec<u64>| vec![Wanted { offset: 0, bytes, first: 0, seeds }];
    let parts = |first: u64| {
        let part_of = |(from, seed): (usize, &u64)| Wanted {
            offset: from as u64 * part,
            bytes: part,
            first,
            seeds: vec![*seed],
        };
        seeds.iter().enumerate().map(part_of).collect()
    };
    match operation {
        Operation::AllReduce => whole(seeds.to_vec()),
        Operation::Broadcast => whole(vec![seeds[0]]),
        Operation::SendRecv => whole(vec![seeds[(rank + seeds.len() - 1) % seeds.len()]]),
        Operation::AllGather => parts(0),
        Operation::AllToAll => parts(own),
        Operation::ReduceScatter => {
            vec![Wanted { offset: 0, bytes: part, first: own, seeds: seeds.to_vec() }]
        }
    }
}

/// The larger of two errors; a NaN stays one.
pub(super) fn larger(most: f64, error: f64) -> f64 {
    if most.is_nan() || error <= most { most } else { error }
}

/// The size of a collective: whole vectors for each rank.
pub(super) fn sized(bytes: u64, ranks: usize) -> u64 {
    let step = 16 * ranks as u64;
    (bytes / step).max(1) * step
}

impl<'a> Bench<'a> {
    /// Buffers of so many bytes on every GPU.
    pub(super) fn new(
        lab: &'a Lab,
        bytes: u64,
        assignment: &Assignment,
        recorder: &mut Recorder,
    ) -> Result<Bench<'a>, Stop> {
        let load = &mut |gpu: &Gpu, source| lab.module(gpu, source, recorder);
        Bench::over((&lab.gpus, &lab.indices), bytes, assignment.seed, load)
    }

    /// The same over the GPUs of a process that is no case's, with their indices.
    pub(super) fn over(
        (gpus, indices): (&'a [Gpu], &'a [u32]),
        bytes: u64,
        seed: u64,
        load: &mut dyn FnMut(&Gpu, &'static KernelSource) -> Result<Module, Stop>,
    ) -> Result<Bench<'a>, Stop> {
        peer::enable(gpus)?;
        let (mut reductions, mut patterns, mut links) = (Vec::new(), Vec::new(), Vec::new());
        let (mut inputs, mut outputs, mut latches) = (Vec::new(), Vec::new(), Vec::new());
        for gpu in gpus {
            reductions.push(Reduction::new(gpu, &load(gpu, &reduction::SOURCE)?)?);
            patterns.push(Patterns::new(gpu, &load(gpu, &pattern::SOURCE)?)?);
            links.push(Links::new(gpu, &load(gpu, &links::SOURCE)?)?);
            latches.push(load(gpu, &timing::SOURCE)?);
            inputs.push(gpu.alloc(bytes)?);
            outputs.push(gpu.alloc(bytes)?);
        }
        let lanes: Vec<_> = gpus.iter().zip(&latches).collect();
        let together = Together::new(&lanes)?;
        let seed = |rank: usize| seed.wrapping_add(1_000_003 * (1 + rank as u64));
        Ok(Bench {
            gpus,
            indices,
            reductions,
            patterns,
            links,
            inputs,
            outputs,
            together,
            seeds: (0..gpus.len()).map(seed).collect(),
        })
    }

    pub(super) fn ranks(&self) -> usize {
        self.gpus.len()
    }

    /// Every GPU's own stream, on which nothing is timed.
    pub(super) fn streams(&self) -> Vec<&'a CudaStream> {
        self.gpus.iter().map(Gpu::stream).collect()
    }

    pub(super) fn synchronize(&self) -> Result<(), Stop> {
        Ok(self.gpus.iter().try_for_each(Gpu::synchronize)?)
    }

    /// Gives every rank its values, and puts other data where the result will be.
    pub(super) fn fill(&self, payload: Payload, bytes: u64) -> Result<(), Stop> {
        for (rank, gpu) in self.gpus.iter().enumerate() {
            let part = Part::whole(&self.inputs[rank], bytes);
            let Payload { element, values } = payload;
            let seed = self.seeds[rank];
            self.reductions[rank].fill(gpu.stream(), part, element, values, seed)?;
            self.outputs[rank].poison(gpu.stream())?;
        }
        self.synchronize()
    }

    /// Elements of each rank's result that are not what the collective leaves. With `of_inputs` the
    /// result lies where the values lay.
    pub(super) fn wrong(
        &self,
        operation: Operation,
        payload: Payload,
        bytes: u64,
        of_inputs: bool,
    ) -> Result<Vec<u64>, Stop> {
        let buffers = if of_inputs { &self.inputs } else { &self.outputs };
        self.wrong_in(operation, payload, bytes, buffers)
    }

    /// As [`Bench::wrong`], of what lies in other buffers, one of each rank.
    pub(super) fn wrong_in(
        &self,
        operation: Operation,
        payload: Payload,
        bytes: u64,
        buffers: &[Buffer],
    ) -> Result<Vec<u64>, Stop> {
        let one = |rank: usize| -> Result<u64, Stop> {
            let stream = self.gpus[rank].stream();
            let mut wrong = 0;
            let each = payload.element.bytes();
            for Wanted { offset, bytes, first, seeds } in
                wanted(operation, rank, &self.seeds, bytes, each)
            {
                let part = Part { buffer: &buffers[rank], offset, bytes, first };
                let Payload { element, values } = payload;
                let found = self.reductions[rank].check(stream, part, element, values, &seeds)?;
                wrong += found.count;
            }
            Ok(wrong)
        };
        (0..self.ranks()).map(one).collect()
    }

    /// So many wrong elements of the ranks' results, a metric for each rank.
    pub(super) fn wrong_counts(&self, at: &[(&str, &str)], wrong: Vec<u64>) -> Vec<Metric> {
        let metric =
            |(index, wrong): (&u32, u64)| Metric::exact("wrong_count", at, &[*index], wrong as f64);
        self.indices.iter().zip(wrong).map(metric).collect()
    }

    /// Words of each further rank's result that differ from rank 0's.
    pub(super) fn differing(&self, bytes: u64) -> Result<Vec<(u32, u64)>, Stop> {
        let one = |rank: usize| -> Result<(u32, u64), Stop> {
            let stream = self.gpus[rank].stream();
            let (own, first) = (&self.outputs[rank], &self.outputs[0]);
            let found = self.reductions[rank].compare(stream, own, first, bytes)?;
            Ok((self.indices[rank], found.count))
        };
        (1..self.ranks()).map(one).collect()
    }

    /// The largest error of the sums that a collective leaves on each rank, in units of what any order may err.
    pub(super) fn errors(
        &self,
        operation: Operation,
        payload: Payload,
        bytes: u64,
    ) -> Result<Vec<f64>, Stop> {
        let one = |rank: usize| -> Result<f64, Stop> {
            let (stream, buffer) = (self.gpus[rank].stream(), &self.outputs[rank]);
            let Payload { element, values } = payload;
            let mut most = 0.0;
            for Wanted { offset, bytes, first, seeds } in
                wanted(operation, rank, &self.seeds, bytes, element.bytes())
            {
                let part = Part { buffer, offset, bytes, first };
                let error = self.reductions[rank].error(stream, part, element, values, &seeds)?;
                most = larger(most, error);
            }
            Ok(most)
        };
        (0..self.ranks()).map(one).collect()
    }

    /// Takes a rank's values away before a call: a planted fault.
    pub(super) fn drop_rank(&self, rank: usize) -> Result<(), Stop> {
        self.inputs[rank].fill_u32(self.gpus[rank].stream(), 0)?;
        self.synchronize()
    }

    /// Flips the highest bit of the mantissa of one value of 16 of a rank, so that it is 24: the lowest
    /// one may vanish in the rounding of the sum.
    pub(super) fn flip_input(&self, rank: usize, element: Element) -> Result<(), Stop> {
        let payload = Payload::integers(element);
        let is_16 = |index: &u64| payload.values.value(element, self.seeds[rank], *index) == 16.0;
        let index = (1000..10_000).find(is_16).unwrap_or(1000);
        let each = element.bytes();
        let bit = match element {
            Element::F16 => 9,
            Element::Bf16 => 6,
            _ => 22,
        };
        let (word, lane) = (index * each / 4, index % (4 / each));
        let mask = 1u32 << (bit + 8 * each * lane);
        let stream = self.gpus[rank].stream();
        self.patterns[rank].flip(stream, &self.inputs[rank], word, mask)?;
        self.synchronize()
    }

    /// Flips the lowest bit of one word of a rank's result.
    pub(super) fn flip_output(&self, rank: usize, word: u64) -> Result<(), Stop> {
        let stream = self.gpus[rank].stream();
        self.patterns[rank].flip(stream, &self.outputs[rank], word, 1)?;
        self.synchronize()
    }
}

/// Milliseconds of work that all ranks begin at once, until the last is done.
pub(super) fn milliseconds(
    together: &mut Together,
    ranks: usize,
    samples: u32,
    work: impl FnMut(&[&CudaStream]) -> kernels::Result<()>,
) -> Result<Vec<f64>, Stop> {
    let lanes: Vec<usize> = (0..ranks).collect();
    Ok(together::longest(&together.measure(&lanes, 1, samples, work)?))
}

/// Milliseconds of one launch of every rank's graph.
pub(super) fn replayed(
    together: &mut Together,
    samples: u32,
    graphs: &mut [Graph<'_>],
) -> Result<Vec<f64>, Stop> {
    milliseconds(together, graphs.len(), samples, |streams| {
        graphs.iter_mut().zip(streams).try_for_each(|(graph, stream)| graph.launch(stream))
    })
}

/// The modules of the own all-reduce, one for each GPU.
pub(super) fn own_modules(lab: &Lab, recorder: &mut Recorder) -> Result<Vec<Module>, Stop> {
    lab.gpus.iter().map(|gpu| lab.module(gpu, &allreduce::SOURCE, recorder)).collect()
}

/// Microseconds of one call, of milliseconds of so many, to a thousandth.
pub(super) fn microseconds(milliseconds: &[f64], calls: u32) -> Vec<f64> {
    let us = |ms: &f64| (ms * 1e6 / f64::from(calls)).round() / 1e3;
    milliseconds.iter().map(us).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rank_must_hold_by_hand() {
        let seeds = [10, 11, 12, 13];
        let at = |operation| wanted(operation, 2, &seeds, 1024, 2);
        let part = |offset, first, seeds: &[u64]| Wanted {
            offset,
            bytes: 256,
            first,
            seeds: seeds.to_vec(),
        };
        let all =
            |seeds: &[u64]| Wanted { offset: 0, bytes: 1024, first: 0, seeds: seeds.to_vec() };
        assert_eq!(at(Operation::AllReduce), [all(&seeds)]);
        assert_eq!(at(Operation::Broadcast), [all(&[10])]);
        assert_eq!(at(Operation::SendRecv), [all(&[11])]);
        assert_eq!(at(Operation::ReduceScatter), [part(0, 256, &seeds)]);
        assert_eq!(at(Operation::AllGather)[3], part(768, 0, &[13]));
        assert_eq!(at(Operation::AllToAll)[1], part(256, 256, &[11]));
    }

    #[test]
    fn sizes_are_whole_vectors_for_each_rank() {
        assert_eq!(sized(1 << 20, 4), 1 << 20);
        assert_eq!(sized(1 << 20, 3), 1_048_560);
        assert_eq!(sized(1, 4), 64);
    }

    #[test]
    fn what_is_no_number_stays_the_largest() {
        assert_eq!([0.5, 0.25].into_iter().fold(0.0, larger), 0.5);
        assert!([0.5, f64::NAN, 0.25].into_iter().fold(0.0, larger).is_nan());
    }

    #[test]
    fn microseconds_are_of_one_call() {
        assert_eq!(microseconds(&[0.5], 50), [10.0]);
    }
}
