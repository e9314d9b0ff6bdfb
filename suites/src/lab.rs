//! What every case on a GPU needs: its GPUs opened, kernels compiled, telemetry running, and all
//! that is written down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::evidence::KernelUse;
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Gpu, Module};
use kernels::jit;
use kernels::libraries::{self, Library};
use kernels::nvml::{self, GpuInfo};
use kernels::stream::{self, Streaming};
use kernels::{KERNELS, KernelSource, bulk, pattern};

use crate::node;
use crate::telemetry::Watch;

/// The GPUs of a child, opened, in the order of its assignment.
pub struct Lab {
    /// Opened GPUs; ordinal i is the i-th assigned one.
    pub gpus: Vec<Gpu>,
    /// Their indices on the node.
    pub indices: Vec<u32>,
    architecture: &'static str,
    cache: PathBuf,
    watch: Option<Watch>,
}

impl Lab {
    /// Opens the assigned GPUs, checks that they are the ones that were assigned, and starts
    /// telemetry. A missing library or an unknown architecture is a not-run with its reason.
    pub fn open(assignment: &Assignment, recorder: &mut Recorder) -> Result<Lab, Stop> {
        recorder.progress("open");
        require(Library::Cuda)?;
        require(Library::Nvrtc)?;
        let mut gpus = Vec::new();
        for (ordinal, assigned) in assignment.devices.iter().enumerate() {
            let gpu = Gpu::open(ordinal as u32)?;
            if gpu.uuid_string() != assigned.uuid {
                return Err(Stop::Error(format!(
                    "ordinal {ordinal} is another GPU than the assigned gpu{}",
                    assigned.device.gpu
                )));
            }
            gpus.push(gpu);
        }
        let first = gpus.first().ok_or_else(|| Stop::Error("no GPU was assigned".into()))?;
        let (major, minor) = first.compute_capability;
        let architecture = jit::architecture_of(first.compute_capability).ok_or_else(|| {
            Stop::NotApplicable(format!(
                "no kernel is built for compute capability {major}.{minor}"
            ))
        })?;
        for (name, version) in libraries::versions() {
            recorder.versions.insert(name.to_owned(), version);
        }
        recorder.option("seed", assignment.seed);
        let indices = assignment.gpus();
        let uuids = assignment.devices.iter().map(|assigned| assigned.uuid.clone());
        let watched: Vec<(u32, String)> = indices.iter().copied().zip(uuids).collect();
        let watch = node::session().map(|session| Watch::start(session, watched));
        Ok(Lab { gpus, indices, architecture, cache: assignment.cache.clone(), watch })
    }

    /// The only GPU of a child that was given one, with its index on the node.
    pub fn only(&self) -> Result<(&Gpu, u32), Stop> {
        match (self.gpus.as_slice(), self.indices.as_slice()) {
            ([gpu], [index]) => Ok((gpu, *index)),
            _ => Err(Stop::Error(format!("needs one GPU, was given {}", self.gpus.len()))),
        }
    }

    /// Compiles a kernel (or takes it from the cache), loads it, and writes down which.
    pub fn module(
        &self,
        gpu: &Gpu,
        source: &KernelSource,
        recorder: &mut Recorder,
    ) -> Result<Module, Stop> {
        let cubin = jit::cached(source, self.architecture, &self.cache)?;
        if !recorder.kernels.iter().any(|used| used.name == cubin.kernel) {
            recorder.kernels.push(KernelUse {
                name: cubin.kernel.clone(),
                architecture: cubin.architecture.clone(),
                compiler: format!("nvrtc {}", cubin.compiler),
                source_sha256: cubin.source_sha256.clone(),
                cubin_sha256: cubin.cubin_sha256.clone(),
            });
        }
        Ok(gpu.load(&cubin.bytes)?)
    }

    /// HBM streaming in every way that this GPU has.
    pub fn streaming(&self, gpu: &Gpu, recorder: &mut Recorder) -> Result<Streaming, Stop> {
        let vector = self.module(gpu, &stream::SOURCE, recorder)?;
        let bulk = match gpu.compute_capability.0 >= 9 {
            true => Some(self.module(gpu, &bulk::SOURCE, recorder)?),
            false => None,
        };
        let pattern = self.module(gpu, &pattern::SOURCE, recorder)?;
        Ok(Streaming::new(gpu, &vector, bulk.as_ref(), &pattern)?)
    }

