//! The data path, from a client's socket to the upstream and back. Read it in this order:
//!
//! 1. [`listener`]: sockets are opened and accepted from; every connection is a task of its own.
//! 2. `connection`: one client connection. It waits on the bare socket, hands it to hyper while there are requests, takes
//!    it back when it is idle, and carries tunnels. `transport` is what it reads from; `wire`, `tap` and `chunks` do for it
//!    what hyper's server cannot. `multiplex` is the same for HTTP/2.
//! 3. `forward`, `reverse` and `intercept`: what a request on the proxy port, on a `[[reverse]]` port, or inside a CONNECT
//!    whose TLS ends here, asks for. `target` reads the request target, `auth` the proxy credentials.
//! 4. `exchange`: one request is admitted by the table (`admission`), sent, and its response read for signals; or answered
//!    here. `outcome` tells the table what a response means.
//!    `headers` and `body` are what passes, `framing` reads what hyper says of a broken body, `backpressure` keeps what is
//!    on its way small, `record` is what is counted and logged. `connect` and `tunnel` do the same for CONNECT.
//! 5. [`egress`] and [`upstream`]: where we may go, and the connections that go there.
//!
//! [`error`] says what can go wrong and whose fault it is; `answers` gives that to the client.

pub mod egress;
pub mod error;
pub mod listener;
pub mod shared;
pub mod upstream;

mod admission;
mod answers;
mod auth;
mod backpressure;
mod body;
mod chunks;
mod connect;
mod connection;
mod exchange;
mod forward;
mod framing;
mod hang_up;
mod headers;
mod intercept;
mod keys;
mod multiplex;
mod outcome;
mod pending;
mod record;
mod reverse;
mod tap;
mod target;
mod transport;
mod tunnel;
mod wire;

/// What must hold of any input, for `tests/fuzz` and for the unit tests. Not there in a build for use.
#[cfg(any(test, fuzzing))]
pub mod properties;

pub use body::RequestBody;
