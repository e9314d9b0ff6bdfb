//! `auto`: a product of fp16 matrices `D[m, n] = A[m, k] B[n, k]^T`, fp16 out, in the fastest arithmetic that is
//! foretold to keep an accuracy, and what was chosen and why. FP8 that was asked for and is not to be had is a
//! [`Refusal`], never another type.
//!
//! [`choose`] is a pure function of shape, board and wish. [`Multiplication`] is a product that was chosen so: it
//! names what it runs because it holds nothing else that could run.
//!
//! Errors are foretold from the formats ([`relative_error`]), time from rates of one H200 ([`foretold_us`]): of other
//! boards the order may be another.

mod foretold;

use std::fmt;

use crate::device::{Buffer, CudaStream, Gpu};
use crate::matmul::{Dtype, Lt, Operands, Plan, Request, WORKSPACE_BYTES};
use crate::quantise::{Extra, Quantised, Quantiser, Scheme};
use crate::weightonly::{self, WeightOnly};
use crate::{Error, Result};

pub use foretold::{foretold_us, relative_error};

/// How a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// fp16 by fp16, added in f32, by cuBLASLt.
    F16,
    /// E4M3 by E4M3 with a scale for each row of A and of B, groups of 128 added in f32, by cuBLASLt.
    E4m3Row,
    /// The same in one accumulator of 13 bits.
    E4m3RowFast,
    /// fp16 by E4M3 with a scale for each row of B, by [`weightonly`].
    WeightOnly,
}

impl Arithmetic {
    /// Every arithmetic, the most exact first.
    pub const ALL: [Arithmetic; 4] =
        [Arithmetic::F16, Arithmetic::WeightOnly, Arithmetic::E4m3Row, Arithmetic::E4m3RowFast];

    /// As evidence and options name it.
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::F16 => "fp16",
            Arithmetic::E4m3Row => "e4m3-row",
            Arithmetic::E4m3RowFast => "e4m3-row-fast",
            Arithmetic::WeightOnly => "e4m3-weight-only",
        }
    }

    /// Whether both operands are multiplied in FP8.
    pub fn is_fp8(self) -> bool {
        matches!(self, Arithmetic::E4m3Row | Arithmetic::E4m3RowFast)
    }

    /// Operands that are rounded to E4M3.
    fn rounded_operands(self) -> u32 {
        match self {
            Arithmetic::F16 => 0,
            Arithmetic::WeightOnly => 1,
            Arithmetic::E4m3Row | Arithmetic::E4m3RowFast => 2,
        }
    }
}

/// Sizes of a product: m rows of A, n rows of B, k columns of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of A and D.
    pub m: u32,
    /// Rows of B, columns of D.
    pub n: u32,
    /// Columns of A and B.
    pub k: u32,
}

impl Shape {
    /// What the shape lacks for an arithmetic; `None` where it fits.
    fn lacks(self, arithmetic: Arithmetic) -> Option<&'static str> {
        let Shape { m, n, k } = self;
        let rows = |rows: u32| 0 < rows && rows <= 1 << 24;
        let quantised = rows(n) && k > 0 && k.is_multiple_of(128) && k <= 32768;
        let (fits, needs) = match arithmetic {
            Arithmetic::F16 => (
                m > 0 && n > 0 && k > 0 && n.is_multiple_of(8) && k.is_multiple_of(8),
                "rows, and n and k in 8s",
            ),
            Arithmetic::WeightOnly => (
                quantised && (1..=weightonly::MOST_ROWS).contains(&m),
                "1 to 16 rows, and k in 128s up to 32768",
            ),
            Arithmetic::E4m3Row | Arithmetic::E4m3RowFast => (
                quantised && rows(m) && n.is_multiple_of(16),
                "rows, n in 16s, and k in 128s up to 32768",
            ),
        };
        if fits { None } else { Some(needs) }
    }
}

/// What a chooser knows of a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Arithmetics for which cuBLASLt has no algorithm here.
    pub without: Vec<Arithmetic>,
}

/// The first compute capability whose tensor cores multiply E4M3, and that of the other kernels.
const FIRST_E4M3: (u32, u32) = (8, 9);
const FIRST_OF_ALL: (u32, u32) = (8, 0);

