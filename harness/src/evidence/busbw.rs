//! Bus bandwidth is computed: what a collective moves over each link, by its algorithm bandwidth. A pair of
//! them that does not follow from each other was not.

use super::Metric;

/// Of the bus bandwidth: both are kept to at least five digits.
const ROUNDING: f64 = 1e-4;

/// `busbw / algbw` of a collective over `n` ranks, by the formulas of nccl-tests' `PERFORMANCE.md`; `None` for
/// an operation that is not among them.
fn factor(operation: &str, n: usize) -> Option<f64> {
    let ranks = n as f64;
    match operation {
        "all-reduce" => Some(2.0 * (ranks - 1.0) / ranks),
        "all-gather" | "reduce-scatter" | "all-to-all" => Some((ranks - 1.0) / ranks),
        "broadcast" | "reduce" | "send-recv" => Some(1.0),
        _ => None,
    }
}

/// Each bus bandwidth of a part stands beside the algorithm bandwidth of the same call, and follows from it.
pub(super) fn check(metrics: &[Metric]) -> Result<(), String> {
    for bus in metrics.iter().filter(|metric| metric.name == "busbw_gbps") {
        let operation = bus.at.get("op").map_or("", String::as_str);
        let ranks = bus.gpus.len();
        let factor = factor(operation, ranks)
            .ok_or_else(|| format!("busbw_gbps of {operation:?}: its factor is not known"))?;
        let same = |other: &&Metric| {
            other.name == "algbw_gbps" && other.at == bus.at && other.gpus == bus.gpus
        };
        let algorithm = metrics.iter().find(same);
        let algorithm = algorithm.filter(|other| other.values.len() == bus.values.len());
        let algorithm = algorithm.ok_or_else(|| {
            format!("busbw_gbps of {operation} over {ranks} GPUs has no algbw_gbps beside it")
        })?;
        for (bus, algorithm) in bus.values.iter().zip(&algorithm.values) {
            let wanted = factor * algorithm;
            let follows = (bus - wanted).abs() <= ROUNDING * wanted.abs();
            if !follows {
                return Err(format!(
                    "busbw_gbps = {bus} of {operation} over {ranks} GPUs: {factor:.4} times algbw_gbps = \
                     {algorithm} is {wanted:.2}"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(operation: &str, gpus: &[u32], algorithm: f64, bus: f64) -> Vec<Metric> {
        let at = [("op", operation)];
        vec![
            Metric::sampled("algbw_gbps", &at, gpus, vec![algorithm; 2]),
            Metric::sampled("busbw_gbps", &at, gpus, vec![bus; 2]),
        ]
    }

    #[track_caller]
    fn check_pair(operation: &str, ranks: u32, algorithm: f64, bus: f64, expect: Result<(), &str>) {
        let gpus: Vec<u32> = (0..ranks).collect();
        let found = check(&pair(operation, &gpus, algorithm, bus));
        match (found, expect) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expect) => panic!("{operation}: {found:?}, wanted {expect:?}"),
        }
    }

    #[test]
    fn factors_by_hand() {
        check_pair("all-reduce", 4, 100.0, 150.0, Ok(()));
        check_pair("all-reduce", 8, 100.0, 175.0, Ok(()));
        check_pair("all-reduce", 8, 100.0, 175.01, Ok(()));
        check_pair("all-reduce", 8, 100.0, 175.03, Err("1.7500 times algbw_gbps = 100 is 175.00"));
        check_pair("all-reduce", 4, 100.0, 175.0, Err("over 4 GPUs: 1.5000 times"));
        for operation in ["all-gather", "reduce-scatter", "all-to-all"] {
            check_pair(operation, 4, 100.0, 75.0, Ok(()));
            check_pair(operation, 4, 100.0, 100.0, Err("0.7500 times"));
        }
        for operation in ["broadcast", "reduce", "send-recv"] {
            check_pair(operation, 4, 100.0, 100.0, Ok(()));
            check_pair(operation, 4, 100.0, 75.0, Err("1.0000 times"));
        }
        check_pair("gossip", 4, 100.0, 75.0, Err("\"gossip\": its factor is not known"));
    }

    #[test]
    fn a_bus_bandwidth_alone_is_refused() {
        let alone = |change: fn(&mut Vec<Metric>)| {
            let mut metrics = pair("all-reduce", &[0, 1], 100.0, 100.0);
            assert_eq!(check(&metrics), Ok(()));
            change(&mut metrics);
            check(&metrics).is_err_and(|error| error.contains("no algbw_gbps beside it"))
        };
        assert!(alone(|metrics| drop(metrics.remove(0))));
        assert!(alone(|metrics| metrics[0].gpus = vec![0, 2]));
        assert!(alone(|metrics| drop(metrics[0].at.insert("bytes".into(), "8".into()))));
        assert!(alone(|metrics| metrics[0].values.truncate(1)));
    }
}
