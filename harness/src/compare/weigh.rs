//! When a difference counts: intervals apart, more than healthy runs differ, confirmed in cycles.
//!
//! A GPU that throttles is slower in time and not in cycles, so a rate is looked at twice: as it
//! is, and divided by the mean SM clock of its run; a duration is multiplied by it. The difference
//! of a memory-bound rate shrinks too little in cycles and is then called ambiguous rather than
//! slower, which asks for a look and fails nothing.

use super::signed_percent;
use crate::bless;
use crate::claim::Relation;
use crate::report::number;

/// How B stands to A, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Slower, or worse where the figure is no rate or duration.
    Worse,
    /// A difference of which one sign is missing.
    Ambiguous,
    /// Faster or better.
    Better,
    /// No difference that counts.
    Same,
    /// A figure is missing, or the two do not mean the same.
    NotCompared,
}

/// By what two figures are told apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// A share of the figure, from the board's golden.
    Golden(f64),
    /// A share of the figure, of a rate or duration without golden: the finest that `--bless`
    /// gives.
    Least(f64),
    /// The documented limit. How far healthy figures lie apart is not known; an error that depends
    /// on the data, for one, differs by a factor.
    Promise(f64),
    /// Not at all: a count.
    None,
}

impl Tolerance {
    /// For a unit, the golden's tolerance as a share, and the documented limit, where there is one.
    pub fn of(unit: &str, golden: Option<f64>, limit: Option<f64>) -> Tolerance {
        match (golden, limit) {
            (Some(share), _) => Tolerance::Golden(share),
            (None, _) if is_speed(unit) => Tolerance::Least(bless::LEAST),
            (None, Some(limit)) => Tolerance::Promise(limit),
            (None, None) => Tolerance::None,
        }
    }

    /// In the figure's unit.
    fn of_figure(self, value: f64) -> f64 {
        match self {
            Tolerance::Golden(share) | Tolerance::Least(share) => share * value.abs(),
            Tolerance::Promise(_) | Tolerance::None => 0.0,
        }
    }

    fn words(self) -> String {
        match self {
            Tolerance::Golden(share) => {
                format!("the golden's tolerance of {} %", number(100.0 * share))
            }
            Tolerance::Least(share) => format!("{} % (no golden)", number(100.0 * share)),
            Tolerance::Promise(limit) => format!("the documented {}", number(limit)),
            Tolerance::None => "a count's exactness".to_owned(),
        }
    }
}

/// A figure of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The median, or the exact value.
    pub value: f64,
    /// Its 95 % interval.
    pub interval: (f64, f64),
    /// Mean SM clock while it was measured, MHz.
    pub clock_mhz: Option<f64>,
}

impl Figure {
    fn map(self, by: impl Fn(f64) -> f64) -> Figure {
        let (one, two) = (by(self.interval.0), by(self.interval.1));
        Figure { value: by(self.value), interval: (one.min(two), one.max(two)), ..self }
    }
}

/// What there is to weigh.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Of the claim: whether more is better.
    pub relation: Relation,
    /// Of the claim: whether cycles can be asked.
    pub unit: &'static str,
    /// How far healthy figures lie apart.
    pub tolerance: Tolerance,
    /// What the figure is documented to equal.
    pub promised: Option<f64>,
    /// The older figure.
    pub a: Figure,
    /// The newer one.
    pub b: Figure,
}

/// How two figures stand to each other, where more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    Worse,
    Better,
    /// Apart by less than healthy figures.
    Within,
    /// The intervals touch.
    Touching,
}

/// The outcome and its reason.
pub fn weigh(question: &Question) -> (Outcome, String) {
    let Some((a, b)) = more_is_better(question) else {
        return unordered(question);
    };
    if let (Tolerance::Promise(limit), Relation::AtLeast | Relation::AtMost) =
        (question.tolerance, question.relation)
    {
        return by_promise(question, limit);
    }
    let words = question.tolerance.words();
    let in_time = match gap(question.tolerance, a, b) {
        Gap::Touching => return (Outcome::Same, "the intervals touch".to_owned()),
        Gap::Within => return (Outcome::Same, format!("within {words}")),
        gap => gap,
    };
    let outcome = if in_time == Gap::Worse { Outcome::Worse } else { Outcome::Better };
    match is_speed(question.unit) {
        true => in_cycles(question, in_time, outcome),
        false => (outcome, format!("beyond {words}")),
    }
}

