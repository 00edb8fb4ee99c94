//! The answers we make.
