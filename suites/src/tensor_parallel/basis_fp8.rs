//! `basis` of E4M3: a product's element has the same bits however many of its columns or rows are asked for, by
//! cuBLASLt and by the own kernel.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::element::Element;
use kernels::libraries::Library;
use kernels::matmul::Dtype;
use kernels::model::Config;
use kernels::operands;

use super::basis::{By, FEWER_ROWS, HEAD, METRIC, Product, ROWS, SUMMED};
use super::bench;
use crate::e4m3;
use crate::lab::{self, Lab};

const FLIPPED: Control = control(
    "flipped-bit",
    "the lowest mantissa bit of one weight is flipped",
    METRIC,
    Expect::Refuted,
);
static CONTROLS: [Control; 2] = [
    control(
        "fast-accumulation",
        "shares of the columns are made with fast accumulation, which keeps 13 bits of a running sum",
        METRIC,
        Expect::Refuted,
    ),
    FLIPPED,
];
static OWN_CONTROLS: [Control; 2] = [
    control(
        "sums-of-128",
        "shares of the columns are made by cuBLASLt, whose sums go to f32 after 128 columns",
        METRIC,
        Expect::Refuted,
    ),
    FLIPPED,
];

/// cuBLASLt's, each GPU.
pub static CASE: Case = Case {
    id: "tensor-parallel::basis-fp8",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The four products of a layer of the 48-layer model over 8192 tokens in E4M3, with a scale for each row of \
                both matrices, into halves, precise, no workspace, no split of k; random data and scales. Every element of \
                the result of cuBLASLt's first algorithm is compared, bit by bit, with products of a half, a quarter \
                and an eighth of the columns, also added to what is there, and of fewer rows down to one, each by the \
                first algorithm that is offered for it; with shares of the head's columns over one to eight rows too.",
    samples: 0,
    expected_s: 2.0,
    deadline_s: 200.0,
    kernels: bench::KERNELS,
    integrity: &[],
    controls: &CONTROLS,
    run: |assignment, recorder| basis(assignment, recorder, false),
};

/// The own kernel's, each GPU.
pub static OWN_CASE: Case = Case {
    id: "tensor-parallel::basis-fp8-own",
    procedure: "As tensor-parallel::basis-fp8, by the own kernel, whose sums go to f32 after 256 columns; without the head, \
                which is cuBLASLt's in a model of own products too.",
    kernels: &["model", "operands", "pattern", "timing", "promoted"],
    controls: &OWN_CONTROLS,
    run: |assignment, recorder| basis(assignment, recorder, true),
    ..CASE
};

/// The product in which faults are planted.
const PLANTED: &str = "8192x32768";
/// Standard deviations of the codes of both matrices: sums of 32768, scaled, stay far below what halves hold.
const DEVIATIONS: [f32; 2] = [1.0, 0.25];
const LIBRARY: By<'static> = By::Library { fast: false };

fn basis(assignment: &Assignment, recorder: &mut Recorder, own: bool) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    e4m3::has_e4m3(gpu)?;
    let load = &mut |source| lab.module(gpu, source, recorder);
    let tools = bench::tools(gpu, load)?;
    let kernel = if own { Some(e4m3::promoted(gpu, load)?) } else { None };
    let by = kernel.as_ref().map_or(LIBRARY, By::Own);
    let of = (Dtype::E4m3RowHalf, DEVIATIONS);
    for (at, (n, k)) in Config::SEED_002.products().into_iter().enumerate() {
        let name = &format!("{n}x{k}");
        recorder.progress(name);
        let seed = assignment.seed + 8 * at as u64;
        let product = Product::of((gpu, &tools), of, (ROWS, n, k), seed, by)?;
        let place = |what| [("product", name.as_str()), ("what", what)];
        let metric = |what, count: u64| Metric::exact(METRIC, &place(what), &[index], count as f64);
        if !own {
            let offered = product.offered()?;
            recorder.option(&format!("algorithms of {name}"), offered.join("; "));
        }
        recorder.metric(metric("columns", product.columns(by)?));
        if n == SUMMED {
            recorder.metric(metric("summed", product.summed(seed + 2, by)?));
        }
        for rows in FEWER_ROWS {
            let rows_name = rows.to_string();
            let place =
                [("product", name.as_str()), ("what", "rows"), ("rows", rows_name.as_str())];
            let count = product.rows(rows, by)? as f64;
            recorder.metric(Metric::exact(METRIC, &place, &[index], count));
        }
        if name == PLANTED {
            let (control, other) = match own {
                false => (CONTROLS[0].name, By::Library { fast: true }),
                true => (OWN_CONTROLS[0].name, LIBRARY),
            };
            recorder.control(control, metric("columns", product.columns(other)?));
            let (stream, weights) = (gpu.stream(), &product.b);
            operands::flip_bit(&tools.patterns, stream, weights, Element::E4m3, 12_345, 0)?;
            recorder.control(FLIPPED.name, metric("columns", product.columns(by)?));
        }
    }
    if !own {
        recorder.progress("head");
        let mut count = 0;
        for rows in [1, 4, 8] {
            let sizes = (rows, HEAD.1, HEAD.2);
            count += Product::of((gpu, &tools), of, sizes, assignment.seed, by)?.columns(by)?;
        }
        let place = [("product", HEAD.0), ("what", "head")];
        recorder.metric(Metric::exact(METRIC, &place, &[index], count as f64));
    }
    lab.close(recorder);
    Ok(())
}
