//! What holds of any input, said once: the fuzz targets look for an input of which it does not hold, and the unit tests
//! try a few thousand in a second. A function panics where something does not hold.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a property that does not hold is told by a panic"
)]

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bcrypt::HashParts;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, DATE, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use tokio::runtime::Runtime;

use super::auth::Authenticator;
use super::error::ErrorKind;
use super::headers::{ToUpstream, Trailers, Via, options, to_client};
use super::tap::Head;
use super::target::{self, Form};
use crate::config::{secrets, settings};
use crate::core::key::{Key, KeyRef, Scheme};
use crate::core::time::UnixTime;
use crate::synthetic::{HOLDOFF, PROXY_STATUS};

#[cfg(test)]
#[expect(unreachable_pub, reason = "the integration tests use it too")]
#[path = "../../tests/it/support/mutate.rs"]
mod mutate;

/// A text as a target, as the authority of a CONNECT, and as `Host`: each says where it goes as a second, strict reader
/// does, always the same, or is refused.
pub fn authority(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        // Only a path can have such bytes.
        if let Ok(Form::Absolute(authority)) =
            Uri::try_from(input).map_or(Err(()), |uri| target::form(&Method::GET, &uri).map_err(drop))
        {
            goes_where_it_says(Scheme::Http, authority.as_str());
        }
        return;
    };
    if let Ok(uri) = Uri::try_from(text)
        && let Ok(form) = target::form(&Method::GET, &uri)
        && let Form::Absolute(authority) = form
    {
        let strict = text.split_once("://").map(|(_, rest)| rest).unwrap();
        let (host, rest) = strict.split_at(strict.find(['/', '?', '#']).unwrap_or(strict.len()));
        assert_eq!(authority.as_str(), host, "{text:?}");
        goes_where_it_says(Scheme::Http, host);
        // Behind a `#` a key has its scope, which no target has.
        let whole = text.split('#').next().unwrap();
        assert!(Key::parse(whole).is_ok_and(|key| key == keyed(Scheme::Http, host)), "{text:?}");
        let path = target::origin_form(&uri);
        let rest = rest.split('#').next().unwrap();
        assert!(
            path.as_str().starts_with('/')
                && path.as_str().trim_start_matches('/').ends_with(rest.trim_start_matches('/'))
        );
        assert_eq!(path.as_str().len(), rest.len() + usize::from(!rest.starts_with('/')), "{text:?}");
        assert_eq!(target::form(&Method::POST, &uri).ok(), Some(Form::Absolute(authority)));
        assert!(target::form(&Method::CONNECT, &uri).is_err(), "{text:?}");
    }
    if let Ok(uri) = Uri::try_from(text)
        && let Ok(form) = target::form(&Method::CONNECT, &uri)
    {
        let Form::Authority(authority) = form else { panic!("{text:?}: a CONNECT to {form:?}") };
        assert_eq!(authority.as_str(), text);
        goes_where_it_says(Scheme::Https, text);
        let port = text.rsplit_once(':').unwrap().1;
        assert_eq!(port.parse(), Ok(keyed(Scheme::Https, text).port()), "the port is said: {text:?}");
        assert!(target::form(&Method::GET, &uri).is_err(), "{text:?}");
    }
    if let Ok(host) = HeaderValue::from_bytes(input) {
        let headers = HeaderMap::from_iter([(HOST, host)]);
        if target::check_head(Version::HTTP_11, &headers, &Head::default()).is_ok() {
            goes_where_it_says(Scheme::Http, text);
        }
    }
}

fn keyed(scheme: Scheme, authority: &str) -> Key {
    target::key(scheme, authority).unwrap_or_else(|error| panic!("{authority:?}: {error}")).to_key()
}

/// An authority that was accepted.
fn goes_where_it_says(scheme: Scheme, authority: &str) {
    let key = keyed(scheme, authority);
    let (host, port) = strictly(authority).unwrap_or_else(|| panic!("{authority:?} is no authority, but {key}"));
    assert_eq!(key.host(), host, "{authority:?}");
    assert_eq!(key.port(), port.unwrap_or(scheme.default_port()), "{authority:?}");
    assert_eq!(keyed(scheme, &target::authority(&key)), key, "its own form is another's: {authority:?}");
    assert_eq!(Key::parse(&key.to_string()).as_ref(), Ok(&key));
    assert_eq!(keyed(scheme, &authority.to_ascii_uppercase()), key, "case says nothing");
    assert!(KeyRef::from_authority(scheme, &format!("user@{authority}")).is_err());
}

