//! NVRTC: sources to cubins for an exact architecture, a cache on disk, and the compile gate.
//!
//! Invariants:
//! - [`options`] is the whole list of options. Each can change a bit of a result, so each is
//!   written down, and the list is part of every [`source_sha256`].
//! - A cubin holds no line information and no path, so that its bytes depend on the source, the
//!   options and the compiler alone; [`LOCK`] records them.
//! - An entry of the cache is used only if its hash and its key hold; otherwise it is rebuilt.

use std::ffi::{CString, c_char};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::{fs, io};

use cudarc::nvrtc::{result, sys};

use crate::libraries::{self, Library, sha256_of_bytes};
use crate::{Error, KernelSource, Result};

/// Targets that kernels are compiled for. The `a` targets run on exactly their compute
/// capability; `sm_80` runs on every 8.x.
pub const ARCHITECTURES: &[&str] = &["sm_80", "sm_90a", "sm_100a", "sm_120a"];

/// The record of what every kernel compiles to, in the format of [`render_lock`].
pub const LOCK: &str = include_str!("../cubins.lock");

const LOCK_HEADER: &str = "\
# Cubins that the kernels compile to. Generated: do not edit.
# kernel architecture compiler source_sha256 cubin_sha256 then, per entry,
# name=registers/spill_stores_bytes/spill_loads_bytes/stack_bytes/shared_bytes
";

/// The target for a compute capability `(major, minor)`; `None` where no kernel is built for it.
pub fn architecture_of(compute_capability: (u32, u32)) -> Option<&'static str> {
    match compute_capability {
        (8, _) => Some("sm_80"),
        (9, 0) => Some("sm_90a"),
        (10, 0) => Some("sm_100a"),
        (12, 0) => Some("sm_120a"),
        _ => None,
    }
}

/// Every option given to NVRTC, in order. IEEE arithmetic, with contraction to fused
/// multiply-adds; `-v` only makes ptxas report resources, which NVRTC leaves out of its log where it
/// finds the machine code in a cache of its own: so that cache stays off, and ours is used.
pub fn options(architecture: &str) -> Vec<String> {
    let mut options = vec![format!("--gpu-architecture={architecture}")];
    let fixed = [
        "--std=c++17",
        "-default-device",
        "--fmad=true",
        "--ftz=false",
        "--prec-div=true",
        "--prec-sqrt=true",
        "--ptxas-options=-v",
        "--no-cache",
    ];
    options.extend(fixed.map(String::from));
    options
}

/// What one entry point takes of the machine, as ptxas reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryResources {
    /// The `extern "C"` name.
    pub name: String,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes stored by register spills, functions that it calls included.
    pub spill_stores_bytes: u32,
    /// Bytes loaded by register spills, functions that it calls included.
    pub spill_loads_bytes: u32,
    /// Stack frame per thread.
    pub stack_bytes: u32,
    /// Static shared memory per block.
    pub shared_bytes: u32,
}

/// A compiled kernel source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cubin {
    /// [`KernelSource::name`].
    pub kernel: String,
    /// Target, for example `sm_90a`.
    pub architecture: String,
    /// The cubin, an ELF file.
    pub bytes: Vec<u8>,
    /// See [`source_sha256`].
    pub source_sha256: String,
    /// The sha256 of `bytes`.
    pub cubin_sha256: String,
    /// NVRTC's version, for example `13.0.88`.
    pub compiler: String,
    /// One for each of [`KernelSource::entries`], in that order.
    pub entries: Vec<EntryResources>,
    /// What ptxas says of matrix instructions that it could not leave in flight; only of a fresh
    /// compile, not of one out of the cache.
    pub serialized: Option<String>,
}

/// The sha256 over name, options and source: what is asked of the compiler, whichever it is.
pub fn source_sha256(kernel: &KernelSource, architecture: &str) -> String {
    let options = options(architecture).join("\n");
    sha256_of_bytes(format!("{}.cu\n{options}\n\n{}", kernel.name, kernel.source).as_bytes())
}

/// A program of NVRTC, destroyed on drop.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program came from `create_program` and is destroyed only here. Failing to
        // free it is no reason to fail a compile.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

