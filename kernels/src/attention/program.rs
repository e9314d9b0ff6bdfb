//! Programs: the mask and the score of an attention, in CUDA C++, compiled in by NVRTC.
//!
//! The interface is `program.cuh`, whose comments are its documentation. A program that does not
//! compile is an [`crate::Error::Compile`] whose log names the line of the program's own text.

use std::borrow::Cow;

/// What a program may see and define.
pub const INTERFACE: &str = include_str!("program.cuh");

/// A mask, a score, or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Program {
    /// Lower-case words with hyphens; part of the kernel's name.
    pub name: Cow<'static, str>,
    /// CUDA C++; see [`INTERFACE`].
    pub text: Cow<'static, str>,
}

macro_rules! builtin {
    ($name:literal) => {
        Program {
            name: Cow::Borrowed($name),
            text: Cow::Borrowed(include_str!(concat!("programs/", $name, ".cuh"))),
        }
    };
}

impl Program {
    /// No program: full, causal and sliding-window attention by `left` and `right` alone.
    pub const PLAIN: Program = Program { name: Cow::Borrowed("plain"), text: Cow::Borrowed("") };
    /// Keys up to the query's own position.
    pub const CAUSAL: Program = builtin!("causal");
    /// The query's own position and so many before it.
    pub const WINDOW: Program = builtin!("window");
    /// A prefix that all see, the rest causally.
    pub const PREFIX: Program = builtin!("prefix");
    /// Documents, each causally.
    pub const DOCUMENTS: Program = builtin!("documents");
    /// Every so many keys backwards.
    pub const DILATED: Program = builtin!("dilated");
    /// A penalty in proportion to distance.
    pub const ALIBI: Program = builtin!("alibi");
    /// Scores kept within a bound.
    pub const SOFT_CAP: Program = builtin!("softcap");
    /// Control flow that depends on data.
    pub const BRANCHING: Program = builtin!("branching");

    /// Every program of this crate but [`Program::PLAIN`].
    pub const BUILTIN: [Program; 8] = [
        Program::CAUSAL,
        Program::WINDOW,
        Program::PREFIX,
        Program::DOCUMENTS,
        Program::DILATED,
        Program::ALIBI,
        Program::SOFT_CAP,
        Program::BRANCHING,
    ];

    /// Whether the program has a mask, so that a launch needs a block map.
    pub fn masks(&self) -> bool {
        self.defines("PROGRAM_MASK")
    }

    /// Whether the program changes scores.
    pub fn scores(&self) -> bool {
        self.defines("PROGRAM_SCORE")
    }

    fn defines(&self, word: &str) -> bool {
        let defined = |line: &str| line.split_whitespace().eq(["#define", word, "1"]);
        self.text.lines().any(defined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_say_what_they_define() {
        let defines = |program: &Program| (program.masks(), program.scores());
        assert_eq!(defines(&Program::PLAIN), (false, false));
        assert_eq!(defines(&Program::CAUSAL), (true, false));
        assert_eq!(defines(&Program::ALIBI), (true, true));
        assert_eq!(defines(&Program::SOFT_CAP), (false, true));
    }

    #[test]
    fn a_comment_defines_nothing() {
        let text = "// #define PROGRAM_MASK 1\n".into();
        assert!(!Program { name: "x".into(), text }.masks());
    }

    #[test]
    fn names_are_distinct_words() {
        for (i, program) in Program::BUILTIN.iter().enumerate() {
            assert!(program.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
            assert!(Program::BUILTIN[..i].iter().all(|other| other.name != program.name));
        }
    }
}
