//! Cooldowns over hyper-util's client: a program that asks ten times a second, and a peer that serves one.
//!
//! ```sh
//! cargo run --features tower --example tower-hyper
//! ```
//!
//! The program does not know of 429 at all, as the programs that holdoff is for. The layer answers in the peer's place.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::time::Duration;

use bytes::Bytes;
use holdoff::core::cooldown::Event;
use holdoff::core::signal::Outcome;
use holdoff::layer::{Holdoff, HoldoffLayer, ShortCircuit, failure_of};
use http::Request;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

mod throttling_peer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let (peer, seen) = throttling_peer::start().await?;

    let holdoff = Holdoff::builder().on_event(|_, event| tell(event)).build();
    let mut client = ServiceBuilder::new()
        .layer(
            HoldoffLayer::sharing(&holdoff)
                // What the connection says about the peer, instead of one word for every error.
                .classify_error(|error: &Error| Outcome::Failing(failure_of(error)))
                // hyper's own body cannot be made by a program, so that of all answers is one that can.
                .short_circuit_with_body(|line: Bytes| -> BoxBody<Bytes, hyper::Error> {
                    Full::new(line).map_err(|never| match never {}).boxed()
                }),
        )
        .map_response(|response: http::Response<hyper::body::Incoming>| response.map(BodyExt::boxed))
        .service(Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>());

    let (mut from_the_peer, mut from_the_layer) = (0_u64, 0_u64);
    for number in 1..=30 {
        let request = Request::get(format!("http://{peer}/item")).body(Empty::new())?;
        let response = client.ready().await?.call(request).await?;
        let (count, who) = match response.extensions().get::<ShortCircuit>() {
            Some(_) => (&mut from_the_layer, "layer"),
            None => (&mut from_the_peer, "peer "),
        };
        *count = count.saturating_add(1);
        let (status, body) = (response.status(), response.into_body().collect().await?.to_bytes());
        println!("request {number:2}  {who}  {status}  {}", String::from_utf8_lossy(&body).trim_end());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let (served, limited) = (seen.served(), seen.limited());
    println!("30 requests: the peer served {served} and refused {limited}, the layer spared it {from_the_layer}");
    for shown in holdoff.snapshots() {
        println!("{}: {}, {}", shown.key, shown.view.state.as_str(), shown.last_error.as_deref().unwrap_or("no error"));
    }
    let is_as_expected =
        served >= 2 && served.checked_add(limited) == Some(from_the_peer) && from_the_layer > from_the_peer;
    if is_as_expected { Ok(()) } else { Err("expected the layer to spare the peer most of the requests".into()) }
}

/// One line for each change, where a program would have a log or a metric.
fn tell(event: &Event) {
    match event {
        Event::Started { reason, length, .. } => println!("            cools for {length:.2?}: {}", reason.as_str()),
        Event::ProbeStarted { .. } => println!("            one request finds out whether it is well again"),
        Event::Ended { .. } => println!("            clear again"),
        _ => {}
    }
}
