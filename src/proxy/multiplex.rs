//! HTTP/2 with a client, by prior knowledge or by ALPN (RFC 9113). hyper reads and writes the frames; every stream comes out
//! as a request like any other. What is left to do here: streams live in one set with their connection, so that they end
//! with it; a stream whose client does not take its answer is reset; a connection without streams ends after a while.
//!
//! The h2 crate bounds what a client can make us keep or do: streams, streams reset early, CONTINUATION frames, frames that
//! carry next to nothing, the size of a head after decompression, answers to PING and SETTINGS that wait to be written.
//!
//! Informational answers (1xx) are not passed on: hyper has no way to send them, and HTTP/2 has none to ask for a body.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::{self, AbortHandle, Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use super::body::ResponseBody;
use super::connection::{self, Client, Context, Port};
use super::tap::Head;
use super::transport::{Prefixed, Transport, Tunnelled};
use super::wire::Wire;
use crate::config::settings::Limits;
use crate::metrics::Bound;

/// The first bytes of a connection that speaks HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams of one connection at a time.
const MAX_STREAMS: u32 = 128;

/// What may be on its way to us for one stream, and for all of a connection; and from us. The connection's is the sum of its
/// streams', so that streams whose upstreams take nothing do not hold up the others.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that a client opened and reset before we looked at them ("rapid reset").
const MAX_RESET: usize = 20;

/// Streams that we had to reset because of the client. Pieces of uploads that were answered early may count here too, so
/// there is room.
const MAX_FAULTY: usize = 1024;

/// How often a connection is looked after.
const TICK: Duration = Duration::from_secs(1);

/// How long a client may keep a connection without streams open after it was told that it ends.
const LINGER: Duration = Duration::from_secs(2);

/// How hyper is to speak HTTP/2 with clients.
pub(super) fn builder(limits: &Limits, streams: Streams) -> http2::Builder<Streams> {
    let mut http = http2::Builder::new(streams);
    http.timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESET)
        .max_local_error_reset_streams(MAX_FAULTY);
    http
}

/// Whether a connection begins with the preface of HTTP/2. Takes bytes only while they agree with it.
pub(super) async fn is_preface(stream: &mut Transport, early: &mut Bytes, within: Duration) -> bool {
    let mut seen = early.to_vec();
    if seen.is_empty() && !stream.may_begin_with(PREFACE).await {
        return false;
    }
    let read = async {
        while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
            let mut piece = vec![0; PREFACE.len().saturating_sub(seen.len())];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(read) => seen.extend_from_slice(piece.get(..read).unwrap_or_default()),
            }
        }
    };
    if within.is_zero() {
        read.await;
    } else {
        // What has come by then is judged by the reader of HTTP/1, which has a timeout of its own.
        let _ = tokio::time::timeout(within, read).await;
    }
    *early = seen.into();
    early.starts_with(PREFACE)
}

/// Serves a connection to its end.
pub(super) async fn run(
    context: Arc<Context>,
    port: Arc<Port>,
    stream: Transport,
    early: Bytes,
    (peer, local): (SocketAddr, SocketAddr),
    drain: &mut watch::Receiver<bool>,
) {
    let streams = Streams::default();
    let _aborts = AbortOnDrop(streams.clone());
    let limits = &context.shared.settings.limits;
    let service = {
        let (context, streams) = (Arc::clone(&context), streams.clone());
        service_fn(move |request: Request<Incoming>| {
            let client = Client {
                wire: Wire::of_stream(context.shared.settings.limits.keepalive_timeout),
                context: Arc::clone(&context),
                peer,
                local,
                port: Arc::clone(&port),
            };
            streams.announce(&client.wire);
            let streams = streams.clone();
            async move {
                let wire = Arc::clone(&client.wire);
                let answer = serve(client, request, streams).await;
                wire.passes(answer)
            }
        })
    };
    let io = TokioIo::new(Prefixed::new(early, stream));
    let mut connection = pin!(builder(limits, streams.clone()).serve_connection(io, service));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut idle = None;
    let mut ending = None;
    loop {
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, "an HTTP/2 connection of a client ended with an error");
                    if is_flood(&error) {
                        context.shared.metrics.bound_reached(Bound::Http2Flood);
                    }
                }
                break;
            }
            _ = drain.wait_for(|closing| *closing), if ending.is_none() => {
                ending = Some(Instant::now());
                connection.as_mut().graceful_shutdown();
            }
            now = tick.tick() => {
                for _ in 0..streams.reset_stalled(now) {
                    context.shared.metrics.bound_reached(Bound::BodyIdle);
                }
                if streams.reap() {
                    idle = None;
                    continue;
                }
                let since = *idle.get_or_insert(now);
                let waited = now.saturating_duration_since(since);
                match ending {
                    None if !limits.keepalive_timeout.is_zero() && waited >= limits.keepalive_timeout => {
                        context.shared.metrics.bound_reached(Bound::KeepaliveTimeout);
                        ending = Some(now);
                        connection.as_mut().graceful_shutdown();
                    }
                    Some(at) if waited.min(now.saturating_duration_since(at)) >= LINGER => break,
                    _ => {}
                }
            }
        }
    }
}

