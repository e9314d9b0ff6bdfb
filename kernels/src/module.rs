//! Loaded cubins, their entry points and the launch of one.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::device::{Buffer, Context, CudaStream, checked};
use crate::{Error, Result, flight};

/// Shared memory that a block may use without opting in, in bytes.
const SHARED_WITHOUT_OPT_IN: u32 = 48 * 1024;

/// The one argument of a kernel, passed by value.
///
/// # Safety
/// The type is `#[repr(C)]` without padding and equals the kernel's parameter struct field by
/// field; both sides assert its size at compile time.
pub unsafe trait KernelParams: Copy {}

/// Blocks and threads of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x and y.
    pub blocks: (u32, u32),
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Begins before the kernel in front of it in the stream has ended, where the GPU can (programmatic
    /// dependent launch, compute capability 9.0 on). Only for kernels that wait themselves (dependent.cuh).
    pub early: bool,
}

impl Grid {
    /// A one-dimensional grid without dynamic shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Grid {
        Grid { blocks: (blocks, 1), threads, shared_bytes: 0, early: false }
    }
}

/// A loaded cubin.
#[derive(Debug, Clone)]
pub struct Module {
    loaded: Arc<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    raw: sys::CUmodule,
    context: Arc<Context>,
    /// The GPU can begin a kernel before the one in front of it has ended.
    overlaps: bool,
}

// SAFETY: a CUmodule is a handle that the driver lets any thread use.
unsafe impl Send for Loaded {}
// SAFETY: the driver serialises concurrent calls on one module.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: loaded once, unloaded once, after every Function of it is gone.
            let _ = unsafe { result::module::unload(self.raw) };
        }
    }
}

impl Module {
    /// Loads the bytes of a cubin into the context.
    pub(crate) fn load(context: &Arc<Context>, cubin_bytes: &[u8]) -> Result<Module> {
        if !cubin_bytes.starts_with(b"\x7fELF") {
            let what = format!("a cubin of {} bytes that is not an ELF file", cubin_bytes.len());
            return Err(Error::Shape { what });
        }
        context.bind()?;
        // SAFETY: the image is a whole ELF file in memory for the length of the call.
        let raw = unsafe { result::module::load_data(cubin_bytes.as_ptr().cast()) };
        let raw = checked("cuModuleLoadData", raw)?;
        let overlaps = context.compute_capability_major()? >= 9;
        Ok(Module { loaded: Arc::new(Loaded { raw, context: context.clone(), overlaps }) })
    }

    /// An entry point by name.
    pub fn entry(&self, name: &str) -> Result<Function> {
        self.loaded.context.bind()?;
        let c_name = CString::new(name)
            .map_err(|_| Error::Shape { what: format!("entry name {name:?} holds a NUL") })?;
        // SAFETY: the module is loaded.
        let raw = unsafe { result::module::get_function(self.loaded.raw, c_name) };
        let raw = checked("cuModuleGetFunction", raw).map_err(|error| match error {
            Error::Driver { call, reason } => {
                Error::Driver { call, reason: format!("{name}: {reason}") }
            }
            other => other,
        })?;
        let mut function =
            Function { raw, name: name.to_string(), loaded: self.loaded.clone(), static_shared: 0 };
        function.static_shared = function.static_shared_bytes()?;
        Ok(function)
    }
}

/// An entry point of a loaded cubin.
#[derive(Debug, Clone)]
pub struct Function {
    raw: sys::CUfunction,
    name: String,
    loaded: Arc<Loaded>,
    /// Static shared memory of a block in bytes.
    static_shared: u32,
}

// SAFETY: a CUfunction is a handle into a module that `loaded` keeps alive.
unsafe impl Send for Function {}
// SAFETY: the driver serialises concurrent calls on one function.
unsafe impl Sync for Function {}