/// `host [":" *DIGIT]` of RFC 3986 §3.2, of what names a host at all; in its normal form.
fn strictly(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (inside, port) = rest.split_once(']')?;
            (inside.parse::<std::net::Ipv6Addr>().ok()?.to_canonical().to_string(), port)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let (name, port) = authority.split_at(end);
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let is_label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            };
            let last = name.rsplit('.').next()?;
            let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
            if !name.split('.').all(is_label) || (is_number && name.parse::<std::net::Ipv4Addr>().is_err()) {
                // `0xg` is a name to everybody.
                let is_hex = last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
                if !name.split('.').all(is_label) || is_hex || last.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
            }
            (name, port)
        }
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => Some((host, None)),
        None => None,
        Some("") => Some((host, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0).map(|port| (host, Some(port)))
        }
        Some(_) => None,
    }
}

/// The fields of a head, a line each; behind an empty line those of the trailers.
pub fn connection(input: &[u8]) {
    let via = Via::new("edge", true);
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let (headers, trailers) = (fields(parts.next().unwrap_or_default()), fields(parts.next().unwrap_or_default()));
    let names =
        |option: &HeaderName| options(&headers).any(|found| found.eq_ignore_ascii_case(option.as_str().as_bytes()));

    // A request. What decides where it goes and where it ends is no option: such a head is refused.
    let checked = target::check_head(Version::HTTP_11, &headers, &Head::default());
    if [CONTENT_LENGTH, TRANSFER_ENCODING, HOST].iter().any(names) {
        assert_eq!(checked.as_ref().err().map(|error| error.kind()), Some(ErrorKind::BadRequest));
    }
    for upgrade in [false, true] {
        let to = ToUpstream { host: None, received: Version::HTTP_11, upgrade, via: &via };
        let out = to.apply(headers.clone());
        if checked.is_ok() {
            assert_eq!(values(&out, &HOST), values(&headers, &HOST));
            assert_eq!(values(&out, &CONTENT_LENGTH), values(&headers, &CONTENT_LENGTH));
        }
        passes(&headers, &out, &names, &[PROXY_AUTHORIZATION]);
        assert!(!out.contains_key(UPGRADE) || (upgrade && values(&out, &UPGRADE) == values(&headers, &UPGRADE)));
        assert!(options(&out).all(|option| [&b"TE"[..], b"Upgrade"].contains(&option)), "{out:?}");
        assert!(values(&out, &TE).iter().all(|value| *value == "trailers"), "{out:?}");
        // A second proxy of the house takes off nothing more.
        let next = Via::new("next", false);
        let again = ToUpstream { host: None, received: Version::HTTP_11, upgrade, via: &next }.apply(out.clone());
        assert_eq!(again, out);
    }

    // An answer.
    for status in [StatusCode::OK, StatusCode::NO_CONTENT, StatusCode::SWITCHING_PROTOCOLS, StatusCode::EARLY_HINTS] {
        let out = to_client(headers.clone(), status, Version::HTTP_11, &via, UnixTime::from_secs(1_795_168_800));
        passes(&headers, &out, &names, &[DATE, CONTENT_LENGTH]);
        assert!(
            !(out.contains_key(CONTENT_LENGTH)
                && (headers.contains_key(TRANSFER_ENCODING) || status != StatusCode::OK))
        );
        assert!(!out.contains_key(UPGRADE) || status == StatusCode::SWITCHING_PROTOCOLS);
        assert!(options(&out).all(|option| option == b"Upgrade"), "{out:?}");
    }

    // Trailers pass only where they are announced, and not under a name that passes nowhere.
    if let Some(rules) = Trailers::of(&headers, false, &via) {
        let out = rules.pass(trailers.clone());
        for name in out.keys() {
            assert!(!names(name) || is_usual(name), "a trailer passes that `Connection` names: {name}");
            assert!(
                (!OWN.contains(name) || *name == PROXY_STATUS) && ![CONTENT_LENGTH, HOST, AUTHORIZATION].contains(name),
                "{name}"
            );
            assert!(*name == PROXY_STATUS || values(&out, name) == values(&trailers, name));
        }
        assert_eq!(rules.pass(out.clone()), out);
    }
}

/// Of the connection, named or not, and ours.
const OWN: [HeaderName; 11] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    HOLDOFF,
    PROXY_STATUS,
    VIA,
];

/// Options that are no fields.
fn is_usual(name: &HeaderName) -> bool {
    ["close", "keep-alive"].contains(&name.as_str())
}

/// Whether of `headers` everything has passed but what is the connection's, `Connection` names, or is in `special`.
fn passes(headers: &HeaderMap, out: &HeaderMap, names: &dyn Fn(&HeaderName) -> bool, special: &[HeaderName]) {
    for name in headers.keys().chain(out.keys()).filter(|name| !OWN.contains(name) && !special.contains(name)) {
        let expected = if names(name) && !is_usual(name) { Vec::new() } else { values(headers, name) };
        assert_eq!(values(out, name), expected, "{name}");
    }
    for gone in ["keep-alive", "proxy-connection", "proxy-authenticate", "transfer-encoding", "holdoff"] {
        assert!(!out.contains_key(gone), "{gone}");
    }
}

fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h HeaderValue> {
    headers.get_all(name).iter().collect()
}

