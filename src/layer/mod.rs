//! A layer for [tower](https://docs.rs/tower) services: a Rust program gets the cooldowns in its own client, without a proxy.
//!
//! [`HoldoffLayer`] goes over any `Service<http::Request<B>>` that answers with `http::Response<R>`. It asks before each
//! request whether the host may be contacted, reads the head of each response, and answers by itself while a host cools.
//!
//! # Why it decides in `call`
//!
//! One service speaks to many hosts, and `poll_ready` does not know which one is meant. A layer that waited there would let
//! one cooling host block the requests to all others. So `poll_ready` only asks the inner service, and the decision falls in
//! `call`, with the request at hand. A refused request does not reach the inner service. What the inner service reserved in
//! its `poll_ready` (a place of a concurrency limit, say) stays with this service for its next call, or until it is dropped.
//!
//! # What it does with a request
//!
//! 1. The key: scheme, host and port of the URI, or of the `Host` header ([`RequestKey`], or a [`KeyFor`] of your own).
//!    A request without a key passes untouched and is counted ([`Holdoff::without_key`]).
//! 2. The host cools: the inner service is not called. The answer is a response (429 or 503 with `Retry-After`), or, after
//!    [`HoldoffLayer::short_circuit_as_error`], a [`HoldoffError`].
//! 3. Else the request is sent. When the response head is there, its outcome is noted ([`crate::core::classify`]); the body
//!    is neither read nor held back. An error of the inner service is classified by a [`ClassifyError`]. Dropping the future
//!    before that says nothing about the host; if the request was the probe, the place of the probe is free again.
//!    Of gRPC this sees what stands in a head; a status behind the body is not read, and such a response is a success.
//!
//! The host's own answers pass unchanged, the first 429 included.
//!
//! # One handle, many clients
//!
//! The cooldowns live in a [`Holdoff`]. It is a cheap handle: clone it, give it to the layers of several clients
//! ([`HoldoffLayer::sharing`]), and ask it what is going on.
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use holdoff::core::key::Key;
//! use holdoff::layer::{Holdoff, HoldoffLayer, ShortCircuit};
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Full;
//! use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let holdoff = Holdoff::new();
//! let client = ServiceBuilder::new()
//!     .layer(HoldoffLayer::sharing(&holdoff))
//!     // Stands for a real client; this one's host is busy for two minutes.
//!     .service(service_fn(|_: Request<Full<Bytes>>| async {
//!         let response = Response::builder().status(429).header("retry-after", "120");
//!         Ok::<_, BoxError>(response.body(Full::new(Bytes::from("slow down")))?)
//!     }));
//! let ask = || client.clone().oneshot(Request::get("https://peer.example/").body(Full::default()).unwrap());
//!
//! let from_the_host = ask().await?;
//! assert_eq!(from_the_host.status(), StatusCode::TOO_MANY_REQUESTS);
//! assert!(from_the_host.extensions().get::<ShortCircuit>().is_none());
//!
//! // The host is not asked again.
//! let from_here = ask().await?;
//! assert_eq!(from_here.status(), StatusCode::TOO_MANY_REQUESTS);
//! let refusal = from_here.extensions().get::<ShortCircuit>().ok_or("expected an answer of the layer")?;
//! assert!(refusal.not_until().wait > Duration::from_secs(119));
//!
//! // Somebody knows better.
//! assert!(holdoff.release(&Key::parse("https://peer.example")?));
//! # Ok(())
//! # }
//! ```

mod answer;
mod future;
mod handle;
mod hooks;
#[expect(clippy::module_inception, reason = "the layer itself, beside its parts")]
mod layer;

pub use answer::{Answer, AsError, AsResponse, EmptyBody, FromBytes, HoldoffError, MakeBody, ShortCircuit};
pub use future::ResponseFuture;
pub use handle::{Clock, Holdoff, HoldoffBuilder, SystemClock};
pub use hooks::{ClassifyError, KeyFor, RequestKey, Unreachable, failure_of};
pub use layer::{HoldoffLayer, HoldoffService};
