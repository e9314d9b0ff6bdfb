//! Evidence: what one case measured in one run. Frozen as schema 1; it never contains a golden.
//!
//! Written redacted from the start: no host name, serial number or absolute path; UUIDs are hashed.

mod busbw;
mod check;
pub(crate) mod copies;
mod unique;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::claim::Claim;

pub(crate) use unique::unique;

/// The schema that this build writes.
pub const SCHEMA: u32 = 1;

/// A committed evidence file may not be larger: eight GPUs with two attempts fit.
pub const MAX_BYTES: usize = 128 * 1024;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Short measurements of everything: the default.
    Quick,
    /// Sustained rates and rivals besides.
    Full,
    /// Hours.
    Soak,
}

/// One JSON file per case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Case id.
    pub case: String,
    /// Revision of the case's procedure.
    pub revision: u32,
    /// Id of the run it belongs to.
    pub run: String,
    /// Number of GPUs that the run was given.
    pub gpus: u32,
    /// Tier of the run.
    pub tier: Tier,
    /// PCI device id of the GPUs, four hex digits; empty for host cases.
    pub pci_device_id: String,
    /// Other processes used the GPUs and the operator measured all the same.
    pub shared: bool,
    /// Digest of each claim that reads this case, as the claim stood when this was measured.
    #[serde(deserialize_with = "unique")]
    pub claims: BTreeMap<String, String>,
    /// What each child brought, in order of GPU and attempt.
    pub parts: Vec<Part>,
}

/// What one child brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// 1, or 2 after a bound was straddled.
    pub attempt: u32,
    /// The GPUs it was given; empty for host cases.
    pub devices: Vec<Device>,
    /// UTC, RFC 3339.
    pub started: String,
    /// Wall time of the child in seconds, as its parent saw it.
    pub wall_s: f64,
    /// How it ended.
    pub outcome: Outcome,
    /// Everything that can change a bit or a rate: seeds, sizes, algorithms, flags.
    #[serde(deserialize_with = "unique")]
    pub options: BTreeMap<String, String>,
    /// Versions of what was loaded, by name.
    #[serde(deserialize_with = "unique")]
    pub versions: BTreeMap<String, String>,
    /// Modes asked for and active.
    pub modes: Vec<Mode>,
    /// The kernels that ran.
    pub kernels: Vec<KernelUse>,
    /// All raw samples.
    pub metrics: Vec<Metric>,
    /// The case with each planted fault.
    pub controls: Vec<ControlEvidence>,
    /// Power, clocks, temperature, throttle reasons and error counters.
    pub telemetry: Vec<Telemetry>,
    /// Critical Xids seen on its GPUs while it ran.
    pub xids: Vec<u64>,
    /// The last stage that it reported.
    pub progress: String,
    /// End of its log; empty unless it failed.
    pub log_tail: String,
}

/// A GPU, without anything that names the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Index on the node, by PCI bus.
    pub gpu: u32,
    /// SHA-256 of the UUID.
    pub uuid_sha256: String,
    /// Product name.
    pub name: String,
    /// Four hex digits.
    pub pci_device_id: String,
    /// For example `9.0`.
    pub compute_capability: String,
    /// Total memory.
    pub memory_bytes: u64,
    /// Enforced power limit.
    pub power_limit_w: f64,
    /// Maximum SM clock.
    pub sm_clock_max_mhz: u32,
    /// Maximum memory clock.
    pub memory_clock_max_mhz: u32,
    /// Width of the memory bus.
    pub memory_bus_bits: u32,
    /// ECC enabled, where the board says.
    pub ecc: Option<bool>,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// It measured everything.
    Completed,
    /// It cannot run here, for example a library is missing.
    NotRun(String),
    /// This board cannot have it.
    NotApplicable(String),
    /// It ended without its numbers.
    Failed(Failure),
}

/// A child that ended without its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The kind of end.
    pub how: How,
    /// What happened, in words, with numbers.
    pub detail: String,
    /// A command that runs this case alone again.
    pub repro: String,
}

/// Kinds of a bad end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The procedure reported an error.
    Error,
    /// Ended by a signal of its own making, or a non-zero exit.
    Crash,
    /// Passed its deadline and was ended.
    Hang,
    /// Ended by somebody else's signal, for example the OOM killer.
    Killed,
    /// Ended well but left no readable result.
    NoResult,
    /// Could not be started.
    NotStarted,
    /// The operator interrupted the run.
    Interrupted,
    /// Its GPU was quarantined after an earlier case.
    Quarantined,
}

