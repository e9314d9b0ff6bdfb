//! NCCL: one process that drives all GPUs, every choice written down.
//!
//! The caller has asked [`crate::libraries::require`] for NCCL, and sets `NCCL_NVLS_ENABLE=0` in the
//! process before anything here runs: NVLink multicast stays off. [`choices`] reads from NCCL's own log
//! what it chose.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::path::Path;

use cudarc::nccl::sys;

use crate::device::{Buffer, CudaStream, Gpu};
use crate::element::Element;
use crate::memory::inside;
use crate::model::group::{Part, Reduce};
use crate::{Error, Result, flight};

/// A collective, as nccl-tests name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Every rank gets the sum of all.
    AllReduce,
    /// Every rank gets all ranks' parts.
    AllGather,
    /// Every rank gets its part of the sum.
    ReduceScatter,
    /// Every rank gets rank 0's values.
    Broadcast,
    /// Every rank gets a part of each rank's values: grouped sends and receives.
    AllToAll,
    /// Every rank gets the values of the rank before it.
    SendRecv,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 6] = [
        Operation::AllReduce,
        Operation::AllGather,
        Operation::ReduceScatter,
        Operation::Broadcast,
        Operation::AllToAll,
        Operation::SendRecv,
    ];

    /// As options name it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::AllReduce => "all-reduce",
            Operation::AllGather => "all-gather",
            Operation::ReduceScatter => "reduce-scatter",
            Operation::Broadcast => "broadcast",
            Operation::AllToAll => "all-to-all",
            Operation::SendRecv => "send-recv",
        }
    }

    /// Bus bandwidth over algorithm bandwidth, by nccl-tests' definition (doc/PERFORMANCE.md): what
    /// each link carries for each byte of the size.
    pub fn bus_factor(self, ranks: usize) -> f64 {
        let n = ranks as f64;
        match self {
            Operation::AllReduce => 2.0 * (n - 1.0) / n,
            Operation::AllGather | Operation::ReduceScatter | Operation::AllToAll => (n - 1.0) / n,
            Operation::Broadcast | Operation::SendRecv => 1.0,
        }
    }
}

/// GB/s of algorithm and of bus for a size and a time.
pub fn bandwidths(operation: Operation, ranks: usize, bytes: u64, ms: f64) -> (f64, f64) {
    let algorithm = bytes as f64 / ms / 1e6;
    (algorithm, algorithm * operation.bus_factor(ranks))
}

/// A collective over all ranks.
#[derive(Debug, Clone, Copy)]
pub struct Collective {
    /// Which.
    pub operation: Operation,
    /// Its size, as nccl-tests count: the whole of the larger buffer. A multiple of the ranks and of
    /// the element.
    pub bytes: u64,
    /// Type of the elements.
    pub element: Element,
}

/// One communicator for each GPU.
#[derive(Debug)]
pub struct Communicators<'g> {
    gpus: &'g [Gpu],
    raw: Vec<sys::ncclComm_t>,
    failed: Cell<bool>,
    /// A call was made that some rank has no part in, so that the others wait until they are aborted.
    abandoned: Cell<bool>,
    aborted: Cell<bool>,
}

