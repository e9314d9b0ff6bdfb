//! Embeds the source revision, and whether anything differed from it, for the run's manifest.

use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = git(&["rev-parse", "HEAD"]);
    // A tree whose state is not known is dirty: it cannot be found again by its revision.
    let changes = git(&["status", "--porcelain", "--", ":/", ":(exclude,top)checklists"]);
    let dirty = changes.is_none_or(|changes| !changes.is_empty());
    println!("cargo::rustc-env=SOURCE_REVISION={}", revision.as_deref().unwrap_or("unknown"));
    println!("cargo::rustc-env=SOURCE_DIRTY={dirty}");
    // Everything that can change the answer: the sources, the goldens, and git's own state.
    for path in ["harness", "kernels", "suites", "tests", "golden", "fixtures", "Cargo.lock"] {
        println!("cargo::rerun-if-changed=../{path}");
    }
    if let Some(folder) = git(&["rev-parse", "--git-dir"]) {
        println!("cargo::rerun-if-changed={folder}/HEAD");
        println!("cargo::rerun-if-changed={folder}/index");
    }
}
