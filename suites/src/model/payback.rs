//! What it costs to make a way of execution ready, and after how many passes that has paid for itself.

use harness::statistics::median_interval;

/// What is spent before a way's first pass, over a pass call by call.
pub const FIRST_RUN: &str = "first_run_ratio";
/// Passes after which that is saved again, by the least that a pass saves.
pub const BREAK_EVEN: &str = "break_even_count";

/// The fewest and the most passes after which `cost` milliseconds are saved again: over both ends of the interval of
/// the median of what a pass saves, pair by pair. None where that interval holds zero or less: a way that is no faster
/// never pays, and one of which this cannot be told has no count.
pub fn break_even(cost: f64, eager: &[f64], way: &[f64]) -> Option<(f64, f64)> {
    let (least, most) = saved(eager, way)?;
    (least > 0.0).then(|| ((cost / most).ceil(), (cost / least).ceil()))
}

/// The interval of the median of what a pass saves, in milliseconds.
fn saved(eager: &[f64], way: &[f64]) -> Option<(f64, f64)> {
    let saved: Vec<f64> = eager.iter().zip(way).map(|(eager, way)| eager - way).collect();
    median_interval(&saved)
}

/// The same in words.
pub fn said(cost: f64, eager: &[f64], way: &[f64]) -> String {
    let Some((least, most)) = saved(eager, way) else {
        return "not told: too few passes".into();
    };
    let saves = format!("a pass saves {least:.3} to {most:.3} ms of {cost:.1} ms");
    match break_even(cost, eager, way) {
        Some((few, many)) => format!("{saves}: paid for after {few} to {many} passes"),
        None => format!("{saves}: no break-even is shown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        // Six pairs: the interval is the whole range, 2 to 4 ms.
        let eager = [12.0, 13.0, 14.0, 12.0, 13.0, 14.0];
        assert_eq!(break_even(9.0, &eager, &[10.0; 6]), Some((3.0, 5.0)));
        assert_eq!(
            said(9.0, &eager, &[10.0; 6]),
            "a pass saves 2.000 to 4.000 ms of 9.0 ms: paid for after 3 to 5 passes"
        );
    }

    #[test]
    fn what_is_no_faster_has_no_count() {
        let eager = [12.0, 13.0, 14.0, 12.0, 13.0, 14.0];
        assert_eq!(break_even(9.0, &eager, &eager), None);
        assert_eq!(break_even(9.0, &eager, &[12.5; 6]), None);
        assert_eq!(break_even(9.0, &eager[..5], &[1.0; 5]), None);
        assert_eq!(break_even(9.0, &[f64::NAN; 6], &[1.0; 6]), None);
        assert!(said(9.0, &eager, &[12.5; 6]).ends_with("no break-even is shown"));
        assert!(said(9.0, &eager[..5], &[1.0; 5]).starts_with("not told"));
    }
}
