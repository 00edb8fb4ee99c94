//! cooldown
