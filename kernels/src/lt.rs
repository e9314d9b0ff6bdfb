//! The handles, descriptors and attributes of cuBLASLt that a product needs, freed on drop.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};

use crate::device::{Buffer, Gpu};
use crate::element::Element;
use crate::matmul::{Dtype, Operands, Request};
use crate::quantise::Scheme;
use crate::{Error, Result};

/// `CUBLAS_OP_N` and `CUBLAS_OP_T` of cublas_api.h.
const OP_N: i32 = 0;
const OP_T: i32 = 1;

/// Alignment that every matrix has: the start of a buffer, or a multiple of this behind it.
pub(crate) const ALIGNMENT_BYTES: u32 = 256;

/// Turns a cuBLASLt result into [`Error::BlasLt`].
pub(crate) fn checked<T>(
    call: &'static str,
    outcome: std::result::Result<T, result::CublasError>,
) -> Result<T> {
    outcome.map_err(|error| Error::BlasLt { call, reason: format!("{:?}", error.0) })
}

/// Compute type and scale type.
fn compute(dtype: Dtype) -> (sys::cublasComputeType_t, sys::cudaDataType) {
    use sys::cublasComputeType_t as Compute;
    match dtype {
        Dtype::Tf32 => (Compute::CUBLAS_COMPUTE_32F_FAST_TF32, sys::cudaDataType::CUDA_R_32F),
        Dtype::Int8 => (Compute::CUBLAS_COMPUTE_32I, sys::cudaDataType::CUDA_R_32I),
        _ => (Compute::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F),
    }
}

fn data_type(element: Element) -> sys::cudaDataType {
    match element {
        Element::F16 => sys::cudaDataType::CUDA_R_16F,
        Element::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        Element::F32 => sys::cudaDataType::CUDA_R_32F,
        Element::E4m3 => sys::cudaDataType::CUDA_R_8F_E4M3,
        Element::Int8 => sys::cudaDataType::CUDA_R_8I,
        Element::Int32 => sys::cudaDataType::CUDA_R_32I,
    }
}

/// Configuration of an algorithm, all that cuBLASLt tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm {
    /// `CUBLASLT_ALGO_CONFIG_ID`.
    pub id: i32,
    /// Tile.
    pub tile_id: u32,
    /// Stages.
    pub stages_id: u32,
    /// Parts along k.
    pub split_k: i32,
    /// How parts are reduced.
    pub reduction_scheme: u32,
    /// Swizzle of thread blocks.
    pub swizzle: u32,
    /// Custom option.
    pub custom_option: u32,
    /// Inner shape of the instruction.
    pub inner_shape_id: u16,
    /// Shape of thread block clusters.
    pub cluster_shape_id: u16,
}

/// A cuBLASLt handle for one GPU.
#[derive(Debug)]
pub struct Lt {
    pub(crate) handle: Arc<Handle>,
}

#[derive(Debug)]
pub(crate) struct Handle(pub(crate) sys::cublasLtHandle_t);

// SAFETY: a cublasLt handle may be used from several threads at once (cuBLAS documentation).
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

impl Lt {
    /// Creates the handle in the GPU's context.
    pub fn new(gpu: &Gpu) -> Result<Lt> {
        gpu.bind()?;
        let handle = checked("cublasLtCreate", result::create_handle())?;
        Ok(Lt { handle: Arc::new(Handle(handle)) })
    }

    /// The library's version number.
    pub fn version(&self) -> usize {
        // SAFETY: the library is loaded, since a handle of it exists.
        unsafe { sys::cublasLtGetVersion() }
    }
}

/// The operation's descriptor, freed on drop.
#[derive(Debug)]
pub(crate) struct Description(pub(crate) sys::cublasLtMatmulDesc_t);