/// Whether a connection was ended because the client made us work for nothing: too many of something, or a head so large
/// that not even its decompression is worth going on with (COMPRESSION_ERROR).
fn is_flood(error: &hyper::Error) -> bool {
    error
        .source()
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .filter(|error| !error.is_remote())
        .and_then(h2::Error::reason)
        .is_some_and(|reason| [h2::Reason::ENHANCE_YOUR_CALM, h2::Reason::COMPRESSION_ERROR].contains(&reason))
}

async fn serve(client: Client, mut request: Request<Incoming>, streams: Streams) -> Response<ResponseBody> {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let response = client.serve(request, Head::default()).await;
    if let (Some(next), Some(upgrade)) = (client.wire.take_over(), upgrade) {
        let (context, ends) = (Arc::clone(&client.context), (client.peer, client.local));
        let (stream_task, writers) = (task::try_id(), Arc::downgrade(&streams.0));
        streams.spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let reset = move || {
                if let Some(tasks) = writers.upgrade() {
                    Streams(tasks).reset_tunnel(stream_task);
                }
            };
            let stream = Transport::Stream(Box::new(Tunnelled::new(upgraded, reset)));
            connection::go_on(context, next, stream, Bytes::new(), ends).await;
        });
    }
    response
}

/// The tasks of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<Mutex<Tasks>>);

#[derive(Debug, Default)]
struct Tasks {
    set: JoinSet<()>,
    /// The stream whose task comes next: hyper starts it as soon as the service has been called, in the same task. Other
    /// tasks may start some of their own in between.
    announced: Option<(Arc<Wire>, Option<Id>)>,
    live: Vec<Stream>,
    /// What hyper started from the tasks of streams, by those: it writes their tunnels.
    writers: Vec<(Option<Id>, AbortHandle)>,
}

#[derive(Debug)]
struct Stream {
    wire: Arc<Wire>,
    task: AbortHandle,
    /// What had been handed on at the last look, if the client was not taking it, and since when.
    stalled: Option<(u64, Instant)>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, wire: &Arc<Wire>) {
        self.lock().announced = Some((Arc::clone(wire), task::try_id()));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.lock().set.spawn(task);
    }

    /// Stops writing the tunnel of the stream that had this task.
    fn reset_tunnel(&self, stream: Option<Id>) {
        for (_, writer) in self.lock().writers.iter().filter(|(by, _)| *by == stream) {
            writer.abort();
        }
    }

    /// Forgets what has ended. Says whether anything is left.
    fn reap(&self) -> bool {
        let mut tasks = self.lock();
        tasks.forget_ended();
        !tasks.set.is_empty()
    }

    /// Resets streams whose client has not taken anything for too long. Says how many.
    fn reset_stalled(&self, now: Instant) -> u32 {
        let mut reset = 0_u32;
        for stream in &mut self.lock().live {
            stream.stalled = match (stream.wire.stalled_at(), stream.stalled) {
                (Some(at), Some((before, since))) if at == before => Some((at, since)),
                (Some(at), _) => Some((at, now)),
                (None, _) => None,
            };
            if let (Some((_, since)), Some(patience)) = (stream.stalled, stream.wire.patience())
                && now.saturating_duration_since(since) >= patience
                && !stream.task.is_finished()
            {
                stream.task.abort();
                reset = reset.saturating_add(1);
            }
        }
        reset
    }
}

impl Tasks {
    fn forget_ended(&mut self) {
        let before = self.set.len();
        while self.set.try_join_next().is_some() {}
        if self.set.len() < before {
            self.live.retain(|stream| !stream.task.is_finished());
            self.writers.retain(|(_, task)| !task.is_finished());
        }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let here = task::try_id();
        let mut tasks = self.lock();
        // Here, not only at a tick: a client may open and end any number of streams between two of them.
        tasks.forget_ended();
        let announced = tasks.announced.take_if(|(_, by)| *by == here);
        let task = tasks.set.spawn(task);
        match announced {
            Some((wire, _)) => tasks.live.push(Stream { wire, task, stalled: None }),
            None => tasks.writers.push((here, task)),
        }
    }
}

/// A connection takes its tasks along, however it ends.
struct AbortOnDrop(Streams);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.lock().set.abort_all();
    }
}
