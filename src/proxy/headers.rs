//! Which fields pass. Those of the connection are taken off (RFC 9110 §7.6.1), those that claim to be from here as well
//! (SPEC 5.3), `Via` is added; everything else passes with its value and in its order, so that signed requests stay valid.
//! The map is built anew, since removing from one moves its last field.

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, DATE, EXPECT, EXPIRES, Entry, HOST, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, LOCATION, MAX_FORWARDS, PRAGMA, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RANGE,
    RETRY_AFTER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY, VIA, WARNING, WWW_AUTHENTICATE,
};
use http::{HeaderMap, StatusCode, Version};

use crate::core::time::UnixTime;
use crate::synthetic::{HOLDOFF, PROXY_STATUS, strip_marks};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");

/// The options of every `Connection` field. Empty list elements are tolerated (RFC 9110 §5.6.1.2).
pub(super) fn options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    list(headers, &CONNECTION)
}

fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether `Connection` has this option.
pub(super) fn has_option(headers: &HeaderMap, option: &[u8]) -> bool {
    options(headers).any(|found| found.eq_ignore_ascii_case(option))
}

/// Whether the client asks for an upgrade: `Upgrade` counts only with `Connection: upgrade` (RFC 9110 §7.8).
pub(super) fn asks_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && has_option(headers, b"upgrade")
}

/// How our name stands in `Via`.
#[derive(Clone, Debug)]
pub(super) struct Via {
    name: String,
    /// By the version of the message received; `None` when it is not to be added.
    values: Option<ViaValues>,
}

#[derive(Clone, Debug)]
struct ViaValues {
    http_10: HeaderValue,
    http_11: HeaderValue,
    http_2: HeaderValue,
}

impl Via {
    /// For the instance `name`; `add`: whether the field is added.
    pub(super) fn new(name: &str, add: bool) -> Self {
        let value = |version: &str| HeaderValue::try_from(format!("{version} {name}")).ok();
        let values = || Some(ViaValues { http_10: value("1.0")?, http_11: value("1.1")?, http_2: value("2.0")? });
        Self { name: name.to_owned(), values: if add { values() } else { None } }
    }

    /// Whether a message has been here before.
    pub(super) fn is_loop(&self, headers: &HeaderMap) -> bool {
        list(headers, &VIA).any(|member| {
            let mut words = member.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(self.name.as_bytes()))
        })
    }

    fn add(&self, headers: &mut HeaderMap, received: Version) {
        let Some(values) = &self.values else { return };
        let own = match received {
            Version::HTTP_10 => &values.http_10,
            Version::HTTP_2 => &values.http_2,
            _ => &values.http_11,
        };
        // One list on one line: few readers expect more.
        let mut whole = Vec::new();
        for member in headers.get_all(VIA) {
            whole.extend_from_slice(member.as_bytes());
            whole.extend_from_slice(b", ");
        }
        whole.extend_from_slice(own.as_bytes());
        if let Ok(whole) = HeaderValue::try_from(whole) {
            headers.insert(VIA, whole);
        }
    }
}

/// What an upstream gets.
pub(super) struct ToUpstream<'a> {
    /// `Host`; `None`: the client's.
    pub(super) host: Option<HeaderValue>,
    /// The client's version.
    pub(super) received: Version,
    /// Whether the upgrade that the client asks for is passed on.
    pub(super) upgrade: bool,
    pub(super) via: &'a Via,
}

impl ToUpstream<'_> {
    /// The request's fields as they go out.
    pub(super) fn apply(&self, mut headers: HeaderMap) -> HeaderMap {
        if self.received == Version::HTTP_2 {
            join_cookies(&mut headers);
        }
        let upgrade: Vec<HeaderValue> =
            if self.upgrade { headers.get_all(UPGRADE).iter().cloned().collect() } else { Vec::new() };
        let trailers = list(&headers, &TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        let mut host = self.host.clone();
        let mut out = HeaderMap::with_capacity(headers.keys_len().saturating_add(4));
        if let Some(host) = host.take_if(|_| !headers.contains_key(HOST)) {
            out.insert(HOST, host);
        }
        copy(headers, &self.via.name, &mut out, |name, value| {
            if name == HOST {
                return host.take().or(Some(value));
            }
            (name != PROXY_AUTHORIZATION).then_some(value)
        });
        match (trailers, upgrade.is_empty()) {
            (true, true) => set(&mut out, CONNECTION, "TE"),
            (true, false) => set(&mut out, CONNECTION, "TE, Upgrade"),
            (false, false) => set(&mut out, CONNECTION, "Upgrade"),
            (false, true) => {}
        }
        if trailers {
            set(&mut out, TE, "trailers");
        }
        for value in upgrade {
            out.append(UPGRADE, value);
        }
        self.via.add(&mut out, self.received);
        out
    }
}

