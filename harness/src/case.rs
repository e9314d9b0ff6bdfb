//! A case: a procedure that measures, with its controls. Several claims may read one case.

use crate::evidence::Tier;
use crate::record::{Assignment, Recorder, Stop};

/// A procedure with a revision. Lives as a `static` in its suite.
#[derive(Debug)]
pub struct Case {
    /// `suite::kebab-name`.
    pub id: &'static str,
    /// Raised whenever the procedure changes what its numbers mean; older evidence is then stale.
    pub revision: u32,
    /// The oldest revision whose healthy figures mean what today's mean; later ones changed only the
    /// controls or the checks. A golden may come from these runs, a tick from today's revision alone.
    pub figures_since: u32,
    /// Over which GPUs one child runs.
    pub scope: Scope,
    /// Fewest GPUs with which it says something.
    pub min_gpus: u32,
    /// The lowest tier that runs it.
    pub tier: Tier,
    /// It raises Xids or ends processes on purpose: run only under `--self-test`, never in a default tier.
    pub self_test_only: bool,
    /// What is done, in prose, for `explain` and the checklists.
    pub procedure: &'static str,
    /// Fewest samples of a sampled metric that a first attempt takes, 0 where there is none; a second takes twice
    /// as many.
    pub samples: usize,
    /// Wall time of one child that is expected, by which progress is foretold.
    pub expected_s: f64,
    /// Wall time after which the child is ended as hung.
    pub deadline_s: f64,
    /// Names of the kernel sources whose digests the evidence must carry.
    pub kernels: &'static [&'static str],
    /// Exact metrics that must be there and zero before any number of the case counts.
    pub integrity: &'static [&'static str],
    /// The faults that are planted in every run of the case.
    pub controls: &'static [Control],
    /// Measures. Returns numbers; compares nothing with a limit.
    pub run: fn(&Assignment, &mut Recorder) -> Result<(), Stop>,
}

/// Over which GPUs one child of a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// No GPU.
    Host,
    /// One child for each GPU, side by side with other GPUs' children.
    EachGpu,
    /// One child with one of the selected GPUs, side by side with other GPUs' children: long cases whose claims
    /// are of the kind of board and of the software, while shorter cases watch every GPU.
    OneGpu,
    /// One child with all selected GPUs, alone on the node: it times something shared.
    Node,
}

/// The case with a planted fault. A crash does not count as caught.
#[derive(Debug)]
pub struct Control {
    /// Short name, for example `sixteen-sms`.
    pub name: &'static str,
    /// The fault in words.
    pub fault: &'static str,
    /// The metric that must trip, of a claim of the case or among its integrity metrics.
    pub trips: &'static str,
    /// The verdict it must get.
    pub expect: Expect,
}

/// A control from its four parts.
pub const fn control(
    name: &'static str,
    fault: &'static str,
    trips: &'static str,
    expect: Expect,
) -> Control {
    Control { name, fault, trips, expect }
}

/// The verdict that a planted fault must get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The documented bound is contradicted: a gross fault.
    Refuted,
    /// The board's own golden is missed: a fault near the bound. Judged only where a golden is.
    Regressed,
    /// An integrity metric is not zero.
    Corrupt,
    /// The value is beyond physics.
    Broken,
}