impl Program {
    /// The compiler's log, or an empty text where NVRTC has none.
    fn log(&self) -> String {
        // SAFETY: the program is alive.
        unsafe { result::get_program_log(self.0) }.map(text).unwrap_or_default()
    }

    /// The version that the PTX names, `13.0.88`: `nvrtcVersion` does not tell the patch level.
    fn compiler(&self) -> Option<String> {
        // SAFETY: the program is alive.
        let ptx = unsafe { result::get_ptx(self.0) }.map(text).ok()?;
        let (_, version) = ptx.lines().take(10).find_map(|line| line.split_once(", V"))?;
        Some(version.trim().to_string())
    }

    fn cubin(&self) -> std::result::Result<Vec<u8>, result::NvrtcError> {
        let mut size = 0;
        // SAFETY: the program is alive; the call writes one integer.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &mut size) }.result()?;
        let mut bytes = vec![0u8; size];
        // SAFETY: the buffer has the size that NVRTC asked for.
        unsafe { sys::nvrtcGetCUBIN(self.0, bytes.as_mut_ptr().cast()) }.result()?;
        Ok(bytes)
    }
}

/// NVRTC's NUL-terminated text.
fn text(raw: Vec<c_char>) -> String {
    let bytes: Vec<u8> = raw.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Compiles for one of [`ARCHITECTURES`].
///
/// Errors: [`Error::LibraryMissing`] without NVRTC; [`Error::Compile`] with the log where the
/// source is refused or its entries are not those of [`KernelSource::entries`];
/// [`Error::Shape`] for an unknown architecture or a NUL in the source.
pub fn compile(kernel: &KernelSource, architecture: &str) -> Result<Cubin> {
    if !ARCHITECTURES.contains(&architecture) {
        let what = format!("architecture {architecture} is none of {}", ARCHITECTURES.join(", "));
        return Err(Error::Shape { what });
    }
    libraries::require(Library::Nvrtc)?;
    let terminated = |text: String| {
        let what = format!("{}: a NUL in the source", kernel.name);
        CString::new(text).map_err(|_| Error::Shape { what })
    };
    let refused = |log: String| Error::Compile {
        kernel: kernel.name.to_string(),
        architecture: architecture.to_string(),
        log,
    };
    // Both texts outlive the program, which may refer to them.
    let source = terminated(kernel.source.to_string())?;
    let file = terminated(format!("{}.cu", kernel.name))?;
    let program = result::create_program(&source, Some(&file))
        .map(Program)
        .map_err(|error| refused(error.to_string()))?;
    // SAFETY: the program is alive.
    let compiled = unsafe { result::compile_program(program.0, &options(architecture)) };
    let log = program.log();
    compiled.map_err(|error| refused(format!("{error}\n{log}")))?;
    let entries = resources(&log, kernel.entries).map_err(refused)?;
    let bytes = program.cubin().map_err(|error| refused(error.to_string()))?;
    let compiler = program.compiler().or_else(libraries::nvrtc_version);
    Ok(Cubin {
        kernel: kernel.name.to_string(),
        architecture: architecture.to_string(),
        source_sha256: source_sha256(kernel, architecture),
        cubin_sha256: sha256_of_bytes(&bytes),
        compiler: compiler.ok_or_else(|| refused("nvrtc does not tell its version".into()))?,
        bytes,
        entries,
        serialized: log.lines().find(|line| line.contains("are serialized")).map(str::to_string),
    })
}

/// Resources of the expected entries out of ptxas' report, in the order expected.
fn resources(log: &str, expected: &[&str]) -> std::result::Result<Vec<EntryResources>, String> {
    let mut found: Vec<EntryResources> = Vec::new();
    let mut function = "";
    for line in log.lines() {
        let quoted =
            |after: &str| line.split_once(after).and_then(|(_, rest)| rest.split('\'').next());
        if let Some(name) = quoted("Compiling entry function '") {
            found.push(EntryResources {
                name: name.to_string(),
                registers: 0,
                spill_stores_bytes: 0,
                spill_loads_bytes: 0,
                stack_bytes: 0,
                shared_bytes: 0,
            });
        } else if let Some((_, name)) = line.split_once("Function properties for ") {
            function = name.trim();
        } else if let Some(entry) = found.last_mut() {
            let before = |what: &str| number_before(line, what);
            entry.spill_stores_bytes += before(" bytes spill stores").unwrap_or(0);
            entry.spill_loads_bytes += before(" bytes spill loads").unwrap_or(0);
            if function == entry.name {
                entry.stack_bytes = before(" bytes stack frame").unwrap_or(entry.stack_bytes);
            }
            entry.registers = before(" registers").unwrap_or(entry.registers);
            entry.shared_bytes = before(" bytes smem").unwrap_or(entry.shared_bytes);
        }
    }
    if let Some(extra) = found.iter().find(|entry| !expected.contains(&entry.name.as_str())) {
        return Err(format!("entry {} is not in the kernel's list", extra.name));
    }
    let reported = |name: &str| {
        let entry = found.iter().find(|entry| entry.name == name && entry.registers > 0);
        entry.cloned().ok_or_else(|| format!("the compiler reports no resources of entry {name}"))
    };
    expected.iter().map(|name| reported(name)).collect()
}

/// The number right before `what` in a line.
fn number_before(line: &str, what: &str) -> Option<u32> {
    let (before, _) = line.split_once(what)?;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// [`compile`] through a cache folder, which many processes may share.
///
/// An entry that is truncated, altered or not what its name says is rebuilt.
///
/// Errors: those of [`compile`], and [`Error::Io`] where the folder cannot be written.
pub fn cached(kernel: &KernelSource, architecture: &str, cache_dir: &Path) -> Result<Cubin> {
    libraries::require(Library::Nvrtc)?;
    let key = cache_key(kernel, architecture);
    let file = cache_dir.join(format!("{}-{architecture}-{}.cubin", kernel.name, &key[..16]));
    let hit = fs::read(&file).ok().and_then(|bytes| decode(&bytes, &key, kernel, architecture));
    if let Some(cubin) = hit {
        return Ok(cubin);
    }
    let cubin = compile(kernel, architecture)?;
    let failed = |source| Error::Io { path: file.display().to_string(), source };
    fs::create_dir_all(cache_dir).map_err(failed)?;
    replace(&file, &encode(&cubin, &key)).map_err(failed)?;
    Ok(cubin)
}

/// What an entry of the cache depends on. The size of the library stands for its patch level,
/// which cannot be asked without compiling.
fn cache_key(kernel: &KernelSource, architecture: &str) -> String {
    let version = libraries::nvrtc_version().unwrap_or_default();
    let mut compilers: Vec<u64> = libraries::loaded()
        .iter()
        .filter(|(library, _)| *library == Library::Nvrtc)
        .filter_map(|(_, path)| Some(fs::metadata(path).ok()?.len()))
        .collect();
    compilers.sort();
    let source = source_sha256(kernel, architecture);
    sha256_of_bytes(format!("{source} {architecture} {version} {compilers:?}").as_bytes())
}

const CACHE_MAGIC: &str = "touchstone-cubin-1";

/// An entry of the cache: a line with the hash of all that follows, a text header, the cubin.
fn encode(cubin: &Cubin, key: &str) -> Vec<u8> {
    let mut header = format!("key {key}\ncompiler {}\n", cubin.compiler);
    for entry in &cubin.entries {
        let _ = writeln!(header, "entry {}", entry_text(entry));
    }
    let body = [header.as_bytes(), b"\n", &cubin.bytes].concat();
    let first = format!("{CACHE_MAGIC} {}\n", sha256_of_bytes(&body));
    [first.as_bytes(), &body].concat()
}

/// The reverse of [`encode`]; `None` for anything but a whole entry of this key.
fn decode(bytes: &[u8], key: &str, kernel: &KernelSource, architecture: &str) -> Option<Cubin> {
    let end_of_line = bytes.iter().position(|&byte| byte == b'\n')?;
    let (first, body) =
        (std::str::from_utf8(&bytes[..end_of_line]).ok()?, &bytes[end_of_line + 1..]);
    if first.strip_prefix(CACHE_MAGIC)?.trim() != sha256_of_bytes(body) {
        return None;
    }
    let end_of_header = body.windows(2).position(|pair| pair == b"\n\n")?;
    let mut lines = std::str::from_utf8(&body[..end_of_header]).ok()?.lines();
    if lines.next()?.strip_prefix("key ")? != key {
        return None;
    }
    let compiler = lines.next()?.strip_prefix("compiler ")?.to_string();
    let entries: Option<Vec<EntryResources>> =
        lines.map(|line| parse_entry(line.strip_prefix("entry ")?)).collect();
    let payload = &body[end_of_header + 2..];
    Some(Cubin {
        kernel: kernel.name.to_string(),
        architecture: architecture.to_string(),
        bytes: payload.to_vec(),
        source_sha256: source_sha256(kernel, architecture),
        cubin_sha256: sha256_of_bytes(payload),
        compiler,
        entries: entries?,
        serialized: None,
    })
}

/// Writes a file of its own and renames it, so that a reader sees the old or the new one whole.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let fresh = file.with_extension(format!("{}-{count}.new", std::process::id()));
    let written = fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, file));
    if written.is_err() {
        // The first error is the one to tell; the leftover may not even exist.
        let _ = fs::remove_file(&fresh);
    }
    written
}

