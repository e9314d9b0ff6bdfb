//! Where a run is taken from: a recorded one by its digest or id, a folder, or an archive.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::CompareError;
use crate::files;
use crate::recorded::{self, FinishedRun};

/// Fewest characters of a digest or id that name a run.
const FEWEST: usize = 4;

/// A run that was found, and the folder that goes with it where it was unpacked.
#[derive(Debug)]
pub struct Opened {
    /// The run.
    pub finished: FinishedRun,
    unpacked: Option<PathBuf>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(folder) = &self.unpacked {
            // The copy lies in the temporary folder and is not needed any more.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Opens a run by the beginning of its digest or id, by its folder, or by its archive.
pub fn open(recorded: &[FinishedRun], given: &str) -> Result<Opened, CompareError> {
    let path = Path::new(given);
    if path.is_dir() {
        let finished = recorded::open(path).map_err(CompareError::Read)?;
        return Ok(Opened { finished, unpacked: None });
    }
    if path.is_file() {
        return unpack(path);
    }
    let name = given.strip_prefix("sha256:").unwrap_or(given);
    let is = |finished: &&FinishedRun| {
        finished.sha256.starts_with(name) || finished.run.run.starts_with(name)
    };
    let found: Vec<&FinishedRun> = recorded.iter().filter(is).collect();
    let no = |why: String| Err(CompareError::NoRun { given: given.to_owned(), why });
    match found.as_slice() {
        _ if name.len() < FEWEST => no(format!("{FEWEST} characters name a run")),
        [finished] => Ok(Opened { finished: (*finished).clone(), unpacked: None }),
        [] => no(format!(
            "no folder, no archive, and no recorded run of this digest or id in {}",
            recorded::RUNS
        )),
        several => no(format!("{} recorded runs begin so", several.len())),
    }
}

fn unpack(file: &Path) -> Result<Opened, CompareError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("touchstone-compare-{}-{count}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let opened = files::unpack(file, &folder).and_then(|top| recorded::open(&top));
    match opened {
        Ok(finished) => Ok(Opened { finished, unpacked: Some(folder) }),
        Err(error) => {
            let _ = std::fs::remove_dir_all(&folder);
            Err(CompareError::Read(error))
        }
    }
}
