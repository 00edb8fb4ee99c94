//! JSON lines: one object a line, by the names of [`Draft::field`].

use serde_json::{Map, Value};

use super::draft::{Draft, Flaw};

/// Reads a line. Nothing is taken of another event of the same log, which has neither a status nor an action.
pub(super) fn read(line: &str) -> Result<Draft, Flaw> {
    let object: Map<String, Value> =
        serde_json::from_str(line.trim()).map_err(|_| Flaw::malformed("one JSON object", line))?;
    let mut draft = Draft::default();
    if !["status", "status_code", "action"].iter().any(|name| object.contains_key(*name)) {
        return Ok(draft);
    }
    for (name, value) in &object {
        match (name.as_str(), value) {
            ("headers" | "response_headers" | "resp_headers", Value::Object(fields)) => headers(&mut draft, fields),
            // Of the request only what it asks for: its own fields are no word of the host.
            ("request", Value::Object(request)) => {
                for name in ["method", "uri", "url", "host"] {
                    scalar(&mut draft, name, request.get(name).unwrap_or(&Value::Null))?;
                }
            }
            _ => scalar(&mut draft, name, value)?,
        }
    }
    Ok(draft)
}

fn scalar(draft: &mut Draft, name: &str, value: &Value) -> Result<(), Flaw> {
    match value {
        Value::String(text) => draft.field(name, text),
        Value::Number(number) => draft.field(name, &number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Ok(()),
    }
}

fn headers(draft: &mut Draft, fields: &Map<String, Value>) {
    for (name, value) in fields {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            match value {
                Value::String(text) => draft.header(name, text),
                Value::Number(number) => draft.header(name, &number.to_string()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::super::draft::{Answer, Line, Places, Request};
    use super::*;
    use crate::config;

    fn line(text: &str) -> Result<Line, Flaw> {
        let settings = config::parse("").unwrap().settings;
        let places = Places { about: None, hosts: &settings.hosts };
        read(text)?.finish(&places)
    }

    /// Key, start and end in milliseconds, status, `Retry-After`.
    fn request(text: &str) -> (String, u64, u64, u16, Vec<String>) {
        let Ok(Line::Request(Request { key, started, ended, answer: Answer::Status(status, headers) })) = line(text)
        else {
            panic!("{text}: {:?}", line(text));
        };
        let waits = headers.get_all("retry-after").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
        (key.to_string(), started.as_millis(), ended.as_millis(), status.as_u16(), waits)
    }

    #[test]
    fn numbers_and_texts_are_the_same() {
        for text in [
            r#"{"time":971211336.25,"url":"http://a.example/x","status":429,"retry_after":120,"duration":0.25}"#,
            r#"{"ts":"971211336.25","uri":"http://a.example/x","status":"429","retry-after":"120","request_time":"0.250"}"#,
            r#"{"@timestamp":"2000-10-10T20:55:36.25Z","host":"a.example","scheme":"http","path":"/x","status_code":429,"headers":{"Retry-After":120},"duration_ms":250}"#,
            r#"{"msec":"971211336.250","request":"GET http://a.example/x HTTP/1.1","status":429,"response_headers":{"retry-after":"120"},"duration_us":250000}"#,
        ] {
            let expected = ("http://a.example:80".into(), 971_211_336_000, 971_211_336_250, 429, vec!["120".into()]);
            assert_eq!(request(text), expected, "{text}");
        }
    }

    #[test]
    fn caddys_objects_are_read() {
        // From Caddy's documentation of its access log, shortened, with a wait put in.
        let text = r#"{"level":"error","ts":1646861401.5241024,"logger":"http.log.access","msg":"handled request",
            "request":{"remote_ip":"127.0.0.1","proto":"HTTP/2.0","method":"GET","host":"localhost","uri":"/",
            "headers":{"User-Agent":["curl/7.82.0"],"Retry-After":["9"]},"tls":{"resumed":false}},
            "bytes_read":0,"user_id":"","duration":0.000929675,"size":10900,"status":429,
            "resp_headers":{"Server":["Caddy"],"Retry-After":["120","60"]}}"#;
        let (key, _, ended, status, waits) = request(text);
        assert_eq!((&*key, ended, status), ("https://localhost:443", 1_646_861_401_524, 429));
        assert_eq!(waits, ["120", "60"], "those of the response, not that of the request");
    }

    #[test]
    fn what_is_no_object_is_malformed_and_an_event_of_another_kind_is_passed_over() {
        for text in ["[]", "5", "{", "null", r#"{"status":200} x"#, r#"{"status":}"#, "\u{0}"] {
            assert!(line(text).is_err(), "{text}");
        }
        for text in ["{}", r#"{"time":"today?","level":"info"}"#] {
            assert!(matches!(line(text), Ok(Line::Other)), "{text}");
        }
        let deep = format!(r#"{{"status":{}"#, "[".repeat(100_000));
        assert!(line(&deep).is_err());
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(
            text in ".{0,60}",
            name in "time|ts|status|url|host|request|headers|duration|retry_after|scheme|[a-z_]{1,12}",
            value in r#"null|-?[0-9]{1,22}(\.[0-9]{1,3})?|"[ -!#-\[\]-~]{0,30}"|\[\]|\{\}|\["a"\]|\{"a":"b"\}"#,
        ) {
            let _ = line(&text);
            let _ = line(&format!(r#"{{"{name}":{value}}}"#));
            let _ = line(&format!(r#"{{"time":5,"host":"a.example","status":429,"{name}":{value}}}"#));
        }
    }
}