/// HTTP/2 may split `Cookie` into several fields; everywhere else it is one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(_)) = (crumbs.next(), crumbs.next()) else { return };
    let mut whole = first.as_bytes().to_vec();
    for crumb in headers.get_all(COOKIE).iter().skip(1) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(mut whole) = HeaderValue::try_from(whole) {
        whole.set_sensitive(true);
        headers.insert(COOKIE, whole);
    }
}

/// The fields of an upstream's answer as the client gets them. (hyper leaves the `Content-Length` of a 304 out on the way,
/// as RFC 9110 §8.6 allows.) `now` is for a `Date` that is missing (RFC 9110 §6.6.1).
pub(super) fn to_client(
    headers: HeaderMap,
    status: StatusCode,
    received: Version,
    via: &Via,
    now: UnixTime,
) -> HeaderMap {
    let upgrade: Vec<HeaderValue> = if status == StatusCode::SWITCHING_PROTOCOLS {
        headers.get_all(UPGRADE).iter().cloned().collect()
    } else {
        Vec::new()
    };
    let mut out = HeaderMap::with_capacity(headers.keys_len().saturating_add(4));
    let no_length =
        status.is_informational() || status == StatusCode::NO_CONTENT || headers.contains_key(TRANSFER_ENCODING);
    copy(headers, &via.name, &mut out, |name, value| (!(no_length && name == CONTENT_LENGTH)).then_some(value));
    if !upgrade.is_empty() {
        set(&mut out, CONNECTION, "Upgrade");
    }
    for value in upgrade {
        out.append(UPGRADE, value);
    }
    if !status.is_informational()
        && let Entry::Vacant(place) = out.entry(DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now.into()))
    {
        place.insert(date);
    }
    if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
        via.add(&mut out, received);
    }
    out
}

/// Copies what is not the connection's and not our mark, as `pass` says.
fn copy(
    headers: HeaderMap,
    name: &str,
    out: &mut HeaderMap,
    mut pass: impl FnMut(&HeaderName, HeaderValue) -> Option<HeaderValue>,
) {
    let named = named(&headers);
    let mut marks = headers.contains_key(PROXY_STATUS).then(|| {
        let mut marks = HeaderMap::new();
        for value in headers.get_all(PROXY_STATUS) {
            marks.append(PROXY_STATUS, value.clone());
        }
        strip_marks(&mut marks, name);
        marks
    });
    let mut current = None;
    for (next, value) in headers {
        if next.is_some() {
            current = next;
        }
        let Some(name) = &current else { continue };
        if is_of_connection(name) || *name == HOLDOFF || named.contains(name) {
            continue;
        }
        if *name == PROXY_STATUS {
            for (_, value) in marks.take().into_iter().flatten() {
                out.append(PROXY_STATUS, value);
            }
            continue;
        }
        if let Some(value) = pass(name, value) {
            out.append(name.clone(), value);
        }
    }
}

/// The fields that `Connection` names.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    options(headers)
        .filter(|option| ![&b"close"[..], b"keep-alive"].iter().any(|usual| option.eq_ignore_ascii_case(usual)))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect()
}

/// Which trailers of a message pass. On HTTP/1.1 hyper passes only those that `Trailer` announces; a peer that announces
/// what may not be there would have it passed all the same, and a reader that merges trailers would believe it. HTTP/2
/// passes everything.
#[derive(Debug)]
pub(super) struct Trailers {
    /// The fields that `Connection` names in the header section: they are not to pass as trailers either.
    named: Vec<HeaderName>,
    /// Our name, for the marks.
    name: String,
}

impl Trailers {
    /// For a message with these fields; `None` when it can bring no trailers that hyper passes. `unannounced`: it can bring
    /// others than `Trailer` announces.
    pub(super) fn of(headers: &HeaderMap, unannounced: bool, via: &Via) -> Option<Box<Self>> {
        (unannounced || headers.contains_key(TRAILER))
            .then(|| Box::new(Self { named: named(headers), name: via.name.clone() }))
    }

