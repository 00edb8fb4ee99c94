//! What hyper says about the framing of a body.
//!
//! hyper bounds what stands around the pieces of a chunked body: 16 KiB of chunk extensions a body (RFC 9112 §7.1.1 asks
//! for a bound), and trailers by the bounds of a head. It says which bound was reached in the words of its error only, so
//! the words are known here; a change of them fails the tests of both bounds.

use std::error::Error;

use crate::metrics::Bound;

/// The bound that a broken body has reached, if it is one.
pub(super) fn bound(error: &(dyn Error + 'static)) -> Option<Bound> {
    let mut next = Some(error);
    while let Some(error) = next {
        let bound = match error.to_string().as_str() {
            "chunk extensions over limit" => Some(Bound::ChunkExtensions),
            "chunk trailers bytes over limit" | "chunk trailers count overflow" => Some(Bound::Trailers),
            _ => None,
        };
        if bound.is_some() {
            return bound;
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_bound_is_told_from_other_errors() {
        let error = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
        assert_eq!(bound(&error("chunk extensions over limit")), Some(Bound::ChunkExtensions));
        assert_eq!(bound(&error("chunk trailers count overflow")), Some(Bound::Trailers));
        assert_eq!(bound(&io::Error::other(error("chunk trailers bytes over limit"))), Some(Bound::Trailers));
        assert_eq!(bound(&error("unexpected EOF during chunk size line")), None);
    }
}
