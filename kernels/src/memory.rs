//! Device memory, pinned host memory and the copies between them.
//!
//! Every copy names its stream: streams of this crate do not wait for the null stream, so a plain
//! synchronous copy could run before the kernel whose result it fetches.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{result, sys};

use crate::device::{Context, CudaStream, checked};
use crate::{Error, Result};

/// A number whose every bit pattern is a value, so that it may come from a device's bytes.
///
/// # Safety
/// The type has no padding and no invalid bit pattern.
pub unsafe trait Plain: Copy + 'static {}
// SAFETY: integers and IEEE floats have neither padding nor invalid patterns.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for i64 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}

/// Checks that `offset..offset + bytes` lies inside `len` bytes.
pub(crate) fn inside(what: &str, offset: u64, bytes: u64, len: u64) -> Result<()> {
    match offset.checked_add(bytes) {
        Some(end) if end <= len => Ok(()),
        _ => Err(Error::Shape {
            what: format!("{what}: {bytes} bytes at {offset} do not fit in {len}"),
        }),
    }
}

/// What is allocated on one GPU: exact bytes, as they were asked for.
#[derive(Debug, Default)]
pub struct Ledger {
    live: AtomicU64,
    peak: AtomicU64,
    limit: Mutex<Option<u64>>,
}

impl Ledger {
    /// Bytes that are allocated.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::SeqCst)
    }

    /// The most that was ever allocated since the last [`Ledger::reset_peak`].
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::SeqCst)
    }

    /// Forgets earlier peaks.
    pub fn reset_peak(&self) {
        self.peak.store(self.live(), Ordering::SeqCst);
    }

    /// Refuses later allocations that would pass a limit ([`Error::OverLimit`]), or none.
    pub fn limit(&self, bytes: Option<u64>) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    fn take(&self, bytes: u64) -> Result<()> {
        // Held until the bytes are counted, so that two allocations cannot pass the limit together.
        let limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live();
        if let Some(limit) = limit.filter(|limit| live.saturating_add(bytes) > *limit) {
            return Err(Error::OverLimit { asked: bytes, live, limit });
        }
        let live = self.live.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.peak.fetch_max(live, Ordering::SeqCst);
        Ok(())
    }

    fn give(&self, bytes: u64) {
        self.live.fetch_sub(bytes, Ordering::SeqCst);
    }
}

/// Plain device memory (`cuMemAlloc`), freed on drop. Aligned to at least 256 bytes.
#[derive(Debug)]
pub struct Buffer {
    ptr: sys::CUdeviceptr,
    len_bytes: u64,
    context: Arc<Context>,
    /// The buffer of which this is a part; it frees the memory.
    whole: Option<Arc<Buffer>>,
}

impl Buffer {
    pub(crate) fn new(context: &Arc<Context>, bytes: u64) -> Result<Buffer> {
        if bytes == 0 {
            return Err(Error::Shape { what: "a device buffer of 0 bytes".into() });
        }
        let size = usize::try_from(bytes)
            .map_err(|_| Error::Shape { what: format!("a device buffer of {bytes} bytes") })?;
        context.bind()?;
        context.ledger().take(bytes)?;
        // SAFETY: the context is current; the memory is only ever read as plain numbers.
        let ptr = checked("cuMemAlloc", unsafe { result::malloc_sync(size) })
            .inspect_err(|_| context.ledger().give(bytes))?;
        Ok(Buffer { ptr, len_bytes: bytes, context: context.clone(), whole: None })
    }

    /// A part that keeps the whole alive. Parts may share bytes, for work whose order keeps it apart.
    ///
    /// Errors: [`Error::Shape`] for no bytes, an offset that is no multiple of 256, or an end outside.
    pub fn part(whole: &Arc<Buffer>, offset: u64, bytes: u64) -> Result<Buffer> {
        inside("part of a buffer", offset, bytes, whole.len_bytes)?;
        if bytes == 0 || !offset.is_multiple_of(256) {
            return Err(Error::Shape { what: format!("a part of {bytes} bytes at {offset}") });
        }
        Ok(Buffer {
            ptr: whole.ptr + offset,
            len_bytes: bytes,
            context: whole.context.clone(),
            whole: Some(whole.clone()),
        })
    }

