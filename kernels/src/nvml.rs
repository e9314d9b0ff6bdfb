//! Inventory and health of the GPUs through NVML. Reads only: nothing is ever set.
//!
//! Everything that reads a device needs a machine with a driver; what can be decided without one
//! ([`visible`], [`ordered_pairs`], [`decode_throttle`]) is a pure function with its own tests.
//!
//! Invariants:
//! - GPUs are numbered by PCI bus, as CUDA does under `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
//! - A value that the machine does not tell is `None`, never zero. A GPU that does not answer at
//!   all is an error that names it.
//! - NVML shows every GPU that the cgroup allows; [`visible`] applies `CUDA_VISIBLE_DEVICES`.

mod telemetry;
mod visibility;

use std::time::Instant;

use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, P2pCapabilitiesIndex, P2pStatus, TopologyLevel,
};
use nvml_wrapper::enum_wrappers::nv_link::{ErrorCounter, IntDeviceType};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::struct_wrappers::device::FieldValueSample;
use nvml_wrapper::{Device, NvLink, Nvml};
use nvml_wrapper_sys::bindings::{NVML_NVLINK_MAX_LINKS, field_id, nvmlFieldValue_t};

use crate::libraries::{self, Library};
use crate::{Error, Result};

pub use telemetry::{Sample, Sampler, Series, XidEvent, XidWatch, decode_throttle};
pub use visibility::{ordered_pairs, visible};

/// What the machine has, read once.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    /// Kernel driver, for example `580.95.05`.
    pub driver_version: String,
    /// Newest CUDA version that the driver serves, `major.minor`.
    pub cuda_driver_version: String,
    /// The NVML library.
    pub nvml_version: String,
    /// In the order of their PCI bus.
    pub gpus: Vec<GpuInfo>,
    /// GPUs that exist but may not be opened from here: NVML's indices.
    pub denied: Vec<u32>,
    /// Every ordered pair of [`Inventory::gpus`], see [`ordered_pairs`].
    pub p2p: Vec<P2pPair>,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuInfo {
    /// Position in the order of PCI buses.
    pub index: usize,
    /// `GPU-...`, the name that survives a reboot.
    pub uuid: String,
    /// For example `NVIDIA H200`.
    pub name: String,
    /// `domain:bus:device.function` in hexadecimal.
    pub pci_bus_id: String,
    /// Four lower-case hex digits, for example `2335`: the key of a board.
    pub pci_device_id: String,
    /// `(major, minor)`.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors; where only cores are told, cores by cores per multiprocessor.
    pub sm_count: Option<u32>,
    /// Installed memory, the driver's share included.
    pub memory_total_bytes: u64,
    /// ECC is on now.
    pub ecc_enabled: Option<bool>,
    /// The limit in force.
    pub power_limit_w: Option<f64>,
    /// The limit that the board boots with.
    pub power_default_w: Option<f64>,
    /// Highest SM clock.
    pub max_sm_clock_mhz: Option<u32>,
    /// Highest memory clock; two transfers a cycle.
    pub max_memory_clock_mhz: Option<u32>,
    /// Width of the memory bus.
    pub memory_bus_width_bits: Option<u32>,
    /// PCIe generation now; an idle link may be slower than it can.
    pub pcie_gen: Option<u32>,
    /// PCIe lanes now.
    pub pcie_width: Option<u32>,
    /// Highest PCIe generation of this GPU in this machine.
    pub pcie_gen_max: Option<u32>,
    /// Most PCIe lanes of this GPU in this machine.
    pub pcie_width_max: Option<u32>,
    /// MIG is on now; `None` where the board has no MIG.
    pub mig_enabled: Option<bool>,
    /// Persistence mode is on.
    pub persistence: Option<bool>,
    /// Firmware version.
    pub vbios: Option<String>,
    /// NVLinks that the GPU has, up or down.
    pub links: Vec<NvLinkInfo>,
    /// Error counters.
    pub health: Health,
    /// Processes with a compute context on the GPU, as far as this namespace shows them.
    pub processes: Vec<Process>,
}

