//! `Accept` (RFC 9110 §12.5.1), as far as the choice between our two kinds of bodies needs it.

use http::HeaderValue;

/// The most bytes of the field that are read.
const MAX_BYTES: usize = 1024;

/// How much a kind of body is wanted: the quality in thousandths, then how precisely it is named (3: by its media type,
/// 2: by `type/*`, 1: by `*/*`, 0: not at all).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Wish {
    quality: u16,
    precision: u8,
}

impl Wish {
    /// The more precise range decides (RFC 9110 §12.5.1); of two alike, the better.
    fn refine(&mut self, precision: u8, quality: u16) {
        if (precision, quality) > (self.precision, self.quality) {
            *self = Self { quality, precision };
        }
    }
}

/// Whether plain text is wanted rather than problem details; where both are wanted alike, `by_default` says.
pub(super) fn prefers_text(accept: Option<&HeaderValue>, by_default: bool) -> bool {
    let Some(accept) = accept.and_then(|accept| accept.to_str().ok()) else { return by_default };
    let mut end = accept.len().min(MAX_BYTES);
    while !accept.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let (mut text, mut json) = (Wish::default(), Wish::default());
    for range in accept.get(..end).unwrap_or_default().split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let quality = parts.find_map(quality).unwrap_or(1000);
        let is = |name: &str| media.eq_ignore_ascii_case(name);
        if is("*/*") {
            text.refine(1, quality);
            json.refine(1, quality);
        } else if is("text/*") {
            text.refine(2, quality);
        } else if is("application/*") {
            json.refine(2, quality);
        } else if is("text/plain") {
            text.refine(3, quality);
        } else if is("application/problem+json") || is("application/json") {
            json.refine(3, quality);
        }
    }
    match text.cmp(&json) {
        std::cmp::Ordering::Greater => text.quality > 0,
        std::cmp::Ordering::Equal => by_default,
        std::cmp::Ordering::Less => false,
    }
}

/// The thousandths of `q=0.5`, where the parameter is that; what is no quality is 1.
fn quality(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim_end().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, part) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    if whole != "0" || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return Some(1000);
    }
    format!("{part:0<3}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_sent_where_it_is_wanted_more() {
        for (accept, expected) in [
            ("text/plain", true),
            ("TEXT/PLAIN; charset=utf-8", true),
            ("text/*", true),
            ("text/plain, */*;q=0.1", true),
            ("text/plain, */*", true),
            ("application/json;q=0.5, text/plain;q=0.6", true),
            ("application/json;q=0.5, text/plain;q=0.501", true),
            ("application/*;q=0, text/*;q=0.1", true),
            ("*/*;q=0.5, application/problem+json;q=0, application/json;q=0", true),
            ("*/*", false),
            ("", false),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
            ("application/json, text/plain, */*", false),
            ("application/problem+json", false),
            ("text/plain;q=0.2, application/problem+json;q=0.9", false),
            ("text/plain;q=0, */*", false),
            ("text/*, application/json", false),
            ("image/png", false),
            ("text/plain;q=0", false),
        ] {
            assert_eq!(prefers_text(Some(&HeaderValue::from_static(accept)), false), expected, "{accept}");
        }
        assert!(!prefers_text(None, false));
    }

    #[test]
    fn the_default_decides_between_equals_only() {
        let with_text_by_default = |accept| prefers_text(Some(&HeaderValue::from_static(accept)), true);
        assert!(prefers_text(None, true));
        assert!(with_text_by_default("*/*"));
        assert!(with_text_by_default("text/html,*/*;q=0.8"));
        assert!(!with_text_by_default("application/json"));
        assert!(!with_text_by_default("application/json, */*"));
    }

    #[test]
    fn a_long_or_odd_field_is_read_in_bounds() {
        let long = format!("{}text/plain", "image/png,".repeat(5000));
        assert!(!prefers_text(Some(&HeaderValue::from_str(&long).unwrap()), false));
        assert!(prefers_text(Some(&HeaderValue::from_bytes(b"\xff\xfe").unwrap()), true));
        assert!(prefers_text(Some(&HeaderValue::from_static("text/plain;q=banana, ;;;=,q=,*/*;q=0.9")), false));
    }
}
