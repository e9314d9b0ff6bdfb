//! The same bits on one GPU, split by layers over two, and split by columns over 2, 4 and 8.

use harness::case::{Case, Control, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::Precision;
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Watch};
use kernels::model::rank::Place;
use kernels::model::weights::{Linear, Split};

use super::bench::{self, Bench};
use super::setting::{
    AGREEMENT, BATCHES, LAYER, METRIC, NEW_AND_FLIPPED, NOT_DELAYED, OTHER_ORDER, OTHER_SEED,
    STRAY_BIT, SWAPPED_SHARDS, Setting, UNWAITED, planted_drift, problem,
};
use super::work::{ONE_EXCHANGE_LESS, ONE_GPU_WORKS, ONE_LAYER_TWICE, ONE_RANK_SILENT};

static CONTROLS: [Control; 13] = [
    planted_drift("flipped-bit", "the lowest mantissa bit of one weight of one rank is flipped"),
    planted_drift("dropped-contribution", "one rank's columns inside one MLP do not arrive"),
    SWAPPED_SHARDS,
    OTHER_ORDER,
    UNWAITED,
    planted_drift(
        NEW_AND_FLIPPED,
        "in the group that was made anew the lowest mantissa bit of one weight of one rank is flipped",
    ),
    STRAY_BIT,
    OTHER_SEED,
    NOT_DELAYED,
    ONE_GPU_WORKS,
    ONE_RANK_SILENT,
    ONE_EXCHANGE_LESS,
    ONE_LAYER_TWICE,
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::drift",
    revision: 2,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 with random weights, 4 sequences of 2048 tokens, fp16. One \
                GPU's residual streams behind every layer and its logits are kept. Every element of the \
                same is compared with them, bit by bit, on every rank: of further passes; of one sequence \
                alone, on one GPU and over the largest degree; of the layers split over two GPUs, whole, and in micro-batches \
                behind the last layer of each; of columns split \
                over 2, 4 and 8 GPUs with exchanges beside products; of one sequence of 8192 tokens in two \
                chunks; of the largest degree again without \
                that overlap, with one rank or what it sends held up, in the same process once the ranks and \
                the access of the GPUs to each other's memory are gone and made anew, with the GPUs in reversed \
                order and, of more than two, rotated by one, and, by its hashes, in another process. Operations, bytes and exchanges of every rank are counted where they are \
                enqueued.",
    samples: 0,
    expected_s: 49.0,
    deadline_s: 400.0,
    kernels: super::bench::KERNELS,
    integrity: &[],
    controls: &CONTROLS,
    run: drift,
};

fn drift(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let setting = Setting::new(&bench, assignment, Precision::F16)?;
    setting.one_gpu(recorder)?;
    setting.layer_split(recorder)?;
    let degrees = bench.degrees();
    for degree in &degrees {
        setting.degree(*degree, recorder)?;
    }
    let most = degrees.last().copied().ok_or_else(|| Stop::NotRun("needs two GPUs".into()))?;
    setting.new_communicator(most, recorder)?;
    setting.other_orders(most, recorder)?;
    setting.long_sequence(most, recorder)?;
    drop(setting);
    bench.lab.close(recorder);
    Ok(())
}

