//! Keys narrower than a host: one credential, one route (SPEC 4.2, 4.3).
//!
//! A peer that limits each credential by itself says nothing about the next one, and a peer that limits each route nothing
//! about its other routes. A [`Level`] says by what a peer tells its clients apart; of a request it makes the scope of a
//! [`Key`](super::key::Key).
//!
//! Values of headers and query parameters may be credentials: they go in as a keyed hash, which the caller brings, and are
//! seen nowhere. Methods and paths may be shown, but for the segments that a template marks as secret. Everything here is bounded, for a client chooses every byte of it; how
//! many keys there are is for the table to bound.

use std::fmt;
use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, Method};

/// The longest part of a scope that is shown as it is; a longer one is hashed.
const MAX_PART: usize = 128;

/// The most segments of a template.
const MAX_SEGMENTS: usize = 32;

/// The longest template, in bytes.
const MAX_TEMPLATE: usize = 128;

/// By what a level tells requests apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The method.
    Method,
    /// The path, cut by the templates of the level.
    Path,
    /// The value of a header field.
    Header(HeaderName),
    /// The value of a query parameter, as it is written.
    Query(Box<str>),
}

/// A level narrower than the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Its name, shown in keys.
    pub name: Box<str>,
    /// By what it tells requests apart.
    pub by: Vec<By>,
    /// How a path is cut. The first template that fits counts; a path that fits none is not of this level. Empty: the path
    /// as it is.
    pub routes: Vec<Template>,
    /// The response field in which the host names the limit that a request counted against: what shares a name, and the
    /// captured segments, shares a key.
    pub bucket: Option<HeaderName>,
}

/// What of a request a level looks at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path, without the query.
    pub path: &'a str,
    /// The query, without the `?`.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

/// What a level makes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The scope of its key.
    pub text: String,
    /// The scope of what shares a bucket, without the bucket's name.
    stem: String,
}

impl Scope {
    /// The scope of the bucket that a response names.
    pub fn bucket(&self, name: &[u8], hash: &dyn Fn(&[u8]) -> u64) -> String {
        let mut text = self.stem.trim_end().to_owned();
        text.push_str(" bucket=");
        push_part(&mut text, name, hash);
        text
    }
}

impl Level {
    /// The scope of the key that a request has at this level. `None`: it is not of this level.
    pub fn scope(&self, asked: &Asked<'_>, hash: &dyn Fn(&[u8]) -> u64) -> Option<Scope> {
        let mut text = format!("{}=", self.name);
        let mut stem = text.clone();
        for (at, by) in self.by.iter().enumerate() {
            if at > 0 {
                text.push(' ');
            }
            let end = text.len();
            match by {
                By::Method => {
                    push_part(&mut text, asked.method.as_str().as_bytes(), hash);
                    continue;
                }
                By::Path if self.routes.is_empty() => {
                    push_part(&mut text, asked.path.as_bytes(), hash);
                    continue;
                }
                By::Path => {
                    let (shown, captured) = self.routes.iter().find_map(|route| route.cut(asked.path, hash))?;
                    push_part(&mut text, shown.as_bytes(), hash);
                    push_part(&mut stem, captured.as_bytes(), hash);
                    continue;
                }
                By::Header(name) => {
                    let values: Vec<&[u8]> = asked.headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
                    push_secret(&mut text, &values, hash);
                }
                By::Query(name) => {
                    let values: Vec<&[u8]> = parameters(asked.query.unwrap_or_default(), name).collect();
                    push_secret(&mut text, &values, hash);
                }
            }
            stem.push_str(text.get(end..).unwrap_or_default());
            stem.push(' ');
        }
        Some(Scope { text, stem })
    }
}

/// The segments of a path that the levels take for credentials: what shows the path must not show them.
pub fn secrets<'p>(levels: &[Level], path: &'p str) -> Vec<&'p str> {
    let mut found = Vec::new();
    for level in levels {
        let fits = level.routes.iter().find(|route| route.matches(path));
        let mut see = |segment: &Segment, part| {
            if *segment == Segment::Secret {
                found.push(part);
            }
        };
        let _ = fits.is_some_and(|route| route.walk(path, &mut see));
    }
    found
}

