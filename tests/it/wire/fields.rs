//! Fields (RFC 9110 §5, §6.5, §6.6, §7.6): what passes, in which order, and what may not.

use std::net::SocketAddr;

use crate::support::client::{Client, fields};
use crate::support::host::Host;
use crate::support::origin::{Origin, Reply, answer, ok};
use crate::support::sidecar::Holdoff;

/// A GET of `/` with more fields.
fn ask(host: SocketAddr, more: &str) -> String {
    format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
}

/// An origin that says the same whatever it is asked.
async fn says(head: &str, body: &str) -> Origin {
    let bytes = format!("{head}\r\n\r\n{body}").into_bytes();
    Origin::start(move |_| Reply::Bytes(bytes.clone())).await
}

/// An origin that says the same with a body of two bytes.
async fn with_fields(more: &str) -> Origin {
    says(&format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}", more.trim_end()), "ok").await
}

/// Names and values of the lines of a head that start so.
fn lines<'h>(head: &'h str, start: &str) -> Vec<&'h str> {
    head.lines().filter(|line| line.to_ascii_lowercase().starts_with(start)).collect()
}

#[tokio::test]
async fn rfc9110_5_1_unknown_fields_are_forwarded() {
    let unknown = "X-!#$%&'*+-.^_`|~9: v\r\nX-Empty: \r\nX-Obs: caf\u{e9} \u{1f980}\r\nX-Quoted: \"a, b\\\"c\", ;d\r\nX-Tab: a\tb";
    let origin = with_fields(unknown).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(ask(origin.address(), &format!("{unknown}\r\n"))).await;
    let got = client.answer("GET").await;
    let expected: Vec<&str> = unknown.split("\r\n").map(str::trim_end).collect();
    let trimmed = |head: &str| lines(head, "x-").into_iter().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(&got.head), expected);
    assert_eq!(trimmed(&origin.last().head), expected);
}

#[tokio::test]
async fn rfc9110_5_3_order_is_kept() {
    // Of fields with one name, and of all: a proxy that sorts or merges breaks signatures.
    let some = "X-Zeta: 1\r\nX-Alpha: 1\r\nX-Alpha: 2, 3\r\nX-Alpha: \r\nX-Alpha: 0\r\nx-mid: 1\r\nX-Beta: 1";
    let origin = with_fields(some).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    // What is taken off in between moves nothing.
    let request = some
        .replace("x-mid", "Keep-Alive: 5\r\nConnection: x-hop\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\nx-mid");
    client.send(ask(origin.address(), &format!("{request}\r\n"))).await;
    let got = client.answer("GET").await;
    let expected: Vec<&str> = some.split("\r\n").map(str::trim_end).collect();
    let trimmed = |head: &str| lines(head, "x-").into_iter().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(&origin.last().head), expected);
    assert_eq!(trimmed(&got.head), expected);
    // `Set-Cookie` is the field that can never be joined.
    let origin = with_fields("Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nSet-Cookie: a=3").await;
    assert_eq!(holdoff.get(&origin.url()).await.fields("set-cookie"), ["a=1", "b=2", "a=3"]);
}

#[tokio::test]
async fn rfc9110_5_5_cr_lf_nul_in_a_request() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    let host = origin.address();
    for bad in ["\r", "\n", "\0", "\rX-Evil: 1", "\nX-Evil: 1", "\x0b", "\x7f", "\x1b"] {
        for head in [
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nX-A: a{bad}b\r\n\r\n"),
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nX-A{bad}: b\r\n\r\n"),
            format!("GET http://{host}/a{bad}b HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GE{bad}T http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}{bad}\r\n\r\n"),
        ] {
            let mut client = holdoff.client().await;
            client.send(&head).await;
            let got = client.answer("GET").await;
            assert_eq!((got.status, got.field("connection")), (400, "close"), "{head:?}");
            assert_eq!(client.rest().await, b"", "{head:?}");
        }
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(holdoff.get(&origin.url()).await.text(), "fine", "the next request is served");
}

