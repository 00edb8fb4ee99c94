//! What can go wrong between a client and its answer: at which stage, whose fault it is, what the client is told, and
//! what it says about the host.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderMap, StatusCode};

use crate::core::decision::Reason;
use crate::core::signal::grpc::Code;
use crate::core::signal::{Failure, Outcome, Signal};
use crate::metrics::Bound;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client's.
    Client,
    /// The upstream's, or the network's on the way to it.
    Upstream,
    /// Ours, or a bound of ours.
    Holdoff,
}

impl Fault {
    /// `client`, `upstream` or `holdoff`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Holdoff => "holdoff",
        }
    }
}

/// How far an exchange had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading the client's request.
    Request,
    /// Checking where it wants to go.
    Destination,
    /// Resolving the host's name.
    Dns,
    /// Waiting for a connection of the pool.
    Pool,
    /// Connecting.
    Connect,
    /// Agreeing on TLS.
    Tls,
    /// Sending the request.
    Send,
    /// Waiting for the response head.
    Head,
    /// Reading the response body.
    Body,
}

impl Stage {
    /// The word shown in answers and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Destination => "destination",
            Self::Dns => "dns",
            Self::Pool => "pool",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Send => "send",
            Self::Head => "head",
            Self::Body => "body",
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $status:ident, $stage:ident, $fault:ident, $token:literal;)*) => {
        /// A kind of error. Closed: it is a metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $name,)*
        }

        impl ErrorKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word used in answers, logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The status the client gets.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// How far the exchange had come.
            pub const fn stage(self) -> Stage {
                match self { $(Self::$name => Stage::$stage,)* }
            }

            /// Whose fault it is.
            pub const fn fault(self) -> Fault {
                match self { $(Self::$name => Fault::$fault,)* }
            }

            /// The error token of `Proxy-Status` (RFC 9209 §2.3).
            pub const fn proxy_status(self) -> &'static str {
                match self { $(Self::$name => $token,)* }
            }
        }
    };
}

