//! The proxy port: absolute-form over http, CONNECT for everything else (SPEC 7.2). What is neither gets an explanation.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue, MAX_FORWARDS};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response};
use hyper::body::Incoming;

use super::body::ResponseBody;
use super::connect;
use super::connection::{Client, Context};
use super::error::{ErrorKind, ProxyError};
use super::exchange::{self, Outbound, drain, expects_continue, local, refuse};
use super::record::Record;
use super::tap::Head;
use super::target::{self, Form};
use crate::core::key::{KeyRef, Scheme};
use crate::core::time::Instant;
use crate::synthetic;
use crate::table::clock;

/// Serves a request on the proxy port.
pub(super) async fn serve(
    client: &Client,
    mut request: Request<Incoming>,
    seen: Head,
    arrived: Instant,
) -> Response<ResponseBody> {
    let context = &client.context;
    let form = match check(client, &request, &seen).await {
        Ok(form) => form,
        Err(error) => {
            let record = Record::new(&context.shared, None, &request, arrived);
            return refuse(client, request, &error, record).await;
        }
    };
    if let Passage::Answer(answer) = passage(client, &mut request) {
        return own(client, request, answer, arrived).await;
    }
    match form {
        Form::Authority(authority) => connect::run(client, request, &authority, arrived).await,
        Form::Absolute(authority) => {
            let path = if seen.no_path || request.uri().path() == "*" {
                PathAndQuery::from_static("*")
            } else {
                target::origin_form(request.uri())
            };
            let key = target::key(Scheme::Http, authority.as_str()).and_then(|key| upgraded(context, key, &authority));
            let host = match &key {
                Ok(key) if key.scheme() == Scheme::Https => HeaderValue::from_str(authority.host()),
                _ => HeaderValue::from_str(authority.as_str()),
            };
            match key.and_then(|key| Ok((key, host.map_err(|_| not_a_header())?))) {
                Ok((key, host)) => {
                    let to = Outbound { key, path, host: Some(host), mapping: None };
                    exchange::run(client, request, to, arrived).await
                }
                Err(error) => {
                    let record = Record::new(&context.shared, None, &request, arrived);
                    refuse(client, request, &error, record).await
                }
            }
        }
        // About the proxy itself.
        Form::Asterisk | Form::Origin => own(client, request, options(), arrived).await,
    }
}

/// The key of `https://h` for `http://h`, if the policy of `http://h` says `tls.upgrade` (SPEC 7.4).
fn upgraded<'a>(context: &Context, key: KeyRef<'a>, authority: &'a Authority) -> Result<KeyRef<'a>, ProxyError> {
    if context.shared.settings.hosts.upgrades(&key) {
        return target::key(Scheme::Https, authority.host());
    }
    Ok(key)
}

fn not_a_header() -> ProxyError {
    ProxyError::new(ErrorKind::BadRequest, "the target's host cannot stand in a field")
}

async fn check(client: &Client, request: &Request<Incoming>, seen: &Head) -> Result<Form, ProxyError> {
    let headers = request.headers();
    target::check_head(request.version(), headers, seen)?;
    target::check_stream(request, client.context.shared.settings.limits.max_header_fields)?;
    let form = target::form(request.method(), request.uri())?;
    if form == Form::Origin {
        return Err(ProxyError::new(ErrorKind::NotProxyRequest, synthetic::how_to_use(&client.local)));
    }
    if let Some(auth) = &client.context.auth {
        auth.check(headers).await?;
    }
    if client.context.via.is_loop(headers) {
        return Err(ProxyError::new(ErrorKind::Loop, "the request has been here before: `Via` has our name"));
    }
    Ok(form)
}

/// Whether a request goes on, by `Max-Forwards` (RFC 9110 §7.6.2).
pub(super) enum Passage {
    /// It does.
    On,
    /// We are the last to see it.
    Answer(Response<Bytes>),
}

/// Counts `Max-Forwards` down for the methods it is for.
pub(super) fn passage(client: &Client, request: &mut Request<Incoming>) -> Passage {
    let is_trace = request.method() == Method::TRACE;
    if !is_trace && request.method() != Method::OPTIONS {
        return Passage::On;
    }
    let left = request.headers().get(MAX_FORWARDS).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    match left {
        None => Passage::On,
        Some(0) => Passage::Answer(if is_trace { trace(client, request) } else { options() }),
        Some(left) => {
            if let Some(value) = request.headers_mut().get_mut(MAX_FORWARDS) {
                *value = HeaderValue::from(left.saturating_sub(1));
            }
            Passage::On
        }
    }
}

/// What we ourselves can do.
fn options() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE, CONNECT"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// The request as we saw it, without what may be secret (RFC 9110 §9.3.8).
fn trace(client: &Client, request: &Request<Incoming>) -> Response<Bytes> {
    let mut body = format!("TRACE {} {:?}\r\n", request.uri(), request.version()).into_bytes();
    for (name, value) in request.headers() {
        let name = name.as_str();
        let is_secret = ["authorization", "cookie", "token", "secret", "key"].iter().any(|word| name.contains(word));
        if !is_secret {
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(b": ");
            body.extend_from_slice(value.as_bytes());
            body.extend_from_slice(b"\r\n");
        }
    }
    tracing::debug!(peer = %client.peer, "a TRACE ended here");
    let mut response = Response::new(Bytes::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("message/http"));
    response
}

/// Sends an answer about ourselves.
pub(super) async fn own(
    client: &Client,
    request: Request<Incoming>,
    mut answer: Response<Bytes>,
    arrived: Instant,
) -> Response<ResponseBody> {
    let record = Record::new(&client.context.shared, None, &request, arrived);
    let version = request.version();
    let expects = expects_continue(&request);
    let keep = drain(client, request.into_body(), expects).await;
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(clock::wall().into())) {
        answer.headers_mut().insert(DATE, date);
    }
    local(client, answer, version, keep, record.own())
}
