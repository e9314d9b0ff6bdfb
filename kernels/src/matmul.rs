//! To be filled: matmul.
