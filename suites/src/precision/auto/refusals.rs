//! Is refused what is not to be had, for the reason that it is, and nothing else?

use harness::record::{Recorder, Stop};
use kernels::auto::{self, Arithmetic, Asked, Board, Chosen, Obstacle, Refusal, Shape, Wish};

use super::{ANY, Bench, WRONG};

/// A chooser: the one of [`auto`], or one with a planted fault.
type Chooser<'a> = &'a dyn Fn(Shape, &Board, Asked, Wish) -> Result<Chosen, Refusal>;

const LARGE: Shape = Shape { m: 4096, n: 4096, k: 16384 };
const LOOSE: Wish = Wish { relative_error: 0.07, keeps_sums: false };

/// Whether every arithmetic that was asked for is refused for the reason that is expected.
fn for_this(answer: Result<Chosen, Refusal>, expected: impl Fn(&Obstacle) -> bool) -> bool {
    match answer {
        Err(Refusal::Unavailable { obstacles, .. }) => {
            let asked = obstacles.iter().filter(|(_, why)| *why != Obstacle::NotAsked);
            let mut reasons = asked.map(|(_, why)| expected(why)).peekable();
            reasons.peek().is_some() && reasons.all(|right| right)
        }
        _ => false,
    }
}

/// Requests to a chooser that are not answered as they must be.
fn wrong_answers(choose: Chooser<'_>) -> u64 {
    let board = |compute_capability, without: &[Arithmetic]| Board {
        compute_capability,
        without: without.to_vec(),
    };
    let (here, old) = (board((9, 0), &[]), board((8, 0), &[]));
    let lacking = board((9, 0), &[Arithmetic::E4m3Row, Arithmetic::E4m3RowFast]);
    let is_error = |why: &Obstacle| matches!(why, Obstacle::Error { .. });
    let is_shape = |why: &Obstacle| matches!(why, Obstacle::Shape { .. });
    let tight = Wish { relative_error: 1e-3, ..LOOSE };
    let none = Wish { relative_error: 1e-6, ..LOOSE };
    let sums = Wish { keeps_sums: true, ..LOOSE };
    let narrow = Shape { n: 4104, ..LARGE };
    let fast = Asked::Only(Arithmetic::E4m3RowFast);
    let no_number = Wish { relative_error: f64::NAN, ..LOOSE };
    let all = [
        for_this(choose(LARGE, &old, Asked::Fp8, LOOSE), |why| {
            matches!(why, Obstacle::Board { .. })
        }),
        for_this(choose(LARGE, &lacking, Asked::Fp8, LOOSE), |why| *why == Obstacle::NotOffered),
        for_this(choose(narrow, &here, Asked::Fp8, LOOSE), is_shape),
        for_this(choose(LARGE, &here, Asked::Fp8, tight), is_error),
        for_this(choose(LARGE, &here, fast, sums), is_error),
        for_this(choose(Shape { m: 16, ..LARGE }, &here, Asked::Auto, none), is_error),
        matches!(choose(LARGE, &here, Asked::Auto, no_number), Err(Refusal::Wish { .. })),
        choose(LARGE, &here, Asked::Fp8, LOOSE).is_ok_and(|chosen| chosen.arithmetic.is_fp8()),
        choose(LARGE, &old, Asked::Auto, LOOSE)
            .is_ok_and(|chosen| chosen.arithmetic == Arithmetic::F16),
    ];
    all.into_iter().filter(|right| !right).count() as u64
}

/// The reason of every refusal is exchanged for the error.
fn blurred(answer: Result<Chosen, Refusal>) -> Result<Chosen, Refusal> {
    answer.map_err(|refusal| match refusal {
        Refusal::Unavailable { asked, obstacles } => {
            let error = |(one, _)| (one, Obstacle::Error { foretold: 1.0 });
            Refusal::Unavailable { asked, obstacles: obstacles.into_iter().map(error).collect() }
        }
        wish => wish,
    })
}

/// Is refused what is not to be had, and nothing else?
pub fn refusals(bench: &Bench<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("refusals");
    let count = |request, wrong: u64| bench.exact(WRONG, request, wrong as f64);
    let anyhow = |shape, board: &Board| auto::choose(shape, board, Asked::Auto, ANY);
    recorder.metric(count("described", wrong_answers(&auto::choose)));
    let falling = wrong_answers(&|shape, board, asked, wish| {
        auto::choose(shape, board, asked, wish).or_else(|_| anyhow(shape, board))
    });
    recorder.control("falls-back", count("described", falling));
    let refusing =
        wrong_answers(&|_, _, _, wish| Err(Refusal::Wish { relative_error: wish.relative_error }));
    recorder.control("refuses-all", count("described", refusing));
    let one = wrong_answers(&|shape, board, asked, wish| {
        blurred(auto::choose(shape, board, asked, wish))
    });
    recorder.control("one-obstacle-for-all", count("described", one));
    recorder.metric(count("here", wrong_products(bench, false)?));
    recorder.control("falls-back", count("here", wrong_products(bench, true)?));
    Ok(())
}

/// Products of this GPU that were made though they cannot be had, or wrote their result, or were refused though
/// they can be had. `falls_back`: what is refused is computed by whatever can be had.
fn wrong_products(bench: &Bench<'_>, falls_back: bool) -> Result<u64, Stop> {
    let stream = bench.tools.gpu.stream();
    let tight = Wish { relative_error: 1e-3, ..LOOSE };
    let mut wrong = 0;
    for (n, wish, can) in [(1024, tight, false), (1032, LOOSE, false), (1024, LOOSE, true)] {
        let matrices = bench.random(Shape { m: 1024, n, k: 1024 }, false)?;
        matrices.d.poison(stream)?;
        let mut made = matrices.multiplied(bench.tools, Asked::Fp8, wish);
        if falls_back && made.is_err() {
            made = matrices.multiplied(bench.tools, Asked::Auto, ANY);
        }
        let had = match made {
            Ok(one) => {
                one.run(stream)?;
                true
            }
            Err(kernels::Error::Refused(_)) => false,
            Err(error) => return Err(error.into()),
        };
        let written = bench.nonfinite(&matrices)? == 0.0;
        wrong += u64::from(had != can || written != can);
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chooser_answers_every_request_and_planted_ones_do_not() {
        assert_eq!(wrong_answers(&auto::choose), 0);
        let falls = |shape, board: &Board, asked, wish| {
            auto::choose(shape, board, asked, wish)
                .or_else(|_| auto::choose(shape, board, Asked::Auto, ANY))
        };
        assert_eq!(wrong_answers(&falls), 7);
        let blurs =
            |shape, board: &Board, asked, wish| blurred(auto::choose(shape, board, asked, wish));
        assert_eq!(wrong_answers(&blurs), 3);
    }
}
