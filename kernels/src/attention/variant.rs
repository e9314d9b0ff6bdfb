//! The kernels of attention as they are compiled: a file, what is set from outside, a program.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::program::{INTERFACE, Program};
use crate::element::Element;
use crate::{Error, KernelSource, Result};

/// Name and text of a source file.
type File = (&'static str, &'static str);

/// Which kernel, with what is particular to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Forward by TMA and wgmma, sm_90a alone.
    Hopper,
    /// Forward by mma.sync, sm_80 and later.
    Portable,
    /// A few queries over a cache.
    Decode {
        /// The cache is E4M3.
        e4m3: bool,
    },
    /// The block map of a mask.
    Blocks,
    /// The oracle.
    Reference,
}

/// One source to compile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Which kernel.
    pub kernel: Kernel,
    /// F16 or Bf16: queries and outputs, and the cache unless it is E4M3. E4m3: queries, keys and values
    /// of the plain Hopper kernel, with outputs in F16.
    pub element: Element,
    /// 64 or 128; the oracle and the block map take any.
    pub head_size: u32,
    /// Mask and score.
    pub program: Program,
    /// What is planted.
    pub fault: Fault,
}

/// A fault that is compiled in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Fault {
    /// None.
    #[default]
    None,
    /// Earlier results are not rescaled once.
    UnscaledOnce,
    /// E4M3 products of all tiles are summed by the tensor cores alone.
    OneAccumulator,
}

impl Fault {
    const ALL: [Fault; 3] = [Fault::None, Fault::UnscaledOnce, Fault::OneAccumulator];

    /// As `FAULT` in the kernels, and behind the name of a source.
    fn code(self) -> (u32, &'static str) {
        match self {
            Fault::None => (0, ""),
            Fault::UnscaledOnce => (1, "-unscaled"),
            Fault::OneAccumulator => (2, "-one-accumulator"),
        }
    }
}

/// Slabs that a warp of the decode kernel has in its ring.
pub(crate) const RING_STAGES: u32 = 4;

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Kernel::Hopper => "hopper",
            Kernel::Portable => "portable",
            Kernel::Decode { e4m3: false } => "decode",
            Kernel::Decode { e4m3: true } => "decode-e4m3",
            Kernel::Blocks => "blocks",
            Kernel::Reference => "reference",
        }
    }

    /// Architectures for which it is compiled.
    pub(crate) fn architectures(self) -> &'static [&'static str] {
        match self {
            Kernel::Hopper => &["sm_90a"],
            _ => crate::SINCE_SM80,
        }
    }

    fn entries(self) -> &'static [&'static str] {
        match self {
            Kernel::Hopper => &["attention_hopper"],
            Kernel::Portable => &["attention_portable"],
            Kernel::Decode { .. } => &["attention_decode", "attention_combine"],
            Kernel::Blocks => &["attention_classify", "attention_lists", "attention_masks"],
            Kernel::Reference => &["attention_reference"],
        }
    }

    /// The kernel's own files, behind the program.
    fn files(self) -> &'static [File] {
        const ELEMENT: File = ("element.cuh", include_str!("../element.cuh"));
        const WEIGHTS: File = ("weights.cuh", include_str!("weights.cuh"));
        const BARRIER: File = ("barrier.cuh", include_str!("../barrier.cuh"));
        const ENGINE: File = ("engine.cuh", include_str!("engine.cuh"));
        const PROBLEM: File = ("problem.cuh", include_str!("problem.cuh"));
        const FRAGMENTS: File = ("fragments.cuh", include_str!("fragments.cuh"));
        const WGMMA: File = ("wgmma.cuh", include_str!("wgmma.cuh"));
        const HOPPER: File = ("hopper.cu", include_str!("hopper.cu"));
        const PORTABLE: File = ("portable.cu", include_str!("portable.cu"));
        const DEPENDENT: File = ("dependent.cuh", include_str!("../dependent.cuh"));
        const DECODE: File = ("decode.cu", include_str!("decode.cu"));
        const BLOCKS: File = ("blocks.cu", include_str!("blocks.cu"));
        const REFERENCE: File = ("reference.cu", include_str!("reference.cu"));
        match self {
            Kernel::Hopper => &[WEIGHTS, BARRIER, ENGINE, PROBLEM, WGMMA, HOPPER],
            Kernel::Portable => &[WEIGHTS, BARRIER, ENGINE, PROBLEM, FRAGMENTS, PORTABLE],
            Kernel::Decode { .. } => &[WEIGHTS, FRAGMENTS, DEPENDENT, DECODE],
            Kernel::Blocks => &[BLOCKS],
            Kernel::Reference => &[WEIGHTS, ELEMENT, REFERENCE],
        }
    }
}

