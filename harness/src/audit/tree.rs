//! The files that a document may cite.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Folders below a root, read once and only when a path is not where it was first looked for.
pub(crate) struct Tree {
    root: PathBuf,
    known: OnceCell<Known>,
}

#[derive(Default)]
struct Known {
    /// Paths by their last name.
    named: HashMap<String, Vec<String>>,
    /// What git leaves out: it is made anew and cannot be cited.
    ignored: HashSet<String>,
}

/// A tree larger than this is not searched further; a citation is then only looked for in place.
const MOST: usize = 200_000;

impl Tree {
    /// The tree of the repository that a file lies in, or of its folder.
    pub fn around(file: &Path) -> Tree {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let start = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let root = start.ancestors().find(|above| above.join(".git").exists()).unwrap_or(&start);
        Tree { root: root.to_path_buf(), known: OnceCell::new() }
    }

    /// True if a cited path is beside the document, below the root, or the end of some path there.
    pub fn has(&self, folder: &Path, cited: &str) -> bool {
        let cited = cited.trim_start_matches("./").trim_end_matches('/');
        if cited.is_empty() || folder.join(cited).exists() || self.root.join(cited).exists() {
            return true;
        }
        let known = self.known.get_or_init(|| self.read());
        let (mut first, last) = (cited.split('/'), cited.rsplit('/').next().unwrap_or(cited));
        if first.next().is_some_and(|first| known.ignored.contains(first)) {
            return true;
        }
        let ends = |path: &String| path == cited || path.ends_with(&format!("/{cited}"));
        known.named.get(last).is_some_and(|paths| paths.iter().any(ends))
    }

    fn read(&self) -> Known {
        let mut known = Known::default();
        let ignored = std::fs::read_to_string(self.root.join(".gitignore")).unwrap_or_default();
        for line in ignored.lines().map(str::trim) {
            let name = line.trim_matches('/');
            if !name.is_empty() && !name.contains(['/', '*', '#', '!']) {
                known.ignored.insert(name.to_owned());
            }
        }
        let (mut folders, mut count) = (vec![(self.root.clone(), String::new())], 0);
        while let Some((folder, below)) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                count += 1;
                if count > MOST || name == ".git" || known.ignored.contains(&name) {
                    continue;
                }
                let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push((entry.path(), path.clone()));
                }
                known.named.entry(name).or_default().push(path);
            }
        }
        known
    }
}
