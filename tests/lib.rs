//! Holds the hardware run and the tests that never need a GPU, and what several of them share: a
//! fake node, and recorded runs made by hand.

pub mod fake;
pub mod folders;
pub mod specimens;
