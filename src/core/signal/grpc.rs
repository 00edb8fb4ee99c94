//! gRPC: a response whose HTTP status says only that it arrived. What became of the call stands in `grpc-status`, behind
//! the body or, where there is no body, in the head ("trailers-only"); `grpc-retry-pushback-ms` beside it names a wait
//! (gRPC over HTTP/2; gRFC A6).
//!
//! A status counts as the HTTP status it stands for, so that one table ([`classify`](crate::core::classify)) and one
//! policy serve both: RESOURCE_EXHAUSTED as a 429, UNAVAILABLE as a 503, what says that the server is at fault as a 500,
//! everything else as an answer. DEADLINE_EXCEEDED is among the 500s and not a 504: how long a call may take is the
//! client's choice, so that a short deadline must not open a breaker.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::date::trim;
use super::retry_after::{self, digits};
use super::{Cause, Causes, Hint};
use crate::core::decision::Source;

/// What became of a call: a [`Code`] in decimal digits.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A line for people, percent-encoded.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// After how many milliseconds the call may be made again; a negative number: not at all.
pub const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Whether a message of this type is gRPC: `application/grpc`, with or without `+proto` and parameters. gRPC-Web is not:
/// it has its trailers inside the body.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let Some((name, rest)) = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().split_at_checked(TYPE.len()))
    else {
        return false;
    };
    name.eq_ignore_ascii_case(TYPE) && matches!(rest.trim_ascii_start().first(), None | Some(b'+' | b';'))
}

/// The status codes of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The call went well.
    Ok = 0,
    /// The client gave it up.
    Cancelled = 1,
    /// An error that is not explained.
    Unknown = 2,
    /// The call makes no sense.
    InvalidArgument = 3,
    /// It took longer than the client wanted to wait.
    DeadlineExceeded = 4,
    /// What it is about does not exist.
    NotFound = 5,
    /// What it is to make exists already.
    AlreadyExists = 6,
    /// The client may not do that.
    PermissionDenied = 7,
    /// A quota is used up, or something is full: "slow down".
    ResourceExhausted = 8,
    /// The system is not in the state that the call needs.
    FailedPrecondition = 9,
    /// Something came in between.
    Aborted = 10,
    /// Beyond the end.
    OutOfRange = 11,
    /// The server does not know the method.
    Unimplemented = 12,
    /// Something is broken in the server.
    Internal = 13,
    /// The server is not there at the moment.
    Unavailable = 14,
    /// Data is lost.
    DataLoss = 15,
    /// The client has not said who it is.
    Unauthenticated = 16,
}

impl Code {
    /// Every code, by number.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The HTTP status that it counts as.
    pub const fn counts_as(self) -> StatusCode {
        match self {
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown | Self::DeadlineExceeded | Self::Unimplemented | Self::Internal | Self::DataLoss => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Ok
            | Self::Cancelled
            | Self::InvalidArgument
            | Self::NotFound
            | Self::AlreadyExists
            | Self::PermissionDenied
            | Self::FailedPrecondition
            | Self::Aborted
            | Self::OutOfRange
            | Self::Unauthenticated => StatusCode::OK,
        }
    }
}

/// What trailers, or the head of a trailers-only answer, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The status. What cannot be read is [`Code::Unknown`], as it is for clients.
    pub code: Code,
    /// The wait of `grpc-retry-pushback-ms`.
    pub hint: Option<Hint>,
    /// What was odd about the status.
    pub status: Causes,
    /// What was odd about the wait.
    pub pushback: Causes,
}

/// Reads trailers. `None`: they have no `grpc-status`.
pub fn read(trailers: &HeaderMap) -> Option<Reading> {
    let mut values = trailers.get_all(GRPC_STATUS).iter();
    let first = values.next()?;
    let mut status = Causes::default();
    let code = match code(first.as_bytes()) {
        // Two words about one thing are none.
        Ok(_) if values.next().is_some() => {
            status.insert(Cause::Duplicate);
            Code::Unknown
        }
        Ok(code) => code,
        Err(cause) => {
            status.insert(cause);
            Code::Unknown
        }
    };
    // The wait matters only where the status may be a signal.
    let (hint, pushback) = match code {
        Code::ResourceExhausted | Code::Unavailable => pushback(trailers),
        _ => (None, Causes::default()),
    };
    Some(Reading { code, hint, status, pushback })
}

fn code(value: &[u8]) -> Result<Code, Cause> {
    let text = trim(value);
    let Some(number) = digits(text) else {
        return Err(if text.is_empty() { Cause::Empty } else { Cause::Malformed });
    };
    let code = usize::try_from(number).ok().and_then(|at| Code::ALL.get(at));
    // A code that is not known yet is not odd: clients take it for UNKNOWN, too.
    Ok(code.copied().unwrap_or(Code::Unknown))
}

/// The largest wait that could be read. A negative number says "do not make this call again", which is about the call and
/// not about when the host is ready.
fn pushback(trailers: &HeaderMap) -> (Option<Hint>, Causes) {
    let values = trailers.get_all(GRPC_RETRY_PUSHBACK_MS).into_iter().map(HeaderValue::as_bytes);
    let retry_after::Reading { hint, causes } = retry_after::milliseconds(values, Source::GrpcPushback);
    (hint, causes)
}

