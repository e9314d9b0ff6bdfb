//! Known answers of a cache in E4M3: zeros, what is no number, tokens that saturate, and a tile that ends early.

use half::f16;

use super::{Asker, SEED};
use crate::attention::Tensor;
use crate::device::Buffer;
use crate::element::Element;
use crate::generator::draw;
use crate::model::HEAD_SIZE;
use crate::model::cache::{Kernels, Shared, oracle};
use crate::{Error, Result};

const HEADS: u32 = 5;
const SEQUENCES: u32 = 2;
/// Tokens that are filled, which end inside the second tile, and room.
const FILLED: u32 = 70;
const CAPACITY: u32 = 80;
/// Elements of a token: queries, keys, values.
const ROW: u32 = 3 * HEADS * HEAD_SIZE;
/// What nobody writes.
const POISON: u8 = 0xFF;

/// Queries, keys and values of both sequences and one token more, [sequence][token][3][head][128].
struct Drawn {
    halves: Vec<f16>,
    tokens: u32,
}

impl Drawn {
    /// Head 0 has zeros as keys, head 1 a NaN among its keys, head 2 an infinity among its values.
    fn filled() -> Drawn {
        let mut drawn = Drawn::new(1, FILLED, 1.0);
        for sequence in 0..SEQUENCES {
            for token in 0..FILLED {
                let at = drawn.place(0, sequence, token, 0);
                drawn.halves[at..at + HEAD_SIZE as usize].fill(f16::ZERO);
            }
        }
        for (part, head, value) in [(0, 1, f16::NAN), (1, 2, f16::NEG_INFINITY)] {
            let at = drawn.place(part, 1, 66, head);
            drawn.halves[at + 77] = value;
        }
        drawn
    }

    /// Some beyond the head-room; head 3 has a NaN among its values, head 4 nothing.
    fn appended() -> Drawn {
        let mut drawn = Drawn::new(2, 1, 4.0);
        let at = drawn.place(1, 1, 0, 3);
        drawn.halves[at + 5] = f16::NAN;
        drawn
    }

    fn new(seed: u64, tokens: u32, size: f32) -> Drawn {
        let number = |at: u32| draw(SEED ^ seed, at.into()) as i32 as f32 * 2f32.powi(-31) * size;
        let halves = (0..SEQUENCES * tokens * ROW).map(|at| f16::from_f32(number(at))).collect();
        Drawn { halves, tokens }
    }

    fn place(&self, part: u32, sequence: u32, token: u32, head: u32) -> usize {
        let row = sequence * self.tokens + token;
        (row * ROW + ((part + 1) * HEADS + head) * HEAD_SIZE) as usize
    }

    /// Of one token.
    fn head(&self, part: u32, sequence: u32, token: u32, head: u32) -> &[f16] {
        &self.halves[self.place(part, sequence, token, head)..][..HEAD_SIZE as usize]
    }

    /// Codes of the largest magnitudes, by part and head.
    fn largest(&self) -> Vec<u16> {
        let lines = (0..2 * HEADS).map(|line| (line / HEADS, line % HEADS));
        let of = |(part, head)| {
            let rows =
                (0..SEQUENCES * self.tokens).map(|row| (row / self.tokens, row % self.tokens));
            let heads = rows.map(move |(sequence, token)| self.head(part, sequence, token, head));
            oracle::largest(heads.flatten().copied())
        };
        lines.map(of).collect()
    }

    /// Writes the codes of all tokens to a cache, from token `first` of each sequence on.
    fn store(&self, cache: &mut [u8], part: u32, first: u32, largest: &[u16]) {
        for row in 0..SEQUENCES * self.tokens {
            let (sequence, token) = (row / self.tokens, row % self.tokens);
            for head in 0..HEADS {
                let to = ((sequence * CAPACITY + first + token) * HEADS + head) * HEAD_SIZE;
                let from = self.head(part, sequence, token, head);
                let codes =
                    from.iter().map(|x| oracle::code(*x, largest[(part * HEADS + head) as usize]));
                let to = &mut cache[to as usize..][..HEAD_SIZE as usize];
                to.iter_mut().zip(codes).for_each(|(to, code)| *to = code);
            }
        }
    }
}

/// What is on the GPU.
struct Scene {
    buffers: [Buffer; 2],
    cache: [Buffer; 2],
    shared: Shared,
}

impl Scene {
    fn from(&self, which: usize, tokens: u32) -> [Tensor<'_>; 2] {
        [1, 2].map(|part| Tensor {
            buffer: &self.buffers[which],
            offset: u64::from(part * HEADS * HEAD_SIZE),
            row: ROW.into(),
            head: HEAD_SIZE.into(),
            batch: u64::from(tokens * ROW),
        })
    }