/// One NVLink of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvLinkInfo {
    /// Number of the link on its GPU.
    pub link: u32,
    /// The link is up.
    pub active: bool,
    /// MB/s (1e6) one way, for example 26562 on an H200; `None` for a link that is down.
    pub speed_mbps: Option<u32>,
    /// NVML's number of the NVLink generation.
    pub version: Option<u32>,
    /// Kind and bus of the far end, for example `switch 00000000:07:00.0`; `None` where a
    /// virtual machine hides it.
    pub remote: Option<String>,
}

/// A process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process id, in the driver's namespace.
    pub pid: u32,
    /// File name of the executable, without its folders.
    pub name: Option<String>,
    /// Device memory in use.
    pub used_bytes: Option<u64>,
}

/// Error counters of one GPU. `None`: the machine does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Uncorrected ECC errors since the driver was loaded.
    pub ecc_uncorrected_volatile: Option<u64>,
    /// Uncorrected ECC errors in the life of the board.
    pub ecc_uncorrected_aggregate: Option<u64>,
    /// Corrected ECC errors since the driver was loaded.
    pub ecc_corrected_volatile: Option<u64>,
    /// Rows of memory that were replaced.
    pub remapped_rows: RemappedRows,
    /// NVLink errors, each kind summed over the active links.
    pub nvlink_errors: NvLinkErrors,
    /// PCIe replays since the last reset.
    pub pcie_replay: Option<u64>,
}

/// Rows of memory that were replaced in the life of the board.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemappedRows {
    /// For corrected errors.
    pub correctable: Option<u64>,
    /// For uncorrected errors.
    pub uncorrectable: Option<u64>,
    /// 1: a replacement waits for a reset.
    pub pending: Option<u64>,
    /// 1: a replacement has failed.
    pub failure: Option<u64>,
}

/// NVLink errors by kind. A sum is `None` unless every active link tells its part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NvLinkErrors {
    /// Packets sent again.
    pub replay: Option<u64>,
    /// Links brought up again.
    pub recovery: Option<u64>,
    /// Checksum errors in flow control.
    pub crc_flit: Option<u64>,
    /// Checksum errors in data.
    pub crc_data: Option<u64>,
}

/// What one GPU can do to another. Words are `ok` or the reason why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct P2pPair {
    /// [`GpuInfo::index`] of the GPU that acts.
    pub from: usize,
    /// [`GpuInfo::index`] of the GPU acted upon.
    pub to: usize,
    /// Reads.
    pub read: Option<&'static str>,
    /// Writes.
    pub write: Option<&'static str>,
    /// Over NVLink.
    pub nvlink: Option<&'static str>,
    /// Atomics.
    pub atomics: Option<&'static str>,
    /// The nearest common point of their PCIe paths, for example `numa node`.
    pub topology: Option<&'static str>,
}

/// NVML, initialised. One a process is enough; threads share it in an `Arc`.
#[derive(Debug)]
pub struct Session {
    nvml: Nvml,
    start: Instant,
}

/// Initialises NVML, from where the loader finds it or from a driver folder.
///
/// Errors: [`Error::LibraryMissing`] without the library, [`Error::Nvml`] without a driver.
pub fn init() -> Result<Session> {
    let started = match Nvml::init() {
        Err(NvmlError::LibloadingError(_)) => init_from_file()?,
        other => other,
    };
    let nvml = started.map_err(|error| failed("nvmlInit_v2", error))?;
    Ok(Session { nvml, start: Instant::now() })
}

/// The second try: NVML in a folder that the loader does not look into.
fn init_from_file() -> Result<std::result::Result<Nvml, NvmlError>> {
    let found = libraries::find(None).into_iter().find(|found| found.library == Library::Nvml);
    match found.and_then(|found| found.path) {
        Some(path) => Ok(Nvml::builder().lib_path(path.as_os_str()).init()),
        None => libraries::require(Library::Nvml).map(|()| Nvml::init()),
    }
}

impl Session {
    /// The kernel driver's version.
    pub fn driver_version(&self) -> Result<String> {
        self.nvml.sys_driver_version().map_err(|error| failed("nvmlSystemGetDriverVersion", error))
    }

