//! The threads of a process group as `/proc` shows them: no debugger, and nothing is stopped.
//!
//! What Linux does not let this user read (often the kernel's stack) stays empty. The place in the program itself
//! is not shown ([`super::stacks`] does): a thread that runs all the time and never waits is in a loop of its own, and
//! one that does not run waits where it says.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Time between two looks, from which follows how much of it a thread ran.
const BETWEEN: Duration = Duration::from_millis(200);

/// Milliseconds of a tick of `/proc`: USER_HZ is 100 on every Linux that CUDA runs on.
const TICK_MS: u64 = 10;

/// One thread.
#[derive(Debug, Clone, PartialEq)]
pub struct Thread {
    /// Its process.
    pub process: u32,
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// `R (running)`, `S (sleeping)`, `D (disk sleep)` and so on.
    pub state: String,
    /// Milliseconds that it ran between two looks 200 ms apart.
    pub ran_ms: u64,
    /// The function of the kernel in which it waits; empty where it runs or that cannot be read.
    pub waits_in: String,
    /// The kernel's stack, the innermost function first; empty where that cannot be read.
    pub stack: Vec<String>,
    /// Switches to other threads that it asked for, and that it did not.
    pub switches: (u64, u64),
}

/// All threads of the processes of a group, by two looks.
pub fn of_group(group: u32) -> Vec<Thread> {
    let first: Vec<(u32, u64)> = ids(group).iter().map(|id| (id.1, ticks(*id))).collect();
    std::thread::sleep(BETWEEN);
    ids(group)
        .into_iter()
        .filter_map(|id| {
            let before = first.iter().find(|(other, _)| *other == id.1).map_or(0, |(_, at)| *at);
            thread(id, ticks(id).saturating_sub(before) * TICK_MS)
        })
        .collect()
}

/// Processes of a group that are there and not dead.
pub fn processes(group: u32) -> Vec<u32> {
    let of_group = |process: &u32| {
        let fields = stat(&format!("/proc/{process}/stat"));
        let [state, _, of, ..] = fields.as_slice() else { return false };
        *of == group.to_string() && !["Z", "X"].contains(&state.as_str())
    };
    numbered(Path::new("/proc")).into_iter().filter(of_group).collect()
}

/// Process and thread.
type Id = (u32, u32);

fn ids(group: u32) -> Vec<Id> {
    let threads = |process: u32| {
        let folder = format!("/proc/{process}/task");
        numbered(Path::new(&folder)).into_iter().map(move |thread| (process, thread))
    };
    processes(group).into_iter().flat_map(threads).collect()
}

/// The entries of a folder that are numbers, in their order.
fn numbered(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let mut numbers: Vec<u32> = entries.filter_map(number).collect();
    numbers.sort();
    numbers
}

/// The fields of a `stat` file behind the name, which may itself hold blanks and brackets.
fn stat(file: &str) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let behind = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    behind.split_whitespace().map(str::to_owned).collect()
}

/// Ticks in user and kernel mode: fields 14 and 15 of proc(5), of which the state is the third.
fn ticks((process, thread): Id) -> u64 {
    let fields = stat(&format!("/proc/{process}/task/{thread}/stat"));
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
    field(11).unwrap_or(0) + field(12).unwrap_or(0)
}

/// `None` where it has ended meanwhile.
fn thread((process, id): Id, ran_ms: u64) -> Option<Thread> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{process}/task/{id}/{name}")).ok();
    let status = read("status")?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    };
    let count = |name: &str| of(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    let waits_in = read("wchan").filter(|name| name != "0").unwrap_or_default();
    Some(Thread {
        process,
        id,
        name: of("Name")?,
        state: of("State")?,
        ran_ms,
        waits_in,
        stack: read("stack").unwrap_or_default().lines().map(frame).collect(),
        switches: (count("voluntary_ctxt_switches"), count("nonvoluntary_ctxt_switches")),
    })
}

/// Without the address, which is hidden or says nothing elsewhere.
fn frame(line: &str) -> String {
    line.split_once(' ').map_or(line, |(_, function)| function).to_owned()
}

/// For people: one line for each thread, its kernel stack indented below it.
pub fn render(threads: &[Thread]) -> String {
    let mut text = String::new();
    for thread in threads {
        let Thread { process, id, name, state, ran_ms, waits_in, stack, switches } = thread;
        let waits = match waits_in.as_str() {
            "" => String::new(),
            function => format!(", waits in {function}"),
        };
        let of = BETWEEN.as_millis();
        text += &format!(
            "thread {id} of process {process}, {name}: {state}, ran {ran_ms} of {of} ms{waits}, {} switches of its \
             own and {} others\n",
            switches.0, switches.1
        );
        stack.iter().for_each(|frame| text += &format!("    {frame}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_no_address() {
        assert_eq!(frame("[<0>] futex_wait_queue+0x60/0x90"), "futex_wait_queue+0x60/0x90");
        assert_eq!(frame("[<0>] nv_ioctl+0x1/0x2 [nvidia]"), "nv_ioctl+0x1/0x2 [nvidia]");
    }
}
