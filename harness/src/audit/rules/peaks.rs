//! What no machine can do: rates above a GPU's peaks, shares of them, links and what runs on them.

use std::collections::HashSet;

use super::Context;
use crate::audit::document::{Block, Document};
use crate::audit::finding::{Finding, figure};
use crate::audit::grid;
use crate::audit::interval::Interval;
use crate::audit::peaks::{self, Gpu};
use crate::audit::quantity::Quantity;
use crate::audit::unit::Kind;
use crate::audit::words;

const MEMORY: &[&str] = &["hbm*", "dram", "memory bandwidth", "memory", "stream", "triad"];
const CACHE: &[&str] = &["l1", "l2", "cache", "shared memory", "register*"];
const LINK: &[&str] = &["nvlink*", "p2p", "peer*", "allreduce", "all-reduce", "busbw", "xgmi"];
/// A number over several GPUs, or of what should be and was not measured.
const SEVERAL: &[&str] = &[
    "total",
    "aggregate*",
    "combined",
    "together",
    "all gpus",
    "bidirectional",
    "both directions",
    "system",
    "platform*",
    "hgx",
    "dgx",
    "node",
    "8-gpu",
];
const SPARSE: &[&str] = &["sparse", "sparsity"];
const THEORY: &[&str] =
    &["theoretical", "peak", "roof*", "sheet", "vendor*", "maximum", "limit", "spec*", "datasheet"];

/// A physical peak that a number is held against.
struct Peak<'a> {
    name: String,
    value: f64,
    source: &'a str,
}

/// The peak that a rate of this text is bounded by.
fn peak<'a>(gpu: &'a Gpu, kind: Kind, text: &str) -> Option<Peak<'a>> {
    let named = |what: &str, value: f64, source: &'a str| {
        Some(Peak { name: format!("{what} of the {}", gpu.names[0]), value, source })
    };
    match kind {
        Kind::Bandwidth if words::any(text, LINK) => {
            named("NVLink in one direction", gpu.nvlink_gbps * 1e9, &gpu.nvlink_gbps_source)
        }
        Kind::Bandwidth if words::any(text, MEMORY) && !words::any(text, CACHE) => {
            named("HBM", gpu.hbm_gbps * 1e9, &gpu.hbm_gbps_source)
        }
        Kind::Compute if !words::any(text, SPARSE) => {
            let precisions = gpu.tflops.iter();
            let stated: Vec<_> =
                precisions.clone().filter(|(name, _)| words::any(text, &[name])).collect();
            let all: Vec<_> = precisions.collect();
            let of = if stated.is_empty() { all } else { stated };
            let (name, value) = of.into_iter().max_by(|a, b| a.1.total_cmp(b.1))?;
            named(&format!("dense {name}"), value * 1e12, &gpu.tflops_source)
        }
        _ => None,
    }
}

/// Rates above the peak of the GPU that they are of, in prose and in tables.
pub(super) fn exceeded(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let only = peaks::only(document);
        for block in document.prose() {
            let gpu = std::cell::LazyCell::new(|| peaks::of(document, block, only));
            for rate in &block.quantities {
                if !matches!(rate.kind, Kind::Bandwidth | Kind::Compute) {
                    continue;
                }
                let sentence = block.sentence(rate.start as usize);
                if words::any(sentence, SEVERAL) || words::any(sentence, THEORY) {
                    continue;
                }
                let Some(gpu) = *gpu else { continue };
                let text = format!("{sentence} / {}", document.titles(block.section));
                let line = block.line_at(rate.start as usize);
                found.extend(above(document, line, rate, peak(gpu, rate.kind, &text)));
            }
        }
        tables_exceed(document, only, found);
    }
}

fn above(document: &Document, line: u32, rate: &Quantity, peak: Option<Peak>) -> Option<Finding> {
    let peak = peak.filter(|peak| rate.interval().low > peak.value * 1.001)?;
    let (value, most) = (rate.value / rate.scale, peak.value / rate.scale);
    let what = format!(
        "{} {} is above {}, {} {}",
        figure(value),
        rate.unit,
        peak.name,
        figure(most),
        rate.unit
    );
    let shown =
        format!("{} / {} = {:.3}; {}", figure(value), figure(most), value / most, peak.source);
    let finding = Finding::new(&document.name, line, "peak-exceeded", what);
    Some(finding.shown(shown).value("printed", rate.value).value("peak", peak.value))
}

