//! RFC 9112 sections 6 and 7: where a message ends.

use std::time::Duration;

use super::peer::{self, Echo, Wrong, host, rest_of};
use crate::support::origin::{Origin, Reply, ok};

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// Sends a POST with these field lines and these bytes behind its head, by each door, and wants it refused.
async fn refuses_requests(cases: &[(&str, &str)]) {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for (fields, body) in cases {
            echo.refuses(door, format!("{}{body}", door.head("POST", "/", fields)), 400).await;
        }
    }
}

/// What stands behind a head whose end may be seen in two places: a request that must never be served.
const HIDDEN: &str = "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn rfc9112_6_1_chunked_is_read_in_requests_and_in_responses() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        for name in ["Transfer-Encoding: chunked", "tRANSFER-eNCODING:chunked", "Transfer-Encoding: \t Chunked \t "] {
            let mut client = door.client().await;
            client.send(door.head("POST", "/", &format!("{name}\r\n"))).await;
            client.send("5\r\nhello\r\n00a;x=\"y\"\r\n0123456789\r\n").await;
            let mut line = host.accept().await;
            let head = line.until("\r\n\r\n").await.to_lowercase();
            assert!(head.contains("\r\ntransfer-encoding: chunked\r\n") && !head.contains("content-length"), "{head}");
            // Passed on before its end, in chunks of our own.
            line.until("hello").await;
            line.until("0123456789\r\n").await;
            assert!(line.buffer.is_empty(), "{:?}", line.buffer);
            client.send("0\r\n\r\n").await;
            assert_eq!(line.until("0\r\n\r\n").await, "0\r\n\r\n");
            line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n").await;
            line.send("3;ext\r\nabc\r\nA \t\r\n0123456789\r\n000\r\n\r\n").await;
            let answer = client.answer("POST").await;
            assert_eq!((answer.text(), answer.complete), ("abc0123456789", true), "{}", door.name);
            assert_eq!(answer.field("transfer-encoding"), "chunked");
            line.ends().await;
        }
    }
}

#[tokio::test]
async fn rfc9112_6_1_chunked_twice_is_refused_in_a_request() {
    refuses_requests(&[
        ("Transfer-Encoding: chunked, chunked\r\n", HIDDEN),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HIDDEN),
        ("Transfer-Encoding: chunked\r\nX-A: b\r\nTransfer-encoding: chunked\r\n", HIDDEN),
        ("Transfer-Encoding: chunked,chunked\r\n", HIDDEN),
    ])
    .await;
}

#[tokio::test]
async fn rfc9112_6_1_chunked_twice_is_refused_in_a_response_and_never_applied() {
    for fields in
        ["Transfer-Encoding: chunked, chunked\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"]
    {
        peer::refused_from_upstream(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n4\r\nevil\r\n0\r\n\r\n")).await;
    }
    // A body that happens to look chunked is passed on as it is.
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let case = format!("HTTP/1.1 200 OK\r\n{CHUNKED}\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for answer in Wrong::start(case, false).await.answers("GET").await {
        assert_eq!((answer.text(), answer.fields("transfer-encoding")), (body, vec!["chunked"]));
    }
}

#[tokio::test]
async fn rfc9112_6_1_no_transfer_encoding_in_1xx_is_passed_on() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        let mut client = door.client().await;
        client.send(door.head("GET", "/", "")).await;
        let mut line = host.accept().await;
        line.until("\r\n\r\n").await;
        line.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n")
            .await;
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        let early = client.answer("GET").await;
        assert_eq!((early.status, early.field("link")), (103, "</a>"));
        assert!(early.fields("transfer-encoding").is_empty() && early.fields("content-length").is_empty());
        assert_eq!(client.answer("GET").await.text(), "ok");
        line.ends().await;
    }
}

#[tokio::test]
async fn rfc9112_6_1_no_transfer_encoding_in_204_nor_in_304_and_no_body() {
    for (status, fields) in [
        ("204 No Content", CHUNKED),
        ("304 Not Modified", CHUNKED),
        ("204 No Content", "Content-Length: 4\r\n"),
        ("304 Not Modified", "Content-Length: 4\r\n"),
        ("204 No Content", ""),
        ("304 Not Modified", ""),
    ] {
        for body in ["", "evil", "4\r\nevil\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"] {
            let case = format!("HTTP/1.1 {status}\r\n{fields}\r\n{body}");
            for answer in Wrong::start(case.clone(), false).await.answers("GET").await {
                assert!(status.starts_with(&answer.status.to_string()), "{case:?}\n{}", answer.head);
                assert!(answer.fields("transfer-encoding").is_empty(), "{}", answer.head);
                assert!(answer.status == 304 || answer.fields("content-length").is_empty(), "{}", answer.head);
            }
        }
    }
}

