//! The suites of Touchstone: every claim as a static, every case as a procedure over real kernels.
//!
//! A suite returns numbers and never compares one with a limit: bounds are in `golden/` and the
//! judge is in `harness`. One file a suite; [`CASES`] and [`claims`] list them in checklist order.

pub mod attention;
pub mod bandwidth;
pub mod bundle;
pub mod checklists;
pub mod collectives;
pub mod compute;
pub mod doctor;
pub mod e4m3;
pub mod env;
pub mod environment;
pub mod explain;
pub mod host;
pub mod hostlink;
pub mod lab;
pub mod model;
pub mod node;
pub mod p2p;
pub mod precision;
pub mod rivals;
pub mod root;
pub mod selftest;
pub mod telemetry;
pub mod tensor_parallel;
pub mod topology;
pub mod tune;

use std::path::{Path, PathBuf};

use harness::case::Case;
use harness::claim::Claim;
use harness::run::SourceTree;
use harness::world::World;

/// All claims, in checklist order.
pub fn claims() -> Vec<&'static Claim> {
    let suites: [&[&'static Claim]; 9] = [
        env::CLAIMS,
        selftest::CLAIMS,
        host::ENV_CLAIMS,
        topology::CLAIMS,
        bandwidth::CLAIMS,
        hostlink::CLAIMS,
        rivals::BANDWIDTH_CLAIMS,
        host::BANDWIDTH_CLAIMS,
        compute::CLAIMS,
    ];
    let last = [
        rivals::COMPUTE_CLAIMS,
        p2p::CLAIMS,
        collectives::CLAIMS,
        attention::CLAIMS,
        tensor_parallel::CLAIMS,
        tensor_parallel::FP8_CLAIMS,
        tensor_parallel::LONG_CLAIMS,
        tensor_parallel::DECODE_CLAIMS,
        model::CLAIMS,
        precision::CLAIMS,
        precision::PROMOTED_CLAIMS,
    ];
    suites.into_iter().chain(last).flatten().copied().collect()
}

/// All cases, in the order in which they run: health first, then what is short, then what heats
/// the GPUs, then what needs the whole node.
pub fn cases() -> Vec<&'static Case> {
    let suites: [&[&'static Case]; 14] = [
        host::CASES,
        env::CASES,
        topology::CASES,
        p2p::CASES,
        collectives::CASES,
        bandwidth::CASES,
        hostlink::CASES,
        compute::CASES,
        precision::CASES,
        attention::CASES,
        tensor_parallel::CASES,
        rivals::CASES,
        model::CASES,
        selftest::CASES,
    ];
    suites.into_iter().flatten().copied().collect()
}

/// What this executable was built from.
pub fn source() -> SourceTree {
    SourceTree {
        revision: env!("SOURCE_REVISION").to_owned(),
        dirty: env!("SOURCE_DIRTY") == "true",
    }
}

/// Calls `with` with the whole world: claims, cases, this machine, the root folder.
pub fn with_world<T>(root: PathBuf, with: impl FnOnce(&World) -> T) -> T {
    let (claims, cases) = (claims(), cases());
    let machine = node::Machine::new(root.clone());
    with(&World {
        claims: &claims,
        cases: &cases,
        node: &machine,
        root,
        source: source(),
        checklists: checklists::ALL,
    })
}

/// The hardware run with the given command line (program name first); returns the exit code.
pub fn hardware(arguments: &[String]) -> i32 {
    if arguments.get(1).is_some_and(|first| first == selftest::PLANT) {
        return match selftest::planted(&arguments[2..]) {
            Ok(()) => 0,
            Err(stop) => {
                eprintln!("{stop:?}");
                1
            }
        };
    }
    let root = match root::find() {
        Ok(root) => root,
        Err(message) => {
            eprintln!("error: {message}");
            return harness::app::USAGE;
        }
    };
    let meant = |path: &Path| root::meant(&root, path);
    with_world(root.clone(), |world| harness::app::main(world, arguments, &meant))
}