    /// Reads the whole machine. Takes tens of milliseconds a GPU.
    ///
    /// Errors: [`Error::Nvml`] that names the GPU which does not answer.
    pub fn inventory(&self) -> Result<Inventory> {
        let cuda = self.nvml.sys_cuda_driver_version();
        let cuda = cuda.map_err(|error| failed("nvmlSystemGetCudaDriverVersion_v2", error))?;
        let nvml_version = self.nvml.sys_nvml_version();
        let (devices, denied) = self.devices()?;
        let gpus = devices
            .iter()
            .enumerate()
            .map(|(index, device)| {
                gpu_info(index, device).map_err(|error| failed_on("reading", index, error))
            })
            .collect::<Result<Vec<GpuInfo>>>()?;
        let p2p = ordered_pairs(gpus.len())
            .into_iter()
            .map(|(from, to)| {
                p2p_pair((from, &devices[from]), (to, &devices[to]))
                    .map_err(|error| failed_on("nvmlDeviceGetP2PStatus", from, error))
            })
            .collect::<Result<Vec<P2pPair>>>()?;
        Ok(Inventory {
            driver_version: self.driver_version()?,
            cuda_driver_version: format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
            nvml_version: nvml_version
                .map_err(|error| failed("nvmlSystemGetNVMLVersion", error))?,
            gpus,
            denied,
            p2p,
        })
    }

    /// The error counters of one GPU.
    pub fn health(&self, uuid: &str) -> Result<Health> {
        let device = self.device(uuid)?;
        health(&device).map_err(|error| failed_on("error counters", uuid, error))
    }

    /// Power, clocks, temperatures and limits of one GPU, now.
    pub fn sample(&self, uuid: &str) -> Result<Sample> {
        let device = self.device(uuid)?;
        telemetry::read(self.start, &device).map_err(|error| failed_on("sample", uuid, error))
    }

    /// Bytes of one GPU's memory that are in use, by all processes and the driver, now.
    pub fn memory_used(&self, uuid: &str) -> Result<u64> {
        let told = self.device(uuid)?.memory_info();
        Ok(told.map_err(|error| failed_on("nvmlDeviceGetMemoryInfo", uuid, error))?.used)
    }

    fn device(&self, uuid: &str) -> Result<Device<'_>> {
        let device = self.nvml.device_by_uuid(uuid);
        device.map_err(|error| failed_on("nvmlDeviceGetHandleByUUID", uuid, error))
    }

    /// Handles in the order of their PCI bus, and the indices of those that are denied.
    fn devices(&self) -> Result<(Vec<Device<'_>>, Vec<u32>)> {
        let count = self.nvml.device_count();
        let count = count.map_err(|error| failed("nvmlDeviceGetCount_v2", error))?;
        let (mut devices, mut denied) = (Vec::new(), Vec::new());
        for index in 0..count {
            let opened = self.nvml.device_by_index(index);
            let placed = opened.and_then(|device| Ok((device.pci_info()?, device)));
            match placed {
                Ok((pci, device)) => devices.push(((pci.domain, pci.bus, pci.device), device)),
                Err(NvmlError::NoPermission | NvmlError::OperatingSystem) => denied.push(index),
                Err(error) => {
                    return Err(failed_on("nvmlDeviceGetHandleByIndex_v2", index, error));
                }
            }
        }
        devices.sort_by_key(|(place, _)| *place);
        Ok((devices.into_iter().map(|(_, device)| device).collect(), denied))
    }
}

fn failed(call: &'static str, error: NvmlError) -> Error {
    Error::Nvml { call, reason: error.to_string() }
}

/// [`failed`], with the GPU's index or UUID.
fn failed_on(call: &'static str, gpu: impl std::fmt::Display, error: NvmlError) -> Error {
    Error::Nvml { call, reason: format!("gpu {gpu}: {error}") }
}

type Answer<T> = std::result::Result<T, NvmlError>;