impl Board {
    /// A GPU, of which nothing is known to be missing.
    pub fn of(gpu: &Gpu) -> Board {
        Board { compute_capability: gpu.compute_capability, without: Vec::new() }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Any arithmetic.
    Auto,
    /// FP8: both operands in E4M3.
    Fp8,
    /// One and no other.
    Only(Arithmetic),
}

impl Asked {
    /// What a name asks for: `auto`, `fp8`, or that of an [`Arithmetic`].
    ///
    /// Errors: [`Error::Shape`] with all names.
    pub fn named(name: &str) -> Result<Asked> {
        let one = Arithmetic::ALL.into_iter().find(|arithmetic| arithmetic.name() == name);
        match (name, one) {
            ("auto", _) => Ok(Asked::Auto),
            ("fp8", _) => Ok(Asked::Fp8),
            (_, Some(arithmetic)) => Ok(Asked::Only(arithmetic)),
            _ => {
                let names = Arithmetic::ALL.map(Arithmetic::name).join(", ");
                let what = format!("precision {name} is none of auto, fp8, {names}");
                Err(Error::Shape { what })
            }
        }
    }

    /// The name that asks for it.
    pub fn name(self) -> &'static str {
        match self {
            Asked::Auto => "auto",
            Asked::Fp8 => "fp8",
            Asked::Only(arithmetic) => arithmetic.name(),
        }
    }

    fn includes(self, arithmetic: Arithmetic) -> bool {
        match self {
            Asked::Auto => true,
            Asked::Fp8 => arithmetic.is_fp8(),
            Asked::Only(one) => one == arithmetic,
        }
    }
}

/// What a product must keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wish {
    /// The largest error that is allowed: its root mean square over that of the product, above 0.
    pub relative_error: f64,
    /// Whether that holds of sums of numbers of one sign too, from which fast accumulation takes a share that grows
    /// with k.
    pub keeps_sums: bool,
}

/// Why an arithmetic was not chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Obstacle {
    /// Another one was asked for.
    NotAsked,
    /// The chip does not have it.
    Board {
        /// What the chip is.
        compute_capability: (u32, u32),
        /// What it must be at least.
        needs: (u32, u32),
    },
    /// The shape does not fit it.
    Shape {
        /// What it needs.
        needs: &'static str,
    },
    /// cuBLASLt has no algorithm for it.
    NotOffered,
    /// It is foretold to err by more than is allowed.
    Error {
        /// The foretold error.
        foretold: f64,
    },
    /// It is foretold to take more time.
    Slower {
        /// The foretold time.
        foretold_us: f64,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NotAsked => write!(f, "not asked for"),
            Obstacle::Board { compute_capability: (major, minor), needs: (first, second) } => {
                write!(f, "compute capability {major}.{minor}, of at least {first}.{second}")
            }
            Obstacle::Shape { needs } => write!(f, "needs {needs}"),
            Obstacle::NotOffered => write!(f, "cublaslt has no algorithm"),
            Obstacle::Error { foretold } => write!(f, "foretold to err by {foretold:.2e}"),
            Obstacle::Slower { foretold_us } => write!(f, "foretold to take {foretold_us:.1} us"),
        }
    }
}

/// Why an arithmetic was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// It is foretold to be the fastest of several that may be had.
    Fastest,
    /// It is the only one that keeps the wish on this board and shape.
    OnlyOne,
    /// It was asked for by its name.
    Asked,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Because::Fastest => "the fastest that is foretold to keep the wish",
            Because::OnlyOne => "the only one that is foretold to keep the wish here",
            Because::Asked => "asked for",
        })
    }
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// How the product is computed.
    pub arithmetic: Arithmetic,
    /// Why.
    pub because: Because,
    /// Its foretold error, see [`relative_error`].
    pub relative_error: f64,
    /// Its foretold time.
    pub foretold_us: f64,
    /// Every other arithmetic, and why it was not chosen.
    pub passed_over: Vec<(Arithmetic, Obstacle)>,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chosen { arithmetic, because, relative_error, foretold_us, passed_over } = self;
        write!(f, "{}: {because}, to err by {relative_error:.2e}", arithmetic.name())?;
        write!(f, " and to take {foretold_us:.1} us; {}", listed(passed_over))
    }
}

fn listed(passed_over: &[(Arithmetic, Obstacle)]) -> String {
    let one = |(arithmetic, obstacle): &(Arithmetic, Obstacle)| {
        format!("{}: {obstacle}", arithmetic.name())
    };
    passed_over.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Why nothing was chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The wish is no error that could be kept.
    #[error("a relative error of {relative_error} is none that a product could keep")]
    Wish {
        /// What was wished.
        relative_error: f64,
    },
    /// No arithmetic that was asked for may be had.
    #[error("{} cannot be had: {}", asked.name(), listed(obstacles))]
    Unavailable {
        /// What was asked for.
        asked: Asked,
        /// Every arithmetic, and what keeps it from being chosen.
        obstacles: Vec<(Arithmetic, Obstacle)>,
    },
}

