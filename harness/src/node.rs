//! What the runner may know of a machine, and no more. Implemented by the suites.

use std::collections::BTreeMap;
use std::path::Path;

use crate::evidence::Device;

/// A GPU of the node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeGpu {
    /// Its UUID; never leaves the machine.
    pub uuid: String,
    /// What evidence says of it.
    pub device: Device,
    /// Other processes that use it, as text for the operator.
    pub users: Vec<String>,
}

/// The machine as the runner sees it.
pub trait Node: Sync {
    /// An NVIDIA device is visible to this process, healthy or not.
    fn device_visible(&self) -> bool;

    /// GPUs by PCI bus, after CUDA_VISIBLE_DEVICES. Empty where no device is visible.
    fn gpus(&self) -> Result<Vec<NodeGpu>, String>;

    /// Environment that every child gets besides its own GPUs: library paths, NCCL settings. `dir`
    /// is a folder of the run in which files may be laid.
    fn child_environment(&self, dir: &Path) -> Result<BTreeMap<String, String>, String>;

    /// Starts to watch for critical Xids on the GPUs. `None` where the machine cannot tell.
    fn watch(&self, uuids: &[String]) -> Option<Box<dyn XidWatch>>;

    /// Id of the case that proves a GPU usable after another case failed on it.
    fn probe_case(&self) -> &'static str;

    /// Digest of a kernel's source and options for the architecture in evidence, for staleness.
    fn kernel_source_sha256(&self, kernel: &str, architecture: &str) -> Option<String>;
}

/// Critical Xids since the watch began.
pub trait XidWatch: Send {
    /// Xids seen so far on the GPU, oldest first.
    fn seen(&self, uuid: &str) -> Vec<u64>;
}
