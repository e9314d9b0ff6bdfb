//! A table by its columns: which hold times, rates and factors, and which workload a row is about.

use super::document::Table;
use super::interval::Interval;
use super::quantity::{self, Quantity};
use super::unit::{self, Kind};
use super::words;

/// A column with what its header says.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub index: usize,
    pub kind: Kind,
    pub scale: f64,
    pub unit: &'static str,
    /// The header without its unit and without the name of what it counts: `eager`.
    pub label: String,
    /// The whole header, lowercase.
    pub header: String,
}

/// What a row is about: numbers by name, each with the readings that its suffix allows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workload {
    pub batch: Vec<f64>,
    pub sequence: Vec<f64>,
    /// Its length stands under `tokens`, which may be those of the whole batch.
    pub whole: bool,
    /// The same for the same workload, however it is written.
    pub key: String,
}

/// Headers that hold a batch or a sequence length.
const BATCH: &[&str] = &["batch", "bs", "batch size", "batch_size"];
const TOKENS: &str = "tokens";
const SEQUENCE: &[&str] = &[
    "seq",
    "sequence",
    "seqlen",
    "seq len",
    "seq_len",
    "sequence length",
    "sequence_length",
    TOKENS,
    "context",
    "context length",
    "ctx",
];

/// Words by which a column says that it is what the others are held against.
pub(crate) const BASELINE: &[&str] =
    &["eager", "baseline", "base", "before", "reference", "old", "original", "unfused"];

/// What a header may say beside whose value it is.
const COUNTED: &[&str] = &[
    "latency",
    "time",
    "runtime",
    "duration",
    "throughput",
    "rate",
    "speed",
    "mean",
    "average",
    "avg",
    "median",
    "total",
    "step",
    "forward",
    "peak",
];

/// The columns of a table.
pub(crate) fn columns(table: &Table) -> Vec<Column> {
    table.header.iter().enumerate().map(|(index, header)| column(index, header)).collect()
}

/// A column by its header.
pub(crate) fn column(index: usize, header: &str) -> Column {
    let lower = header.to_lowercase();
    let (bare, bracketed) = match header.split_once(['(', '[']) {
        Some((bare, rest)) => (bare, rest.split([')', ']']).next().unwrap_or_default()),
        None => (header, ""),
    };
    let whole = |word: &str| unit::named(word).filter(|found| found.3 == word.len());
    let mut found = whole(bracketed.trim());
    if found.is_none() {
        found = bare.split([' ', ',']).filter(|word| *word != "x").find_map(whole);
    }
    if words::any(&lower, &["speedup", "speed-up"]) {
        found = Some(("x", Kind::Times, 1.0, 0));
    }
    let (unit, kind, scale, _) = found.unwrap_or(("", Kind::Plain, 1.0, 0));
    let words = bare.split_whitespace().filter(|word| whole(word).is_none());
    let words = words.map(str::to_lowercase).filter(|word| !COUNTED.contains(&word.as_str()));
    let label = words.collect::<Vec<_>>().join(" ");
    Column { index, kind, scale, unit, label, header: lower }
}

/// The number of a cell in the base of its column's unit; `None` if it is no single number.
pub(crate) fn cell(cells: &[String], column: &Column) -> Option<Quantity> {
    in_unit(cells.get(column.index)?, column)
}

fn in_unit(text: &str, column: &Column) -> Option<Quantity> {
    let mut quantity = quantity::only(text)?;
    if quantity.kind == Kind::Plain && column.kind != Kind::Plain {
        quantity.value *= column.scale;
        quantity.half *= column.scale;
        quantity.scale *= column.scale;
        (quantity.kind, quantity.unit) = (column.kind, column.unit);
    }
    (quantity.kind == column.kind && quantity.value.is_finite()).then_some(quantity)
}

/// The two numbers of a cell like `70.4 -> 71.5`.
pub(crate) fn pair(cells: &[String], column: &Column) -> Option<(Quantity, Quantity)> {
    let text = cells.get(column.index)?;
    let (before, after) = text.split_once("->").or_else(|| text.split_once('→'))?;
    // A unit behind the second is that of both.
    let after = in_unit(after, column)?;
    let before = in_unit(before, &Column { scale: after.scale, ..column.clone() })?;
    Some((before, after))
}

