//! The data path.

pub mod egress;
pub mod error;
pub mod shared;
pub mod upstream;
