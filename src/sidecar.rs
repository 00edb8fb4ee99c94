//! One running sidecar.
