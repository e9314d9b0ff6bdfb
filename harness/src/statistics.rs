//! Medians and their intervals by order statistics: no seed, no distribution assumed.

/// Confidence of every interval in this project.
pub const CONFIDENCE: f64 = 0.95;

/// Fewest samples for which an interval of the median at [`CONFIDENCE`] exists: with five, even
/// the whole range holds the median with 93.75 % only.
pub const FEWEST: usize = 6;

/// The median; `None` for no values or a NaN.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values)?;
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => Some(sorted[middle]),
        _ => Some(0.5 * (sorted[middle - 1] + sorted[middle])),
    }
}

/// Interval that holds the median of the distribution with at least [`CONFIDENCE`]: the k-th
/// smallest and k-th largest sample, with the largest k for which
/// `1 - 2 P(Binomial(n, 1/2) <= k - 1)` reaches it (David and Nagaraja, Order Statistics, 7.1).
/// `None` for fewer than [`FEWEST`] values or a NaN.
pub fn median_interval(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values)?;
    let k = interval_rank(sorted.len())?;
    Some((sorted[k - 1], sorted[sorted.len() - k]))
}

/// The rank k of [`median_interval`] for `n` samples, counted from 1.
fn interval_rank(n: usize) -> Option<usize> {
    let mut rank = None;
    let mut tail = 0.0;
    for k in 1..=n / 2 {
        tail += binomial_half(n, k - 1);
        if 1.0 - 2.0 * tail < CONFIDENCE {
            break;
        }
        rank = Some(k);
    }
    rank
}

/// `P(Binomial(n, 1/2) = k)`, through logarithms so that large n neither over- nor underflows.
fn binomial_half(n: usize, k: usize) -> f64 {
    let ln_choose: f64 = (0..k).map(|i| (((n - i) as f64) / ((i + 1) as f64)).ln()).sum();
    (ln_choose - n as f64 * std::f64::consts::LN_2).exp()
}

/// The slope of a line through values at 0, 1, 2, ...: the median of the slopes of all pairs (Theil
/// 1950; Sen, JASA 63, 1968, 1379). Fewer than 29 % of the values, wherever they lie, cannot carry
/// it away. `None` for fewer than two values or a NaN.
pub fn theil_sen(values: &[f64]) -> Option<f64> {
    let mut slopes = Vec::with_capacity(values.len() * values.len().saturating_sub(1) / 2);
    for (i, a) in values.iter().enumerate() {
        for (j, b) in values.iter().enumerate().skip(i + 1) {
            slopes.push((b - a) / (j - i) as f64);
        }
    }
    median(&slopes)
}

fn sorted(values: &[f64]) -> Option<Vec<f64>> {
    if values.is_empty() || values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(sorted)
}

/// 95 % interval of the mean of a sample by Student's t; none of fewer than [`FEWEST`].
pub fn mean_interval(values: &[f64]) -> Option<(f64, f64)> {
    let count = values.len();
    if count < FEWEST {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let degrees = (count - 1) as f64;
    let half = student_t(degrees) * (squares / degrees / count as f64).sqrt();
    Some((mean - half, mean + half))
}

/// Student's t at 0.975: the expansion in 1 / degrees of freedom (Abramowitz and Stegun, 26.7.5), to 0.001 from five on.
fn student_t(degrees: f64) -> f64 {
    const Z: f64 = 1.959_963_985;
    let odd = |factors: [f64; 5]| {
        // Of the ninth, seventh, fifth, third and first power of Z.
        factors.iter().fold(0.0, |sum, factor| sum * Z * Z + factor) * Z
    };
    Z + odd([0.0, 0.0, 0.0, 1.0, 1.0]) / (4.0 * degrees)
        + odd([0.0, 0.0, 5.0, 16.0, 3.0]) / (96.0 * degrees.powi(2))
        + odd([0.0, 3.0, 19.0, 17.0, -15.0]) / (384.0 * degrees.powi(3))
        + odd([79.0, 776.0, 1482.0, -1920.0, -945.0]) / (92160.0 * degrees.powi(4))
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    #[test]
    fn medians_by_hand() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, f64::NAN]), None);
    }

    /// Ranks of the usual table for 95 %: n = 6 -> 1, 9 -> 2, 20 -> 6, 50 -> 18, 100 -> 40.
    #[test]
    fn ranks_agree_with_the_published_table() {
        for (n, k) in [(6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (50, 18), (100, 40)] {
            assert_eq!(interval_rank(n), Some(k), "n = {n}");
        }
        for n in 0..FEWEST {
            assert_eq!(interval_rank(n), None, "n = {n}");
        }
    }

    #[test]
    fn slopes_by_hand() {
        assert_eq!(theil_sen(&[1.0, 3.0, 5.0, 7.0]), Some(2.0));
        // Slopes 9, 1, 1/3, -7, -4, -1: the middle two are -1 and 1/3.
        assert_eq!(theil_sen(&[0.0, 9.0, 2.0, 1.0]), Some((-1.0 + 1.0 / 3.0) / 2.0));
        // One value in five that is far off moves nothing.
        assert_eq!(theil_sen(&[1.0, 1.0, 100.0, 1.0, 1.0]), Some(0.0));
        assert_eq!(theil_sen(&[1.0]), None);
        assert_eq!(theil_sen(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn the_binomial_sums_to_one() {
        for n in [1, 7, 64, 2000] {
            let sum: f64 = (0..=n).map(|k| binomial_half(n, k)).sum();
            assert_relative_eq!(sum, 1.0, epsilon = 1e-9);
        }
    }

    #[test]
    fn the_interval_holds_the_median_and_no_nan_passes() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(median_interval(&values), Some((6.0, 15.0)));
        assert_eq!(median_interval(&[1.0; 5]), None);
        assert_eq!(median_interval(&[f64::NAN; 9]), None);
    }

    #[test]
    fn students_t_by_its_table() {
        for (degrees, wanted) in [(5.0, 2.5706), (10.0, 2.2281), (46.0, 2.0129), (1e6, 1.95997)] {
            approx::assert_relative_eq!(student_t(degrees), wanted, max_relative = 3e-4);
        }
    }

    #[test]
    fn an_interval_is_of_the_mean_and_wants_six() {
        assert_eq!(mean_interval(&[1.0; 5]), None);
        assert_eq!(mean_interval(&[2.0; 6]), Some((2.0, 2.0)));
        // A deviation of the root of 1.2, over the root of 6.
        let (low, high) = mean_interval(&[1.0, 3.0, 1.0, 3.0, 1.0, 3.0]).expect("six");
        approx::assert_relative_eq!(high - low, 2.0 * 2.5706 * 0.2f64.sqrt(), max_relative = 3e-4);
    }
}
