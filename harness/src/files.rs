//! Files that are whole or not there.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes a file through a temporary neighbour and a rename, so that no reader sees half of it.
/// The error names the file.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(named)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = std::fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&temporary, path));
    if renamed.is_err() {
        // The error that matters is the first one; a temporary that cannot be removed is harmless.
        let _ = std::fs::remove_file(&temporary);
    }
    renamed.map_err(named)
}

/// Reads a text file; the error names it.
pub fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Packs a folder as one tar, with `name` as its only top folder.
pub fn archive(folder: &Path, name: &str, file: &Path) -> Result<(), String> {
    let named = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(name, folder).map_err(named)?;
    write(file, &builder.into_inner().map_err(named)?)
}

/// Unpacks a tar of [`archive`] below `into` and returns its top folder.
pub fn unpack(file: &Path, into: &Path) -> Result<PathBuf, String> {
    let named = |error: std::io::Error| format!("{}: {error}", file.display());
    let bytes = std::fs::read(file).map_err(named)?;
    let mut archive = tar::Archive::new(bytes.as_slice());
    archive.unpack(into).map_err(named)?;
    let mut tops = std::fs::read_dir(into).map_err(named)?;
    match (tops.next(), tops.next()) {
        (Some(Ok(top)), None) => Ok(top.path()),
        _ => Err(format!("{}: an archive of a run holds one folder", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_comes_back_as_it_was() {
        let here = tempfile::tempdir().expect("a folder");
        let run = here.path().join("run");
        write(&run.join("evidence/a.json"), b"{}").expect("written");
        let file = here.path().join("run.tar");
        archive(&run, "the-run", &file).expect("packed");
        let top = unpack(&file, &here.path().join("again")).expect("unpacked");
        assert!(top.ends_with("the-run"));
        assert_eq!(read(&top.join("evidence/a.json")).expect("read"), "{}");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let error = write(Path::new("/proc/no/such/file"), b"x").unwrap_err();
        assert!(error.contains("/proc/no/such/file"), "{error}");
    }
}
