//! To be filled: operands.