#[tokio::test]
async fn rfc9112_6_1_no_transfer_encoding_in_an_answer_to_connect() {
    let (host, stage) = host().await;
    let door = stage.proxy();
    let mut client = door.client().await;
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", host.address)).await;
    let answer = client.answer("CONNECT").await;
    assert_eq!(answer.status, 200);
    assert!(answer.fields("transfer-encoding").is_empty() && answer.fields("content-length").is_empty());
    let mut line = host.accept().await;
    line.send("first").await;
    assert_eq!(client.bytes(5).await, b"first", "the tunnel begins where the head ends");
}

#[tokio::test]
async fn rfc9112_6_1_no_transfer_encoding_to_http_1_0() {
    for (case, body) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n", "ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", "ok"),
    ] {
        let wrong = Wrong::start(case, case.contains("close")).await;
        for door in wrong.stage.doors() {
            for keep in ["", "Connection: keep-alive\r\n", "TE: trailers\r\n"] {
                let mut client = door.client().await;
                client
                    .send(format!("GET {} HTTP/1.0\r\nHost: {}\r\n{keep}\r\n", door.target("/case"), door.host))
                    .await;
                let answer = client.answer("GET").await;
                assert_eq!((answer.text(), answer.complete), (body, true), "{case:?} {keep}");
                assert!(answer.fields("transfer-encoding").is_empty(), "{}", answer.head);
                assert_eq!(client.rest().await, b"", "{}", door.name);
            }
        }
    }
}

#[tokio::test]
async fn rfc9112_6_1_cl_with_te_in_a_request_is_refused_and_closed() {
    refuses_requests(&[
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", HIDDEN),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", HIDDEN),
        ("Transfer-Encoding: chunked\r\nX-A: b\r\nCONTENT-LENGTH:0\r\n", HIDDEN),
        ("content-length: 0\r\nX-A: b\r\ntransfer-encoding: Chunked\r\n", HIDDEN),
        ("Transfer-Encoding: chunked\r\nContent-Length: nonsense\r\n", HIDDEN),
        ("Transfer-Encoding: chunked\r\nContent-Length:\r\n", HIDDEN),
        ("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", HIDDEN),
        ("Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n", HIDDEN),
        ("Content-Length: 5\r\nTransfer-Encoding:\r\n", HIDDEN),
    ])
    .await;
}

#[tokio::test]
async fn rfc9112_6_1_cl_with_te_in_a_request_is_seen_on_a_used_connection() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for first in [
            door.head("GET", "/first", ""),
            format!("{}3\r\nabc\r\n0\r\n\r\n", door.head("POST", "/first", CHUNKED)),
            format!("{}3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", door.head("POST", "/first", CHUNKED)),
            format!("{}0\r\n\r\n\r\n", door.head("POST", "/first", CHUNKED)),
        ] {
            for together in [true, false] {
                let before = echo.origin.count();
                let second = door.head("POST", "/second", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n");
                let second = format!("{second}{HIDDEN}");
                let mut client = door.client().await;
                if together {
                    client.send(format!("{first}{second}")).await;
                    assert_eq!(client.answer("GET").await.text(), "served /first");
                } else {
                    client.send(&first).await;
                    assert_eq!(client.answer("GET").await.text(), "served /first");
                    client.send(&second).await;
                }
                let refused = client.answer("POST").await;
                assert_eq!(refused.status, 400, "{} {together} {first:?}", door.name);
                assert_eq!(client.rest().await, b"");
                assert_eq!(echo.origin.count(), before + 1);
            }
        }
        echo.serves_the_next(door).await;
    }
}

#[tokio::test]
async fn rfc9112_6_1_cl_with_te_in_a_response_is_refused_and_closed() {
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\ncontent-length: nonsense\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 4\r\nTransfer-Encoding:\r\n",
    ] {
        peer::refused_from_upstream(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n4\r\nevil\r\n0\r\n\r\n")).await;
    }
    // The connection is not used again, although the upstream would keep it.
    let wrong = Wrong::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        false,
    )
    .await;
    wrong.answers("GET").await;
    let seen = wrong.origin.seen();
    for (at, case) in seen.iter().enumerate().filter(|(_, seen)| seen.target() == "/case") {
        assert!(seen[at + 1..].iter().all(|later| later.connection != case.connection), "{seen:?}");
    }
}

#[tokio::test]
async fn rfc9112_6_1_te_in_an_http_1_0_request_is_faulty() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for fields in
            [CHUNKED, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: identity\r\n"]
        {
            for keep in ["", "Connection: keep-alive\r\n"] {
                let (target, host) = (door.target("/"), &door.host);
                let head = format!("POST {target} HTTP/1.0\r\nHost: {host}\r\n{fields}{keep}\r\n");
                echo.refuses(door, format!("{head}{HIDDEN}"), 400).await;
            }
        }
    }
}

