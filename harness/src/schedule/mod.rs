//! Runs the planned cases over the GPUs of the node, each in a child of its own.
//!
//! - A GPU works through its cases in the order of the plan; no case waits for another GPU.
//! - A node case runs alone; a host case runs beside anything but a node case, one at a time.
//! - After a failure the GPU is probed before its next case; if the probe fails it is quarantined.
//! - A child that is not expected to end within the run's time limit is not begun: its case is not run.
//! - Every planned case is delivered exactly once, whatever happens to it.

mod foretell;
mod queue;
mod rules;
mod runner;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use foretell::{Left, remaining_s};
pub(crate) use rules::{longest_first, time_limit_of};

use crate::case::Case;
use crate::evidence::{Part, Tier};
use crate::interrupt::Interrupt;
use crate::node::{Node, NodeGpu};

/// A case and the GPUs it is to run on.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The case.
    pub case: &'static Case,
    /// Its GPUs: one child for each, or one with all of them, as its scope says. None for a host
    /// case.
    pub gpus: Vec<NodeGpu>,
}

/// What all children of a run share.
pub struct Settings {
    /// Program and first arguments of a child; its assignment's file becomes the last argument.
    pub command: Vec<OsString>,
    /// The run's folder. Assignments and results lie in `work/` below it, which is removed.
    pub folder: PathBuf,
    /// The folder that holds golden/, fixtures/ and checklists/.
    pub root: PathBuf,
    /// Where cubins are cached.
    pub cache: PathBuf,
    /// Tier of the run.
    pub tier: Tier,
    /// All random data derive from it.
    pub seed: u64,
    /// Plant faults that raise an Xid.
    pub self_test: bool,
    /// Variables of every child, besides the inherited ones and [`Node::child_environment`].
    pub environment: BTreeMap<String, String>,
    /// Folders that may not appear in evidence, and what stands for them. The host's name and the
    /// GPUs' UUIDs are always replaced.
    pub redactions: Vec<(PathBuf, String)>,
    /// The command that runs a case alone again on the GPUs.
    pub repro: Box<Repro>,
    /// Wall time of the run in which every case is expected to end that begins; the others are not run.
    pub time_limit: Option<Duration>,
    /// Of it, by case, what is kept for cases behind that one; nothing for the others.
    pub kept: BTreeMap<&'static str, Duration>,
}

/// From a case id and GPUs to the command that runs that case alone again.
pub type Repro = dyn Fn(&str, &[u32]) -> String + Send + Sync;

/// What happens in a run, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// The first child of a case is about to start.
    CaseStarted {
        /// The case.
        case: &'static Case,
    },
    /// A child was started.
    PartStarted {
        /// The case.
        case: &'static Case,
        /// Its GPUs.
        gpus: Vec<u32>,
        /// 1 or 2.
        attempt: u32,
    },
    /// A child, or a probe, reported a new stage.
    Progress {
        /// The case.
        case: &'static Case,
        /// Its GPUs.
        gpus: Vec<u32>,
        /// The stage, unredacted.
        stage: String,
    },
    /// A child that was started has ended.
    PartEnded {
        /// The case.
        case: &'static Case,
        /// Its GPUs.
        gpus: Vec<u32>,
        /// 1 or 2.
        attempt: u32,
        /// See [`crate::child::word`].
        outcome: &'static str,
        /// Its wall time.
        wall_s: f64,
    },
    /// A case is over: comes exactly once for every planned case.
    CaseEnded {
        /// The case.
        case: &'static Case,
        /// Its parts of both attempts, by attempt and then by GPU; never empty.
        parts: Vec<Part>,
    },
    /// A GPU is probed because a case failed on it.
    Probing {
        /// The GPU.
        gpu: u32,
    },
    /// A GPU gets no more cases.
    Quarantined {
        /// The GPU.
        gpu: u32,
        /// Why, redacted.
        why: String,
    },
    /// About once a second: wall time until the end, from what is not done yet.
    Foretold {
        /// See [`remaining_s`].
        remaining_s: f64,
    },
}

/// Runs the plan on the calling thread, with which all children die: it must live as long as the
/// run. `cases` holds the probe case beside the planned ones. `again` is asked once for each case
/// whose first attempt completed on all its GPUs; true measures it a second time.
pub fn run(
    node: &dyn Node,
    cases: &[&'static Case],
    planned: Vec<Planned>,
    settings: &Settings,
    again: &mut dyn FnMut(&'static Case, &[Part]) -> bool,
    events: &mut dyn FnMut(Event),
    interrupt: &Interrupt,
) {
    runner::Runner::new(node, cases, planned, settings, again, events).run(interrupt);
}
