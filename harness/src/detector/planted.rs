//! The controls of all recorded runs, and the account that `touchstone detector` prints.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Controls, run};
use crate::judge::{Found, Judgement};
use crate::recorded::{self, FoundEvidence};
use crate::report;
use crate::world::World;

/// The controls of recorded runs: each run's evidence judged by itself, with today's goldens.
#[derive(Debug, Clone, Default)]
pub struct Planted {
    /// Over all runs and claims.
    pub controls: Controls,
    /// Different faults among those that were caught.
    pub kinds: usize,
    /// Runs that were judged.
    pub runs: usize,
    /// A line for each that was not caught.
    pub missed: Vec<String>,
}

/// Judges every recorded run. Evidence of an older procedure or kernel is stale: its controls are not
/// today's.
pub fn planted(world: &World) -> Result<Planted, String> {
    let goldens = world.goldens()?;
    let runs = recorded::load(&world.root)?;
    let mut sum = Planted { runs: runs.len(), ..Planted::default() };
    let mut kinds = BTreeSet::new();
    for finished in &runs {
        for case in world.cases {
            let FoundEvidence::Evidence(evidence, reference) = recorded::read(finished, case.id)
            else {
                continue;
            };
            for claim in world.readers(case) {
                let found = Found::Evidence(&evidence, reference.clone());
                let judgement = world.judge(claim, case, found, &goldens);
                kinds.extend(caught(&judgement).map(|control| (case.id, control)));
                sum.missed.extend(missed(&judgement, &finished.run.run));
                let own = Controls::of(std::iter::once(&judgement));
                sum.controls.caught += own.caught;
                sum.controls.missed += own.missed;
                sum.controls.not_judged += own.not_judged;
            }
        }
    }
    sum.kinds = kinds.len();
    Ok(sum)
}

fn caught(judgement: &Judgement) -> impl Iterator<Item = &'static str> {
    let controls = judgement.controls.iter().filter(|view| view.caught == Some(true));
    controls.map(|view| view.control.name)
}

fn missed(judgement: &Judgement, run: &str) -> Vec<String> {
    let controls = judgement.controls.iter().filter(|view| view.caught == Some(false));
    let verdict = report::word(judgement.verdict);
    controls
        .map(|view| {
            let (claim, control, detail) = (judgement.claim.id, view.control.name, &view.detail);
            format!("{run} {claim}: {control}: {detail}; the claim is {verdict}")
        })
        .collect()
}

/// The whole account, and whether every fault was seen as what it is.
pub fn account(world: &World) -> Result<(String, bool), String> {
    let score = run(world)?;
    let planted = planted(world)?;
    let mut text = score.table();
    let _ = writeln!(text, "\nplanted into {}", score.base);
    for miss in score.misses().iter().chain(&planted.missed) {
        let _ = writeln!(text, "MISSED {miss}");
    }
    let Planted { controls, kinds, runs, .. } = &planted;
    let _ = writeln!(text, "files     {}", score.words());
    let _ = writeln!(
        text,
        "controls  {} in {runs} recorded runs, {kinds} different faults",
        controls.words()
    );
    let caught = score.caught() + kinds;
    let holds = score.holds() && planted.missed.is_empty();
    let misses = score.misses().len() + planted.missed.len();
    let _ = writeln!(
        text,
        "DETECTOR  {caught} different faults seen as what they are, {misses} missed"
    );
    Ok((text, holds))
}
