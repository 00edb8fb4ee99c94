//! RFC 9112 sections 2 to 5: lines, versions, targets and fields.

use super::peer::{self, Echo, Wrong};

/// Sends a GET whose head is made of these lines, by each door, and wants it refused.
async fn refuses_fields(cases: &[&str]) {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for fields in cases {
            echo.refuses(door, door.head("GET", "/", fields), 400).await;
        }
    }
}

#[tokio::test]
async fn rfc9112_2_2_bare_cr_in_a_request_is_refused_wherever_it_stands() {
    refuses_fields(&[
        "X-A: a\rb\r\n",
        "X-A: a\r\r\n",
        "X-A: \rb\r\n",
        "X-A:\rb\r\n",
        "X-A\r: b\r\n",
        "\rX-A: b\r\n",
        "X-A: a\rTransfer-Encoding: chunked\r\n",
        "X-A: a\r\rContent-Length: 3\r\r\n",
    ])
    .await;
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        let (target, host) = (door.target("/"), &door.host);
        for line in [
            format!("GET {target}\r HTTP/1.1\r\n"),
            format!("GET\r{target} HTTP/1.1\r\n"),
            format!("GET {target} HTTP/1.1\rX: y\r\n"),
            format!("GET {target} HTTP/1.1\r\r\n"),
        ] {
            echo.refuses(door, format!("{line}Host: {host}\r\n\r\n"), 400).await;
        }
        // The blank line with a CR too many, and the end of the head with CRs only.
        echo.refuses(door, format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\r\n"), 400).await;
        echo.refuses(door, format!("GET {target} HTTP/1.1\rHost: {host}\r\r"), 400).await;
    }
}

#[tokio::test]
async fn rfc9112_2_2_bare_cr_in_a_request_is_no_worse_than_a_nul_or_another_control() {
    refuses_fields(&["X-A: a\0b\r\n", "X\0A: b\r\n", "X-A: a\u{b}b\r\n", "X-A: \u{7f}\r\n", ": b\r\n", "X-A\r\n"])
        .await;
}

#[tokio::test]
async fn rfc9112_2_2_bare_cr_in_a_response_is_refused_wherever_it_stands() {
    for head in [
        "HTTP/1.1 200 OK\r\nX-A: a\rb\r\n",
        "HTTP/1.1 200 OK\r\nX-A: a\r\r\n",
        "HTTP/1.1 200 OK\r\nX-A\r: a\r\n",
        "HTTP/1.1 200 OK\r\n\rX-A: a\r\n",
        "HTTP/1.1 200 O\rK\r\n",
        "HTTP/1.1 200\rOK\r\n",
        "HTTP/1.1 200 OK\rX-A: a\r\n",
        "HTTP/1.1 200 OK\r\nX-A: a\rTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 200 OK\r\nX-A: a\0b\r\n",
        "HTTP/1.1 200 O\0K\r\n",
    ] {
        peer::refused_from_upstream(&format!("{head}Content-Length: 4\r\n\r\nevil")).await;
    }
}

#[tokio::test]
async fn rfc9112_2_2_bare_lf_in_a_request_is_refused_wherever_it_stands() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        let (target, host) = (door.target("/"), &door.host);
        for bytes in [
            format!("GET {target} HTTP/1.1\nHost: {host}\n\n"),
            format!("GET {target} HTTP/1.1\nHost: {host}\r\n\r\n"),
            format!("GET {target} HTTP/1.1\r\nHost: {host}\n\r\n"),
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\n"),
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nX-A: b\nX-C: d\r\n\r\n"),
            format!(
                "GET {target} HTTP/1.1\r\nHost: {host}\r\nX-A: b\n\nGET {target}evil HTTP/1.1\r\nHost: {host}\r\n\r\n"
            ),
            format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nX-A: b\nContent-Length: 3\r\n\r\nabc"),
        ] {
            echo.refuses(door, bytes, 400).await;
        }
    }
}

