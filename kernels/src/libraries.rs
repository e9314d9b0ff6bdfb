//! Finding the CUDA libraries of a machine by reading folders: nothing is started or loaded.
//!
//! cudarc loads each library at its first call and panics where it is missing, and it never tries
//! the name `libnccl.so.2`. So a parent [`find`]s the files, lays a [`shim`] of links with the
//! names that cudarc tries, and starts its children with `LD_LIBRARY_PATH` set to it: exactly
//! these files are loaded. A process that calls NVRTC itself uses [`preload`] instead.
//!
//! Invariants:
//! - [`find`] and [`shim`] never call `dlopen`; [`present`], [`preload`] and [`versions`] do.
//! - The driver's own libraries (libcuda, NVML) must fit the kernel module, so they are taken
//!   from the loader or a driver folder only, never from a toolkit or a Python package.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use sha2::{Digest, Sha256};

use crate::{Error, Result, nvml};

/// A library of the CUDA stack that this crate calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Library {
    /// The driver API.
    Cuda,
    /// The run-time compiler.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Collectives.
    Nccl,
    /// Management: inventory and telemetry.
    Nvml,
}

impl Library {
    /// Every library, in the order of [`find`].
    pub const ALL: [Library; 5] =
        [Library::Cuda, Library::Nvrtc, Library::CublasLt, Library::Nccl, Library::Nvml];

    /// The file name that carries the binary interface, for example `libnvrtc.so.13`.
    pub fn soname(self) -> &'static str {
        match self {
            Library::Cuda => "libcuda.so.1",
            Library::Nvrtc => "libnvrtc.so.13",
            Library::CublasLt => "libcublasLt.so.13",
            Library::Nccl => "libnccl.so.2",
            Library::Nvml => "libnvidia-ml.so.1",
        }
    }

    /// The unversioned name, which cudarc tries first, for example `libnvrtc.so`.
    fn plain_name(self) -> &'static str {
        match self {
            Library::Cuda => "libcuda.so",
            Library::Nvrtc => "libnvrtc.so",
            Library::CublasLt => "libcublasLt.so",
            Library::Nccl => "libnccl.so",
            Library::Nvml => "libnvidia-ml.so",
        }
    }

    /// Belongs to the driver and must fit the kernel module.
    fn of_driver(self) -> bool {
        matches!(self, Library::Cuda | Library::Nvml)
    }

    /// Whether a file beside the library is loaded by it and so belongs into the shim.
    /// NVRTC 13.0 opens its builtins by bare name and has no run path of its own.
    fn needs(self, file_name: &str) -> bool {
        match self {
            Library::Nvrtc => file_name.starts_with("libnvrtc-builtins.so."),
            Library::CublasLt => file_name == "libcublas.so.13",
            Library::Cuda | Library::Nccl | Library::Nvml => false,
        }
    }
}

/// Where one library lies, or where it was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The library.
    pub library: Library,
    /// The file, possibly a link; `None` where no place has it.
    pub path: Option<PathBuf>,
    /// The folders that were looked into, in order, up to and with the one that had it.
    pub searched: Vec<String>,
    /// The kind of place: `CUDA_HOME`, `.cuda folder`, `loader`, `system folder`,
    /// `python wheel`, or `not found`.
    pub from: &'static str,
}

const CUDA_HOME: &str = "CUDA_HOME";
const DOT_CUDA: &str = ".cuda folder";
const LOADER: &str = "loader";
const SYSTEM: &str = "system folder";
const WHEEL: &str = "python wheel";
const NOT_FOUND: &str = "not found";

