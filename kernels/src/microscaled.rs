//! Products of microscaled matrices on tensor cores that multiply them, by cuBLASLt: `D[m, n] = alpha A[m, k]
//! B[n, k]^T`, both in NVFP4 (E2M1, a scale of E4M3 for 16 columns) or in MXFP8 (E4M3, a scale of UE8M0 for 32), f32
//! accumulation and out.
//!
//! Scales lie in the tensor cores' order, as [`crate::quantise`] writes them. NVFP4's factors of the two matrices are
//! left to alpha. MXFP4 has no such product. Chips before compute capability 10.0 have none: [`crate::dequantise`]
//! gives them the numbers in 16 bits.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};

use crate::device::{Buffer, CudaStream, Gpu};
use crate::element::Element;
use crate::lt::{Algorithm, Description, Handle, Layout, Lt, checked, heuristic};
use crate::memory::inside;
use crate::quantise::{Quantised, Scheme};
use crate::{Error, Result};

/// The first compute capability whose tensor cores multiply microscaled codes.
pub const FIRST: (u32, u32) = (10, 0);

/// Schemes that cuBLASLt multiplies.
pub const SCHEMES: [Scheme; 2] = [Scheme::Nvfp4, Scheme::Mxfp8];

/// A product whose algorithm is chosen: the heuristic's first, without workspace or split along k.
#[derive(Debug)]
pub struct Microscaled {
    scheme: Scheme,
    sizes: (u32, u32, u32),
    description: Description,
    b: Layout,
    a: Layout,
    d: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    handle: Arc<Handle>,
}

impl Microscaled {
    /// Plans a product of sizes (m, n, k). The heuristic looks at the scales that are given; a run may have others.
    ///
    /// Errors: a scheme that is not in [`SCHEMES`]; m or n that is no multiple of 16 or k that is none of 128; no
    /// algorithm, as on chips before [`FIRST`].
    pub fn new(
        gpu: &Gpu,
        lt: &Lt,
        scheme: Scheme,
        (m, n, k): (u32, u32, u32),
        (a, b): (&Quantised, &Quantised),
    ) -> Result<Microscaled> {
        let whole = |count: u32, step: u32| count > 0 && count.is_multiple_of(step);
        if !SCHEMES.contains(&scheme) || !whole(m, 16) || !whole(n, 16) || !whole(k, 128) {
            let what = format!("{} product of {m} x {n} x {k}: 16s, and k in 128s", scheme.name());
            return Err(Error::Shape { what });
        }
        gpu.bind()?;
        let handle = lt.handle.clone();
        let description = Description::microscaled(scheme)?;
        description.set_scale_buffers(&a.scales, &b.scales)?;
        let (b, a) = (Layout::microscaled(scheme, k, n)?, Layout::microscaled(scheme, k, m)?);
        let d = Layout::new(Element::F32, n, m, n)?;
        let asked = (scheme, m, n, k);
        let found = heuristic((&handle, &description), [&b, &a, &d], (0, false), 1, &asked)?;
        let algorithm = found[0].algo;
        Ok(Microscaled { scheme, sizes: (m, n, k), description, b, a, d, algorithm, handle })
    }

    /// The algorithm's configuration.
    pub fn algorithm(&self) -> Result<Algorithm> {
        Algorithm::of(&self.algorithm)
    }

    /// Enqueues the product.
    ///
    /// Errors: a buffer that is too small or of another GPU.
    pub fn run(
        &self,
        stream: &CudaStream,
        a: &Quantised,
        b: &Quantised,
        d: &Buffer,
        alpha: f32,
    ) -> Result<()> {
        let (m, n, k) = self.sizes;
        for (what, matrix, rows) in [("a", a, u64::from(m)), ("b", b, u64::from(n))] {
            let Quantised { codes, scales } = matrix;
            inside(what, 0, self.scheme.code_bytes(rows, k), codes.len_bytes())?;
            inside("scales", 0, self.scheme.scale_bytes(rows, k), scales.len_bytes())?;
            stream.same_context(codes.context())?;
            stream.same_context(scales.context())?;
        }
        inside("d", 0, 4 * u64::from(m) * u64::from(n), d.len_bytes())?;
        stream.same_context(d.context())?;
        stream.bind()?;
        self.description.set_scale_buffers(&a.scales, &b.scales)?;
        let zero = 0f32;
        // SAFETY: the buffers hold the layouts' matrices and scales (checked), C = D is not read with a beta of 0,
        // no workspace was allowed, and cudaStream_t and CUstream are the same handle.
        let outcome = unsafe {
            result::matmul(
                self.handle.0,
                self.description.0,
                (&raw const alpha).cast(),
                (&raw const zero).cast(),
                b.codes.ptr() as *const c_void,
                self.b.0,
                a.codes.ptr() as *const c_void,
                self.a.0,
                d.ptr() as *const c_void,
                self.d.0,
                d.ptr() as *mut c_void,
                self.d.0,
                &self.algorithm,
                std::ptr::null_mut(),
                0,
                stream.raw().cast(),
            )
        };
        checked("cublasLtMatmul", outcome)
    }
}