/// `name=registers/spill_stores/spill_loads/stack/shared`.
fn entry_text(entry: &EntryResources) -> String {
    format!(
        "{}={}/{}/{}/{}/{}",
        entry.name,
        entry.registers,
        entry.spill_stores_bytes,
        entry.spill_loads_bytes,
        entry.stack_bytes,
        entry.shared_bytes
    )
}

/// The reverse of [`entry_text`].
fn parse_entry(text: &str) -> Option<EntryResources> {
    let (name, numbers) = text.split_once('=')?;
    let numbers: Vec<u32> = numbers.split('/').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let &[registers, spill_stores_bytes, spill_loads_bytes, stack_bytes, shared_bytes] =
        numbers.as_slice()
    else {
        return None;
    };
    Some(EntryResources {
        name: name.to_string(),
        registers,
        spill_stores_bytes,
        spill_loads_bytes,
        stack_bytes,
        shared_bytes,
    })
}

/// One line of [`LOCK`]: a [`Cubin`] without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockEntry {
    /// [`KernelSource::name`].
    pub kernel: String,
    /// Target, for example `sm_90a`.
    pub architecture: String,
    /// NVRTC's version.
    pub compiler: String,
    /// See [`source_sha256`].
    pub source_sha256: String,
    /// The sha256 of the cubin.
    pub cubin_sha256: String,
    /// Resources in the order of the kernel's entries.
    pub entries: Vec<EntryResources>,
}