/// What keeps an arithmetic from being chosen, whatever others take.
fn obstacle(
    arithmetic: Arithmetic,
    shape: Shape,
    board: &Board,
    asked: Asked,
    wish: Wish,
) -> Option<Obstacle> {
    let compute_capability = board.compute_capability;
    let needs = if arithmetic.is_fp8() { FIRST_E4M3 } else { FIRST_OF_ALL };
    let foretold = relative_error(arithmetic, shape.k, wish.keeps_sums);
    if !asked.includes(arithmetic) {
        Some(Obstacle::NotAsked)
    } else if compute_capability < needs {
        Some(Obstacle::Board { compute_capability, needs })
    } else if let Some(needs) = shape.lacks(arithmetic) {
        Some(Obstacle::Shape { needs })
    } else if board.without.contains(&arithmetic) {
        Some(Obstacle::NotOffered)
    } else if foretold > wish.relative_error {
        Some(Obstacle::Error { foretold })
    } else {
        None
    }
}

/// The arithmetic that is foretold to be the fastest of those that were asked for, that the board and the shape
/// have, and that are foretold to keep the wish; of equally fast ones the most exact.
///
/// Errors: none may be had, with what each one lacks; a wish that is not above 0.
pub fn choose(
    shape: Shape,
    board: &Board,
    asked: Asked,
    wish: Wish,
) -> std::result::Result<Chosen, Refusal> {
    let Wish { relative_error: wished, keeps_sums } = wish;
    if wished.is_nan() || wished <= 0.0 {
        return Err(Refusal::Wish { relative_error: wished });
    }
    let mut passed_over = Vec::new();
    let mut able = Vec::new();
    for arithmetic in Arithmetic::ALL {
        match obstacle(arithmetic, shape, board, asked, wish) {
            Some(obstacle) => passed_over.push((arithmetic, obstacle)),
            None => able.push((arithmetic, foretold_us(arithmetic, shape))),
        }
    }
    // The first of several least ones, and so the most exact.
    let Some(&(arithmetic, foretold_us)) = able.iter().min_by(|x, y| x.1.total_cmp(&y.1)) else {
        return Err(Refusal::Unavailable { asked, obstacles: passed_over });
    };
    let slower = able.iter().filter(|(other, _)| *other != arithmetic);
    passed_over
        .extend(slower.map(|&(other, foretold_us)| (other, Obstacle::Slower { foretold_us })));
    let because = match (asked, able.len()) {
        (Asked::Only(_), _) => Because::Asked,
        (_, 1) => Because::OnlyOne,
        _ => Because::Fastest,
    };
    let relative_error = relative_error(arithmetic, shape.k, keeps_sums);
    Ok(Chosen { arithmetic, because, relative_error, foretold_us, passed_over })
}

/// What products of one GPU are made with.
#[derive(Debug, Clone, Copy)]
pub struct Tools<'a> {
    /// The GPU.
    pub gpu: &'a Gpu,
    /// Its cuBLASLt.
    pub lt: &'a Lt,
    /// Its quantisers.
    pub quantiser: &'a Quantiser,
    /// Its weight-only products.
    pub weight_only: &'a WeightOnly,
}

/// fp16 matrices of a product, packed, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Halves<'a> {
    /// A, m x k.
    pub a: &'a Buffer,
    /// B, n x k: weights, which stay as they are.
    pub b: &'a Buffer,
    /// D, m x n.
    pub d: &'a Buffer,
}

/// What an arithmetic runs with.
#[derive(Debug)]
enum Way {
    Halves(Plan),
    Codes { plan: Plan, a: Quantised, b: Quantised },
    Weights(Quantised),
}

/// A product in the arithmetic that was chosen for it.
#[derive(Debug)]
pub struct Multiplication<'a> {
    tools: Tools<'a>,
    matrices: Halves<'a>,
    shape: Shape,
    chosen: Chosen,
    way: Way,
}

