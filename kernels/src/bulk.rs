//! The bulk copy engine's ring of the streaming kernels: `cp.async.bulk` and `mbarrier`, compute
//! capability 9.0 and later. Chosen through [`crate::variant::Variant::Bulk`].

use crate::device::KernelParams;
use crate::stream::{Arrays, Kind};
use crate::{Error, KernelSource, Result};

/// The ring kernels.
pub const SOURCE: KernelSource = KernelSource {
    name: "bulk",
    source: concat!(
        include_str!("generator.cuh"),
        include_str!("barrier.cuh"),
        include_str!("bulk.cu")
    ),
    entries: &["bulk_copy", "bulk_read", "bulk_write", "bulk_triad"],
    architectures: crate::SINCE_SM90,
    spill_free: true,
};

/// Most stages of a ring; the same constant stands in bulk.cu.
const MOST_STAGES: u32 = 8;

/// A block keeps this much shared memory for barriers and for the system.
const SHARED_RESERVE_BYTES: u32 = 1024;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct BulkParams {
    a: u64,
    b: u64,
    c: u64,
    bytes: u64,
    chunks: u64,
    run: u64,
    seed: u64,
    passes: u32,
    stage_bytes: u32,
    stages: u32,
    evict: u32,
    constant: u32,
    value: u32,
    scalar: f32,
    reserved: u32,
}
const _: () = assert!(size_of::<BulkParams>() == 88);
// SAFETY: repr(C) without padding, equal to the struct in bulk.cu.
unsafe impl KernelParams for BulkParams {}

/// The ring of a variant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring {
    pub(crate) stage_bytes: u32,
    pub(crate) stages: u32,
    pub(crate) evict_first: bool,
}

impl Ring {
    /// Checks the ring and returns its dynamic shared memory.
    pub(crate) fn shared_bytes(self, kind: Kind, most: u32) -> Result<u32> {
        let Ring { stage_bytes, stages, .. } = self;
        // A copy refills a stage two chunks later, so it needs a third to make progress.
        if !(3..=MOST_STAGES).contains(&stages) {
            return Err(Error::Shape { what: format!("a ring of {stages} stages, of 3 to 8") });
        }
        if stage_bytes == 0 || !stage_bytes.is_multiple_of(128) {
            return Err(Error::Shape { what: format!("a stage of {stage_bytes} bytes") });
        }
        let inputs = if kind == Kind::Triad { 2 } else { 1 };
        let total = u64::from(stage_bytes) * u64::from(stages) * inputs;
        if total + u64::from(SHARED_RESERVE_BYTES) > u64::from(most) {
            let what = format!("a ring of {total} bytes in {most} bytes of shared memory");
            return Err(Error::Shape { what });
        }
        Ok(total as u32)
    }
}

/// Threads of a block: one warp copies; readers and the triad add a warp that asks for data.
pub(crate) fn threads(kind: Kind) -> u32 {
    match kind {
        Kind::Copy => 32,
        Kind::Write => 256,
        Kind::Read | Kind::Triad => 256 + 32,
    }
}

/// The parameters of a launch over `bytes` of each array, `passes` times.
pub(crate) fn params(arrays: Arrays, ring: Ring, bytes: u64, passes: u32, run: u64) -> BulkParams {
    BulkParams {
        a: arrays.a,
        b: arrays.b,
        c: arrays.c,
        bytes,
        chunks: bytes.div_ceil(ring.stage_bytes.into()),
        run,
        seed: arrays.seed,
        passes,
        stage_bytes: ring.stage_bytes,
        stages: ring.stages,
        evict: ring.evict_first.into(),
        constant: arrays.constant,
        value: arrays.value,
        scalar: arrays.scalar,
        reserved: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stage_bytes: u32, stages: u32, kind: Kind, expect: Option<u32>) {
        let ring = Ring { stage_bytes, stages, evict_first: false };
        assert_eq!(ring.shared_bytes(kind, 232_448).ok(), expect);
    }

    #[test]
    fn rings_must_fit() {
        check(32 * 1024, 6, Kind::Copy, Some(196_608));
        check(16 * 1024, 6, Kind::Triad, Some(196_608));
        check(32 * 1024, 6, Kind::Triad, None);
        check(32 * 1024, 2, Kind::Copy, None);
        check(100, 4, Kind::Copy, None);
    }
}