impl<'g> Communicators<'g> {
    /// Communicators over all GPUs, rank i on the i-th.
    pub fn new(gpus: &'g [Gpu]) -> Result<Communicators<'g>> {
        let devices: Vec<c_int> = gpus.iter().map(|gpu| gpu.ordinal as c_int).collect();
        let mut raw: Vec<sys::ncclComm_t> = vec![std::ptr::null_mut(); gpus.len()];
        // SAFETY: both arrays have as many entries as there are devices; the call waits until all
        // communicators are there.
        let status = unsafe {
            sys::ncclCommInitAll(raw.as_mut_ptr(), devices.len() as c_int, devices.as_ptr())
        };
        passed("ncclCommInitAll", status)?;
        let no = || Cell::new(false);
        Ok(Communicators { gpus, raw, failed: no(), abandoned: no(), aborted: no() })
    }

    /// Ranks.
    pub fn ranks(&self) -> usize {
        self.raw.len()
    }

    /// Checks a collective and keeps its buffers, by rank, borrowed.
    pub fn prepare<'a>(
        &'a self,
        send: &'a [Buffer],
        receive: &'a [Buffer],
        collective: Collective,
    ) -> Result<Prepared<'a>> {
        let ranks = self.ranks() as u64;
        let each = collective.element.bytes();
        let whole = collective.bytes.is_multiple_of(ranks * each) || !divides(collective.operation);
        let sized = collective.bytes > 0 && collective.bytes.is_multiple_of(each) && whole;
        if !sized || send.len() != self.ranks() || receive.len() != self.ranks() {
            let what = format!("{collective:?} over {ranks} ranks, {} buffers", send.len());
            return Err(Error::Shape { what });
        }
        let element = element_of(collective.element)?;
        for (gpu, buffer) in self.gpus.iter().zip(send).chain(self.gpus.iter().zip(receive)) {
            inside("collective", 0, collective.bytes, buffer.len_bytes())?;
            gpu.stream().same_context(buffer.context())?;
        }
        Ok(Prepared { all: self, send, receive, collective, element })
    }

    /// Calls of all ranks as one group.
    fn grouped(&self, calls: impl FnOnce() -> Result<()>) -> Result<()> {
        self.alive()?;
        // SAFETY: no arguments.
        passed("ncclGroupStart", unsafe { sys::ncclGroupStart() })?;
        let outcome = calls();
        // SAFETY: ends the group that was begun, also after a failure inside it.
        let ended = passed("ncclGroupEnd", unsafe { sys::ncclGroupEnd() });
        let outcome = outcome.and(ended);
        if outcome.is_err() {
            self.failed.set(true);
        }
        outcome
    }

    /// The first error that a communicator has met in the background. After one they are aborted in
    /// place of destroyed.
    pub fn check(&self) -> Result<()> {
        self.alive()?;
        for raw in &self.raw {
            let mut met = sys::ncclResult_t::ncclSuccess;
            // SAFETY: the communicator is valid; the call writes one status.
            let status = unsafe { sys::ncclCommGetAsyncError(*raw, &mut met) };
            let outcome = passed("ncclCommGetAsyncError", status)
                .and_then(|()| passed("a collective in the background", met));
            if outcome.is_err() {
                self.failed.set(true);
                return outcome;
            }
        }
        Ok(())
    }
}

impl Communicators<'_> {
    /// Ends the communicators and all that was enqueued on them, also what waits for a rank that never comes. Returns
    /// when they are gone; their streams are free then, and later calls are refused. A second abort does nothing.
    pub fn abort(&self) -> Result<()> {
        if self.aborted.replace(true) {
            return Ok(());
        }
        // Every rank is aborted, also behind one whose abort fails: the last call waits for all.
        let abort = |(gpu, raw): (&Gpu, &sys::ncclComm_t)| {
            let bound = gpu.bind();
            // SAFETY: the communicator was made once and is ended here, once; nothing uses it afterwards.
            let ended = passed("ncclCommAbort", unsafe { sys::ncclCommAbort(*raw) });
            bound.and(ended)
        };
        self.gpus.iter().zip(&self.raw).map(abort).fold(Ok(()), Result::and)
    }

    fn alive(&self) -> Result<()> {
        match self.aborted.get() {
            false => Ok(()),
            true => Err(Error::Shape { what: "a call of communicators that were aborted".into() }),
        }
    }
}

impl Drop for Communicators<'_> {
    fn drop(&mut self) {
        if self.aborted.get() {
            return;
        }
        for (gpu, raw) in self.gpus.iter().zip(&self.raw) {
            if gpu.bind().is_err() {
                continue;
            }
            // SAFETY: made once, ended once; what was enqueued on it is done or is aborted.
            unsafe {
                match self.failed.get() {
                    true => sys::ncclCommAbort(*raw),
                    false => sys::ncclCommDestroy(*raw),
                };
            }
        }
    }
}

/// A checked collective. Dropped, it waits for all GPUs, so that nothing outlives its memory.
#[derive(Debug)]
pub struct Prepared<'a> {
    all: &'a Communicators<'a>,
    send: &'a [Buffer],
    receive: &'a [Buffer],
    collective: Collective,
    element: sys::ncclDataType_t,
}