/// `None` where the machine does not tell a value; an error where the GPU itself is in trouble.
fn told<T>(answer: Answer<T>) -> Answer<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(
            NvmlError::NotSupported
            | NvmlError::NoPermission
            | NvmlError::InvalidArg
            | NvmlError::NotFound
            | NvmlError::NoData
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::UnexpectedVariant(_)
            | NvmlError::Utf8Error(_)
            | NvmlError::Unknown,
        ) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Milliwatts to watts.
fn watts(milliwatts: Option<u32>) -> Option<f64> {
    milliwatts.map(|milliwatts| f64::from(milliwatts) / 1e3)
}

fn gpu_info(index: usize, device: &Device) -> Answer<GpuInfo> {
    let pci = device.pci_info()?;
    let capability = device.cuda_compute_capability()?;
    let compute_capability = (capability.major as u32, capability.minor as u32);
    Ok(GpuInfo {
        index,
        uuid: device.uuid()?,
        name: device.name()?,
        pci_bus_id: pci.bus_id,
        // The high half is the device, the low half the vendor.
        pci_device_id: format!("{:04x}", pci.pci_device_id >> 16),
        compute_capability,
        sm_count: sm_count(device, compute_capability)?,
        memory_total_bytes: device.memory_info()?.total,
        ecc_enabled: told(device.is_ecc_enabled())?.map(|state| state.currently_enabled),
        power_limit_w: watts(told(device.enforced_power_limit())?),
        power_default_w: watts(told(device.power_management_limit_default())?),
        max_sm_clock_mhz: told(device.max_clock_info(Clock::SM))?,
        max_memory_clock_mhz: told(device.max_clock_info(Clock::Memory))?,
        memory_bus_width_bits: told(device.memory_bus_width())?,
        pcie_gen: told(device.current_pcie_link_gen())?,
        pcie_width: told(device.current_pcie_link_width())?,
        pcie_gen_max: told(device.max_pcie_link_gen())?,
        pcie_width_max: told(device.max_pcie_link_width())?,
        mig_enabled: told(device.mig_mode())?.map(|mode| mode.current == 1),
        persistence: told(device.is_in_persistent_mode())?,
        vbios: told(device.vbios_version())?,
        links: links(device)?,
        health: health(device)?,
        processes: processes(device)?,
    })
}

/// The attribute where NVML gives it; else the cores by the cores of one multiprocessor
/// (64 in compute capability 8.0, 128 in every other since 8.6: CUDA C++ programming guide).
fn sm_count(device: &Device, compute_capability: (u32, u32)) -> Answer<Option<u32>> {
    if let Some(attributes) = told(device.attributes())? {
        return Ok(Some(attributes.multiprocessor_count));
    }
    let cores_each = match compute_capability {
        (8, 0) => 64,
        (8.., _) => 128,
        _ => return Ok(None),
    };
    Ok(told(device.num_cores())?.map(|cores| cores / cores_each))
}

/// The links that exist; NVML refuses the numbers of those that do not.
fn links(device: &Device) -> Answer<Vec<NvLinkInfo>> {
    let mut links = Vec::new();
    for number in 0..NVML_NVLINK_MAX_LINKS {
        let link = device.link_wrapper_for(number);
        let Some(active) = told(link.is_active())? else { continue };
        links.push(NvLinkInfo {
            link: number,
            active,
            speed_mbps: if active { link_speed(device, number)? } else { None },
            version: told(link.version())?,
            remote: link_remote(&link, number)?,
        });
    }
    Ok(links)
}

