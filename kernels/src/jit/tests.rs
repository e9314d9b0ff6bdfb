//! Tests of the compiler. Those that need NVRTC look for it and say so where it is missing.

use std::path::PathBuf;
use std::process::Command;

use super::*;

const SCALE: KernelSource = KernelSource {
    name: "scale",
    source: r#"extern "C" __global__ void scale(float *out, const float *in, float by, int count) {
    __shared__ float tile[256];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = i < count ? in[i] : 0.0f;
    __syncthreads();
    if (i < count) out[i] = by * tile[threadIdx.x ^ 1];
}
extern "C" __global__ void zero(float *out) { out[threadIdx.x] = 0.0f; }
"#,
    entries: &["scale", "zero"],
    architectures: ARCHITECTURES,
    spill_free: true,
};

/// More live values than 32 registers hold, at the largest block: ptxas must spill.
const GREEDY: KernelSource = KernelSource {
    name: "greedy",
    source: r#"extern "C" __global__ void __launch_bounds__(1024, 2) greedy(float *data) {
    float v[64];
    #pragma unroll
    for (int i = 0; i < 64; ++i) v[i] = data[i * 1024 + threadIdx.x];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < 64; ++i) data[((i * 7) % 64) * 1024 + threadIdx.x] = v[i] * v[63 - i];
}
"#,
    entries: &["greedy"],
    architectures: &["sm_90a"],
    spill_free: true,
};

/// Whether NVRTC can be called. Preloads it from where it lies, and says why where it cannot.
fn nvrtc_or_say_why() -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let found = libraries::find(root);
    let nvrtc = found.iter().find(|found| found.library == Library::Nvrtc).unwrap();
    match libraries::preload(nvrtc).and_then(|()| libraries::require(Library::Nvrtc)) {
        Ok(()) => true,
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    }
}

#[test]
fn every_architecture_has_its_capability() {
    assert_eq!(architecture_of((8, 0)), Some("sm_80"));
    assert_eq!(architecture_of((8, 9)), Some("sm_80"));
    assert_eq!(architecture_of((9, 0)), Some("sm_90a"));
    assert_eq!(architecture_of((10, 0)), Some("sm_100a"));
    assert_eq!(architecture_of((12, 0)), Some("sm_120a"));
    assert_eq!(architecture_of((7, 5)), None);
    assert_eq!(architecture_of((10, 3)), None);
}

#[test]
fn options_and_source_both_move_the_source_hash() {
    let hash = source_sha256(&SCALE, "sm_90a");
    assert_ne!(hash, source_sha256(&SCALE, "sm_80"));
    assert_ne!(hash, source_sha256(&KernelSource { source: "//", ..SCALE }, "sm_90a"));
    assert_eq!(hash, source_sha256(&KernelSource { spill_free: false, ..SCALE }, "sm_90a"));
}

const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'b' for 'sm_90a'
ptxas info    : Function properties for b
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 30 registers, used 1 barriers, 1024 bytes smem
ptxas info    : Compiling entry function 'a' for 'sm_90a'
ptxas info    : Function properties for a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 4 registers, used 0 barriers
ptxas info    : Function properties for called
    32 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
";

#[test]
fn resources_are_read_from_the_log_in_the_order_of_the_kernel() {
    let texts: Vec<String> = resources(LOG, &["a", "b"]).unwrap().iter().map(entry_text).collect();
    assert_eq!(texts, ["a=4/4/4/0/0", "b=30/8/12/16/1024"]);
}

#[test]
fn a_list_of_entries_that_is_not_the_sources_is_refused() {
    let missing = resources(LOG, &["a", "b", "c"]).unwrap_err();
    assert!(missing.contains("no resources of entry c"), "{missing}");
    let extra = resources(LOG, &["a"]).unwrap_err();
    assert!(extra.contains("entry b is not in the kernel's list"), "{extra}");
}

fn cubin(kernel: &str, architecture: &str) -> Cubin {
    Cubin {
        kernel: kernel.to_string(),
        architecture: architecture.to_string(),
        bytes: b"\x7fELF\n\n\x00".to_vec(),
        source_sha256: sha256_of_bytes(b"source"),
        cubin_sha256: sha256_of_bytes(b"\x7fELF\n\n\x00"),
        compiler: "13.0.88".to_string(),
        entries: vec![parse_entry("copy=30/0/0/0/1024").unwrap()],
        serialized: None,
    }
}