impl Prepared<'_> {
    /// Enqueues one call on every rank's stream, as one group.
    pub fn launch(&self, streams: &[&CudaStream]) -> Result<()> {
        self.launch_but(streams, None)
    }

    /// The same of every rank but one, whom the others wait for until [`Communicators::abort`]: a planted fault. The
    /// same call of all ranks has been made before, since NCCL connects them at the first, on the host.
    pub fn launch_without(&self, streams: &[&CudaStream], absent: usize) -> Result<()> {
        self.all.abandoned.set(true);
        self.launch_but(streams, Some(absent))
    }

    fn launch_but(&self, streams: &[&CudaStream], absent: Option<usize>) -> Result<()> {
        if streams.len() != self.all.ranks() {
            return Err(Error::Shape { what: format!("{} streams", streams.len()) });
        }
        for (stream, buffer) in streams.iter().zip(self.send) {
            stream.same_context(buffer.context())?;
        }
        flight::note(|| {
            let Collective { operation, bytes, .. } = &self.collective;
            format!("collective {} of {bytes} bytes over {}", operation.name(), streams.len())
        });
        self.all.grouped(|| {
            let mut lanes = streams.iter().enumerate().filter(|(rank, _)| Some(*rank) != absent);
            lanes
                .try_for_each(|(rank, stream)| stream.bind().and_then(|()| self.rank(rank, stream)))
        })
    }

    fn rank(&self, rank: usize, stream: &CudaStream) -> Result<()> {
        let ranks = self.all.ranks();
        let (element, comm) = (self.element, self.all.raw[rank]);
        let send = self.send[rank].ptr() as *const c_void;
        let receive = self.receive[rank].ptr() as *mut c_void;
        let each = self.collective.element.bytes();
        let count = (self.collective.bytes / each) as usize;
        let part = count / ranks;
        let stream = stream.raw().cast();
        let sum = sys::ncclRedOp_t::ncclSum;
        // SAFETY: `prepare` checked that both buffers hold the collective's bytes, that they belong to
        // the communicator's GPU and that the parts divide them; they stay borrowed until all GPUs
        // have been waited for.
        let status = unsafe {
            match self.collective.operation {
                Operation::AllReduce => {
                    sys::ncclAllReduce(send, receive, count, element, sum, comm, stream)
                }
                Operation::AllGather => {
                    sys::ncclAllGather(send, receive, part, element, comm, stream)
                }
                Operation::ReduceScatter => {
                    sys::ncclReduceScatter(send, receive, part, element, sum, comm, stream)
                }
                Operation::Broadcast => {
                    sys::ncclBroadcast(send, receive, count, element, 0, comm, stream)
                }
                Operation::AllToAll => {
                    for peer in 0..ranks {
                        let offset = peer * part * each as usize;
                        let (to, from) = (send.byte_add(offset), receive.byte_add(offset));
                        let peer = peer as c_int;
                        passed("ncclSend", sys::ncclSend(to, part, element, peer, comm, stream))?;
                        passed("ncclRecv", sys::ncclRecv(from, part, element, peer, comm, stream))?;
                    }
                    sys::ncclResult_t::ncclSuccess
                }
                Operation::SendRecv => {
                    let to = ((rank + 1) % ranks) as c_int;
                    let from = ((rank + ranks - 1) % ranks) as c_int;
                    passed("ncclSend", sys::ncclSend(send, count, element, to, comm, stream))?;
                    sys::ncclRecv(receive, count, element, from, comm, stream)
                }
            }
        };
        passed(self.collective.operation.name(), status)
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        // An error was reported, or will be, where its stream is waited for. What waits for ever is ended before.
        if self.all.abandoned.get() {
            let _ = self.all.abort();
        }
        self.all.gpus.iter().for_each(|gpu| drop(gpu.synchronize()));
    }
}

impl Reduce for &Communicators<'_> {
    /// Sums halves by one all-reduce in place, as one group.
    fn reduce(&mut self, parts: &[Part<'_>]) -> Result<()> {
        let same = parts.iter().all(|part| part.count == parts[0].count);
        if parts.len() != self.ranks() || !same {
            let what = format!("a sum of {} parts over {} ranks", parts.len(), self.ranks());
            return Err(Error::Shape { what });
        }
        for part in parts {
            inside("summands", 2 * part.first, 2 * part.count, part.buffer.len_bytes())?;
            part.stream.same_context(part.buffer.context())?;
        }
        self.grouped(|| {
            let ranks = parts.iter().zip(&self.raw).zip(self.gpus);
            ranks.into_iter().try_for_each(|((part, comm), gpu)| {
                gpu.stream().same_context(part.buffer.context())?;
                part.stream.bind()?;
                let address = part.buffer.ptr() + 2 * part.first;
                // SAFETY: the part lies inside its buffer, which is on the communicator's GPU; the caller
                // keeps it until the stream has passed the sum.
                let status = unsafe {
                    sys::ncclAllReduce(
                        address as *const c_void,
                        address as *mut c_void,
                        part.count as usize,
                        sys::ncclDataType_t::ncclFloat16,
                        sys::ncclRedOp_t::ncclSum,
                        *comm,
                        part.stream.raw().cast(),
                    )
                };
                passed("ncclAllReduce", status)
            })
        })
    }
}

/// Whether each rank has a part of the whole.
fn divides(operation: Operation) -> bool {
    use Operation::{AllGather, AllToAll, ReduceScatter};
    matches!(operation, AllGather | AllToAll | ReduceScatter)
}