kinds! {
    /// The request is not well-formed, or ambiguous.
    BadRequest = "bad_request", BAD_REQUEST, Request, Client, "http_request_error";
    /// The request has a target that the proxy port does not serve (origin-form).
    NotProxyRequest = "not_proxy_request", BAD_REQUEST, Request, Client, "http_request_error";
    /// No `[[reverse]]` of the address has the path.
    NoRoute = "no_route", NOT_FOUND, Request, Client, "destination_not_found";
    /// CONNECT on a port that opens no tunnels.
    NoTunnel = "no_tunnel", NOT_IMPLEMENTED, Request, Client, "http_request_error";
    /// The scheme is neither http nor https.
    UnknownScheme = "unknown_scheme", NOT_IMPLEMENTED, Request, Client, "http_request_error";
    /// The client is not in `clients`.
    ClientDenied = "client_denied", FORBIDDEN, Request, Client, "http_request_denied";
    /// Proxy credentials are missing or wrong.
    ProxyAuth = "proxy_auth", PROXY_AUTHENTICATION_REQUIRED, Request, Client, "http_request_denied";
    /// The client was too slow with its request.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, Request, Client, "http_request_error";
    /// The request body is larger than `max_request_body`.
    RequestTooLarge = "request_too_large", PAYLOAD_TOO_LARGE, Request, Client, "http_request_error";
    /// The request target is too long.
    UriTooLong = "uri_too_long", URI_TOO_LONG, Request, Client, "http_request_error";
    /// The request head is too large.
    HeadTooLarge = "head_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, Request, Client, "http_request_error";
    /// The request body broke off or is malformed.
    RequestBody = "request_body", BAD_REQUEST, Request, Client, "http_request_error";
    /// The client left before its answer.
    ClientGone = "client_gone", BAD_REQUEST, Request, Client, "http_request_error";
    /// The request came back to us.
    Loop = "loop", LOOP_DETECTED, Destination, Client, "proxy_loop_detected";
    /// The destination is one of our own listeners.
    OwnListener = "own_listener", LOOP_DETECTED, Destination, Client, "proxy_loop_detected";
    /// The destination may not be reached.
    DestinationDenied = "destination_denied", FORBIDDEN, Destination, Client, "destination_ip_prohibited";
    /// CONNECT may not name the port.
    DestinationPort = "destination_port", FORBIDDEN, Destination, Client, "http_request_denied";
    /// The name does not resolve.
    Dns = "dns", BAD_GATEWAY, Dns, Upstream, "dns_error";
    /// The look-up took too long.
    DnsTimeout = "dns_timeout", GATEWAY_TIMEOUT, Dns, Upstream, "dns_timeout";
    /// Every connection to the host is in use, for too long.
    PoolTimeout = "pool_timeout", SERVICE_UNAVAILABLE, Pool, Holdoff, "connection_limit_reached";
    /// A bound of ours is reached.
    Overload = "overload", SERVICE_UNAVAILABLE, Request, Holdoff, "proxy_internal_error";
    /// The host refuses connections.
    ConnectRefused = "connect_refused", BAD_GATEWAY, Connect, Upstream, "connection_refused";
    /// No connection for another reason.
    ConnectFailed = "connect_failed", BAD_GATEWAY, Connect, Upstream, "destination_ip_unroutable";
    /// Connecting took too long.
    ConnectTimeout = "connect_timeout", GATEWAY_TIMEOUT, Connect, Upstream, "connection_timeout";
    /// The parent proxy does not take our user and password.
    ParentAuth = "parent_auth", BAD_GATEWAY, Connect, Holdoff, "proxy_configuration_error";
    /// The parent proxy says "slow down" instead of opening a tunnel.
    ParentLimited = "parent_limited", TOO_MANY_REQUESTS, Connect, Upstream, "connection_limit_reached";
    /// The parent proxy is not available for a named time.
    ParentUnavailable = "parent_unavailable", SERVICE_UNAVAILABLE, Connect, Upstream, "destination_unavailable";
    /// The parent proxy does not open tunnels to the host.
    ParentRefused = "parent_refused", BAD_GATEWAY, Connect, Upstream, "http_request_denied";
    /// TLS could not be agreed on.
    TlsProtocol = "tls_protocol", BAD_GATEWAY, Tls, Upstream, "tls_protocol_error";
    /// The host's certificate is not good.
    TlsCertificate = "tls_certificate", BAD_GATEWAY, Tls, Upstream, "tls_certificate_error";
    /// The host's certificate is good, but not that of who was expected.
    Identity = "identity", BAD_GATEWAY, Tls, Upstream, "tls_certificate_error";
    /// TLS took too long.
    TlsTimeout = "tls_timeout", GATEWAY_TIMEOUT, Tls, Upstream, "connection_timeout";
    /// The connection broke before the response head was complete.
    UpstreamReset = "upstream_reset", BAD_GATEWAY, Head, Upstream, "connection_terminated";
    /// The upstream asks for less, on the connection instead of in a response (HTTP/2's ENHANCE_YOUR_CALM).
    UpstreamCalm = "upstream_calm", SERVICE_UNAVAILABLE, Head, Upstream, "connection_limit_reached";
    /// The response is not HTTP, or ambiguous.
    UpstreamProtocol = "upstream_protocol", BAD_GATEWAY, Head, Upstream, "http_protocol_error";
    /// The response head took too long.
    HeadTimeout = "head_timeout", GATEWAY_TIMEOUT, Head, Upstream, "http_response_timeout";
    /// The response body broke off.
    UpstreamBody = "upstream_body", BAD_GATEWAY, Body, Upstream, "http_response_incomplete";
    /// No piece of a body for too long.
    BodyTimeout = "body_timeout", GATEWAY_TIMEOUT, Body, Upstream, "http_response_timeout";
    /// Something in holdoff itself.
    Internal = "internal", BAD_GATEWAY, Request, Holdoff, "proxy_internal_error";
}