impl Variant {
    /// Without a planted fault.
    pub fn new(kernel: Kernel, element: Element, head_size: u32, program: Program) -> Variant {
        Variant { kernel, element, head_size, program, fault: Fault::None }
    }

    /// Keys of a tile.
    pub(crate) fn tile_keys(&self) -> u32 {
        match self.kernel {
            // More than a consumer's 160 registers hold; a program's score takes some of its own.
            Kernel::Hopper if self.program.scores() => 96,
            Kernel::Hopper if self.element != Element::E4m3 && self.head_size == 128 => 112,
            Kernel::Hopper => 128,
            _ => 64,
        }
    }

    /// Queries of a tile: 64 for each warpgroup, or 16 for each warp.
    pub(crate) fn tile_queries(&self) -> u32 {
        if self.kernel == Kernel::Hopper { 192 } else { 128 }
    }

    /// Name of the source: kernel, element, head size, program.
    pub fn name(&self) -> String {
        let Variant { kernel, head_size, program, .. } = self;
        let element = match self.element {
            Element::Bf16 => "bf16",
            Element::E4m3 => "e4m3",
            _ => "f16",
        };
        let (_, fault) = self.fault.code();
        let program = &program.name;
        match kernel {
            Kernel::Blocks => format!("attention-blocks-{program}"),
            Kernel::Reference => format!("attention-reference-{element}-{program}"),
            _ => format!("attention-{}-{element}-{head_size}-{program}{fault}", kernel.name()),
        }
    }

    /// The source. It is made once for each variant and kept until the process ends.
    ///
    /// Errors: [`Error::Shape`] for an element or a head size that the kernel does not have, or a block
    /// map of a program without a mask.
    pub fn source(&self) -> Result<&'static KernelSource> {
        static MADE: OnceLock<Mutex<HashMap<Variant, &'static KernelSource>>> = OnceLock::new();
        self.check()?;
        let mut made = MADE
            .get_or_init(Mutex::default)
            .lock()
            // What is in the map stays valid where another thread panicked.
            .unwrap_or_else(PoisonError::into_inner);
        let source = made.entry(self.clone()).or_insert_with(|| {
            Box::leak(Box::new(KernelSource {
                name: Box::leak(self.name().into_boxed_str()),
                source: Box::leak(self.text().into_boxed_str()),
                entries: self.kernel.entries(),
                architectures: self.kernel.architectures(),
                // The oracle need not be fast.
                spill_free: self.kernel != Kernel::Reference,
            }))
        });
        Ok(*source)
    }

    fn check(&self) -> Result<()> {
        let refused = |what: String| Err(Error::Shape { what });
        let Variant { kernel, head_size, program, fault, .. } = self;
        let e4m3 = *kernel == Kernel::Hopper && *head_size == 128 && *program == Program::PLAIN;
        let known = match self.element {
            Element::F16 | Element::Bf16 => *fault != Fault::OneAccumulator,
            Element::E4m3 => e4m3,
            _ => false,
        };
        if !known {
            let of =
                format!("{kernel:?}, {head_size} elements a head, {}, {fault:?}", program.name);
            return refused(format!("attention over {:?}: {of}", self.element));
        }
        if !matches!(self.head_size, 64 | 128) {
            return refused(format!("attention with {} elements a head", self.head_size));
        }
        if self.kernel == Kernel::Blocks && !self.program.masks() {
            return refused(format!("a block map of {}, which has no mask", self.program.name));
        }
        if self.kernel == (Kernel::Decode { e4m3: true }) && self.element != Element::F16 {
            return refused("an e4m3 cache under bf16 queries".into());
        }
        Ok(())
    }

    fn text(&self) -> String {
        let bf16 = self.element == Element::Bf16;
        let mut text = String::from(include_str!("../generator.cuh"));
        let mut define = |name: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "#define {name} {value}");
        };
        define("HEAD_SIZE", &self.head_size);
        define("TILE_KEYS", &self.tile_keys());
        let e4m3 = self.element == Element::E4m3;
        define("OPERANDS_E4M3", &u32::from(e4m3));
        let operands = match self.element {
            Element::Bf16 => "\"bf16\"",
            Element::E4m3 => "\"e4m3\"",
            _ => "\"f16\"",
        };
        define("PTX_ELEMENT", &operands);
        define("PTX_PACKED", &if bf16 { "\"bf16x2\"" } else { "\"f16x2\"" });
        define("ELEMENT", &if bf16 { "BF16" } else { "F16" });
        define("CACHE_E4M3", &u32::from(self.kernel == Kernel::Decode { e4m3: true }));
        define("RING_STAGES", &RING_STAGES);
        define("FAULT", &self.fault.code().0);
        text.push_str(INTERFACE);
        let _ = writeln!(text, "#line 1 \"{}\"", self.program.name);
        text.push_str(&self.program.text);
        text.push('\n');
        for (name, file) in self.kernel.files() {
            let _ = writeln!(text, "#line 1 \"{name}\"");
            text.push_str(file);
        }
        text
    }
}

