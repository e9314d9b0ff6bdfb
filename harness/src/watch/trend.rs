//! When a trend breaks: over the last N runs of one board the figure moved, along the Theil-Sen
//! line through them, in the worse direction by more than the golden's tolerance.
//!
//! The line's slope is the median of the slopes of all pairs, so that one odd run, or two of eight,
//! moves nothing. What it moved is the slope times N - 1 steps, as a share of the golden. A jump
//! that lies within the window counts like a slow sag: both are a figure that is worse than it was.

use crate::claim::Relation;
use crate::golden::Bound;
use crate::report::number;
use crate::statistics;

/// Fewest runs that a trend is drawn through.
pub const FEWEST: usize = 6;

/// A trend that broke.
#[derive(Debug, Clone, PartialEq)]
pub struct Broken {
    /// What the figure moved over the window, as a share of the golden; positive is worse.
    pub moved: f64,
    /// How much it may: the golden's tolerance.
    pub tolerance: f64,
    /// Runs of the window.
    pub runs: usize,
    /// Its first and last value.
    pub ends: (f64, f64),
}

impl Broken {
    /// In words, with the unit of the figure.
    pub fn words(&self, unit: &str) -> String {
        format!(
            "worse by {} % of the golden over the last {} runs, tolerance {} %: {} to {} {unit}",
            number((1000.0 * self.moved).round() / 10.0),
            self.runs,
            number(100.0 * self.tolerance),
            number(self.ends.0),
            number(self.ends.1)
        )
    }
}

/// The trend of a figure over its last `runs` values, oldest first, if it broke. Fewer values are
/// no trend, and neither is one through a NaN.
pub fn broken(relation: Relation, bound: &Bound, values: &[f64], runs: usize) -> Option<Broken> {
    let runs = runs.max(FEWEST);
    let window = values.len().checked_sub(runs).map(|from| &values[from..])?;
    let moved = statistics::theil_sen(window)? * (runs - 1) as f64 / bound.golden.abs();
    let moved = match relation {
        Relation::AtLeast => -moved,
        Relation::AtMost => moved,
        Relation::Equal | Relation::Holds => return None,
    };
    let ends = (window[0], window[runs - 1]);
    (moved > bound.worse).then_some(Broken { moved, tolerance: bound.worse, runs, ends })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A golden of 1000 with 1 %.
    fn bound() -> Bound {
        Bound {
            golden: 1000.0,
            worse: 0.01,
            because: String::new(),
            runs: Vec::new(),
            cubins: BTreeMap::new(),
            accepted: None,
            before: None,
        }
    }

    /// Whether this made-up history of a rate breaks over eight runs.
    #[track_caller]
    fn check(values: &[f64], expect: bool) {
        let broken = broken(Relation::AtLeast, &bound(), values, 8);
        assert_eq!(broken.is_some(), expect, "{broken:?} of {values:?}");
    }

    fn line(step: f64, runs: i32) -> Vec<f64> {
        (0..runs).map(|run| 1000.0 + step * f64::from(run)).collect()
    }

    #[test]
    fn made_up_histories() {
        check(&line(0.0, 8), false);
        check(&line(-1.0, 8), false);
        check(&line(-1.5, 8), true);
        check(&line(1.5, 8), false);
        // Seven runs are no trend over eight.
        check(&line(-20.0, 7), false);
        // One run that was disturbed, and two.
        check(&[1000.0, 1000.0, 1000.0, 900.0, 1000.0, 1000.0, 1000.0, 1000.0], false);
        check(&[1000.0, 1000.0, 900.0, 900.0, 1000.0, 1000.0, 1000.0, 1000.0], false);
        // A step in the middle, and the same step long ago.
        check(&[1000.0, 1000.0, 1000.0, 1000.0, 960.0, 960.0, 960.0, 960.0], true);
        check(&[[1000.0; 4].as_slice(), &[960.0; 8]].concat(), false);
        // A figure that swings within its tolerance.
        check(&[1004.0, 996.0, 1003.0, 997.0, 1004.0, 996.0, 1003.0, 997.0], false);
        check(&[1000.0, 1000.0, 1000.0, f64::NAN, 900.0, 900.0, 900.0, 900.0], false);
    }

    #[test]
    fn durations_break_upwards() {
        let of = |step| broken(Relation::AtMost, &bound(), &line(step, 8), 8);
        assert!(of(1.5).is_some() && of(-1.5).is_none());
        let words = of(2.0).expect("broken").words("us");
        assert_eq!(
            words,
            "worse by 1.4 % of the golden over the last 8 runs, tolerance 1 %: 1000 to 1014 us"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_121),
            ..ProptestConfig::default()
        })]

        #[test]
        fn better_or_level_never_breaks_and_turning_round_turns_it(
            steps in proptest::collection::vec(0.0_f64..20.0, 8),
        ) {
            let rising: Vec<f64> = steps
                .iter()
                .scan(1000.0, |value, step| { *value += step; Some(*value) })
                .collect();
            let falling: Vec<f64> = rising.iter().rev().copied().collect();
            prop_assert_eq!(broken(Relation::AtLeast, &bound(), &rising, 8), None);
            let up = broken(Relation::AtMost, &bound(), &rising, 8).map(|b| b.moved);
            let down = broken(Relation::AtLeast, &bound(), &falling, 8).map(|b| b.moved);
            prop_assert_eq!(up.is_some(), down.is_some());
        }
    }
}