const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// A place to look into.
enum Place {
    /// A folder, and what kind it is.
    Folder(PathBuf, &'static str),
    /// The loader's cache: name -> files.
    Cache(BTreeMap<String, Vec<PathBuf>>),
}

/// Looks for every library, [`Library::ALL`] in order. Reads folders only.
///
/// The order is `CUDA_HOME`, `CUDA_PATH`; `.cuda/nvidia/cu13/lib` under `root` and the working
/// directory; what the loader finds (`LD_LIBRARY_PATH`, `/etc/ld.so.cache`); system folders;
/// Python packages of `VIRTUAL_ENV`, `PYTHONPATH`, the `python3` on `PATH`, the user and `/opt`.
pub fn find(root: Option<&Path>) -> Vec<Found> {
    let places = places(root);
    Library::ALL.iter().map(|&library| locate(library, &places)).collect()
}

/// The first place that holds the library.
fn locate(library: Library, places: &[Place]) -> Found {
    let soname = library.soname();
    let mut searched = Vec::new();
    for place in places {
        let (path, from) = match place {
            Place::Folder(_, from) if library.of_driver() && ![LOADER, SYSTEM].contains(from) => {
                continue;
            }
            Place::Folder(dir, from) => {
                searched.push(dir.display().to_string());
                let file = dir.join(soname);
                (is_elf64(&file).then_some(file), *from)
            }
            Place::Cache(files) => {
                searched.push(LOADER_CACHE.to_string());
                let known = files.get(soname).map_or(&[][..], Vec::as_slice);
                (known.iter().find(|file| is_elf64(file)).cloned(), LOADER)
            }
        };
        if path.is_some() {
            return Found { library, path, searched, from };
        }
    }
    Found { library, path: None, searched, from: NOT_FOUND }
}

/// Every place to look into, in order.
fn places(root: Option<&Path>) -> Vec<Place> {
    let mut places = Vec::new();
    let folder =
        |dir: PathBuf, from: &'static str| dir.is_dir().then_some(Place::Folder(dir, from));
    for home in ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| folder_variable(name)) {
        places.extend(folder(home.join("lib64"), CUDA_HOME));
        places.extend(folder(home.join("lib"), CUDA_HOME));
    }
    let working = env::current_dir().ok();
    for base in root.map(Path::to_path_buf).into_iter().chain(working) {
        places.extend(folder(base.join(".cuda/nvidia/cu13/lib"), DOT_CUDA));
    }
    let library_path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    for dir in env::split_paths(&library_path).filter(|dir| dir.is_absolute()) {
        places.extend(folder(dir, LOADER));
    }
    let cache = fs::read(LOADER_CACHE).map(|bytes| loader_cache(&bytes));
    places.push(Place::Cache(cache.unwrap_or_default()));
    let machine = env::consts::ARCH;
    let system = [
        format!("/usr/lib/{machine}-linux-gnu"),
        "/usr/lib64".to_string(),
        "/usr/local/nvidia/lib64".to_string(),
        "/usr/local/cuda/lib64".to_string(),
    ];
    places.extend(system.into_iter().filter_map(|dir| folder(PathBuf::from(dir), SYSTEM)));
    for toolkit in subfolders(Path::new("/usr/local"), "cuda-") {
        places.extend(folder(toolkit.join("lib64"), SYSTEM));
    }
    for site in site_packages() {
        for package in subfolders(&site.join("nvidia"), "") {
            places.extend(folder(package.join("lib"), WHEEL));
        }
    }
    places
}

/// Folders that may hold Python packages, the most specific first.
fn site_packages() -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> = folder_variable("VIRTUAL_ENV").into_iter().collect();
    let path = env::var_os("PATH").unwrap_or_default();
    let python = env::split_paths(&path).map(|dir| dir.join("python3")).find(|file| file.is_file());
    if let Some(python) = python {
        // The link's own prefix is a virtual environment, its target's prefix the installation.
        let target = fs::canonicalize(&python).ok();
        let prefix = |file: &Path| file.parent()?.parent().map(Path::to_path_buf);
        prefixes.extend(prefix(&python));
        prefixes.extend(target.as_deref().and_then(prefix));
    }
    prefixes.extend(folder_variable("HOME").map(|home| home.join(".local")));
    prefixes.push(PathBuf::from("/usr/local"));
    prefixes.extend(subfolders(Path::new("/opt"), "").into_iter().map(|dir| dir.join(".venv")));
    let targets = env::var_os("PYTHONPATH").unwrap_or_default();
    let mut sites: Vec<PathBuf> = env::split_paths(&targets).collect();
    for prefix in prefixes {
        for python in subfolders(&prefix.join("lib"), "python3") {
            sites.push(python.join("site-packages"));
            sites.push(python.join("dist-packages"));
        }
    }
    sites
}

