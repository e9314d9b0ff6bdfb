//! Faults of golden files: a board's own, and what documents promised.

use toml::{Table, Value};

use super::{Fault, Plant};
use crate::detector::good::Good;

const fn own(
    name: &'static str,
    plant: fn(&mut Table, &Good),
    as_what: &'static str,
    names: &'static str,
) -> Fault {
    Fault { name, file: "golden", as_what, names, plant: Plant::Board(plant) }
}

const fn text(name: &'static str, plant: fn(&str) -> String, names: &'static str) -> Fault {
    Fault { name, file: "golden", as_what: "refused", names, plant: Plant::BoardText(plant) }
}

const fn promised(
    name: &'static str,
    plant: fn(&mut Table, &Good),
    as_what: &'static str,
    names: &'static str,
) -> Fault {
    Fault { name, file: "golden", as_what, names, plant: Plant::Documented(plant) }
}

/// A table of a table; an empty one is put where there is none.
fn table<'a>(of: &'a mut Table, name: &str) -> &'a mut Table {
    let entry = of.entry(name).or_insert_with(|| Value::Table(Table::new()));
    if !entry.is_table() {
        *entry = Value::Table(Table::new());
    }
    entry.as_table_mut().unwrap_or_else(|| unreachable!("made one above"))
}

/// The claim's bound on the board.
fn bound<'a>(golden: &'a mut Table, base: &Good) -> &'a mut Table {
    table(table(table(golden, "claims"), base.claim.id), base.claim.figure())
}

fn set(table: &mut Table, field: &str, value: impl Into<Value>) {
    table.insert(field.into(), value.into());
}

/// The claim's promise.
fn promise<'a>(documented: &'a mut Table, base: &Good) -> &'a mut Table {
    table(table(documented, "claims"), base.claim.id)
}

fn peak<'a>(golden: &'a mut Table, name: &str) -> &'a mut Table {
    table(table(golden, "peaks"), name)
}

fn runs<'a>(golden: &'a mut Table, base: &Good) -> &'a mut Vec<Value> {
    let entry = bound(golden, base).entry("runs").or_insert_with(|| Value::Array(Vec::new()));
    entry.as_array_mut().unwrap_or_else(|| unreachable!("a bound lists its runs"))
}

/// The golden, moved by a share of itself.
fn moved(golden: &mut Table, base: &Good, by: f64) {
    let was = base.bound().map_or(0.0, |bound| bound.golden);
    set(bound(golden, base), "golden", was * by);
}

