//! Where two bounds come from: errors that the model of E4M3's adder foretells for forty draws of the data of
//! `precision::products`, with scales by tensor. Needs no GPU.

use suites::precision::foretold_errors;

fn main() {
    let (mut least, mut most) = ([f64::MAX; 3], [0f64; 3]);
    println!("draw  precise   fast      fast, scale a 128th too large");
    for draw in 0..40 {
        let errors = foretold_errors(draw);
        println!("{draw:4}  {:.6}  {:.6}  {:.6}", errors[0], errors[1], errors[2]);
        for (i, error) in errors.into_iter().enumerate() {
            least[i] = least[i].min(error);
            most[i] = most[i].max(error);
        }
    }
    println!("least {:.6}  {:.6}  {:.6}", least[0], least[1], least[2]);
    println!("most  {:.6}  {:.6}  {:.6}", most[0], most[1], most[2]);
}
