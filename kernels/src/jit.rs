//! To be filled: jit.