#[tokio::test]
async fn rfc9112_6_1_te_in_an_http_1_0_response_is_faulty() {
    for fields in [CHUNKED, "Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n", "Transfer-Encoding: gzip\r\n"] {
        peer::refused_from_upstream(&format!("HTTP/1.0 200 OK\r\n{fields}\r\n4\r\nevil\r\n0\r\n\r\n")).await;
    }
}

#[tokio::test]
async fn rfc9112_6_2_never_cl_with_te_in_what_we_send() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        for (fields, body) in [
            (CHUNKED, "2\r\nhi\r\n0\r\n\r\n"),
            ("Content-Length: 2\r\n", "hi"),
            ("Content-Length: 0\r\n", ""),
            ("Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n", "2\r\nhi\r\n0\r\nContent-Length: 9\r\n\r\n"),
            ("", ""),
        ] {
            let mut client = door.client().await;
            client.send(format!("{}{body}", door.head("POST", "/", fields))).await;
            let mut line = host.accept().await;
            let head = line.until("\r\n\r\n").await.to_lowercase();
            let (lengths, codings) =
                (head.matches("\r\ncontent-length:").count(), head.matches("\r\ntransfer-encoding:").count());
            assert!(lengths + codings <= 1, "{head}");
            assert_eq!(codings == 1, fields.starts_with(CHUNKED), "{head}");
            if codings == 1 {
                assert_eq!(line.until("\r\n0\r\n\r\n").await, "2\r\nhi\r\n0\r\n\r\n");
            }
            line.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\nConnection: close\r\n\r\n",
            )
            .await;
            line.send("2\r\nok\r\n0\r\nContent-Length: 9\r\n\r\n").await;
            // The client of these tests refuses both in one head.
            assert_eq!(client.answer("POST").await.text(), "ok");
            client.send(door.head("GET", "/", "Connection: close\r\n")).await;
            let mut line = host.accept().await;
            line.until("\r\n\r\n").await;
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
            assert!(String::from_utf8(client.rest().await).unwrap().ends_with("\r\n\r\nok"));
        }
    }
}

#[tokio::test]
async fn rfc9112_6_2_never_cl_with_te_nor_none_when_an_upstream_names_them_in_connection() {
    for (fields, body) in [
        ("Content-Length: 4\r\nConnection: content-length\r\n", "good"),
        ("Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n", "4\r\ngood\r\n0\r\n\r\n"),
    ] {
        for answer in Wrong::start(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}"), false).await.answers("GET").await {
            assert_eq!((answer.text(), answer.complete), ("good", true), "{fields:?}");
            let framing = [answer.fields("content-length"), answer.fields("transfer-encoding")].concat();
            assert_eq!(framing.len(), 1, "{}", answer.head);
        }
    }
}

#[tokio::test]
async fn rfc9112_6_3_te_not_ending_in_chunked_in_a_request_gets_400_and_closed() {
    let mut cases = Vec::new();
    for value in [
        "gzip",
        "chunked, gzip",
        "gzip, chunked",
        "identity",
        "chunked, identity",
        "identity, chunked",
        "xchunked",
        "chunkedx",
        "x-chunked",
        "chunked;q=1",
        "chunked; a=b",
        "\"chunked\"",
        "'chunked'",
        ",chunked",
        "chunked,",
        ", chunked ,",
        "chun ked",
        "c hunked",
        "chunk",
        "",
        " ",
        ",",
        "\u{b}chunked",
        "chunked\u{b}",
        "\u{c}chunked",
        "\u{a0}chunked",
        "chunked\u{a0}",
        "chunKed\u{212a}",
        "chun\u{212a}ed",
        "trailers, chunked",
        "deflate",
        "nothing",
        "chunked\0",
        "chunked\r",
        "x: chunked",
    ] {
        cases.push(format!("Transfer-Encoding: {value}\r\n"));
    }
    for fields in [
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Transfer-Encoding\u{b}: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: y\n Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n",
        "Transfer-Encoding: chunked\r\nConnection: close, tRaNsFeR-eNcOdInG\r\n",
    ] {
        cases.push(fields.to_owned());
    }
    let cases: Vec<(&str, &str)> = cases.iter().map(|fields| (fields.as_str(), HIDDEN)).collect();
    refuses_requests(&cases).await;
}

#[tokio::test]
async fn rfc9112_6_3_te_not_ending_in_chunked_in_a_response_gets_502() {
    for value in [
        "gzip",
        "chunked, gzip",
        "gzip, chunked",
        "identity",
        "xchunked",
        "chunked;q=1",
        ",chunked",
        "chunked,",
        "",
        "\u{b}chunked",
        "chunked\u{b}",
        "\"chunked\"",
        "\u{a0}chunked",
    ] {
        peer::refused_from_upstream(&format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: {value}\r\n\r\n4\r\nevil\r\n0\r\n\r\n"
        ))
        .await;
    }
    for fields in [
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
    ] {
        peer::refused_from_upstream(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n4\r\nevil\r\n0\r\n\r\n")).await;
    }
}

