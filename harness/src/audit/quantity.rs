//! Numbers with units in a line of text, each with the interval that its last digit leaves open.

use super::interval::Interval;
use super::unit::{self, Kind};

/// A number as it stands in a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quantity {
    /// In the unit's base: seconds, bytes, bytes a second, FLOP a second, watts, percent.
    pub value: f64,
    /// Half a unit of the last printed digit, in the same base.
    pub half: f64,
    /// What it counts.
    pub kind: Kind,
    /// The factor from the printed digits to the base.
    pub scale: f64,
    /// The unit as a report names it; empty for a bare number.
    pub unit: &'static str,
    /// `~` stands before it.
    pub approximate: bool,
    /// `>`, `<` or `up to` stands before it, or `+` behind.
    pub bound: bool,
    /// First byte, with its sign.
    pub start: u32,
    /// Behind its last digit, before the unit.
    pub digits_end: u32,
    /// Behind its unit.
    pub end: u32,
}

impl Quantity {
    /// Everything that rounds to what was printed.
    pub fn interval(&self) -> Interval {
        Interval::new(self.value - self.half, self.value + self.half)
    }

    /// As it was printed.
    pub fn text<'a>(&self, whole: &'a str) -> &'a str {
        whole[self.start as usize..self.end as usize].trim()
    }
}

/// Every number of a text, in order.
pub(crate) fn scan(text: &str) -> Vec<Quantity> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() || !begins(bytes, at) {
            // The rest of a word or of a number that began in one is no number.
            at = if bytes[at].is_ascii_alphanumeric() { word_end(bytes, at) } else { at + 1 };
            continue;
        }
        let quantity = number(text, at);
        at = (quantity.end as usize).max(at + 1);
        found.push(quantity);
    }
    share_units(text, &mut found);
    found
}

/// The only number of a cell; `None` if there is none, or other words beside it.
pub(crate) fn only(cell: &str) -> Option<Quantity> {
    let bare = cell.trim().trim_matches('*').trim();
    let quantities = scan(bare);
    let [quantity] = quantities.as_slice() else { return None };
    let before = &bare[..quantity.start as usize];
    let around = before.chars().chain(bare[quantity.end as usize..].chars());
    let plain = |c: char| c.is_whitespace() || "~≈+-><*".contains(c);
    around.into_iter().all(plain).then_some(*quantity)
}

/// A number begins here and not inside of a word, a version, a path or a date.
fn begins(bytes: &[u8], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|index| bytes[index]) else { return true };
    if before.is_ascii_alphanumeric() || matches!(before, b'_' | b'.' | b'/' | b'\\' | b':') {
        return matches!(before, b'/' | b':') && at < 2;
    }
    if before == b'-' {
        // `-2.4 %` is a sign, `03-05` and `sm-90` are not.
        let sign = at < 2 || !bytes[at - 2].is_ascii_alphanumeric();
        let range = at >= 2 && bytes[at - 2].is_ascii_digit() && !date(bytes, at);
        return sign || range;
    }
    true
}

/// Digits, hyphen, digits, hyphen, digits.
fn date(bytes: &[u8], at: usize) -> bool {
    let skip = |mut index: usize, step: isize| {
        while index < bytes.len() && bytes[index].is_ascii_digit() {
            let Some(next) = index.checked_add_signed(step) else { return usize::MAX };
            index = next;
        }
        index
    };
    let behind = bytes.get(skip(at, 1)) == Some(&b'-');
    let before = at.checked_sub(2).map_or(usize::MAX, |index| skip(index, -1));
    behind || bytes.get(before) == Some(&b'-')
}

fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
        at += 1;
    }
    at
}

/// The digits, point, thousands and exponent from `at` on, with suffix and unit.
fn number(text: &str, at: usize) -> Quantity {
    let bytes = text.as_bytes();
    let digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    let (mut end, mut digits, mut decimals) = (at, String::new(), 0_i32);
    while digit(end) || (bytes.get(end) == Some(&b',') && thousands(bytes, end)) {
        if bytes[end] != b',' {
            digits.push(char::from(bytes[end]));
        }
        end += 1;
    }
    if bytes.get(end) == Some(&b'.') && digit(end + 1) {
        digits.push('.');
        end += 1;
        while digit(end) {
            digits.push(char::from(bytes[end]));
            (end, decimals) = (end + 1, decimals + 1);
        }
    }
    if let Some(length) = exponent(&bytes[end..]) {
        let text = &text[end..end + length];
        decimals -= text[1..].parse::<i32>().unwrap_or(0).clamp(-400, 400);
        digits.push_str(text);
        end += length;
    }
    let negative = at > 0
        && matches!(bytes[at - 1], b'-')
        && (at < 2 || !bytes[at - 2].is_ascii_alphanumeric());
    let lead = text[..at].trim_end_matches(['-', '+']).trim_end_matches(' ');
    let approximate = lead.ends_with('~') || lead.ends_with('≈');
    let unit = unit::after(&text[end..]);
    let printed: f64 = digits.parse().unwrap_or(f64::NAN);
    let mut half = 0.5 * 10_f64.powi(-decimals);
    if approximate && decimals <= 0 && printed != 0.0 {
        // The zeros at the end of "about 240" say nothing.
        while (printed / (20.0 * half)).fract() == 0.0 {
            half *= 10.0;
        }
    }
    let sign = if negative { -1.0 } else { 1.0 };
    let after = &text[end + unit.length..];
    Quantity {
        value: sign * printed * unit.scale,
        half: half * unit.scale,
        kind: unit.kind,
        scale: unit.scale,
        unit: unit.name,
        approximate,
        bound: lead.ends_with(['>', '<', '≥', '≤'])
            || lead.ends_with("up to")
            || lead.ends_with("Up to")
            || after.starts_with('+'),
        start: if negative { at - 1 } else { at } as u32,
        digits_end: end as u32,
        end: (end + unit.length) as u32,
    }
}

