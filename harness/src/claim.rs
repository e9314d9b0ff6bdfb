//! A claim: one documented sentence that a machine passes or fails.

use crate::digest;
use crate::golden::Promise;

/// One documented sentence as data. Lives as a `static` in its suite.
#[derive(Debug)]
pub struct Claim {
    /// `suite::kebab-name`; with its GPU count where the sentence has one: `...-n8`.
    pub id: &'static str,
    /// The sentence in its portable form.
    pub text: &'static str,
    /// Where it was printed, and for which hardware.
    pub source: Source,
    /// How the metric relates to the bound.
    pub relation: Relation,
    /// Id of the case that measures it.
    pub case: &'static str,
    /// Name of the metric that is judged, unit last.
    pub metric: &'static str,
    /// The place where the metric was taken: every pair must be among the metric's `at`.
    pub at: &'static [(&'static str, &'static str)],
    /// What the worst of several series means.
    pub reduce: Reduce,
    /// Name of the board's physical peak above which a value is broken, not good.
    pub ceiling: Option<&'static str>,
    /// GPUs without which the sentence says nothing.
    pub gpus: GpuCount,
    /// Whether it is an ordinary claim or the record of a false one.
    pub kind: Kind,
}

/// Where a sentence stands.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// File name of the document, or `touchstone` for a sentence of our own.
    pub document: &'static str,
    /// Section of the document.
    pub section: &'static str,
    /// What it printed.
    pub printed: &'static str,
    /// The hardware it was printed for; empty where it holds for any.
    pub board: &'static str,
}

/// How a metric relates to its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The worst median must reach the bound.
    AtLeast,
    /// The worst median must stay under the bound.
    AtMost,
    /// Every value equals the documented one.
    Equal,
    /// The metric counts violations: every value is zero.
    Holds,
}

/// What several series (GPUs, pairs) of one metric come down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Each series is judged; the worst decides.
    Worst,
    /// `(max - min) / median` over the series' medians, in percent. Needs two series.
    SpreadPercent,
}

/// GPUs that a claim needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuCount {
    /// None: it runs on any machine.
    Host,
    /// This many or more.
    AtLeast(u32),
    /// Exactly this many; the id ends in `-n<k>`.
    Exactly(u32),
}

/// Ordinary claim, or the record of a claim that is false.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Gets a checkbox.
    Claim,
    /// Named for what it is (`...-is-false`), stands without a checkbox, and is green while the
    /// refutation stands.
    FalseRecord,
}

/// The suite of a claim or a case: the part of its id before `::`.
pub(crate) fn suite_of(id: &str) -> &str {
    id.split_once("::").map_or(id, |(suite, _)| suite)
}

impl Claim {
    /// The suite: the part of the id before `::`.
    pub fn suite(&self) -> &'static str {
        suite_of(self.id)
    }

    /// The sentence whose digest this is: today's, or an earlier one that the promise keeps; none of any other.
    pub fn sentence_of<'a>(
        &'a self,
        promise: Option<&'a Promise>,
        digest: &str,
    ) -> Option<&'a str> {
        let earlier = promise.into_iter().flat_map(|promise| &promise.was).map(String::as_str);
        std::iter::once(self.text).chain(earlier).find(|text| self.digest_as(text) == digest)
    }

    /// SHA-256 over everything that gives the claim its meaning. Evidence that was taken for another text is stale,
    /// unless that text is known to have promised no less ([`crate::golden::Promise::was`]).
    pub fn digest(&self) -> String {
        self.digest_as(self.text)
    }

    /// The digest with another sentence.
    pub fn digest_as(&self, text: &str) -> String {
        let at: Vec<String> = self.at.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let meaning = format!(
            "{}\n{}\n{:?}\n{}\n{}\n{}\n{:?}\n{:?}",
            self.id,
            text,
            self.relation,
            self.case,
            self.metric,
            at.join(","),
            self.reduce,
            self.gpus
        );
        digest::sha256_hex(meaning.as_bytes())
    }

    /// The name under which goldens hold its figure, unit last.
    pub fn figure(&self) -> &'static str {
        match self.reduce {
            Reduce::Worst => self.metric,
            Reduce::SpreadPercent => "spread_percent",
        }
    }

    /// The unit of that figure.
    pub fn unit(&self) -> &'static str {
        unit_of(self.figure())
    }
}

/// Units by the suffix of a metric's name. GB is 1e9 bytes, GiB is 2^30.
const UNITS: &[(&str, &str)] = &[
    ("_gbps", "GB/s"),
    ("_tflops", "TFLOP/s"),
    ("_tops", "TOP/s"),
    ("_mbps", "MB/s"),
    ("_mib", "MiB"),
    ("_gib", "GiB"),
    ("_bytes", "B"),
    ("_us", "us"),
    ("_ms", "ms"),
    ("_s", "s"),
    ("_w", "W"),
    ("_j", "J"),
    ("_c", "C"),
    ("_mhz", "MHz"),
    ("_percent", "%"),
    ("_pp", "pp"),
    ("_ratio", "x"),
    ("_count", ""),
    ("_ulp", "ulp"),
    ("_nats", "nats"),
];

/// The unit of a metric name; empty for counts. `None` is spelled `"?"` and refused by the lint.
pub fn unit_of(metric: &str) -> &'static str {
    UNITS.iter().find(|(suffix, _)| metric.ends_with(suffix)).map_or("?", |(_, unit)| unit)
}
