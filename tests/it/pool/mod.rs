//! The connection pool against peers that misbehave. Judged are what the client gets, what arrives at the peer and on which
//! connection, and that nothing stays behind.

use std::time::Duration;

use crate::support::sidecar::Holdoff;
use crate::support::within;

mod peer;
mod schedules;

/// Waits until no request is worked on and no connection is left.
async fn is_at_rest(holdoff: &Holdoff) {
    within("a pool at rest", async {
        loop {
            let page = holdoff.ask_admin("GET", "/metrics", "").await;
            let mut left = page.text().lines().filter(|line| {
                (line.starts_with("holdoff_requests_in_flight") || line.starts_with("holdoff_upstream_connections"))
                    && !line.ends_with(" 0")
            });
            if left.next().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
