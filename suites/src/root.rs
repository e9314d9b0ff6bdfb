//! The folder that holds golden/, fixtures/ and checklists/, and where relative paths are meant.

use std::path::{Path, PathBuf};

/// A file that every root has. A folder with other goldens and without it is a root that lacks it, which whoever
/// reads it says by name: another root above it, or that of the executable, would be judged in its place.
const MARK: &str = "golden/documented.toml";

fn is_root(folder: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(folder.join("golden")) else { return false };
    entries.any(|entry| entry.is_ok_and(|e| e.path().extension().is_some_and(|x| x == "toml")))
}

/// Finds the root: `TOUCHSTONE_ROOT`, else the nearest folder above the working directory, else
/// above the executable (an unpacked bundle), else the source tree that this was built from.
pub fn find() -> Result<PathBuf, String> {
    if let Ok(given) = std::env::var("TOUCHSTONE_ROOT") {
        let root = PathBuf::from(&given);
        return match root.join(MARK).exists() {
            true => Ok(root),
            false => Err(format!("TOUCHSTONE_ROOT={given} has no {MARK}")),
        };
    }
    let here = std::env::current_dir().ok();
    let executable = std::env::current_exe().ok();
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    let starts = [here.as_deref(), executable.as_deref(), Some(built)];
    let above = starts.into_iter().flatten().flat_map(Path::ancestors);
    above
        .map(Path::to_path_buf)
        .find(|folder| is_root(folder))
        .ok_or_else(|| format!("no folder with {MARK} above here: run it from the repository"))
}

/// A path as the user meant it. `cargo test` starts its executables in the package's folder, not
/// in the user's: there a relative path is taken from the root.
pub fn meant(root: &Path, path: &Path) -> PathBuf {
    let under_cargo = std::env::var_os("CARGO_MANIFEST_DIR").is_some();
    if path.is_absolute() || !under_cargo { path.to_path_buf() } else { root.join(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_from_below_it() {
        let root = find().expect("found");
        assert!(root.join("Cargo.toml").exists());
        assert_eq!(meant(&root, Path::new("/a/b")), Path::new("/a/b"));
        assert_eq!(meant(&root, Path::new("a")), root.join("a"));
    }
}
