//! Memory of one GPU reached from another: access, and copies by the copy engines.
//!
//! With access on, a kernel of one GPU reads and writes plain memory of another by its address, and
//! a copy may name any two buffers. A copy runs on the engines of the GPU whose stream it is given:
//! on the source's stream it is a write over the link, on the destination's a read.
//!
//! No copy here waits. Memory of another GPU must outlive the stream's work: freeing a buffer waits
//! for its own GPU only, so [`crate::device::Gpu::synchronize`] comes first.

use cudarc::driver::{result, sys};

use crate::device::{Buffer, CudaStream, Gpu, checked};
use crate::memory::{Plain, inside};
use crate::{Error, Result, flight};

/// Lets every GPU of the list reach the memory of every other one. May be called again.
///
/// Errors: [`Error::Shape`] naming the pair that cannot; [`Error::Driver`].
pub fn enable(gpus: &[Gpu]) -> Result<()> {
    for from in gpus {
        for to in gpus.iter().filter(|to| to.ordinal != from.ordinal) {
            if !from.can_reach(to)? {
                let what = format!("gpu {} cannot reach gpu {}", from.ordinal, to.ordinal);
                return Err(Error::Shape { what });
            }
            from.enable_peer(to)?;
        }
    }
    Ok(())
}

/// Takes the access of [`enable`] away among these GPUs and gives it again: the driver maps their memory anew.
/// Waits for all of them first; no other thread enqueues anything on them meanwhile.
///
/// Errors: [`Error::Driver`], also where a pair had no access.
pub fn renew(gpus: &[Gpu]) -> Result<()> {
    gpus.iter().try_for_each(Gpu::synchronize)?;
    for from in gpus {
        for to in gpus.iter().filter(|to| to.ordinal != from.ordinal) {
            from.disable_peer(to)?;
        }
    }
    enable(gpus)
}

/// A part of a buffer: rows of `width` bytes, `pitch` bytes from one to the next.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The memory.
    pub buffer: &'a Buffer,
    /// Byte at which the first row begins.
    pub offset: u64,
    /// Bytes from one row to the next.
    pub pitch: u64,
}

impl Rows<'_> {
    fn check(&self, what: &str, width: u64, rows: u64) -> Result<()> {
        let end = self.pitch.checked_mul(rows - 1).and_then(|bytes| bytes.checked_add(width));
        let end = end.filter(|_| width <= self.pitch).unwrap_or(u64::MAX);
        inside(what, self.offset, end, self.buffer.len_bytes())
    }
}

/// Enqueues a copy of `bytes` between buffers of any two GPUs.
///
/// # Safety
/// Until the stream has passed the copy, both buffers live and nothing but the order that events
/// and streams give touches the two ranges.
pub unsafe fn copy(
    stream: &CudaStream,
    from: (&Buffer, u64),
    to: (&Buffer, u64),
    bytes: u64,
) -> Result<()> {
    inside("peer copy, source", from.1, bytes, from.0.len_bytes())?;
    inside("peer copy, destination", to.1, bytes, to.0.len_bytes())?;
    stream.bind()?;
    flight::note(|| exchange(from.0, to.0, 1, bytes));
    // SAFETY: both ranges were checked; the rest is the caller's word.
    let status = unsafe {
        sys::cuMemcpyAsync(to.0.ptr() + to.1, from.0.ptr() + from.1, bytes as usize, stream.raw())
    };
    checked("cuMemcpyAsync", status.result())
}

/// Rows that [`read_rows`] packs at once: 1 MiB of halves of a head, a thousandth of no share of a model's memory.
const AT_ONCE: u32 = 4096;

