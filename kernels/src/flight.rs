//! A flight record: what this process handed to its GPUs last, in a file that outlives it.
//!
//! Kept only where [`keep`] was called; elsewhere a note costs one load. A note is written before the call of the
//! driver, so that a call that never returns stands in it. It says what was enqueued or recorded, and not what has
//! run: where launches are blocking (`CUDA_LAUNCH_BLOCKING=1`) the last kernel is the one that runs.
//!
//! Marks say which part of the process the notes behind them belong to. They have room of their own: no number of
//! notes pushes them out.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Notes that are kept.
pub const NOTES: u64 = 256;

/// Marks that are kept beside them.
pub const MARKS: u64 = 16;

/// What a mark begins with, and no note does.
pub const MARK: &str = "mark: ";

/// Bytes of a note in the file, its line end counted.
const BYTES: usize = 96;

/// Digits of a note's number.
const DIGITS: usize = 10;

static RECORD: OnceLock<Record> = OnceLock::new();

/// Marks lie before notes.
struct Record {
    file: File,
    next: AtomicU64,
    marks: AtomicU64,
    notes: AtomicU64,
}

/// Keeps the last [`NOTES`] notes and the last [`MARKS`] marks of this process in a file from now on, a line each. May
/// be called once.
///
/// Errors: [`Error::Io`]; [`Error::Shape`] where a record is kept already.
pub fn keep(path: &Path) -> Result<()> {
    let twice = |_| Error::Shape { what: "a second flight record of one process".into() };
    RECORD.set(Record::at(path)?).map_err(twice)
}

/// Notes what is about to be handed to a GPU or to its compiler.
pub fn note(what: impl FnOnce() -> String) {
    if let Some(record) = RECORD.get() {
        record.note(&what());
    }
}

/// Marks that what is noted from now on belongs to `what`.
pub fn mark(what: &str) {
    if let Some(record) = RECORD.get() {
        record.mark(what);
    }
}

impl Record {
    fn at(path: &Path) -> Result<Record> {
        let failed = |source| Error::Io { path: path.display().to_string(), source };
        let file = File::create(path).map_err(failed)?;
        // Marks that are not there yet are empty lines.
        let blank = [vec![b' '; BYTES - 1], vec![b'\n']].concat();
        file.write_all_at(&blank.repeat(MARKS as usize), 0).map_err(failed)?;
        let [next, marks, notes] = [0; 3].map(AtomicU64::new);
        Ok(Record { file, next, marks, notes })
    }

    fn note(&self, what: &str) {
        self.put(what, MARKS + self.notes.fetch_add(1, Ordering::Relaxed) % NOTES);
    }

    fn mark(&self, what: &str) {
        self.put(&format!("{MARK}{what}"), self.marks.fetch_add(1, Ordering::Relaxed) % MARKS);
    }

    /// Marks and notes are counted together.
    fn put(&self, what: &str, place: u64) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // A record that cannot be written is no reason to stop the work; who reads it finds the gap.
        let _ = self.file.write_all_at(&line(number, what), place * BYTES as u64);
    }
}

fn line(number: u64, what: &str) -> Vec<u8> {
    let text: String = what.chars().filter(|c| c.is_ascii() && !c.is_control()).collect();
    let text = &text[..text.len().min(BYTES - DIGITS - 2)];
    let width = BYTES - DIGITS - 2;
    format!("{number:DIGITS$} {text:width$}\n").into_bytes()
}

/// The notes and marks of a record, the last one last, each behind its number, counted from 0. Notes of a file that is not
/// there are none: its process ended before it kept any.
///
/// Errors: [`Error::Io`] where the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<(u64, String)>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(Error::Io { path: path.display().to_string(), source }),
    };
    let note = |line: &str| {
        let (number, what) = line.trim_start().split_once(' ')?;
        Some((number.parse().ok()?, what.trim_end().to_owned()))
    };
    let mut notes: Vec<(u64, String)> = text.lines().filter_map(note).collect();
    notes.sort();
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(of: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("touchstone-flight-{of}-{}", std::process::id()))
    }

    #[test]
    fn the_last_notes_are_kept_in_order() {
        assert_eq!(line(7, "kernel a").len(), BYTES);
        assert_eq!(line(u64::from(u32::MAX), &"x\n".repeat(200)).len(), BYTES);
        let path = path("notes");
        assert_eq!(read(&path).expect("no file is no note"), []);
        let record = Record::at(&path).expect("a file");
        (0..NOTES + 3).for_each(|at| record.note(&format!("kernel number-{at}")));
        let notes = read(&path).expect("notes");
        fs::remove_file(&path).expect("removed");
        assert_eq!(notes.len() as u64, NOTES);
        assert_eq!(notes.first(), Some(&(3, "kernel number-3".to_owned())));
        assert_eq!(notes.last(), Some(&(NOTES + 2, format!("kernel number-{}", NOTES + 2))));
    }

    #[test]
    fn no_number_of_notes_pushes_a_mark_out() {
        let path = path("marks");
        let record = Record::at(&path).expect("a file");
        assert_eq!(read(&path).expect("no note yet"), []);
        record.note("kernel warm");
        record.mark("stage run");
        (0..2 * NOTES).for_each(|_| record.note("kernel behind"));
        let notes = read(&path).expect("notes");
        assert_eq!(notes.len() as u64, NOTES + 1);
        assert_eq!(notes.first(), Some(&(1, format!("{MARK}stage run"))));
        assert!(notes[1..].iter().all(|(number, what)| *number > 1 && what == "kernel behind"));
        (0..MARKS).for_each(|at| record.mark(&at.to_string()));
        let notes = read(&path).expect("notes");
        fs::remove_file(&path).expect("removed");
        let marks = notes.iter().filter(|(_, what)| what.starts_with(MARK)).count();
        assert_eq!((marks as u64, notes.len() as u64), (MARKS, MARKS + NOTES));
        assert_eq!(notes.last().map(|(_, what)| what.as_str()), Some("mark: 15"));
    }
}