/// The source of that name, of whatever builtin program; `None` for a name that no variant has.
pub fn named(name: &str) -> Option<&'static KernelSource> {
    let kernels = [
        Kernel::Hopper,
        Kernel::Portable,
        Kernel::Decode { e4m3: false },
        Kernel::Decode { e4m3: true },
        Kernel::Blocks,
        Kernel::Reference,
    ];
    let programs = [&[Program::PLAIN][..], &Program::BUILTIN].concat();
    for kernel in kernels {
        for element in [Element::F16, Element::Bf16, Element::E4m3] {
            for head_size in [128, 64] {
                for program in &programs {
                    let variant = Variant::new(kernel, element, head_size, program.clone());
                    let mut planted =
                        Fault::ALL.map(|fault| Variant { fault, ..variant.clone() }).into_iter();
                    if let Some(found) = planted.find(|one| one.name() == name) {
                        return found.source().ok();
                    }
                }
            }
        }
    }
    None
}

/// The variants that the compile gate builds and `cubins.lock` records.
pub fn locked() -> Vec<Variant> {
    let forward = [Kernel::Hopper, Kernel::Portable];
    let mut variants = Vec::new();
    for element in [Element::F16, Element::Bf16] {
        for head_size in [128, 64] {
            let plain = |kernel| Variant::new(kernel, element, head_size, Program::PLAIN);
            variants.extend(forward.map(plain));
            variants.push(plain(Kernel::Decode { e4m3: false }));
        }
        variants.push(Variant::new(Kernel::Reference, element, 128, Program::PLAIN));
    }
    for head_size in [128, 64] {
        let decode = Kernel::Decode { e4m3: true };
        variants.push(Variant::new(decode, Element::F16, head_size, Program::PLAIN));
    }
    variants.push(Variant::new(Kernel::Hopper, Element::E4m3, 128, Program::PLAIN));
    for program in Program::BUILTIN {
        let with = |kernel| Variant::new(kernel, Element::F16, 128, program.clone());
        variants.extend(forward.map(with));
        variants.push(with(Kernel::Reference));
        if program.masks() {
            variants.push(with(Kernel::Blocks));
        }
    }
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variant: Variant, expect: &str) {
        let error = variant.source().expect_err("refused").to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn what_no_kernel_has_is_refused() {
        let with = |kernel, element, size| Variant::new(kernel, element, size, Program::PLAIN);
        check(with(Kernel::Hopper, Element::Int8, 128), "attention over Int8");
        check(with(Kernel::Portable, Element::F16, 96), "96 elements a head");
        check(with(Kernel::Blocks, Element::F16, 128), "plain, which has no mask");
        check(with(Kernel::Decode { e4m3: true }, Element::Bf16, 128), "bf16 queries");
    }

    #[test]
    fn every_locked_variant_has_a_name_of_its_own() {
        let names: Vec<String> = locked().iter().map(Variant::name).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name}");
        }
        assert!(crate::sources().len() > names.len());
    }

    #[test]
    fn a_name_finds_its_source() {
        for variant in locked() {
            let found = named(&variant.name()).map(|source| source.name);
            assert_eq!(found, Some(variant.name().as_str()));
        }
        let plain = Variant::new(Kernel::Portable, Element::Bf16, 64, Program::PLAIN);
        let planted = Variant { fault: Fault::UnscaledOnce, ..plain };
        assert!(named(&planted.name()).is_some_and(|source| source.source.contains("FAULT 1")));
        assert!(named("attention-hopper-f16-128-nothing").is_none());
    }

    #[test]
    fn a_source_is_made_once() {
        let variant = Variant::new(Kernel::Hopper, Element::F16, 128, Program::CAUSAL);
        let [first, again] = [variant.source(), variant.source()].map(Result::unwrap);
        assert!(std::ptr::eq(first, again));
        assert_eq!(first.name, "attention-hopper-f16-128-causal");
        // The compiler names lines of the program's own text.
        assert!(first.source.contains("#line 1 \"causal\"\n// A query sees"));
    }
}
