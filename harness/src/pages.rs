//! The generated pages below `checklists/`: which there are, and whether those of the repository
//! are what the recorded evidence gives.

use std::path::Path;

use crate::claim::GpuCount;
use crate::evidence::Evidence;
use crate::files;
use crate::golden::Goldens;
use crate::judge::{EvidenceRef, Judgement};
use crate::recorded::{self, FinishedRun};
use crate::register;
use crate::report::checklist::{self, Column, Ledger};
use crate::report::measured::{self, Read};
use crate::report::{coverage, false_claims, markers, norms, originals, targets};
use crate::world::World;

/// A page: its file below `checklists/`, and its text.
type Page = (String, String);

/// What pages are made of.
struct Judged<'a> {
    goldens: &'a Goldens,
    boards: &'a [(String, Vec<Judgement>)],
    host: &'a [Judgement],
    /// Reads the evidence of a judgement.
    evidence: &'a dyn Fn(&EvidenceRef) -> Option<Evidence>,
}

/// The pages of one run's own folder: the checklists and the targets.
pub fn of_run(
    world: &World,
    goldens: &Goldens,
    boards: &[(String, Vec<Judgement>)],
    host: &[Judgement],
    evidence: &dyn Fn(&EvidenceRef) -> Option<Evidence>,
) -> Result<Vec<Page>, String> {
    let judged = Judged { goldens, boards, host, evidence };
    with_ledger(world, &judged, |ledger| lists(world, goldens, ledger, &|_| None))
}

/// Every page that is generated in `checklists/`, in order.
pub fn names(world: &World) -> Result<Vec<String>, String> {
    let lists = world.checklists.iter().map(|list| list.file.to_owned());
    let fixed = [targets::FILE, false_claims::FILE, norms::FILE, coverage::FILE];
    let (_, originals) = register::load(&world.root).map_err(|error| error.to_string())?;
    let originals = originals.into_iter().map(|original| original.file);
    Ok(lists.chain(fixed.map(str::to_owned)).chain(originals).collect())
}

fn with_ledger<T>(
    world: &World,
    judged: &Judged,
    with: impl FnOnce(&Ledger) -> Result<T, String>,
) -> Result<T, String> {
    let title = |name: &str| match judged.goldens.boards.get(name) {
        Some(golden) => golden.board.title.clone(),
        None => name.to_owned(),
    };
    let titles: Vec<String> = judged.boards.iter().map(|(name, _)| title(name)).collect();
    let columns: Vec<Column> = judged
        .boards
        .iter()
        .zip(&titles)
        .map(|((board, judgements), title)| Column { board, title, judgements })
        .collect();
    let refuted = &judged.goldens.documented.refuted;
    let tables = world.checklists.iter().flat_map(|list| list.tables);
    let mut evidence = Read::new();
    let of_targets = targets::wanted_evidence(judged.goldens, &columns);
    for cited in measured::wanted(tables, &columns).into_iter().chain(of_targets) {
        if !evidence.contains_key(&cited.sha256) {
            let gone = || format!("{}: a figure cites it, and it is gone", cited.path);
            let read = (judged.evidence)(cited).ok_or_else(gone)?;
            evidence.insert(cited.sha256.clone(), read);
        }
    }
    let (claims, columns, host) = (world.claims, columns.as_slice(), judged.host);
    with(&Ledger { claims, columns, host, refuted, evidence: &evidence })
}

