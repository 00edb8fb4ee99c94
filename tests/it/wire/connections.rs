//! RFC 9112 section 9: the life of a connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::peer::{Echo, Stage, host};
use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::origin::{Origin, Reply, limited, message, ok};
use crate::support::sidecar::Holdoff;
use crate::support::tls::Authority;
use crate::support::within;

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";

/// A request that must never be served: it stands where a body belongs.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn rfc9112_9_2_unsolicited_data_on_an_idle_connection_is_not_a_response() {
    for unsolicited in [
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "H",
        "\r\n",
    ] {
        let (host, stage) = host().await;
        for door in stage.doors() {
            let mut client = door.client().await;
            client.send(door.head("GET", "/", "")).await;
            let mut line = host.accept().await;
            line.until("\r\n\r\n").await;
            line.send(GOOD).await;
            assert_eq!(client.answer("GET").await.text(), "good");
            line.send(unsolicited).await;
            line.ends().await;
            client.send(door.head("POST", "/", "Content-Length: 2\r\n")).await;
            client.send("hi").await;
            let mut line = host.accept().await;
            line.until("hi").await;
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnext").await;
            assert_eq!(client.answer("POST").await.text(), "next", "{} {unsolicited:?}", door.name);
            line.ends().await;
        }
    }
}

#[tokio::test]
async fn rfc9112_9_2_unsolicited_data_is_not_passed_on_when_it_comes_behind_an_answer_to_head() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        let mut client = door.client().await;
        client.send(door.head("HEAD", "/", "")).await;
        let mut line = host.accept().await;
        line.until("\r\n\r\n").await;
        line.send(GOOD).await;
        assert_eq!(client.answer("HEAD").await.field("content-length"), "4");
        line.ends().await;
        client.send(door.head("GET", "/", "")).await;
        let mut line = host.accept().await;
        line.until("\r\n\r\n").await;
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnext").await;
        assert_eq!(client.answer("GET").await.text(), "next");
        line.ends().await;
    }
}