/// The values of a query parameter.
fn parameters<'q>(query: &'q str, name: &str) -> impl Iterator<Item = &'q [u8]> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value.as_bytes())
    })
}

/// Appends what may be a credential: `-` where there is none, else a hash.
fn push_secret(text: &mut String, values: &[&[u8]], hash: &dyn Fn(&[u8]) -> u64) {
    match values {
        [] => text.push('-'),
        [value] => push_hash(text, value, hash),
        // Several values are one credential together; the lengths keep `a`, `bc` from being `ab`, `c`.
        several => {
            let mut joined = Vec::new();
            for value in several {
                joined.extend_from_slice(&u64::try_from(value.len()).unwrap_or(u64::MAX).to_be_bytes());
                joined.extend_from_slice(value);
            }
            push_hash(text, &joined, hash);
        }
    }
}

fn push_hash(text: &mut String, value: &[u8], hash: &dyn Fn(&[u8]) -> u64) {
    let _ = write!(text, "{:016x}", hash(value));
}

/// Appends what may be shown: printable, and bounded.
fn push_part(text: &mut String, part: &[u8], hash: &dyn Fn(&[u8]) -> u64) {
    if part.len() > MAX_PART {
        text.push('~');
        push_hash(text, part, hash);
        return;
    }
    let start = text.len();
    for &byte in part {
        if byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'\\') {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    if text.len().saturating_sub(start) > MAX_PART {
        text.truncate(start);
        text.push('~');
        push_hash(text, part, hash);
    }
}

/// A form of paths: `/repos/{owner}/*/issues/*`. `{name}` stands for one segment that is kept, `{~name}` for one that is kept
/// as a hash, `*` for one that is not kept, and `*` at the end for all that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    segments: Vec<Segment>,
}

/// In the order of their weight: the more specific is the greater.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    /// All that follows.
    Rest,
    /// One segment, whatever it is.
    Any,
    /// One segment, kept.
    Captured,
    /// One segment, kept as a hash: it may be a credential.
    Secret,
    /// This one.
    Literal(Box<str>),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// When it does not start with a slash, has too many segments, or a `{`, `}` or `*` that is not a segment of its own.
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        let rest = text.strip_prefix('/').ok_or(TemplateError::Slash)?;
        if rest.contains(['?', '#']) || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TemplateError::Character);
        }
        let parts: Vec<&str> = rest.split('/').collect();
        if parts.len() > MAX_SEGMENTS || text.len() > MAX_TEMPLATE {
            return Err(TemplateError::TooLong);
        }
        let last = parts.len().saturating_sub(1);
        let segments = parts.iter().enumerate().map(|(at, part)| match *part {
            "*" if at == last => Ok(Segment::Rest),
            "*" => Ok(Segment::Any),
            part => match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(name) => match name.strip_prefix('~') {
                    Some(name) if is_name(name) => Ok(Segment::Secret),
                    None if is_name(name) => Ok(Segment::Captured),
                    _ => Err(TemplateError::Place),
                },
                None if !part.contains(['{', '}', '*']) => Ok(Segment::Literal(part.into())),
                _ => Err(TemplateError::Place),
            },
        });
        Ok(Self { text: text.into(), segments: segments.collect::<Result<_, _>>()? })
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a path, without its query, has this form.
    pub fn matches(&self, path: &str) -> bool {
        self.walk(path, |_, _| ())
    }

    /// The path in this form, with `*` for what is not kept, and the kept segments by themselves.
    fn cut(&self, path: &str, hash: &dyn Fn(&[u8]) -> u64) -> Option<(String, String)> {
        let (mut shown, mut captured) = (String::new(), String::new());
        let fits = self.walk(path, |segment, part| {
            shown.push('/');
            match segment {
                Segment::Rest | Segment::Any => shown.push('*'),
                Segment::Literal(_) => shown.push_str(part),
                Segment::Captured => {
                    shown.push_str(part);
                    captured.push('/');
                    captured.push_str(part);
                }
                Segment::Secret => {
                    let start = shown.len();
                    shown.push('~');
                    push_hash(&mut shown, part.as_bytes(), hash);
                    captured.push('/');
                    captured.push_str(shown.get(start..).unwrap_or_default());
                }
            }
        });
        fits.then_some((shown, captured))
    }

    fn walk<'t, 'p>(&'t self, path: &'p str, mut see: impl FnMut(&'t Segment, &'p str)) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let mut parts = rest.split('/');
        for segment in &self.segments {
            let Some(part) = parts.next() else { return false };
            match segment {
                Segment::Rest => {
                    see(segment, part);
                    return true;
                }
                Segment::Literal(literal) if part != &**literal => return false,
                Segment::Any | Segment::Captured | Segment::Secret if part.is_empty() => return false,
                _ => see(segment, part),
            }
        }
        parts.next().is_none()
    }

    /// Orders templates: of two that fit the same path the greater is the more specific, and they are equal only where
    /// nothing but names differs.
    pub fn rank(&self, other: &Self) -> std::cmp::Ordering {
        let weight = |segment: &Segment| match segment {
            Segment::Rest => 0_u8,
            // Kept or not, one segment is one segment.
            Segment::Any | Segment::Captured | Segment::Secret => 1,
            Segment::Literal(_) => 2,
        };
        self.segments.iter().map(weight).cmp(other.segments.iter().map(weight))
    }

    /// Whether each path that fits the other one fits this one.
    pub fn covers(&self, other: &Self) -> bool {
        let mut theirs = other.segments.iter();
        for ours in &self.segments {
            match (ours, theirs.next()) {
                (Segment::Rest, Some(_)) => return true,
                (_, None | Some(Segment::Rest)) => return false,
                (Segment::Literal(ours), Some(Segment::Literal(theirs))) if ours == theirs => {}
                (Segment::Literal(_), _) => return false,
                // What stands for one segment does not stand for an empty one.
                (_, Some(Segment::Literal(theirs))) if theirs.is_empty() => return false,
                _ => {}
            }
        }
        theirs.next().is_none()
    }

    /// Whether some path fits both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut theirs = other.segments.iter();
        for ours in &self.segments {
            match (ours, theirs.next()) {
                (Segment::Rest, Some(_)) | (_, Some(Segment::Rest)) => return true,
                (_, None) => return false,
                (Segment::Literal(ours), Some(Segment::Literal(theirs))) if ours != theirs => return false,
                _ => {}
            }
        }
        theirs.next().is_none()
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(['{', '}', '*', '~'])
}

