//! SPEC 3.5 to 3.11, row by row.
