//! To be filled: timing.