impl<'a> Multiplication<'a> {
    /// Chooses, plans by cuBLASLt's first algorithm, and enqueues the quantisation of B where it needs one. What
    /// cuBLASLt has no algorithm for is passed over, and said to be.
    ///
    /// Errors: [`Error::Refused`]; buffers that are too small or of another GPU; a GPU that fails.
    pub fn new(
        tools: Tools<'a>,
        matrices: Halves<'a>,
        shape: Shape,
        asked: Asked,
        wish: Wish,
    ) -> Result<Multiplication<'a>> {
        let mut board = Board::of(tools.gpu);
        loop {
            let chosen = choose(shape, &board, asked, wish)?;
            match way(tools, matrices, shape, chosen.arithmetic) {
                Ok(way) => return Ok(Multiplication { tools, matrices, shape, chosen, way }),
                Err(error) if is_not_offered(&error) => {
                    board.without.push(chosen.arithmetic);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What was chosen, and why.
    pub fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// cuBLASLt's algorithm; `None` for the own kernel.
    pub fn algorithm(&self) -> Option<crate::matmul::Algorithm> {
        match &self.way {
            Way::Halves(plan) | Way::Codes { plan, .. } => Some(plan.choice().algorithm),
            Way::Weights(_) => None,
        }
    }

    /// Enqueues B's quantisation again, where it has one, on the GPU's own stream: for weights that have changed.
    pub fn weights_changed(&self) -> Result<()> {
        match &self.way {
            Way::Halves(_) => Ok(()),
            Way::Codes { b, .. } | Way::Weights(b) => {
                quantise_weights(self.tools, self.matrices.b, self.shape, b)
            }
        }
    }

    /// Enqueues the product, A's quantisation included.
    pub fn run(&self, stream: &CudaStream) -> Result<()> {
        let (Halves { a, b, d }, Shape { m, n, k }) = (self.matrices, self.shape);
        match &self.way {
            Way::Halves(plan) => plan.run(stream, &operands((a, b, d), None)),
            Way::Codes { plan, a: left, b: right } => {
                let sizes = (u64::from(m), k);
                let quantiser = self.tools.quantiser;
                quantiser.run(stream, Scheme::Row, a, sizes, left, Extra::default())?;
                let scales = Some([&left.scales, &right.scales]);
                plan.run(stream, &operands((&left.codes, &right.codes, d), scales))
            }
            Way::Weights(weights) => {
                let Quantised { codes, scales } = weights;
                self.tools.weight_only.run(stream, a, codes, Some(scales), d, (m, n, k))
            }
        }
    }
}

/// Whether cuBLASLt has no algorithm for what was asked of it, or does not know its kind of scale.
pub fn is_not_offered(error: &Error) -> bool {
    matches!(error, Error::BlasLt { call, reason } if not_offered(call, reason))
}

/// Whether cuBLASLt says that it has no algorithm, or does not know a kind of scale. Any other failure is one of the
/// machine, behind which nothing else is taken.
fn not_offered(call: &str, reason: &str) -> bool {
    let status = |name: &str| reason.ends_with(name);
    match call {
        "cublasLtMatmulAlgoGetHeuristic" => {
            reason.starts_with("no algorithm for") || status("NOT_SUPPORTED")
        }
        "cublasLtMatmulDescSetAttribute" => status("NOT_SUPPORTED") || status("INVALID_VALUE"),
        _ => false,
    }
}

fn operands<'a>(
    (a, b, d): (&'a Buffer, &'a Buffer, &'a Buffer),
    scales: Option<[&'a Buffer; 2]>,
) -> Operands<'a> {
    let [scale_a, scale_b] = [0, 1].map(|at| scales.map(|scales| scales[at]));
    Operands { a, b, d, scale_a, scale_b, alpha: 1.0, first: [0; 3] }
}

/// Enqueues B's quantisation.
fn quantise_weights(tools: Tools<'_>, b: &Buffer, shape: Shape, target: &Quantised) -> Result<()> {
    let (stream, sizes) = (tools.gpu.stream(), (u64::from(shape.n), shape.k));
    tools.quantiser.run(stream, Scheme::Row, b, sizes, target, Extra::default())
}

/// Plans and memory of an arithmetic; B's quantisation is enqueued.
fn way(
    tools: Tools<'_>,
    matrices: Halves<'_>,
    shape: Shape,
    arithmetic: Arithmetic,
) -> Result<Way> {
    let (Halves { a, b, d }, Shape { m, n, k }) = (matrices, shape);
    let request = |dtype| Request {
        fast_accumulation: arithmetic == Arithmetic::E4m3RowFast,
        workspace_bytes: WORKSPACE_BYTES,
        ..Request::new(dtype, m, n, k)
    };
    let planned = |dtype, given: Operands<'_>| {
        Plan::heuristic_first(tools.gpu, tools.lt, request(dtype), &given)
    };
    let memory = |rows: u32| Quantised::new(tools.gpu, Scheme::Row, rows.into(), k);
    let weights = || -> Result<Quantised> {
        let target = memory(n)?;
        quantise_weights(tools, b, shape, &target)?;
        Ok(target)
    };
    Ok(match arithmetic {
        Arithmetic::F16 => Way::Halves(planned(Dtype::F16, operands((a, b, d), None))?),
        Arithmetic::WeightOnly => Way::Weights(weights()?),
        Arithmetic::E4m3Row | Arithmetic::E4m3RowFast => {
            let (a, b) = (memory(m)?, weights()?);
            let given = operands((&a.codes, &b.codes, d), Some([&a.scales, &b.scales]));
            Way::Codes { plan: planned(Dtype::E4m3RowHalf, given)?, a, b }
        }
    })
}

#[cfg(test)]
mod tests;