/// The field with the link as its scope, else the one speed common to all links. Both numbers
/// lie below 251, so the renumbering of driver 580.82 does not touch them; the wrapper cannot
/// set a scope.
fn link_speed(device: &Device, link: u32) -> Answer<Option<u32>> {
    let ask = |field: u32, scope: u32| {
        // SAFETY: a struct of integers and a union of them; all zero is a value of it.
        let blank: nvmlFieldValue_t = unsafe { std::mem::zeroed() };
        nvmlFieldValue_t { fieldId: field, scopeId: scope, ..blank }
    };
    let mut fields = [
        ask(field_id::NVML_FI_DEV_NVLINK_GET_SPEED, link),
        ask(field_id::NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON, 0),
    ];
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetFieldValues.as_ref());
    let Some(call) = told(call)? else { return Ok(None) };
    // SAFETY: the handle lives as long as the session; the count is that of the array.
    let status = unsafe { call(device.handle(), fields.len() as i32, fields.as_mut_ptr()) };
    if told(nvml_try(status))?.is_none() {
        return Ok(None);
    }
    let value =
        |field: nvmlFieldValue_t| match FieldValueSample::try_from(field).ok()?.value.ok()? {
            SampleValue::U32(value) => Some(value),
            SampleValue::U64(value) => u32::try_from(value).ok(),
            SampleValue::F64(_) | SampleValue::I64(_) => None,
        };
    Ok(fields.into_iter().filter_map(value).find(|&speed| speed > 0))
}

fn link_remote(link: &NvLink, number: u32) -> Answer<Option<String>> {
    let bus = told(link.remote_pci_info())?.map(|pci| pci.bus_id);
    let Some(bus) = bus.filter(|bus| !bus.to_ascii_uppercase().starts_with("FFFFFFFF")) else {
        return Ok(None);
    };
    let kind = match told(link.remote_device_type(number))? {
        Some(IntDeviceType::Gpu) => "gpu ",
        Some(IntDeviceType::Switch) => "switch ",
        Some(IntDeviceType::Ibmnpu) => "npu ",
        Some(IntDeviceType::Unknown) | None => "",
    };
    Ok(Some(format!("{kind}{bus}")))
}

fn health(device: &Device) -> Answer<Health> {
    let ecc = |kind, counter| told(device.total_ecc_errors(kind, counter));
    Ok(Health {
        ecc_uncorrected_volatile: ecc(MemoryError::Uncorrected, EccCounter::Volatile)?,
        ecc_uncorrected_aggregate: ecc(MemoryError::Uncorrected, EccCounter::Aggregate)?,
        ecc_corrected_volatile: ecc(MemoryError::Corrected, EccCounter::Volatile)?,
        remapped_rows: remapped_rows(device)?,
        nvlink_errors: NvLinkErrors {
            replay: link_errors(device, ErrorCounter::DlReplay)?,
            recovery: link_errors(device, ErrorCounter::DlRecovery)?,
            crc_flit: link_errors(device, ErrorCounter::DlCrcFlit)?,
            crc_data: link_errors(device, ErrorCounter::DlCrcData)?,
        },
        pcie_replay: told(device.pcie_replay_counter())?.map(u64::from),
    })
}

/// `nvmlDeviceGetRemappedRows`, which the wrapper lacks.
fn remapped_rows(device: &Device) -> Answer<RemappedRows> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetRemappedRows.as_ref());
    let Some(call) = told(call)? else { return Ok(RemappedRows::default()) };
    let (mut correctable, mut uncorrectable, mut pending, mut failure) = (0, 0, 0, 0);
    // SAFETY: the handle lives as long as the session; the call writes four integers.
    let status = unsafe {
        call(device.handle(), &mut correctable, &mut uncorrectable, &mut pending, &mut failure)
    };
    if told(nvml_try(status))?.is_none() {
        return Ok(RemappedRows::default());
    }
    Ok(RemappedRows {
        correctable: Some(u64::from(correctable)),
        uncorrectable: Some(u64::from(uncorrectable)),
        pending: Some(u64::from(pending)),
        failure: Some(u64::from(failure)),
    })
}

/// The sum over the active links; `None` without one or where one does not tell.
fn link_errors(device: &Device, counter: ErrorCounter) -> Answer<Option<u64>> {
    let mut sum = None;
    for number in 0..NVML_NVLINK_MAX_LINKS {
        let link = device.link_wrapper_for(number);
        if told(link.is_active())? != Some(true) {
            continue;
        }
        match told(link.error_counter(counter))? {
            Some(errors) => sum = Some(sum.unwrap_or(0) + errors),
            None => return Ok(None),
        }
    }
    Ok(sum)
}

