//! Response head → outcome.