    fn to(&self, token: u32) -> [Tensor<'_>; 2] {
        let packed = |buffer| Tensor::packed(buffer, CAPACITY, HEADS, HEAD_SIZE);
        let offset = u64::from(token * HEADS * HEAD_SIZE);
        self.cache.each_ref().map(|buffer| Tensor { offset, ..packed(buffer) })
    }
}

impl Asker<'_> {
    /// What the entry left, beside what the oracle says.
    fn cache(&self, name: &str) -> Result<u64> {
        let (filled, appended) = (Drawn::filled(), Drawn::appended());
        let scene = self.cache_scene([&filled, &appended])?;
        let kernels = Kernels::new(self.module("cache")?)?;
        let (stream, largest) = (self.stream(), filled.largest());
        let sizes = (SEQUENCES, FILLED);
        kernels.fill(stream, scene.from(0, FILLED), scene.to(0), &scene.shared, sizes)?;
        let pairs: Vec<[f32; 2]> = (0..HEADS as usize)
            .map(|head| oracle::scales([largest[head], largest[HEADS as usize + head]]))
            .collect();
        let mut scales: Vec<f32> =
            [0, 1].iter().flat_map(|&part| pairs.iter().map(move |p| p[part])).collect();
        let parts = (HEADS * CAPACITY * SEQUENCES * HEAD_SIZE) as usize;
        let mut caches = [0, 1].map(|part| {
            let mut cache = vec![POISON; parts];
            filled.store(&mut cache, part, 0, &largest);
            cache
        });
        if name == "cache_largest" {
            let words: Vec<u32> = largest.iter().map(|&code| code.into()).collect();
            return self.compare_buffer(name, &scene.shared.largest, &words);
        }
        if name == "cache_step" {
            let sizes = (SEQUENCES, 0);
            kernels.step(stream, scene.from(1, 1), scene.to(FILLED), &scene.shared, sizes)?;
            for (part, cache) in (0..).zip(&mut caches) {
                appended.store(cache, part, FILLED, &largest);
            }
            scales[(HEADS + 3) as usize] = f32::NAN;
        }
        let bits: Vec<u32> = scales.iter().map(|scale| scale.to_bits()).collect();
        let mut wrong = self.compare_buffer(name, &scene.shared.scales, &bits)?;
        for (buffer, cache) in scene.cache.iter().zip(&caches) {
            let codes: Vec<u32> = cache.iter().map(|&code| code.into()).collect();
            wrong += self.compare_buffer(name, buffer, &Element::E4m3.pack(&codes))?;
        }
        Ok(wrong)
    }

    fn cache_scene(&self, drawn: [&Drawn; 2]) -> Result<Scene> {
        let filled = |drawn: &Drawn| -> Result<Buffer> {
            let codes: Vec<u32> = drawn.halves.iter().map(|half| half.to_bits().into()).collect();
            self.with_words(&Element::F16.pack(&codes))
        };
        let poisoned = || -> Result<Buffer> {
            let buffer = self.gpu.alloc(u64::from(HEADS * CAPACITY * SEQUENCES * HEAD_SIZE))?;
            buffer.poison(self.stream())?;
            Ok(buffer)
        };
        Ok(Scene {
            buffers: [filled(drawn[0])?, filled(drawn[1])?],
            cache: [poisoned()?, poisoned()?],
            shared: Shared::new(self.gpu, HEADS)?,
        })
    }
}

/// Asks an entry of the kernels of a cache.
pub(super) fn ask(asker: &Asker<'_>, name: &str) -> Result<u64> {
    match name {
        "cache_largest" | "cache_fill" | "cache_step" => asker.cache(name),
        other => Err(Error::Shape { what: format!("no question for {other}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the question is there to ask.
    #[test]
    fn a_question_has_zeros_no_numbers_and_what_saturates() {
        let (largest, appended) = (Drawn::filled().largest(), Drawn::appended());
        assert_eq!((largest[0], largest[1], largest[HEADS as usize + 2]), (0, 0x7FFF, 0x7C00));
        let ordinary = largest[HEADS as usize + 4];
        assert!(0x3000 < ordinary && ordinary < 0x7C00, "{ordinary:#x}");
        let codes = |sequence| {
            let head = appended.head(1, sequence, 0, 4).iter();
            head.map(|x| oracle::code(*x, ordinary)).collect::<Vec<_>>()
        };
        assert!(codes(0).contains(&0x7E) && codes(1).contains(&0xFE));
        let mut cache = vec![POISON; (HEADS * CAPACITY * SEQUENCES * HEAD_SIZE) as usize];
        appended.store(&mut cache, 1, FILLED, &largest);
        let second = ((CAPACITY + FILLED) * HEADS + 4) * HEAD_SIZE;
        assert_eq!(cache[second as usize..][..HEAD_SIZE as usize], codes(1));
        assert_eq!(cache[second as usize + HEAD_SIZE as usize], POISON);
    }
}
