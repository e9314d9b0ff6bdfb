//! What a case is given and where it puts its numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::evidence::{
    ControlEvidence, Device, KernelUse, Metric, MetricKind, Mode, Telemetry, Tier,
};

/// What a child is given: written by the parent as a file, read by the child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Case id.
    pub case: String,
    /// Tier of the run.
    pub tier: Tier,
    /// 1, or 2 with a doubled budget after a bound was straddled.
    pub attempt: u32,
    /// The GPUs, in order; the child sees exactly these, as ordinals 0, 1, ...
    pub devices: Vec<Assigned>,
    /// Fresh for every run; all random data derive from it.
    pub seed: u64,
    /// Plant faults that raise an Xid.
    pub self_test: bool,
    /// Where cubins are cached.
    pub cache: PathBuf,
    /// The folder that holds golden/, fixtures/ and checklists/.
    pub root: PathBuf,
    /// Where the result goes.
    pub result: PathBuf,
}

/// A GPU as it is handed to a child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assigned {
    /// Its UUID, for NVML. Never written into evidence.
    pub uuid: String,
    /// What evidence says of it.
    pub device: Device,
}

impl Assignment {
    /// Node indices of the GPUs, in order of the child's ordinals.
    pub fn gpus(&self) -> Vec<u32> {
        self.devices.iter().map(|assigned| assigned.device.gpu).collect()
    }

    /// Number of samples for a sampled metric: `quick` in the quick tier, doubled in a second
    /// attempt.
    pub fn samples(&self, quick: usize) -> usize {
        quick * self.attempt as usize
    }
}

/// Why a case stops early.
#[derive(Debug)]
pub enum Stop {
    /// It cannot run here: becomes not-run.
    NotRun(String),
    /// This board cannot have it: becomes not-applicable.
    NotApplicable(String),
    /// It failed: becomes broken.
    Error(String),
}

impl Stop {
    /// The reason alone.
    pub fn why(self) -> String {
        match self {
            Stop::NotRun(why) | Stop::NotApplicable(why) | Stop::Error(why) => why,
        }
    }
}

impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Error(error.to_string())
    }
}

/// Collects what a case measures. It holds no bound and compares nothing.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorder {
    /// See [`crate::evidence::Part`].
    pub options: BTreeMap<String, String>,
    /// Versions of what was loaded.
    pub versions: BTreeMap<String, String>,
    /// Modes asked for and active.
    pub modes: Vec<Mode>,
    /// The kernels that ran.
    pub kernels: Vec<KernelUse>,
    /// Measured series.
    pub metrics: Vec<Metric>,
    /// Measured series under each planted fault.
    pub controls: Vec<ControlEvidence>,
    /// Telemetry by GPU.
    pub telemetry: Vec<Telemetry>,
}

/// Where a metric was taken, as a case writes it.
pub type At<'a> = &'a [(&'a str, &'a str)];

impl Recorder {
    /// Adds a series of the healthy case.
    pub fn metric(&mut self, metric: Metric) {
        self.metrics.push(metric);
    }

    /// Adds a series of the case under the planted fault `control`.
    pub fn control(&mut self, control: &str, metric: Metric) {
        match self.controls.iter_mut().find(|entry| entry.name == control) {
            Some(entry) => entry.metrics.push(metric),
            None => self
                .controls
                .push(ControlEvidence { name: control.to_owned(), metrics: vec![metric] }),
        }
    }

    /// Writes down something that can change a bit or a rate.
    pub fn option(&mut self, name: &str, value: impl ToString) {
        self.options.insert(name.to_owned(), value.to_string());
    }

    /// Writes down a mode that was asked for and the one that was active.
    pub fn mode(&mut self, what: &str, asked: &str, active: &str) {
        self.modes.push(Mode { what: what.into(), asked: asked.into(), active: active.into() });
    }

    /// Tells the parent, and whoever reads the log, what is being done now.
    pub fn progress(&self, stage: &str) {
        println!("{PROGRESS}{stage}");
    }
}

/// Lines of a child's log that begin so are its progress.
pub const PROGRESS: &str = "::progress ";

impl Metric {
    /// A distribution: its median counts, with its interval.
    pub fn sampled(name: &str, at: At, gpus: &[u32], values: Vec<f64>) -> Metric {
        Metric::new(name, at, gpus, MetricKind::Sampled, values)
    }

    /// A count or a state: every value counts.
    pub fn exact(name: &str, at: At, gpus: &[u32], value: f64) -> Metric {
        Metric::new(name, at, gpus, MetricKind::Exact, vec![value])
    }

    /// Several counts or states of one kind, which another GPU may find just so: each value counts.
    pub fn exact_each(name: &str, at: At, gpus: &[u32], values: Vec<f64>) -> Metric {
        Metric::new(name, at, gpus, MetricKind::Exact, values)
    }

    fn new(name: &str, at: At, gpus: &[u32], kind: MetricKind, values: Vec<f64>) -> Metric {
        let at = at.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Metric { name: name.into(), at, gpus: gpus.to_vec(), kind, values }
    }
}