/// The value of a variable that names a folder; an empty one is none.
fn folder_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folders in `parent` whose names start with `prefix`, sorted so that a search repeats.
fn subfolders(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let named = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    };
    let mut folders: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| named(path) && path.is_dir())
        .collect();
    folders.sort();
    folders
}

/// A 64-bit ELF file: not a linker script, a dangling link or a 32-bit library.
fn is_elf64(path: &Path) -> bool {
    let mut start = [0u8; 5];
    let read =
        fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut start));
    read.is_ok() && start == *b"\x7fELF\x02"
}

/// The loader's cache as name -> files, in the format that glibc writes since 2.2
/// (`struct cache_file_new` in `dl-cache.h`). Anything else reads as an empty cache.
fn loader_cache(bytes: &[u8]) -> BTreeMap<String, Vec<PathBuf>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER_BYTES: usize = 48;
    const ENTRY_BYTES: usize = 24;
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC);
    let Some(cache) = start.map(|start| &bytes[start..]) else { return files };
    let word = |at: usize| -> Option<usize> {
        let word: [u8; 4] = cache.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(word) as usize)
    };
    let text = |at: usize| -> Option<String> {
        let rest = cache.get(at..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        String::from_utf8(rest[..end].to_vec()).ok()
    };
    for entry in 0..word(MAGIC.len()).unwrap_or(0) {
        // flags, name, path, OS version, hardware capabilities.
        let at = HEADER_BYTES + entry * ENTRY_BYTES;
        let name = word(at + 4).and_then(text);
        let path = word(at + 8).and_then(text);
        let (Some(name), Some(path)) = (name, path) else { break };
        files.entry(name).or_default().push(PathBuf::from(path));
    }
    files
}

/// Makes `dir` a folder of links to exactly the files found, under their sonames and the names
/// that cudarc tries, with what they load from beside them. Returns its absolute path, the value
/// of `LD_LIBRARY_PATH` for children. Links of an earlier call that are not wanted go away.
///
/// libcuda and NVML are linked only where the loader would not find them itself: its own choice
/// is the one that fits the driver.
///
/// Errors: the folder cannot be written, or its path holds a `:` or `;`, which separate entries.
pub fn shim(dir: &Path, found: &[Found]) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let dir = fs::canonicalize(dir)?;
    if dir.to_string_lossy().contains([':', ';']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} cannot stand in LD_LIBRARY_PATH", dir.display()),
        ));
    }
    let mut links: BTreeMap<String, PathBuf> = BTreeMap::new();
    for found in found {
        let Some(path) = &found.path else { continue };
        if found.library.of_driver() && found.from == LOADER {
            continue;
        }
        let file = fs::canonicalize(path)?;
        links.insert(found.library.plain_name().to_string(), file.clone());
        links.insert(found.library.soname().to_string(), file);
        for beside in companions(found.library, path) {
            if let Some(name) = beside.file_name() {
                links.insert(name.to_string_lossy().into_owned(), fs::canonicalize(&beside)?);
            }
        }
    }
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        let wanted = links.contains_key(entry.file_name().to_string_lossy().as_ref());
        if !wanted && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    for (name, file) in &links {
        link(&dir.join(name), file)?;
    }
    Ok(dir)
}

/// Makes `link` point at `file` without a moment in which it does not exist.
fn link(link: &Path, file: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|target| target == file) {
        return Ok(());
    }
    let mut fresh = link.as_os_str().to_owned();
    fresh.push(format!(".new{}", std::process::id()));
    std::os::unix::fs::symlink(file, &fresh)?;
    fs::rename(&fresh, link)
}

