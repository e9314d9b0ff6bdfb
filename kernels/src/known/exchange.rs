//! Questions to the kernels that move and add data between GPUs, asked on one GPU: its own memory is
//! reached by the same instructions.

use super::{Asker, SEED};
use crate::Result;
use crate::generator::hash_word;
use crate::links::{ChaseFault, CopyFault, End, Links, Mover, Ring, Route};

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
}
