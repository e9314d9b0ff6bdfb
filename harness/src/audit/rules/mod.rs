//! The rules, in the order in which the documentation lists them. No rule knows a document.

mod commands;
mod experiments;
mod files;
mod notes;
mod peaks;
mod percent;
mod status;
mod tables;
mod tasks;
mod units;
mod wording;

use super::binding::{self, Bound};
use super::document::Document;
use super::finding::Finding;
use super::sidecar::Sidecar;
use super::tree::Tree;

/// What the rules see.
pub(crate) struct Context<'a> {
    /// The documents, each with what stands beside it.
    pub documents: &'a [Document],
    /// One for each document.
    pub sidecars: &'a [Sidecar],
    /// The files that documents may cite.
    pub tree: &'a Tree,
    /// Numbers that comments bind to evidence.
    pub bound: &'a [Bound],
}

/// A rule.
pub struct Rule {
    /// Its name in findings and in SARIF.
    pub id: &'static str,
    /// What it wants, as a sentence.
    pub wants: &'static str,
    pub(crate) check: fn(&Context, &mut Vec<Finding>),
}

const fn rule(
    id: &'static str,
    wants: &'static str,
    check: fn(&Context, &mut Vec<Finding>),
) -> Rule {
    Rule { id, wants, check }
}

/// Every rule.
pub static RULES: &[Rule] = &[
    rule(
        "table-throughput",
        "A throughput is what a pass processes over its latency: batch x sequence / time.",
        tables::throughput,
    ),
    rule(
        "table-speedup",
        "A speedup is the quotient of the two columns beside it.",
        tables::speedup,
    ),
    rule(
        "table-change",
        "A change in percent follows from the two columns beside it.",
        tables::change,
    ),
    rule(
        "table-baseline",
        "The baseline of one workload is the same in every table, within 5 %.",
        tables::baseline,
    ),
    rule(
        "table-listed",
        "A table holds only workloads that the configuration lists.",
        tables::listed,
    ),
    rule("note-table", "A note agrees with the cells that its document binds it to.", notes::check),
    rule("percent-change", "A percentage beside two values is their change.", percent::change),
    rule("percent-base", "A percentage of error names its base.", percent::base),
    rule("percent-sum", "Shares of one whole do not add up to more than 100 %.", percent::sum),
    rule(
        "peak-exceeded",
        "Nothing is beyond what the named GPU can physically do.",
        peaks::exceeded,
    ),
    rule("peak-share", "A share of the theoretical peak is measured / peak.", peaks::share),
    rule(
        "peak-memory-bound",
        "What is called memory-bound moves its memory at a rate near the peak.",
        peaks::memory_bound,
    ),
    rule(
        "link-collective",
        "A collective is not faster than the fastest link of the same document.",
        peaks::collective,
    ),
    rule(
        "unit-collective",
        "The bandwidth of a collective says algbw or busbw.",
        units::collective,
    ),
    rule(
        "unit-direction",
        "The rate of a lane or link says in which direction it counts.",
        units::direction,
    ),
    rule("unit-flops", "A rate of arithmetic says of which computation.", units::flops),
    rule("unit-binary", "One size is not printed in GB here and in GiB there.", units::binary),
    rule(
        "zero-printed",
        "A deviation of zero is not proved by decimals: bits are, or a count.",
        units::zero,
    ),
    rule("file-missing", "A cited file exists.", files::missing),
    rule(
        "time-stamp",
        "A time stamp in a name says whether a run began or ended then.",
        wording::stamp,
    ),
    rule(
        "status-section",
        "An entry's status agrees with the section that it stands in.",
        status::section,
    ),
    rule("status-documents", "Two documents give one thing one status.", status::documents),
    rule("experiment-states", "One experiment has one state.", experiments::states),
    rule("experiment-twice", "One result stands once.", experiments::twice),
    rule(
        "experiment-baseline",
        "A judged experiment names its baseline's number.",
        experiments::baseline,
    ),
    rule(
        "experiment-noise",
        "A difference below 2 % comes with its spread or its repeats.",
        experiments::noise,
    ),
    rule("experiment-cold", "A figure is of a warm run, and of more than one.", experiments::cold),
    rule("power-states", "A baseline of power is of GPUs in one state.", wording::power),
    rule(
        "command-precision",
        "A command sets the precision that its section's title promises.",
        commands::precision,
    ),
    rule(
        "command-lists",
        "Lists of one command pair up, or every combination makes sense.",
        commands::lists,
    ),
    rule(
        "command-advice",
        "A command does not use what the documents advise against.",
        commands::advice,
    ),
    rule("command-output", "A command writes where the introduction says.", commands::output),
    rule("term-excluded", "A term is not used for what it excludes.", wording::terms),
    rule("cause-failing", "What fails to load is not credited with a gain.", wording::cause),
    rule(
        "evidence-missing",
        "A number that a comment binds to a claim has recorded evidence.",
        binding::missing,
    ),
    rule(
        "evidence-stale",
        "A bound number is what the newest recorded evidence rounds to.",
        binding::stale,
    ),
    rule(
        "evidence-drift",
        "A bound number is within 5 % of the newest recorded evidence.",
        binding::drift,
    ),
];
