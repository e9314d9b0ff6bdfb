//! Children that misbehave, the scheduler over fake GPUs, Ctrl-C and locks: with real processes.
//!
//! Like the real runner, this executable is its own child: `--child ASSIGNMENT` runs a case of
//! [`cases`], `--run FOLDER` is a runner that tests interrupt, `--hold FOLDER` holds locks,
//! `--hang FOLDER` never ends.

mod cases;
mod children;
mod interrupts;
mod locks;
mod machine;
mod scheduler;
mod stacks;

use std::path::Path;
use std::process::exit;

use libtest_mimic::{Arguments, Trial};

/// A test: its name and what it does. It fails by a panic.
type Test = (&'static str, fn());

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, path] = arguments.as_slice() {
        let path = Path::new(path);
        match role.as_str() {
            "--child" => exit(harness::child::main(path, cases::CASES)),
            "--run" => exit(interrupts::run(path)),
            "--hold" => exit(locks::hold(path)),
            "--hang" => exit(stacks::hang(path)),
            _ => {}
        }
    }
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("TOUCHSTONE_OF_THE_PARENT", "must not reach a child") };
    let tests = [children::TESTS, scheduler::TESTS, interrupts::TESTS, locks::TESTS, stacks::TESTS]
        .concat();
    let trial = |(name, run): Test| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    let trials = tests.into_iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