#[tokio::test]
async fn rfc9110_5_5_cr_lf_nul_in_a_response() {
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    for bad in ["\r", "\0", "\rX-Evil: 1", "\x0b", "\x7f", "\x1b"] {
        for head in [
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: a{bad}b"),
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A{bad}: b"),
            format!("HTTP/1.1 200 O{bad}K\r\nContent-Length: 2"),
        ] {
            let origin = says(&head, "ok").await;
            let got = client.get(&origin.url()).await;
            // Refused, or made harmless: no byte of it reaches the client.
            assert!(
                !got.head.replace("\r\n", "\n").contains(['\r', '\0', '\x0b', '\x7f', '\x1b']),
                "{head:?}: {:?}",
                got.head
            );
            assert!(got.fields("x-evil").is_empty(), "{head:?}: {:?}", got.head);
            assert!(got.status == 502 || got.head.starts_with("HTTP/1.1 200 OK\r\n"), "{head:?}: {:?}", got.head);
        }
    }
    let origin = with_fields("X-A: b").await;
    assert_eq!(client.get(&origin.url()).await.text(), "ok", "the next request is served");
}

#[tokio::test]
async fn rfc9110_5_6_1_2_empty_list_elements() {
    let origin = with_fields("Connection: ,, x-hop ,\r\nX-Hop: 1\r\nX-Stay: 1\r\nVia: , 1.1 far,").await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client
        .send(ask(
            origin.address(),
            "Connection: ,, X-Hop,\t, TE ,\r\nConnection: \r\nX-Hop: 1\r\nX-Stay: 1\r\nTE: , trailers,,\r\nVia: ,1.1 near, ,\r\n",
        ))
        .await;
    let got = client.answer("GET").await;
    let seen = origin.last();
    assert_eq!((seen.fields("x-hop").len(), seen.field("x-stay"), seen.field("te")), (0, Some("1"), Some("trailers")));
    assert_eq!((got.fields("x-hop").len(), got.field("x-stay"), got.text()), (0, "1", "ok"));
    // An end is an end between commas as well.
    client.send(ask(origin.address(), "Connection: , close,\r\n")).await;
    assert_eq!(client.answer("GET").await.status, 200);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn rfc9110_5_6_7_three_date_formats() {
    for (date, retry_after) in [
        ("Fri, 20 Nov 2020 10:00:00 GMT", "Fri, 20 Nov 2020 10:01:30 GMT"),
        ("Fri, 20 Nov 2020 10:00:00 GMT", "Friday, 20-Nov-20 10:01:30 GMT"),
        ("Fri, 20 Nov 2020 10:00:00 GMT", "Fri Nov 20 10:01:30 2020"),
        ("Friday, 20-Nov-20 10:00:00 GMT", "Fri, 20 Nov 2020 10:01:30 GMT"),
        ("Fri Nov 20 10:00:00 2020", "Friday, 20-Nov-20 10:01:30 GMT"),
        // One digit of a day is behind a space.
        ("Fri Nov  6 10:00:00 2020", "Fri, 06 Nov 2020 10:01:30 GMT"),
        // More than fifty years ahead is the past: a wait of none, which is a second.
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:51:07 GMT"),
    ] {
        let origin = Origin::start(move |_| {
            answer(429, "Too Many Requests", &[("Date", date), ("Retry-After", retry_after)], "")
        })
        .await;
        let holdoff = Holdoff::start("").await;
        let first = holdoff.get(&origin.url()).await;
        assert_eq!(
            (first.status, first.field("retry-after"), first.field("date")),
            (429, retry_after, date),
            "unchanged"
        );
        let told: u64 = holdoff.get(&origin.url()).await.field("retry-after").parse().unwrap();
        assert!((88..=90).contains(&told), "{date} {retry_after}: {told}");
        assert_eq!(origin.count(), 1);
    }
    // What we say ourselves has the preferred format.
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let date = client.answer("GET").await.field("date").to_owned();
    assert_eq!(httpdate::fmt_http_date(httpdate::parse_http_date(&date).unwrap()), date);
}

/// Fields that may not be behind a body, with values that would do harm if they were believed.
const NOT_BEHIND: &str = "Content-Length: 9\r\nTransfer-Encoding: chunked\r\nTrailer: x-a\r\nHost: evil\r\nTE: trailers\r\n\
     Connection: x-named\r\nKeep-Alive: 5\r\nUpgrade: evil\r\nProxy-Connection: close\r\nAuthorization: evil\r\n\
     Proxy-Authorization: evil\r\nProxy-Authenticate: evil\r\nWWW-Authenticate: evil\r\nCookie: evil\r\nSet-Cookie: evil=1\r\n\
     Content-Encoding: gzip\r\nContent-Type: evil/evil\r\nContent-Range: bytes 0-1/2\r\nCache-Control: public\r\n\
     Expires: 0\r\nAge: 5\r\nDate: Fri, 20 Nov 2020 10:00:00 GMT\r\nLocation: http://evil/\r\nRetry-After: 9999\r\n\
     Vary: *\r\nMax-Forwards: 0\r\nExpect: 100-continue\r\nRange: bytes=0-1\r\nIf-Match: *\r\nIf-None-Match: *\r\n\
     If-Range: *\r\nPragma: no-cache\r\nVia: 1.1 evil\r\nHoldoff: short-circuit\r\nX-Named: evil\r\nX-Hop: evil\r\n";

/// All trailers that a message has in the next test, all of them announced.
fn trailers() -> (String, String) {
    let section = format!("X-First: 1\r\n{NOT_BEHIND}Server-Timing: a\r\nX-First: 2\r\nX-Last: 1\r\n");
    let names: Vec<&str> = section.lines().map(|line| line.split(':').next().unwrap()).collect();
    (names.join(", "), section)
}

/// What passes of them.
const BEHIND: [&str; 4] = ["x-first: 1", "x-first: 2", "server-timing: a", "x-last: 1"];

fn assert_behind(section: &str, what: &str) {
    let mut found: Vec<&str> = section.split("\r\n").filter(|line| !line.is_empty()).collect();
    let mut expected = BEHIND.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{what}");
}

#[tokio::test]
async fn rfc9110_6_5_1_trailers_of_a_response_pass_but_for_those_that_may_not() {
    let (names, section) = trailers();
    let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x-hop\r\nTrailer: {names}");
    let origin = says(&head, &format!("2\r\nok\r\n0\r\n{section}\r\n")).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    for _ in 0..2 {
        client.send(ask(origin.address(), "Connection: TE\r\nTE: trailers\r\n")).await;
        let mut raw = String::new();
        while !raw.ends_with("x-last: 1\r\n\r\n") {
            raw.push_str(std::str::from_utf8(&client.bytes(1).await).unwrap());
            assert!(raw.len() < 10_000, "{raw}");
        }
        let (head, rest) = raw.split_once("\r\n\r\n").unwrap();
        assert!(fields(head, "x-first").is_empty() && fields(head, "holdoff").is_empty(), "{head}");
        assert_behind(rest.strip_prefix("2\r\nok\r\n0\r\n").unwrap(), "to the client");
    }
    // A client that has not said that it reads trailers gets none, and nor does one that has no chunks.
    for request in
        [ask(origin.address(), "Connection: close\r\n"), ask(origin.address(), "").replace("HTTP/1.1", "HTTP/1.0")]
    {
        let mut client = holdoff.client().await;
        client.send(&request).await;
        let raw = String::from_utf8(client.rest().await).unwrap();
        assert!(raw.contains("ok") && !raw.contains("x-first: ") && !raw.contains("evil"), "{raw}");
    }
}

#[tokio::test]
async fn rfc9110_6_5_1_trailers_of_a_request_pass_but_for_those_that_may_not() {
    let (names, section) = trailers();
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    let mut line = None;
    for _ in 0..2 {
        client
            .send(format!(
                "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\nConnection: x-hop\r\nTrailer: {names}\r\n\r\n\
                 2\r\nok\r\n0\r\n{section}\r\n",
                host.address
            ))
            .await;
        let mut on = match line.take() {
            Some(line) => line,
            None => host.accept().await,
        };
        let head = on.until("\r\n\r\n").await;
        assert!(fields(&head, "x-first").is_empty() && fields(&head, "authorization").is_empty(), "{head}");
        on.until("2\r\nok\r\n0\r\n").await;
        assert_behind(&on.until("x-last: 1\r\n\r\n").await, "to the host");
        on.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.answer("POST").await.text(), "ok");
        line = Some(on);
    }
}