/// Parses a lock. Errors name the line, counted from 1, and what is wrong with it.
pub fn parse_lock(text: &str) -> std::result::Result<Vec<LockEntry>, String> {
    let mut entries: Vec<LockEntry> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = parse_lock_line(line).map_err(|what| format!("line {}: {what}", index + 1))?;
        let same = |other: &LockEntry| {
            other.kernel == entry.kernel && other.architecture == entry.architecture
        };
        if entries.iter().any(same) {
            return Err(format!(
                "line {}: {} for {} stands twice",
                index + 1,
                entry.kernel,
                entry.architecture
            ));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn parse_lock_line(line: &str) -> std::result::Result<LockEntry, String> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [kernel, architecture, compiler, source, cubin, entries @ ..] = fields.as_slice() else {
        return Err("fewer than 5 fields".to_string());
    };
    if !ARCHITECTURES.contains(architecture) {
        return Err(format!("unknown architecture {architecture}"));
    }
    for hash in [source, cubin] {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hash.len() != 64 || !hash.bytes().all(digit) {
            return Err(format!("{hash} is no sha256"));
        }
    }
    let entry = |text: &&str| parse_entry(text).ok_or_else(|| format!("{text} is no entry"));
    Ok(LockEntry {
        kernel: kernel.to_string(),
        architecture: architecture.to_string(),
        compiler: compiler.to_string(),
        source_sha256: source.to_string(),
        cubin_sha256: cubin.to_string(),
        entries: entries.iter().map(entry).collect::<std::result::Result<_, _>>()?,
    })
}

/// The lock of these cubins: one line each, sorted by kernel and architecture, whatever their
/// order.
pub fn render_lock(cubins: &[Cubin]) -> String {
    let mut text = LOCK_HEADER.to_string();
    for cubin in sorted(cubins) {
        let Cubin { kernel, architecture, compiler, source_sha256, cubin_sha256, .. } = cubin;
        let _ = write!(text, "{kernel} {architecture} {compiler} {source_sha256} {cubin_sha256}");
        for entry in &cubin.entries {
            let _ = write!(text, " {}", entry_text(entry));
        }
        text.push('\n');
    }
    text
}

/// By kernel, then in the order of [`ARCHITECTURES`].
fn sorted(cubins: &[Cubin]) -> Vec<&Cubin> {
    let mut sorted: Vec<&Cubin> = cubins.iter().collect();
    sorted.sort_by_key(|cubin| {
        let target = ARCHITECTURES.iter().position(|target| *target == cubin.architecture);
        (cubin.kernel.clone(), target)
    });
    sorted
}

/// What [`LOCK`] says of a kernel on an architecture; `None` where it has no line.
pub fn locked(kernel: &str, architecture: &str) -> Option<LockEntry> {
    let entries = parse_lock(LOCK).expect("a unit test parses the lock");
    entries.into_iter().find(|entry| entry.kernel == kernel && entry.architecture == architecture)
}

/// The compile gate: every kernel for each of its architectures, in order, on all cores. Needs no GPU.
///
/// Errors: those of [`compile`]; where a kernel is marked [`KernelSource::spill_free`], [`Error::Spill`]
/// if it spills and [`Error::Compile`] if its matrix instructions are serialised. The first one in the
/// order of the list is told.
pub fn gate(kernels: &[&KernelSource]) -> Result<Vec<Cubin>> {
    let jobs: Vec<(&KernelSource, &str)> = kernels
        .iter()
        .flat_map(|kernel| kernel.architectures.iter().map(|architecture| (*kernel, *architecture)))
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((kernel, architecture)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((*kernel, *architecture, gated(kernel, architecture)));
        }
        done
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(|thread| thread.join().expect("compiles do not panic"));
        ended.flatten().collect::<Vec<_>>()
    });
    done.sort_by_key(|(kernel, architecture, _)| {
        jobs.iter().position(|job| job.0.name == kernel.name && job.1 == *architecture)
    });
    done.into_iter().map(|(_, _, cubin)| cubin).collect()
}