impl Description {
    pub(crate) fn new(request: &Request) -> Result<Description> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let description = Description::tn(compute(request.dtype))?;
        if request.dtype.is_fp8() {
            let fast = i8::from(request.fast_accumulation);
            description.set(Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast)?;
            use sys::cublasLtMatmulMatrixScale_t as Mode;
            // Of our A and our B.
            let [ours_a, ours_b] = match request.dtype {
                Dtype::E4m3Row | Dtype::E4m3RowHalf => {
                    [Mode::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F; 2]
                }
                Dtype::E4m3Block => [
                    Mode::CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F,
                    Mode::CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
                ],
                _ => [Mode::CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F; 2],
            }
            .map(|mode| mode as i32);
            description.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &ours_b)?;
            description.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &ours_a)?;
        }
        Ok(description)
    }

    /// A product of microscaled matrices, both of one scheme, with f32 accumulation.
    ///
    /// Errors: a scheme that cuBLASLt does not multiply.
    pub(crate) fn microscaled(scheme: Scheme) -> Result<Description> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        use sys::cublasLtMatmulMatrixScale_t as Mode;
        let mode = match scheme {
            Scheme::Nvfp4 => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3,
            Scheme::Mxfp8 => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0,
            _ => {
                let what = format!("cublaslt multiplies no matrices in {}", scheme.name());
                return Err(Error::Shape { what });
            }
        } as i32;
        let description = Description::tn(compute(Dtype::F16Wide))?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode)?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode)?;
        Ok(description)
    }

    /// The TN form.
    fn tn((compute, scale): (sys::cublasComputeType_t, sys::cudaDataType)) -> Result<Description> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let raw = checked("cublasLtMatmulDescCreate", result::create_matmul_desc(compute, scale))?;
        let description = Description(raw);
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &OP_T)?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &OP_N)?;
        Ok(description)
    }

    fn set<T: Copy>(
        &self,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: &T,
    ) -> Result<()> {
        let value = (&raw const *value).cast::<c_void>();
        // SAFETY: the descriptor is valid; cuBLASLt copies size_of::<T>() bytes and refuses
        // another size.
        let outcome =
            unsafe { result::set_matmul_desc_attribute(self.0, attribute, value, size_of::<T>()) };
        checked("cublasLtMatmulDescSetAttribute", outcome)
    }

    /// Sets the scales of a call. cuBLASLt's first matrix is our B.
    pub(crate) fn set_scales(&self, operands: &Operands<'_>) -> Result<()> {
        match (operands.scale_a, operands.scale_b) {
            (Some(scale_a), Some(scale_b)) => self.set_scale_buffers(scale_a, scale_b),
            _ => Ok(()),
        }
    }

    /// Sets the scales of our A and our B.
    pub(crate) fn set_scale_buffers(&self, scale_a: &Buffer, scale_b: &Buffer) -> Result<()> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        self.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scale_b.ptr())?;
        self.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scale_a.ptr())
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// A matrix layout, freed on drop.
#[derive(Debug)]
pub(crate) struct Layout(pub(crate) sys::cublasLtMatrixLayout_t);

impl Layout {
    /// Column-major `rows` x `columns`, `step` elements from one column to the next: our row-major
    /// `columns` x `rows`.
    pub(crate) fn new(element: Element, rows: u32, columns: u32, step: u32) -> Result<Layout> {
        Layout::of(data_type(element), rows, columns, step)
    }

    /// The same of the codes of a microscaled matrix, packed.
    pub(crate) fn microscaled(scheme: Scheme, rows: u32, columns: u32) -> Result<Layout> {
        let codes = match scheme.code_bits() {
            4 => sys::cudaDataType::CUDA_R_4F_E2M1,
            _ => sys::cudaDataType::CUDA_R_8F_E4M3,
        };
        Layout::of(codes, rows, columns, rows)
    }