/// A difference in time, held against the one in cycles.
fn in_cycles(question: &Question, in_time: Gap, outcome: Outcome) -> (Outcome, String) {
    let beyond = format!("beyond {}", question.tolerance.words());
    let (Some(clock_a), Some(clock_b)) = (question.a.clock_mhz, question.b.clock_mhz) else {
        return (Outcome::Ambiguous, format!("{beyond}, and no clock was watched"));
    };
    let cycles = |value: f64, clock: f64| match question.unit {
        "us" | "ms" | "s" => value * clock,
        _ => value / clock,
    };
    let sign = if question.relation == Relation::AtLeast { 1.0 } else { -1.0 };
    let of = |figure: Figure, clock: f64| figure.map(|value| sign * cycles(value, clock));
    let (a, b) = (of(question.a, clock_a), of(question.b, clock_b));
    let change = signed_percent(sign * 100.0 * (b.value - a.value) / a.value.abs());
    let clocks = format!("SM clock {clock_a:.0} to {clock_b:.0} MHz");
    match gap(question.tolerance, a, b) == in_time {
        true => (outcome, format!("{beyond}; {change} in cycles ({clocks})")),
        false => (Outcome::Ambiguous, format!("{beyond}, but {change} in cycles ({clocks})")),
    }
}

/// Figures of which only the documented limit says what is good.
fn by_promise(question: &Question, limit: f64) -> (Outcome, String) {
    let meets = |figure: Figure| match question.relation {
        Relation::AtLeast => limit <= figure.interval.0,
        _ => figure.interval.1 <= limit,
    };
    let sign = if question.relation == Relation::AtLeast { ">=" } else { "<=" };
    let wanted = format!("the documented {sign} {}", number(limit));
    match (meets(question.a), meets(question.b)) {
        (true, true) => (Outcome::Same, format!("both meet {wanted}")),
        (true, false) => (Outcome::Worse, format!("B does not meet {wanted}")),
        (false, true) => (Outcome::Better, format!("A does not meet {wanted}")),
        (false, false) => (Outcome::Ambiguous, format!("neither meets {wanted}")),
    }
}

/// Both figures so that more is better; none where they have no order.
fn more_is_better(question: &Question) -> Option<(Figure, Figure)> {
    let Question { a, b, .. } = *question;
    match (question.relation, question.promised) {
        (Relation::AtLeast, _) => Some((a, b)),
        (Relation::AtMost | Relation::Holds, _) => Some((a.map(|v| -v), b.map(|v| -v))),
        (Relation::Equal, Some(promised)) => {
            let off = |figure: Figure| figure.map(|value| -(value - promised).abs());
            Some((off(a), off(b)))
        }
        (Relation::Equal, None) => None,
    }
}

/// Figures of which nothing says which is better.
fn unordered(question: &Question) -> (Outcome, String) {
    let (a, b) = (question.a.value, question.b.value);
    match a == b {
        true => (Outcome::Same, format!("{} in both", number(a))),
        false => (
            Outcome::Ambiguous,
            format!("{} to {}, and no document says which is right", number(a), number(b)),
        ),
    }
}

/// How B stands to A where more is better. A NaN is never a gap.
fn gap(tolerance: Tolerance, a: Figure, b: Figure) -> Gap {
    let apart = (a.value - b.value).abs() > tolerance.of_figure(a.value);
    let worse = b.interval.1 < a.interval.0;
    let better = a.interval.1 < b.interval.0;
    match (worse, better) {
        (false, false) => Gap::Touching,
        _ if !apart => Gap::Within,
        (true, _) => Gap::Worse,
        (_, true) => Gap::Better,
    }
}