/// Bodies that look like requests, as a field line and the bytes; `fill` makes them longer.
fn bodies(fill: usize) -> [(String, String); 2] {
    let body = format!("{HIDDEN}{}{HIDDEN}", "x".repeat(fill));
    [
        (format!("Content-Length: {}\r\n", body.len()), body.clone()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
    ]
}

#[tokio::test]
async fn rfc9112_9_3_whole_request_body_or_close_behind_a_short_circuit() {
    let origin = Origin::start(|seen| if seen.target() == "/limit" { limited("60") } else { ok(seen.target()) }).await;
    let host = origin.address();
    let holdoff =
        Holdoff::start(&format!("[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"http://{host}\"\n")).await;
    assert_eq!(holdoff.get(&format!("http://{host}/limit")).await.status, 429);
    let doors = [(holdoff.proxy(), format!("http://{host}")), (holdoff.reverse(0), String::new())];
    for (address, base) in &doors {
        for fill in [0, 30_000, 200_000] {
            for (fields, body) in bodies(fill) {
                for together in [true, false] {
                    let mut client = Client::connect(*address).await;
                    let head = format!("POST {base}/x HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
                    if together {
                        client.send(format!("{head}{body}")).await;
                    } else {
                        client.send(head).await;
                        client.send(&body).await;
                    }
                    let answer = client.answer("POST").await;
                    assert_eq!((answer.status, answer.complete), (429, true), "{fields:?} {fill}");
                    if answer.fields("connection") == ["close"] {
                        assert!(fill > 64 * 1024, "{fields:?} {fill}");
                        assert_eq!(String::from_utf8_lossy(&client.rest().await), "", "{fields:?} {fill}");
                    } else {
                        client
                            .send(format!("GET {base}/y HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
                            .await;
                        assert_eq!(client.answer("GET").await.status, 429);
                        assert_eq!(String::from_utf8_lossy(&client.rest().await), "", "two requests, two answers");
                    }
                }
            }
        }
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn rfc9112_9_3_whole_request_body_or_close_behind_our_own_errors() {
    let echo = Echo::start().await;
    let host = echo.origin.address();
    let proxy = echo.stage.proxy();
    let unused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for (target, status) in [
        (format!("https://{host}/x"), 501),
        ("/x".to_owned(), 400),
        (format!("http://{unused}/x"), 502),
        ("http://no-such-host.invalid/x".to_owned(), 502),
        ("http://a:0/x".to_owned(), 400),
    ] {
        for fill in [0, 200_000] {
            for (fields, body) in bodies(fill) {
                let mut client = proxy.client().await;
                client.send(format!("POST {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n{body}")).await;
                let answer = client.answer("POST").await;
                assert_eq!(
                    (answer.status, answer.complete),
                    (status, true),
                    "{target} {fields:?} {fill}\n{}",
                    answer.head
                );
                if answer.fields("connection") != ["close"] {
                    client.send(proxy.head("GET", "/next", "Connection: close\r\n")).await;
                    assert_eq!(client.answer("GET").await.text(), "served /next", "{target} {fields:?} {fill}");
                }
                assert_eq!(String::from_utf8_lossy(&client.rest().await), "", "{target} {fields:?} {fill}");
            }
        }
    }
    assert!(echo.origin.seen().iter().all(|seen| seen.target() == "/next"));
}

#[tokio::test]
async fn rfc9112_9_3_whole_request_body_or_close_behind_an_early_answer_of_the_upstream() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        for (fields, body) in bodies(0) {
            let (first, rest) = body.split_at(10);
            let mut client = door.client().await;
            client.send(format!("{}{first}", door.head("POST", "/", &fields))).await;
            let mut line = host.accept().await;
            line.until("\r\n\r\n").await;
            line.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await;
            let answer = client.answer("POST").await;
            assert_eq!((answer.status, answer.text()), (413, "no"));
            // The rest is still the body's, and goes where the body goes.
            client.send(rest).await;
            let end = "HTTP/1.1\r\nHost: a\r\n\r\n";
            line.until(end).await;
            line.until(end).await;
            if fields.starts_with("Transfer") {
                assert_eq!(line.until("0\r\n\r\n").await, "\r\n0\r\n\r\n");
            }
            client.send(door.head("GET", "/next", "")).await;
            let mut next = tokio::select! {
                next = host.accept() => next,
                () = async { line.stream.readable().await.unwrap() } => line,
            };
            assert!(next.until("\r\n\r\n").await.starts_with("GET /next HTTP/1.1\r\n"), "{}", door.name);
            next.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnext").await;
            assert_eq!(client.answer("GET").await.text(), "next", "{} {fields:?}", door.name);
        }
    }
}

#[tokio::test]
async fn rfc9112_9_3_no_persistence_with_http_1_0_clients() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for fields in
            ["", "Connection: keep-alive\r\n", "Proxy-Connection: keep-alive\r\n", "Connection: Keep-Alive, x\r\n"]
        {
            let before = echo.origin.count();
            let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\n{fields}\r\n", door.target("/old"), door.host);
            let mut client = door.client().await;
            client.send(format!("{request}{request}")).await;
            let answer = client.answer("GET").await;
            assert_eq!(answer.text(), "served /old");
            let connection = answer.fields("connection");
            assert!(connection.is_empty() || connection == ["close"], "{fields:?} {connection:?}");
            assert_eq!(String::from_utf8_lossy(&client.rest().await), "", "{} {fields:?}", door.name);
            assert_eq!(echo.origin.count(), before + 1, "{fields:?}");
        }
        // The same with an answer of our own.
        let mut client = door.client().await;
        client.send(format!("GET ftp://a/ HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n{HIDDEN}")).await;
        let answer = client.answer("GET").await;
        assert_ne!(answer.fields("connection"), ["keep-alive"], "{}", answer.head);
        assert_eq!(String::from_utf8_lossy(&client.rest().await), "", "{}", door.name);
        echo.serves_the_next(door).await;
    }
}

#[tokio::test]
async fn rfc9112_9_3_no_persistence_with_http_1_0_upstreams() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        let mut client = door.client().await;
        for fields in ["", "Connection: keep-alive\r\n", "Connection: Keep-Alive\r\nKeep-Alive: timeout=60\r\n"] {
            client.send(door.head("GET", "/", "")).await;
            let mut line = host.accept().await;
            let head = line.until("\r\n\r\n").await.to_lowercase();
            assert!(!head.contains("keep-alive"), "we ask for none: {head}");
            line.send(&format!("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n{fields}\r\ngood")).await;
            assert_eq!(client.answer("GET").await.text(), "good", "{} {fields:?}", door.name);
            line.ends().await;
        }
    }
}

#[tokio::test]
async fn rfc9112_9_3_2_pipelined_answers_come_in_order() {
    let gate = Arc::new(Notify::new());
    let origin = {
        let gate = Arc::clone(&gate);
        Origin::start(move |seen| match seen.target() {
            "/slow" => Reply::Gate(Arc::clone(&gate), message(200, "OK", &[], "slow")),
            other => ok(other),
        })
        .await
    };
    let stage = Stage::before(origin.address()).await;
    for door in stage.doors() {
        let mut client = door.client().await;
        // Answers of ours stand between those of the upstream.
        let own = format!("GET ftp://a/ HTTP/1.1\r\nHost: {}\r\n\r\n", door.host);
        let upload =
            format!("{}5\r\nhello\r\n0\r\n\r\n", door.head("POST", "/upload", "Transfer-Encoding: chunked\r\n"));
        let all = [
            door.head("GET", "/slow", ""),
            own.clone(),
            door.head("GET", "/quick", ""),
            upload,
            door.head("HEAD", "/head", ""),
            own,
            door.head("GET", "/last", "Connection: close\r\n"),
        ];
        client.send(all.concat()).await;
        // Nothing can be there before the first.
        tokio::select! {
            early = client.bytes(1) => panic!("expected nothing before the slow one, found {early:?}"),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        gate.notify_one();
        assert_eq!(client.answer("GET").await.text(), "slow");
        assert_eq!(client.answer("GET").await.status, 501);
        assert_eq!(client.answer("GET").await.text(), "/quick");
        assert_eq!(client.answer("POST").await.text(), "/upload");
        assert_eq!(client.answer("HEAD").await.field("content-length"), "5");
        assert_eq!(client.answer("GET").await.status, 501);
        assert_eq!(client.answer("GET").await.text(), "/last");
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn rfc9112_9_3_2_pipelined_answers_come_in_order_however_many_there_are() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        let fill = format!("X-Fill: {}\r\n", "x".repeat(300));
        let all: String = (0..500)
            .map(|n| match n % 3 {
                0 => door.head("GET", &format!("/{n}"), &fill),
                1 => format!("{}abc", door.head("POST", &format!("/{n}"), &format!("{fill}Content-Length: 3\r\n"))),
                _ => {
                    let fields = format!("{fill}Transfer-Encoding: chunked\r\n");
                    format!("{}3\r\nabc\r\n0\r\n\r\n", door.head("POST", &format!("/{n}"), &fields))
                }
            })
            .collect();
        let mut client = door.client().await;
        client.send(all).await;
        for n in 0..500 {
            assert_eq!(client.answer("GET").await.text(), format!("served /{n}"), "{}", door.name);
        }
    }
}

#[tokio::test]
async fn rfc9112_9_6_close_from_the_client_ends_the_connection_behind_the_answer() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for fields in [
            "Connection: close\r\n",
            "Connection: CLOSE\r\n",
            "Connection: keep-alive, close\r\n",
            "Connection: x,,close ,\r\n",
            "Connection: close\r\nConnection: keep-alive\r\n",
            "Connection: keep-alive\r\nConnection: x-a, close\r\n",
        ] {
            let before = echo.origin.count();
            let mut client = door.client().await;
            client.send(format!("{}{}", door.head("GET", "/last", fields), door.head("GET", "/hidden", ""))).await;
            let answer = client.answer("GET").await;
            assert_eq!((answer.text(), answer.field("connection")), ("served /last", "close"), "{fields:?}");
            assert_eq!(String::from_utf8_lossy(&client.rest().await), "", "{fields:?}");
            assert_eq!(echo.origin.count(), before + 1, "{fields:?}");
            // It was about our connection, not about the upstream's.
            assert_eq!(echo.origin.last().field("connection"), None, "{fields:?}");
            echo.serves_the_next(door).await;
        }
    }
    assert_eq!(echo.origin.connections(), 1);
}

#[tokio::test]
async fn rfc9112_9_6_close_from_the_upstream_is_not_the_clients() {
    let (host, stage) = host().await;
    for door in stage.doors() {
        let mut client = door.client().await;
        for (fields, behind) in [
            ("Connection: close\r\n", ""),
            ("Connection: Close\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
            ("Connection: keep-alive, close\r\n", ""),
            ("Connection: keep-alive\r\nConnection: close\r\n", ""),
            ("Connection: x,,close,\r\n", ""),
        ] {
            client.send(door.head("GET", "/", "")).await;
            let mut line = host.accept().await;
            line.until("\r\n\r\n").await;
            line.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n{fields}\r\ngood{behind}")).await;
            let answer = client.answer("GET").await;
            assert_eq!((answer.text(), answer.fields("connection").len()), ("good", 0), "{fields:?}");
            line.ends().await;
        }
    }
}

#[tokio::test]
async fn rfc9112_9_6_close_is_in_stages_so_that_the_last_answer_can_be_read() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for bad in [
            format!("GET {} HTTP/1.1\r\nHost: {}\r\nX : y\r\n\r\n", door.target("/"), door.host),
            door.head("POST", "/", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            "nonsense\r\n\r\n".to_owned(),
            format!("GET ftp://a/ HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000000\r\n\r\n", door.host),
        ] {
            let mut stream = TcpStream::connect(door.address()).await.unwrap();
            stream.write_all(bad.as_bytes()).await.unwrap();
            // More than the sockets' buffers hold would never be read by us; this much is on its way when the answer comes.
            let more = vec![b'x'; 200_000];
            let written = stream.write_all(&more).await;
            let mut answer = Vec::new();
            let end = within("the end", stream.read_to_end(&mut answer)).await;
            assert!(end.is_ok() && written.is_ok(), "{} {bad:?}: {end:?} {written:?}", door.name);
            assert!(
                answer.starts_with(b"HTTP/1.1 ") && answer.ends_with(b"}\n"),
                "{:?}",
                String::from_utf8_lossy(&answer)
            );
        }
        echo.serves_the_next(door).await;
    }
}

/// Asks by TLS for an answer of these bytes, which the host ends with or without a close_notify; what the client saw, and
/// whether the connection ended in order.
async fn over_tls(case: &str, notify: bool, version: &str) -> (String, bool) {
    let authority = Authority::new();
    let (host, ca) = (Host::start().await, authority.file());
    let holdoff = Holdoff::start(&format!(
        "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"https://{}\"\n[upstream]\nca_files = [{ca:?}]\n",
        host.address
    ))
    .await;
    let mut client = TcpStream::connect(holdoff.reverse(0)).await.unwrap();
    client.write_all(format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let line = host.accept().await;
    let mut stream = within("TLS", authority.acceptor(&["127.0.0.1"]).accept(line.stream)).await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(within("the request", stream.read_u8()).await.unwrap());
    }
    stream.write_all(case.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    if notify {
        stream.shutdown().await.unwrap();
    } else {
        // The end of the TCP connection alone, as anybody between could make it.
        stream.get_mut().0.shutdown().await.unwrap();
    }
    let mut answer = Vec::new();
    let end = within("the end", client.read_to_end(&mut answer)).await;
    (String::from_utf8(answer).unwrap(), end.is_ok())
}

#[tokio::test]
async fn rfc9112_9_8_tls_closure_without_close_notify_is_an_incomplete_body() {
    let to_the_end = "HTTP/1.1 200 OK\r\n\r\nhello";
    let (answer, _) = over_tls(to_the_end, false, "1.1").await;
    assert!(answer.contains("hello") && !answer.contains("0\r\n\r\n"), "{answer}");
    assert!(answer.to_lowercase().contains("transfer-encoding: chunked\r\n"), "a missing end can be seen: {answer}");
    // A client of HTTP/1.0 can tell only by a reset.
    let (answer, in_order) = over_tls(to_the_end, false, "1.0").await;
    assert!(!in_order, "{answer}");
    let (answer, _) =
        over_tls("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false, "1.1").await;
    assert!(answer.contains("hello") && !answer.contains("0\r\n\r\n"), "{answer}");
    let (answer, _) = over_tls("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", false, "1.1").await;
    assert!(answer.ends_with("\r\n\r\nhello") && answer.contains("ength: 10\r\n"), "{answer}");
}

#[tokio::test]
async fn rfc9112_9_8_tls_closure_with_close_notify_is_a_whole_body() {
    let to_the_end = "HTTP/1.1 200 OK\r\n\r\nhello";
    let (answer, in_order) = over_tls(to_the_end, true, "1.1").await;
    assert!(answer.ends_with("5\r\nhello\r\n0\r\n\r\n") && in_order, "{answer}");
    let (answer, in_order) = over_tls(to_the_end, true, "1.0").await;
    assert!(answer.ends_with("\r\n\r\nhello") && in_order, "{answer}");
    // Still short of its length.
    let (answer, _) =
        over_tls("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true, "1.1").await;
    assert!(answer.contains("hello") && !answer.contains("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn rfc9112_9_8_tls_closure_behind_a_whole_message_does_no_harm() {
    for (case, end) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "\r\n\r\nhello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        for notify in [true, false] {
            let (answer, in_order) = over_tls(case, notify, "1.1").await;
            assert!(answer.ends_with(end) && in_order, "{answer}");
        }
    }
    let (answer, _) = over_tls("HTTP/1.1 200 OK\r\nContent-", false, "1.1").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_leaves_behind_requests_in_a_row_is_noticed() {
    let host = Host::start().await;
    let stage = Stage::with(host.address, "[limits]\nheader_timeout = \"2s\"\n").await;
    for door in stage.doors() {
        // With and without something behind the request that the host does not answer, more than is read at a time.
        for behind in ["", "GET / HTTP/1.1\r\n", &door.head("GET", "/second", "").repeat(200)] {
            let mut client = door.client().await;
            client.send(door.head("GET", "/first", "")).await;
            let mut line = host.accept().await;
            line.until("\r\n\r\n").await;
            client.try_send(behind).await;
            drop(client);
            line.ends().await;
            assert_eq!(line.buffer, b"", "{} {:.20}", door.name, behind);
        }
    }
}
