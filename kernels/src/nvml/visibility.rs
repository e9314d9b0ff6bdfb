//! Which GPUs are ours, decided without a device.

use super::{GpuInfo, Inventory};
use crate::{Error, Result};

/// Applies the value of `CUDA_VISIBLE_DEVICES` to an inventory and returns indices into
/// [`Inventory::gpus`] in CUDA's order. `None` (not set) is every GPU, an empty text is none.
///
/// As the CUDA programming guide has it, entries are indices (here in the order of PCI buses:
/// set `CUDA_DEVICE_ORDER=PCI_BUS_ID` for children) or UUIDs or prefixes of UUIDs that fit one
/// GPU alone, and the first entry that names no GPU ends the list.
///
/// Errors: [`Error::Shape`] for a MIG instance, which this suite does not measure, and for a GPU
/// that is named twice.
pub fn visible(inventory: &Inventory, env: Option<&str>) -> Result<Vec<usize>> {
    let gpus = &inventory.gpus;
    let Some(list) = env else { return Ok((0..gpus.len()).collect()) };
    let mut chosen = Vec::new();
    for entry in list.split(',').map(str::trim) {
        if entry.starts_with("MIG-") {
            let what = format!("CUDA_VISIBLE_DEVICES names the MIG instance {entry}");
            return Err(Error::Shape { what });
        }
        let Some(index) = named(gpus, entry) else { break };
        if chosen.contains(&index) {
            let what = format!("CUDA_VISIBLE_DEVICES names gpu {index} twice");
            return Err(Error::Shape { what });
        }
        chosen.push(index);
    }
    Ok(chosen)
}

/// The one GPU that an entry names.
fn named(gpus: &[GpuInfo], entry: &str) -> Option<usize> {
    if let Ok(index) = entry.parse::<usize>() {
        return (index < gpus.len()).then_some(index);
    }
    if !entry.starts_with("GPU-") {
        return None;
    }
    let mut fitting = gpus.iter().filter(|gpu| gpu.uuid.starts_with(entry));
    let (first, second) = (fitting.next()?, fitting.next());
    second.is_none().then_some(first.index)
}

/// Every `(from, to)` with two different GPUs of `count`, in order: `count * (count - 1)` pairs.
pub fn ordered_pairs(count: usize) -> Vec<(usize, usize)> {
    let others = |from: usize| (0..count).filter(move |&to| to != from).map(move |to| (from, to));
    (0..count).flat_map(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvml::Health;

    fn gpu(index: usize, uuid: &str) -> GpuInfo {
        GpuInfo {
            index,
            uuid: uuid.to_string(),
            name: "NVIDIA H200".to_string(),
            pci_bus_id: format!("00000000:{index:02x}:00.0"),
            pci_device_id: "2335".to_string(),
            compute_capability: (9, 0),
            sm_count: Some(132),
            memory_total_bytes: 1,
            ecc_enabled: None,
            power_limit_w: None,
            power_default_w: None,
            max_sm_clock_mhz: None,
            max_memory_clock_mhz: None,
            memory_bus_width_bits: None,
            pcie_gen: None,
            pcie_width: None,
            pcie_gen_max: None,
            pcie_width_max: None,
            mig_enabled: None,
            persistence: None,
            vbios: None,
            links: Vec::new(),
            health: Health::default(),
            processes: Vec::new(),
        }
    }

    fn select(env: Option<&str>) -> Result<Vec<usize>> {
        let inventory = Inventory {
            driver_version: String::new(),
            cuda_driver_version: String::new(),
            nvml_version: String::new(),
            gpus: vec![gpu(0, "GPU-aa11"), gpu(1, "GPU-aa22"), gpu(2, "GPU-bb33")],
            denied: Vec::new(),
            p2p: Vec::new(),
        };
        visible(&inventory, env)
    }

    #[track_caller]
    fn check(env: Option<&str>, expect: &[usize]) {
        assert_eq!(select(env).unwrap(), expect, "{env:?}");
    }

    #[test]
    fn unset_is_all_and_empty_is_none() {
        check(None, &[0, 1, 2]);
        check(Some(""), &[]);
    }

    #[test]
    fn indices_keep_the_order_of_the_list() {
        check(Some("2,0"), &[2, 0]);
        check(Some(" 1 , 2"), &[1, 2]);
    }

    #[test]
    fn uuids_and_their_prefixes() {
        check(Some("GPU-bb33,GPU-aa1"), &[2, 0]);
        check(Some("GPU-bb33-more"), &[]);
    }

    #[test]
    fn the_first_unknown_entry_ends_the_list() {
        check(Some("1,3,0"), &[1]);
        check(Some("0,-1,1"), &[0]);
        check(Some("NoDevFiles"), &[]);
        check(Some("2,GPU-aa,0"), &[2]);
    }

    #[test]
    fn mig_and_duplicates_are_refused() {
        assert!(select(Some("MIG-GPU-aa11/1/0")).unwrap_err().to_string().contains("MIG"));
        assert!(select(Some("0,GPU-aa11")).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn pairs_are_ordered_and_complete() {
        assert_eq!(ordered_pairs(0), []);
        assert_eq!(ordered_pairs(1), []);
        assert_eq!(ordered_pairs(3), [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(ordered_pairs(8).len(), 56);
    }
}