    /// Every kernel of the crate that this architecture has, loaded, by name.
    pub fn all_modules(
        &self,
        gpu: &Gpu,
        recorder: &mut Recorder,
    ) -> Result<BTreeMap<&'static str, Module>, Stop> {
        let here =
            KERNELS.iter().filter(|source| source.architectures.contains(&self.architecture));
        here.map(|source| Ok((source.name, self.module(gpu, source, recorder)?))).collect()
    }

    /// Ends telemetry and writes it down.
    pub fn close(mut self, recorder: &mut Recorder) {
        if let Some(watch) = self.watch.take() {
            recorder.telemetry = watch.stop();
        }
    }
}

/// Finds and loads the driver and NVRTC, for a command that is no case.
///
/// Errors: those of [`libraries::preload`] and [`libraries::require`].
pub fn load_libraries(root: &Path) -> kernels::Result<()> {
    let found = libraries::find(Some(root));
    for library in [Library::Cuda, Library::Nvrtc] {
        if let Some(found) = found.iter().find(|found| found.library == library) {
            libraries::preload(found)?;
        }
        libraries::require(library)?;
    }
    Ok(())
}

/// The same and cuBLASLt.
///
/// Errors: as [`load_libraries`]; cuBLASLt is not to be had.
pub fn load_cublaslt(root: &Path) -> Result<(), Stop> {
    load_libraries(root)?;
    let found = libraries::find(Some(root));
    if let Some(found) = found.iter().find(|found| found.library == Library::CublasLt) {
        libraries::preload(found)?;
    }
    require(Library::CublasLt)
}

/// A library that the case cannot do without.
pub fn require(library: Library) -> Result<(), Stop> {
    libraries::require(library).map_err(|error| Stop::NotRun(error.to_string()))
}

/// What is infinitely wrong, or no number, as one that misses every bound: evidence holds only finite ones.
pub fn finite(error: f64) -> f64 {
    if error.is_finite() { error } else { 1e300 }
}

/// Elements that differ; of runs of other lengths every element of the longer one too.
pub fn differing<T: PartialEq>(first: &[T], second: &[T]) -> u64 {
    let longer = first.len().abs_diff(second.len());
    (first.iter().zip(second).filter(|(a, b)| a != b).count() + longer) as u64
}

/// What `one` makes of each item, in their order, by as many threads as there are cores.
pub fn over_cores<T: Sync, R: Send>(items: &[T], one: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let each = items.len().div_ceil(threads).max(1);
    let one = &one;
    std::thread::scope(|scope| {
        let shares = items.chunks(each);
        let running: Vec<_> = shares
            .map(|share| scope.spawn(move || share.iter().map(one).collect::<Vec<R>>()))
            .collect();
        running.into_iter().flat_map(|thread| thread.join().expect("plain arithmetic")).collect()
    })
}

/// GB/s (1e9 bytes) to a hundredth.
pub fn gbps(bytes: u64, milliseconds: &[f64]) -> Vec<f64> {
    let rate = |ms: &f64| (bytes as f64 / ms / 1e6 * 100.0).round() / 100.0;
    milliseconds.iter().map(rate).collect()
}

/// NVML's view of an assigned GPU.
pub fn info_of<'a>(inventory: &'a nvml::Inventory, uuid: &str) -> Result<&'a GpuInfo, Stop> {
    let found = inventory.gpus.iter().find(|info| info.uuid == uuid);
    found.ok_or_else(|| Stop::Error("nvml does not know an assigned GPU".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_lacks_differs() {
        assert_eq!(differing(&[1, 2, 3], &[1, 5, 3]), 1);
        assert_eq!(differing(&[1, 2], &[1, 2, 3]), 1);
        assert_eq!(differing(&[], &[7, 7]), 2);
    }

    #[test]
    fn what_is_infinitely_wrong_misses_every_bound() {
        assert_eq!((finite(1.5), finite(f64::INFINITY), finite(f64::NAN)), (1.5, 1e300, 1e300));
    }

    #[test]
    fn what_threads_make_stands_in_order() {
        let items: Vec<u64> = (0..1001).collect();
        let doubled: Vec<u64> = items.iter().map(|x| 2 * x).collect();
        assert_eq!(over_cores(&items, |x| 2 * x), doubled);
        assert_eq!(over_cores(&items[..0], |x| 2 * x), [0; 0]);
    }

    #[test]
    fn gigabytes_are_of_a_thousand_million() {
        assert_eq!(gbps(1_000_000_000, &[2.0, 4.0]), [500.0, 250.0]);
    }
}