fn tables_exceed(document: &Document, only: Option<&'static Gpu>, found: &mut Vec<Finding>) {
    for table in &document.tables {
        let columns = grid::columns(table);
        let titles = document.titles(table.section);
        let by_title = peaks::of_text(document, &table.header.join(" "), table.section, only);
        for (line, cells) in &table.rows {
            let mut own = None;
            for column in &columns {
                let Some(rate) = grid::cell(cells, column).filter(limited) else { continue };
                let name = cells.first().map_or("", String::as_str);
                let own = own.get_or_insert_with(|| peaks::named(name));
                let of_column = peaks::named(&table.header[column.index]);
                let gpu = match (of_column.as_slice(), own.as_slice()) {
                    ([gpu], _) | ([], [gpu]) => Some(*gpu),
                    ([], []) => by_title,
                    _ => None,
                };
                let Some(gpu) = gpu else { continue };
                let limit = limit_of(gpu, rate.kind, &column.header, name, &titles);
                found.extend(above(document, *line, &rate, limit));
            }
        }
    }
}

/// What some peak bounds.
fn limited(quantity: &Quantity) -> bool {
    matches!(quantity.kind, Kind::Bandwidth | Kind::Compute | Kind::Bytes)
}

/// The peak that bounds a cell; none for what is not measured, or over several GPUs.
fn limit_of<'a>(
    gpu: &'a Gpu,
    kind: Kind,
    header: &str,
    name: &str,
    titles: &str,
) -> Option<Peak<'a>> {
    let text = format!("{header} {name}");
    if words::any(&text, SEVERAL) {
        return None;
    }
    if kind == Kind::Bytes {
        let used = words::any(header, &["peak", "allocated", "used"]);
        return used.then(|| Peak {
            name: format!("the memory of the {}", gpu.names[0]),
            value: gpu.memory_gb * 1e9,
            source: &gpu.memory_gb_source,
        });
    }
    if words::any(&text, THEORY) {
        return None;
    }
    peak(gpu, kind, &format!("{text} / {titles}"))
}

/// `1.5 TB/s (70% of theoretical)`.
pub(super) fn share(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let only = peaks::only(document);
        for block in document.prose() {
            let gpu = std::cell::LazyCell::new(|| peaks::of(document, block, only));
            for percent in block.quantities.iter().filter(|q| q.kind == Kind::Percent) {
                let after = block.after(percent.end);
                let clause =
                    after.split([',', ';', ')', '\n']).next().unwrap_or_default().trim_start();
                if !clause.starts_with("of ") || !words::any(clause, &["theoretical", "peak"]) {
                    continue;
                }
                let sentence = block.sentence(percent.start as usize);
                let index = block.quantities.partition_point(|q| q.start < percent.start);
                let before = block.quantities[..index].iter().rev().take(4);
                let mut before =
                    before.filter(|q| matches!(q.kind, Kind::Bandwidth | Kind::Compute));
                let near = |rate: &&Quantity| {
                    percent.start - rate.end < 80 && sentence.contains(rate.text(&block.text))
                };
                let Some(rate) = before.next().filter(near) else { continue };
                let Some(gpu) = *gpu else { continue };
                let text = format!("{sentence} / {}", document.titles(block.section));
                // A peak that the clause itself prints, and those by which shares are printed besides.
                let end =
                    percent.end as usize + after.len() - after.trim_start().len() + clause.len();
                let printed = block.quantities[index..].iter().filter(|q| {
                    q.kind == rate.kind && q.start >= percent.end && (q.start as usize) < end
                });
                let sheet = match rate.kind {
                    Kind::Bandwidth => gpu.sheet_gbps.iter().map(|gbps| gbps * 1e9).collect(),
                    _ => gpu.sheet_tflops.iter().map(|tflops| tflops * 1e12).collect::<Vec<_>>(),
                };
                let others: Vec<f64> = printed.map(|q| q.value).chain(sheet).collect();
                let peak = peak(gpu, rate.kind, &text);
                found.extend(shares(document, block, (rate, percent), peak, &others));
            }
        }
    }
}

fn shares(
    document: &Document,
    block: &Block,
    (rate, percent): (&Quantity, &Quantity),
    peak: Option<Peak>,
    others: &[f64],
) -> Option<Finding> {
    let peak = peak?;
    let of = |peak: f64| Interval::exact(100.0) * rate.interval() / Interval::exact(peak);
    let computed = of(peak.value);
    let met = |peak: &f64| of(*peak).meets(percent.interval());
    if met(&peak.value) || others.iter().any(met) {
        return None;
    }
    let (value, most) = (rate.value / rate.scale, peak.value / rate.scale);
    let needed = value / percent.value * 100.0;
    Some(
        Finding::new(
            &document.name,
            block.line_at(percent.start as usize),
            "peak-share",
            format!(
                "prints {} of {}, computes to {:.1} %",
                percent.text(&block.text),
                peak.name,
                computed.middle()
            ),
        )
        .shown(format!(
            "{} / {} {} = {:.2} %; {} % would be of {}; {}",
            figure(value),
            figure(most),
            rate.unit,
            computed.middle(),
            figure(percent.value),
            figure(needed),
            peak.source
        ))
        .value("printed", percent.value)
        .value("computed", computed.middle()),
    )
}

