//! Holds the hardware run and the tests that never need a GPU; the crate itself is empty.