impl ErrorKind {
    /// The status a gRPC client gets. What may go well later, without anybody mending anything, is UNAVAILABLE, which such
    /// clients retry; RESOURCE_EXHAUSTED means "slow down" only, so that no bound of ours is taken for that.
    pub const fn grpc(self) -> Code {
        match self {
            Self::BadRequest | Self::NotProxyRequest | Self::Internal | Self::ParentAuth => Code::Internal,
            Self::NoRoute | Self::NoTunnel | Self::UnknownScheme => Code::Unimplemented,
            Self::ClientDenied | Self::DestinationDenied | Self::DestinationPort => Code::PermissionDenied,
            Self::ProxyAuth => Code::Unauthenticated,
            Self::RequestTimeout => Code::DeadlineExceeded,
            Self::RequestTooLarge | Self::UriTooLong | Self::HeadTooLarge => Code::InvalidArgument,
            Self::RequestBody | Self::ClientGone => Code::Cancelled,
            Self::Loop | Self::OwnListener => Code::FailedPrecondition,
            Self::UpstreamCalm | Self::ParentLimited => Code::ResourceExhausted,
            Self::Dns
            | Self::DnsTimeout
            | Self::PoolTimeout
            | Self::Overload
            | Self::ConnectRefused
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::TlsProtocol
            | Self::TlsCertificate
            | Self::Identity
            | Self::TlsTimeout
            | Self::UpstreamReset
            | Self::UpstreamProtocol
            | Self::HeadTimeout
            | Self::UpstreamBody
            | Self::BodyTimeout
            | Self::ParentUnavailable
            | Self::ParentRefused => Code::Unavailable,
        }
    }

    /// What the error says about the host (SPEC 2.9): faults on our or the client's side say nothing.
    pub fn outcome(self) -> Outcome {
        let failure = match self {
            Self::Dns | Self::DnsTimeout => Failure::Dns,
            Self::ConnectRefused => Failure::Refused,
            Self::ConnectFailed => Failure::Unreachable,
            Self::ConnectTimeout | Self::TlsTimeout | Self::HeadTimeout => Failure::Timeout,
            Self::TlsProtocol | Self::TlsCertificate | Self::Identity => Failure::Tls,
            Self::UpstreamReset => Failure::Reset,
            Self::UpstreamProtocol => Failure::Malformed,
            Self::UpstreamCalm => {
                let received = Some(Box::from("ENHANCE_YOUR_CALM"));
                return Outcome::Signal(Signal { reason: Reason::RateLimited, hint: None, received });
            }
            _ => return Outcome::Neutral,
        };
        Outcome::Failing(failure)
    }

    /// The bound of ours that every error of the kind is about.
    const fn bound(self) -> Option<Bound> {
        match self {
            Self::RequestTooLarge => Some(Bound::RequestBody),
            Self::RequestTimeout | Self::BodyTimeout => Some(Bound::BodyIdle),
            Self::PoolTimeout => Some(Bound::UpstreamConnections),
            _ => None,
        }
    }
}

/// An error on the way to an answer: a kind and one line for people. The line never has credentials, queries or bodies.
#[derive(Debug)]
pub struct ProxyError {
    kind: ErrorKind,
    detail: Cow<'static, str>,
    bound: Option<Bound>,
    at_parent: Option<AtParent>,
}

/// What an error on the way through a parent proxy says of the parent.
#[derive(Debug)]
pub enum AtParent {
    /// It is the parent that failed; nothing is known of the host.
    Failed,
    /// It did what it is for.
    Served,
    /// Nothing.
    Unknown,
    /// It answered instead of the host.
    Answered {
        /// The status.
        status: StatusCode,
        /// The fields.
        headers: Box<HeaderMap>,
    },
}

impl ProxyError {
    /// An error of `kind`, explained by `detail` (lower case, no full stop).
    pub fn new(kind: ErrorKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), bound: kind.bound(), at_parent: None }
    }

    /// The same error, which happened on the way through a parent.
    #[must_use]
    pub fn at_parent(self, at: AtParent) -> Self {
        Self { at_parent: Some(at), ..self }
    }

    /// What it says of the parent, if there is one and it says anything.
    pub const fn parent(&self) -> Option<&AtParent> {
        self.at_parent.as_ref()
    }

    /// The same error, about a bound that its kind does not tell.
    pub fn at(self, bound: Option<Bound>) -> Self {
        Self { bound: bound.or(self.bound), ..self }
    }

    /// The kind.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The bound of ours that it is about; to be counted once.
    pub const fn bound(&self) -> Option<Bound> {
        self.bound
    }

    /// The line for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, fault of {})", self.detail, self.kind.stage().as_str(), self.kind.fault().as_str())
    }
}

impl std::error::Error for ProxyError {}