/// The files beside `path` that the library loads itself, sorted.
fn companions(library: Library, path: &Path) -> Vec<PathBuf> {
    let Some(Ok(entries)) = path.parent().map(fs::read_dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| library.needs(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// Loads a found library, what it needs first, into this process for good, so that a later
/// `dlopen` of its soname gets it. Enough for cudarc's NVRTC and cuBLASLt; not for its NCCL,
/// whose soname it never tries.
///
/// Errors: [`Error::LibraryMissing`] where it was not found, [`Error::Load`] where the loader
/// refuses a file.
pub fn preload(found: &Found) -> Result<()> {
    let Some(path) = &found.path else { return Err(missing(found)) };
    let files = companions(found.library, path).into_iter().chain([path.clone()]);
    for file in files {
        use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: the initialisers of NVIDIA's libraries have no precondition; the handle is
        // never closed, so no symbol of it can dangle.
        let handle = unsafe { Handle::open(Some(&file), RTLD_NOW | RTLD_GLOBAL) };
        let handle = handle.map_err(|error| Error::Load {
            path: file.display().to_string(),
            reason: error.to_string(),
        })?;
        std::mem::forget(handle);
    }
    Ok(())
}

/// Whether the loader of this process finds the library, asked as its caller asks, so that the
/// first call cannot panic. Safe at any time.
pub fn present(library: Library) -> bool {
    // SAFETY: only loads and closes the library; the initialisers have no precondition.
    unsafe {
        match library {
            Library::Cuda => cudarc::driver::sys::is_culib_present(),
            Library::Nvrtc => cudarc::nvrtc::sys::is_culib_present(),
            Library::CublasLt => cudarc::cublaslt::sys::is_culib_present(),
            Library::Nccl => cudarc::nccl::sys::is_culib_present(),
            Library::Nvml => libloading::Library::new(library.soname()).is_ok(),
        }
    }
}

/// [`present`], or [`Error::LibraryMissing`] with the places searched, or with the file that
/// lies where this process's loader does not look.
pub fn require(library: Library) -> Result<()> {
    if present(library) {
        return Ok(());
    }
    let found = find(None).into_iter().find(|found| found.library == library);
    Err(found.as_ref().map_or_else(
        || Error::LibraryMissing { library: library.soname(), searched: String::new() },
        missing,
    ))
}

/// The error for a library that cannot be loaded.
fn missing(found: &Found) -> Error {
    let searched = match &found.path {
        Some(path) => format!(
            "the loader does not look at {}: add its folder to LD_LIBRARY_PATH",
            path.display()
        ),
        None => format!("searched {}", found.searched.join(", ")),
    };
    Error::LibraryMissing { library: found.library.soname(), searched }
}

/// The files of the CUDA stack that this process has mapped, from `/proc/self/maps`: what was
/// really loaded, links resolved. Hash them with [`sha256_of`] to pin a measurement.
pub fn loaded() -> Vec<(Library, PathBuf)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut files = Vec::new();
    for path in maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let library = Library::ALL.iter().find(|library| {
            let rest = name.strip_prefix(library.plain_name());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        let entry = library.map(|&library| (library, PathBuf::from(path)));
        if let Some(entry) = entry.filter(|entry| !files.contains(entry)) {
            files.push(entry);
        }
    }
    files
}

/// The versions of the libraries that are present, as `(name, version)`: `cuda_driver_api`,
/// `nvrtc`, `cublaslt`, `nccl`, `nvidia_driver`. A library that is missing has no line.
pub fn versions() -> Vec<(&'static str, String)> {
    let asked = [
        ("cuda_driver_api", driver_api_version()),
        ("nvrtc", nvrtc_version()),
        ("cublaslt", cublaslt_version()),
        ("nccl", nccl_version()),
        ("nvidia_driver", nvml::init().ok().and_then(|session| session.driver_version().ok())),
    ];
    asked.into_iter().filter_map(|(name, version)| Some((name, version?))).collect()
}

/// The newest CUDA version that the driver serves, `major.minor`.
fn driver_api_version() -> Option<String> {
    let mut version: c_int = 0;
    // SAFETY: the library is present; the call only writes the integer and needs no `cuInit`.
    let status = present(Library::Cuda)
        .then(|| unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) })?;
    status.result().ok()?;
    Some(format!("{}.{}", version / 1000, version % 1000 / 10))
}

/// NVRTC's version, `major.minor`: it does not tell its patch level.
pub(crate) fn nvrtc_version() -> Option<String> {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: the library is present; the call only writes the two integers.
    let status = present(Library::Nvrtc)
        .then(|| unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) })?;
    status.result().ok()?;
    Some(format!("{major}.{minor}"))
}