fn element_of(element: Element) -> Result<sys::ncclDataType_t> {
    match element {
        Element::F16 => Ok(sys::ncclDataType_t::ncclFloat16),
        Element::Bf16 => Ok(sys::ncclDataType_t::ncclBfloat16),
        Element::F32 => Ok(sys::ncclDataType_t::ncclFloat32),
        other => Err(Error::Shape { what: format!("a collective of {other:?}") }),
    }
}

fn passed(call: &'static str, status: sys::ncclResult_t) -> Result<()> {
    if status == sys::ncclResult_t::ncclSuccess {
        return Ok(());
    }
    // SAFETY: NCCL returns a static text for every status, and its last error as one that lasts until
    // the next.
    let reason = unsafe {
        let text = |text: *const std::ffi::c_char| match text.is_null() {
            true => String::new(),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        };
        let (what, last) = (
            text(sys::ncclGetErrorString(status)),
            text(sys::ncclGetLastError(std::ptr::null_mut())),
        );
        if last.is_empty() { what } else { format!("{what}: {last}") }
    };
    Err(Error::Nccl { call, reason })
}

/// Asks NCCL to write its choices to a file.
///
/// # Safety
/// No other thread of the process reads or writes the environment meanwhile, and NCCL has not been
/// used yet.
pub unsafe fn log_to(file: &Path) {
    // SAFETY: the caller's word.
    unsafe {
        std::env::set_var("NCCL_DEBUG", "INFO");
        std::env::set_var("NCCL_DEBUG_SUBSYS", "INIT,ENV,NVLS,TUNING");
        std::env::set_var("NCCL_DEBUG_FILE", file);
    }
}

/// What NCCL's log says that it chose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// `AllReduce 1073741824: RING SIMPLE {0..23}`, each once.
    pub lines: Vec<String>,
    /// Lines that show NVLink multicast in use.
    pub multicast: u64,
}

/// Reads a log that [`log_to`] asked for.
pub fn choices(log: &str) -> Choices {
    let mut found = Choices::default();
    for line in log.lines() {
        let in_use =
            ["Algo NVLS", "Connected NVLS", "NVLS comm", "NVLS multicast support is available"];
        if in_use.iter().any(|text| line.contains(text)) {
            found.multicast += 1;
        }
        if let Some(choice) = choice(line)
            && !found.lines.contains(&choice)
        {
            found.lines.push(choice);
        }
    }
    found
}

/// `... NCCL INFO AllReduce: 1024 Bytes -> Algo RING proto LL channel{Lo..Hi}={0..3}`.
fn choice(line: &str) -> Option<String> {
    let (before, after) = line.split_once(" Bytes -> Algo ")?;
    let (what, bytes) = before.rsplit_once(": ")?;
    let operation = what.rsplit(' ').next()?;
    let after = after.replace("proto ", "").replace("channel{Lo..Hi}=", "");
    Some(format!("{operation} {}: {}", bytes.trim(), after.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_bandwidths_by_hand() {
        // 1 GB in 5 ms over 4 ranks: 200 GB/s, of which each link carries 1.5 times as much.
        let check = |operation, expect| {
            let (algorithm, bus) = bandwidths(operation, 4, 1_000_000_000, 5.0);
            approx::assert_relative_eq!(algorithm, 200.0);
            approx::assert_relative_eq!(bus, expect);
        };
        check(Operation::AllReduce, 300.0);
        check(Operation::AllGather, 150.0);
        check(Operation::ReduceScatter, 150.0);
        check(Operation::AllToAll, 150.0);
        check(Operation::Broadcast, 200.0);
        check(Operation::SendRecv, 200.0);
        assert_eq!(Operation::AllReduce.bus_factor(8), 1.75);
        assert_eq!(Operation::AllReduce.bus_factor(2), 1.0);
    }

    #[test]
    fn a_log_names_what_was_chosen() {
        let log = "a:1:2 [0] NCCL INFO NCCL_NVLS_ENABLE set by environment to 0.\n\
            a:1:2 [0] NCCL INFO NVLS multicast support is not available on dev 0\n\
            a:1:2 [0] NCCL INFO AllReduce: 1024 Bytes -> Algo RING proto LL channel{Lo..Hi}={0..3}\n\
            a:1:2 [1] NCCL INFO AllReduce: 1024 Bytes -> Algo RING proto LL channel{Lo..Hi}={0..3}\n";
        let found = choices(log);
        assert_eq!(found.lines, ["AllReduce 1024: RING LL {0..3}"]);
        assert_eq!(found.multicast, 0);
        let on = "x NCCL INFO AllReduce: 8 Bytes -> Algo NVLS proto SIMPLE channel{Lo..Hi}={0..3}";
        assert_eq!(choices(on).multicast, 1);
        assert_eq!(choices("x NCCL INFO Connected NVLS tree").multicast, 1);
    }
}