    /// What passes.
    pub(super) fn pass(&self, trailers: HeaderMap) -> HeaderMap {
        let mut out = HeaderMap::with_capacity(trailers.keys_len());
        copy(trailers, &self.name, &mut out, |name, value| {
            (!self.named.contains(name) && may_trail(name)).then_some(value)
        });
        out
    }
}

/// Whether a field may stand behind a body: none that frames, routes, modifies or authenticates a request, controls a
/// response, or says how a body is to be read (RFC 9110 §6.5.1, listed by RFC 7230 §4.1.2).
fn may_trail(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 29] = [
        AGE,
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        DATE,
        EXPECT,
        EXPIRES,
        HOST,
        IF_MATCH,
        IF_MODIFIED_SINCE,
        IF_NONE_MATCH,
        IF_RANGE,
        IF_UNMODIFIED_SINCE,
        LOCATION,
        MAX_FORWARDS,
        PRAGMA,
        PROXY_AUTHORIZATION,
        RANGE,
        RETRY_AFTER,
        SET_COOKIE,
        TRAILER,
        VARY,
        VIA,
        WARNING,
        WWW_AUTHENTICATE,
    ];
    !NEVER.contains(name)
}

fn is_of_connection(name: &HeaderName) -> bool {
    [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION].contains(name)
        // What the upstream says as a proxy about credentials is for us (RFC 9110 §11.7), and we have no answer to it.
        || [PROXY_AUTHENTICATE, PROXY_AUTHENTICATION_INFO].contains(name)
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

/// Whether a 101 names the protocol it switches to, and only what the client has offered (RFC 9110 §7.8).
pub(super) fn is_offered(switching: &HeaderMap, offers: &[HeaderValue]) -> bool {
    let offers =
        || offers.iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    let mut chosen = list(switching, &UPGRADE).peekable();
    chosen.peek().is_some() && chosen.all(|protocol| offers().any(|offer| offer.eq_ignore_ascii_case(protocol)))
}

/// Whether an upgrade to HTTP/2 is asked for. Inside it no signal could be seen, and no client needs it.
pub(super) fn is_upgrade_to_h2c(headers: &HeaderMap) -> bool {
    list(headers, &UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    fn sent(fields: &[(&str, &str)], host: Option<&str>, upgrade: bool) -> Vec<String> {
        let via = Via::new("edge", true);
        let host = host.map(|host| host.parse().unwrap());
        let out = ToUpstream { host, received: Version::HTTP_11, upgrade, via: &via }.apply(map(fields));
        shown(&out)
    }

    #[test]
    fn fields_of_the_connection_go_and_the_rest_keeps_its_order() {
        let fields = [
            ("host", "a"),
            ("x-first", "1"),
            ("connection", "close, X-Named,, ,"),
            ("x-second", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("x-named", "gone"),
            ("proxy-authorization", "Basic secret"),
            ("te", "gzip"),
            ("upgrade", "websocket"),
            ("holdoff", "short-circuit"),
            ("authorization", "Bearer kept"),
            ("x-first", "3"),
            ("trailer", "x-sum"),
            ("x-last", "4"),
        ];
        assert_eq!(
            sent(&fields, None, false),
            [
                "host: a",
                "x-first: 1",
                "x-first: 3",
                "x-second: 2",
                "authorization: Bearer kept",
                "trailer: x-sum",
                "x-last: 4",
                "via: 1.1 edge"
            ]
        );
    }

    #[test]
    fn host_is_regenerated_in_its_place() {
        assert_eq!(
            sent(&[("accept", "*/*"), ("host", "evil"), ("x-a", "1")], Some("good"), false),
            ["accept: */*", "host: good", "x-a: 1", "via: 1.1 edge"]
        );
        assert_eq!(sent(&[("accept", "*/*")], Some("good"), false), ["host: good", "accept: */*", "via: 1.1 edge"]);
    }

    #[test]
    fn trailers_and_a_wanted_upgrade_are_asked_for_anew() {
        let fields = [("host", "a"), ("connection", "TE, upgrade"), ("te", "trailers, gzip"), ("upgrade", "websocket")];
        assert_eq!(
            sent(&fields, None, true),
            ["host: a", "connection: TE, Upgrade", "te: trailers", "upgrade: websocket", "via: 1.1 edge"]
        );
        assert_eq!(sent(&fields, None, false), ["host: a", "connection: TE", "te: trailers", "via: 1.1 edge"]);
    }

    #[test]
    fn trailers_pass_but_for_those_that_may_not_stand_there() {
        let via = Via::new("edge", true);
        assert!(Trailers::of(&map(&[("connection", "x-hop")]), false, &via).is_none());
        assert!(Trailers::of(&map(&[]), true, &via).is_some());
        let rules = Trailers::of(&map(&[("trailer", "x-a"), ("connection", "x-hop, close")]), false, &via).unwrap();
        let trailers = [
            ("x-a", "1"),
            ("x-hop", "1"),
            ("connection", "x-late"),
            ("x-late", "1"),
            ("content-length", "5"),
            ("set-cookie", "a"),
            ("holdoff", "x"),
            ("proxy-status", "edge; error=x, far; y"),
            ("grpc-status", "8"),
            ("x-a", "2"),
        ];
        assert_eq!(shown(&rules.pass(map(&trailers))), ["x-a: 1", "x-a: 2", "proxy-status: far; y", "grpc-status: 8"]);
    }

    #[test]
    fn only_an_offered_protocol_is_switched_to() {
        let offers = [HeaderValue::from_static("websocket, x/1"), HeaderValue::from_static("y")];
        for (chosen, expected) in [
            ("WebSocket", true),
            ("x/1", true),
            ("y", true),
            ("x", false),
            ("h2c", false),
            ("y, h2c", false),
            (" ,", false),
        ] {
            assert_eq!(is_offered(&map(&[("upgrade", chosen)]), &offers), expected, "{chosen}");
        }
        assert!(!is_offered(&HeaderMap::new(), &offers));
        assert!(!is_offered(&map(&[("upgrade", "x")]), &[]));
    }

    #[test]
    fn via_grows_by_one_and_shows_a_loop() {
        assert_eq!(sent(&[("host", "a"), ("via", "1.0 other")], None, false), ["host: a", "via: 1.0 other, 1.1 edge"]);
        let via = Via::new("edge", false);
        for (value, is_loop) in [
            ("1.1 edge", true),
            ("1.0 a, HTTP/1.1 EDGE (comment)", true),
            (",, 1.1  edge", true),
            ("1.1 edge2", false),
            ("1.1 edge:80", false),
            ("edge", false),
        ] {
            assert_eq!(via.is_loop(&map(&[("via", value)])), is_loop, "{value}");
        }
    }

    #[test]
    fn an_answer_keeps_its_fields_and_gets_a_date_only_when_it_has_none() {
        let via = Via::new("edge", true);
        let now = UnixTime::from_secs(1_795_168_800);
        let answer = |status: u16, fields: &[(&str, &str)]| {
            shown(&to_client(map(fields), StatusCode::from_u16(status).unwrap(), Version::HTTP_11, &via, now))
        };
        assert_eq!(
            answer(
                429,
                &[("retry-after", "5"), ("connection", "close"), ("date", "x"), ("holdoff", "fake"), ("x-z", "1")]
            ),
            ["retry-after: 5", "date: x", "x-z: 1", "via: 1.1 edge"]
        );
        assert_eq!(answer(200, &[]), ["date: Fri, 20 Nov 2026 10:00:00 GMT", "via: 1.1 edge"]);
        assert_eq!(answer(204, &[("date", "x"), ("content-length", "0")]), ["date: x", "via: 1.1 edge"]);
        assert_eq!(
            answer(304, &[("date", "x"), ("content-length", "9")]),
            ["date: x", "content-length: 9", "via: 1.1 edge"]
        );
        assert_eq!(
            answer(200, &[("date", "x"), ("transfer-encoding", "chunked"), ("content-length", "9")]),
            ["date: x", "via: 1.1 edge"]
        );
        assert_eq!(answer(103, &[("link", "</a>"), ("connection", "x-a"), ("x-a", "1")]), ["link: </a>"]);
        assert_eq!(
            answer(200, &[("date", "x"), ("proxy-status", "edge; error=x, other; y"), ("x-z", "1")]),
            ["date: x", "proxy-status: other; y", "x-z: 1", "via: 1.1 edge"]
        );
    }
}
