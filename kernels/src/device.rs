//! To be filled: device.
