//! Is what was named what ran? At drawn elements of a product stand rows whose exact sums are 0: what is left of them
//! are the bits of one arithmetic's adder and of no other's.

use std::collections::{BTreeMap, BTreeSet};

use half::f16;
use harness::record::{Recorder, Stop};
use kernels::auto::{Arithmetic, Asked, Multiplication, Shape};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::tensorcore::{self, Adder};
use kernels::weightonly::oracle;

use super::{ANY, Bench, MISNAMED, Matrices, NAMED, note};
use crate::lab;
use crate::precision::accumulator;

/// Elements that are compared with a model: of a product that is asked for its name, and of one that was timed.
const DRAWN: u64 = 512;
pub const DRAWN_TIMED: u64 = 128;

/// Another arithmetic that runs where one is named.
const EXCHANGED: [(&str, Arithmetic, Arithmetic); 5] = [
    ("e4m3-called-fp16", Arithmetic::F16, Arithmetic::E4m3Row),
    ("fp16-called-e4m3", Arithmetic::E4m3Row, Arithmetic::F16),
    ("fp16-called-e4m3", Arithmetic::E4m3RowFast, Arithmetic::F16),
    ("precise-called-fast", Arithmetic::E4m3RowFast, Arithmetic::E4m3Row),
    ("both-called-weight-only", Arithmetic::WeightOnly, Arithmetic::E4m3Row),
];

/// Rows of a matrix in codes of E4M3, with powers of two as their scales: every arithmetic holds them.
struct Rows {
    codes: BTreeMap<u32, Vec<u8>>,
}

impl Rows {
    /// Random codes whose second half of columns is the first, in another order and, where `turned`, with the other
    /// sign: exact products of a turned row and one that is not are 0. One column of each half has the largest code,
    /// where the other matrix has none, so that a row's scale is its power of two.
    fn cancelling(rows: BTreeSet<u32>, k: u32, seed: u64, turned: bool) -> Rows {
        let half = u64::from(k / 2);
        let code = |row: u32, column: u64| {
            let twin = column.checked_sub(half).map(|at| (37 * at + 11) % half);
            let from = twin.unwrap_or(column);
            let at = u64::from(row) * u64::from(k) + from;
            let code = match (from, turned) {
                (0, true) | (1, false) => 0x7E,
                (0, false) | (1, true) => 0,
                _ => accumulator::wide_code(Element::E4m3, seed, at),
            };
            (if twin.is_some() && turned { code ^ 0x80 } else { code }) as u8
        };
        let rows: Vec<u32> = rows.into_iter().collect();
        let made = lab::over_cores(&rows, |row| -> Vec<u8> {
            (0..u64::from(k)).map(|column| code(*row, column)).collect()
        });
        Rows { codes: rows.into_iter().zip(made).collect() }
    }

    fn scale(row: u32) -> f32 {
        2f32.powi((row % 3) as i32 - 1)
    }

    fn row(&self, row: u32) -> Vec<u32> {
        self.codes[&row].iter().map(|code| u32::from(*code)).collect()
    }

    /// Codes of fp16 of a row, with its scale or another.
    fn halves(&self, row: u32, scale: f32) -> Vec<u16> {
        let half = |code: u8| f16::from_f32(Element::E4m3.decode(code.into()) as f32 * scale);
        let known: Vec<u16> = (0..=u8::MAX).map(|code| half(code).to_bits()).collect();
        self.codes[&row].iter().map(|code| known[usize::from(*code)]).collect()
    }

    fn half_row(&self, row: u32, scale: f32) -> Vec<u32> {
        self.halves(row, scale).into_iter().map(u32::from).collect()
    }

    /// Writes the rows as halves over those that a matrix has.
    fn upload(&self, gpu: &Gpu, matrix: &Buffer) -> Result<(), Stop> {
        for (row, codes) in &self.codes {
            let halves = self.halves(*row, Rows::scale(*row));
            let offset = 2 * u64::from(*row) * codes.len() as u64;
            matrix.write(gpu.stream(), offset, &halves)?;
        }
        Ok(())
    }
}

