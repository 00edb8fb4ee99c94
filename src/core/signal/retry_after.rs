//! `Retry-After` (RFC 9110 §10.2.3).
