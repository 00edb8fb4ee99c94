//! The data path.

pub mod error;