/// Elements of a product, and the rows of A and B that make them.
pub struct Drawn {
    shape: Shape,
    places: Vec<(u32, u32)>,
    a: Rows,
    b: Rows,
}

impl Drawn {
    pub fn new(shape: Shape, seed: u64, count: u64) -> Drawn {
        let Shape { m, n, k } = shape;
        let words = (0..count).map(|i| draw(0xD2A7, i));
        let places: Vec<(u32, u32)> = words.map(|word| (word % m, word / m % n)).collect();
        let (rows, columns) = places.iter().copied().unzip();
        let a = Rows::cancelling(rows, k, seed ^ 21, true);
        let b = Rows::cancelling(columns, k, seed ^ 22, false);
        Drawn { shape, places, a, b }
    }

    /// Puts the rows into matrices of the shape, whose other rows stay.
    pub fn upload(&self, gpu: &Gpu, matrices: &Matrices) -> Result<(), Stop> {
        self.a.upload(gpu, &matrices.a)?;
        self.b.upload(gpu, &matrices.b)
    }

    /// The code of fp16 of one element as an arithmetic makes it.
    fn element(&self, arithmetic: Arithmetic, (row, column): (u32, u32)) -> u32 {
        let (scale_a, scale_b) = (Rows::scale(row), Rows::scale(column));
        let narrow = |promoted| {
            let (a, b) = (self.a.row(row), self.b.row(column));
            let sum = tensorcore::dot(Adder::HOPPER_E4M3, Element::E4m3, promoted, &a, &b);
            sum * (scale_a * scale_b)
        };
        let a = || self.a.half_row(row, scale_a);
        let sum = match arithmetic {
            Arithmetic::F16 => {
                let b = self.b.half_row(column, scale_b);
                tensorcore::dot(Adder::HOPPER_F16, Element::F16, None, &a(), &b)
            }
            Arithmetic::E4m3Row => narrow(Some(4)),
            Arithmetic::E4m3RowFast => narrow(None),
            Arithmetic::WeightOnly => {
                let b = self.b.half_row(column, 1.0);
                return oracle::foretold(Adder::HOPPER_F16, &a(), &b, Some(scale_b));
            }
        };
        Element::F16.encode(sum)
    }

    /// Every drawn element as an arithmetic makes it.
    fn foretold(&self, arithmetic: Arithmetic) -> Vec<u32> {
        lab::over_cores(&self.places, |place| self.element(arithmetic, *place))
    }

    /// Runs a product of matrices with these rows, its result poisoned before, and reads the drawn elements.
    fn found(
        &self,
        gpu: &Gpu,
        matrices: &Matrices,
        one: &Multiplication<'_>,
    ) -> Result<Vec<u32>, Stop> {
        let stream = gpu.stream();
        matrices.d.poison(stream)?;
        one.run(stream)?;
        let mut found = Vec::with_capacity(self.places.len());
        for (row, column) in &self.places {
            let mut code = [0u16];
            let at = u64::from(*row) * u64::from(self.shape.n) + u64::from(*column);
            matrices.d.read(stream, 2 * at, &mut code)?;
            found.push(code[0].into());
        }
        Ok(found)
    }

    /// The arithmetic whose model foretells most of what was found: the named one, unless another does better.
    fn active(&self, named: Arithmetic, misnamed: u64, found: &[u32]) -> Arithmetic {
        let (mut active, mut least) = (named, misnamed);
        for other in Arithmetic::ALL.into_iter().filter(|other| *other != named) {
            if least == 0 {
                break;
            }
            let wrong = differing(&self.foretold(other), found);
            if wrong < least {
                (active, least) = (other, wrong);
            }
        }
        active
    }
}

/// Elements that are not what was wanted. A zero may have either sign, and what is no number is never wanted.
fn differing(wanted: &[u32], found: &[u32]) -> u64 {
    let number = |code: &u32| Element::F16.decode(*code);
    wanted.iter().zip(found).filter(|(wanted, found)| number(wanted) != number(found)).count()
        as u64
}

