//! A small client of the operators' door, for the commands that talk to a running holdoff.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};

use super::{AdminAddress, AdminArgs, Error};
use crate::admin::view::Problem;

/// The largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A running holdoff.
#[derive(Debug)]
pub(super) struct Client {
    address: AdminAddress,
    token: Option<HeaderValue>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Client {
    pub(super) fn new(args: &AdminArgs) -> Result<Self, Error> {
        let token = match args.token()? {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| Error::usage("expected a token of printable characters in the token file"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { address: args.admin.clone(), token })
    }

    /// Asks, whatever the answer.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Error> {
        match tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::failed(format!(
                "expected an answer of holdoff at {} within {} s, found none",
                self.address,
                TIMEOUT.as_secs()
            ))),
        }
    }

    /// Asks, and fails unless the answer is good.
    pub(super) async fn good(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let Answer { status, body } = self.ask(method, path, body).await?;
        if status.is_success() {
            return Ok(body);
        }
        let detail = match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => clean(&problem.detail),
            Err(_) => format!("expected an answer of holdoff at {}, found status {status}", self.address),
        };
        Err(match status {
            StatusCode::UNAUTHORIZED => Error::failed(format!("{detail}; name the file with `--token-file`")),
            StatusCode::BAD_REQUEST => Error::usage(detail),
            _ => Error::failed(detail),
        })
    }

    /// Reads a good answer.
    pub(super) fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|e| {
            Error::failed(format!("expected holdoff at {}, found something else or another version", self.address))
                .caused_by(&e)
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Error> {
        match &self.address {
            AdminAddress::Tcp { host, port } => {
                let stream = TcpStream::connect((&**host, *port)).await.map_err(|e| self.unreachable(&e))?;
                self.send(stream, method, path, body).await
            }
            AdminAddress::Unix(path_of_socket) => {
                let stream = UnixStream::connect(path_of_socket).await.map_err(|e| self.unreachable(&e))?;
                self.send(stream, method, path, body).await
            }
        }
    }

    async fn send(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let failed = |e: &dyn std::error::Error| {
            Error::failed(format!("expected an answer of holdoff at {}", self.address)).caused_by(e)
        };
        let host = match &self.address {
            AdminAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            AdminAddress::Tcp { host, port } => format!("{host}:{port}"),
            AdminAddress::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|e| failed(&e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| failed(&*e))?;
            Ok(Answer { status, body: body.to_bytes() })
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection may end when the answer is complete but not yet read.
            _ = connection => exchange.await,
        }
    }

    fn unreachable(&self, cause: &io::Error) -> Error {
        let address = &self.address;
        match cause.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Error::failed(format!(
                "expected a running holdoff at {address}, found nothing listening; start it with `holdoff run`, or say where \
                 it is with `--admin`"
            )),
            io::ErrorKind::PermissionDenied => Error::failed(format!(
                "expected to be allowed to open {address}; the socket is for the user and the group of holdoff"
            )),
            _ => Error::failed(format!("expected a running holdoff at {address}")).caused_by(cause),
        }
    }
}

/// A runtime for one command.
pub(super) fn runtime() -> Result<Runtime, Error> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::failed("expected to start the runtime").caused_by(&e))
}

/// Makes what came from elsewhere fit for a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