/// `grpc-message` as text: its percent-encoding undone, at most `limit` bytes of it.
pub fn message(trailers: &HeaderMap, limit: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut rest = trailers.get(GRPC_MESSAGE).map(HeaderValue::as_bytes).unwrap_or_default();
    while let [first, after @ ..] = rest
        && text.len() < limit
    {
        rest = after;
        text.push(match after {
            [high, low, after @ ..] if *first == b'%' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => *first,
            },
            _ => *first,
        });
    }
    text
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A text as `grpc-message`: everything but printable ASCII is percent-encoded.
pub fn encode_message(text: &str) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..0x7f).contains(&byte) && byte != b'%' {
            out.push(byte);
        } else {
            out.push(b'%');
            out.extend([byte >> 4, byte & 15].iter().filter_map(|digit| HEX.get(usize::from(*digit))));
        }
    }
    HeaderValue::try_from(out).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::signal::MAX_WAIT;

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn the_type_of_a_message_says_whether_it_is_grpc() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC ; charset=utf-8", true),
            ("application/grpc;x", true),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/grp", false),
            ("text/plain; application/grpc", false),
        ] {
            assert_eq!(is_grpc(&headers(&[(CONTENT_TYPE, value)])), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_status_is_a_number_and_anything_else_is_unknown() {
        for code in Code::ALL {
            let reading = read(&headers(&[(GRPC_STATUS, &code.number().to_string())])).unwrap();
            assert_eq!(reading, Reading { code, hint: None, status: Causes::default(), pushback: Causes::default() });
        }
        for (value, cause) in [
            ("17", None),
            ("99999999999999999999999", None),
            (" 8 ", None),
            ("", Some(Cause::Empty)),
            ("-8", Some(Cause::Malformed)),
            ("8.0", Some(Cause::Malformed)),
            ("RESOURCE_EXHAUSTED", Some(Cause::Malformed)),
        ] {
            let reading = read(&headers(&[(GRPC_STATUS, value)])).unwrap();
            assert_eq!(reading.code, if value == " 8 " { Code::ResourceExhausted } else { Code::Unknown }, "{value}");
            assert_eq!(reading.status.iter().collect::<Vec<_>>(), cause.into_iter().collect::<Vec<_>>(), "{value}");
        }
        let twice = read(&headers(&[(GRPC_STATUS, "0"), (GRPC_STATUS, "8")])).unwrap();
        assert!(twice.code == Code::Unknown && twice.status.contains(Cause::Duplicate));
        assert_eq!(read(&headers(&[(GRPC_RETRY_PUSHBACK_MS, "8")])), None, "there is no status");
    }

    #[test]
    fn a_pushback_is_in_milliseconds_and_only_read_where_it_matters() {
        let read_all = |code: &str, values: &[&str]| {
            let mut map = headers(&[(GRPC_STATUS, code)]);
            for value in values {
                map.append(GRPC_RETRY_PUSHBACK_MS, HeaderValue::from_str(value).unwrap());
            }
            let reading = read(&map).unwrap();
            (reading.hint.map(|hint| hint.wait.as_millis()), reading.pushback.iter().collect::<Vec<_>>())
        };
        let longest = MAX_WAIT.as_millis();
        for code in ["8", "14"] {
            assert_eq!(read_all(code, &[]), (None, vec![]));
            assert_eq!(read_all(code, &["0"]), (Some(0), vec![]));
            assert_eq!(read_all(code, &["1500"]), (Some(1500), vec![]));
            assert_eq!(read_all(code, &[" 15 "]), (Some(15), vec![]));
            assert_eq!(read_all(code, &["-1"]), (None, vec![Cause::Negative]));
            assert_eq!(read_all(code, &["-"]), (None, vec![Cause::Malformed]));
            assert_eq!(read_all(code, &["1s"]), (None, vec![Cause::Malformed]));
            assert_eq!(read_all(code, &[""]), (None, vec![Cause::Empty]));
            assert_eq!(read_all(code, &["7", "soon", "9"]), (Some(9), vec![Cause::Malformed, Cause::Duplicate]));
            assert_eq!(read_all(code, &["99999999999999999999"]), (Some(longest), vec![Cause::Saturated]));
        }
        for code in ["0", "2", "13", "x"] {
            assert_eq!(read_all(code, &["1500", "soon"]), (None, vec![]), "{code}");
        }
    }

    #[test]
    fn a_message_written_is_the_message_read() {
        for text in ["", "slow down", "100 % \n ü", "%", "%zz", "%4"] {
            let map: HeaderMap = [(GRPC_MESSAGE, encode_message(text))].into_iter().collect();
            assert_eq!(message(&map, 100), text.as_bytes());
        }
        assert_eq!(encode_message("50 %\r\nü"), "50 %25%0D%0A%C3%BC");
        assert_eq!(message(&headers(&[(GRPC_MESSAGE, "a%2")]), 100), b"a%2");
        assert_eq!(message(&headers(&[(GRPC_MESSAGE, "%+1%zz%6")]), 100), b"%+1%zz%6");
        assert_eq!(message(&headers(&[(GRPC_MESSAGE, "%41%42%43%44")]), 3), b"ABC");
    }
}