/// Compares a product of matrices that hold the drawn rows with the model of what it is named, and with others run in
/// its place. `part` and `request` are as evidence names them.
pub fn prove(
    bench: &Bench<'_>,
    (matrices, drawn): (&Matrices, &Drawn),
    one: &Multiplication<'_>,
    (part, request): (&str, &'static str),
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let (gpu, named) = (bench.tools.gpu, one.chosen().arithmetic);
    let count = |wrong: u64| bench.exact(MISNAMED, request, wrong as f64);
    let wanted = drawn.foretold(named);
    let mut found = drawn.found(gpu, matrices, one)?;
    let misnamed = differing(&wanted, &found);
    recorder.metric(count(misnamed));
    let active = drawn.active(named, misnamed, &found);
    recorder.mode(&format!("auto, {part} {request}"), named.name(), active.name());
    found[0] ^= 1;
    recorder.control("a-bit-of-one", count(differing(&wanted, &found)));
    for (control, called, ran) in EXCHANGED {
        if called == named {
            let other = matrices.multiplied(bench.tools, Asked::Only(ran), ANY)?;
            let found = drawn.found(gpu, matrices, &other)?;
            recorder.control(control, count(differing(&wanted, &found)));
        }
    }
    Ok(())
}

/// Has each arithmetic named and proves it.
pub fn names(bench: &Bench<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("names");
    let mut last: Option<Drawn> = None;
    for request in NAMED {
        let drawn = match last.take() {
            Some(drawn) if drawn.shape == request.shape => drawn,
            _ => Drawn::new(request.shape, bench.seed, DRAWN),
        };
        let matrices = bench.random(request.shape, false)?;
        drawn.upload(bench.tools.gpu, &matrices)?;
        let one = matrices.multiplied(bench.tools, Asked::Auto, request.wish)?;
        note(recorder, "names", request.name, &one);
        prove(bench, (&matrices, &drawn), &one, ("names", request.name), recorder)?;
        last = Some(drawn);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over the k of every product whose name is proved.
    #[test]
    fn what_cancels_tells_every_arithmetic_from_every_other() {
        for k in [512, 4096, 8192, 16384] {
            let drawn = Drawn::new(Shape { m: 8, n: 64, k }, 1, 64);
            let bits = Arithmetic::ALL.map(|one| drawn.foretold(one));
            let finite = |code: &u32| Element::F16.decode(*code).is_finite();
            assert!(bits.iter().flatten().all(finite), "{k}");
            for (i, one) in bits.iter().enumerate() {
                for other in &bits[..i] {
                    let different = differing(one, other);
                    assert!(different >= 32, "{different} of 64 over {k}");
                }
            }
            let exact = |(row, column): &(u32, u32)| {
                tensorcore::exact(Element::E4m3, &drawn.a.row(*row), &drawn.b.row(*column))
            };
            assert!(drawn.places.iter().all(|place| exact(place) == 0.0), "{k}");
        }
    }

    #[test]
    fn what_is_active_is_told_by_the_bits() {
        let drawn = Drawn::new(Shape { m: 8, n: 64, k: 512 }, 3, 16);
        let active = |named, found: &[u32]| {
            drawn.active(named, differing(&drawn.foretold(named), found), found)
        };
        let mut found = drawn.foretold(Arithmetic::E4m3Row);
        assert_eq!(active(Arithmetic::E4m3Row, &found), Arithmetic::E4m3Row);
        assert_eq!(active(Arithmetic::E4m3RowFast, &found), Arithmetic::E4m3Row);
        // One wrong bit is a wrong bit, and no other arithmetic.
        found[5] ^= 1;
        assert_eq!(active(Arithmetic::E4m3Row, &found), Arithmetic::E4m3Row);
        assert_eq!(active(Arithmetic::F16, &found), Arithmetic::E4m3Row);
    }

    #[test]
    fn zeros_of_either_sign_are_alike_and_poison_is_never_wanted() {
        assert_eq!(differing(&[0x0000, 0x3C00], &[0x8000, 0x3C00]), 0);
        assert_eq!(differing(&[0x3C00, 0xFFFF], &[0x3C01, 0xFFFF]), 2);
    }
}