/// The workload of a row; `None` where the row does not say one.
pub(crate) fn workload(cells: &[String], columns: &[Column]) -> Option<Workload> {
    let mut found = Workload::default();
    for (cell, column) in cells.iter().zip(columns) {
        for part in cell.split([',', ';']) {
            if let Some((name, value)) = part.split_once('=') {
                set(&mut found, name, value);
            }
        }
        if !cell.contains('=') {
            set(&mut found, &column.header, cell);
        }
    }
    let first = |values: &[f64]| values.first().map_or(String::new(), |value| value.to_string());
    if found.batch.is_empty() && found.sequence.is_empty() {
        let text = cells.first()?.to_lowercase();
        let named = text.chars().any(char::is_alphabetic);
        found.key = text.split_whitespace().collect::<Vec<_>>().join(" ");
        return named.then_some(found);
    }
    found.key = format!("batch {} seq {}", first(&found.batch), first(&found.sequence));
    Some(found)
}

fn set(workload: &mut Workload, name: &str, value: &str) {
    let name = name.trim().trim_start_matches('(').to_lowercase();
    let values = readings(value.trim().trim_end_matches(')'));
    if values.is_empty() {
        return;
    }
    if BATCH.contains(&name.as_str()) {
        workload.batch = values;
    } else if SEQUENCE.contains(&name.as_str()) {
        workload.sequence = values;
        workload.whole = name == TOKENS;
    }
}

/// `6K` is 6,144 or 6,000; the first is what a length usually is.
fn readings(text: &str) -> Vec<f64> {
    let (digits, kilo) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    match digits.replace(',', "").parse::<f64>() {
        Ok(value) if value > 0.0 && kilo => vec![value * 1024.0, value * 1000.0],
        Ok(value) if value > 0.0 => vec![value],
        _ => Vec::new(),
    }
}

/// What is processed in one pass, for each reading: tokens, or samples where the unit says so.
pub(crate) fn per_pass(workload: &Workload, unit: &str) -> Vec<Interval> {
    let batches = workload.batch.iter();
    if unit != "tok/s" {
        return batches.map(|batch| Interval::exact(*batch)).collect();
    }
    let pairs = batches.flat_map(|b| workload.sequence.iter().map(move |s| b * s));
    let whole = workload.sequence.iter().copied().filter(|_| workload.whole);
    pairs.chain(whole).map(Interval::exact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, kind: Kind, unit: &str, label: &str) {
        let column = column(0, header);
        assert_eq!((column.kind, column.unit, &*column.label), (kind, unit, label), "{header}");
    }

    #[test]
    fn headers_say_what_a_column_holds() {
        check("Eager (ms)", Kind::Time, "ms", "eager");
        check("Eager Throughput (tok/s)", Kind::Throughput, "tok/s", "eager");
        check("Latency (ms)", Kind::Time, "ms", "");
        check("Speedup", Kind::Times, "x", "speedup");
        check("Peak Memory / GPU (GB)", Kind::Bytes, "GB", "memory / gpu");
        check("GB/s", Kind::Bandwidth, "GB/s", "");
        check("Batch", Kind::Plain, "", "batch");
    }

    #[test]
    fn a_row_names_its_workload() {
        let columns = [column(0, "Configuration"), column(1, "Eager (ms)")];
        let row = ["Batch=1, Seq=6K".to_owned(), "5".to_owned()];
        let found = workload(&row, &columns).expect("a workload");
        assert_eq!((found.batch, found.sequence), (vec![1.0], vec![6_144.0, 6_000.0]));
        let columns = [column(0, "Batch size"), column(1, "Sequence length")];
        let row = ["1".to_owned(), "6,144".to_owned()];
        assert_eq!(workload(&row, &columns).expect("a workload").key, found.key);
    }

    #[test]
    fn a_pair_shares_the_unit() {
        let columns = [column(0, "Memory")];
        assert!(pair(&["80 -> 90".to_owned()], &columns[..1].to_vec()[0]).is_some());
        let memory = column(0, "Memory (GB)");
        let (before, after) = pair(&["60.5 -> 70.25".to_owned()], &memory).expect("a pair");
        assert_eq!((before.value, after.value), (60.5e9, 70.25e9));
    }
}
