//! Figures, durations and energies of a run, computed from its samples: what is sealed, and what a
//! verification holds the seal against.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::Timeline;
use crate::claim::{Claim, GpuCount, Relation};
use crate::evidence::{Evidence, Telemetry};
use crate::golden::Goldens;
use crate::judge::{self, Judgement};
use crate::recorded::{self, FinishedRun, FoundEvidence};
use crate::report;
use crate::world::World;

/// A claim's figure as its samples give it. No bound decides any part of it but the verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Measurement {
    pub metric: String,
    pub unit: String,
    /// The worst of the series: the least where more is better, else the most.
    pub value: f64,
    /// Interval of the median, 95 %; for an exact metric its least and most.
    pub interval: [f64; 2],
    /// The GPU or pair of the worst series; empty for the node.
    pub gpus: Vec<u32>,
    pub verdict: String,
    /// Every series, so that none can be picked.
    pub series: Vec<Series>,
}

/// A series: one GPU, one pair, or the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Series {
    pub gpus: Vec<u32>,
    pub value: f64,
    pub interval: [f64; 2],
}

/// What a run's evidence gives.
#[derive(Debug, Default)]
pub(super) struct Recomputed {
    /// Figures by claim.
    pub measurements: BTreeMap<String, Measurement>,
    /// Why a claim of a case of the run has no figure.
    pub unfit: BTreeMap<String, String>,
    /// Wall time of each case: that of its longest child.
    pub durations_s: BTreeMap<String, f64>,
    /// Energy of each case by the GPUs' counters, summed over its children, where the boards have one.
    pub energies_j: BTreeMap<String, f64>,
    /// Where manifest and evidence contradict each other or themselves, each with its file.
    pub contradictions: Vec<String>,
}

impl Recomputed {
    /// Reads each evidence file of the run once. What a reader refuses contradicts the manifest, by
    /// its digest or by what it holds.
    pub fn of(
        world: &World,
        finished: &FinishedRun,
        (judged, goldens): (&[Judgement], &Goldens),
    ) -> Recomputed {
        let mut all = Recomputed::default();
        let mut timeline = Timeline::of(&finished.run);
        let mut refused = Vec::new();
        for entry in &finished.run.cases {
            let evidence = match recorded::read(finished, &entry.case) {
                FoundEvidence::Evidence(evidence, _) => evidence,
                FoundEvidence::Unreadable(why) | FoundEvidence::Nothing(why) => {
                    let readers = judged.iter().filter(|judged| judged.claim.case == entry.case);
                    let claims = readers.map(|judged| judged.claim.id.to_owned());
                    all.unfit.extend(claims.map(|claim| (claim, why.clone())));
                    refused.push(why);
                    continue;
                }
            };
            timeline.add(entry, &evidence);
            all.add(world, &evidence, (judged, goldens));
        }
        refused.extend(timeline.end(finished.manifest()));
        all.contradictions = refused;
        all
    }

    fn add(
        &mut self,
        world: &World,
        evidence: &Evidence,
        (judged, goldens): (&[Judgement], &Goldens),
    ) {
        let wall_s = evidence.parts.iter().map(|part| part.wall_s).fold(0.0, f64::max);
        self.durations_s.insert(evidence.case.clone(), wall_s);
        let telemetry = evidence.parts.iter().flat_map(|part| &part.telemetry);
        let energies: Vec<f64> = telemetry.filter_map(|one| one.energy_j).collect();
        if !energies.is_empty() {
            self.energies_j.insert(evidence.case.clone(), energies.iter().sum());
        }
        let calm = calm(evidence);
        // What needs no GPU is about the machine that judges, not about the run.
        let own = |judgement: &&Judgement| {
            judgement.claim.case == evidence.case && judgement.claim.gpus != GpuCount::Host
        };
        for judgement in judged.iter().filter(own) {
            let id = judgement.claim.id.to_owned();
            match measurement((world, goldens), judgement, &calm) {
                Ok(found) => drop(self.measurements.insert(id, found)),
                Err(why) => drop(self.unfit.insert(id, why)),
            }
        }
    }
}

/// Evidence without what disturbed it: that decides a verdict, and not what the samples give.
fn calm(evidence: &Evidence) -> Evidence {
    let mut calm = evidence.clone();
    calm.shared = false;
    for part in &mut calm.parts {
        part.telemetry = part.devices.iter().map(|device| Telemetry::quiet(device.gpu)).collect();
    }
    calm
}

fn measurement(
    (world, goldens): (&World, &Goldens),
    judgement: &Judgement,
    evidence: &Evidence,
) -> Result<Measurement, String> {
    let claim = judgement.claim;
    let promise = goldens.documented.claims.get(claim.id);
    let known = |digest: &String| claim.sentence_of(promise, digest).is_some();
    if !evidence.claims.get(claim.id).is_some_and(known) {
        return Err("the claim was reworded or added after its evidence".to_owned());
    }
    let found = judge::measured(claim, world.case_of(claim)?, evidence);
    let series: Vec<Series> = found
        .map_err(|unfit| unfit.to_string())?
        .into_iter()
        .map(|m| Series { gpus: m.gpus, value: m.value, interval: [m.interval.0, m.interval.1] })
        .collect();
    let finite = |series: &Series| {
        [series.value, series.interval[0], series.interval[1]].iter().all(|value| value.is_finite())
    };
    let worst = worst(claim, &series).filter(|_| series.iter().all(finite));
    let worst = worst.ok_or_else(|| format!("{} is no number", claim.figure()))?.clone();
    Ok(Measurement {
        metric: claim.figure().to_owned(),
        unit: claim.unit().to_owned(),
        value: worst.value,
        interval: worst.interval,
        gpus: worst.gpus,
        verdict: report::word(judgement.verdict).to_owned(),
        series,
    })
}

fn worst<'a>(claim: &Claim, series: &'a [Series]) -> Option<&'a Series> {
    let by_value = |a: &&Series, b: &&Series| a.value.total_cmp(&b.value);
    match claim.relation {
        Relation::AtLeast => series.iter().min_by(by_value),
        _ => series.iter().max_by(by_value),
    }
}
