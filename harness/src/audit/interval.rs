//! What a printed number may have been before it was rounded, and arithmetic that keeps that.

use std::ops::{Add, Div, Mul, Sub};

/// A closed interval: every value that rounds to what was printed, or what follows from such.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    /// Ends in either order.
    pub fn new(one: f64, other: f64) -> Interval {
        Interval { low: one.min(other), high: one.max(other) }
    }

    /// A number that is meant exactly.
    pub fn exact(value: f64) -> Interval {
        Interval::new(value, value)
    }

    /// True if some value is in both. The last bits of a division decide nothing.
    pub fn meets(self, other: Interval) -> bool {
        let slack = 1e-12 * self.high.abs().max(other.high.abs());
        self.low <= other.high + slack && other.low <= self.high + slack
    }

    /// Without its sign.
    pub fn abs(self) -> Interval {
        let (low, high) = (self.low.abs(), self.high.abs());
        if self.low <= 0.0 && 0.0 <= self.high {
            return Interval::new(0.0, low.max(high));
        }
        Interval::new(low, high)
    }

    /// The middle.
    pub fn middle(self) -> f64 {
        (self.low + self.high) / 2.0
    }

    /// Applies an operation to all four pairs of ends.
    fn ends(self, other: Interval, apply: fn(f64, f64) -> f64) -> Interval {
        let values = [
            apply(self.low, other.low),
            apply(self.low, other.high),
            apply(self.high, other.low),
            apply(self.high, other.high),
        ];
        let low = values.into_iter().fold(f64::INFINITY, f64::min);
        let high = values.into_iter().fold(f64::NEG_INFINITY, f64::max);
        Interval { low, high }
    }
}

impl Add for Interval {
    type Output = Interval;
    fn add(self, other: Interval) -> Interval {
        Interval { low: self.low + other.low, high: self.high + other.high }
    }
}

impl Sub for Interval {
    type Output = Interval;
    fn sub(self, other: Interval) -> Interval {
        Interval { low: self.low - other.high, high: self.high - other.low }
    }
}

impl Mul for Interval {
    type Output = Interval;
    fn mul(self, other: Interval) -> Interval {
        self.ends(other, |a, b| a * b)
    }
}

impl Div for Interval {
    type Output = Interval;
    /// A divisor that may be zero leaves everything open.
    fn div(self, other: Interval) -> Interval {
        if other.low <= 0.0 && 0.0 <= other.high {
            return Interval { low: f64::NEG_INFINITY, high: f64::INFINITY };
        }
        self.ends(other, |a, b| a / b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_carried_through_a_quotient() {
        let quotient = Interval::new(99.5, 100.5) / Interval::new(49.5, 50.5);
        approx::assert_relative_eq!(quotient.low, 99.5 / 50.5);
        approx::assert_relative_eq!(quotient.high, 100.5 / 49.5);
        assert!(quotient.meets(Interval::new(1.98, 1.99)));
        assert!(!quotient.meets(Interval::new(2.1, 2.2)));
    }

    #[test]
    fn a_divisor_that_may_be_zero_refutes_nothing() {
        let open = Interval::exact(1.0) / Interval::new(-0.5, 0.5);
        assert!(open.meets(Interval::exact(1e300)) && open.meets(Interval::exact(-7.0)));
    }

    #[test]
    fn a_sign_is_dropped_from_both_ends() {
        assert_eq!(Interval::new(-3.0, -2.0).abs(), Interval::new(2.0, 3.0));
        assert_eq!(Interval::new(-3.0, 2.0).abs(), Interval::new(0.0, 3.0));
    }
}
