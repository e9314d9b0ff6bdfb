//! Work recorded once and launched many times: CUDA graphs.
//!
//! A stream that is being captured records what is enqueued on it in place of doing it. Each GPU may
//! have a graph of its own ([`capture_each`], for calls whose ranks wait for each other on the
//! device), or one graph spans streams of several GPUs ([`capture_all`], whose branches begin and end
//! with the first stream). Capture is of this thread alone, so that other threads may allocate.
//!
//! A graph is bound to the borrows of the work that it recorded: what the work used must outlive it.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::device::{Context, CudaStream, Event, Gpu, checked};
use crate::{Error, Result, flight};

/// A captured, instantiated graph. Launches of one graph do not overlap each other.
#[derive(Debug)]
pub struct Graph<'a> {
    exec: sys::CUgraphExec,
    context: Arc<Context>,
    recorded: PhantomData<&'a c_void>,
}

// SAFETY: a CUgraphExec is a handle that any thread may use; `launch` may not run twice at once, and
// takes the graph exclusively.
unsafe impl Send for Graph<'_> {}

impl Graph<'_> {
    /// Enqueues the recorded work on a stream, perhaps another one than it was captured on, of the
    /// same GPU as the first.
    pub fn launch(&mut self, stream: &CudaStream) -> Result<()> {
        stream.same_context(&self.context)?;
        stream.bind()?;
        flight::note(|| "graph".into());
        // SAFETY: the graph is instantiated and what it recorded is still borrowed.
        checked("cuGraphLaunch", unsafe { result::graph::launch(self.exec, stream.raw()) })
    }

    /// The graph without the borrows of what it recorded.
    ///
    /// # Safety
    /// Everything that the recorded work uses outlives the graph.
    pub unsafe fn unbound(self) -> Graph<'static> {
        let graph = std::mem::ManuallyDrop::new(self);
        // SAFETY: the context is moved out once, and `graph` is never dropped.
        let context = unsafe { std::ptr::read(&graph.context) };
        Graph { exec: graph.exec, context, recorded: PhantomData }
    }

    /// Lays the graph onto the GPU ahead of its first launch.
    pub fn upload(&mut self, stream: &CudaStream) -> Result<()> {
        stream.same_context(&self.context)?;
        stream.bind()?;
        // SAFETY: the graph is instantiated.
        checked("cuGraphUpload", unsafe { result::graph::upload(self.exec, stream.raw()) })
    }
}

impl Drop for Graph<'_> {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // A launched graph that is destroyed is kept by the driver until it has run; what it uses
            // is not, so its GPU is waited for. The work of one that spans GPUs ends with its first.
            let _ = result::ctx::synchronize();
            // SAFETY: instantiated once, destroyed once.
            let _ = unsafe { result::graph::exec_destroy(self.exec) };
        }
    }
}

/// Captures the work of one stream.
pub fn capture<'a>(
    gpu: &Gpu,
    stream: &CudaStream,
    work: impl FnOnce() -> Result<()> + 'a,
) -> Result<Graph<'a>> {
    let mut graphs = capture_each(&[(gpu, stream)], work)?;
    graphs.pop().ok_or_else(|| Error::Shape { what: "a capture of no stream".into() })
}

/// Captures the work of several streams, one graph each. The work enqueues on all of them, in any
/// order, and no stream waits for another one inside it.
pub fn capture_each<'a>(
    lanes: &[(&Gpu, &CudaStream)],
    work: impl FnOnce() -> Result<()> + 'a,
) -> Result<Vec<Graph<'a>>> {
    let mut begun = 0;
    let mut outcome = Ok(());
    for (_, stream) in lanes {
        outcome = begin(stream);
        if outcome.is_err() {
            break;
        }
        begun += 1;
    }
    let outcome = outcome.and_then(|()| work());
    // Every capture that was begun is ended, or its stream could not be used again.
    let ended: Vec<Result<Captured>> =
        lanes[..begun].iter().map(|(gpu, stream)| end(gpu, stream)).collect();
    outcome?;
    ended.into_iter().map(|captured| captured?.instantiate()).collect()
}

/// Captures work over the streams of several GPUs as one graph, launched on the first. The others
/// begin behind what the first has when the work begins, and the first ends behind all of them.
pub fn capture_all<'a>(
    lanes: &[(&Gpu, &CudaStream)],
    work: impl FnOnce() -> Result<()> + 'a,
) -> Result<Graph<'a>> {
    let Some(((gpu, first), others)) = lanes.split_first() else {
        return Err(Error::Shape { what: "a capture of no stream".into() });
    };
    let fork = gpu.new_marker()?;
    let joins: Vec<Event> =
        others.iter().map(|(gpu, _)| gpu.new_marker()).collect::<Result<_>>()?;
    begin(first)?;
    let enqueue = || -> Result<()> {
        fork.record(first)?;
        others.iter().try_for_each(|(_, stream)| stream.wait(&fork))?;
        work()?;
        for ((_, stream), join) in others.iter().zip(&joins) {
            join.record(stream)?;
            first.wait(join)?;
        }
        Ok(())
    };
    let outcome = enqueue();
    let captured = end(gpu, first);
    outcome?;
    captured?.instantiate()
}

fn begin(stream: &CudaStream) -> Result<()> {
    stream.bind()?;
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream is valid.
    checked("cuStreamBeginCapture", unsafe { result::stream::begin_capture(stream.raw(), mode) })
}

fn end(gpu: &Gpu, stream: &CudaStream) -> Result<Captured> {
    stream.bind()?;
    // SAFETY: the stream is valid and being captured.
    let graph = unsafe { result::stream::end_capture(stream.raw()) };
    let graph = checked("cuStreamEndCapture", graph)?;
    Ok(Captured { graph, context: gpu.context().clone() })
}

/// A captured graph before it is instantiated.
struct Captured {
    graph: sys::CUgraph,
    context: Arc<Context>,
}

impl Captured {
    fn instantiate<'a>(self) -> Result<Graph<'a>> {
        if self.graph.is_null() {
            return Err(Error::Shape { what: "a capture that recorded nothing".into() });
        }
        self.context.bind()?;
        let mut exec = std::ptr::null_mut();
        // SAFETY: the graph is valid; the call writes one handle.
        let status = unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, self.graph, 0) };
        checked("cuGraphInstantiate", status.result())?;
        Ok(Graph { exec, context: self.context.clone(), recorded: PhantomData })
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if !self.graph.is_null() && self.context.bind().is_ok() {
            // SAFETY: captured once, destroyed once; an instantiated graph does not need it.
            let _ = unsafe { result::graph::destroy(self.graph) };
        }
    }
}