#[tokio::test]
async fn rfc9112_2_2_bare_lf_is_seen_in_later_requests_as_well() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        let first = [
            door.head("GET", "/first", ""),
            format!("{}abc", door.head("POST", "/first", "Content-Length: 3\r\n")),
            format!("{}3\r\nabc\r\n0\r\n\r\n", door.head("POST", "/first", "Transfer-Encoding: chunked\r\n")),
            format!("{}3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", door.head("POST", "/first", "Transfer-Encoding: chunked\r\n")),
        ];
        for first in first {
            for together in [true, false] {
                let before = echo.origin.count();
                let second = format!("GET {} HTTP/1.1\nHost: {}\n\n", door.target("/second"), door.host);
                let mut client = door.client().await;
                if together {
                    client.send(format!("{first}{second}")).await;
                    assert_eq!(client.answer("GET").await.text(), "served /first");
                } else {
                    client.send(&first).await;
                    assert_eq!(client.answer("GET").await.text(), "served /first");
                    client.send(&second).await;
                }
                let refused = client.answer("GET").await;
                assert_eq!(refused.status, 400, "{} {together} {first:?}", door.name);
                assert_eq!(client.rest().await, b"");
                assert_eq!(echo.origin.count(), before + 1);
            }
        }
    }
}

#[tokio::test]
async fn rfc9112_2_2_bare_lf_in_a_response_is_one_message_with_our_own_line_ends() {
    for case in [
        "HTTP/1.1 200 OK\nX-A: b\nContent-Length: 5\n\nhello",
        "HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 5\r\n\nhello",
        "HTTP/1.1 200 OK\nX-A: b\r\nContent-Length: 5\n\r\nhello",
        "HTTP/1.1 200 OK\nX-A: b\nTransfer-Encoding: chunked\n\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        for closes in [false, true] {
            for answer in Wrong::start(case, closes).await.answers("GET").await {
                assert_eq!((answer.status, answer.text(), answer.complete), (200, "hello", true), "{case:?}");
                assert_eq!(answer.field("x-a"), "b");
                assert!(!answer.head.replace("\r\n", "").contains(['\r', '\n']), "{:?}", answer.head);
            }
        }
    }
    // What looks like a second head behind a bare blank line is body, or surplus, and neither is an answer.
    let case = "HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for answer in Wrong::start(case, false).await.answers("GET").await {
        assert_eq!(answer.text(), "ok");
    }
}

#[tokio::test]
async fn rfc9112_2_2_white_space_before_the_first_field_is_refused_either_way() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        let (target, host) = (door.target("/"), &door.host);
        for space in [" ", "\t", " \t ", "\u{b}"] {
            echo.refuses(door, format!("GET {target} HTTP/1.1\r\n{space}Host: {host}\r\n\r\n"), 400).await;
            echo.refuses(door, format!("GET {target} HTTP/1.1\r\n{space}X-A: b\r\nHost: {host}\r\n\r\n"), 400).await;
            echo.refuses(door, format!("GET {target} HTTP/1.1\r\n{space}\r\nHost: {host}\r\n\r\n"), 400).await;
        }
    }
    for space in [" ", "\t"] {
        peer::refused_from_upstream(&format!("HTTP/1.1 200 OK\r\n{space}X-A: b\r\nContent-Length: 4\r\n\r\nevil"))
            .await;
        peer::refused_from_upstream(&format!("HTTP/1.1 200 OK\r\n{space}Content-Length: 4\r\n\r\nevil")).await;
        peer::refused_from_upstream(&format!("HTTP/1.1 200 OK\r\n{space}\r\nContent-Length: 4\r\n\r\nevil")).await;
    }
}

#[tokio::test]
async fn rfc9112_2_3_own_version_is_in_every_message() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for version in ["1.0", "1.1"] {
            let mut client = door.client().await;
            client.send(format!("GET {} HTTP/{version}\r\nHost: {}\r\n\r\n", door.target("/v"), door.host)).await;
            // The client of these tests wants `HTTP/1.1` at the beginning of every answer.
            assert_eq!(client.answer("GET").await.text(), "served /v");
            assert_eq!(echo.origin.last().line(), "GET /v HTTP/1.1");
        }
    }
    for case in ["HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200 OK\r\n\r\nok"] {
        for answer in Wrong::start(case, true).await.answers("GET").await {
            assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.head);
            assert_eq!(answer.text(), "ok");
        }
    }
}

