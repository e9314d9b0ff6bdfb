//! One GPU: its context, what the driver says of it, its streams and events.
//!
//! A thin RAII layer over the driver API. Memory is plain `cuMemAlloc` memory ([`Buffer`]), not
//! pool memory, and no call waits for anything that its name does not say.
//!
//! Invariants:
//! - The caller has asked [`crate::libraries::present`] for the driver before [`Gpu::count`] or
//!   [`Gpu::open`]: cudarc panics where the library is missing.
//! - Every object keeps the primary context alive and makes it current on the calling thread
//!   before a driver call, so that objects may be used from any thread.
//! - Streams do not synchronise with the null stream, so every copy of this crate names a stream.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::{result, sys};

use crate::memory::Ledger;
use crate::{Error, Result};

pub use crate::memory::{Buffer, Pinned, Plain};
pub use crate::module::{Function, Grid, KernelParams, Module};

/// Turns a driver result into [`Error::Driver`] with the name of the call.
pub(crate) fn checked<T>(
    call: &'static str,
    outcome: std::result::Result<T, result::DriverError>,
) -> Result<T> {
    outcome.map_err(|error| {
        let text = |found: std::result::Result<&std::ffi::CStr, result::DriverError>| {
            found.map_or_else(|_| "unknown".to_string(), |text| text.to_string_lossy().into_owned())
        };
        let reason = format!("{}: {}", text(error.error_name()), text(error.error_string()));
        Error::Driver { call, reason }
    })
}

/// A retained primary context.
#[derive(Debug)]
pub(crate) struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
    ledger: Ledger,
}

// SAFETY: a CUcontext is a handle that the driver lets any thread use.
unsafe impl Send for Context {}
// SAFETY: the driver serialises concurrent calls on one context.
unsafe impl Sync for Context {}

impl Context {
    /// Makes the context current on the calling thread.
    pub(crate) fn bind(&self) -> Result<()> {
        // SAFETY: the primary context is retained until self is dropped.
        checked("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.raw) })
    }
}

impl Context {
    /// The driver's handle of the device.
    pub(crate) fn device(&self) -> sys::CUdevice {
        self.device
    }

    /// The first number of the compute capability.
    pub(crate) fn compute_capability_major(&self) -> Result<u32> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
        // SAFETY: the device exists as long as its context.
        let major = unsafe { result::device::get_attribute(self.device, attribute) };
        Ok(checked("cuDeviceGetAttribute", major)? as u32)
    }

    /// The driver's handle.
    pub(crate) fn raw(&self) -> sys::CUcontext {
        self.raw
    }

