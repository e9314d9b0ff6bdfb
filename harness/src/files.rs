//! Files that are whole or not there.

use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

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

/// Reads a text file of at most so many bytes: a larger one is refused before it is in memory.
pub(crate) fn read_at_most(path: &Path, most: usize) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let size = file.take(most as u64 + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if size > most {
        return Err(format!("more than {most} bytes"));
    }
    Ok(text)
}

/// Packs a folder as one tar, with `name` as its only top folder.
pub fn archive(folder: &Path, name: &str, file: &Path) -> Result<(), String> {
    let named = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(name, folder).map_err(named)?;
    write(file, &builder.into_inner().map_err(named)?)
}

/// An archive of a run may not be larger: more evidence than any run may leave.
pub(crate) const MAX_ARCHIVE_BYTES: u64 = 256 << 20;

/// Unpacks a tar of [`archive`] below `into` and returns its top folder.
pub fn unpack(file: &Path, into: &Path) -> Result<PathBuf, String> {
    let named = |error: String| format!("{}: {error}", file.display());
    let size = std::fs::metadata(file).map_err(|error| named(error.to_string()))?.len();
    if size > MAX_ARCHIVE_BYTES {
        return Err(named(format!("{size} bytes of an archive exceed {MAX_ARCHIVE_BYTES}")));
    }
    let bytes = std::fs::read(file).map_err(|error| named(error.to_string()))?;
    let (top, members) = members(&bytes).map_err(named)?;
    for (name, bytes) in members {
        write(&into.join(name), bytes)?;
    }
    Ok(into.join(top))
}

/// What an archive holds: its one top folder, and its files with that folder in their names.
pub(crate) type Members<'a> = (PathBuf, Vec<(PathBuf, &'a [u8])>);

/// Reads a tar as [`archive`] makes it, without writing anything: files in one folder, each once, whole,
/// and none that would lie outside of it. A member is a piece of `bytes`, so that no header can ask for
/// more memory than the archive takes.
pub(crate) fn members(bytes: &[u8]) -> Result<Members<'_>, String> {
    let mut top: Option<PathBuf> = None;
    let mut files: Vec<(PathBuf, &[u8])> = Vec::new();
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.path().map_err(|error| error.to_string())?.into_owned();
        let printed = name.display().to_string();
        let mut folders = name.components();
        let plain = |part: &Component| matches!(part, Component::Normal(_));
        if !name.components().all(|part| plain(&part)) {
            return Err(format!("{printed} would lie outside of the archive's folder"));
        }
        let first = folders.next().map(|part| PathBuf::from(part.as_os_str()));
        if first.is_none() || top.as_ref().is_some_and(|top| Some(top) != first.as_ref()) {
            return Err("an archive of a run holds one folder".into());
        }
        top = first;
        match entry.header().entry_type() {
            tar::EntryType::Directory => continue,
            tar::EntryType::Regular => {}
            other => return Err(format!("{printed} is no file: {other:?}")),
        }
        let at = usize::try_from(entry.raw_file_position()).ok();
        let size = usize::try_from(entry.size()).ok();
        let end = at.zip(size).and_then(|(at, size)| at.checked_add(size));
        let whole = at.zip(end).and_then(|(at, end)| bytes.get(at..end));
        let whole = whole.ok_or_else(|| format!("{printed} is cut"))?;
        if folders.next().is_none() || files.iter().any(|(other, _)| *other == name) {
            return Err(format!("{printed} stands twice, or in no folder"));
        }
        files.push((name, whole));
    }
    Ok((top.ok_or("an archive of a run holds one folder")?, files))
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
    fn a_file_is_read_up_to_its_limit() {
        let here = tempfile::tempdir().expect("a folder");
        let file = here.path().join("a");
        write(&file, b"four").expect("written");
        assert_eq!(read_at_most(&file, 4).as_deref(), Ok("four"));
        assert_eq!(read_at_most(&file, 3), Err("more than 3 bytes".into()));
        assert!(read_at_most(&here.path().join("b"), 3).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let error = write(Path::new("/proc/no/such/file"), b"x").unwrap_err();
        assert!(error.contains("/proc/no/such/file"), "{error}");
    }
}
