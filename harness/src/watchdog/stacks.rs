//! Where in the program each thread of a process is, written by the process itself as it is asked to end.
//!
//! [`super::threads`] shows from outside what a thread waits for in the kernel; this shows its calls. On SIGTERM each
//! thread is interrupted in turn and walks its own stack. A thread that blocks signals, or waits in the kernel where
//! none reaches it, does not answer. Names are those that the executable still has; where it is stripped, an address
//! less its module's is the place in the one that is not.

use std::backtrace::Backtrace;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

/// How long the first thread has to answer, whose names are the first to be looked up: a process that is to end is killed
/// two seconds later.
const FIRST: Duration = Duration::from_millis(700);
/// The same of every other thread.
const ANSWER: Duration = Duration::from_millis(150);
/// The same of all threads.
const ALL: Duration = Duration::from_millis(1300);

/// The thread that is asked; 0 is none.
static ASKED: AtomicU32 = AtomicU32::new(0);
/// The thread that answered last, and its stack.
static ANSWERED: Mutex<Option<(u32, String)>> = Mutex::new(None);

/// Writes the stacks of all threads to `path` when this process gets SIGTERM, which then ends it as if nobody
/// listened. For a process of its own, which nothing else may ask to end. What lies at `path` goes at once.
///
/// Errors: what lies at `path` cannot go; a signal cannot be handled.
pub fn write_on_end(path: PathBuf) -> Result<(), String> {
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {error}", path.display()));
        }
        _ => {}
    }
    let failed = |error: std::io::Error| format!("signals cannot be handled: {error}");
    // SAFETY: the handler allocates and takes locks, which a signal may not do where the thread that it interrupts
    // holds them. It does so only in a thread that is asked, and that is in a process that is about to end: one that
    // waits for itself there is killed, as it would be without stacks, and one that does not has no more work that the
    // handler could harm. From anybody else the signal changes nothing.
    unsafe { signal_hook::low_level::register(SIGUSR2, answer) }.map_err(failed)?;
    let mut signals = Signals::new([SIGTERM]).map_err(failed)?;
    let listens = move || {
        signals.forever().next();
        let _ = File::create(&path).and_then(write_all);
        let _ = signal_hook::low_level::emulate_default_handler(SIGTERM);
    };
    std::thread::Builder::new().name("stacks".into()).spawn(listens).map_err(failed)?;
    Ok(())
}

/// What an interrupted thread does.
fn answer() {
    if ASKED.load(Ordering::SeqCst) != own_id() {
        return;
    }
    let text = format!("{:#}", Backtrace::force_capture());
    if let Ok(mut answered) = ANSWERED.lock() {
        *answered = Some((own_id(), shortened(&text)));
    }
}

fn own_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// Writes where the modules lie and the stacks of all threads but this one, the first thread's first. Each is in the
/// file before the next is asked for: a thread whose stack has no room for the question ends the process.
fn write_all(mut file: File) -> std::io::Result<()> {
    let (begun, own) = (Instant::now(), own_id());
    for (module, base) in modules(&fs::read_to_string("/proc/self/maps").unwrap_or_default()) {
        writeln!(file, "module {base:#x} {module}")?;
    }
    for id in threads().into_iter().filter(|id| *id != own) {
        let name = fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap_or_default();
        let most = if id == std::process::id() { FIRST } else { ANSWER };
        let stack = match begun.elapsed() < ALL {
            true => asked(id, most).unwrap_or_else(|| "    does not answer\n".to_owned()),
            false => "    was not asked: no time left\n".to_owned(),
        };
        write!(file, "thread {id}, {}\n{stack}", name.trim())?;
    }
    Ok(())
}

/// Of this process, the first thread first.
fn threads() -> Vec<u32> {
    let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let mut ids: Vec<u32> = entries.filter_map(number).collect();
    ids.sort_by_key(|id| (*id != std::process::id(), *id));
    ids
}

/// Interrupts a thread and waits so long for its stack.
fn asked(id: u32, most: Duration) -> Option<String> {
    let since = Instant::now();
    ASKED.store(id, Ordering::SeqCst);
    // SAFETY: a call of the kernel that takes three numbers; a thread that is gone is an error of it.
    let sent =
        unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), id as libc::pid_t, SIGUSR2) };
    while sent == 0 && since.elapsed() < most {
        if let Ok(mut answered) = ANSWERED.try_lock()
            && let Some((_, stack)) = answered.take_if(|(from, _)| *from == id)
        {
            return Some(stack);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// A backtrace without the frames of the signal itself, and of files only their names.
fn shortened(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_frame = |line: &str| line.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let of_signal = |line: &&str| line.contains("signal_hook") || line.contains("stacks::answer");
    let last = lines.iter().rposition(of_signal).map_or(0, |at| at + 1);
    // Behind the handler stands what the kernel calls it by.
    let first = lines[last..].iter().position(|line| is_frame(line)).map_or(last, |at| last + at);
    let mut short = String::new();
    for line in &lines[first..] {
        let line = match line.trim_start().strip_prefix("at ") {
            Some(file) => format!("    at {}", file.rsplit('/').next().unwrap_or(file)),
            None => line.trim().to_owned(),
        };
        short += &format!("    {line}\n");
    }
    short
}

/// The lowest address of each file that is mapped to be run, by the file's name.
fn modules(maps: &str) -> BTreeMap<String, u64> {
    let mut lowest = BTreeMap::new();
    let mut runs = BTreeMap::new();
    for line in maps.lines() {
        // Five fields, and behind blanks a path that may hold some itself.
        let mut fields = line.splitn(6, ' ');
        let (Some(range), Some(may), Some(file)) = (fields.next(), fields.next(), fields.nth(3))
        else {
            continue;
        };
        let file = file.trim_start();
        let name = Path::new(file).file_name().map(|name| name.to_string_lossy().into_owned());
        let base = range.split('-').next().and_then(|base| u64::from_str_radix(base, 16).ok());
        if let (Some(name), Some(base)) = (name, base) {
            lowest.entry(name.clone()).or_insert(base);
            runs.entry(name)
                .and_modify(|runs| *runs |= may.contains('x'))
                .or_insert(may.contains('x'));
        }
    }
    lowest.into_iter().filter(|(name, _)| runs.get(name) == Some(&true)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_of_the_signal_go() {
        let text = "   0:     0x1 - std::backtrace::capture\n             at /rustc/x/backtrace.rs:9:5\n   \
                    1:     0x2 - harness::watchdog::stacks::answer\n             at /home/me/stacks.rs:1:1\n   \
                    2:     0x3 - signal_hook_registry::handler\n   3:     0x4 - <unknown>\n   \
                    4:     0x5 - suites::endless\n             at /home/me/suites/src/stages.rs:7:9\n";
        let expect = "    3:     0x4 - <unknown>\n    4:     0x5 - suites::endless\n        at stages.rs:7:9\n";
        assert_eq!(shortened(text), expect);
        assert_eq!(shortened(""), "");
    }

    #[test]
    fn modules_by_their_lowest_address() {
        let maps = "5500-5600 r--p 0 08:01 7     /opt/a folder/touchstone\n5600-5700 r-xp 0 08:01 7     /opt/a folder/touchstone\n\
                    7f00-7f10 r--p 0 08:01 9 /usr/share/locale\n7ff0-7fff rw-p 0 00:00 0 [stack]\n8000-8001 rw-p 0 00:00 0\n";
        assert_eq!(modules(maps), BTreeMap::from([("touchstone".to_owned(), 0x5500)]));
    }
}