#[test]
fn the_committed_lock_parses_and_has_the_header() {
    parse_lock(LOCK).unwrap();
    assert!(LOCK.starts_with(LOCK_HEADER));
    assert_eq!(locked("no-such-kernel", "sm_90a"), None);
}

#[test]
fn a_rendered_lock_parses_back_sorted_whatever_the_order() {
    let cubins = [cubin("b", "sm_80"), cubin("a", "sm_100a"), cubin("a", "sm_90a")];
    let text = render_lock(&cubins);
    let reversed: Vec<Cubin> = cubins.iter().rev().cloned().collect();
    assert_eq!(text, render_lock(&reversed));
    let names: Vec<(String, String)> =
        parse_lock(&text).unwrap().into_iter().map(|e| (e.kernel, e.architecture)).collect();
    let expect = [("a", "sm_90a"), ("a", "sm_100a"), ("b", "sm_80")];
    assert_eq!(names, expect.map(|(k, a)| (k.to_string(), a.to_string())));
    assert_eq!(parse_lock(&text).unwrap()[0].entries, cubins[0].entries);
}

#[track_caller]
fn check_lock_error(line: &str, expect: &str) {
    let error = parse_lock(&format!("# comment\n{line}\n")).unwrap_err();
    assert!(error.starts_with("line 2: ") && error.contains(expect), "{error}");
}

#[test]
fn lock_errors_name_the_line() {
    let hash = sha256_of_bytes(b"");
    check_lock_error("a sm_90a", "fewer than 5 fields");
    check_lock_error(&format!("a sm_70 13.0 {hash} {hash}"), "unknown architecture sm_70");
    check_lock_error(&format!("a sm_80 13.0 {hash} abc"), "abc is no sha256");
    check_lock_error(&format!("a sm_80 13.0 {hash} {hash} f=1/2"), "f=1/2 is no entry");
    let line = format!("a sm_80 13.0 {hash} {hash}");
    let twice = parse_lock(&format!("{line}\n{line}\n")).unwrap_err();
    assert_eq!(twice, "line 2: a for sm_80 stands twice");
}

#[test]
fn every_flipped_bit_and_every_truncation_of_an_entry_is_noticed() {
    let built =
        Cubin { source_sha256: source_sha256(&SCALE, "sm_90a"), ..cubin("scale", "sm_90a") };
    let key = sha256_of_bytes(b"key");
    let whole = encode(&built, &key);
    let read = |bytes: &[u8], key: &str| decode(bytes, key, &SCALE, "sm_90a");
    assert_eq!(read(&whole, &key).as_ref(), Some(&built));
    assert_eq!(read(&whole, &sha256_of_bytes(b"another key")), None);
    for at in 0..whole.len() {
        assert_eq!(read(&whole[..at], &key), None, "truncated at {at}");
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        assert_eq!(read(&flipped, &key), None, "flipped at {at}");
    }
}

#[test]
fn the_gate_compiles_for_every_architecture_with_stable_bytes() {
    if !nvrtc_or_say_why() {
        return;
    }
    let cubins = gate(&[&SCALE]).unwrap();
    assert_eq!(cubins, gate(&[&SCALE]).unwrap(), "a second compile gives the same bytes");
    println!("{}", table(&cubins));
    assert_eq!(cubins.len(), ARCHITECTURES.len());
    for cubin in &cubins {
        assert!(cubin.bytes.starts_with(b"\x7fELF"), "{}", cubin.architecture);
        assert!(cubin.compiler.starts_with("13."), "{}", cubin.compiler);
        assert_eq!(cubin.entries[0].shared_bytes, 1024);
        assert_eq!(cubin.entries[1].name, "zero");
    }
    assert!(libraries::loaded().iter().any(|(library, _)| *library == Library::Nvrtc));
}

#[test]
fn a_spilling_kernel_fails_the_gate_unless_it_may_spill() {
    if !nvrtc_or_say_why() {
        return;
    }
    let error = gate(&[&GREEDY]).unwrap_err();
    assert!(matches!(&error, Error::Spill { bytes, .. } if *bytes > 0), "{error}");
    let cubins = gate(&[&KernelSource { spill_free: false, ..GREEDY }]).unwrap();
    assert!(cubins[0].entries[0].spill_loads_bytes > 0);
}

