//! How long a run will still take, from what its cases expect of themselves.

use std::collections::BTreeMap;

use crate::case::Scope;

/// A child that has not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// Where it runs.
    pub scope: Scope,
    /// The GPUs that it needs.
    pub gpus: Vec<u32>,
    /// Wall time that is expected.
    pub expected_s: f64,
    /// Wall time after which it is ended.
    pub deadline_s: f64,
    /// Wall time so far; none if it has not begun.
    pub elapsed_s: Option<f64>,
}

impl Left {
    /// What this child still needs. One that runs longer than expected is given another quarter of
    /// what it took, never past its deadline: a foretelling that stands at zero helps nobody.
    fn remaining_s(&self) -> f64 {
        match self.elapsed_s {
            None => self.expected_s,
            Some(elapsed) => {
                let quarter = (elapsed * 0.25).min(self.deadline_s - elapsed);
                (self.expected_s - elapsed).max(quarter).max(0.0)
            }
        }
    }
}

/// Wall time until all of `left` has ended, in the order of the plan and by the scheduler's rules:
/// GPUs side by side, node cases alone, host cases one after another beside the GPUs.
pub fn remaining_s(left: &[Left]) -> f64 {
    let mut free: BTreeMap<u32, f64> = BTreeMap::new();
    let mut alone = 0.0;
    let mut host = 0.0;
    // No GPU of a node case is free before this: the end of the last node case.
    let mut gate: f64 = 0.0;
    for child in left {
        let need = child.remaining_s();
        match child.scope {
            Scope::Host => host += need,
            Scope::EachGpu | Scope::OneGpu => {
                for gpu in &child.gpus {
                    *free.entry(*gpu).or_insert(gate) += need;
                }
            }
            Scope::Node => {
                gate = free.values().copied().fold(gate, f64::max) + need;
                alone += need;
                free.values_mut().for_each(|time| *time = gate);
            }
        }
    }
    free.values().copied().fold(gate, f64::max).max(host + alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(scope: Scope, gpus: &[u32], expected_s: f64, elapsed_s: Option<f64>) -> Left {
        Left { scope, gpus: gpus.to_vec(), expected_s, deadline_s: 100.0, elapsed_s }
    }

    #[track_caller]
    fn check(jobs: &[Left], expect: f64) {
        assert_eq!(remaining_s(jobs), expect);
    }

    #[test]
    fn gpus_work_side_by_side() {
        check(&[], 0.0);
        let each = |gpu: u32, s: f64| left(Scope::EachGpu, &[gpu], s, None);
        check(&[each(0, 3.0), each(1, 5.0), each(0, 4.0)], 7.0);
    }

    #[test]
    fn a_node_case_waits_for_all_and_host_cases_run_beside_the_gpus() {
        let jobs = [
            left(Scope::EachGpu, &[0], 3.0, None),
            left(Scope::EachGpu, &[1], 5.0, None),
            left(Scope::Node, &[0, 1], 10.0, None),
            left(Scope::EachGpu, &[0], 1.0, None),
            left(Scope::EachGpu, &[2], 2.0, None),
        ];
        check(&jobs, 17.0);
        let with_host = |s: f64| [&jobs[..], &[left(Scope::Host, &[], s, None)]].concat();
        check(&with_host(6.0), 17.0);
        check(&with_host(8.0), 18.0);
    }

    #[test]
    fn a_child_that_runs_longer_than_expected_is_not_foretold_to_end_now() {
        let running = |elapsed: f64| [left(Scope::EachGpu, &[0], 10.0, Some(elapsed))];
        check(&running(0.0), 10.0);
        check(&running(6.0), 4.0);
        check(&running(12.0), 3.0);
        check(&running(40.0), 10.0);
        check(&running(98.0), 2.0);
        check(&running(103.0), 0.0);
    }
}