impl Setting<'_> {
    /// What seed 000 ran as its tensor parallel: whole layers on each GPU.
    fn layer_split(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        recorder.progress("layers over two gpus");
        let (gpus, half) = (self.bench.first(2), self.config.layers / 2);
        let part =
            |gpu: usize, layers| Group::part(&gpus[gpu..=gpu], self.config, layers, Split::Outputs);
        let mut stages = [part(0, 0..half)?, part(1, half..self.config.layers)?];
        for (what, chunks) in [("layer-split", 1), ("micro-batches", BATCHES)] {
            for group in &mut stages {
                group.set(problem(chunks), bench::CANDIDATES)?;
                group.set_tokens(&self.tokens)?;
                group.poison()?;
            }
            // In micro-batches no layer's whole residual stream is there before the last chunk's.
            let compare = Watch::Compare(&self.kept, 0, 0);
            let each = if chunks == 1 { compare } else { Watch::Nothing };
            bench::pipeline(&mut stages, chunks, each, None)?;
            let [first, last] = &mut stages;
            if chunks > 1 {
                first.compare_last(&self.kept)?;
                last.compare_last(&self.kept)?;
            }
            last.head(compare)?;
            first.wait()?;
            last.wait()?;
            let (half, all) = (half as usize, self.config.layers as usize);
            let (of_first, of_last) = (&first.differences()?[0], &last.differences()?[0]);
            // Every layer and the logits, or of micro-batches the last layer of each part and the logits.
            let compared = match chunks {
                1 => [&of_first[..half], &of_last[half..]],
                _ => [&of_first[half - 1..half], &of_last[all - 1..]],
            };
            let drift = bench::drift(&[compared.concat()]);
            recorder.option(&format!("drift {what}"), drift.text());
            recorder.metric(self.metric(METRIC, what, 2, drift.count as f64));
        }
        Ok(())
    }

    /// Columns over so many GPUs.
    fn degree(&self, degree: usize, recorder: &mut Recorder) -> Result<(), Stop> {
        let what = format!("degree-{degree}");
        recorder.progress(&what);
        let gpus = self.bench.first(degree);
        let mut group = self.group(&gpus, 2)?;
        bench::write_choices(recorder, &what, &group)?;
        let drift = self.compared(&mut group, (0, 0))?;
        self.write(recorder, &what, degree, &drift);
        recorder.option(&format!("hashes {what}"), drift.hash_text());
        let disagreeing = drift.disagreeing as f64;
        recorder.metric(self.metric(AGREEMENT, &what, degree, disagreeing));
        self.participation(&mut group, &what, recorder)?;
        if Some(&degree) != self.bench.degrees().last() {
            return Ok(());
        }
        let all = self.again(&mut group)?;
        self.write(recorder, "run-to-run", degree, &all);
        self.delayed(&mut group, recorder)?;
        self.other_process(&mut group, recorder)?;
        recorder.progress("planted faults");
        self.planted(&mut group, recorder)?;
        self.serial(&mut group, recorder)?;
        let what = "sequence-alone-over-all";
        self.sequence_alone(&mut group, (what, degree), recorder)
    }

    fn planted(&self, group: &mut Group<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
        let degree = group.degree() as usize;
        let what = format!("degree-{degree}");
        let last = group.degree() - 1;
        for (control, fault) in [
            ("dropped-contribution", Fault::Dropped { rank: last, layer: LAYER }),
            (SWAPPED_SHARDS.name, Fault::Swapped { layer: LAYER }),
            (OTHER_ORDER.name, Fault::OtherOrder { rank: last, layer: LAYER }),
        ] {
            group.plant(Some(fault));
            let drift = self.compared(group, (0, 0))?;
            recorder.option(&format!("drift {control}"), drift.text());
            recorder.control(control, self.metric(METRIC, &what, degree, drift.count as f64));
        }
        group.plant(None);
        let place = Place::Linear(Linear::Up, LAYER);
        group.flip(last, place, 1_000_003)?;
        let drift = self.compared(group, (0, 0))?;
        group.flip(last, place, 1_000_003)?;
        recorder.option("drift flipped-bit", drift.text());
        let count = drift.count as f64;
        recorder.control("flipped-bit", self.metric(METRIC, &what, degree, count));
        group.plant(Some(Fault::Stray { rank: last, layer: LAYER }));
        let disagreeing = self.compared(group, (0, 0))?.disagreeing as f64;
        group.plant(None);
        let disagreeing = self.metric(AGREEMENT, &what, degree, disagreeing);
        recorder.control(STRAY_BIT.name, disagreeing);
        Ok(())
    }
}