#[tokio::test]
async fn rfc9112_6_3_invalid_cl_in_a_request_gets_400_and_closed() {
    let mut cases = Vec::new();
    for value in [
        "+5",
        "-5",
        "-0",
        "5,5",
        "5, 5",
        "5, 6",
        "5,",
        ",5",
        "0x5",
        "5x",
        "5 5",
        "5.0",
        "5e0",
        "",
        " ",
        "five",
        "\"5\"",
        "5;",
        "5_0",
        "\u{b}5",
        "5\u{b}",
        "٥",
        "18446744073709551616",
        "18446744073709551615",
        "99999999999999999999999",
        "-18446744073709551611",
        "5\0",
        "5\r",
    ] {
        cases.push(format!("Content-Length: {value}\r\n"));
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 05\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nX-A: b\r\ncontent-length: 0\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length:\r\n",
        "Content-Length: 5\r\nContent-Length: +5\r\n",
        "Content-Length : 5\r\n",
        "Content-Length: 5\r\n 0\r\n",
        "Content-Length: 5\r\nConnection: Content-Length\r\n",
    ] {
        cases.push(fields.to_owned());
    }
    let cases: Vec<(&str, &str)> = cases.iter().map(|fields| (fields.as_str(), HIDDEN)).collect();
    refuses_requests(&cases).await;
}

#[tokio::test]
async fn rfc9112_6_3_invalid_cl_in_a_request_is_told_apart_from_an_odd_one() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        for fields in
            ["Content-Length:  \t 5 \t \r\n", "Content-Length:5\r\n", "Content-Length: 0000000000000000000000005\r\n"]
        {
            for method in ["POST", "GET", "DELETE"] {
                let mut client = door.client().await;
                let next = door.head("GET", "/next", "");
                client.send(format!("{}hello{next}", door.head(method, "/", fields))).await;
                let mut line = host.accept().await;
                let head = line.until("\r\n\r\n").await.to_lowercase();
                let lengths: Vec<&str> = head.lines().filter(|line| line.starts_with("content-length:")).collect();
                assert_eq!(lengths.len(), 1, "{head}");
                assert_eq!(
                    lengths[0].trim_start_matches("content-length:").trim().trim_start_matches('0'),
                    "5",
                    "{head}"
                );
                line.until("hello").await;
                line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                assert_eq!(client.answer(method).await.text(), "ok");
                let head = line.until("\r\n\r\n").await;
                assert!(head.starts_with("GET /next HTTP/1.1\r\n"), "{head}");
                line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
                assert_eq!(client.answer("GET").await.text(), "ok");
                line.ends().await;
            }
        }
    }
}

#[tokio::test]
async fn rfc9112_6_3_invalid_cl_in_a_response_gets_502_and_closed() {
    for value in [
        "+4",
        "-4",
        "4,4",
        "4, 4",
        "4, 5",
        "4,",
        "0x4",
        "4x",
        "4 4",
        "4.0",
        "",
        " ",
        "four",
        "\u{b}4",
        "٤",
        "18446744073709551616",
        "99999999999999999999999",
    ] {
        let case = format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nevil");
        peer::refused_from_upstream(&case).await;
        // Where there is no body either.
        for answer in Wrong::start(case.clone(), true).await.answers("HEAD").await {
            assert_eq!(answer.status, 502, "{case:?}\n{}", answer.head);
        }
        for answer in Wrong::start(case.replace("200 OK", "304 Not Modified"), true).await.answers("GET").await {
            assert_eq!(answer.status, 502, "{case:?}\n{}", answer.head);
        }
    }
    for fields in ["Content-Length: 4\r\nContent-Length: 5\r\n", "Content-Length: 4\r\nContent-Length: 4\r\n"] {
        peer::refused_from_upstream(&format!("HTTP/1.1 200 OK\r\n{fields}\r\nevil")).await;
    }
    for answer in Wrong::start("HTTP/1.1 200 OK\r\nContent-Length: \t 4 \r\n\r\ngood", false).await.answers("GET").await
    {
        assert_eq!((answer.text(), answer.field("content-length")), ("good", "4"));
    }
}

#[tokio::test]
async fn rfc9112_6_3_short_response_body_looks_incomplete_to_the_client() {
    let (length, chunked) = ("Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n");
    for (fields, body, seen) in [
        (length, "", ""),
        (length, "hello", "hello"),
        (length, "hello wor", "hello wor"),
        (chunked, "", ""),
        (chunked, "5", ""),
        (chunked, "5\r\n", ""),
        (chunked, "5\r\nhel", "hel"),
        (chunked, "5\r\nhello", "hello"),
        (chunked, "5\r\nhello\r\n", "hello"),
        (chunked, "5\r\nhello\r\n0", "hello"),
        (chunked, "5\r\nhello\r\n0\r\n", "hello"),
        (chunked, "5\r\nhello\r\n0\r\n\r", "hello"),
        (chunked, "5\r\nhello\r\n0\r\nX-T: 1\r\n", "hello"),
    ] {
        let case = format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
        for answer in Wrong::start(case.clone(), true).await.answers("GET").await {
            assert_eq!((answer.status, answer.text(), answer.complete), (200, seen, false), "{case:?}");
        }
    }
}

