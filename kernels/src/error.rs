//! What can go wrong on a device, in one type.

/// Errors of the device layer. Texts are lowercase fragments that name the call or the value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A library of the CUDA stack is not on this machine.
    #[error("{library} not found ({searched})")]
    LibraryMissing {
        /// File name that was looked for, for example `libnvrtc.so.13`.
        library: &'static str,
        /// Where it was looked for.
        searched: String,
    },
    /// The loader refused a library file that was found.
    #[error("{path} cannot be loaded: {reason}")]
    Load {
        /// The file.
        path: String,
        /// The loader's own text.
        reason: String,
    },
    /// A driver call failed. The context may be poisoned.
    #[error("{call} failed: {reason}")]
    Driver {
        /// The CUDA driver call.
        call: &'static str,
        /// Error name and text of the driver.
        reason: String,
    },
    /// NVRTC refused a source; the log names its lines.
    #[error("{kernel} does not compile for {architecture}:\n{log}")]
    Compile {
        /// Name of the kernel source.
        kernel: String,
        /// Target, for example `sm_90a`.
        architecture: String,
        /// The compiler's log.
        log: String,
    },
    /// A kernel that must keep its registers spills them to memory.
    #[error("{kernel}::{entry} spills {bytes} bytes on {architecture}")]
    Spill {
        /// Name of the kernel source.
        kernel: String,
        /// Target, for example `sm_90a`.
        architecture: String,
        /// The entry point.
        entry: String,
        /// Bytes of spill stores and spill loads together.
        bytes: u64,
    },
    /// cuBLASLt failed or offers no algorithm for the request.
    #[error("cublaslt: {call} failed: {reason}")]
    BlasLt {
        /// The cuBLASLt call or step.
        call: &'static str,
        /// Status name.
        reason: String,
    },
    /// NCCL failed.
    #[error("nccl: {call} failed: {reason}")]
    Nccl {
        /// The NCCL call.
        call: &'static str,
        /// NCCL's own text.
        reason: String,
    },
    /// NVML failed.
    #[error("nvml: {call} failed: {reason}")]
    Nvml {
        /// The NVML call.
        call: &'static str,
        /// NVML's own text.
        reason: String,
    },
    /// A tensor that must be finite is not.
    #[error("{tensor}: row {row}, column {column} is no finite number")]
    NotFinite {
        /// Its name.
        tensor: String,
        /// Row of the first such element.
        row: u64,
        /// Its column.
        column: u32,
    },
    /// A shape, size or index that the kernel cannot take; nothing was launched.
    #[error("{what}")]
    Shape {
        /// What is wrong, with the value.
        what: String,
    },
    /// No arithmetic that was asked for may be had ([`crate::auto`]); nothing was launched.
    #[error(transparent)]
    Refused(#[from] crate::auto::Refusal),
    /// An allocation would pass the limit that was set ([`crate::memory::Ledger`]); nothing was allocated.
    #[error("{asked} bytes beside {live} of at most {limit}")]
    OverLimit {
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes that are allocated.
        live: u64,
        /// The limit.
        limit: u64,
    },
    /// By the formula of its sizes a pass does not fit into what is free; nothing was made.
    #[error(
        "{:.2} GiB and {:.0} beside them do not fit into {:.2}",
        gib(*.needed), gib(*.beside), gib(*.free)
    )]
    DoesNotFit {
        /// Bytes by the formula.
        needed: u64,
        /// Bytes that are to stay free.
        beside: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A checkpoint is not what a model is made from.
    #[error("{path}: {what}")]
    Checkpoint {
        /// The file.
        path: String,
        /// What is wrong, with tensor, shape or byte.
        what: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// Result of the device layer.
pub type Result<T> = std::result::Result<T, Error>;
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}
