//! `doctor`: what this machine has and lacks, and what each lack costs in claims.

use std::fmt::Write;
use std::path::Path;

use harness::case::{Case, Scope};
use harness::claim::Claim;
use harness::world::World;
use kernels::libraries::{self, Found, Library};
use kernels::nvml;

/// The whole report.
pub fn text(world: &World) -> Result<String, String> {
    let mut out = String::new();
    let found = libraries::find(Some(&world.root));
    say(&mut out, "root", &world.root.display().to_string());
    let source = &world.source;
    let dirty = if source.dirty { ", with changes" } else { "" };
    say(&mut out, "built from", &format!("{}{dirty}", source.revision));
    for library in &found {
        say(&mut out, library.library.soname(), &place(library));
        if library.path.is_none() {
            cost(&mut out, world, library.library);
        }
    }
    for (tool, lost) in TOOLS {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|p| p.exists());
        match found {
            Some(path) => say(&mut out, tool, &path.display().to_string()),
            None => say(&mut out, tool, &format!("NOT FOUND on PATH, costs {lost}")),
        }
    }
    say(&mut out, "headers for nvrtc", "none needed: the kernels include no header of CUDA");
    devices(&mut out, world);
    gpus(&mut out, world);
    boards(&mut out, world)?;
    Ok(out)
}

/// Programs that some cases start, and the claims that they cost.
const TOOLS: &[(&str, &str)] = &[
    ("compute-sanitizer", "env::sanitizer-clean under --self-test"),
    ("python3", "the three claims against PyTorch, which it must have"),
];

fn say(out: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{name:22} {value}");
}

fn place(found: &Found) -> String {
    match &found.path {
        Some(path) => format!("{} ({})", path.display(), found.from),
        None => format!("NOT FOUND, looked in {}", found.searched.join(", ")),
    }
}

/// Cases that multiply by cuBLASLt, of suites of which not every case does.
const CUBLASLT_CASES: &[&str] = &[
    "precision::accumulator",
    "precision::adder-fp16",
    "precision::adder-e4m3",
    "precision::products",
    "precision::products-block",
    "precision::products-foretold",
    "precision::fp8-product-bound",
    "precision::auto",
    "precision::microscaled-products",
    "precision::native-microscaled-products",
    "precision::weight-only",
    "precision::accuracy",
    "precision::accuracy-fp8",
    "precision::accuracy-block",
    "precision::accuracy-outliers",
    "precision::random-models",
    "precision::random-models-fp8",
    "precision::product-rates",
    "precision::promoted-rates",
    "precision::promoted-load",
];
/// Cases that call NCCL; the other collectives are our own.
const NCCL_CASES: [&str; 7] = [
    "collectives::absent-rank",
    "collectives::nccl",
    "collectives::nccl-rates",
    "collectives::nccl-sweep",
    "collectives::nccl-4gib",
    "collectives::own-vs-nccl",
    "tensor-parallel::ordinary",
];

/// Whether a case cannot be measured without the library.
fn needs(case: &Case, library: Library) -> bool {
    let suite = case.id.split_once("::").map_or(case.id, |(suite, _)| suite);
    match library {
        // Links are read from NVML alone.
        Library::Cuda | Library::Nvrtc => case.scope != Scope::Host && suite != "topology",
        Library::Nvml => case.scope != Scope::Host,
        Library::CublasLt => {
            ["compute", "tensor-parallel", "model"].contains(&suite)
                || CUBLASLT_CASES.contains(&case.id)
        }
        Library::Nccl => NCCL_CASES.contains(&case.id),
    }
}

/// Claims that cannot be measured without the library.
fn cost(out: &mut String, world: &World, library: Library) {
    let needs = |claim: &&&Claim| world.case_of(claim).is_ok_and(|case| needs(case, library));
    let lost: Vec<&str> = world.claims.iter().filter(needs).map(|claim| claim.id).collect();
    let text = match lost.len() {
        0 => "costs no claim of the present suites".to_owned(),
        count => format!("costs {count} claims: {}", suites_of(&lost)),
    };
    say(out, "", &text);
}

/// `bandwidth 9, compute 46`.
fn suites_of(ids: &[&str]) -> String {
    let suite = |id: &str| id.split_once("::").map_or(id.to_owned(), |(suite, _)| suite.to_owned());
    let mut counts: Vec<(String, usize)> = Vec::new();
    for id in ids {
        match counts.iter_mut().find(|(name, _)| *name == suite(id)) {
            Some((_, count)) => *count += 1,
            None => counts.push((suite(id), 1)),
        }
    }
    let texts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    texts.join(", ")
}

/// Device files and whether they may be opened.
fn devices(out: &mut String, world: &World) {
    let control = Path::new("/dev/nvidiactl");
    let text = match std::fs::OpenOptions::new().read(true).write(true).open(control) {
        Ok(_) => "/dev/nvidiactl may be opened".to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let lost = world
                .claims
                .iter()
                .filter(|claim| world.case_of(claim).is_ok_and(|case| case.scope != Scope::Host));
            format!("no /dev/nvidiactl: no NVIDIA device here, {} claims cannot run", lost.count())
        }
        Err(error) => format!("/dev/nvidiactl: {error}: no GPU can be used"),
    };
    say(out, "device files", &text);
    for name in ["CUDA_VISIBLE_DEVICES", "NCCL_NVLS_ENABLE", "LD_LIBRARY_PATH"] {
        if let Ok(value) = std::env::var(name) {
            say(out, name, &value);
        }
    }
}

