//! What the tests are made of: a scripted origin, a raw client, and a sidecar in this process. Everything waits with a
//! deadline and nothing sleeps for luck.

use std::future::Future;
use std::time::Duration;

pub mod client;
pub mod host;