#[tokio::test]
async fn rfc9112_6_3_short_response_body_looks_incomplete_after_a_reset() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        for (fields, body) in [("Content-Length: 10\r\n", "hello"), (CHUNKED, "5\r\nhello\r\n"), ("", "hello")] {
            let mut client = door.client().await;
            client.send(door.head("GET", "/", "")).await;
            let mut line = host.accept().await;
            line.until("\r\n\r\n").await;
            line.send(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}")).await;
            // The head and the body are on their way before the reset.
            let head = client.bytes(15).await;
            assert_eq!(head, b"HTTP/1.1 200 OK");
            line.stream.set_zero_linger().unwrap();
            drop(line);
            let rest = client.rest().await;
            assert!(!rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
            let rest = String::from_utf8(rest).unwrap().to_lowercase();
            // Without a length of the upstream's we chunk, so that a missing end can be seen.
            assert!(
                rest.contains("content-length: 10\r\n") || rest.contains("transfer-encoding: chunked\r\n"),
                "{rest}"
            );
        }
    }
}

#[tokio::test]
async fn rfc9112_6_3_short_request_body_looks_incomplete_to_the_upstream() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        for (fields, body, seen) in [
            ("Content-Length: 10\r\n", "hello", "hello"),
            (CHUNKED, "5\r\nhello\r\n", "5\r\nhello\r\n"),
            (CHUNKED, "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n"),
            (CHUNKED, "5\r\nhello\r\n3\r\nab", "5\r\nhello\r\n2\r\nab\r\n"),
        ] {
            for half in [false, true] {
                let mut client = door.client().await;
                client.send(format!("{}{body}", door.head("POST", "/", fields))).await;
                let mut line = host.accept().await;
                line.until("\r\n\r\n").await;
                line.until(&seen[..seen.len() - 2]).await;
                if half {
                    client.finish().await;
                } else {
                    drop(client);
                }
                let rest = rest_of(line).await;
                assert!(!String::from_utf8_lossy(&rest).contains("0\r\n"), "{body:?} {rest:?}");
            }
        }
    }
}

#[tokio::test]
async fn rfc9112_6_3_surplus_bytes_are_never_a_response() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for surplus in [evil, "x", "\r\n", "HTTP/1.1 ", "HTTP/1.1 100 Continue\r\n\r\n"] {
        for good in [
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
        ] {
            for answer in Wrong::start(format!("{good}{surplus}"), false).await.answers("GET").await {
                assert_eq!((answer.text(), answer.complete), ("good", true), "{surplus:?}");
            }
        }
        for answer in Wrong::start(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{surplus}"), false)
            .await
            .answers("HEAD")
            .await
        {
            assert_eq!(answer.status, 200, "{surplus:?}");
        }
        for answer in
            Wrong::start(format!("HTTP/1.1 204 No Content\r\n\r\n{surplus}"), false).await.answers("GET").await
        {
            assert_eq!(answer.status, 204, "{surplus:?}");
        }
    }
}

#[tokio::test]
async fn rfc9112_6_3_surplus_bytes_are_never_a_response_however_quick_the_next_request_is() {
    let origin = Origin::start(|seen| match seen.target() {
        "/surplus" => Reply::Bytes(
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
                .to_vec(),
        ),
        other => ok(&format!("served {other}")),
    })
    .await;
    let stage = peer::Stage::before(origin.address()).await;
    for door in stage.doors() {
        let mut client = door.client().await;
        // Pipelined, so that the next request is there before the surplus can be thrown away.
        for _ in 0..100 {
            client.send(format!("{}{}", door.head("GET", "/surplus", ""), door.head("GET", "/after", ""))).await;
            assert_eq!(client.answer("GET").await.text(), "good");
            assert_eq!(client.answer("GET").await.text(), "served /after");
        }
    }
}