#[tokio::test]
async fn rfc9112_2_3_own_version_is_in_answers_to_versions_that_we_do_not_speak() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for version in
            ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/1.10", "HTTP/01.1", "http/1.1", "HTTP/1.", "HTTPS/1.1"]
        {
            echo.refuses(door, format!("GET {} {version}\r\nHost: {}\r\n\r\n", door.target("/"), door.host), 400).await;
        }
        // HTTP/0.9 has no version at all.
        echo.refuses(door, format!("GET {}\r\n\r\n", door.target("/")), 400).await;
    }
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "http/1.1", "ICY", "HTTP/11"] {
        peer::refused_from_upstream(&format!("{version} 200 OK\r\nContent-Length: 4\r\n\r\nevil")).await;
    }
    for case in ["evil", "HTTP/1.1 20 OK\r\n\r\nevil", "HTTP/1.1 2000 OK\r\n\r\nevil", "HTTP/1.1 099 OK\r\n\r\nevil"] {
        peer::refused_from_upstream(case).await;
    }
}

#[tokio::test]
async fn rfc9112_3_over_long_target_gets_414_and_the_longest_passes() {
    let echo = Echo::with("[limits]\nmax_header_bytes = \"16KiB\"\n").await;
    for door in echo.stage.doors() {
        for length in [16 * 1024, 40_000, 200_000] {
            echo.refuses(door, door.head("GET", &format!("/{}", "x".repeat(length)), ""), 414).await;
            echo.refuses(door, door.head("GET", &format!("/?{}", "x".repeat(length)), ""), 414).await;
        }
        let path = format!("/{}", "x".repeat(15_000));
        assert_eq!(door.get(&path).await.text(), format!("served {path}"));
    }
    // Wider than hyper's own bound on targets.
    let echo = Echo::with("[limits]\nmax_header_bytes = \"256KiB\"\n").await;
    for door in echo.stage.doors() {
        echo.refuses(door, door.head("GET", &format!("/{}", "x".repeat(70_000)), ""), 414).await;
    }
}

#[tokio::test]
async fn rfc9112_3_over_long_target_is_told_apart_from_a_malformed_request_line() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        let (target, host) = (door.target("/"), &door.host);
        for line in [
            format!("GET  {target} HTTP/1.1"),
            format!("GET {target}  HTTP/1.1"),
            format!("GET {target} HTTP/1.1 "),
            format!(" GET {target} HTTP/1.1"),
            format!("GET\t{target}\tHTTP/1.1"),
            format!("GET {target} x HTTP/1.1"),
            format!("G@T {target} HTTP/1.1"),
            format!("GET {target}\u{b} HTTP/1.1"),
            format!("GET {target}%\0 HTTP/1.1"),
            format!("{target} HTTP/1.1"),
        ] {
            echo.refuses(door, format!("{line}\r\nHost: {host}\r\n\r\n"), 400).await;
        }
    }
}

#[tokio::test]
async fn rfc9112_3_2_missing_host_gets_400() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for fields in ["", "X-Host: a\r\n", "Hos: a\r\n"] {
            echo.refuses(door, format!("GET {} HTTP/1.1\r\n{fields}\r\n", door.target("/")), 400).await;
        }
    }
    // HTTP/1.0 knows no Host, so none is missing.
    let proxy = echo.stage.proxy();
    let mut client = proxy.client().await;
    client.send(format!("GET {} HTTP/1.0\r\n\r\n", proxy.target("/old"))).await;
    assert_eq!(client.answer("GET").await.text(), "served /old");
    assert_eq!(echo.origin.last().field("host"), Some(&*echo.origin.address().to_string()));
}

