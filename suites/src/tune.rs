//! `tune`: every streaming variant on one GPU, for whoever brings a new board. Prints, judges nothing.

use std::path::Path;

use kernels::device::Gpu;
use kernels::pattern::{self, Content};
use kernels::stream::{self, Fault, Job, Kind, Output, Streaming};
use kernels::timing::{self, Plan, Timer};
use kernels::{KernelSource, bulk, jit, variant};

use crate::{bandwidth, lab};

/// GB/s of every variant of every kind, best first within a kind.
pub fn text(root: &Path, gpu: u32, array_bytes: u64) -> kernels::Result<String> {
    lab::load_libraries(root)?;
    let gpu = Gpu::open(gpu)?;
    let load = |source: &KernelSource| {
        let architecture = jit::architecture_of(gpu.compute_capability).unwrap_or("sm_80");
        gpu.load(&jit::compile(source, architecture)?.bytes)
    };
    let ring = gpu.compute_capability.0 >= 9;
    let bulk = if ring { Some(load(&bulk::SOURCE)?) } else { None };
    let streaming =
        Streaming::new(&gpu, &load(&stream::SOURCE)?, bulk.as_ref(), &load(&pattern::SOURCE)?)?;
    let mut timer = Timer::new(&gpu, &load(&timing::SOURCE)?)?;
    let buffers: Vec<_> = (0..3).map(|_| gpu.alloc(array_bytes)).collect::<Result<_, _>>()?;
    let sums = gpu.alloc(stream::sums_bytes(&gpu, array_bytes))?;
    for (buffer, seed) in buffers.iter().zip(1..) {
        let content = Content::SmallFloat { seed };
        streaming.patterns().fill(gpu.stream(), buffer, array_bytes, content)?;
    }
    gpu.synchronize()?;
    let [a, b, c] = [&buffers[0], &buffers[1], &buffers[2]];
    let mut text = String::new();
    for kind in Kind::ALL {
        let job = match kind {
            Kind::Read => Job::Read { source: b, sums: &sums },
            Kind::Write => Job::Write { target: a, output: Output::Hash { seed: 7 } },
            Kind::Copy => Job::Copy { target: a, source: b },
            Kind::Triad => Job::Triad { a, b, c, scalar: 3.0 },
        };
        let mut rows = Vec::new();
        for variant in variant::ladder(kind, ring) {
            let prepared = streaming.prepare(job, array_bytes, variant, Fault::default())?;
            let plan = Plan {
                warmup: 2,
                samples: 7,
                fewest_samples: 7,
                launches: 4,
                budget: None,
                rest: 0,
            };
            let mut ms = timer.measure(plan, None, |stream| prepared.launch(stream))?;
            ms.sort_by(f64::total_cmp);
            let gbps = stream::counted_bytes(kind, array_bytes) as f64 / ms[3] / 1e6;
            rows.push((gbps, variant));
        }
        rows.sort_by(|x, y| y.0.total_cmp(&x.0));
        for (gbps, variant) in rows {
            text.push_str(&format!("{:6} {gbps:8.1} GB/s  {variant}\n", bandwidth::name_of(kind)));
        }
    }
    Ok(text)
}
