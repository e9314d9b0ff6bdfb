//! Suite `precision`: formats of few bits, quantisers, the accumulator that FP8 products really have, and
//! what FP8 saves with its quantisation counted in, and what each precision costs a model that was trained.

mod accumulator;
mod accuracy;
mod adder;
mod auto;
mod bad_input;
mod claims;
mod formats;
mod fused;
mod integers;
mod language;
pub mod measure;
mod microscaled;
mod native_products;
mod normed;
mod operands;
pub mod product;
mod products;
mod promoted;
mod promoted_claims;
mod quantisers;
mod random;
mod rates;
mod scaled;
mod ternary;
mod weight_memory;
mod weight_only;
mod weight_rates;

use harness::case::Case;
use harness::claim::Claim;
use harness::report::measured::{Place, Shown, Table};

pub use promoted_claims::CLAIMS as PROMOTED_CLAIMS;
pub use scaled::foretold_errors;

/// Claims, in checklist order.
pub static CLAIMS: &[&Claim] = claims::CLAIMS;

/// What each precision costs the trained model.
pub const COSTS: Table = Table {
    heading: "What each precision costs the small model",
    intro: "All that the cases of the verified claims of cross-entropy told, judged or not: how far the mean over 47 documents moves from f32's, in percent \
            with its 95 % interval by Student's t, the divergence of what is foretold, and for how many bytes the same next one comes \
            first; of several GPUs the worst. `outliers` is the model with planted outlier channels.",
    claims: &[
        "precision::fp16-cross-entropy",
        "precision::bf16-cross-entropy",
        "precision::w8a16-cross-entropy",
        "precision::fp8-tensor-cross-entropy",
        "precision::fp8-row-cross-entropy",
        "precision::fp8-block-cross-entropy",
        "precision::nvfp4-weights-cross-entropy",
        "precision::outliers-fp8-row-cross-entropy",
        "precision::outliers-bf16-cross-entropy",
        "precision::outliers-fp8-block-cross-entropy",
    ],
    places: &[
        Place { key: "model", title: "model", otherwise: "-" },
        Place { key: "precision", title: "precision", otherwise: "-" },
    ],
    figures: &[
        (accuracy::CHANGE, "moved, %", Shown::Mean),
        (accuracy::DIVERGENCE, "divergence, nats", Shown::Largest),
        (accuracy::AGREEMENT, "same first, %", Shown::Least),
    ],
};

/// Cases, in the order in which they run.
pub static CASES: &[&Case] = &[
    &formats::CASE,
    &formats::NATIVE_CASE,
    &integers::CASE,
    &ternary::CASE,
    &quantisers::CASE,
    &quantisers::non_finite::CASE,
    &quantisers::swept::CASE,
    &accumulator::CASE,
    &adder::F16_CASE,
    &adder::E4M3_CASE,
    &products::CASE,
    &products::blocks::CASE,
    &products::foretold::CASE,
    &products::bounded::CASE,
    &promoted::CASE,
    &promoted::LARGE_CASE,
    &auto::CASE,
    &accuracy::CASE,
    &accuracy::fp8::CASE,
    &accuracy::blocks::CASE,
    &accuracy::outliers::CASE,
    &random::CASE,
    &random::E4M3_CASE,
    &bad_input::CASE,
    &microscaled::CASE,
    &native_products::CASE,
    &weight_only::CASE,
    &weight_memory::CASE,
    &weight_rates::CASE,
    &rates::CASE,
    &rates::large::CASE,
    &rates::ternary::CASE,
    &rates::products::CASE,
    &rates::promoted::CASE,
    &rates::promoted::LOAD_CASE,
];

#[cfg(test)]
mod tests {
    use super::*;
    use harness::evidence::Tier;
    use std::collections::BTreeMap;
    use std::path::Path;

    /// Seconds that the suite may take of a GPU in tier quick.
    const MOST_S: f64 = 60.0;

    /// Of the newest recorded run over one or two GPUs that measured most of the suite's quick cases the seconds of each
    /// GPU. Of more GPUs the cases share one host's cores, so that it is the host that is timed.
    #[test]
    fn the_quick_tier_takes_less_than_a_minute_of_a_gpu() {
        let evidence = Path::new(env!("CARGO_MANIFEST_DIR")).join("../checklists/evidence");
        let quick: Vec<&str> =
            CASES.iter().filter(|case| case.tier == Tier::Quick).map(|case| case.id).collect();
        let folders = |path: &Path| -> Vec<std::path::PathBuf> {
            let entries = std::fs::read_dir(path).expect("a folder").flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
        };
        let mut runs: Vec<_> = folders(&evidence).iter().flat_map(|board| folders(board)).collect();
        runs.sort_by_key(|run| run.file_name().map(ToOwned::to_owned));
        let judged = runs.iter().rev().find_map(|run| {
            let mut seconds: BTreeMap<u64, f64> = BTreeMap::new();
            let mut found = 0;
            for file in std::fs::read_dir(run).expect("a run").flatten() {
                if !file.file_name().to_string_lossy().starts_with("precision-") {
                    continue;
                }
                let text = std::fs::read_to_string(file.path()).expect("evidence");
                let case: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                if !quick.iter().any(|id| case["case"] == *id) {
                    continue;
                }
                let parts = case["parts"].as_array().map_or(&[][..], Vec::as_slice);
                let measured = |part: &serde_json::Value| part["outcome"] != "not-run";
                found += usize::from(parts.iter().all(measured) && parts.len() <= 2);
                for part in parts {
                    let gpu = part["devices"][0]["gpu"].as_u64().unwrap_or_default();
                    *seconds.entry(gpu).or_default() += part["wall_s"].as_f64().unwrap_or_default();
                }
            }
            (found + 4 >= quick.len()).then_some((run, seconds))
        });
        let (run, seconds) = judged.expect("a recorded run of the suite");
        for (gpu, seconds) in seconds {
            assert!(seconds < MOST_S, "{}: gpu{gpu} took {seconds:.1} s", run.display());
        }
    }
}
