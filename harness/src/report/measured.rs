//! Tables of figures behind verified claims: what their evidence holds beside the figure that decided.

use std::collections::{BTreeMap, BTreeSet};

use super::checklist::{Column, Ledger};
use super::{figures, text};
use crate::evidence::{Evidence, Metric};
use crate::judge::{EvidenceRef, Verdict};
use crate::statistics;

/// A table of a page. It ticks nothing: it is of evidence that verified claims cite.
#[derive(Debug)]
pub struct Table {
    /// Its heading.
    pub heading: &'static str,
    /// What stands above it, in Markdown.
    pub intro: &'static str,
    /// Claims whose evidence is read, where they are verified; in order of the rows.
    pub claims: &'static [&'static str],
    /// By what rows differ: places of a metric, and what stands where a metric has none.
    pub places: &'static [Place],
    /// Metrics with their headings.
    pub figures: &'static [(&'static str, &'static str, Shown)],
}

/// What of a metric's values is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The median; of several GPUs or ranks the largest.
    Largest,
    /// The median; of several GPUs or ranks the smallest.
    Least,
    /// The mean with its 95 % interval by Student's t; of several GPUs the one whose interval ends highest.
    Mean,
    /// Least, median and most of the medians of all GPUs or pairs of them.
    Spread,
}

/// Key of a column that has the number of GPUs that a metric is of.
pub const GPUS: &str = "gpus";

/// A column that tells rows apart.
#[derive(Debug)]
pub struct Place {
    /// Key of the metric's place, or [`GPUS`].
    pub key: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What a metric without that key is of.
    pub otherwise: &'static str,
}

/// What tells a row apart, and its figures.
type Row = (Vec<String>, Vec<Option<String>>);

/// The values of every GPU, pair or rank, by figure.
type Cells<'a> = Vec<Vec<&'a [f64]>>;

/// Evidence by the digest of its file.
pub type Read = BTreeMap<String, Evidence>;

/// The evidence that tables read, of each board: that of their verified claims.
pub fn wanted<'a>(
    tables: impl Iterator<Item = &'a Table>,
    columns: &'a [Column<'a>],
) -> Vec<&'a EvidenceRef> {
    let claims = tables.flat_map(|table| table.claims);
    claims.flat_map(|id| columns.iter().filter_map(|column| verified(column, id))).collect()
}

/// The evidence of a claim that is verified on a board.
fn verified<'a>(column: &'a Column<'a>, id: &str) -> Option<&'a EvidenceRef> {
    let judgement = column.judgements.iter().find(|judgement| judgement.claim.id == id)?;
    judgement.evidence.as_ref().filter(|_| judgement.verdict == Verdict::Verified)
}

/// The table in Markdown, board by board.
pub fn render(table: &Table, ledger: &Ledger) -> String {
    let mut lines = vec![format!("## {}", table.heading), String::new(), table.intro.to_owned()];
    for column in ledger.columns {
        lines.extend([String::new(), text::markdown(column.title), String::new()]);
        let rows = rows(table, column, ledger.evidence);
        if rows.is_empty() {
            lines.push("Nothing is recorded.".to_owned());
            continue;
        }
        let places = table.places.iter().map(|place| place.title);
        let figures = table.figures.iter().map(|(_, title, _)| *title);
        let heads: Vec<&str> = places.chain(figures).chain(["run"]).collect();
        lines.push(format!("| {} |", heads.join(" | ")));
        lines.push(format!("|{}", "---|".repeat(heads.len())));
        lines.extend(rows);
    }
    lines.join("\n")
}

/// A row for each place that was measured, the first evidence that has it.
fn rows(table: &Table, column: &Column, read: &Read) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut rows = Vec::new();
    let cited = table.claims.iter().filter_map(|id| verified(column, id));
    for (reference, evidence) in cited.filter_map(|one| Some((one, read.get(&one.sha256)?))) {
        let metrics = evidence.parts.iter().flat_map(|part| &part.metrics);
        for (place, cells) in figures_of(table, metrics) {
            if told.insert(place.clone()) {
                let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".into()));
                let cells: Vec<String> =
                    place.into_iter().chain(cells).chain([reference.run.clone()]).collect();
                rows.push(format!("| {} |", cells.join(" | ")));
            }
        }
    }
    rows
}

/// The places of a case in the order in which it told them, each with its figures.
fn figures_of<'a>(table: &Table, metrics: impl Iterator<Item = &'a Metric>) -> Vec<Row> {
    let mut found: Vec<(Vec<String>, Cells<'_>)> = Vec::new();
    for metric in metrics {
        let named = |(name, _, _): &(&str, &str, Shown)| *name == metric.name;
        let Some(at) = table.figures.iter().position(named) else { continue };
        let place = place(table, metric);
        let row = match found.iter().position(|(known, _)| *known == place) {
            Some(row) => row,
            None => {
                found.push((place, vec![Vec::new(); table.figures.len()]));
                found.len() - 1
            }
        };
        found[row].1[at].push(&metric.values);
    }
    let printed = |cells: Cells<'_>| {
        let cells = cells.into_iter().zip(table.figures);
        cells.map(|(all, (_, _, shown))| figure(*shown, &all)).collect::<Vec<_>>()
    };
    found.into_iter().map(|(place, cells)| (place, printed(cells))).collect()
}

