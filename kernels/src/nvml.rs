//! To be filled: nvml.