fn processes(device: &Device) -> Answer<Vec<Process>> {
    const NAME_BYTES: usize = 1024;
    let mut listed = told(device.running_compute_processes())?.unwrap_or_default();
    listed.extend(told(device.mps_running_compute_processes())?.unwrap_or_default());
    listed.sort_by_key(|process| process.pid);
    listed.dedup_by_key(|process| process.pid);
    let processes = listed.into_iter().map(|process| {
        let path = told(device.nvml().sys_process_name(process.pid, NAME_BYTES))?;
        let name = path.and_then(|path| path.rsplit('/').next().map(str::to_string));
        Ok(Process {
            pid: process.pid,
            name: name.filter(|name| !name.is_empty()),
            used_bytes: match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            },
        })
    });
    processes.collect()
}

fn p2p_pair(from: (usize, &Device), to: (usize, &Device)) -> Answer<P2pPair> {
    let status = |what| told(from.1.p2p_status(to.1, what).map(p2p_word));
    Ok(P2pPair {
        from: from.0,
        to: to.0,
        read: status(P2pCapabilitiesIndex::Read)?,
        write: status(P2pCapabilitiesIndex::Write)?,
        nvlink: status(P2pCapabilitiesIndex::NvLink)?,
        atomics: status(P2pCapabilitiesIndex::Atomics)?,
        topology: told(from.1.nvml().topology_common_ancestor(from.1, to.1))?.map(topology_word),
    })
}

fn p2p_word(status: P2pStatus) -> &'static str {
    match status {
        P2pStatus::Ok => "ok",
        P2pStatus::ChipsetNotSupported => "chipset not supported",
        P2pStatus::GpuNotSupported => "gpu not supported",
        P2pStatus::IohTopologyNotSupported => "topology not supported",
        P2pStatus::DisabledByRegkey => "disabled by regkey",
        P2pStatus::NotSupported => "not supported",
        P2pStatus::Unknown => "unknown",
    }
}

fn topology_word(level: TopologyLevel) -> &'static str {
    match level {
        TopologyLevel::Internal => "same board",
        TopologyLevel::Single => "one pcie switch",
        TopologyLevel::Multiple => "several pcie switches",
        TopologyLevel::HostBridge => "host bridge",
        TopologyLevel::Node => "numa node",
        TopologyLevel::System => "system",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_machine_does_not_tell_is_none_and_a_lost_gpu_is_an_error() {
        assert_eq!(told(Ok(0)).unwrap(), Some(0));
        assert_eq!(told::<u32>(Err(NvmlError::NotSupported)).unwrap(), None);
        assert!(told::<u32>(Err(NvmlError::GpuLost)).is_err());
        assert_eq!(watts(Some(700_500)), Some(700.5));
        assert_eq!(watts(None), None);
    }

    /// Reads the machine it runs on; says so where there is none to read.
    #[test]
    fn a_real_machine_is_read_whole() {
        let session = match init() {
            Ok(session) => Arc::new(session),
            Err(error) => return println!("skipped: {error}"),
        };
        let inventory = session.inventory().unwrap();
        println!("{inventory:#?}");
        let uuids: Vec<String> = inventory.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        assert_eq!(inventory.p2p.len(), uuids.len() * uuids.len().saturating_sub(1));
        let sampler = Sampler::start(Arc::clone(&session), &uuids, Duration::from_millis(20));
        let watch = XidWatch::start(Arc::clone(&session), &uuids);
        std::thread::sleep(Duration::from_millis(300));
        println!("xid: {:?}", watch.stop());
        let series = sampler.stop();
        for (gpu, series) in inventory.gpus.iter().zip(&series) {
            assert_eq!(series.failure, None);
            println!("{} samples, first {:?}", series.samples.len(), series.samples.first());
            assert!(series.samples.len() >= 2, "{}", gpu.name);
            assert_eq!(session.health(&gpu.uuid).unwrap(), gpu.health);
            assert!(gpu.memory_total_bytes > 0 && gpu.pci_device_id.len() == 4);
        }
    }
}
