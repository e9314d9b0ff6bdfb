//! Everything that the runner is given by the suites: claims, cases, the node, the root folder.

use std::path::{Path, PathBuf};

use crate::case::Case;
use crate::claim::Claim;
use crate::golden::{self, Goldens};
use crate::judge::{self, Found, Judgement, Question};
use crate::live;
use crate::node::Node;
use crate::recorded::{self, FinishedRun, FoundEvidence};
use crate::report::checklist::Checklist;
use crate::run::SourceTree;

/// The suites as the runner sees them.
pub struct World<'a> {
    /// All claims, in checklist order.
    pub claims: &'a [&'static Claim],
    /// All cases, in the order in which they run.
    pub cases: &'a [&'static Case],
    /// This machine.
    pub node: &'a dyn Node,
    /// The folder that holds golden/, fixtures/ and checklists/.
    pub root: PathBuf,
    /// What the executable was built from.
    pub source: SourceTree,
    /// The checklists that are generated.
    pub checklists: &'a [Checklist],
}

impl World<'_> {
    /// Reads `golden/`.
    pub fn goldens(&self) -> Result<Goldens, String> {
        golden::load(&self.root.join("golden"))
    }

    /// The case of a claim. `Err` names the claim.
    pub fn case_of(&self, claim: &Claim) -> Result<&'static Case, String> {
        let found = self.cases.iter().find(|case| case.id == claim.case);
        found.copied().ok_or_else(|| format!("{}: no case {}", claim.id, claim.case))
    }

    /// All claims that read a case.
    pub fn readers(&self, case: &Case) -> Vec<&'static Claim> {
        self.claims.iter().filter(|claim| claim.case == case.id).copied().collect()
    }

    /// Judges a claim against what was found.
    pub fn judge(
        &self,
        claim: &'static Claim,
        case: &'static Case,
        found: Found,
        goldens: &Goldens,
    ) -> Judgement {
        let siblings = self.readers(case);
        judge::judge(&Question {
            claim,
            case,
            siblings: &siblings,
            found,
            goldens,
            kernel_source: &|kernel, architecture| {
                self.node.kernel_source_sha256(kernel, architecture)
            },
        })
    }

    /// Judges a claim by one finished run alone. What its tier or its GPUs leave out is explained; what a
    /// whole run would hold and this one does not is not excused.
    pub fn judge_run(
        &self,
        claim: &'static Claim,
        case: &'static Case,
        finished: &FinishedRun,
        goldens: &Goldens,
    ) -> Judgement {
        let found = recorded::read(finished, case.id);
        let given = finished.run.devices.len();
        let found = match (live::left_out(claim, case, given, finished.run.tier), &found) {
            (Some(reason), _) => Found::Nothing { reason, explained: true },
            (None, FoundEvidence::Nothing(reason)) => {
                Found::Nothing { reason: reason.clone(), explained: case.self_test_only }
            }
            (None, found) => found.as_found(),
        };
        self.judge(claim, case, found, goldens)
    }

    /// Refuses a world in which a name means two things.
    pub fn check(&self) -> Result<(), String> {
        let mut ids: Vec<&str> = self.claims.iter().map(|claim| claim.id).collect();
        ids.extend(self.cases.iter().map(|case| case.id));
        let claims = self.claims.len();
        for (index, id) in ids.iter().enumerate() {
            let same_kind = if index < claims { &ids[..claims] } else { &ids[claims..] };
            if same_kind.iter().filter(|other| *other == id).count() > 1 {
                return Err(format!("two claims or two cases of one id: {id}"));
            }
        }
        self.claims.iter().try_for_each(|claim| self.case_of(claim).map(drop))
    }
}

/// A path below the root, as text for reports.
pub fn below<'a>(root: &Path, path: &'a Path) -> std::borrow::Cow<'a, str> {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy()
}
