//! Figures of recorded evidence, as bindings ask for them.

use std::cell::OnceCell;

use super::binding::{Binding, Recorded, Records};
use crate::claim::{Claim, Relation};
use crate::evidence::{Evidence, MetricKind, Tier};
use crate::golden::Goldens;
use crate::judge;
use crate::recorded::{self, FinishedRun};
use crate::statistics;
use crate::world::World;

/// Attributes that a binding of a claim may have, beside `at.` and the key of a place.
const OF_CLAIMS: &[&str] = &["board", "run", "pick", "of", "metric"];

/// Attributes that a binding of runs may have.
const OF_RUNS: &[&str] = &["board", "run", "pick", "tier", "gpus", "newest", "metric"];

/// The recorded runs of a world, read when the first binding asks.
pub struct WorldRecords<'a> {
    world: &'a World<'a>,
    loaded: OnceCell<Result<(Vec<FinishedRun>, Goldens), String>>,
}

impl<'a> WorldRecords<'a> {
    /// Reads nothing yet.
    pub fn new(world: &'a World<'a>) -> WorldRecords<'a> {
        WorldRecords { world, loaded: OnceCell::new() }
    }

    fn loaded(&self) -> Result<&(Vec<FinishedRun>, Goldens), String> {
        let load = || Ok((recorded::load(&self.world.root)?, self.world.goldens()?));
        self.loaded.get_or_init(load).as_ref().map_err(String::clone)
    }
}

impl Records for WorldRecords<'_> {
    fn look_up(&self, binding: &Binding) -> Result<Recorded, String> {
        let (runs, goldens) = self.loaded()?;
        let of_runs = binding.subject == "runs";
        let known = if of_runs { OF_RUNS } else { OF_CLAIMS };
        for name in binding.attributes.keys() {
            if !known.contains(&name.as_str()) && (of_runs || !name.starts_with("at.")) {
                return Err(format!("{name} is no attribute of {}", binding.subject));
            }
        }
        let runs: Vec<FinishedRun> = chosen(binding, runs).cloned().collect();
        let boards = recorded::boards(&runs);
        let board = match boards.as_slice() {
            [board] => board,
            [] => return Err("no recorded run is of this board and id".to_owned()),
            _ => {
                return Err(format!("recorded on several boards, name one: {}", boards.join(", ")));
            }
        };
        if of_runs {
            return wall(binding, &runs);
        }
        let claim = self.world.claims.iter().find(|claim| claim.id == binding.subject);
        let claim = claim.ok_or_else(|| format!("there is no claim {}", binding.subject))?;
        self.of_claim(binding, claim, board, (&runs, goldens))
    }
}

/// The runs that a binding leaves.
fn chosen<'a>(
    binding: &'a Binding,
    runs: &'a [FinishedRun],
) -> impl Iterator<Item = &'a FinishedRun> {
    let is = |name: &str, value: &str| binding.attributes.get(name).is_none_or(|v| v == value);
    runs.iter().filter(move |finished| {
        is("board", &finished.run.board)
            && is("run", &finished.run.run)
            && (binding.subject != "runs"
                || is("tier", tier(finished.run.tier))
                    && is("gpus", &finished.run.devices.len().to_string()))
    })
}

fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Quick => "quick",
        Tier::Full => "full",
        Tier::Soak => "soak",
    }
}

/// Wall times of whole runs.
fn wall(binding: &Binding, runs: &[FinishedRun]) -> Result<Recorded, String> {
    match binding.attributes.get("metric").map(String::as_str) {
        Some("wall_s") => {}
        other => return Err(format!("runs have metric=wall_s, not {other:?}")),
    }
    let whole = runs.iter().filter(|finished| finished.run.whole && !finished.run.interrupted);
    let mut values: Vec<f64> = whole.map(|finished| finished.run.wall_s).collect();
    if let Some(newest) = binding.attributes.get("newest") {
        let count: usize = newest.parse().map_err(|_| format!("newest={newest} is no count"))?;
        if values.len() < count || count == 0 {
            return Err(format!("newest={newest}, and {} runs are recorded", values.len()));
        }
        values.drain(..values.len() - count);
    }
    let origin = format!("{} recorded runs", values.len());
    let value = pick(binding, "most", &values)?;
    Ok(Recorded { value, unit: "s".to_owned(), origin })
}

/// One of several values: the least, the most or the median.
fn pick(binding: &Binding, usual: &str, values: &[f64]) -> Result<f64, String> {
    let how = binding.attributes.get("pick").map_or(usual, String::as_str);
    let value = match how {
        "least" => values.iter().copied().reduce(f64::min),
        "most" => values.iter().copied().reduce(f64::max),
        "median" => statistics::median(values),
        _ => return Err(format!("pick={how} is none of least, most, median")),
    };
    value.filter(|value| value.is_finite()).ok_or_else(|| "no value is recorded".to_owned())
}

impl WorldRecords<'_> {
    fn of_claim(
        &self,
        binding: &Binding,
        claim: &'static Claim,
        board: &str,
        (runs, goldens): (&[FinishedRun], &Goldens),
    ) -> Result<Recorded, String> {
        let case = self.world.case_of(claim)?;
        let golden = goldens.boards.get(board);
        if let Some(of) = binding.attributes.get("of") {
            let bound = golden.and_then(|golden| golden.bound(claim.id, claim.figure()));
            let bound = bound.ok_or_else(|| format!("{board} has no golden of {}", claim.id))?;
            let value = match of.as_str() {
                "golden" => bound.golden,
                "limit" => judge::golden_limit(claim, bound),
                _ => return Err(format!("of={of} is none of golden, limit")),
            };
            let origin = format!("golden/{board}.toml");
            return Ok(Recorded { value, unit: claim.unit().to_owned(), origin });
        }
        let found = self.world.find_recorded(claim, case, runs, board, goldens);
        let (evidence, reference) = found.required()?;
        let worst = if claim.relation == Relation::AtLeast { "least" } else { "most" };
        let (values, unit) = match binding.attributes.get("metric") {
            Some(metric) => (of_metric(binding, metric, &evidence)?, crate::claim::unit_of(metric)),
            None => {
                let figures = judge::figures(claim, case, &evidence)?;
                (figures.iter().map(|figure| figure.value).collect(), claim.unit())
            }
        };
        let value = pick(binding, worst, &values)?;
        Ok(Recorded { value, unit: unit.to_owned(), origin: reference.path })
    }
}

/// The figures of any metric of a case at the places that the binding names.
fn of_metric(binding: &Binding, metric: &str, evidence: &Evidence) -> Result<Vec<f64>, String> {
    let places: Vec<(&str, &str)> = binding
        .attributes
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("at.")?, value.as_str())))
        .collect();
    let metrics = evidence.parts.iter().flat_map(|part| &part.metrics);
    let here = metrics.filter(|m| m.name == metric && m.is_at(&places));
    let mut values = Vec::new();
    for found in here {
        match found.kind {
            MetricKind::Exact => values.extend(&found.values),
            MetricKind::Sampled => values.extend(statistics::median(&found.values)),
        }
    }
    match values.is_empty() {
        true => Err(format!("{} has no {metric} at {places:?}", evidence.case)),
        false => Ok(values),
    }
}