    /// Bytes of the buffer.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Device address.
    pub fn ptr(&self) -> u64 {
        self.ptr
    }

    /// The owner, for the check that stream and memory belong together.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Copies a slice into the buffer at a byte offset and waits for it.
    pub fn write<T: Plain>(&self, stream: &CudaStream, offset: u64, source: &[T]) -> Result<()> {
        self.ready(stream, "write", offset, size_of_val(source) as u64)?;
        // SAFETY: the range was checked, and the stream is drained before `source` can go away.
        let outcome = unsafe { result::memcpy_htod_async(self.ptr + offset, source, stream.raw()) };
        checked("cuMemcpyHtoDAsync", outcome)?;
        stream.synchronize()
    }

    /// Fills a slice from the buffer at a byte offset, behind the stream's earlier work.
    pub fn read<T: Plain>(&self, stream: &CudaStream, offset: u64, out: &mut [T]) -> Result<()> {
        self.ready(stream, "read", offset, size_of_val(out) as u64)?;
        // SAFETY: the range was checked, T takes any bytes, and the stream is drained before
        // `out` is looked at.
        let outcome = unsafe { result::memcpy_dtoh_async(out, self.ptr + offset, stream.raw()) };
        checked("cuMemcpyDtoHAsync", outcome)?;
        stream.synchronize()
    }

    /// The first `count` values of the buffer.
    pub fn read_vec<T: Plain + Default>(
        &self,
        stream: &CudaStream,
        count: usize,
    ) -> Result<Vec<T>> {
        let mut out = vec![T::default(); count];
        self.read(stream, 0, &mut out)?;
        Ok(out)
    }

    /// Sets every 32-bit word, in stream order. The length must be a multiple of 4.
    pub fn fill_u32(&self, stream: &CudaStream, word: u32) -> Result<()> {
        if !self.len_bytes.is_multiple_of(4) {
            let what = format!("fill of {} bytes by 32-bit words", self.len_bytes);
            return Err(Error::Shape { what });
        }
        self.ready(stream, "fill", 0, self.len_bytes)?;
        let words = (self.len_bytes / 4) as usize;
        // SAFETY: the buffer holds `words` words and stream and memory are of one context.
        let status = unsafe { sys::cuMemsetD32Async(self.ptr, word, words, stream.raw()) };
        checked("cuMemsetD32Async", status.result())
    }

    /// Sets every byte to 0xFF, in stream order: a NaN in every float format of this crate and in
    /// E4M3, but -1 as an integer, so an integer output needs a check of its values as well.
    pub fn poison(&self, stream: &CudaStream) -> Result<()> {
        self.ready(stream, "poison", 0, self.len_bytes)?;
        // SAFETY: the buffer holds `len_bytes` bytes; stream and memory are of one context.
        let outcome = unsafe {
            result::memset_d8_async(self.ptr, 0xFF, self.len_bytes as usize, stream.raw())
        };
        checked("cuMemsetD8Async", outcome)
    }

    /// Common checks before a driver call on this memory.
    fn ready(&self, stream: &CudaStream, what: &str, offset: u64, bytes: u64) -> Result<()> {
        inside(what, offset, bytes, self.len_bytes)?;
        stream.same_context(&self.context)?;
        stream.bind()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.whole.is_some() {
            return;
        }
        self.context.ledger().give(self.len_bytes);
        if self.context.bind().is_ok() {
            // cuMemFree waits for work in flight, so a kernel never outlives its memory.
            // SAFETY: allocated once, freed once.
            let _ = unsafe { result::free_sync(self.ptr) };
        }
    }
}

/// Pinned host memory, mapped into the device's address space, freed on drop.
#[derive(Debug)]
pub struct Pinned {
    host: *mut c_void,
    device_ptr: sys::CUdeviceptr,
    len_bytes: usize,
    context: Arc<Context>,
}

