//! One attempt at an exchange: a request given to a connection, and what it takes to make another attempt.

use std::error::Error as StdError;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::exchange::{self, Http1, Http2, Line, Outgoing, ResponseBody, Watch, await_head, says_close, stream_head};
use super::pool::Lease;
use crate::config::settings::{HostSettings, Timeouts};
use crate::core::key::Key;
use crate::metrics::Bound;
use crate::proxy::error::{ErrorKind, ProxyError};

pub(super) type Answered<B> = Result<Response<Incoming>, TrySendError<Request<Outgoing<B>>>>;

/// One attempt at an exchange.
pub(super) struct Attempt<B> {
    pub(super) answered: Result<Answered<B>, ProxyError>,
    pub(super) kept: Option<Kept<B>>,
    pub(super) watch: Option<Arc<Watch>>,
    /// The upstream ended the whole connection to be asked for less.
    pub(super) calmed: bool,
}

/// What is kept of a request that was given to HTTP/2 in another form, for another attempt.
pub(super) struct Kept<B> {
    head: Parts,
    /// If it is empty.
    body: Option<B>,
}

/// The request again, if nothing of it was sent, or if it `was_refused` and has no body.
pub(super) fn whole<B>(
    message: Option<Request<Outgoing<B>>>,
    kept: Option<Kept<B>>,
    was_refused: bool,
) -> Option<Request<B>>
where
    B: Body<Data = Bytes>,
{
    match (message, kept) {
        (Some(message), kept) => {
            let (head, body) = message.into_parts();
            let (head, empty) = kept.map_or((head, None), |kept| (kept.head, kept.body));
            Some(Request::from_parts(head, empty.or_else(|| body.into_inner())?))
        }
        (None, Some(Kept { head, body: Some(body) })) if was_refused => Some(Request::from_parts(head, body)),
        (None, _) => None,
    }
}

pub(super) async fn over_http1<B>(line: &mut Http1<B>, mut request: Request<B>, timeouts: &Timeouts) -> Attempt<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    *request.version_mut() = Version::HTTP_11;
    let (mut parts, body) = request.into_parts();
    // Of a method that seldom has a body hyper would leave it out. Chunks are how every other one goes.
    if !body.is_end_stream() && !parts.headers.contains_key(CONTENT_LENGTH) && body.size_hint().exact().is_none() {
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let (body, watch) = Outgoing::new(body, Some(&line.pressure));
    let sent = line.sender.try_send_request(Request::from_parts(parts, body));
    let answered = tokio::select! {
        answered = await_head(sent, timeouts.head, watch.as_deref()) => answered,
        // Without `head` nothing else would end it: not even that the client leaves can be seen behind what is unread.
        () = line.pressure.stands_still(timeouts.body_idle), if watch.is_some() => Err(ProxyError::new(
            ErrorKind::HeadTimeout,
            "the upstream neither takes the request body nor answers",
        )
        .at(Some(Bound::BodyIdle))),
    };
    Attempt { answered, kept: None, watch, calmed: false }
}

pub(super) async fn over_http2<B>(
    line: &mut Http2<B>,
    key: &Key,
    request: Request<B>,
    head: Duration,
    patience: Duration,
) -> Attempt<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let mut as_stream = stream_head(&parts, key);
    // hyper has this for as long as the request waits.
    let waits = Arc::new(());
    let is_waiting = Arc::downgrade(&waits);
    as_stream.extensions_mut().insert(waits);
    let (body, empty, watch) = if body.is_end_stream() {
        (Outgoing::empty(), Some(body), None)
    } else {
        let (body, watch) = Outgoing::new(body, None);
        (body, None, watch)
    };
    let kept = Some(Kept { head: parts, body: empty });
    let turn = line.next_turn();
    let mut sent = pin!(line.sender.try_send_request(as_stream.map(|()| body)));
    let mut turn = pin!(tokio::time::timeout(patience, turn));
    // Asked in this order at first, so that both lines are in the same order.
    let answered = tokio::select! {
        biased;
        answered = sent.as_mut() => Ok(answered),
        turn = turn.as_mut() => match turn {
            Ok(turn) => {
                line.turn = turn;
                await_head(sent, head, watch.as_deref()).await
            }
            Err(_) if is_waiting.strong_count() > 0 => Err(no_turn()),
            // It may be under way, since streams end before those who read them slowly give their turn back.
            Err(_) => await_head(sent, head, watch.as_deref()).await.map_err(|_| no_turn()),
        },
    };
    let calmed = match &answered {
        Ok(Err(failure)) if exchange::broke_off(failure.error()) => line.was_calmed().await,
        _ => false,
    };
    Attempt { answered, kept, watch, calmed }
}

fn no_turn() -> ProxyError {
    ProxyError::new(ErrorKind::PoolTimeout, "the host takes no more streams at a time")
}

/// Puts the lease into the body, so that the connection goes back at its end.
pub(super) fn deliver<B: Send + 'static>(
    response: Response<Incoming>,
    lease: Lease<Line<B>>,
    host: &HostSettings,
) -> Response<ResponseBody<B>> {
    let (parts, incoming) = response.into_parts();
    let reusable = parts.version == Version::HTTP_2 || parts.version == Version::HTTP_11 && !says_close(&parts.headers);
    let lease = if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        lease.detach();
        None
    } else {
        Some(lease)
    };
    let body = ResponseBody::new(incoming, lease, reusable, host.timeouts.body_idle);
    Response::from_parts(parts, body)
}