/// What is printed of the values of every GPU, pair or rank; none of nothing.
fn figure(shown: Shown, all: &[&[f64]]) -> Option<String> {
    let medians = || {
        let mut medians: Vec<f64> =
            all.iter().filter_map(|values| statistics::median(values)).collect();
        medians.sort_by(f64::total_cmp);
        medians
    };
    match shown {
        Shown::Largest => medians().last().copied().map(figures::number),
        Shown::Least => medians().first().copied().map(figures::number),
        Shown::Mean => {
            let intervals = all.iter().filter_map(|values| statistics::mean_interval(values));
            let (low, high) = intervals.max_by(|a, b| a.1.total_cmp(&b.1))?;
            Some(format!("{:+.3} ({low:+.3} to {high:+.3})", 0.5 * (low + high)))
        }
        Shown::Spread => {
            let medians = medians();
            let (least, most) = (*medians.first()?, *medians.last()?);
            let all = [least, statistics::median(&medians)?, most].map(figures::number);
            Some(all.join(" / "))
        }
    }
}

fn place(table: &Table, metric: &Metric) -> Vec<String> {
    let of = |place: &Place| match place.key {
        GPUS => Some(metric.gpus.len().to_string()),
        key => metric.at.get(key).cloned(),
    };
    table
        .places
        .iter()
        .map(|place| of(place).unwrap_or_else(|| place.otherwise.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::MetricKind;

    static TABLE: Table = Table {
        heading: "Measured",
        intro: "Both.",
        claims: &[],
        places: &[
            Place { key: "tokens", title: "tokens", otherwise: "-" },
            Place { key: "degree", title: "GPUs", otherwise: "1" },
        ],
        figures: &[("peak_gib", "GiB", Shown::Largest), ("forward_ms", "ms", Shown::Largest)],
    };

    fn metric(name: &str, at: &[(&str, &str)], values: &[f64]) -> Metric {
        let at = at.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Metric {
            name: name.into(),
            at,
            gpus: vec![0],
            kind: MetricKind::Exact,
            values: values.to_vec(),
        }
    }

    #[test]
    fn the_number_of_gpus_is_a_place_too() {
        static OF_GPUS: Table =
            Table { places: &[Place { key: GPUS, title: "GPUs", otherwise: "-" }], ..TABLE };
        let metric =
            |gpus: &[u32]| Metric { gpus: gpus.to_vec(), ..metric("peak_gib", &[], &[1.0]) };
        assert_eq!(place(&OF_GPUS, &metric(&[0, 1])), ["2"]);
        assert_eq!(place(&OF_GPUS, &metric(&[])), ["0"]);
    }

    #[test]
    fn of_ranks_the_largest_and_of_samples_the_median() {
        let metrics = [
            metric("peak_gib", &[("tokens", "8192"), ("degree", "2"), ("rank", "0")], &[2.5]),
            metric("peak_gib", &[("tokens", "8192"), ("degree", "2"), ("rank", "1")], &[3.5]),
            metric("forward_ms", &[("tokens", "8192"), ("degree", "2")], &[9.0, 1.0, 2.0]),
            metric("peak_gib", &[("tokens", "8192")], &[7.0]),
            metric("other_gib", &[("tokens", "1")], &[1.0]),
        ];
        let rows = figures_of(&TABLE, metrics.iter());
        let row = |place: [&str; 2], cells: [Option<&str>; 2]| {
            (place.map(str::to_owned).to_vec(), cells.map(|cell| cell.map(str::to_owned)).to_vec())
        };
        assert_eq!(
            rows,
            [row(["8192", "2"], [Some("3.5"), Some("2")]), row(["8192", "1"], [Some("7"), None])]
        );
    }

    #[test]
    fn a_mean_is_told_with_its_interval() {
        let text = figure(Shown::Mean, &[&[1.0, 3.0, 1.0, 3.0, 1.0, 3.0], &[0.0; 6]]);
        assert_eq!(text.as_deref(), Some("+2.000 (+0.851 to +3.149)"));
        assert_eq!(figure(Shown::Mean, &[&[1.0]]), None);
    }

    #[test]
    fn a_spread_is_over_pairs() {
        let text = figure(Shown::Spread, &[&[4.0], &[1.0, 1.5, 9.0], &[2.0]]);
        assert_eq!(text.as_deref(), Some("1.5 / 2 / 4"));
        assert_eq!(figure(Shown::Spread, &[]), None);
    }
}
