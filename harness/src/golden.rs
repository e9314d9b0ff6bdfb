//! Goldens: what a board must reach (its own), what a document promised (portable), what we want.
//!
//! Three kinds of files, all data: `golden/documented.toml`, `golden/<board>.toml`,
//! `golden/targets.toml`. Every limit stands in one line with its reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The schema of golden files that this build reads.
pub const SCHEMA: u32 = 1;

/// `golden/<board>.toml`: bounds of one board, keyed by PCI device id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardGolden {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Which board.
    pub board: Board,
    /// The board's physical peaks by name; the unit is the name's last word.
    pub peaks: BTreeMap<String, Peak>,
    /// How many claims may be left out. More are an error: a skip list does not grow in silence.
    #[serde(default)]
    pub skip_budget: usize,
    /// Claims that this board leaves out, each with a reason.
    #[serde(default)]
    pub skip: BTreeMap<String, String>,
    /// Bounds by claim and metric.
    #[serde(default)]
    pub claims: BTreeMap<String, BTreeMap<String, Bound>>,
}

/// A board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// File stem, for example `nvidia-h200-sxm`.
    pub name: String,
    /// As people call it.
    pub title: String,
    /// Four hex digits each.
    pub pci_device_ids: Vec<String>,
    /// Compute capability.
    pub compute_capability: String,
}

/// A physical peak with its source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peak {
    /// The figure.
    pub value: f64,
    /// The arithmetic or the sheet that it comes from.
    pub source: String,
}

/// A board's own bound: the golden and how much worse still passes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The measured figure.
    pub golden: f64,
    /// Tolerance as a share of the golden, from the spread between runs and GPUs.
    pub worse: f64,
    /// Why this figure and this tolerance.
    pub because: String,
    /// Digests of the committed calibration runs, at least three.
    pub runs: Vec<String>,
    /// Digests of the machine code that was measured, by kernel.
    #[serde(default)]
    pub cubins: BTreeMap<String, String>,
    /// Why a loosened bound or a tolerance above 5 % was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
    /// The bound before it, where runs of its own missed that one or it is looser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// A bound that another one took the place of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    /// Its figure.
    pub golden: f64,
    /// Its tolerance as a share of the golden.
    pub worse: f64,
    /// Digests of the new bound's runs that missed it.
    pub missed: Vec<String>,
}

/// `golden/documented.toml`: what documents promised, in portable form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Documented {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Bounds by claim.
    pub claims: BTreeMap<String, Promise>,
    /// The one list of sentences that are false as printed, by the id of their record.
    #[serde(default)]
    pub refuted: BTreeMap<String, RefutedSentence>,
}

/// What a document promised of one claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// The worst median reaches this.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// The worst median stays under this.
    #[serde(default)]
    pub at_most: Option<f64>,
    /// Every value equals this.
    #[serde(default)]
    pub equals: Option<f64>,
    /// The bound is this share of the named peak of the board.
    #[serde(default)]
    pub of: Option<String>,
    /// True where the board's own golden is not wanted beside it.
    #[serde(default)]
    pub suffices: bool,
    /// Where it comes from, with its arithmetic.
    pub because: String,
    /// The historic record, as printed; never compared with another board's number.
    #[serde(default)]
    pub record: Option<String>,
    /// Earlier sentences of the claim, which promised no less than today's or misnamed what was measured: evidence that
    /// was taken for one of them stands, as it does where a bound is moved, and its lines say so.
    #[serde(default)]
    pub was: Vec<String>,
}

/// A sentence that is false as printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefutedSentence {
    /// Document and line.
    pub line: String,
    /// What is true in its place, in one sentence.
    pub truth: String,
    /// Why it is false.
    pub arithmetic: String,
}

/// `golden/targets.toml`: figures that we want to reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// [`SCHEMA`].
    pub schema: u32,
    /// In order of the page.
    pub target: Vec<Target>,
}

/// A figure that we want to reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Kebab-case name.
    pub name: String,
    /// The claim whose evidence holds the figure.
    pub claim: String,
    /// Name of the board.
    pub board: String,
    /// To reach at least; of `of` where that is given.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// To stay under.
    #[serde(default)]
    pub at_most: Option<f64>,
    /// A peak of the board.
    #[serde(default)]
    pub of: Option<String>,
    /// Who says that it can be reached: the rival or the arithmetic.
    pub because: String,
    /// What bounds it while it is open, by measurement.
    #[serde(default)]
    pub bounded_by: Option<String>,
}