// SAFETY: the memory belongs to this object alone; sharing follows the borrow rules of the
// accessors and of the unsafe copies.
unsafe impl Send for Pinned {}
// SAFETY: as above; shared access through `slice` is read only.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Pinned> {
        if bytes == 0 {
            return Err(Error::Shape { what: "a pinned buffer of 0 bytes".into() });
        }
        context.bind()?;
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: the context is current.
        let host = checked("cuMemHostAlloc", unsafe { result::malloc_host(bytes, flags) })?;
        let mut pinned = Pinned { host, device_ptr: 0, len_bytes: bytes, context: context.clone() };
        // SAFETY: the memory was just allocated with DEVICEMAP.
        let status = unsafe { sys::cuMemHostGetDevicePointer_v2(&mut pinned.device_ptr, host, 0) };
        checked("cuMemHostGetDevicePointer", status.result())?;
        // SAFETY: the whole range was just allocated.
        unsafe { std::ptr::write_bytes(host.cast::<u8>(), 0, bytes) };
        Ok(pinned)
    }

    /// Bytes of the memory.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Address at which kernels see the memory.
    pub fn device_ptr(&self) -> u64 {
        self.device_ptr
    }

    /// Host address.
    pub(crate) fn host_ptr(&self) -> *mut c_void {
        self.host
    }

    /// The memory as numbers. No copy into it may be in flight.
    pub fn slice<T: Plain>(&self) -> &[T] {
        // SAFETY: page-aligned, initialised memory of `len_bytes` bytes; T takes any bytes.
        unsafe { std::slice::from_raw_parts(self.host.cast(), self.len_bytes / size_of::<T>()) }
    }

    /// The memory as numbers to write. No copy from or into it may be in flight.
    pub fn slice_mut<T: Plain>(&mut self) -> &mut [T] {
        let count = self.len_bytes / size_of::<T>();
        // SAFETY: as in `slice`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.host.cast(), count) }
    }

    /// Enqueues a copy of `bytes` from this memory to the buffer, both at the same `offset`.
    ///
    /// # Safety
    /// Until the stream has passed the copy, nothing writes this memory and nothing but the
    /// stream's own order touches the buffer.
    pub unsafe fn copy_to_device(
        &self,
        stream: &CudaStream,
        buffer: &Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        inside("host to device, host side", offset, bytes, self.len_bytes as u64)?;
        buffer.ready(stream, "host to device, device side", offset, bytes)?;
        // SAFETY: both ranges were checked; the caller keeps them untouched.
        let status = unsafe {
            let source = self.host.cast::<u8>().add(offset as usize);
            sys::cuMemcpyHtoDAsync_v2(
                buffer.ptr + offset,
                source.cast(),
                bytes as usize,
                stream.raw(),
            )
        };
        checked("cuMemcpyHtoDAsync", status.result())
    }

    /// Enqueues a copy of `bytes` from the buffer to this memory, both at the same `offset`.
    ///
    /// # Safety
    /// Until the stream has passed the copy, nothing reads or writes this memory.
    pub unsafe fn copy_from_device(
        &self,
        stream: &CudaStream,
        buffer: &Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        inside("device to host, host side", offset, bytes, self.len_bytes as u64)?;
        buffer.ready(stream, "device to host, device side", offset, bytes)?;
        // SAFETY: both ranges were checked; the caller keeps them untouched.
        let status = unsafe {
            let target = self.host.cast::<u8>().add(offset as usize);
            sys::cuMemcpyDtoHAsync_v2(
                target.cast(),
                buffer.ptr + offset,
                bytes as usize,
                stream.raw(),
            )
        };
        checked("cuMemcpyDtoHAsync", status.result())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: allocated once, freed once; the driver waits for copies in flight.
            let _ = unsafe { result::free_host(self.host) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_counts_and_refuses() {
        let ledger = Ledger::default();
        ledger.limit(Some(100));
        assert!(ledger.take(60).is_ok());
        let refused = ledger.take(41).expect_err("one byte too many").to_string();
        assert_eq!(refused, "41 bytes beside 60 of at most 100");
        assert!(ledger.take(40).is_ok());
        ledger.give(60);
        assert_eq!((ledger.live(), ledger.peak()), (40, 100));
        ledger.reset_peak();
        assert_eq!(ledger.peak(), 40);
        ledger.limit(None);
        assert!(ledger.take(1 << 40).is_ok());
    }

    #[test]
    fn a_range_must_lie_inside() {
        assert!(inside("copy", 0, 16, 16).is_ok());
        assert!(inside("copy", 8, 9, 16).is_err());
        assert!(inside("copy", u64::MAX, 2, 16).is_err());
    }
}
