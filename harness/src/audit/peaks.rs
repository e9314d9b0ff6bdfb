//! Physical peaks of GPUs by name, from `peaks.toml`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::document::{Block, Document};
use super::words;

/// One GPU. Rates are dense, links are counted in one direction.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gpu {
    pub names: Vec<String>,
    pub memory_gb: f64,
    pub memory_gb_source: String,
    pub hbm_gbps: f64,
    pub hbm_gbps_source: String,
    pub nvlink_gbps: f64,
    pub nvlink_gbps_source: String,
    pub tflops: BTreeMap<String, f64>,
    pub tflops_source: String,
    /// Peaks of HBM, in GB/s, by which shares are printed besides the highest.
    #[serde(default)]
    pub sheet_gbps: Vec<f64>,
    /// Peaks of arithmetic, in TFLOP/s, likewise.
    #[serde(default)]
    pub sheet_tflops: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: u32,
    gpu: Vec<Gpu>,
}

/// The table.
pub(crate) static GPUS: LazyLock<Vec<Gpu>> = LazyLock::new(|| {
    let file: File =
        toml::from_str(include_str!("peaks.toml")).expect("peaks.toml is read by a test");
    assert_eq!(file.schema, 1, "peaks.toml");
    file.gpu
});

/// The GPUs that a text names.
pub(crate) fn named(text: &str) -> Vec<&'static Gpu> {
    let gpus = GPUS.iter();
    gpus.filter(|gpu| gpu.names.iter().any(|name| words::has(text, name))).collect()
}

/// Which GPUs a document names at all: what a number without one of its own is about, if that is
/// one.
pub(crate) fn only(document: &Document) -> Option<&'static Gpu> {
    let mut found: Option<&'static Gpu> = None;
    let cells = document.tables.iter().flat_map(|table| &table.header);
    let texts = document.prose().map(|block| &block.text).chain(cells);
    // Text about several, a migration say, is about none.
    let alone = texts.filter_map(|text| match named(text).as_slice() {
        [gpu] => Some(*gpu),
        _ => None,
    });
    for gpu in alone {
        match found {
            Some(other) if !std::ptr::eq(other, gpu) => return None,
            _ => found = Some(gpu),
        }
    }
    found
}

/// The GPU that a block is about: its own, else that of its nearest heading, else the document's
/// only one. Two at one place are none.
pub(crate) fn of(
    document: &Document,
    block: &Block,
    only: Option<&'static Gpu>,
) -> Option<&'static Gpu> {
    of_text(document, &block.text, block.section, only)
}

/// As [`of`], for text of a section.
pub(crate) fn of_text(
    document: &Document,
    text: &str,
    section: usize,
    only: Option<&'static Gpu>,
) -> Option<&'static Gpu> {
    let titles = document.chain(section).map(|section| section.title.as_str());
    for text in std::iter::once(text).chain(titles) {
        match named(text).as_slice() {
            [] => {}
            [gpu] => return Some(gpu),
            _ => return None,
        }
    }
    only
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peak_has_a_value_and_a_source() {
        assert!(GPUS.len() >= 5);
        for gpu in GPUS.iter() {
            let sources = [
                &gpu.memory_gb_source,
                &gpu.hbm_gbps_source,
                &gpu.nvlink_gbps_source,
                &gpu.tflops_source,
            ];
            assert!(sources.iter().all(|source| source.len() > 10), "{:?}", gpu.names);
            assert!(gpu.hbm_gbps > gpu.nvlink_gbps && gpu.nvlink_gbps > 0.0, "{:?}", gpu.names);
            assert!(gpu.tflops["fp16"] > gpu.tflops["fp32"], "{:?}", gpu.names);
            assert!(gpu.memory_gb > 0.0, "{:?}", gpu.names);
        }
    }

    #[test]
    fn a_name_is_a_whole_word() {
        assert_eq!(named("8x B200 and GB200X").len(), 1);
        assert_eq!(named("H200s").len(), 1);
        assert!(named("SH200").is_empty());
    }
}
