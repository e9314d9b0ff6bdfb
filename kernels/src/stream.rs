//! To be filled: stream.