#[tokio::test]
async fn rfc9110_6_6_1_date_when_absent() {
    let holdoff = Holdoff::start("").await;
    let dated = with_fields("Date: Fri, 20 Nov 2020 10:00:00 GMT").await;
    assert_eq!(holdoff.get(&dated.url()).await.field("date"), "Fri, 20 Nov 2020 10:00:00 GMT");
    for status in ["200 OK", "404 Not Found", "503 Service Unavailable"] {
        let undated = says(&format!("HTTP/1.1 {status}\r\nContent-Length: 2"), "ok").await;
        let got = holdoff.get(&undated.url()).await;
        let date = httpdate::parse_http_date(got.field("date")).unwrap();
        let off = std::time::SystemTime::now().duration_since(date).unwrap();
        assert!(off.as_secs() < 10, "{status}: {}", got.head);
    }
    // A bad one is not ours to mend.
    let odd = with_fields("Date: yesterday").await;
    assert_eq!(holdoff.get(&odd.url()).await.field("date"), "yesterday");
}

#[tokio::test]
async fn rfc9110_7_6_1_connection_options_in_headers() {
    let hop = "Connection: X-Hop, close\r\nConnection: x-other\r\nX-Hop: 1\r\nx-hop: 2\r\nX-Other: 1\r\nKeep-Alive: timeout=5\r\n\
               Proxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\nX-Stay: 1\r\nX-Hop-2: 1";
    let origin = with_fields(hop).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(ask(origin.address(), &format!("{}\r\n", hop.replace(", close", "")))).await;
    let got = client.answer("GET").await;
    let seen = origin.last();
    for gone in
        ["x-hop", "x-other", "keep-alive", "proxy-connection", "te", "upgrade", "connection", "proxy-authorization"]
    {
        assert!(seen.fields(gone).is_empty(), "{gone} in\n{}", seen.head);
        assert!(got.fields(gone).is_empty(), "{gone} in\n{}", got.head);
    }
    assert_eq!((seen.field("x-stay"), seen.field("x-hop-2")), (Some("1"), Some("1")));
    assert_eq!((got.field("x-stay"), got.field("x-hop-2")), ("1", "1"));
    // The `close` was the host's: the client's connection goes on.
    assert_eq!(client.get(&origin.url()).await.text(), "ok");
    // Fields without which a message is another message cannot be named away.
    for option in ["Host", "content-length", "Transfer-Encoding"] {
        let mut client = holdoff.client().await;
        client.send(ask(origin.address(), &format!("Connection: {option}\r\n"))).await;
        assert_eq!(client.answer("GET").await.status, 400, "{option}");
    }
    let named = with_fields("Connection: content-length, date").await;
    let got = holdoff.get(&named.url()).await;
    assert!(got.status == 502 || (got.text() == "ok" && got.complete), "{}", got.head);
}