/// Below this share of the peak, reading the whole footprint once is no bound by memory.
const BOUND_SHARE: f64 = 0.1;

/// A table of latency and peak memory, in a section that calls the work memory-bound.
pub(super) fn memory_bound(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let only = peaks::only(document);
        let words = &["memory-bound", "memory bound", "bandwidth-bound", "hbm ceiling"];
        let mut said = document.prose().filter_map(|block| {
            let at = words::first(&block.text, words)?.0;
            let denied = words::any(block.sentence(at), &["not", "never", "vs", "versus", "or"]);
            (!denied).then_some((block, at))
        });
        let Some((block, at)) = said.next() else { continue };
        let Some(gpu) = peaks::of(document, block, only) else { continue };
        let mut fastest: Option<(f64, u32)> = None;
        for table in &document.tables {
            let columns = grid::columns(table);
            let time = columns.iter().find(|column| column.kind == Kind::Time);
            let memory = columns.iter().find(|column| column.kind == Kind::Bytes);
            let (Some(time), Some(memory)) = (time, memory) else { continue };
            for (line, cells) in &table.rows {
                let bytes = grid::pair(cells, memory)
                    .map(|pair| pair.0)
                    .or_else(|| grid::cell(cells, memory));
                let (Some(seconds), Some(bytes)) = (grid::cell(cells, time), bytes) else {
                    continue;
                };
                let rate = bytes.value / seconds.value;
                if fastest.is_none_or(|(most, _)| rate > most) {
                    fastest = Some((rate, *line));
                }
            }
        }
        let Some((rate, line)) = fastest else { continue };
        let share = rate / (gpu.hbm_gbps * 1e9);
        if share < BOUND_SHARE {
            let what = format!(
                "called memory-bound, but reading all its memory once a pass takes {:.1} % of \
                 the HBM rate at most",
                100.0 * share
            );
            let shown = format!(
                "{} GB/s in line {line} / {} GB/s; {}",
                figure(rate / 1e9),
                figure(gpu.hbm_gbps),
                gpu.hbm_gbps_source
            );
            let line_said = block.line_at(at);
            let finding = Finding::new(&document.name, line_said, "peak-memory-bound", what);
            found.push(finding.shown(shown).value("share", share).beside(&document.name, line));
        }
    }
}

const COLLECTIVES: &[&str] = &[
    "allreduce",
    "all-reduce",
    "all reduce",
    "allgather",
    "all-gather",
    "reducescatter",
    "reduce-scatter",
];

/// The bus bandwidth of a collective against the fastest pair of the same document.
pub(super) fn collective(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let rates = |words: &'static [&'static str]| {
            document.prose().flat_map(move |block| {
                let rates = block.quantities.iter().filter(|q| q.kind == Kind::Bandwidth);
                rates.filter(move |rate| nearest(block, rate, words)).map(move |rate| (block, rate))
            })
        };
        let pair = rates(&["p2p", "peer-to-peer", "point-to-point"]);
        let Some((pair_block, pair)) =
            pair.reduce(|a, b| if b.1.value > a.1.value { b } else { a })
        else {
            continue;
        };
        let mut seen = HashSet::new();
        for (block, rate) in rates(COLLECTIVES) {
            let line = block.line_at(rate.start as usize);
            let algorithm = words::any(block.sentence(rate.start as usize), &["algbw"]);
            if algorithm || rate.interval().low <= pair.interval().high * 1.05 || !seen.insert(line)
            {
                continue;
            }
            let (value, most) = (rate.value / 1e9, pair.value / 1e9);
            let from = pair_block.line_at(pair.start as usize);
            let what = format!(
                "a collective at {} GB/s over pairs that reach {} GB/s: one of them did not see \
                 the link",
                figure(value),
                figure(most)
            );
            let finding = Finding::new(&document.name, line, "link-collective", what)
                .shown(format!("{} / {} = {:.3}", figure(value), figure(most), value / most))
                .value("collective", rate.value)
                .value("pair", pair.value);
            found.push(finding.beside(&document.name, from));
        }
    }
}

/// True if one of the words stands with the rate: in its clause, between the commas around it.
fn nearest(block: &Block, rate: &Quantity, words: &[&str]) -> bool {
    let ends = ['\n', ';', ',', '('];
    let before = block.before(rate.start);
    let after = block.after(rate.end);
    let from = rate.start as usize - before.len() + before.rfind(ends).map_or(0, |at| at + 1);
    let to = rate.end as usize + after.find(ends).unwrap_or(after.len());
    words::any(&block.text[from..to], words)
}