/// `golden/rivals.toml`: what other tools reach, by claim. Listed, never judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rivals {
    /// [`SCHEMA`].
    pub schema: u32,
    /// In order of the page.
    pub rival: Vec<Rival>,
}

/// A figure of another tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rival {
    /// The claim that speaks of the same quantity.
    pub claim: String,
    /// Name of the board.
    pub board: String,
    /// Tool and version.
    pub tool: String,
    /// The figure, in the claim's unit.
    pub value: f64,
    /// When and how.
    pub measured: String,
}

/// Everything in `golden/`.
#[derive(Debug, Clone)]
pub struct Goldens {
    /// `documented.toml`.
    pub documented: Documented,
    /// Every board file, by name.
    pub boards: BTreeMap<String, BoardGolden>,
    /// `targets.toml`.
    pub targets: Targets,
    /// `rivals.toml`.
    pub rivals: Rivals,
}

/// Files of `golden/` that are not boards.
const GENERAL: &[&str] = &["documented.toml", "targets.toml", "rivals.toml"];

/// Reads all of `golden/`. A typo anywhere is one error that names the file.
pub fn load(folder: &Path) -> Result<Goldens, String> {
    let mut boards = BTreeMap::new();
    for path in toml_files(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if GENERAL.contains(&name.as_str()) {
            continue;
        }
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let golden = parse_board(&path, &text)?;
        boards.insert(golden.board.name.clone(), golden);
    }
    one_board_an_id(&boards)?;
    let path = folder.join("documented.toml");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let documented = parse_documented(&path, &text)?;
    let targets: Targets = read(&folder.join("targets.toml"))?;
    require_schema(&folder.join("targets.toml"), targets.schema)?;
    let rivals: Rivals = read(&folder.join("rivals.toml"))?;
    require_schema(&folder.join("rivals.toml"), rivals.schema)?;
    Ok(Goldens { documented, boards, targets, rivals })
}

/// The text of a board's file. The error names `path`.
pub(crate) fn parse_board(path: &Path, text: &str) -> Result<BoardGolden, String> {
    let golden: BoardGolden = parse(path, text)?;
    require_schema(path, golden.schema)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if format!("{}.toml", golden.board.name) != name {
        return Err(format!(
            "{}: board.name is {:?}, which is not the file's name",
            path.display(),
            golden.board.name
        ));
    }
    let is_id = |id: &&String| id.len() == 4 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let ids = &golden.board.pci_device_ids;
    if ids.is_empty() || !ids.iter().all(|id| is_id(&id)) {
        return Err(format!("{}: pci_device_ids {ids:?}: four hex digits each", path.display()));
    }
    require_budget(path, &golden)?;
    Ok(golden)
}

/// The text of `documented.toml`. The error names `path`.
pub(crate) fn parse_documented(path: &Path, text: &str) -> Result<Documented, String> {
    let documented: Documented = parse(path, text)?;
    require_schema(path, documented.schema)?;
    Ok(documented)
}

/// Evidence of an id is judged by one board's bounds.
fn one_board_an_id(boards: &BTreeMap<String, BoardGolden>) -> Result<(), String> {
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for (name, golden) in boards {
        for id in &golden.board.pci_device_ids {
            if let Some(other) = owners.insert(id.to_ascii_lowercase(), name) {
                return Err(format!("{name}.toml: {id} is a pci_device_id of {other} already"));
            }
        }
    }
    Ok(())
}

fn toml_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    parse(path, &text)
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|e| format!("{}: {e}", path.display()))
}

/// A board skips no more claims than its budget.
fn require_budget(path: &Path, golden: &BoardGolden) -> Result<(), String> {
    let (skips, budget) = (golden.skip.len(), golden.skip_budget);
    if skips <= budget {
        return Ok(());
    }
    Err(format!("{}: skip lists {skips} claims, skip_budget allows {budget}", path.display()))
}

fn require_schema(path: &Path, schema: u32) -> Result<(), String> {
    if schema == SCHEMA {
        return Ok(());
    }
    Err(format!("{}: schema {schema} is not {SCHEMA}", path.display()))
}

impl Goldens {
    /// The board with this PCI device id.
    pub fn board_of(&self, pci_device_id: &str) -> Option<&BoardGolden> {
        self.boards.values().find(|golden| {
            golden.board.pci_device_ids.iter().any(|id| id.eq_ignore_ascii_case(pci_device_id))
        })
    }

