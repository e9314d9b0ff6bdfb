//! The environment that every child gets, and the proof that it arrived.

use std::collections::BTreeMap;

/// NVLink multicast can put a shared host's GPUs out of service: it stays off everywhere.
const REQUIRED: &[(&str, &str)] = &[
    ("NCCL_NVLS_ENABLE", "0"),
    ("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1"),
    ("NVSHMEM_DISABLE_NVLS", "1"),
    ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
];

/// Variables that every child must see, with their values.
pub fn required() -> BTreeMap<String, String> {
    REQUIRED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Required variables that `seen` lacks or holds otherwise.
pub fn violations(seen: impl Fn(&str) -> Option<String>) -> Vec<&'static str> {
    let wrong = |(name, value): &&(&'static str, &str)| seen(name).as_deref() != Some(*value);
    REQUIRED.iter().filter(wrong).map(|(name, _)| *name).collect()
}

/// NCCL's variables as they are set, for the record. Values that hold a path are left out.
pub fn nccl() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| name.starts_with("NCCL_") && !value.contains('/'))
        .collect()
}

/// Variables that matter to what runs on a device, as they are set.
pub fn of_the_device() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| matters(name))
        .collect()
}

fn matters(name: &str) -> bool {
    const PREFIXES: [&str; 7] =
        ["CUDA_", "CUBLAS", "NVRTC_", "NCCL_", "NVSHMEM_", "TORCH_", "LD_LIBRARY_PATH"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_to_a_device() {
        assert!(matters("CUDA_VISIBLE_DEVICES") && matters("NCCL_NVLS_ENABLE"));
        assert!(!matters("HOME") && !matters("SSH_AUTH_SOCK"));
    }

    #[test]
    fn a_missing_or_different_variable_is_a_violation() {
        let all = required();
        assert!(violations(|name| all.get(name).cloned()).is_empty());
        let on = |name: &str| match name {
            "NCCL_NVLS_ENABLE" => Some("1".to_owned()),
            _ => all.get(name).cloned(),
        };
        assert_eq!(violations(on), ["NCCL_NVLS_ENABLE"]);
        assert_eq!(violations(|_| None).len(), REQUIRED.len());
    }
}