/// The checklists and the targets, each merged into what stands there now.
fn lists(
    world: &World,
    goldens: &Goldens,
    ledger: &Ledger,
    existing: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Page>, String> {
    let mut pages = Vec::new();
    for list in world.checklists {
        let page = checklist::render(list, ledger, existing(list.file).as_deref())?;
        pages.push((list.file.to_owned(), page));
    }
    let before = existing(targets::FILE);
    let page = targets::render(goldens, ledger.columns, ledger.evidence, before.as_deref())?;
    pages.push((targets::FILE.to_owned(), page));
    Ok(pages)
}

/// The pages of the repository as the recorded evidence gives them.
fn of_records(world: &World) -> Result<Vec<Page>, String> {
    let goldens = world.goldens()?;
    let runs = recorded::load(&world.root)?;
    let (register, originals) = register::load(&world.root).map_err(|error| error.to_string())?;
    let mut boards = Vec::new();
    for board in recorded::boards(&runs) {
        let judgements = judged(world, &goldens, &runs, &board, false)?;
        boards.push((board, judgements));
    }
    // Host claims are taken from the newest run, of whatever board it is.
    let newest = runs.last().map_or(String::new(), |last| last.run.board.clone());
    let host = judged(world, &goldens, &runs, &newest, true)?;
    let folder = world.root.join("checklists");
    let existing = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
    let evidence = |reference: &EvidenceRef| recorded::evidence_of(&runs, reference);
    let judged = Judged { goldens: &goldens, boards: &boards, host: &host, evidence: &evidence };
    with_ledger(world, &judged, |ledger| {
        let mut pages = lists(world, &goldens, ledger, &existing)?;
        let page = false_claims::render(ledger, existing(false_claims::FILE).as_deref())?;
        pages.push((false_claims::FILE.to_owned(), page));
        let page = norms::render(&goldens, &runs, ledger, existing(norms::FILE).as_deref())?;
        pages.push((norms::FILE.to_owned(), page));
        let page =
            coverage::render(&register, &originals, ledger, existing(coverage::FILE).as_deref())?;
        pages.push((coverage::FILE.to_owned(), page));
        for original in &originals {
            let before = existing(&original.file);
            let page = originals::render(original, &register, ledger, before.as_deref())?;
            pages.push((original.file.clone(), page));
        }
        Ok(pages)
    })
}

/// The claims of a board, or those that need no GPU, judged by the newest recorded run that holds
/// each.
fn judged(
    world: &World,
    goldens: &Goldens,
    runs: &[FinishedRun],
    board: &str,
    host: bool,
) -> Result<Vec<Judgement>, String> {
    let claims = world.claims.iter().filter(|claim| (claim.gpus == GpuCount::Host) == host);
    world.judge_recorded(&claims.copied().collect::<Vec<_>>(), runs, board, goldens)
}

/// Writes the pages from the recorded evidence; returns the files that changed.
pub fn update(world: &World) -> Result<Vec<String>, String> {
    let mut written = Vec::new();
    for (file, text) in of_records(world)? {
        let path = world.root.join("checklists").join(&file);
        if differs(&path, &text) {
            files::write(&path, text.as_bytes())?;
            written.push(format!("checklists/{file}"));
        }
    }
    Ok(written)
}

/// Pages of the repository that are not what the recorded evidence gives. `Err` names a page that is not
/// generated and ticks a box with evidence all the same.
pub fn stale(world: &World) -> Result<Vec<String>, String> {
    let folder = world.root.join("checklists");
    let pages = of_records(world)?;
    for (file, text) in beside(&folder, &pages)? {
        markers::unticked(&text)
            .map_err(|(line, what)| format!("checklists/{file}:{line}: {what}"))?;
    }
    let stale = pages.into_iter().filter(|(file, text)| differs(&folder.join(file), text));
    Ok(stale.map(|(file, _)| format!("checklists/{file}")).collect())
}

/// Markdown of `checklists/` and its folders, but for the evidence, that is no page of these.
fn beside(folder: &Path, pages: &[Page]) -> Result<Vec<Page>, String> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(place) = open.pop() {
        let failed = |error: std::io::Error| format!("checklists/{place}: {error}");
        let entries = match std::fs::read_dir(folder.join(&place)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let name = format!("{place}{}", path.file_name().unwrap_or_default().to_string_lossy());
            if path.is_dir() {
                open.extend((name != "evidence").then(|| format!("{name}/")));
            } else if name.ends_with(".md") && !pages.iter().any(|(file, _)| *file == name) {
                found.push((name, files::read(&path)?));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn differs(path: &Path, text: &str) -> bool {
    std::fs::read_to_string(path).ok().as_deref() != Some(text)
}
