//! Configuration: TOML, environment and flags → checked [`settings`].

pub mod settings;