/// Chunked bodies that are wrong.
const BAD_CHUNKS: &[&str] = &[
    "0x3\r\nabc\r\n0\r\n\r\n",
    "+3\r\nabc\r\n0\r\n\r\n",
    "-3\r\nabc\r\n0\r\n\r\n",
    "3h\r\nabc\r\n0\r\n\r\n",
    "g\r\nabc\r\n0\r\n\r\n",
    " 3\r\nabc\r\n0\r\n\r\n",
    "\t3\r\nabc\r\n0\r\n\r\n",
    "\r\n3\r\nabc\r\n0\r\n\r\n",
    ";x\r\nabc\r\n0\r\n\r\n",
    "\r\n\r\n",
    "3 3\r\nabc\r\n0\r\n\r\n",
    "3\u{b}\r\nabc\r\n0\r\n\r\n",
    "3\0\r\nabc\r\n0\r\n\r\n",
    "3,\r\nabc\r\n0\r\n\r\n",
    "3_0\r\nabc\r\n0\r\n\r\n",
    "3\nabc\n0\n\n",
    "3\nabc\r\n0\r\n\r\n",
    "3\r\nabc\n0\r\n\r\n",
    "3\r\nabc\r\n0\n\r\n",
    "3\r\nabc\r\n0\r\n\n",
    "3\rabc\r\n0\r\n\r\n",
    "3\r\rabc\r\n0\r\n\r\n",
    "3\r\nabc\r0\r\n\r\n",
    "3\r\nabc0\r\n\r\n",
    "3\r\nabcd\r\n0\r\n\r\n",
    "3\r\nabcde0\r\n\r\n",
    "3\r\nab\r\n0\r\n\r\n\r\n",
    "3;a\nb\r\nabc\r\n0\r\n\r\n",
    "3;a\rb\r\nabc\r\n0\r\n\r\n",
    "3;\n\r\nabc\r\n0\r\n\r\n",
    "3;a=\"\r\"\r\nabc\r\n0\r\n\r\n",
    "3;a\0b\r\nabc\r\n0\r\n\r\n",
    "3\r\nabc\r\n0;a\nb\r\n\r\n",
    "3\r\nabc\r\n0\r\nX-T: a\nX-U: b\r\n\r\n",
    "3\r\nabc\r\n0\r\nX-T: a\rX-U: b\r\n\r\n",
    "3\r\nabc\r\n0\r\nX-T: a\n\r\nX-U: b\r\n\r\n",
    "3\r\nabc\r\n0\r\nX-T : a\r\n\r\n",
    "3\r\nabc\r\n0\r\nX-T: a\r\n b\r\n\r\n",
    "3\r\nabc\r\n0\r\n X-T: a\r\n\r\n",
    "3\r\nabc\r\n0\r\nX-T\r\n\r\n",
    "3\r\nabc\r\n0\r\n: a\r\n\r\n",
    "3\r\nabc\r\n0\r\nX-T: a\0\r\n\r\n",
];

/// Those of them that hyper lets pass in an answer. What we send of it is well-formed.
const LENIENT: &[&str] =
    &["3;a\0b\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n\n", "3\r\nabc\r\n0\r\nX-T: a\n\r\nX-U: b\r\n\r\n"];

/// Sizes that no length has room for.
const LARGE_SIZES: &[&str] = &["10000000000000003", "fffffffffffffffff", "100000000000000000000000000000003"];

/// Sends a chunked request body that is wrong: it must never come to its end at the origin.
async fn refuses_chunks(cases: impl IntoIterator<Item = String>) {
    let echo = Echo::start().await;
    let cases: Vec<String> = cases.into_iter().collect();
    for door in echo.stage.doors() {
        for body in &cases {
            for split in [false, true] {
                let before = echo.origin.count();
                let shown = &body[..body.len().min(80)];
                let mut client = door.client().await;
                let (head, behind) = (door.head("POST", "/chunks", CHUNKED), door.head("GET", "/hidden", ""));
                if split {
                    client.send(head).await;
                    client.send(format!("{body}{behind}")).await;
                } else {
                    client.send(format!("{head}{body}{behind}")).await;
                }
                let answer = client.answer("POST").await;
                assert_eq!(answer.status, 400, "{} {split} {shown:?}\n{}", door.name, answer.head);
                assert_eq!(answer.field("connection"), "close", "{shown:?}");
                assert_eq!(String::from_utf8_lossy(&client.rest().await), "", "{shown:?}");
                assert_eq!(echo.origin.count(), before, "{} {shown:?} came through", door.name);
            }
        }
        echo.serves_the_next(door).await;
    }
}

/// Answers with a chunked body that is wrong: it must look incomplete to the client.
async fn cuts_chunks(cases: impl IntoIterator<Item = String>) {
    for body in cases {
        let case = format!("HTTP/1.1 200 OK\r\n{CHUNKED}\r\n{body}");
        for answer in Wrong::start(case, false).await.answers("GET").await {
            let shown = &body[..body.len().min(80)];
            assert!(!answer.complete || answer.status == 502, "{shown:?}\n{}\n{:?}", answer.head, answer.text());
            assert!(answer.status == 502 || answer.body.len() <= 3, "{shown:?}: {:?}", answer.text());
        }
    }
}

#[tokio::test]
async fn rfc9112_7_1_chunk_size_overflow_in_a_request_is_refused() {
    refuses_chunks(LARGE_SIZES.iter().map(|size| format!("{size}\r\nabc\r\n0\r\n\r\n"))).await;
}

