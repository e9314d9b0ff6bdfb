//! Suite `attention`: any mask, right against f64, and the same bits wherever a row is computed.

pub mod backend;
pub mod measure;
pub mod scene;
