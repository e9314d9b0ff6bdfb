//! Units that a number may carry. GB is 1e9 bytes, GiB is 2^30.

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// No unit.
    Plain,
    /// Seconds.
    Time,
    /// Tokens, samples or images a second.
    Throughput,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    Bandwidth,
    /// Operations a second.
    Compute,
    /// Watts.
    Power,
    /// Percent.
    Percent,
    /// A factor, `1.07x`.
    Times,
    /// Tokens, counted.
    Tokens,
}

/// A unit behind a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    pub name: &'static str,
    pub kind: Kind,
    pub scale: f64,
    /// Bytes of the text that it takes, with the blank before it.
    pub length: usize,
}

const KIB: f64 = 1024.0;

/// Longer spellings stand before their own beginnings.
const UNITS: &[(&str, &str, Kind, f64)] = &[
    ("tokens/sec", "tok/s", Kind::Throughput, 1.0),
    ("tokens/s", "tok/s", Kind::Throughput, 1.0),
    ("tok/sec", "tok/s", Kind::Throughput, 1.0),
    ("tok/s", "tok/s", Kind::Throughput, 1.0),
    ("samples/s", "samples/s", Kind::Throughput, 1.0),
    ("images/s", "images/s", Kind::Throughput, 1.0),
    ("tokens", "tokens", Kind::Tokens, 1.0),
    ("TiB/s", "TiB/s", Kind::Bandwidth, KIB * KIB * KIB * KIB),
    ("GiB/s", "GiB/s", Kind::Bandwidth, KIB * KIB * KIB),
    ("MiB/s", "MiB/s", Kind::Bandwidth, KIB * KIB),
    ("TB/s", "TB/s", Kind::Bandwidth, 1e12),
    ("GB/s", "GB/s", Kind::Bandwidth, 1e9),
    ("MB/s", "MB/s", Kind::Bandwidth, 1e6),
    ("GB/sec", "GB/s", Kind::Bandwidth, 1e9),
    ("TiB", "TiB", Kind::Bytes, KIB * KIB * KIB * KIB),
    ("GiB", "GiB", Kind::Bytes, KIB * KIB * KIB),
    ("MiB", "MiB", Kind::Bytes, KIB * KIB),
    ("KiB", "KiB", Kind::Bytes, KIB),
    ("TB", "TB", Kind::Bytes, 1e12),
    ("GB", "GB", Kind::Bytes, 1e9),
    ("MB", "MB", Kind::Bytes, 1e6),
    ("KB", "KB", Kind::Bytes, 1e3),
    ("kB", "KB", Kind::Bytes, 1e3),
    ("PFLOP/s", "PFLOP/s", Kind::Compute, 1e15),
    ("PFLOPS", "PFLOP/s", Kind::Compute, 1e15),
    ("TFLOP/s", "TFLOP/s", Kind::Compute, 1e12),
    ("TFLOPS", "TFLOP/s", Kind::Compute, 1e12),
    ("TFLOPs", "TFLOP/s", Kind::Compute, 1e12),
    ("TFlops", "TFLOP/s", Kind::Compute, 1e12),
    ("GFLOP/s", "GFLOP/s", Kind::Compute, 1e9),
    ("GFLOPS", "GFLOP/s", Kind::Compute, 1e9),
    ("TOP/s", "TOP/s", Kind::Compute, 1e12),
    ("TOPS", "TOP/s", Kind::Compute, 1e12),
    ("kW", "kW", Kind::Power, 1e3),
    ("W", "W", Kind::Power, 1.0),
    ("watts", "W", Kind::Power, 1.0),
    ("ms", "ms", Kind::Time, 1e-3),
    ("us", "us", Kind::Time, 1e-6),
    ("µs", "us", Kind::Time, 1e-6),
    ("μs", "us", Kind::Time, 1e-6),
    ("ns", "ns", Kind::Time, 1e-9),
    ("seconds", "s", Kind::Time, 1.0),
    ("s", "s", Kind::Time, 1.0),
    ("percent", "%", Kind::Percent, 1.0),
    ("%", "%", Kind::Percent, 1.0),
    ("x", "x", Kind::Times, 1.0),
    ("×", "x", Kind::Times, 1.0),
];

/// Suffixes that multiply a number without a unit, and stand directly behind it.
const SUFFIXES: &[(&str, f64)] = &[("k", 1e3), ("K", 1e3), ("M", 1e6), ("B", 1e9)];

/// The unit at the beginning of a text, behind a blank at most.
pub(crate) fn after(text: &str) -> Unit {
    let blank = usize::from(text.starts_with(' ') || text.starts_with('-'));
    let found = named(&text[blank..]);
    if let Some((name, kind, scale, length)) = found
        && (blank == 0 || kind != Kind::Times)
        && !(text.starts_with('-') && kind != Kind::Tokens)
    {
        return Unit { name, kind, scale, length: blank + length };
    }
    for (suffix, scale) in SUFFIXES {
        if let Some(rest) = text.strip_prefix(suffix)
            && !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        {
            let tokens = rest.strip_prefix([' ', '-']).and_then(named);
            let kind = match tokens {
                Some((_, kind, _, _)) if kind == Kind::Throughput => kind,
                _ => Kind::Plain,
            };
            return Unit { name: "", kind, scale: *scale, length: suffix.len() };
        }
    }
    Unit { name: "", kind: Kind::Plain, scale: 1.0, length: 0 }
}

/// The unit that a text begins with, whole: `s` is not the unit of `5 samples`.
pub(crate) fn named(text: &str) -> Option<(&'static str, Kind, f64, usize)> {
    let first = text.as_bytes().first()?;
    let spelled = UNITS.iter().find(|(spelling, ..)| {
        spelling.as_bytes()[0] == *first && text.starts_with(spelling) && {
            let rest = &text[spelling.len()..];
            !rest.starts_with(|c: char| c.is_alphanumeric() || c == '/' || c == '_')
        }
    });
    spelled.map(|(spelling, name, kind, scale)| (*name, *kind, *scale, spelling.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, name: &str, length: usize) {
        let unit = after(text);
        assert_eq!((unit.name, unit.length), (name, length), "{text}");
    }

    #[test]
    fn units_are_whole_words() {
        check(" ms later", "ms", 3);
        check(" samples", "", 0);
        check("W range", "W", 1);
        check(" x y", "", 0);
        check("x y", "x", 1);
        check(" GB/s,", "GB/s", 5);
        check(" GB/sample", "", 0);
        check("k vs", "", 1);
        check("Kelvin", "", 0);
    }

    #[test]
    fn no_spelling_hides_a_longer_one() {
        for (index, (spelling, ..)) in UNITS.iter().enumerate() {
            assert_eq!(named(spelling).map(|found| found.3), Some(spelling.len()), "{index}");
        }
    }
}