#[tokio::test]
async fn rfc9110_7_6_1_connection_options_in_trailers() {
    // Named in the header section, or in the trailer section itself; announced or not.
    let section = "X-Hop: 1\r\nX-Late: 1\r\nConnection: x-late\r\nKeep-Alive: 5\r\nX-Stay: 1\r\n";
    let origin = says(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\nTrailer: X-Hop, X-Late, Connection, Keep-Alive, X-Stay",
        &format!("2\r\nok\r\n0\r\n{section}\r\n"),
    )
    .await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(ask(origin.address(), "Connection: TE, close\r\nTE: trailers\r\n")).await;
    let raw = String::from_utf8(client.rest().await).unwrap();
    assert!(raw.ends_with("\r\n2\r\nok\r\n0\r\nx-stay: 1\r\n\r\n"), "{raw}");
    let host = Host::start().await;
    let mut client = holdoff.client().await;
    client
        .send(format!(
            "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\n\
             Trailer: X-Hop, X-Late, Connection, Keep-Alive, X-Stay\r\n\r\n2\r\nok\r\n0\r\n{section}\r\n",
            host.address
        ))
        .await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.until("2\r\nok\r\n0\r\n").await;
    assert_eq!(line.until("\r\n\r\n").await, "x-stay: 1\r\n\r\n");
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer("POST").await.text(), "ok");
    assert_eq!(next(&mut client, &origin).await, "ok");
}

/// The text of the answer to one more request on the connection.
async fn next(client: &mut Client, origin: &Origin) -> String {
    client.get(&origin.url()).await.text().to_owned()
}