    fn of(data_type: sys::cudaDataType, rows: u32, columns: u32, step: u32) -> Result<Layout> {
        let (rows, columns) = (u64::from(rows), u64::from(columns));
        let layout = result::create_matrix_layout(data_type, rows, columns, i64::from(step));
        Ok(Layout(checked("cublasLtMatrixLayoutCreate", layout)?))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// Search preferences, freed on drop.
#[derive(Debug)]
pub(crate) struct Preference(pub(crate) sys::cublasLtMatmulPreference_t);

impl Preference {
    /// At most so much workspace, and a dot product in one piece or split along k.
    pub(crate) fn new(workspace_bytes: u64, split_k: bool) -> Result<Preference> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let raw = checked("cublasLtMatmulPreferenceCreate", result::create_matmul_pref())?;
        let preference = Preference(raw);
        let schemes = match split_k {
            true => sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_MASK,
            false => sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE,
        } as u32;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes)?;
        for alignment in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(alignment, &ALIGNMENT_BYTES)?;
        }
        Ok(preference)
    }

    fn set<T: Copy>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<()> {
        let value = (&raw const *value).cast::<c_void>();
        // SAFETY: as in Description::set.
        let outcome =
            unsafe { result::set_matmul_pref_attribute(self.0, attribute, value, size_of::<T>()) };
        checked("cublasLtMatmulPreferenceSetAttribute", outcome)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// The heuristic's answers that may be used, at most `most`, for our B, A and D. None is an error that names
/// `what`.
pub(crate) fn heuristic(
    (handle, description): (&Handle, &Description),
    [b, a, d]: [&Layout; 3],
    (workspace_bytes, split_k): (u64, bool),
    most: usize,
    what: &dyn std::fmt::Debug,
) -> Result<Vec<sys::cublasLtMatmulHeuristicResult_t>> {
    let preference = Preference::new(workspace_bytes, split_k)?;
    let empty = sys::cublasLtMatmulHeuristicResult_t {
        algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        workspaceSize: 0,
        state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
        wavesCount: 0.0,
        reserved: [0; 4],
    };
    let mut found = vec![empty; most];
    let mut count = 0;
    // SAFETY: handle, descriptors and layouts are valid, and `found` has room for `most`.
    let status = unsafe {
        sys::cublasLtMatmulAlgoGetHeuristic(
            handle.0,
            description.0,
            b.0,
            a.0,
            d.0,
            d.0,
            preference.0,
            most as i32,
            found.as_mut_ptr(),
            &mut count,
        )
    };
    checked("cublasLtMatmulAlgoGetHeuristic", status.result())?;
    found.truncate(usize::try_from(count).unwrap_or(0));
    found.retain(|candidate| {
        candidate.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS
            && candidate.workspaceSize as u64 <= workspace_bytes
    });
    if found.is_empty() {
        let reason = format!("no algorithm for {what:?}");
        return Err(Error::BlasLt { call: "cublasLtMatmulAlgoGetHeuristic", reason });
    }
    Ok(found)
}

impl Default for Algorithm {
    fn default() -> Algorithm {
        Algorithm {
            id: -1,
            tile_id: 0,
            stages_id: 0,
            split_k: 0,
            reduction_scheme: 0,
            swizzle: 0,
            custom_option: 0,
            inner_shape_id: 0,
            cluster_shape_id: 0,
        }
    }
}

impl Algorithm {
    pub(crate) fn of(algorithm: &sys::cublasLtMatmulAlgo_t) -> Result<Algorithm> {
        use sys::cublasLtMatmulAlgoConfigAttributes_t as Attribute;
        Ok(Algorithm {
            id: config(algorithm, Attribute::CUBLASLT_ALGO_CONFIG_ID)?,
            tile_id: config(algorithm, Attribute::CUBLASLT_ALGO_CONFIG_TILE_ID)?,
            stages_id: config(algorithm, Attribute::CUBLASLT_ALGO_CONFIG_STAGES_ID)?,
            split_k: config(algorithm, Attribute::CUBLASLT_ALGO_CONFIG_SPLITK_NUM)?,
            reduction_scheme: config(algorithm, Attribute::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME)?,
            swizzle: config(algorithm, Attribute::CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING)?,
            custom_option: config(algorithm, Attribute::CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION)?,
            inner_shape_id: config(algorithm, Attribute::CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID)?,
            cluster_shape_id: config(algorithm, Attribute::CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID)?,
        })
    }
}

/// One number of an algorithm's configuration.
fn config<T: Copy + Default>(
    algorithm: &sys::cublasLtMatmulAlgo_t,
    attribute: sys::cublasLtMatmulAlgoConfigAttributes_t,
) -> Result<T> {
    let mut value = T::default();
    let mut written = 0;
    // SAFETY: the algorithm came from the heuristic; cuBLASLt writes size_of::<T>() bytes and
    // refuses another size.
    let status = unsafe {
        sys::cublasLtMatmulAlgoConfigGetAttribute(
            algorithm,
            attribute,
            (&raw mut value).cast(),
            size_of::<T>(),
            &mut written,
        )
    };
    checked("cublasLtMatmulAlgoConfigGetAttribute", status.result())?;
    Ok(value)
}