#[tokio::test]
async fn rfc9112_7_1_chunk_size_overflow_in_a_request_nor_any_other_malformed_chunk() {
    refuses_chunks(BAD_CHUNKS.iter().map(|body| (*body).to_owned())).await;
}

#[tokio::test]
async fn rfc9112_7_1_chunk_size_overflow_in_a_request_nor_any_other_malformed_chunk_behind_a_head_that_has_passed() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        for body in BAD_CHUNKS.iter().chain(LARGE_SIZES) {
            let mut client = door.client().await;
            client.send(door.head("POST", "/", CHUNKED)).await;
            let mut line = host.accept().await;
            line.until("\r\n\r\n").await;
            client.send(format!("{body}\r\n{}", door.head("GET", "/hidden", ""))).await;
            let answer = client.answer("POST").await;
            assert_eq!((answer.status, answer.field("connection")), (400, "close"), "{} {body:?}", door.name);
            assert_eq!(String::from_utf8_lossy(&client.rest().await), "", "{body:?}");
            let passed = String::from_utf8(rest_of(line).await).unwrap();
            assert!(!passed.contains("0\r\n") && !passed.contains("hidden"), "{} {body:?} {passed:?}", door.name);
        }
    }
}

#[tokio::test]
async fn rfc9112_7_1_chunk_size_overflow_in_a_request_is_no_number_of_zeros() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for body in [
            "00000000000000003\r\nabc\r\n0\r\n\r\n",
            "3\r\nabc\r\n00000000000000000000\r\n\r\n",
            "3 \t \r\nabc\r\n0\r\n\r\n",
        ] {
            let mut client = door.client().await;
            client.send(format!("{}{body}{}", door.head("POST", "/zeros", CHUNKED), door.head("GET", "/b", ""))).await;
            assert_eq!(client.answer("POST").await.text(), "served /zeros", "{body:?}");
            assert_eq!(client.answer("GET").await.text(), "served /b", "{body:?}");
            let seen = echo.origin.seen();
            assert_eq!(seen[seen.len() - 2].body, b"abc");
        }
    }
}

#[tokio::test]
async fn rfc9112_7_1_chunk_size_overflow_in_a_response_cuts_it() {
    cuts_chunks(LARGE_SIZES.iter().map(|size| format!("{size}\r\nabc\r\n0\r\n\r\n"))).await;
    cuts_chunks(LARGE_SIZES.iter().map(|size| format!("3\r\nabc\r\n{size}\r\nabc\r\n0\r\n\r\n"))).await;
}

#[tokio::test]
async fn rfc9112_7_1_chunk_size_overflow_in_a_response_nor_any_other_malformed_chunk() {
    cuts_chunks(BAD_CHUNKS.iter().filter(|body| !LENIENT.contains(body)).map(|body| (*body).to_owned())).await;
    // What is left is one answer that ends where its connection does or before; nothing of it is another answer.
    for body in LENIENT {
        for answer in Wrong::start(format!("HTTP/1.1 200 OK\r\n{CHUNKED}\r\n{body}"), true).await.answers("GET").await {
            assert_eq!((answer.status, answer.text()), (200, "abc"), "{body:?}");
            assert!(!answer.head.contains("X-"), "{}", answer.head);
        }
    }
}

#[tokio::test]
async fn rfc9112_7_1_1_chunk_extensions_are_ignored_and_not_passed_on() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        for extension in [";a", ";a=b", " ; a = b", ";a=\"b;c\"", ";a=\"b\\\"c\"", ";;;", "\t;x", ";a=é"] {
            let mut client = door.client().await;
            let body = format!("3{extension}\r\nabc\r\n0{extension}\r\n\r\n");
            client.send(format!("{}{body}", door.head("POST", "/", CHUNKED))).await;
            let mut line = host.accept().await;
            line.until("\r\n\r\n").await;
            assert_eq!(line.until("0\r\n\r\n").await, "3\r\nabc\r\n0\r\n\r\n", "{extension:?}");
            line.send(&format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{CHUNKED}\r\n{body}")).await;
            let mut raw = String::new();
            while !raw.ends_with("0\r\n\r\n") {
                raw.push_str(std::str::from_utf8(&client.bytes(1).await).unwrap());
                assert!(raw.len() < 2000, "{raw}");
            }
            assert!(raw.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{raw:?}");
            line.ends().await;
        }
    }
}

#[tokio::test]
async fn rfc9112_7_1_1_chunk_extensions_are_ignored_up_to_a_bound() {
    let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000));
    let many = "1;xxxxxxxxxxxxxxx\r\na\r\n".repeat(2_000);
    refuses_chunks([long.clone(), format!("{many}0\r\n\r\n")]).await;
    for body in [long, format!("{many}0\r\n\r\n")] {
        let case = format!("HTTP/1.1 200 OK\r\n{CHUNKED}\r\n{body}");
        for answer in Wrong::start(case, false).await.answers("GET").await {
            assert!(!answer.complete && answer.body.len() < 2_000, "{}", answer.body.len());
        }
    }
}

