//! The commands end to end: real processes over a fake node, and over this machine without a device.
//!
//! This executable plays the program that it tests. With [`ROLE`] set it is the hardware run, and the
//! child of that run; without, it runs the tests.

mod bless;
mod live;
mod machine;
mod recorded;
mod usage;

use std::process::exit;

use libtest_mimic::{Arguments, Trial};

/// Name of the variable that says which program this executable plays.
const ROLE: &str = "TESTED_PROGRAM";

/// A test: its name and what it does. It fails by a panic.
type Test = (&'static str, fn());

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match std::env::var(ROLE).as_deref() {
        Ok("fake") => exit(touchstone_tests::fake::hardware(&arguments)),
        Ok(_) => exit(suites::hardware(&arguments)),
        Err(_) => {}
    }
    let tests = [usage::TESTS, live::TESTS, recorded::TESTS, bless::TESTS].concat();
    let trial = |(name, run): Test| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    let trials = tests.into_iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