/// cuBLASLt's version, `major.minor.patch`.
fn cublaslt_version() -> Option<String> {
    // SAFETY: the library is present; the call takes nothing and returns an integer.
    let version = present(Library::CublasLt)
        .then(|| unsafe { cudarc::cublaslt::sys::cublasLtGetVersion() })?;
    Some(three_part_version(version as u64))
}

/// NCCL's version, `major.minor.patch`, asked without cudarc, which misses `libnccl.so.2`.
fn nccl_version() -> Option<String> {
    type GetVersion = unsafe extern "C" fn(*mut c_int) -> c_int;
    let mut version: c_int = 0;
    // SAFETY: the signature is that of nccl.h since 2.0; the library outlives the call.
    let status = unsafe {
        let library = libloading::Library::new(Library::Nccl.plain_name())
            .or_else(|_| libloading::Library::new(Library::Nccl.soname()))
            .ok()?;
        library.get::<GetVersion>(b"ncclGetVersion\0").ok()?(&mut version)
    };
    (status == 0).then(|| three_part_version(version as u64))
}

/// `major * 10000 + minor * 100 + patch`, as cuBLAS and NCCL (since 2.9) number themselves.
fn three_part_version(version: u64) -> String {
    format!("{}.{}.{}", version / 10_000, version % 10_000 / 100, version % 100)
}

/// The sha256 of a file's bytes, links followed, as 64 lower-case hex digits.
///
/// Errors: those of reading the file.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(path)?;
    let mut block = vec![0u8; 1 << 20];
    loop {
        let count = io::Read::read(&mut file, &mut block)?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&block[..count]);
    }
}