/// A mode that was asked for and the one that was active. A silent fallback is broken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mode {
    /// For example `dtype`.
    pub what: String,
    /// What the claim is about.
    pub asked: String,
    /// What ran.
    pub active: String,
}

/// A kernel source as it was compiled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelUse {
    /// Name of the source.
    pub name: String,
    /// For example `sm_90a`.
    pub architecture: String,
    /// Compiler and version.
    pub compiler: String,
    /// Over source and options: what the author wrote.
    pub source_sha256: String,
    /// Over the machine code: what ran.
    pub cubin_sha256: String,
}

/// Exact values are counts and states; sampled ones are distributions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// Every value counts.
    Exact,
    /// The median counts, with its interval.
    Sampled,
}

/// A named series of numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Unit last: `read_gbps`.
    pub name: String,
    /// Where it was taken: bytes, m_n_k, dtype, tokens, n.
    #[serde(deserialize_with = "unique")]
    pub at: BTreeMap<String, String>,
    /// None for the node; one GPU; or source and destination of a pair.
    pub gpus: Vec<u32>,
    /// Exact or sampled.
    pub kind: MetricKind,
    /// All raw samples, in order.
    pub values: Vec<f64>,
}

/// The case with a planted fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlEvidence {
    /// Name of the control.
    pub name: String,
    /// What was measured under the fault.
    pub metrics: Vec<Metric>,
}

/// Telemetry of one GPU while a child ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The GPU.
    pub gpu: u32,
    /// Number of samples.
    pub samples: u32,
    /// Power over the samples: least, mean, most.
    pub power_w: [f64; 3],
    /// SM clock: least, mean, most.
    pub sm_clock_mhz: [f64; 3],
    /// Memory clock: least, mean, most.
    pub memory_clock_mhz: [f64; 3],
    /// GPU temperature, most.
    pub temperature_c_max: f64,
    /// Energy by the counter, where the board has one.
    pub energy_j: Option<f64>,
    /// Share of samples in which each throttle reason was active, in percent.
    #[serde(deserialize_with = "unique")]
    pub throttle_percent: BTreeMap<String, f64>,
    /// Error counters that moved: name, before, after.
    #[serde(deserialize_with = "unique")]
    pub counters_moved: BTreeMap<String, [u64; 2]>,
}

impl Telemetry {
    /// A GPU that nothing disturbed, for synthetic evidence.
    pub fn quiet(gpu: u32) -> Telemetry {
        Telemetry {
            gpu,
            samples: 10,
            power_w: [100.0; 3],
            sm_clock_mhz: [1980.0; 3],
            memory_clock_mhz: [3201.0; 3],
            temperature_c_max: 50.0,
            energy_j: None,
            throttle_percent: BTreeMap::new(),
            counters_moved: BTreeMap::new(),
        }
    }
}

/// Reads evidence; every mistake is one error that says what is wrong.
pub fn parse(text: &str) -> Result<Evidence, String> {
    #[derive(Deserialize)]
    struct Lead {
        schema: u32,
    }
    if text.len() > MAX_BYTES {
        return Err(format!("{} bytes of evidence exceed {MAX_BYTES}", text.len()));
    }
    let other = |schema: u32| format!("schema {schema} is not {SCHEMA}");
    // Evidence of another schema may not parse as this one: then its schema is what is wrong with it.
    let evidence: Evidence =
        serde_json::from_str(text).map_err(|error| match serde_json::from_str::<Lead>(text) {
            Err(error) => format!("not evidence: {error}"),
            Ok(lead) if lead.schema != SCHEMA => other(lead.schema),
            Ok(_) => error.to_string(),
        })?;
    if evidence.schema != SCHEMA {
        return Err(other(evidence.schema));
    }
    evidence.check()?;
    Ok(evidence)
}

/// Writes evidence as the bytes that are digested: one line of JSON and its newline.
pub fn render(evidence: &Evidence) -> Result<String, String> {
    evidence.check()?;
    let mut text = serde_json::to_string(evidence).map_err(|e| e.to_string())?;
    text.push('\n');
    if text.len() > MAX_BYTES {
        return Err(format!("{} bytes of evidence exceed {MAX_BYTES}", text.len()));
    }
    Ok(text)
}

impl Metric {
    /// True if every pair of `at` is among the metric's own.
    pub fn is_at(&self, at: &[(&str, &str)]) -> bool {
        at.iter().all(|(key, value)| self.at.get(*key).is_some_and(|own| own == value))
    }

    /// True if a claim judges it.
    pub fn is_of(&self, claim: &Claim) -> bool {
        self.name == claim.metric && self.is_at(claim.at)
    }
}