fn fields(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|&byte| byte == b'\n') {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii()))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// A line that is a value of `Proxy-Authorization`, then the content of a file of users.
pub fn proxy_auth(input: &[u8]) {
    let (field, file) = input.split_at(input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len()));
    users(file);
    let Ok(value) = HeaderValue::from_bytes(field) else { return };
    let read = strictly_basic(field);
    // Ann alone is known, with the password `word`; another name takes as long as a real hash does, and is not tried.
    if read.as_ref().is_some_and(|(user, _)| user != b"ann") {
        return;
    }
    GATE.with(|gate| {
        let (runtime, authenticator) = gate.get_or_init(gate_of_ann);
        let headers = HeaderMap::from_iter([(PROXY_AUTHORIZATION, value)]);
        let checked = runtime.block_on(authenticator.check(&headers));
        match (checked, read) {
            // bcrypt reads a password over and over again, with a NUL between.
            (Ok(()), Some((_, password))) => assert!(password.starts_with(b"word"), "{password:?}"),
            (Ok(()), None) => panic!("credentials that are none pass: {}", field.escape_ascii()),
            (Err(error), read) => {
                assert_eq!(error.kind(), ErrorKind::ProxyAuth);
                assert!(read.is_none_or(|(_, password)| password != b"word"), "{}", field.escape_ascii());
            }
        }
        let twice = HeaderMap::from_iter([(HOST, HeaderValue::from_static("a"))]);
        assert!(runtime.block_on(authenticator.check(&twice)).is_err(), "nobody passes without credentials");
    });
}

thread_local! {
    static GATE: OnceCell<(Runtime, Authenticator)> = const { OnceCell::new() };
}

fn gate_of_ann() -> (Runtime, Authenticator) {
    let users = BTreeMap::from([("ann".to_owned(), bcrypt::hash("word", 4).unwrap())]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    (runtime, Authenticator::new(&settings::Auth { file: PathBuf::new(), users }))
}

/// `Basic` credentials (RFC 7617) by the letter: user and password.
fn strictly_basic(field: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (scheme, rest) = field.split_at_checked(6)?;
    let text = rest.trim_ascii();
    if !scheme.eq_ignore_ascii_case(b"basic ") || text.len() % 4 != 0 {
        return None;
    }
    let digits = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
    let (mut bits, mut count, mut decoded) = (0_u32, 0, Vec::new());
    for digit in digits {
        let value = DIGITS.iter().position(|known| known == digit)?;
        bits = (bits << 6 | u32::try_from(value).ok()?) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    // What is left over is nothing.
    if bits & ((1 << count) - 1) != 0 {
        return None;
    }
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    std::str::from_utf8(&decoded[..colon]).ok()?;
    Some((decoded[..colon].to_vec(), decoded[colon + 1..].to_vec()))
}

/// Every user of an accepted file stands in it with a hash that can be computed in time; what is refused is not shown.
fn users(file: &[u8]) {
    let Ok(text) = std::str::from_utf8(file) else { return };
    match secrets::users(Path::new("users"), text) {
        Ok(auth) => {
            assert!(!auth.users.is_empty());
            let mut again = String::new();
            for (user, hash) in &auth.users {
                let cost = hash.parse::<HashParts>().unwrap().get_cost();
                assert!((4..=16).contains(&cost) && !user.is_empty() && !user.contains(':'));
                let line = format!("{user}:{hash}\n");
                assert!(text.contains(line.trim()), "{line}");
                again.push_str(&line);
            }
            assert_eq!(secrets::users(Path::new("users"), &again).map(|auth| auth.users).ok(), Some(auth.users));
        }
        Err(error) => {
            let shown = error.to_string();
            // Words of ours that stand in the file by chance are shown whatever stands there.
            let is_ours = |word: &str| {
                let other = text.replace(word, &"x".repeat(word.len()));
                secrets::users(Path::new("users"), &other).is_err_and(|error| error.to_string().contains(word))
            };
            let is_shown = |word: &str| word.len() > 12 && shown.contains(word) && !is_ours(word);
            assert!(!text.split(['\n', ':']).any(is_shown), "{shown}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_goes_where_a_second_reader_says_or_nowhere() {
        let seeds = mutate::seeds(include_str!("../../tests/fuzz/seeds/authority"));
        mutate::each(&seeds, 5_000, 1, authority);
    }

    #[test]
    fn any_connection_field_takes_off_what_it_names_and_no_more() {
        let seeds = mutate::seeds(include_str!("../../tests/fuzz/seeds/connection"));
        mutate::each(&seeds, 5_000, 2, connection);
    }

    #[test]
    fn of_any_credentials_only_the_right_ones_pass() {
        let seeds = mutate::seeds(include_str!("../../tests/fuzz/seeds/proxy_auth"));
        mutate::each(&seeds, 500, 3, proxy_auth);
    }
}