    /// Name of the board, or the id itself where no golden knows it.
    pub fn board_name(&self, pci_device_id: &str) -> String {
        self.board_of(pci_device_id)
            .map_or_else(|| format!("pci-{pci_device_id}"), |golden| golden.board.name.clone())
    }
}

impl BoardGolden {
    /// The bound of a claim's metric.
    pub fn bound(&self, claim: &str, metric: &str) -> Option<&Bound> {
        self.claims.get(claim)?.get(metric)
    }
}

impl Promise {
    /// The limit as a number for a board. `Err` where the share is of a peak that is not known.
    pub fn limit(&self, board: Option<&BoardGolden>) -> Result<f64, String> {
        let figure = self
            .at_least
            .or(self.at_most)
            .or(self.equals)
            .ok_or_else(|| "the promise has no figure".to_owned())?;
        let Some(peak) = &self.of else { return Ok(figure) };
        match board.and_then(|board| board.peaks.get(peak)) {
            Some(known) => Ok(figure * known.value),
            None => Err(format!("the peak {peak} of this board is not known")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selfcheck;

    /// The self-check's goldens as files, with what is no golden beside them.
    fn folder(change: impl Fn(&mut BoardGolden)) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        let goldens = selfcheck::goldens();
        let mut board = goldens.boards["board"].clone();
        change(&mut board);
        write("board.toml", toml::to_string(&board).expect("written"));
        write("documented.toml", toml::to_string(&goldens.documented).expect("written"));
        write("targets.toml", toml::to_string(&goldens.targets).expect("written"));
        write("rivals.toml", toml::to_string(&goldens.rivals).expect("written"));
        write("notes.md", "no golden".into());
        folder
    }

    #[track_caller]
    fn check(change: impl Fn(&mut BoardGolden), words: &str) {
        let error = load(folder(change).path()).unwrap_err();
        assert!(error.contains("board.toml") && error.contains(words), "{error}");
    }

    #[test]
    fn a_folder_is_read_whole() {
        let goldens = load(folder(|_| {}).path()).expect("read");
        assert_eq!(goldens.boards.keys().collect::<Vec<_>>(), ["board"]);
        assert_eq!(goldens.board_name("0000"), "board");
        assert_eq!(goldens.board_name("ffff"), "pci-ffff");
        let bound = goldens.boards["board"].bound("selfcheck::rate", "read_gbps");
        assert_eq!(bound.map(|bound| bound.golden), Some(1000.0));
    }

    #[test]
    fn a_board_is_refused_with_its_file() {
        check(|board| board.schema = 2, "schema 2 is not 1");
        check(|board| board.board.name = "other".into(), "not the file's name");
        let skip = |board: &mut BoardGolden| {
            board.skip.insert("a::b".into(), "slow".into());
        };
        check(skip, "skip lists 1 claims, skip_budget allows 0");
        check(|board| board.board.pci_device_ids = vec!["23g5".into()], "four hex digits");
        check(|board| board.board.pci_device_ids = vec!["02335".into()], "four hex digits");
        check(|board| board.board.pci_device_ids.clear(), "four hex digits");
        let allowed = folder(|board| {
            skip(board);
            board.skip_budget = 1;
        });
        assert!(load(allowed.path()).is_ok());
    }

    #[test]
    fn an_id_is_one_boards() {
        let folder = folder(|board| board.board.pci_device_ids = vec!["23AB".into()]);
        let mut other = selfcheck::goldens().boards["board"].clone();
        other.board.name = "other".into();
        other.board.pci_device_ids = vec!["23ab".into()];
        let text = toml::to_string(&other).expect("written");
        std::fs::write(folder.path().join("other.toml"), text).expect("written");
        let error = load(folder.path()).unwrap_err();
        assert_eq!(error, "other.toml: 23ab is a pci_device_id of board already");
    }

    #[test]
    fn promises_by_hand() {
        let goldens = selfcheck::goldens();
        let board = goldens.boards.get("board");
        let own = &goldens.documented.claims["selfcheck::rate"];
        assert_eq!(own.limit(board), Ok(400.0));
        let share = Promise { at_least: Some(0.5), of: Some("hbm_gbps".into()), ..own.clone() };
        assert_eq!(share.limit(board), Ok(600.0));
        assert!(share.limit(None).is_err_and(|error| error.contains("hbm_gbps")));
        let most = Promise { at_least: None, at_most: Some(7.0), ..own.clone() };
        assert_eq!(most.limit(None), Ok(7.0));
        let none = Promise { at_least: None, ..own.clone() };
        assert!(none.limit(board).is_err_and(|error| error.contains("no figure")));
    }
}
