//! To be filled: hostlink.