    /// What is allocated.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // An error here is that of earlier asynchronous work and was or will be reported there.
        // SAFETY: retained once in Gpu::open, released once here.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// A GPU with its primary context and one stream of its own.
#[derive(Debug)]
pub struct Gpu {
    /// Ordinal among the devices that this process sees.
    pub ordinal: u32,
    /// Name as the driver gives it.
    pub name: String,
    /// The UUID's bytes.
    pub uuid: [u8; 16],
    /// PCI address, for example `0000:1B:00.0`.
    pub pci_bus_id: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// Bytes of the L2 cache.
    pub l2_bytes: u64,
    /// Bytes of device memory as the driver counts them.
    pub memory_total_bytes: u64,
    /// Memory clock in kHz, 0 where the driver does not say.
    pub memory_clock_khz: u32,
    /// Width of the memory bus in bits, 0 where the driver does not say.
    pub memory_bus_bits: u32,
    /// Maximum core clock in kHz, 0 where the driver does not say.
    pub core_clock_khz: u32,
    /// Most threads of one block.
    pub max_threads_per_block: u32,
    /// Most threads resident on one multiprocessor.
    pub max_threads_per_sm: u32,
    /// Most shared memory of one block after opting in, in bytes.
    pub max_shared_per_block_bytes: u32,
    stream: CudaStream,
    context: Arc<Context>,
}

impl Gpu {
    /// How many devices this process sees. Initialises the driver.
    pub fn count() -> Result<u32> {
        checked("cuInit", result::init())?;
        let count = checked("cuDeviceGetCount", result::device::get_count())?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// Opens a device: retains its primary context and makes it current on the calling thread.
    pub fn open(ordinal: u32) -> Result<Gpu> {
        let count = Gpu::count()?;
        if ordinal >= count {
            let what = format!("no gpu {ordinal}: this process sees {count}");
            return Err(Error::Shape { what });
        }
        let device = checked("cuDeviceGet", result::device::get(ordinal as c_int))?;
        // SAFETY: the device was just returned by the driver.
        let raw =
            checked("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        let context = Arc::new(Context { device, raw, ledger: Ledger::default() });
        context.bind()?;
        let attribute = |attribute| device_attribute(device, attribute);
        use sys::CUdevice_attribute as Attribute;
        let uuid = checked("cuDeviceGetUuid", result::device::get_uuid(device))?;
        // SAFETY: the device is valid.
        let total = checked("cuDeviceTotalMem", unsafe { result::device::total_mem(device) })?;
        Ok(Gpu {
            ordinal,
            name: checked("cuDeviceGetName", result::device::get_name(device))?,
            uuid: uuid.bytes.map(|byte| byte as u8),
            pci_bus_id: pci_bus_id(device)?,
            compute_capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            sm_count: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
            memory_total_bytes: total as u64,
            memory_clock_khz: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)
                .unwrap_or(0),
            memory_bus_bits: attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)
                .unwrap_or(0),
            core_clock_khz: attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE).unwrap_or(0),
            max_threads_per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            max_threads_per_sm: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
            )?,
            max_shared_per_block_bytes: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            stream: CudaStream::new(&context)?,
            context,
        })
    }

    /// Makes this GPU's context current on the calling thread, for calls outside this layer.
    pub fn bind(&self) -> Result<()> {
        self.context.bind()
    }

    /// The UUID as `nvidia-smi` prints it: `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub fn uuid_string(&self) -> String {
        uuid_string(&self.uuid)
    }

    /// The stream that belongs to this GPU.
    pub fn stream(&self) -> &CudaStream {
        &self.stream
    }

    /// A further non-blocking stream.
    pub fn new_stream(&self) -> Result<CudaStream> {
        CudaStream::new(&self.context)
    }

    /// The context, for calls that name it.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// A new event that takes time stamps.
    pub fn new_event(&self) -> Result<Event> {
        Event::new(&self.context, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// A new event without a time stamp: it only orders streams, of any GPUs, and costs less.
    pub fn new_marker(&self) -> Result<Event> {
        Event::new(&self.context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// What this process has allocated on the GPU through [`Gpu::alloc`].
    pub fn ledger(&self) -> &Ledger {
        self.context.ledger()
    }

    /// Plain device memory. Its content is whatever was there before.
    pub fn alloc(&self, bytes: u64) -> Result<Buffer> {
        Buffer::new(&self.context, bytes)
    }

    /// Pinned host memory that every context of this process may copy from and to.
    pub fn alloc_pinned(&self, bytes: usize) -> Result<Pinned> {
        Pinned::new(&self.context, bytes)
    }

    /// Loads the bytes of a cubin.
    pub fn load(&self, cubin_bytes: &[u8]) -> Result<Module> {
        Module::load(&self.context, cubin_bytes)
    }

    /// Free and total bytes of device memory.
    pub fn mem_info(&self) -> Result<(u64, u64)> {
        self.bind()?;
        let (free, total) = checked("cuMemGetInfo", result::mem_get_info())?;
        Ok((free as u64, total as u64))
    }

    /// Waits for all work of the context. Reports the first error of earlier asynchronous work.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        checked("cuCtxSynchronize", result::ctx::synchronize())
    }
}

/// One integer attribute of a device.
fn device_attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<u32> {
    // SAFETY: the device is valid and the attribute is one of the enumeration.
    let value = unsafe { result::device::get_attribute(device, attribute) };
    let value = checked("cuDeviceGetAttribute", value)?;
    u32::try_from(value).map_err(|_| Error::Driver {
        call: "cuDeviceGetAttribute",
        reason: format!("{attribute:?} = {value}"),
    })
}

/// The PCI address as the driver writes it.
fn pci_bus_id(device: sys::CUdevice) -> Result<String> {
    let mut text = [0u8; 32];
    // SAFETY: the driver writes at most 32 bytes with a final NUL.
    let status =
        unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr().cast(), text.len() as c_int, device) };
    checked("cuDeviceGetPCIBusId", status.result())?;
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    Ok(String::from_utf8_lossy(&text[..end]).into_owned())
}