/// The sha256 of bytes in memory, as 64 lower-case hex digits.
pub(crate) fn sha256_of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELF: &[u8] = b"\x7fELF\x02 not a real one";

    fn place(dir: &Path, from: &'static str, files: &[(&str, &[u8])]) -> Place {
        fs::create_dir_all(dir).unwrap();
        for (name, bytes) in files {
            fs::write(dir.join(name), bytes).unwrap();
        }
        Place::Folder(dir.to_path_buf(), from)
    }

    #[test]
    fn the_first_place_with_a_real_library_wins() {
        let top = tempfile::tempdir().unwrap();
        let script = place(&top.path().join("a"), CUDA_HOME, &[("libnvrtc.so.13", b"INPUT(x)")]);
        let real = place(&top.path().join("b"), WHEEL, &[("libnvrtc.so.13", ELF)]);
        let found = locate(Library::Nvrtc, &[script, real]);
        assert_eq!(found.path, Some(top.path().join("b/libnvrtc.so.13")));
        assert_eq!(found.from, WHEEL);
        assert_eq!(found.searched.len(), 2, "{:?}", found.searched);
    }

    #[test]
    fn a_driver_library_is_never_taken_from_a_toolkit() {
        let top = tempfile::tempdir().unwrap();
        let toolkit = place(&top.path().join("a"), CUDA_HOME, &[("libcuda.so.1", ELF)]);
        let wheel = place(&top.path().join("b"), WHEEL, &[("libcuda.so.1", ELF)]);
        let found = locate(Library::Cuda, &[toolkit, wheel]);
        assert_eq!((found.path, found.from), (None, NOT_FOUND));
    }

    #[test]
    fn the_shim_has_the_names_that_cudarc_tries_and_nothing_stale() {
        let top = tempfile::tempdir().unwrap();
        let files: &[(&str, &[u8])] = &[
            ("libnvrtc.so.13", ELF),
            ("libnvrtc-builtins.so.13.0", ELF),
            ("libnccl.so.2", ELF),
            ("libnvidia-ml.so.1", ELF),
        ];
        let places = [place(&top.path().join("lib"), LOADER, files)];
        let found: Vec<Found> =
            Library::ALL.iter().map(|&library| locate(library, &places)).collect();
        let shim_dir = top.path().join("shim");
        fs::create_dir_all(&shim_dir).unwrap();
        std::os::unix::fs::symlink("/nowhere", shim_dir.join("libcublasLt.so")).unwrap();
        let first = shim(&shim_dir, &found).unwrap();
        assert_eq!(shim(&shim_dir, &found).unwrap(), first, "a second call changes nothing");
        let mut names: Vec<String> = fs::read_dir(&first)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expect = [
            "libnccl.so",
            "libnccl.so.2",
            "libnvrtc-builtins.so.13.0",
            "libnvrtc.so",
            "libnvrtc.so.13",
        ];
        assert_eq!(names, expect);
        let target = fs::read_link(first.join("libnccl.so")).unwrap();
        assert_eq!(target, fs::canonicalize(top.path().join("lib/libnccl.so.2")).unwrap());
    }

    #[test]
    fn a_shim_path_with_a_separator_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let error = shim(&top.path().join("a:b"), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_loader_cache_is_read_as_glibc_writes_it() {
        // One entry by hand: header 48 bytes, entry 24 bytes, strings at 72 and 80.
        let mut cache = b"glibc-ld.so.cache1.1".to_vec();
        cache.extend(1u32.to_ne_bytes());
        cache.resize(48, 0);
        for word in [0x0303u32, 72, 80, 0, 0, 0] {
            cache.extend(word.to_ne_bytes());
        }
        cache.extend(b"libx.so\0/lib/libx.so\0");
        let files = loader_cache(&cache);
        assert_eq!(files["libx.so"], [PathBuf::from("/lib/libx.so")]);
        assert!(loader_cache(&cache[..60]).is_empty(), "a truncated cache is an empty one");
        assert!(loader_cache(b"something else").is_empty());
    }

    #[test]
    fn the_loader_cache_of_this_machine_knows_libc() {
        let Ok(bytes) = fs::read(LOADER_CACHE) else {
            println!("skipped: this machine has no /etc/ld.so.cache");
            return;
        };
        let files = loader_cache(&bytes);
        assert!(files.get("libc.so.6").is_some_and(|paths| paths.iter().any(|p| is_elf64(p))));
    }

    #[test]
    fn the_loader_cache_gives_the_first_file_that_is_a_library() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("real"), ELF).unwrap();
        let files = vec![top.path().join("gone"), top.path().join("real")];
        let cache = Place::Cache([("libcuda.so.1".to_string(), files)].into());
        let found = locate(Library::Cuda, &[cache]);
        assert_eq!((found.path, found.from), (Some(top.path().join("real")), LOADER));
    }

    #[test]
    fn versions_of_three_parts() {
        assert_eq!(three_part_version(130_002), "13.0.2");
        assert_eq!(three_part_version(22_809), "2.28.9");
    }

    #[test]
    fn sha256_of_a_file_is_the_known_one() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("abc"), b"abc").unwrap();
        std::os::unix::fs::symlink("abc", top.path().join("link")).unwrap();
        let expect = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(&top.path().join("link")).unwrap(), expect);
        assert_eq!(sha256_of_bytes(b"abc"), expect);
    }
}