/// A comma between exactly three digits and more.
fn thousands(bytes: &[u8], comma: usize) -> bool {
    let digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    (1..=3).all(|step| digit(comma + step)) && !digit(comma + 4)
}

/// Length of `e-7`, `E+05` or `e9`.
fn exponent(bytes: &[u8]) -> Option<usize> {
    if !matches!(bytes.first(), Some(b'e' | b'E')) {
        return None;
    }
    let sign = usize::from(matches!(bytes.get(1), Some(b'+' | b'-')));
    let digits = bytes[1 + sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let closed = bytes.get(1 + sign + digits).is_none_or(|byte| !byte.is_ascii_alphanumeric());
    (1..=3).contains(&digits).then_some(1 + sign + digits).filter(|_| closed)
}

/// In `88-640 W`, `90 to 80 TFLOP/s` and `70.4 -> 35.2 GB` the unit is that of both.
fn share_units(text: &str, found: &mut [Quantity]) {
    for index in (1..found.len()).rev() {
        let (left, right) = found.split_at_mut(index);
        let (first, second) = (&mut left[index - 1], &right[0]);
        if first.kind != Kind::Plain || first.scale != 1.0 || second.kind == Kind::Plain {
            continue;
        }
        let between = text[first.end as usize..second.start as usize].trim();
        let between = between.trim_start_matches('x').trim_end_matches(['~', '-', '+']).trim();
        if matches!(between, "" | "-" | "–" | "to" | "and" | "->" | "→" | "of" | "/") {
            if between.is_empty() && !text[first.end as usize..].starts_with(['-', '–']) {
                continue;
            }
            first.kind = second.kind;
            first.value *= second.scale;
            first.half *= second.scale;
            (first.scale, first.unit) = (second.scale, second.unit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &[(f64, &str)]) {
        let found: Vec<_> = scan(text).iter().map(|q| (q.value, q.unit)).collect();
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn numbers_have_their_units() {
        check("1,204.15 ms and 2.5 TB/s", &[(1.20415, "ms"), (2.5e12, "TB/s")]);
        check("1420W baseline, 88-640W", &[(1420.0, "W"), (88.0, "W"), (640.0, "W")]);
        check("avg ~410k vs ~395k", &[(410e3, ""), (395e3, "")]);
        check("0.97x and 4x B200", &[(0.97, "x"), (4.0, "x")]);
        check("70.4 -> 71.5", &[(70.4, ""), (71.5, "")]);
        check(
            "70.4 GiB -> 35.2 GiB (-50 %)",
            &[(70.4 * 1_073_741_824.0, "GiB"), (35.2 * 1_073_741_824.0, "GiB"), (-50.0, "%")],
        );
        check("0.000e+00 and 6e9", &[(0.0, ""), (6e9, "")]);
    }

    #[test]
    fn words_versions_and_dates_are_no_numbers() {
        check("H200 sm_90a libnvrtc.so.13 v4.2.1 run7/a_20240305.json", &[]);
        check("2024-03-05", &[(2024.0, "")]);
        check("d_model is FP16", &[]);
    }

    #[track_caller]
    fn check_half(text: &str, expect: f64) {
        approx::assert_relative_eq!(scan(text)[0].half, expect);
    }

    #[test]
    fn the_last_digit_says_how_much_is_open() {
        check_half("0.97x", 0.005);
        check_half("1,204.15", 0.005);
        check_half("240", 0.5);
        check_half("~240", 5.0);
        check_half("~37%", 0.5);
        check_half("~1.7kW", 50.0);
        check_half("1.5e-3", 0.5e-4);
    }

    #[test]
    fn a_cell_with_words_is_no_single_number() {
        assert_eq!(only(" **15,321** ").map(|q| q.value), Some(15_321.0));
        assert_eq!(only("70.4 -> 71.5"), None);
        assert_eq!(only("about 7 or so"), None);
    }
}