/// `GPU-` and the bytes in groups of 4, 2, 2, 2 and 6.
fn uuid_string(uuid: &[u8; 16]) -> String {
    let mut text = String::from("GPU-");
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A stream that does not synchronise with the null stream.
#[derive(Debug)]
pub struct CudaStream {
    raw: sys::CUstream,
    id: u64,
    context: Arc<Context>,
}

// SAFETY: a CUstream is a handle that the driver lets any thread use.
unsafe impl Send for CudaStream {}
// SAFETY: the driver serialises concurrent calls on one stream.
unsafe impl Sync for CudaStream {}

impl CudaStream {
    fn new(context: &Arc<Context>) -> Result<CudaStream> {
        context.bind()?;
        let kind = result::stream::StreamKind::NonBlocking;
        let raw = checked("cuStreamCreate", result::stream::create(kind))?;
        static STREAMS: AtomicU64 = AtomicU64::new(0);
        let id = STREAMS.fetch_add(1, Ordering::Relaxed);
        Ok(CudaStream { raw, id, context: context.clone() })
    }

    /// A number that no other stream of this process ever has: the driver may give a handle again while
    /// work of its former stream is still under way.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The driver's handle.
    pub(crate) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Makes the stream's context current on the calling thread.
    pub(crate) fn bind(&self) -> Result<()> {
        self.context.bind()
    }

    /// Whether something of another object lives in the same context.
    pub(crate) fn same_context(&self, other: &Arc<Context>) -> Result<()> {
        if Arc::ptr_eq(&self.context, other) {
            return Ok(());
        }
        Err(Error::Shape { what: "stream and memory or kernel belong to different gpus".into() })
    }

    /// Waits for all work of the stream. Reports the first error of that work.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as self.
        checked("cuStreamSynchronize", unsafe { result::stream::synchronize(self.raw) })
    }

    /// Later work of this stream waits for the event, which may be another GPU's.
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: stream and event live as long as their owners.
        let outcome = unsafe { result::stream::wait_event(self.raw, event.raw, flags) };
        checked("cuStreamWaitEvent", outcome)
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            // SAFETY: created once, destroyed once; the driver finishes pending work by itself.
            let _ = unsafe { result::stream::destroy(self.raw) };
        }
    }
}

/// A point in a stream, with a time stamp or, as a marker, without.
#[derive(Debug)]
pub struct Event {
    raw: sys::CUevent,
    context: Arc<Context>,
}

// SAFETY: a CUevent is a handle that the driver lets any thread use.
unsafe impl Send for Event {}
// SAFETY: the driver serialises concurrent calls on one event.
unsafe impl Sync for Event {}

impl Event {
    fn new(context: &Arc<Context>, flags: sys::CUevent_flags) -> Result<Event> {
        context.bind()?;
        let raw = checked("cuEventCreate", result::event::create(flags))?;
        Ok(Event { raw, context: context.clone() })
    }

    /// Records the event behind the work that the stream has so far.
    pub fn record(&self, stream: &CudaStream) -> Result<()> {
        stream.same_context(&self.context)?;
        self.context.bind()?;
        // SAFETY: event and stream are valid and of one context.
        checked("cuEventRecord", unsafe { result::event::record(self.raw, stream.raw) })
    }

    /// Waits for the event. Reports the first error of the work before it.
    pub fn synchronize(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the event lives as long as self.
        checked("cuEventSynchronize", unsafe { result::event::synchronize(self.raw) })
    }

    /// Whether the work before it is done. Reports the first error of that work.
    pub fn passed(&self) -> Result<bool> {
        self.context.bind()?;
        // SAFETY: the event lives as long as self.
        match unsafe { result::event::query(self.raw) } {
            Err(result::DriverError(sys::cudaError_enum::CUDA_ERROR_NOT_READY)) => Ok(false),
            outcome => checked("cuEventQuery", outcome).map(|()| true),
        }
    }

    /// Milliseconds from `start` to this event. Both must have been recorded and passed.
    pub fn elapsed_ms_since(&self, start: &Event) -> Result<f64> {
        self.context.bind()?;
        // SAFETY: both events live; the driver reports unrecorded or pending ones as an error.
        let elapsed = unsafe { result::event::elapsed(start.raw, self.raw) };
        Ok(checked("cuEventElapsedTime", elapsed)?.into())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: created once, destroyed once.
            let _ = unsafe { result::event::destroy(self.raw) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_reads_as_nvidia_smi_prints_it() {
        let uuid = [
            0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x0f, 0x1e, 0x2d, 0x3c, 0x4b, 0x5a,
            0x69, 0x78,
        ];
        assert_eq!(uuid_string(&uuid), "GPU-12345678-9abc-def0-0f1e-2d3c4b5a6978");
    }
}
