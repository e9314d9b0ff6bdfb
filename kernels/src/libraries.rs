//! To be filled: libraries.