#[test]
fn a_refused_source_gives_the_log_with_its_line() {
    if !nvrtc_or_say_why() {
        return;
    }
    let broken = KernelSource { source: "\n\nint f( {", ..SCALE };
    let error = compile(&broken, "sm_90a").unwrap_err().to_string();
    assert!(error.contains("scale.cu(3)"), "{error}");
    let unknown = compile(&SCALE, "sm_70").unwrap_err().to_string();
    assert!(unknown.contains("sm_70"), "{unknown}");
}

/// An operator's own mask: what the compiler refuses is told by the line of the operator's text, and
/// what it accepts is compiled in.
#[test]
fn a_program_that_does_not_compile_names_its_own_line() {
    use crate::attention::program::Program;
    use crate::attention::variant::{Kernel, Variant};
    use crate::element::Element;
    if !nvrtc_or_say_why() {
        return;
    }
    let source = |text: &'static str| {
        let program = Program { name: "mine.cuh".into(), text: text.into() };
        Variant::new(Kernel::Portable, Element::F16, 64, program).source().unwrap()
    };
    let mask =
        "#define PROGRAM_MASK 1\n__device__ bool mask(const Problem& at, int query, int key) {\n";
    let broken = format!("{mask}    return key < at.nothing;\n}}\n").leak();
    let error = compile(source(broken), "sm_80").unwrap_err().to_string();
    assert!(error.contains("mine.cuh(3): error"), "{error}");
    assert!(error.contains("nothing"), "{error}");
    let right = format!("{mask}    return key % 2 == 0;\n}}\n").leak();
    assert!(compile(source(right), "sm_80").is_ok());
}

/// The one file of the cache folder.
fn only_entry(cache: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> =
        fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn a_broken_cache_entry_is_rebuilt() {
    if !nvrtc_or_say_why() {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let cache = top.path().join("cache");
    let built = cached(&SCALE, "sm_90a", &cache).unwrap();
    let file = only_entry(&cache);
    let whole = fs::read(&file).unwrap();
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(cached(&SCALE, "sm_90a", &cache).unwrap(), built);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written, "a hit writes nothing");

    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 0x10;
    for broken in [&whole[..whole.len() / 2], &flipped, b"", b"touchstone-cubin-1 foreign\n"] {
        fs::write(&file, broken).unwrap();
        assert_eq!(cached(&SCALE, "sm_90a", &cache).unwrap(), built);
        assert_eq!(fs::read(only_entry(&cache)).unwrap(), whole, "the entry is whole again");
    }
}

#[test]
fn threads_share_the_cache() {
    if !nvrtc_or_say_why() {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let expect = compile(&SCALE, "sm_80").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(cached(&SCALE, "sm_80", top.path()).unwrap(), expect));
        }
    });
    only_entry(top.path());
}

#[test]
fn processes_share_the_cache() {
    const FOLDER: &str = "TOUCHSTONE_TEST_CUBIN_CACHE";
    if !nvrtc_or_say_why() {
        return;
    }
    if let Some(cache) = std::env::var_os(FOLDER) {
        let cubin = cached(&SCALE, "sm_120a", Path::new(&cache)).unwrap();
        println!("cubin={}", cubin.cubin_sha256);
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let this_test = ["--exact", "jit::tests::processes_share_the_cache", "--nocapture"];
    let children: Vec<_> = (0..4)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(this_test).env(FOLDER, top.path());
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let line = format!("cubin={}", compile(&SCALE, "sm_120a").unwrap().cubin_sha256);
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(&line), "{text}");
    }
    only_entry(top.path());
}

#[test]
fn a_child_compiles_with_exactly_the_library_of_its_shim() {
    const EXPECTED: &str = "TOUCHSTONE_TEST_SHIMMED_NVRTC";
    if let Some(file) = std::env::var_os(EXPECTED) {
        compile(&SCALE, "sm_90a").unwrap();
        assert_eq!(libraries::loaded(), [(Library::Nvrtc, PathBuf::from(file))]);
        println!("compiled in the child");
        return;
    }
    if !nvrtc_or_say_why() {
        return;
    }
    let found = libraries::find(Path::new(env!("CARGO_MANIFEST_DIR")).parent());
    let nvrtc = found.iter().find(|found| found.library == Library::Nvrtc).unwrap();
    let top = tempfile::tempdir().unwrap();
    let shim = libraries::shim(&top.path().join("shim"), &found).unwrap();
    let name = "jit::tests::a_child_compiles_with_exactly_the_library_of_its_shim";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("LD_LIBRARY_PATH", shim)
        .env(EXPECTED, fs::canonicalize(nvrtc.path.as_ref().unwrap()).unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("compiled in the child"), "{text}");
}
