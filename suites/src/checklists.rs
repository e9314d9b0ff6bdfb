//! The checklists that are generated, as data. The generator stands in `harness`.

use harness::report::checklist::{Checklist, Section};

/// Every generated checklist.
pub static ALL: &[Checklist] = &[
    Checklist {
        file: "00-hardware.md",
        title: "Hardware",
        intro: "What a GPU node must be before any other claim means something: the GPUs are there and \
            healthy, they are linked as documented, memory and tensor cores run at their rates, and \
            the results are right.",
        sections: &[
            Section {
                heading: "Health and kernels",
                origin: "000 Completed Features, Hardware Validation; 001 What Works",
                claims: &[
                    "env::gpus-agree",
                    "env::pattern-read-back",
                    "env::kernels-answer",
                    "env::ecc-clean",
                    "env::rows-remapped",
                    "env::nccl-environment",
                ],
            },
            Section {
                heading: "The suite's own honesty",
                origin: "001 What Works; 000 Contributing; 004 introduction",
                claims: &[
                    "env::self-check",
                    "env::ticks-cite-evidence",
                    "env::evidence-is-reproducible",
                    "env::illegal-address-is-contained",
                    "env::endless-kernel-is-ended",
                    "env::sanitizer-clean",
                ],
            },
            Section {
                heading: "Topology",
                origin: "000 Latest Validation",
                claims: &[
                    "topology::nvlink-lanes",
                    "topology::nvlink-lane-rate",
                    "topology::peer-access",
                    "topology::no-pcie-pair",
                    "topology::nvlink-mesh-n8",
                ],
            },
            Section {
                heading: "Memory bandwidth",
                origin: "000 Completed Features, Hardware Validation",
                claims: &[
                    "bandwidth::hbm-read",
                    "bandwidth::hbm-write",
                    "bandwidth::hbm-copy",
                    "bandwidth::hbm-triad",
                    "bandwidth::hbm-read-spread",
                    "bandwidth::copy-vs-pytorch",
                    "bandwidth::hbm-35-percent-is-false",
                ],
            },
            Section {
                heading: "Host link",
                origin: "this project",
                claims: &[
                    "bandwidth::host-to-device",
                    "bandwidth::device-to-host",
                    "bandwidth::host-to-device-all",
                    "bandwidth::device-to-host-all",
                ],
            },
            Section {
                heading: "Compute",
                origin: "000 Completed Features, Hardware Validation; 002 FP8 tables",
                claims: &[
                    "compute::fp16-exact",
                    "compute::fp16-8192-cubed",
                    "compute::fp16-16384-cubed",
                    "compute::fp16-8192x24576x8192",
                    "compute::fp16-8192x32768x8192",
                    "compute::fp16-8192x8192x32768",
                    "compute::fp16-8192x4096x8192",
                    "compute::bf16-exact",
                    "compute::bf16-8192-cubed",
                    "compute::bf16-16384-cubed",
                    "compute::bf16-8192x24576x8192",
                    "compute::bf16-8192x32768x8192",
                    "compute::bf16-8192x8192x32768",
                    "compute::bf16-8192x4096x8192",
                    "compute::tf32-exact",
                    "compute::tf32-8192-cubed",
                    "compute::tf32-16384-cubed",
                    "compute::tf32-8192x24576x8192",
                    "compute::tf32-8192x32768x8192",
                    "compute::tf32-8192x8192x32768",
                    "compute::tf32-8192x4096x8192",
                    "compute::fp8-exact",
                    "compute::fp8-8192-cubed",
                    "compute::fp8-16384-cubed",
                    "compute::fp8-8192x24576x8192",
                    "compute::fp8-8192x32768x8192",
                    "compute::fp8-8192x8192x32768",
                    "compute::fp8-8192x4096x8192",
                    "compute::fp8-rowwise-exact",
                    "compute::fp8-rowwise-8192-cubed",
                    "compute::fp8-rowwise-16384-cubed",
                    "compute::fp8-rowwise-8192x24576x8192",
                    "compute::fp8-rowwise-8192x32768x8192",
                    "compute::fp8-rowwise-8192x8192x32768",
                    "compute::fp8-rowwise-8192x4096x8192",
                    "compute::int8-exact",
                    "compute::int8-8192-cubed",
                    "compute::int8-16384-cubed",
                    "compute::int8-8192x24576x8192",
                    "compute::int8-8192x32768x8192",
                    "compute::int8-8192x8192x32768",
                    "compute::int8-8192x4096x8192",
                    "compute::fp16-spread",
                    "compute::fp16-sustained",
                    "compute::fp8-sustained",
                    "compute::fp16-vs-pytorch",
                    "compute::fp8-vs-pytorch",
                ],
            },
        ],
    },
    Checklist {
        file: "04-long-context.md",
        title: "Long context",
        intro: "What a sequence of 32768 tokens and more asks of attention: right results at every length, \
            no memory that grows with the square of the tokens, and a rate that does not fall.",
        sections: &[Section {
            heading: "Attention over long sequences",
            origin: "000 section 9; 004 section 4",
            claims: &[
                "attention::exact-8k",
                "attention::exact-32k",
                "attention::exact-64k",
                "attention::exact-128k",
                "attention::long-log-sum-exp",
                "attention::memory-linear",
                "attention::full-8k",
                "attention::full-16k",
                "attention::causal-4x2k",
                "attention::causal-8k",
                "attention::causal-16k",
                "attention::causal-32k",
                "attention::window-rate",
                "attention::timed-is-right",
                "attention::full-8k-vs-pytorch",
                "attention::full-16k-vs-pytorch",
                "attention::causal-4x2k-vs-pytorch",
                "attention::causal-8k-vs-pytorch",
                "attention::causal-16k-vs-pytorch",
                "attention::causal-32k-vs-pytorch",
                "attention::vs-pytorch-is-right",
                "attention::documents-vs-flex",
                "attention::documents-vs-flex-is-right",
            ],
        }],
    },
    Checklist {
        file: "05-large-model.md",
        title: "Large model",
        intro: "What a large model promises: its attention, with any mask; the same bits wherever a row is \
            computed; and the whole model over several GPUs with the bits of one.",
        sections: &[
            Section {
                heading: "Attention with any mask",
                origin: "000 section 5; 001 section 7",
                claims: &[
                    "attention::exact-fp16",
                    "attention::exact-bf16",
                    "attention::log-sum-exp",
                    "attention::ragged-exact",
                    "attention::sequences-are-isolated",
                    "attention::queries-without-keys",
                    "attention::queries-without-keys-give-zeros",
                    "attention::more-queries-than-keys",
                    "attention::programmable",
                    "attention::sliding-window",
                    "attention::data-dependent-mask",
                    "attention::programs-mean-what-they-say",
                    "attention::programmable-log-sum-exp",
                    "attention::backend-flex",
                    "attention::backend-sdpa",
                    "attention::backend-auto",
                ],
            },
            Section {
                heading: "The same bits everywhere",
                origin: "000 section 5; 001 section 7",
                claims: &[
                    "attention::run-to-run",
                    "attention::batch-invariant",
                    "attention::heads-invariant",
                    "attention::chunk-invariant",
                    "attention::ragged-equals-padded",
                    "attention::fused-qkv",
                    "attention::window-as-long-is-causal",
                    "attention::window-program-is-plain",
                    "attention::outside-the-window",
                    "attention::heads-over-gpus-tp2",
                    "attention::heads-over-gpus-tp4",
                    "attention::heads-over-gpus-tp8",
                ],
            },
            Section {
                heading: "Decoding",
                origin: "004 section 1",
                claims: &[
                    "attention::decode-exact",
                    "attention::decode-batch-invariant",
                    "attention::decode-run-to-run",
                    "attention::decode-rate-fp16",
                    "attention::decode-rate-grouped",
                    "attention::decode-rate-e4m3",
                    "attention::decode-timed-is-right",
                ],
            },
            Section {
                heading: "Attention in FP8",
                origin: "000 section 5; 004 section 1",
                claims: &[
                    "attention::fp8-exact",
                    "attention::fp8-of-fp16",
                    "attention::fp8-sums",
                    "attention::fp8-run-to-run",
                    "attention::fp8-batch-invariant",
                    "attention::fp8-full-8k",
                    "attention::fp8-full-16k",
                    "attention::fp8-causal-16k",
                    "attention::fp8-over-fp16",
                    "attention::fp8-timed-is-right",
                ],
            },
            Section {
                heading: "Tensor parallel without drift",
                origin: "000 Latest Validation, Large-Model Testing; 002 tensor-parallel prototype",
                claims: &[
                    "tensor-parallel::logits-vs-f64",
                    "tensor-parallel::any-algorithm",
                    "tensor-parallel::any-columns",
                    "tensor-parallel::any-rows",
                    "tensor-parallel::run-to-run",
                    "tensor-parallel::new-process",
                    "tensor-parallel::sequence-alone",
                    "tensor-parallel::layer-split",
                    "tensor-parallel::micro-batches",
                    "tensor-parallel::zero-drift-tp2",
                    "tensor-parallel::zero-drift-tp4",
                    "tensor-parallel::zero-drift-tp8",
                    "tensor-parallel::any-order",
                    "tensor-parallel::overlap-keeps-bits",
                    "tensor-parallel::ranks-agree",
                    "tensor-parallel::late-is-right",
                    "tensor-parallel::late-is-late",
                    "tensor-parallel::flops-balanced",
                    "tensor-parallel::bytes-balanced",
                    "tensor-parallel::nothing-left-out",
                    "tensor-parallel::memory-tp2-4x2048",
                    "tensor-parallel::tp2-4x2048",
                    "tensor-parallel::tp4-8x1024",
                    "tensor-parallel::tp8-8x1024",
                ],
            },
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_stands_in_one_checklist_and_every_line_is_a_claim() {
        let claims = crate::claims();
        let lines: Vec<&str> =
            ALL.iter().flat_map(|list| list.sections).flat_map(|s| s.claims).copied().collect();
        for claim in &claims {
            let times = lines.iter().filter(|line| **line == claim.id).count();
            assert_eq!(times, 1, "{}", claim.id);
        }
        for line in lines {
            assert!(claims.iter().any(|claim| claim.id == line), "{line}");
        }
    }
}