impl Function {
    /// Name of the entry point.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Registers of a thread.
    pub fn registers(&self) -> Result<u32> {
        self.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)
    }

    /// Local memory of a thread in bytes; more than 0 means a stack frame or spills.
    pub fn local_bytes(&self) -> Result<u32> {
        self.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)
    }

    /// Static shared memory of a block in bytes.
    pub fn static_shared_bytes(&self) -> Result<u32> {
        self.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
    }

    /// Most threads of a block for this entry.
    pub fn max_threads(&self) -> Result<u32> {
        self.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)
    }

    /// Dynamic shared memory that a block may ask for at present, in bytes.
    pub fn max_dynamic_shared_bytes(&self) -> Result<u32> {
        self.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
    }

    /// Allows that much dynamic shared memory; needed where it and the static one are more than 48 KiB.
    pub fn set_max_dynamic_shared_bytes(&self, bytes: u32) -> Result<()> {
        self.loaded.context.bind()?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is valid; the driver refuses what the device cannot give.
        let outcome =
            unsafe { result::function::set_function_attribute(self.raw, attribute, bytes as i32) };
        checked("cuFuncSetAttribute", outcome)
    }

    /// Blocks of this entry that fit on one multiprocessor at once.
    pub fn blocks_per_sm(&self, threads: u32, shared_bytes: u32) -> Result<u32> {
        self.loaded.context.bind()?;
        // SAFETY: the function is valid.
        let blocks = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(
                self.raw,
                threads as i32,
                shared_bytes as usize,
            )
        };
        let call = "cuOccupancyMaxActiveBlocksPerMultiprocessor";
        Ok(u32::try_from(checked(call, blocks)?).unwrap_or(0))
    }

    fn attribute(&self, attribute: sys::CUfunction_attribute) -> Result<u32> {
        self.loaded.context.bind()?;
        // SAFETY: the function is valid and the attribute is one of the enumeration.
        let value = unsafe { result::function::get_function_attribute(self.raw, attribute) };
        Ok(u32::try_from(checked("cuFuncGetAttribute", value)?).unwrap_or(0))
    }

    /// Checks that the memory that a launch is to use is of the GPU that the kernel was loaded on.
    pub(crate) fn same_context<'b>(
        &self,
        buffers: impl IntoIterator<Item = &'b Buffer>,
    ) -> Result<()> {
        let here = &self.loaded.context;
        if buffers.into_iter().all(|buffer| Arc::ptr_eq(buffer.context(), here)) {
            return Ok(());
        }
        let what = format!("{}: memory and kernel belong to different gpus", self.name);
        Err(Error::Shape { what })
    }

    /// Enqueues the kernel with `params` as its only argument.
    ///
    /// # Safety
    /// Every address in `params` is valid for what the kernel does with it until the stream has
    /// passed the launch, and `P` is the parameter type of this entry.
    pub(crate) unsafe fn launch<P: KernelParams>(
        &self,
        stream: &CudaStream,
        grid: Grid,
        params: &P,
    ) -> Result<()> {
        let (x, y) = grid.blocks;
        if x == 0 || y == 0 || y > 65_535 || x > i32::MAX as u32 || grid.threads == 0 {
            let what = format!("{}: a grid of {x} x {y} blocks of {}", self.name, grid.threads);
            return Err(Error::Shape { what });
        }
        stream.same_context(&self.loaded.context)?;
        stream.bind()?;
        let shared = grid.shared_bytes.saturating_add(self.static_shared);
        if grid.shared_bytes > 0 && shared > SHARED_WITHOUT_OPT_IN {
            self.set_max_dynamic_shared_bytes(grid.shared_bytes)?;
        }
        let mut early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: 1,
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared_bytes,
            hStream: stream.raw(),
            attrs: &raw mut early,
            numAttrs: u32::from(grid.early && self.loaded.overlaps),
        };
        flight::note(|| format!("kernel {} {x}x{y} blocks of {}", self.name, grid.threads));
        let mut value = *params;
        let mut arguments = [(&raw mut value).cast::<c_void>()];
        // SAFETY: the driver copies the argument during the call; the rest is the caller's word.
        let outcome = unsafe {
            sys::cuLaunchKernelEx(&config, self.raw, arguments.as_mut_ptr(), std::ptr::null_mut())
        };
        checked("cuLaunchKernelEx", outcome.result()).map_err(|error| match error {
            Error::Driver { call, reason } => {
                Error::Driver { call, reason: format!("{}: {reason}", self.name) }
            }
            other => other,
        })
    }
}
