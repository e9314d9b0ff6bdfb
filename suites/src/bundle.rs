//! A bundle: the executable with its data, for a node that has no Rust.

use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Data that the executable reads, from the root.
const FOLDERS: &[&str] = &["golden", "fixtures", "checklists"];
const FILES: &[&str] = &["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Writes the bundle and returns its size in bytes. The executable is this one.
pub fn write(root: &Path, file: &Path) -> Result<u64, String> {
    if cfg!(debug_assertions) {
        return Err("this build is not stripped: cargo run --release --bin touchstone -- bundle \
                    FILE"
            .into());
    }
    let named = |error: std::io::Error| format!("{}: {error}", file.display());
    let executable = std::env::current_exe().map_err(named)?;
    let encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut builder = tar::Builder::new(encoder);
    let top = PathBuf::from("touchstone");
    let mut put =
        |from: &Path, to: PathBuf| builder.append_path_with_name(from, top.join(to)).map_err(named);
    put(&executable, "touchstone".into())?;
    for name in FILES.iter().filter(|name| root.join(name).exists()) {
        put(&root.join(name), PathBuf::from(name))?;
    }
    for folder in FOLDERS.iter().filter(|folder| root.join(folder).exists()) {
        builder.append_dir_all(top.join(folder), root.join(folder)).map_err(named)?;
    }
    let bytes = builder.into_inner().and_then(GzEncoder::finish).map_err(named)?;
    harness::files::write(file, &bytes)?;
    Ok(bytes.len() as u64)
}
