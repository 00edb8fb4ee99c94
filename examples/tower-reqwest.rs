//! Cooldowns over reqwest: a program that fetches four items from a peer that serves one a second, and waits as long as
//! it is told.
//!
//! ```sh
//! cargo run --features tower --example tower-reqwest
//! ```
//!
//! reqwest has request and response types of its own. Both convert to those of the `http` crate, so that a small service
//! around the client is all it takes.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use holdoff::core::signal::{Failure, Outcome};
use holdoff::layer::{HoldoffError, HoldoffLayer, failure_of};
use http::{Request, Response};
use reqwest::Body;
use reqwest::redirect;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};

mod throttling_peer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let (peer, seen) = throttling_peer::start().await?;

    // A redirect would be followed below the layer, and what its target says would count for the first host.
    let reqwest = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).build()?;
    let layer = HoldoffLayer::new().classify_error(meaning).short_circuit_as_error();
    let mut client = ServiceBuilder::new().layer(layer).service(service_fn(move |request: Request<Body>| {
        let reqwest = reqwest.clone();
        async move { reqwest.execute(request.try_into()?).await.map(Response::<Body>::from) }
    }));

    let mut short_circuits = 0_u64;
    for number in 1..=4 {
        loop {
            let request = Request::get(format!("http://{peer}/item/{number}")).body(Body::default())?;
            match client.ready().await?.call(request).await {
                Ok(response) if response.status().is_success() => {
                    println!("item {number}: fetched");
                    break;
                }
                // The layer has read how long; the next turn of the loop is told.
                Ok(response) => println!("item {number}: the peer says {}", response.status()),
                Err(error) => {
                    let wait = wait_of(error)?;
                    println!("item {number}: the layer says in {wait:.1?}");
                    short_circuits = short_circuits.saturating_add(1);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    let (served, limited) = (seen.served(), seen.limited());
    println!("4 items: the peer served {served} and refused {limited}, the layer told {short_circuits} times to wait");
    let is_as_expected = served == 4 && limited <= 4 && short_circuits >= 1;
    if is_as_expected { Ok(()) } else { Err("expected no more than one refusal an item".into()) }
}

/// What an error of reqwest says about the peer.
fn meaning(error: &reqwest::Error) -> Outcome {
    if error.is_timeout() {
        Outcome::Failing(Failure::Timeout)
    } else if error.is_builder() || error.is_body() {
        Outcome::Neutral // on our side
    } else {
        Outcome::Failing(failure_of(error))
    }
}

/// How long to wait, or the error of the request that was sent.
fn wait_of(error: HoldoffError<reqwest::Error>) -> Result<std::time::Duration, HoldoffError<reqwest::Error>> {
    error.not_until().map(|not_until| not_until.wait).ok_or(error)
}
