//! Where two bounds come from: errors that the model of E4M3's adder foretells for the data of
//! `precision::products` with scales by tensor, of forty draws, or of runs with the seeds that are given (a case's
//! evidence names its seed). Needs no GPU; a draw takes seconds.

use suites::precision::foretold_errors;

fn main() {
    let given: Result<Vec<u64>, _> = std::env::args().skip(1).map(|seed| seed.parse()).collect();
    let seeds = match given {
        Ok(seeds) if seeds.is_empty() => (0..40).map(|draw| 1000 * draw).collect(),
        Ok(seeds) => seeds,
        Err(error) => {
            eprintln!("error: a seed is a whole number: {error}");
            std::process::exit(2);
        }
    };
    let (mut least, mut most) = ([f64::MAX; 3], [0f64; 3]);
    println!("{:>18}  precise   fast      fast, scale a 128th too large", "seed");
    for seed in seeds {
        let errors = foretold_errors(seed);
        println!("{seed:>18}  {:.6}  {:.6}  {:.6}", errors[0], errors[1], errors[2]);
        for (i, error) in errors.into_iter().enumerate() {
            least[i] = least[i].min(error);
            most[i] = most[i].max(error);
        }
    }
    println!("{:>18}  {:.6}  {:.6}  {:.6}", "least", least[0], least[1], least[2]);
    println!("{:>18}  {:.6}  {:.6}  {:.6}", "most", most[0], most[1], most[2]);
}
