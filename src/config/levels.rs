//! `[[host.level]]`, `paths` and `group`: what a cooldown is held against besides the host.

use std::sync::Arc;

use http::HeaderName;

use super::reader::{Reader, Section};
use super::value::Text;
use crate::core::key::Key;
use crate::core::level::{By, Level, Template};

/// The most levels of one table: each is asked for every request.
const MAX_LEVELS: usize = 8;

/// By how many things one level tells requests apart.
const MAX_BY: usize = 6;

/// The most routes of one level: each is tried for every request.
const MAX_ROUTES: usize = 128;

/// The longest name of a level or of a body rule.
const MAX_NAME: usize = 32;

/// Names that stand for something else in keys and in `signals.scope`.
const RESERVED: [&str; 2] = ["host", "paths"];

/// The levels of a table. A list that is said stands in the place of the inherited one.
pub(super) fn read<'a>(reader: &mut Reader<'a>, parent: &mut Section<'a>, base: &Arc<[Level]>) -> Arc<[Level]> {
    let Some(tables) = reader.tables(parent, "level", MAX_LEVELS) else { return Arc::clone(base) };
    let mut levels: Vec<Level> = Vec::new();
    for mut section in tables {
        reader.open(&section);
        let s = &mut section;
        let name = reader.optional::<LevelName>(s, "name", None).map(|name| name.0);
        let by = reader.checked(s, "by", Vec::new(), |by: &Vec<By>| good_by(by));
        let routes = reader.checked(s, "routes", Vec::new(), |routes: &Vec<Template>| {
            if routes.len() <= MAX_ROUTES { Ok(()) } else { Err(format!("at most {MAX_ROUTES} routes")) }
        });
        let bucket = reader.optional::<HeaderName>(s, "bucket", None);
        reader.required(s, &[("name", "\"credential\""), ("by", "[\"header:authorization\"]")]);
        if !routes.is_empty() && !by.contains(&By::Path) && !reader.is_refused(&s.key("by")) {
            let message = "`routes`: expected beside `by = [\"path\"]` only".to_owned();
            let help = "add `\"path\"` to `by`: the routes say how a path is cut".to_owned();
            let key = s.key("routes");
            reader.refuse_at(s, &key, message, help);
        }
        if let Some(name) = name {
            if levels.iter().any(|other| *other.name == *name) {
                reader.refuse(s, "name", format!("each level once, found `{name}` twice"));
            } else {
                levels.push(Level { name: name.into(), by, routes, bucket });
            }
        }
        reader.finish(section);
    }
    levels.into()
}

fn good_by(by: &[By]) -> Result<(), String> {
    let twice = |(at, each): (usize, &By)| by.iter().take(at).any(|other| other == each);
    if by.is_empty() || by.len() > MAX_BY {
        Err(format!("1 to {MAX_BY} things by which requests are told apart"))
    } else if by.iter().enumerate().any(twice) {
        Err("each of them once".to_owned())
    } else {
        Ok(())
    }
}

/// The name of a level.
struct LevelName(String);

impl Text for LevelName {
    const EXPECTED: &'static str =
        "a name of 1 to 32 lower-case letters, digits, `-` and `_`, neither `host` nor `paths`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        if is_name(text) && !RESERVED.contains(&text) { Ok(Self(text.to_owned())) } else { Err(None) }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// Whether a text can name a level or a body rule.
pub(super) fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(good)
}

impl Text for By {
    const EXPECTED: &'static str = "`\"method\"`, `\"path\"`, `\"header:NAME\"` or `\"query:NAME\"`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        match text.split_once(':') {
            Some(("header", name)) => match HeaderName::parse(name) {
                Ok(name) => Ok(Self::Header(name)),
                Err(_) => Err(Some("write the name of a header behind it: `\"header:authorization\"`".to_owned())),
            },
            Some(("query", name)) => {
                let good = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'&' | b'=' | b'#');
                if (1..=MAX_PARAMETER).contains(&name.len()) && name.bytes().all(good) {
                    return Ok(Self::Query(name.into()));
                }
                Err(Some("write the name of a parameter behind it, as it stands in URLs: `\"query:key\"`".to_owned()))
            }
            _ => match text {
                "method" => Ok(Self::Method),
                "path" => Ok(Self::Path),
                _ => Err(nearest_by(text)),
            },
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Method => "method".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Header(name) => format!("header:{name}"),
            Self::Query(name) => format!("query:{name}"),
        }
    }
}

/// The longest name of a query parameter.
const MAX_PARAMETER: usize = 64;

fn nearest_by(text: &str) -> Option<String> {
    if HeaderName::parse(text).is_ok_and(|name| name.as_str().contains('-') || name == http::header::AUTHORIZATION) {
        return Some(format!("a header is written `\"header:{}\"`", text.to_ascii_lowercase()));
    }
    super::diagnostic::nearest(text, ["method", "path"]).map(|word| format!("did you mean `\"{word}\"`?"))
}

impl Text for HeaderName {
    const EXPECTED: &'static str = "the name of a header, such as `\"x-ratelimit-reset\"`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        Self::from_bytes(text.as_bytes())
            .map_err(|_| text.split_once(':').map(|_| "write it without the colon".to_owned()))
    }

    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Text for Template {
    const EXPECTED: &'static str = "the form of a path, such as `\"/v1/*\"` or `\"/repos/{owner}/*\"`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        Self::new(text).map_err(|error| Some(format!("write {error}")))
    }

    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

/// `group`: a key that hosts share.
pub(super) struct Group(pub(super) Key);

impl Text for Group {
    const EXPECTED: &'static str = "a group's name of 1 to 64 letters, digits, `-`, `_` and `.`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        Key::group(text).map(Self).map_err(|_| None)
    }

    fn show(&self) -> String {
        self.0.host().to_owned()
    }
}
