//! Files that a document cites.

use std::collections::BTreeSet;

use super::Context;
use crate::audit::document::Document;
use crate::audit::finding::Finding;
use crate::audit::words;

/// Names that are looked for without a folder: results, data, documents and scripts.
const BARE: &[&str] = &["json", "jsonl", "log", "csv", "md", "py", "txt", "ipynb"];

/// Names that are looked for with a folder.
const PLACED: &[&str] = &[
    "json", "jsonl", "log", "csv", "md", "py", "txt", "ipynb", "sh", "toml", "yml", "yaml", "rs",
    "cu", "cuh", "cpp", "h", "lock", "nsys-rep",
];

/// Each cited path that is neither beside the document nor in its repository.
pub(super) fn missing(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for block in document.prose() {
            let codes = block.codes.iter().map(|code| (code.start, &block.text[code.clone()]));
            let links = block.links.iter().map(|(at, to)| (*at, to.as_str()));
            let spans = codes.filter(|(_, text)| is_path(text));
            for (at, path) in spans.chain(links.filter(|(_, to)| is_relative(to))) {
                let path = path.split('#').next().unwrap_or_default();
                if !seen.insert(path) || told_absent(document, block.sentence(at), path) {
                    continue;
                }
                if !context.tree.has(&document.folder, path) {
                    let what = format!("cites {path}, which is not there");
                    let line = block.line_at(at);
                    found.push(Finding::new(&document.name, line, "file-missing", what));
                }
            }
        }
    }
}

/// The document itself says that the file is to be made, or must not be.
fn told_absent(_: &Document, sentence: &str, path: &str) -> bool {
    let bare = !path.contains('/');
    words::any(sentence, &["create if absent", "does not exist", "did not come"])
        || (bare && words::any(sentence, &["no", "not", "never", "written", "writes", "write"]))
}

/// A code span that is a path, without blanks, options and placeholders.
fn is_path(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+".contains(c);
    if !text.chars().all(plain) || text.starts_with(['-', '.', '/']) && !text.starts_with("./") {
        return false;
    }
    // A word for any file.
    if ["FILE.", "NAME.", "PATH."].iter().any(|word| text.starts_with(word)) {
        return false;
    }
    let extension = text.rsplit_once('.').map(|(_, extension)| extension);
    let named = |known: &[&str]| extension.is_some_and(|extension| known.contains(&extension));
    let dated = text.ends_with('/') && text.chars().filter(char::is_ascii_digit).count() >= 8;
    if text.contains('/') { named(PLACED) || dated } else { named(BARE) }
}

/// A link to a file, and not to a place in the net or in the page.
fn is_relative(to: &str) -> bool {
    to.contains(char::is_alphanumeric)
        && !to.contains("://")
        && !to.starts_with(['#', '/'])
        && !to.starts_with("mailto:")
        && !to.starts_with("www.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: bool) {
        assert_eq!(is_path(text), expect, "{text}");
    }

    #[test]
    fn paths_are_told_from_other_code() {
        check("docs/performance.md", true);
        check("results.json", true);
        check("night_20240305_074109/", true);
        check("./run_it.sh", true);
        check("--output-json", false);
        check("target/<run>/run.json", false);
        check("base.rs", false);
        check("FILE.md", false);
        check("image.resize", false);
        check("GB/s", false);
        check("4.2.1", false);
    }
}