/// `rows` rows of `width` bytes of one GPU's buffer, packed; waits.
///
/// Errors: [`Error::Shape`] for no rows, or rows beyond the buffer.
pub(crate) fn read_rows<T: Plain + Default>(
    (gpu, stream): (&Gpu, &CudaStream),
    from: Rows<'_>,
    width: u64,
    rows: u32,
) -> Result<Vec<T>> {
    let packed = gpu.alloc(width * u64::from(rows.min(AT_ONCE)))?;
    let each = width as usize / size_of::<T>();
    let mut all = Vec::with_capacity(rows as usize * each);
    for row in (0..rows).step_by(AT_ONCE as usize) {
        let rows = AT_ONCE.min(rows - row);
        let from = Rows { offset: from.offset + u64::from(row) * from.pitch, ..from };
        let to = Rows { buffer: &packed, offset: 0, pitch: width };
        // SAFETY: both buffers live until the stream has been drained by the read.
        unsafe { copy_rows(stream, from, to, width, rows.into())? };
        all.extend(packed.read_vec::<T>(stream, rows as usize * each)?);
    }
    Ok(all)
}

/// Enqueues a copy of `rows` rows of `width` bytes between buffers of any two GPUs.
///
/// # Safety
/// As for [`copy`].
pub unsafe fn copy_rows(
    stream: &CudaStream,
    from: Rows<'_>,
    to: Rows<'_>,
    width: u64,
    rows: u64,
) -> Result<()> {
    if width == 0 || rows == 0 {
        return Err(Error::Shape { what: format!("a copy of {rows} rows of {width} bytes") });
    }
    from.check("peer rows, source", width, rows)?;
    to.check("peer rows, destination", width, rows)?;
    stream.bind()?;
    let unified = sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED;
    let description = sys::CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: unified,
        srcHost: std::ptr::null(),
        srcDevice: from.buffer.ptr() + from.offset,
        srcArray: std::ptr::null_mut(),
        srcPitch: from.pitch as usize,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: unified,
        dstHost: std::ptr::null_mut(),
        dstDevice: to.buffer.ptr() + to.offset,
        dstArray: std::ptr::null_mut(),
        dstPitch: to.pitch as usize,
        WidthInBytes: width as usize,
        Height: rows as usize,
    };
    flight::note(|| exchange(from.buffer, to.buffer, rows, width));
    // SAFETY: both ranges were checked; the driver copies the description during the call.
    let status = unsafe { sys::cuMemcpy2DAsync_v2(&description, stream.raw()) };
    checked("cuMemcpy2DAsync", status.result())
}

/// A copy in the flight record.
fn exchange(from: &Buffer, to: &Buffer, rows: u64, bytes: u64) -> String {
    let gpu = |buffer: &Buffer| buffer.context().device();
    format!("exchange {rows} rows of {bytes} bytes, gpu {} to gpu {}", gpu(from), gpu(to))
}

impl Gpu {
    /// Whether this GPU can reach the memory of the other one.
    pub fn can_reach(&self, other: &Gpu) -> Result<bool> {
        let (from, to) = (self.context().device(), other.context().device());
        let mut can = 0;
        // SAFETY: both devices are valid; the call writes one integer.
        let status = unsafe { sys::cuDeviceCanAccessPeer(&mut can, from, to) };
        checked("cuDeviceCanAccessPeer", status.result())?;
        Ok(can != 0)
    }

    fn disable_peer(&self, other: &Gpu) -> Result<()> {
        self.bind()?;
        // SAFETY: this context is current, the other one is retained by `other`; nothing of either runs.
        let status = unsafe { sys::cuCtxDisablePeerAccess(other.context().raw()) };
        checked("cuCtxDisablePeerAccess", status.result())
    }

    fn enable_peer(&self, other: &Gpu) -> Result<()> {
        self.bind()?;
        // SAFETY: this context is current, the other one is retained by `other`.
        let status = unsafe { sys::cuCtxEnablePeerAccess(other.context().raw(), 0) };
        match status.result() {
            Err(result::DriverError(
                sys::cudaError_enum::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED,
            )) => Ok(()),
            outcome => checked("cuCtxEnablePeerAccess", outcome),
        }
    }
}
