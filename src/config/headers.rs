//! `[defaults.answer] headers`: headers that our own answers carry besides those they have anyway.

use http::{HeaderName, HeaderValue};
use toml::de::DeValue;

use super::schema::Schema;
use super::value::{Mismatch, Setting, describe, quote, quoted};

/// Headers added to an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Headers(pub(super) Vec<(HeaderName, HeaderValue)>);

/// What holdoff or the connection says itself; a second voice would contradict it.
const OWN_HEADERS: [&str; 17] = [
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "holdoff",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "proxy-status",
    "retry-after",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// The most headers one policy adds.
const MAX_HEADERS: usize = 32;

impl Setting for Headers {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        const EXPECTED: &str = "a table of header names and values, such as `{ \"X-Served-By\" = \"holdoff\" }`";
        let DeValue::Table(table) = value else { return Err(Mismatch::new(EXPECTED, describe(value))) };
        if table.len() > MAX_HEADERS {
            return Err(Mismatch::new(format!("at most {MAX_HEADERS} headers"), table.len().to_string()));
        }
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in table {
            let text = name.get_ref();
            let name = HeaderName::from_bytes(text.as_bytes())
                .map_err(|_| Mismatch::new("the name of a header", quoted(text)))?;
            if OWN_HEADERS.contains(&name.as_str()) {
                let mismatch = Mismatch::new("a header that holdoff does not set itself", quoted(text));
                return Err(if name == "content-type" {
                    mismatch.help("use the key `content_type`")
                } else {
                    mismatch
                });
            }
            if headers.iter().any(|(other, _)| *other == name) {
                return Err(Mismatch::new("each header once", format!("{} twice", quoted(text))));
            }
            headers.push((name, HeaderValue::from_toml(value.get_ref())?));
        }
        Ok(Self(headers))
    }

    fn from_text(text: &str) -> Result<Self, Mismatch> {
        Err(Mismatch::new("headers in the configuration file", quoted(text)))
    }

    fn to_toml(&self) -> String {
        if self.0.is_empty() {
            return "{}".to_owned();
        }
        let items: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{} = {}", quote(name.as_str()), value.to_toml())).collect();
        format!("{{ {} }}", items.join(", "))
    }

    fn schema() -> Schema {
        Schema::map(HeaderValue::schema(), MAX_HEADERS)
    }
}