#[tokio::test]
async fn rfc9112_3_2_several_hosts_get_400() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        let (target, host) = (door.target("/"), &door.host);
        for fields in [
            format!("Host: {host}\r\nHost: {host}\r\n"),
            format!("Host: {host}\r\nX-A: b\r\nhOsT: other\r\n"),
            format!("Host: {host}, {host}\r\n"),
            format!("Host: {host}\r\nHost:\r\n"),
        ] {
            for version in ["1.1", "1.0"] {
                echo.refuses(door, format!("GET {target} HTTP/{version}\r\n{fields}\r\n"), 400).await;
            }
        }
    }
}

#[tokio::test]
async fn rfc9112_3_2_invalid_host_gets_400() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for host in [
            "", " ", "a b", "a/b", "u@a", "u:p@a", "http://a", "a:x", "a:-1", "a:99999", "a:80:80", "[::1", "::1",
            "[a]", "a#b", "a?b", "a\\b", "<a>", "\"a\"", "a%00b", "a;b", "é",
        ] {
            echo.refuses(door, format!("GET {} HTTP/1.1\r\nHost: {host}\r\n\r\n", door.target("/")), 400).await;
        }
    }
}

#[tokio::test]
async fn rfc9112_3_2_1_origin_form_is_what_origins_get() {
    let echo = Echo::start().await;
    let host = echo.origin.address();
    let proxy = echo.stage.proxy();
    for (target, expected) in [
        (format!("http://{host}"), "/"),
        (format!("http://{host}/"), "/"),
        (format!("http://{host}?q"), "/?q"),
        (format!("http://{host}/?"), "/?"),
        (format!("http://{host}/a//b/../c;d=%2f%2F?e=/?"), "/a//b/../c;d=%2f%2F?e=/?"),
        (format!("HTTP://{host}/up"), "/up"),
        (format!("http://{host}//other/x"), "//other/x"),
        (format!("http://{host}/http://other/x"), "/http://other/x"),
    ] {
        let mut client = proxy.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.answer("GET").await.status, 200, "{target}");
        assert_eq!(echo.origin.last().line(), format!("GET {expected} HTTP/1.1"), "{target}");
    }
    let reverse = &echo.stage.doors()[1];
    for (target, expected) in [
        ("/", "/"),
        ("/a//b/../c;d=%2f%2F?e=/?", "/a//b/../c;d=%2f%2F?e=/?"),
        ("http://whatever", "/"),
        ("http://whatever?q", "/?q"),
        ("http://whatever/x", "/x"),
        ("//whatever/x", "//whatever/x"),
    ] {
        let mut client = reverse.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", reverse.host)).await;
        assert_eq!(client.answer("GET").await.status, 200, "{target}");
        assert_eq!(echo.origin.last().line(), format!("GET {expected} HTTP/1.1"), "{target}");
        assert_eq!(echo.origin.last().field("host"), Some(&*host.to_string()), "{target}");
    }
}

#[tokio::test]
async fn rfc9112_3_2_2_host_is_regenerated_from_an_absolute_form_target() {
    let echo = Echo::start().await;
    let host = echo.origin.address().to_string();
    let proxy = echo.stage.proxy();
    for (version, fields) in [
        ("1.1", "Host: other.example\r\n"),
        ("1.1", "X-A: 1\r\nHost: other.example:81\r\nX-B: 2\r\n"),
        ("1.0", "Host: other.example\r\n"),
        ("1.0", ""),
    ] {
        let mut client = proxy.client().await;
        client.send(format!("GET {} HTTP/{version}\r\n{fields}\r\n", proxy.target("/h"))).await;
        assert_eq!(client.answer("GET").await.status, 200);
        assert_eq!(echo.origin.last().field("host"), Some(host.as_str()), "{version} {fields:?}");
    }
}

