//! This machine, as the runner may see it: NVML and the places of libraries, never CUDA.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use harness::digest::sha256_hex;
use harness::evidence::Device;
use harness::node::{Node, NodeGpu, XidWatch};
use kernels::libraries;
use kernels::nvml::{self, GpuInfo, Session};

use crate::environment;

/// The machine on which this process runs.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    /// Digests of kernel sources by name and architecture: sources do not change while this runs, and
    /// putting one together to hash it costs more than judging a claim.
    sources: Mutex<BTreeMap<(String, String), Option<String>>>,
}

impl Machine {
    /// `root` holds golden/, fixtures/ and perhaps a `.cuda` folder with a compiler.
    pub fn new(root: PathBuf) -> Machine {
        Machine { root, sources: Mutex::new(BTreeMap::new()) }
    }
}

impl Node for Machine {
    fn device_visible(&self) -> bool {
        let hidden = std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|list| list.is_empty());
        !hidden && Path::new("/dev/nvidiactl").exists()
            || nvml::init()
                .and_then(|session| session.inventory())
                .is_ok_and(|inventory| visible_gpus(&inventory).is_ok_and(|gpus| !gpus.is_empty()))
    }

    fn gpus(&self) -> Result<Vec<NodeGpu>, String> {
        let session = match nvml::init() {
            Ok(session) => session,
            Err(_) if !Path::new("/dev/nvidiactl").exists() => return Ok(Vec::new()),
            Err(error) => return Err(format!("a device is there, but {error}")),
        };
        let inventory = session.inventory().map_err(|error| error.to_string())?;
        visible_gpus(&inventory)
    }

    fn child_environment(&self, dir: &Path) -> Result<BTreeMap<String, String>, String> {
        let found = libraries::find(Some(&self.root));
        let shim = libraries::shim(&dir.join("lib"), &found)
            .map_err(|error| format!("{}: {error}", dir.display()))?;
        let mut path = shim.to_string_lossy().into_owned();
        if let Ok(inherited) = std::env::var("LD_LIBRARY_PATH") {
            path = format!("{path}:{inherited}");
        }
        let mut variables = environment::required();
        variables.insert("LD_LIBRARY_PATH".into(), path);
        Ok(variables)
    }

    fn watch(&self, uuids: &[String]) -> Option<Box<dyn XidWatch>> {
        let session = Arc::new(nvml::init().ok()?);
        let watch = nvml::XidWatch::start(session, uuids);
        watch.is_watching().then(|| Box::new(Watch { watch }) as Box<dyn XidWatch>)
    }

    fn probe_case(&self) -> &'static str {
        crate::env::PATTERN.id
    }

    fn kernel_source_sha256(&self, kernel: &str, architecture: &str) -> Option<String> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let known = sources.entry((kernel.to_owned(), architecture.to_owned()));
        known.or_insert_with(|| source_sha256(kernel, architecture)).clone()
    }
}

/// Digest of a kernel's source as it is today; none for a kernel that there is not.
fn source_sha256(kernel: &str, architecture: &str) -> Option<String> {
    let fixed = kernels::KERNELS.iter().find(|source| source.name == kernel).copied();
    let source = fixed.or_else(|| kernels::attention::variant::named(kernel))?;
    Some(kernels::jit::source_sha256(source, architecture))
}

struct Watch {
    watch: nvml::XidWatch,
}

impl XidWatch for Watch {
    fn seen(&self, uuid: &str) -> Vec<u64> {
        self.watch.seen(uuid).iter().map(|event| event.xid).collect()
    }
}

/// GPUs after `CUDA_VISIBLE_DEVICES`, numbered by PCI bus over the whole node.
fn visible_gpus(inventory: &nvml::Inventory) -> Result<Vec<NodeGpu>, String> {
    let list = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let indices = nvml::visible(inventory, list.as_deref()).map_err(|error| error.to_string())?;
    let chosen = indices.iter().filter_map(|index| inventory.gpus.get(*index));
    Ok(chosen
        .map(|info| NodeGpu { uuid: info.uuid.clone(), device: device(info), users: users(info) })
        .collect())
}

fn users(info: &GpuInfo) -> Vec<String> {
    let own = std::process::id();
    let others = info.processes.iter().filter(|process| process.pid != own);
    others
        .map(|process| match &process.name {
            Some(name) => format!("pid {} ({name})", process.pid),
            None => format!("pid {}", process.pid),
        })
        .collect()
}

/// What evidence says of a GPU.
pub fn device(info: &GpuInfo) -> Device {
    let (major, minor) = info.compute_capability;
    Device {
        gpu: info.index as u32,
        uuid_sha256: sha256_hex(info.uuid.as_bytes()),
        name: info.name.clone(),
        pci_device_id: info.pci_device_id.clone(),
        compute_capability: format!("{major}.{minor}"),
        memory_bytes: info.memory_total_bytes,
        power_limit_w: info.power_limit_w.unwrap_or_default(),
        sm_clock_max_mhz: info.max_sm_clock_mhz.unwrap_or_default(),
        memory_clock_max_mhz: info.max_memory_clock_mhz.unwrap_or_default(),
        memory_bus_bits: info.memory_bus_width_bits.unwrap_or_default(),
        ecc: info.ecc_enabled,
    }
}

/// NVML for telemetry; `None` where the machine has none, which the evidence then shows.
pub fn session() -> Option<Arc<Session>> {
    nvml::init().ok().map(Arc::new)
}