pub(super) static FAULTS: &[Fault] = &[
    // The board's file as a file.
    text("cut", |text| text[..text.len().saturating_sub(20)].to_owned(), "TOML parse error"),
    text("a key twice", |text| format!("schema = 1\n{text}"), "duplicate key"),
    text(
        "a golden in a list",
        |text| text.replacen("golden = ", "golden = [] #", 1),
        "expected f64",
    ),
    own("a schema from the future", |g, _| set(g, "schema", 2), "refused", "schema 2 is not 1"),
    own("an unknown field", |g, base| set(bound(g, base), "better", 0.5), "refused", "`better`"),
    own(
        "another board's name",
        |g, _| set(table(g, "board"), "name", "x"),
        "refused",
        "board.name",
    ),
    own(
        "a device id that is none",
        |g, _| set(table(g, "board"), "pci_device_ids", vec!["H200"]),
        "refused",
        "four hex digits each",
    ),
    own(
        "no device id",
        |g, _| set(table(g, "board"), "pci_device_ids", Vec::<String>::new()),
        "refused",
        "four hex digits each",
    ),
    own(
        "a claim skipped beyond the budget",
        |g, base| set(table(g, "skip"), base.claim.id, "it is slow"),
        "refused",
        "skip_budget allows 0",
    ),
    own(
        "a skipped claim that nobody knows",
        |g, _| {
            set(g, "skip_budget", 1);
            set(table(g, "skip"), "a::b", "it is slow");
        },
        "finding",
        "skip a::b: no such claim",
    ),
    own(
        "a claim skipped without a reason",
        |g, base| {
            set(g, "skip_budget", 1);
            set(table(g, "skip"), base.claim.id, " ");
        },
        "finding",
        "or no reason",
    ),
    // A bound's reason, tolerance and figure.
    own(
        "no reason",
        |g, base| drop(bound(g, base).remove("because")),
        "refused",
        "missing field `because`",
    ),
    own(
        "an empty reason",
        |g, base| set(bound(g, base), "because", " "),
        "finding",
        "has a reason",
    ),
    own(
        "an inverted tolerance",
        |g, base| set(bound(g, base), "worse", -0.02),
        "finding",
        "is no bound",
    ),
    own(
        "a tolerance of all",
        |g, base| set(bound(g, base), "worse", 1.0),
        "finding",
        "is no bound",
    ),
    own("NaN", |g, base| set(bound(g, base), "golden", f64::NAN), "finding", "golden NaN"),
    own(
        "infinite",
        |g, base| set(bound(g, base), "golden", f64::INFINITY),
        "finding",
        "golden inf",
    ),
    own(
        "a wide tolerance that nobody accepted",
        |g, base| {
            let bound = bound(g, base);
            set(bound, "worse", 0.2);
            drop(bound.remove("accepted"));
        },
        "finding",
        "a tolerance of 0.2 needs `accepted`",
    ),
    own(
        "a tolerance that its runs do not give",
        |g, base| {
            let bound = bound(g, base);
            set(bound, "worse", 0.049);
            drop(bound.remove("accepted"));
        },
        "finding",
        "tolerance 0.049 is not what its runs give",
    ),
    own("lowered by hand", |g, base| moved(g, base, 0.98), "finding", "is not what its runs give"),
    own("raised by hand", |g, base| moved(g, base, 1.01), "finding", "is not what its runs give"),
    own("raised above physics", |g, base| moved(g, base, 10.0), "finding", "is above its peak"),
    own("lowered below the document", |g, base| moved(g, base, 0.1), "finding", "is looser than"),
    own("a negative golden", |g, base| moved(g, base, -1.0), "finding", "is looser than"),
    // Which claim, which runs, which kernels.
    own(
        "a claim that nobody knows",
        |g, base| {
            let bounds = table(table(g, "claims"), base.claim.id).clone();
            table(g, "claims").insert("a::b".into(), Value::Table(bounds));
        },
        "finding",
        "a::b: bound without claim",
    ),
    own(
        "a figure of another metric",
        |g, base| {
            let bound = bound(g, base).clone();
            let bounds = table(table(g, "claims"), base.claim.id);
            bounds.insert("other_gbps".into(), Value::Table(bound));
        },
        "finding",
        "the claim's figure is {metric}",
    ),
    own(
        "calibration runs that do not exist",
        |g, base| runs(g, base)[0] = "0".repeat(64).into(),
        "finding",
        "is not recorded",
    ),
    own("two calibration runs", |g, base| runs(g, base).truncate(2), "finding", "needs three"),
    own(
        "one calibration run three times",
        |g, base| {
            let runs = runs(g, base);
            runs.truncate(1);
            runs.resize(3, runs[0].clone());
        },
        "finding",
        "needs three calibration runs",
    ),
    own(
        "another machine code than its runs'",
        |g, base| {
            let cubins = table(bound(g, base), "cubins");
            let names: Vec<String> = cubins.keys().cloned().collect();
            names.into_iter().for_each(|name| set(cubins, &name, "0".repeat(64)));
        },
        "finding",
        "of machine code 000000000000",
    ),
    // The board's peaks.
    own("a peak without a unit", |g, _| drop(peak_of(g, "clock", 1980.0)), "finding", "peak clock"),
    own("a peak of nothing", |g, _| drop(peak_of(g, "other_gbps", 0.0)), "finding", "no value"),
    own(
        "a peak of NaN",
        |g, _| drop(peak_of(g, "other_gbps", f64::NAN)),
        "finding",
        "other_gbps = NaN",
    ),
    own(
        "a peak without a source",
        |g, base| set(peak(g, base.claim.ceiling.unwrap_or_default()), "source", ""),
        "finding",
        "has no source",
    ),
    own(
        "the peak that bounds the claim gone",
        |g, base| drop(table(g, "peaks").remove(base.claim.ceiling.unwrap_or_default())),
        "finding",
        ", its ceiling",
    ),
    // What documents promised.
    promised(
        "a promise without a reason",
        |d, base| drop(promise(d, base).remove("because")),
        "refused",
        "`because`",
    ),
    promised(
        "a promise with an empty reason",
        |d, base| set(promise(d, base), "because", ""),
        "finding",
        "has a reason",
    ),
    promised(
        "two figures promised",
        |d, base| set(promise(d, base), "at_most", 1.0),
        "finding",
        "needs one finite figure",
    ),
    promised(
        "no figure promised",
        |d, base| drop(promise(d, base).remove("at_least")),
        "finding",
        "needs one finite figure",
    ),
    promised(
        "NaN promised",
        |d, base| set(promise(d, base), "at_least", f64::NAN),
        "finding",
        "needs one finite figure",
    ),
    promised(
        "more promised than physics",
        |d, base| set(promise(d, base), "at_least", 1e6),
        "finding",
        "is above the peak",
    ),
    promised(
        "a share of a peak that nobody knows",
        |d, base| set(promise(d, base), "of", "x_gbps"),
        "finding",
        "has no peak x_gbps",
    ),
    promised(
        "a promise of a claim that nobody knows",
        unknown,
        "finding",
        "a::b: bound without claim",
    ),
    promised(
        "a schema of promises from the future",
        |d, _| set(d, "schema", 2),
        "refused",
        "schema 2 is not 1",
    ),
    promised(
        "an unknown field of a promise",
        |d, base| set(promise(d, base), "bound", 1),
        "refused",
        "`bound`",
    ),
    promised(
        "an ordinary claim listed as refuted",
        |d, base| {
            let said = table(table(d, "refuted"), base.claim.id);
            ["line", "truth", "arithmetic"].iter().for_each(|field| set(said, field, "1"));
        },
        "finding",
        "refuted list and claim disagree",
    ),
    promised(
        "a refutation without arithmetic",
        |d, base| {
            let said = table(table(d, "refuted"), base.claim.id);
            ["line", "truth", "arithmetic"].iter().for_each(|field| set(said, field, ""));
        },
        "finding",
        "wants line, truth and arithmetic",
    ),
];

/// A peak that the board did not have.
fn peak_of(golden: &mut Table, name: &str, value: f64) -> Option<Value> {
    let peak = peak(golden, name);
    peak.insert("source".into(), "a sheet".into());
    peak.insert("value".into(), value.into())
}

/// A promise without its claim.
fn unknown(documented: &mut Table, base: &Good) {
    let own = promise(documented, base).clone();
    table(documented, "claims").insert("a::b".into(), Value::Table(own));
}