/// Whether a unit is one of a rate or a duration, which clock cycles can be asked about.
pub(super) fn is_speed(unit: &str) -> bool {
    matches!(unit, "GB/s" | "MB/s" | "TFLOP/s" | "TOP/s" | "us" | "ms" | "s")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn figure(value: f64, half: f64, clock_mhz: f64) -> Figure {
        let clock_mhz = (clock_mhz > 0.0).then_some(clock_mhz);
        Figure { value, interval: (value - half, value + half), clock_mhz }
    }

    fn question(a: Figure, b: Figure) -> Question {
        Question {
            relation: Relation::AtLeast,
            unit: "GB/s",
            tolerance: Tolerance::Golden(0.01),
            promised: None,
            a,
            b,
        }
    }

    #[track_caller]
    fn check(question: Question, outcome: Outcome, reason: &str) {
        assert_eq!(weigh(&question), (outcome, reason.to_owned()));
    }

    #[test]
    fn a_rate_by_hand() {
        let a = figure(1000.0, 2.0, 1980.0);
        let at = |value, clock| question(a, figure(value, 2.0, clock));
        check(at(1003.0, 1980.0), Outcome::Same, "the intervals touch");
        let within = "within the golden's tolerance of 1 %";
        check(at(992.0, 1980.0), Outcome::Same, within);
        let slower =
            "beyond the golden's tolerance of 1 %; -5 % in cycles (SM clock 1980 to 1980 MHz)";
        check(at(950.0, 1980.0), Outcome::Worse, slower);
        let throttled =
            "beyond the golden's tolerance of 1 %, but +0 % in cycles (SM clock 1980 to 1881 MHz)";
        check(at(950.0, 1881.0), Outcome::Ambiguous, throttled);
        let blind = "beyond the golden's tolerance of 1 %, and no clock was watched";
        check(at(950.0, 0.0), Outcome::Ambiguous, blind);
        assert_eq!(weigh(&at(1050.0, 1980.0)).0, Outcome::Better);
        // A gain by a clock that was lifted is no gain of the kernel.
        assert_eq!(weigh(&at(1050.0, 2079.0)).0, Outcome::Ambiguous);
    }

    #[test]
    fn durations_are_better_short() {
        let of = |a, b| Question { relation: Relation::AtMost, unit: "us", ..question(a, b) };
        let a = figure(10.0, 0.01, 1980.0);
        assert_eq!(weigh(&of(a, figure(11.0, 0.01, 1980.0))).0, Outcome::Worse);
        assert_eq!(weigh(&of(a, figure(11.0, 0.01, 1800.0))).0, Outcome::Ambiguous);
        assert_eq!(weigh(&of(a, figure(9.0, 0.01, 1980.0))).0, Outcome::Better);
    }

    #[test]
    fn counts_and_what_they_equal() {
        let count = |relation, promised, a, b| Question {
            relation,
            unit: "",
            promised,
            tolerance: Tolerance::of("", None, None),
            ..question(figure(a, 0.0, 0.0), figure(b, 0.0, 0.0))
        };
        let worse = "beyond a count's exactness";
        check(count(Relation::Holds, None, 0.0, 1.0), Outcome::Worse, worse);
        assert_eq!(weigh(&count(Relation::Holds, None, 1.0, 0.0)).0, Outcome::Better);
        assert_eq!(weigh(&count(Relation::Equal, Some(18.0), 18.0, 17.0)).0, Outcome::Worse);
        assert_eq!(weigh(&count(Relation::Equal, Some(18.0), 17.0, 18.0)).0, Outcome::Better);
        assert_eq!(weigh(&count(Relation::Equal, Some(18.0), 18.0, 18.0)).0, Outcome::Same);
        let unsaid = "18 to 17, and no document says which is right";
        check(count(Relation::Equal, None, 18.0, 17.0), Outcome::Ambiguous, unsaid);
    }

    #[test]
    fn without_a_golden_the_documented_limit_decides() {
        let percent = |a, b| Question {
            relation: Relation::AtMost,
            unit: "%",
            tolerance: Tolerance::of("%", None, Some(2.0)),
            ..question(figure(a, 0.0, 0.0), figure(b, 0.0, 0.0))
        };
        check(percent(0.1, 1.9), Outcome::Same, "both meet the documented <= 2");
        check(percent(0.1, 2.1), Outcome::Worse, "B does not meet the documented <= 2");
        check(percent(2.1, 0.1), Outcome::Better, "A does not meet the documented <= 2");
        check(percent(2.1, 2.1), Outcome::Ambiguous, "neither meets the documented <= 2");
    }

    #[test]
    fn a_nan_is_no_difference() {
        let nan = figure(f64::NAN, 0.0, 1980.0);
        assert_eq!(weigh(&question(figure(1.0, 0.0, 1980.0), nan)).0, Outcome::Same);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_121),
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_run_beside_itself_is_the_same_and_turning_round_turns_the_outcome(
            a in 1.0_f64..1e6, b in 1.0_f64..1e6, half in 0.0_f64..0.1, clock in 500.0_f64..2000.0,
        ) {
            let of = |value: f64| figure(value, half * value, clock);
            let tolerance = Tolerance::None;
            let ask = |a, b| weigh(&Question { tolerance, ..question(of(a), of(b)) }).0;
            prop_assert_eq!(ask(a, a), Outcome::Same);
            let turned = match ask(a, b) {
                Outcome::Worse => Outcome::Better,
                Outcome::Better => Outcome::Worse,
                other => other,
            };
            prop_assert_eq!(ask(b, a), turned);
        }

        #[test]
        fn a_clock_alone_never_makes_a_run_worse(
            value in 1.0_f64..1e6, half in 0.0_f64..0.02, share in 0.3_f64..1.0,
        ) {
            let a = figure(value, half * value, 1980.0);
            let b = figure(share * value, half * share * value, share * 1980.0);
            prop_assert_ne!(weigh(&question(a, b)).0, Outcome::Worse);
        }
    }
}
