//! To be filled: pattern.
