//! The data path.

pub mod error;
pub mod shared;