#[tokio::test]
async fn rfc9112_3_2_4_options_without_a_path_becomes_the_asterisk() {
    let echo = Echo::start().await;
    let host = echo.origin.address();
    for door in echo.stage.doors() {
        let base = if door.name == "proxy" { format!("http://{host}") } else { "http://whatever".to_owned() };
        for (target, expected) in
            [(base.clone(), "*"), (format!("{base}/"), "/"), (format!("{base}?q"), "/?q"), (format!("{base}/p"), "/p")]
        {
            let chunked = format!("{}3\r\nabc\r\n0\r\n\r\n", door.head("POST", "/", "Transfer-Encoding: chunked\r\n"));
            // Also as the second request of a connection, and behind a body whose length is not known beforehand.
            for first in [String::new(), door.head("GET", "/", ""), chunked] {
                let mut client = door.client().await;
                let request = format!("OPTIONS {target} HTTP/1.1\r\nHost: {}\r\n\r\n", door.host);
                client.send(format!("{first}{request}")).await;
                if !first.is_empty() {
                    assert_eq!(client.answer("GET").await.status, 200);
                }
                assert_eq!(client.answer("OPTIONS").await.status, 200, "{target}");
                assert_eq!(
                    echo.origin.last().line(),
                    format!("OPTIONS {expected} HTTP/1.1"),
                    "{} {first:?}",
                    door.name
                );
            }
        }
    }
}

#[tokio::test]
async fn rfc9112_5_1_space_before_colon_in_a_request_gets_400() {
    refuses_fields(&[
        "X-A : b\r\n",
        "X-A\t: b\r\n",
        "Content-Length : 0\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\nContent-Length: 0\r\n",
        "X A: b\r\n",
    ])
    .await;
}

#[tokio::test]
async fn rfc9112_5_1_space_before_colon_in_a_response_is_removed() {
    for (case, body) in [
        ("X-A : b\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        ("X-A \t : b\r\nContent-Length : 5\r\n\r\nhello", "hello"),
        ("X-A : b\r\nTransfer-Encoding : chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello"),
    ] {
        for answer in Wrong::start(format!("HTTP/1.1 200 OK\r\n{case}"), false).await.answers("GET").await {
            assert_eq!((answer.status, answer.text(), answer.complete), (200, body, true), "{case:?}");
            assert_eq!(answer.field("x-a"), "b", "{}", answer.head);
            assert!(!answer.head.contains(" :") && !answer.head.contains("\t:"), "{}", answer.head);
        }
    }
    // Two lengths stay two lengths, however one of them is written.
    for fields in ["Content-Length : 5\r\nTransfer-Encoding: chunked", "Content-Length : 5\r\nContent-Length: 6"] {
        peer::refused_from_upstream(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n4\r\nevil\r\n0\r\n\r\n")).await;
    }
    peer::refused_from_upstream("HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 4\r\n\r\nevil").await;
}

#[tokio::test]
async fn rfc9112_5_2_obs_fold_in_a_request_gets_400() {
    refuses_fields(&[
        "X-A: b\r\n c\r\n",
        "X-A: b\r\n\tc\r\n",
        "X-A:\r\n b\r\n",
        "X-A: b\r\n \r\n",
        "X-A: b\r\n Content-Length: 3\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\r\n , identity\r\n",
        "Content-Length: 0\r\n 5\r\n",
    ])
    .await;
    // In the first field, which here is Host.
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for host in [format!("\r\n {}", door.host), format!(" {}\r\n x", door.host)] {
            echo.refuses(door, format!("GET {} HTTP/1.1\r\nHost:{host}\r\n\r\n", door.target("/")), 400).await;
        }
    }
}

#[tokio::test]
async fn rfc9112_5_2_obs_fold_in_a_response_gets_502() {
    for fields in [
        "X-A: b\r\n c\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nX-A: b\r\n\tc\r\n",
        "Content-Length:\r\n 4\r\n",
        "Transfer-Encoding:\r\n chunked\r\nContent-Length: 4\r\n",
        "X-A: b\r\n Content-Length: 4\r\n",
    ] {
        peer::refused_from_upstream(&format!("HTTP/1.1 200 OK\r\n{fields}\r\nevil")).await;
    }
}

#[tokio::test]
async fn rfc9112_5_2_obs_fold_in_a_response_gets_502_also_before_the_final_one() {
    let (host, stage) = peer::host().await;
    let mut client = stage.proxy().client().await;
    client.send(stage.proxy().head("GET", "/", "")).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 103 Early Hints\r\nLink: a\r\n b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        .await;
    assert_eq!(client.answer("GET").await.status, 502);
    line.ends().await;
}
