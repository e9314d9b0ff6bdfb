//! Which way of execution to choose when, what to do where one hangs, and what of torch.compile nothing here measures: a
//! note of the checklist of execution modes.

/// The note in Markdown.
pub fn text() -> String {
    NOTE.to_owned()
}

const NOTE: &str = "\
- Call by call (`touchstone measure model --exec-mode eager`) while shapes change from pass to pass, and to find what is \
wrong: each launch stands by itself.
- A CUDA graph (`graph`) where the same shapes come again. `model::graph-first-run` says what recording costs, \
`model::graph-memory` what it takes, `model::graph-pays-1b` after how many passes a small model has saved it; of the 48-layer \
model no gain is claimed, `model::graph-8x1024` and its like hold only that it is at most 5 % slower. The same of FP8 W8A8: \
`model::graph-first-run-fp8`, `model::graph-memory-fp8`, `model::graph-pays-1b-fp8`, `model::graph-8x1024-fp8`; of bf16 and W8A16 over 2048 tokens: \
`model::graph-first-run-bf16-w8a16`, `model::ways-memory-bf16-w8a16`, `model::graph-2x1024-bf16` and its like. Graphs are \
of one GPU; over several `search` and `smart` run call by call.
- Searched algorithms (`search`) where a model stays for long: `model::search-first-run`, `model::search-pays-1b`. They give \
the bits of the heuristic's (`model::algorithms-keep-bits`). Of products of E4M3 with scales of \
rows cuBLASLt named one candidate alone on an H200, so that there a search finds what the heuristic names.
- `smart` with `--budget-s` where nobody knows: it is `search` if that is ready in time and `eager` if not, and says which ran \
(`model::smart-says-which-ran`, of all 48 layers `model::smart-48-says-which-ran`).
- Weights alone in E4M3 (`--precision w8a16`) where memory is short and activations are to stay fp16: weights take half of \
their memory, and a pass makes halves of one after another (`model::w8a16-pass-vs-fp16`, \
`model::w8a16-pass-memory-by-formula`). Every chunk makes them again, so that one chunk is fastest there.
- Where a stage hangs: a case of this suite that does is ended at its budget and leaves a bundle, which has the command, \
versions, environment, the stacks of the process's threads, the last launch (`model::hang-leaves-a-bundle`) and, over \
several GPUs, the exchanges (`tensor-parallel::hang-leaves-a-bundle`); the smart way has cases of its own \
(`model::smart-hang-is-ended` and its like). `touchstone measure model` ends a stage behind `--stage-budget-s`, 900 s where \
nothing else is said, and leaves such a bundle under `target/hangs`; no claim is about that. Go on with `--exec-mode eager`, \
which neither tunes nor records (`model::plain-way-behind-a-hang`, `model::plain-way-behind-a-smart-hang`). \
`model::no-stage-hangs`, `tensor-parallel::no-stage-hangs` and the same of the smart way are this project's passes, not \
Inductor's.

Of torch.compile itself nothing here says:

- how long Dynamo, Inductor or Triton compile, whether they hang, what their caches save (000 lines 52 and 60, 004 \
section 2: the checkpoint and the script that are named there are not to be had);
- graph breaks, guards, and compiling again where a shape changes;
- the kernels that Inductor generates or fuses, the CUTLASS backend, its import failure and its fallback to Triton (002 \
lines 4, 7, 48, 61 and 97);
- `reduce-overhead` and `max-autotune` as they are: a graph and a search stand for what of them is launches and algorithms;
- backward passes and optimisers.

A compiled PyTorch block is a rival in `model::fp16-4x2048-vs-pytorch` and its like: of its time nothing is \
judged but the ratio to this project's passes.";
