//! touchstone
fn main() {}
