//! A product of a rank: by cuBLASLt, or by the own kernel.

use crate::Result;
use crate::device::CudaStream;
use crate::matmul::{Choice, Operands, Plan, Request};
use crate::promoted::Promoted;

/// A product that is ready to be run.
#[derive(Debug)]
pub(super) enum Product {
    /// cuBLASLt's, with its algorithm.
    Library(Plan),
    /// The own kernel's, which has none to choose.
    Own(Promoted, Request),
}

impl Product {
    /// What is computed.
    pub(super) fn request(&self) -> &Request {
        match self {
            Product::Library(plan) => plan.request(),
            Product::Own(_, request) => request,
        }
    }

    /// How cuBLASLt computes it; none of the own kernel.
    pub(super) fn choice(&self) -> Option<&Choice> {
        match self {
            Product::Library(plan) => Some(plan.choice()),
            Product::Own(..) => None,
        }
    }

    /// Enqueues it.
    pub(super) fn run(&self, stream: &CudaStream, operands: &Operands<'_>) -> Result<()> {
        match self {
            Product::Library(plan) => plan.run(stream, operands),
            Product::Own(kernel, request) => kernel.run(stream, request, operands),
        }
    }
}