/// One compile with the checks of [`gate`].
fn gated(kernel: &KernelSource, architecture: &str) -> Result<Cubin> {
    let cubin = compile(kernel, architecture)?;
    if kernel.spill_free {
        check_spills(&cubin)?;
        if let Some(log) = cubin.serialized {
            let (kernel, architecture) = (cubin.kernel, cubin.architecture);
            return Err(Error::Compile { kernel, architecture, log });
        }
    }
    Ok(cubin)
}

fn check_spills(cubin: &Cubin) -> Result<()> {
    for entry in &cubin.entries {
        let bytes = u64::from(entry.spill_stores_bytes) + u64::from(entry.spill_loads_bytes);
        if bytes > 0 {
            return Err(Error::Spill {
                kernel: cubin.kernel.clone(),
                architecture: cubin.architecture.clone(),
                entry: entry.name.clone(),
                bytes,
            });
        }
    }
    Ok(())
}

/// A table for people: one line for each entry of each cubin, sorted as the lock is.
pub fn table(cubins: &[Cubin]) -> String {
    let mut text = format!(
        "{:<40} {:<8} {:<24} {:>9} {:>11} {:>11} {:>12} {:>11} {:<12}\n",
        "kernel",
        "target",
        "entry",
        "registers",
        "spill bytes",
        "stack bytes",
        "shared bytes",
        "cubin bytes",
        "cubin sha256"
    );
    for cubin in sorted(cubins) {
        for entry in &cubin.entries {
            let _ = writeln!(
                text,
                "{:<40} {:<8} {:<24} {:>9} {:>11} {:>11} {:>12} {:>11} {}",
                cubin.kernel,
                cubin.architecture,
                entry.name,
                entry.registers,
                u64::from(entry.spill_stores_bytes) + u64::from(entry.spill_loads_bytes),
                entry.stack_bytes,
                entry.shared_bytes,
                cubin.bytes.len(),
                cubin.cubin_sha256.get(..12).unwrap_or(&cubin.cubin_sha256)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests;
