//! Claims that bound one metric from both sides.

use super::World;
use crate::case::{Case, Control, Expect};
use crate::claim::{Claim, Reduce, Relation};
use crate::evidence::Metric;
use crate::recorded::{self, FoundEvidence};

/// Controls that no two claims can hold. A control is held against every claim that reads its metric where it was
/// planted, and must miss each one's bound. What is below a least is not above a most: of two such claims one is
/// broken in every run, whatever else is planted. The sides want a metric each, with a control of its own. A
/// spread is none of these, for a fault either way widens it; and a value of its own is missed on either side.
pub(super) fn controls(world: &World, findings: &mut Vec<String>) {
    for case in world.cases {
        for control in case.controls {
            let held = held_against(world, case, control);
            let wants = |relation| held.iter().filter(move |claim| claim.relation == relation);
            for least in wants(Relation::AtLeast) {
                for most in wants(Relation::AtMost) {
                    if both_bounded(world, control, [least, most])
                        && meet(world, case, control, [least, most])
                    {
                        findings.push(format!(
                            "{}: control {} cannot contradict both {}, which wants at least, and {}, \
                             which wants at most, of one {}",
                            case.id, control.name, least.id, most.id, control.trips
                        ));
                    }
                }
            }
        }
    }
}

/// Claims of the case whose own series the control's are held against.
fn held_against(world: &World, case: &Case, control: &Control) -> Vec<&'static Claim> {
    let reads = |claim: &&&'static Claim| {
        claim.case == case.id
            && claim.metric == control.trips
            && claim.reduce == Reduce::Worst
            && !case.integrity.contains(&claim.metric)
    };
    world.claims.iter().filter(reads).copied().collect()
}

/// Whether both claims have the bound that the control must miss. Without it a control is not judged.
fn both_bounded(world: &World, control: &Control, claims: [&Claim; 2]) -> bool {
    let goldens = world.goldens;
    match control.expect {
        Expect::Refuted => {
            claims.iter().all(|claim| goldens.documented.claims.contains_key(claim.id))
        }
        Expect::Regressed => goldens.boards.values().any(|board| {
            claims.iter().all(|claim| board.bound(claim.id, claim.figure()).is_some())
        }),
        Expect::Broken | Expect::Corrupt => false,
    }
}

/// Whether the control is planted where both claims read: as recorded evidence of today's procedure has it, else
/// wherever one place can be both claims'.
fn meet(world: &World, case: &Case, control: &Control, [least, most]: [&Claim; 2]) -> bool {
    match planted(world, case, control) {
        Some(metrics) => {
            metrics.iter().any(|metric| metric.is_at(least.at) && metric.is_at(most.at))
        }
        None => least.at.iter().all(|(key, value)| {
            most.at.iter().all(|(other, another)| key != other || value == another)
        }),
    }
}

/// What the control tripped in the newest recorded run of today's procedure that planted it.
fn planted(world: &World, case: &Case, control: &Control) -> Option<Vec<Metric>> {
    world.runs.iter().rev().find_map(|finished| {
        let FoundEvidence::Evidence(evidence, _) = recorded::read(finished, case.id) else {
            return None;
        };
        let own = evidence.revision == case.revision;
        let parts = evidence.parts.into_iter().filter(|_| own);
        let planted = parts.flat_map(|part| part.controls);
        let metrics = planted.filter(|one| one.name == control.name).flat_map(|one| one.metrics);
        let metrics = metrics.filter(|metric| metric.name == control.trips);
        Some(metrics.collect::<Vec<_>>()).filter(|metrics| !metrics.is_empty())
    })
}
