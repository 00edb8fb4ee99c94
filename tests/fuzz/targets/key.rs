//! Keys: an authority, a URL, a key as shown.
#![no_main]

use std::net::IpAddr;

use holdoff::core::key::{Key, KeyError, KeyRef, MAX_SCOPE, Scheme};
use http::uri::Authority;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for scheme in [Scheme::Http, Scheme::Https] {
        let read = KeyRef::from_authority(scheme, text).map(|key| key.to_key());
        if !text.contains(['/', '?', '#']) {
            assert_eq!(
                Key::parse(&format!("{}://{text}", scheme.as_str())),
                read,
                "an authority is a URL without path"
            );
        }
        if text.contains('@') {
            assert_eq!(read, Err(KeyError::Userinfo));
        }
        if let Ok(key) = &read {
            assert!(!text.contains(['/', '?', '#', '%', '\\']));
            check(key);
            is_what_the_http_crate_reads(key, text);
        }
        if let Ok(key) = KeyRef::new(scheme, text, 4290) {
            check(&key.to_key());
        }
    }
    if let Ok(key) = Key::parse(text) {
        let whole = key.whole();
        assert_eq!(Key::parse(&key.to_string()).as_ref(), Ok(&key));
        assert_eq!(whole.scoped(key.scope()).as_ref(), Ok(&key));
        assert!(key.scope().len() <= MAX_SCOPE && key.scope().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        if key.is_group() {
            assert_eq!(Key::group(key.host()), Ok(whole));
            return;
        }
        check(&whole);
        if let Ok(authority) = KeyRef::from_authority(Scheme::Https, text) {
            assert_eq!(authority.to_key(), key);
        }
    }
});

/// The normal form is a fixed point, and nothing is in it that could be read otherwise.
fn check(key: &Key) {
    let (shown, host) = (key.to_string(), key.host());
    assert_eq!(Key::parse(&shown).as_ref(), Ok(key), "{shown}");
    assert_eq!(Key::parse(&shown).unwrap().to_string(), shown);
    assert_eq!(KeyRef::new(key.scheme(), host, key.port()).unwrap().to_key(), *key);
    assert_eq!(key.as_ref().to_key(), *key);
    assert!(key.port() > 0 && !host.is_empty() && host.len() <= 253, "{shown}");
    assert!(!host.contains(['[', ']', '@', '%', '/', '\\', ' ']), "{shown}");
    assert!(host.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{shown}");
    assert_eq!(host.contains(':'), matches!(key.ip(), Some(IpAddr::V6(_))), "{shown}");
    // What a resolver takes for a number, in whatever form, is an address in the one form.
    let label = host.rsplit('.').next().unwrap_or_default();
    let is_hex = label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!(key.ip().is_some() || !(is_hex || label.bytes().all(|byte| byte.is_ascii_digit())), "{shown}");
    if let Some(address) = key.ip() {
        assert_eq!(address.to_string(), host, "an address has one form");
    }
}

/// The dialler takes host and port from the same text by another parser: it must not reach somebody else.
fn is_what_the_http_crate_reads(key: &Key, text: &str) {
    let Ok(authority) = text.parse::<Authority>() else { return };
    let theirs = authority.host().trim_start_matches('[').trim_end_matches(']');
    match theirs.parse::<IpAddr>() {
        Ok(address) => assert_eq!(key.ip(), Some(address.to_canonical()), "{text}"),
        Err(_) => assert_eq!(theirs.strip_suffix('.').unwrap_or(theirs).to_ascii_lowercase(), key.host(), "{text}"),
    }
    assert!(authority.port_u16().is_none_or(|port| port == key.port()), "{text}");
}
