//! A peer on loopback that serves one request a second and answers the others with 429 and `Retry-After: 1`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// What the peer saw.
#[derive(Default)]
pub(crate) struct Seen {
    served: AtomicU64,
    limited: AtomicU64,
    last_served: Mutex<Option<Instant>>,
}

impl Seen {
    /// Requests it served.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Requests it answered with 429.
    pub(crate) fn limited(&self) -> u64 {
        self.limited.load(Ordering::Relaxed)
    }

    fn answer(&self) -> Response<Full<Bytes>> {
        let mut last = self.last_served.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut response = Response::new(Full::default());
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            self.limited.fetch_add(1, Ordering::Relaxed);
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            response.headers_mut().insert("retry-after", http::HeaderValue::from_static("1"));
        } else {
            self.served.fetch_add(1, Ordering::Relaxed);
            *last = Some(Instant::now());
        }
        response
    }
}

/// Starts the peer on a free port. It ends with the runtime.
pub(crate) async fn start() -> std::io::Result<(SocketAddr, Arc<Seen>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&shared);
            let service = service_fn(move |_| {
                let response = seen.answer();
                async { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok((address, seen))
}