fn gpus(out: &mut String, world: &World) {
    let inventory = match nvml::init().and_then(|session| session.inventory()) {
        Ok(inventory) => inventory,
        Err(error) => return say(out, "gpus", &format!("unknown: {error}")),
    };
    say(out, "driver", &inventory.driver_version);
    for index in &inventory.denied {
        say(out, "", &format!("NVML's GPU {index} exists and may not be opened from here"));
    }
    for info in &inventory.gpus {
        let up = info.links.iter().filter(|link| link.active).count();
        let text = format!(
            "{} (pci {}), {:.0} GiB, ecc {}, {} of {} NVLinks up, MIG {}",
            info.name,
            info.pci_device_id,
            info.memory_total_bytes as f64 / f64::from(1 << 30),
            word(info.ecc_enabled),
            up,
            info.links.len(),
            word(info.mig_enabled),
        );
        say(out, &format!("gpu{}", info.index), &text);
    }
    match world.node.gpus() {
        Ok(gpus) => {
            for gpu in gpus.iter().filter(|gpu| !gpu.users.is_empty()) {
                let users = gpu.users.join(", ");
                say(out, "", &format!("gpu{} is used by {users}", gpu.device.gpu));
            }
            say(out, "usable here", &format!("{} GPUs", gpus.len()));
        }
        Err(error) => say(out, "usable here", &error),
    }
}

fn word(state: Option<bool>) -> &'static str {
    match state {
        Some(true) => "on",
        Some(false) => "off",
        None => "unknown",
    }
}

/// Which boards have goldens, and whether this machine's board is one.
fn boards(out: &mut String, world: &World) -> Result<(), String> {
    let goldens = world.goldens()?;
    for board in goldens.boards.values() {
        let name = &board.board.name;
        say(out, "golden", &format!("{name}: {} claims have bounds", board.claims.len()));
    }
    let Ok(gpus) = world.node.gpus() else { return Ok(()) };
    for gpu in gpus {
        let id = &gpu.device.pci_device_id;
        if goldens.board_of(id).is_none() {
            say(
                out,
                "golden",
                &format!(
                    "gpu{} (pci {id}) has none: exactness and documented bounds are judged, \
                     the rest waits for three recorded runs and --bless",
                    gpu.device.gpu
                ),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What every file below a folder says at its top level, item by item.
    fn files(folder: &Path) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => found.extend(files(&path)),
                false => found.push(items(&std::fs::read_to_string(&path).expect("a source"))),
            }
        }
        found
    }

    /// An item begins where a line begins with a word, and has all lines up to the next one's.
    fn items(text: &str) -> Vec<String> {
        let mut items: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            match items.last_mut() {
                Some(item) if !line.starts_with(char::is_alphabetic) => item.push_str(line),
                _ => items.push(line.to_owned()),
            }
        }
        items
    }

    /// The items of a file that ask for the library, or use one that does.
    fn asking<'a>(items: &'a [String], library: &str) -> Vec<&'a String> {
        let mut asks = BTreeSet::from([format!("require(Library::{library})")]);
        if library == "CublasLt" {
            asks.extend(["Bench::open(", "with_bench("].map(String::from));
        }
        loop {
            let found = items.iter().filter(|item| asks.iter().any(|text| item.contains(text)));
            let found: Vec<&String> = found.collect();
            let known = asks.len();
            asks.extend(found.iter().flat_map(|item| uses(item)));
            if asks.len() == known {
                return found;
            }
        }
    }

    /// How a macro or a function stands where it is used.
    fn uses(item: &str) -> Vec<String> {
        let name = |word: &str| item.split_once(word)?.1.split([' ', '(', '<']).next();
        match (name("macro_rules! "), name("fn ")) {
            (Some(name), _) => vec![format!("{name}!(")],
            (None, Some(name)) => ["(", ",", ")"].map(|end| format!(" {name}{end}")).into(),
            (None, None) => Vec::new(),
        }
    }

    #[test]
    fn who_asks_by_itself_and_through_another() {
        let items = items(
            "use a::b;\nmacro_rules! c {\n    () => { Case { run: |a, r| f(1, a, r) } }\n}\n\
             static A: Case = c!();\nstatic B: Case = Case {\n    run: g,\n};\n\
             fn f(a: u8) {\n    require(Library::Nccl)?;\n}\n// fn g f(\nfn g() {}\n",
        );
        assert_eq!(items.len(), 6);
        assert_eq!(asking(&items, "Nccl"), [&items[1], &items[2], &items[4]]);
        assert!(asking(&items, "CublasLt").is_empty());
    }

    /// The lists name the cases whose sources ask for the library, and no others.
    #[test]
    fn a_case_needs_what_it_asks_for() {
        let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        for id in CUBLASLT_CASES.iter().chain(&NCCL_CASES) {
            assert!(crate::cases().iter().any(|case| case.id == *id), "{id} is no case");
        }
        for (library, name) in [(Library::CublasLt, "CublasLt"), (Library::Nccl, "Nccl")] {
            for case in crate::cases() {
                let id = format!("\"{}\"", case.id);
                let states = |item: &&String| item.contains(": Case =") && item.contains(&id);
                let found: Vec<bool> = files
                    .iter()
                    .filter_map(|items| {
                        let item = items.iter().find(states)?;
                        Some(asking(items, name).contains(&item))
                    })
                    .collect();
                assert_eq!(found, [needs(case, library)], "{}: {name}", case.id);
            }
        }
    }
}
