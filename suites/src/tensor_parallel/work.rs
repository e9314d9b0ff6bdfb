//! What every rank of a pass is given to do, and whether it is the same for all and the model's together.

use harness::case::{Control, Expect};
use harness::record::{Recorder, Stop};
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Watch};
use kernels::model::rank::Work;

use super::setting::{LAYER, Setting, problem};

/// `(most - least) / mean` over the ranks.
pub const FLOPS: &str = "flops_imbalance_percent";
/// The same of bytes sent.
pub const SENT: &str = "sent_imbalance_percent";
/// The same of exchanges in which a rank sent anything.
pub const EXCHANGES: &str = "exchanges_imbalance_percent";
/// Operations of all ranks together against the model's formula.
pub const TOTAL: &str = "flops_error_percent";

/// For [`FLOPS`].
pub const ONE_GPU_WORKS: Control = Control {
    name: "one-gpu-works",
    fault: "one GPU alone runs the whole model, and the others nothing",
    trips: FLOPS,
    expect: Expect::Refuted,
};
/// For [`SENT`].
pub const ONE_RANK_SILENT: Control = Control {
    name: "one-rank-silent",
    fault: "one rank sends nothing in one exchange of one layer",
    trips: SENT,
    expect: Expect::Refuted,
};
/// For [`EXCHANGES`].
pub const ONE_EXCHANGE_LESS: Control = Control {
    name: "one-exchange-less",
    fault: "one rank takes no part in one exchange of one layer",
    trips: EXCHANGES,
    expect: Expect::Refuted,
};
/// For [`TOTAL`].
pub const ONE_LAYER_TWICE: Control = Control {
    name: "one-layer-twice",
    fault: "one of the 48 layers is run twice",
    trips: TOTAL,
    expect: Expect::Refuted,
};

impl Setting<'_> {
    /// What every rank did in one pass, and what is counted of passes that are not the model's.
    pub(super) fn participation(
        &self,
        group: &mut Group<'_>,
        what: &str,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let work = work_of(group, None)?;
        let degree = work.len();
        for (rank, Work { flops, sent_bytes, exchanges }) in work.iter().enumerate() {
            let text =
                format!("{flops:.6e} operations, {sent_bytes} bytes sent, {exchanges} exchanges");
            recorder.option(&format!("work {what} rank {rank}"), text);
        }
        let metric = |name, value| self.metric(name, what, degree, value);
        recorder.metric(metric(FLOPS, imbalance(&flops(&work))));
        recorder.metric(metric(SENT, imbalance(&sent(&work))));
        recorder.metric(metric(EXCHANGES, imbalance(&exchanges(&work))));
        recorder.metric(metric(TOTAL, self.off(&work)));
        let mut one = vec![0.0; degree];
        one[0] = self.alone.get();
        recorder.control(ONE_GPU_WORKS.name, metric(FLOPS, imbalance(&one)));
        let less = work_of(group, Some(Fault::Dropped { rank: 0, layer: LAYER }))?;
        recorder.control(ONE_RANK_SILENT.name, metric(SENT, imbalance(&sent(&less))));
        recorder.control(ONE_EXCHANGE_LESS.name, metric(EXCHANGES, imbalance(&exchanges(&less))));
        let more = work_of(group, Some(Fault::Repeated { layers: 1 }))?;
        recorder.control(ONE_LAYER_TWICE.name, metric(TOTAL, self.off(&more)));
        Ok(())
    }

    /// How far the ranks' operations together are from the model's, in percent of it.
    fn off(&self, work: &[Work]) -> f64 {
        let wanted = self.config.flops(&problem(1));
        100.0 * (flops(work).iter().sum::<f64>() / wanted - 1.0).abs()
    }
}

/// What every rank does in one pass.
fn work_of(group: &mut Group<'_>, fault: Option<Fault>) -> Result<Vec<Work>, Stop> {
    group.take_work();
    group.plant(fault);
    group.forward(Watch::Nothing)?;
    group.plant(None);
    group.wait()?;
    Ok(group.take_work())
}

fn flops(work: &[Work]) -> Vec<f64> {
    work.iter().map(|work| work.flops).collect()
}

fn sent(work: &[Work]) -> Vec<f64> {
    work.iter().map(|work| work.sent_bytes as f64).collect()
}

fn exchanges(work: &[Work]) -> Vec<f64> {
    work.iter().map(|work| work.exchanges as f64).collect()
}

/// `(most - least) / mean`, in percent; the whole where nothing was done.
fn imbalance(values: &[f64]) -> f64 {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    if mean > 0.0 { 100.0 * (most - least) / mean } else { 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imbalance_by_hand() {
        assert_eq!(imbalance(&[2.0, 2.0, 2.0, 2.0]), 0.0);
        assert_eq!(imbalance(&[1.0, 3.0]), 100.0);
        assert_eq!(imbalance(&[8.0, 0.0, 0.0, 0.0]), 400.0);
        assert_eq!(imbalance(&[0.0, 0.0]), 100.0);
    }
}