#[tokio::test]
async fn rfc9112_7_1_2_trailers_are_never_merged_into_the_header_section() {
    let (host, stage) = host().await;
    let names = "Host, X-Sum, Content-Length, Transfer-Encoding, Authorization, Connection";
    let trailer =
        "Host: evil\r\nX-Sum: 7\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\nAuthorization: evil\r\n";
    for door in stage.doors() {
        for declared in [true, false] {
            let fields =
                if declared { format!("{CHUNKED}TE: trailers\r\nTrailer: {names}\r\n") } else { CHUNKED.to_owned() };
            let mut client = door.client().await;
            client.send(format!("{}2\r\nhi\r\n0\r\n{trailer}\r\n", door.head("POST", "/", &fields))).await;
            let mut line = host.accept().await;
            let head = line.until("\r\n\r\n").await.to_lowercase();
            assert!(
                !head.contains("evil") && !head.contains("x-sum: 7") && !head.contains("\r\ncontent-length"),
                "{head}"
            );
            let body = line.until("0\r\n").await;
            assert_eq!(body, "2\r\nhi\r\n0\r\n");
            let passed = line.until("\r\n").await.to_lowercase();
            if declared {
                // Only what may stand there, and what was announced.
                assert_eq!(passed + &line.until("\r\n").await, "x-sum: 7\r\n\r\n");
            } else {
                assert_eq!(passed, "\r\n");
            }
            line.send(&format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}\r\n2\r\nok\r\n0\r\n{trailer}\r\n"))
                .await;
            let answer = client.answer("POST").await;
            assert_eq!((answer.text(), answer.complete), ("ok", true));
            assert!(!answer.head.contains("evil") && answer.fields("x-sum").is_empty(), "{}", answer.head);
            assert!(answer.fields("content-length").is_empty(), "{}", answer.head);
            line.ends().await;
            client.send(door.head("GET", "/", "")).await;
            let mut line = host.accept().await;
            line.until("\r\n\r\n").await;
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
            assert_eq!(client.answer("GET").await.text(), "ok", "the next answer begins where the trailer ends");
            line.ends().await;
        }
    }
}

#[tokio::test]
async fn rfc9112_7_4_te_only_with_connection_te_goes_out() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for (fields, te) in [
            ("", None),
            ("TE: trailers\r\nConnection: TE\r\n", Some("trailers")),
            ("TE: trailers\r\n", Some("trailers")),
            ("TE: gzip\r\nConnection: TE\r\n", None),
            ("TE: gzip;q=0.5, trailers\r\nConnection: te\r\n", Some("trailers")),
            ("Connection: TE\r\n", None),
        ] {
            let mut client = door.client().await;
            client.send(door.head("GET", "/te", fields)).await;
            assert_eq!(client.answer("GET").await.status, 200);
            let seen = echo.origin.last();
            assert_eq!(seen.field("te"), te, "{fields:?}");
            assert_eq!(seen.field("connection"), te.map(|_| "TE"), "{fields:?}");
        }
    }
}

#[tokio::test]
async fn rfc9112_6_3_surplus_bytes_are_never_a_response_when_they_come_late() {
    let (host, stage) = host().await;
    let door = stage.proxy();
    let mut client = door.client().await;
    client.send(door.head("GET", "/", "")).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await;
    assert_eq!(client.answer("GET").await.text(), "good");
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
    line.ends().await;
    client.send(door.head("GET", "/", "")).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await;
    assert_eq!(client.answer("GET").await.text(), "next");
}

#[tokio::test]
async fn rfc9112_6_1_no_transfer_encoding_in_an_answer_to_connect_nor_content_in_the_request() {
    let (host, stage) = host().await;
    let door = stage.proxy();
    for fields in [
        CHUNKED,
        "Content-Length: 3\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: x\r\n",
    ] {
        let mut client = door.client().await;
        client
            .send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n{fields}\r\n3\r\nabc\r\n0\r\n\r\n", host.address))
            .await;
        let answer = client.answer("GET").await;
        assert_eq!((answer.status, answer.field("connection")), (400, "close"), "{fields:?}");
        assert_eq!(client.rest().await, b"", "{fields:?}");
    }
    // A length of nothing is nothing.
    let mut client = door.client().await;
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\nContent-Length: 0\r\n\r\nearly", host.address)).await;
    assert_eq!(client.answer("CONNECT").await.status, 200);
    let mut line = host.accept().await;
    assert_eq!(line.until("early").await, "early", "the first connection that the host sees");
    assert!(line.is_silent(Duration::from_millis(50)).await);
    drop(client);
}