/// Why a text is not a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TemplateError {
    /// It does not start with a slash.
    Slash,
    /// It has a character that paths do not have.
    Character,
    /// It has more than 32 segments or 128 bytes.
    TooLong,
    /// A `{`, `}` or `*` is not a segment of its own.
    Place,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slash => "a path that starts with `/`, such as `/v1/*`",
            Self::Character => "a path of printable ASCII characters without `?` and `#`",
            Self::TooLong => "a path of at most 32 segments and 128 bytes",
            Self::Place => "`{name}` and `*` as whole segments, such as `/repos/{owner}/*`",
        })
    }
}

impl std::error::Error for TemplateError {}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use http::HeaderValue;

    use super::*;

    fn hash(bytes: &[u8]) -> u64 {
        bytes.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
    }

    fn template(text: &str) -> Template {
        Template::new(text).unwrap()
    }

    fn level(by: &[By], routes: &[&str]) -> Level {
        let routes = routes.iter().map(|text| template(text)).collect();
        Level { name: "route".into(), by: by.to_vec(), routes, bucket: None }
    }

    fn asked<'a>(method: &'a Method, path: &'a str, query: Option<&'a str>, headers: &'a HeaderMap) -> Asked<'a> {
        Asked { method, path, query, headers }
    }

    fn text(level: &Level, path: &str) -> Option<String> {
        Some(level.scope(&asked(&Method::POST, path, None, &HeaderMap::new()), &hash)?.text)
    }

    #[test]
    fn a_template_fits_segment_by_segment() {
        for (form, path, fits) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a/*", "/a", false),
            ("/a/*", "/a/", true),
            ("/a/*", "/a/b/c", true),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/b/b/c", false),
            ("/a/*/c", "/a//c", false),
            ("/a/{x}", "/a/b", true),
            ("/a/{x}", "/a/", false),
            ("/*", "/anything/at/all", true),
            ("/a", "a", false),
            ("/*", "*", false),
        ] {
            assert_eq!(template(form).matches(path), fits, "{form} {path}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused_with_its_cause() {
        for (text, error) in [
            ("a", TemplateError::Slash),
            ("", TemplateError::Slash),
            ("/a?b", TemplateError::Character),
            ("/a#b", TemplateError::Character),
            ("/ä", TemplateError::Character),
            ("/a*", TemplateError::Place),
            ("/{}", TemplateError::Place),
            ("/{a}b", TemplateError::Place),
            ("/a{b", TemplateError::Place),
            ("/{{a}}", TemplateError::Place),
            ("/{~}", TemplateError::Place),
            ("/{~~a}", TemplateError::Place),
            ("/{a~}", TemplateError::Place),
        ] {
            assert_eq!(Template::new(text).unwrap_err(), error, "{text}");
        }
        assert_eq!(Template::new(&"/a".repeat(33)).unwrap_err(), TemplateError::TooLong);
        assert_eq!(Template::new(&format!("/{}", "a".repeat(128))).unwrap_err(), TemplateError::TooLong);
        assert!(Template::new(&"/a".repeat(32)).is_ok() && Template::new(&format!("/{}", "a".repeat(127))).is_ok());
    }

    #[test]
    fn of_two_templates_that_fit_one_path_the_more_specific_is_greater() {
        for (one, other) in
            [("/a/b", "/a/*"), ("/a/{x}", "/a/*"), ("/a/*/c", "/*/b/c"), ("/a/b/*", "/a/*"), ("/a", "/*")]
        {
            let (one, other) = (template(one), template(other));
            assert_eq!((one.rank(&other), other.rank(&one)), (Ordering::Greater, Ordering::Less));
            assert!(one.overlaps(&other) && other.overlaps(&one));
        }
        assert_eq!(template("/a/{x}/c").rank(&template("/a/*/c")), Ordering::Equal);
        for (one, other) in [("/a", "/b"), ("/a", "/a/*"), ("/a/b", "/a/b/c"), ("/a/*/c", "/a/*/d")] {
            let (one, other) = (template(one), template(other));
            assert!(!one.overlaps(&other) && !other.overlaps(&one), "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_template_covers_what_fits_it_too_whatever_the_path() {
        let forms =
            ["/", "/*", "/a", "/a/", "/a/*", "/a/{x}", "/a/{~x}", "/a/*/c", "/a/b", "/a/b/c", "/a/b/*", "/*/b/*"];
        let paths = ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/x/c", "/x/b/c", "/a//c", "/a/x"];
        for (one, other) in forms.into_iter().flat_map(|one| forms.map(|other| (template(one), template(other)))) {
            let all = paths.iter().all(|path| one.matches(path) || !other.matches(path));
            assert_eq!(one.covers(&other), all, "{one:?} {other:?}");
        }
    }

    #[test]
    fn captured_segments_are_part_of_the_key_and_others_are_not() {
        let route = level(&[By::Method, By::Path], &["/channels/{channel}/messages/*", "/guilds/{guild}/*"]);
        assert_eq!(text(&route, "/channels/17/messages/42").unwrap(), "route=POST /channels/17/messages/*");
        assert_eq!(text(&route, "/channels/17/messages/43"), text(&route, "/channels/17/messages/42"));
        assert_ne!(text(&route, "/channels/18/messages/42"), text(&route, "/channels/17/messages/42"));
        assert_eq!(text(&route, "/gateway"), None, "a path that fits no template is not of this level");
        assert_eq!(text(&level(&[By::Path], &[]), "/a/b").unwrap(), "route=/a/b");
    }

    #[test]
    fn credentials_go_in_as_a_hash() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer sesame"));
        let by = [By::Header(HeaderName::from_static("authorization")), By::Query("key".into())];
        let level = level(&by, &[]);
        let scope =
            |query, headers: &HeaderMap| level.scope(&asked(&Method::GET, "/", query, headers), &hash).unwrap().text;
        let with = scope(Some("a=1&key=secret"), &headers);
        assert!(!with.contains("sesame") && !with.contains("secret"), "{with}");
        assert_ne!(with, scope(Some("key=other"), &headers));
        assert_ne!(with, scope(Some("key=secret"), &HeaderMap::new()));
        assert_eq!(with, scope(Some("key=secret&b=2"), &headers));
        assert_eq!(scope(None, &HeaderMap::new()), "route=- -");
        headers.append("authorization", HeaderValue::from_static("x"));
        let mut joined = HeaderMap::new();
        joined.insert("authorization", HeaderValue::from_static("Bearer sesamex"));
        assert_ne!(scope(None, &headers), scope(None, &joined));
    }

    #[test]
    fn a_secret_segment_is_kept_as_a_hash() {
        let level = level(&[By::Path], &["/webhooks/{id}/{~token}/*"]);
        let shown = text(&level, "/webhooks/17/sesame/messages").unwrap();
        assert!(
            shown.starts_with("route=/webhooks/17/~") && shown.ends_with("/*") && !shown.contains("sesame"),
            "{shown}"
        );
        assert_eq!(Some(shown.as_str()), text(&level, "/webhooks/17/sesame/github").as_deref());
        assert_ne!(Some(shown), text(&level, "/webhooks/17/other/messages"));
        assert_eq!(text(&level, "/webhooks/17//messages"), None);
        let headers = HeaderMap::new();
        let bucket = |path| {
            let asked = asked(&Method::GET, path, None, &headers);
            level.scope(&asked, &hash).unwrap().bucket(b"80c17d2f", &hash)
        };
        assert!(!bucket("/webhooks/17/sesame/messages").contains("sesame"));
        assert_ne!(bucket("/webhooks/17/sesame/messages"), bucket("/webhooks/17/other/messages"));
        assert_eq!(template("/a/{~x}").rank(&template("/a/{x}")), Ordering::Equal);
    }

    #[test]
    fn segments_that_are_credentials_are_known_to_whoever_shows_a_path() {
        let hooks = level(&[By::Path], &["/hooks/{hook}/{~token}/*", "/hooks/{hook}/{name}", "/*"]);
        let other = level(&[By::Path], &["/{~first}/*"]);
        let levels = [hooks, other];
        assert_eq!(secrets(&levels, "/hooks/17/abc/x"), ["abc", "hooks"]);
        assert_eq!(secrets(&levels[..1], "/hooks/17/abc"), Vec::<&str>::new());
        assert_eq!(secrets(&levels, "*"), Vec::<&str>::new());
    }

    #[test]
    fn what_a_client_sends_stays_short_and_printable() {
        let route = level(&[By::Path], &[]);
        let long = format!("/{}", "a".repeat(5000));
        let shown = text(&route, &long).unwrap();
        assert!(shown.len() < 40 && shown.starts_with("route=~"), "{shown}");
        let odd = text(&route, "/a\"b\\\u{e4}\u{1b}").unwrap();
        assert_eq!(odd, "route=/a%22b%5C%C3%A4%1B");
        let escaped = format!("/{}", "\u{1b}".repeat(100));
        assert!(text(&route, &escaped).unwrap().len() < 40);
    }

    #[test]
    fn a_bucket_has_the_credentials_and_captured_segments_of_its_route() {
        let by = [By::Header(HeaderName::from_static("authorization")), By::Method, By::Path];
        let level = level(&by, &["/channels/{channel}/messages/*", "/channels/{channel}/pins/*", "/gateway"]);
        let headers = HeaderMap::new();
        let scope = |method, path| level.scope(&asked(method, path, None, &headers), &hash).unwrap();
        let bucket = |scope: &Scope| scope.bucket(b"80c17d2f", &hash);
        let (post, get) = (scope(&Method::POST, "/channels/1/messages/2"), scope(&Method::GET, "/channels/1/pins/3"));
        assert_ne!(post.text, get.text);
        assert_eq!(bucket(&post), "route=- /1 bucket=80c17d2f");
        assert_eq!(bucket(&post), bucket(&get));
        assert_ne!(bucket(&post), bucket(&scope(&Method::POST, "/channels/2/messages/2")));
        assert_eq!(bucket(&scope(&Method::GET, "/gateway")), "route=- bucket=80c17d2f");
    }
}
