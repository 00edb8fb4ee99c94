//! JSON of which the end may be missing: places in it (RFC 6901), and what stands there.
//!
//! The text is walked once, without a tree of it: what is on the way to no place is skipped, what stands at one is tested
//! when it is read. So a body that was cut, or is not JSON further on, counts as far as it goes.

use std::fmt;

use serde_core::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::excerpt;
use super::rule::{Scalar, Test};

/// A place in a JSON value (RFC 6901): `/items/0/status`. The empty one is the whole value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pointer(Box<[Box<str>]>);

impl Pointer {
    /// Reads a pointer.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        let mut parts = text.split('/');
        if parts.next() != Some("") {
            return Err(PointerError::NoSlash);
        }
        parts.map(unescaped).collect::<Option<_>>().map(Self).ok_or(PointerError::Escape)
    }
}

/// A part of a pointer with `~1` and `~0` undone.
fn unescaped(part: &str) -> Option<Box<str>> {
    let mut pieces = part.split('~');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (meant, rest) = match piece.as_bytes().first()? {
            b'0' => ('~', piece.get(1..)?),
            b'1' => ('/', piece.get(1..)?),
            _ => return None,
        };
        out.push(meant);
        out.push_str(rest);
    }
    Some(out.into_boxed_str())
}

impl fmt::Display for Pointer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return out.write_str("\"\"");
        }
        self.0.iter().try_for_each(|part| write!(out, "/{}", part.replace('~', "~0").replace('/', "~1")))
    }
}

/// What is wrong with a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PointerError {
    /// It is neither empty nor begins with a slash.
    NoSlash,
    /// A tilde that is not followed by 0 or 1.
    Escape,
}

impl fmt::Display for PointerError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NoSlash => "expected a JSON pointer, which begins with `/` or is empty",
            Self::Escape => "expected `~0` (for `~`) or `~1` (for `/`) where the JSON pointer has a `~`",
        })
    }
}

impl std::error::Error for PointerError {}

/// A test of what stands at one place.
#[derive(Debug)]
pub(super) struct Probe<'a> {
    pub(super) pointer: &'a Pointer,
    pub(super) test: &'a Test,
    /// The first value that passed, as it is shown.
    pub(super) passed: Option<String>,
}

/// Walks the text and tells the probes what it finds. `false`: it is not JSON; what stood before that counts.
pub(super) fn walk(text: &[u8], probes: &mut [Probe<'_>]) -> bool {
    let here = (0..probes.len()).collect();
    let mut reader = serde_json::Deserializer::from_slice(without_cut_number(text));
    match (Value { probes, here, depth: 0 }).deserialize(&mut reader) {
        Ok(()) => true,
        Err(error) => error.classify() == Category::Eof,
    }
}

/// The text without a number at its very end: nobody knows whether that is all of it. (A mark of the byte order, which some
/// write and none should, goes too.)
fn without_cut_number(text: &[u8]) -> &[u8] {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let is_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let start = text.iter().rposition(|byte| !is_of_word(byte)).map_or(0, |at| at.saturating_add(1));
    match text.split_at_checked(start) {
        Some((before, [b'-' | b'0'..=b'9', ..])) => before,
        _ => text,
    }
}

/// A value, and the probes whose pointers lead to it or into it.
struct Value<'p, 'a> {
    probes: &'p mut [Probe<'a>],
    here: Vec<usize>,
    /// How many parts of those pointers lie behind.
    depth: usize,
}

/// A value that can be tested.
enum Seen<'s> {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(&'s str),
}

impl Value<'_, '_> {
    fn test(self, seen: &Seen<'_>) {
        for at in self.here {
            if let Some(probe) = self.probes.get_mut(at)
                && probe.pointer.0.len() == self.depth
                && probe.passed.is_none()
            {
                probe.passed = passed(probe.test, seen);
            }
        }
    }

    /// The probes that want the part of this name.
    fn inside(&self, name: &str) -> Vec<usize> {
        let wants = |at: &usize| self.part(*at).is_some_and(|part| part == name);
        self.here.iter().copied().filter(wants).collect()
    }

    fn part(&self, at: usize) -> Option<&str> {
        self.probes.get(at)?.pointer.0.get(self.depth).map(|part| &**part)
    }
}

/// The value as it is shown, if it passes.
fn passed(test: &Test, seen: &Seen<'_>) -> Option<String> {
    match (test, seen) {
        (Test::Contains(part), Seen::Text(text)) => {
            memchr::memmem::find(text.as_bytes(), part.as_bytes()).map(|at| excerpt(text.as_bytes(), at))
        }
        (Test::Contains(_), _) => None,
        (Test::Equals(scalar), seen) => equals(scalar, seen),
    }
}

fn equals(scalar: &Scalar, seen: &Seen<'_>) -> Option<String> {
    let (is_equal, shown) = match (scalar, seen) {
        (Scalar::Null, Seen::Null) => (true, "null".to_owned()),
        (Scalar::Bool(one), Seen::Bool(two)) => (one == two, two.to_string()),
        (Scalar::Text(one), Seen::Text(two)) => (**one == **two, excerpt(two.as_bytes(), 0)),
        (Scalar::Integer(one), Seen::Integer(two)) => (i128::from(*one) == *two, two.to_string()),
        (Scalar::Integer(one), Seen::Float(two)) => (is_same(i128::from(*one), *two), two.to_string()),
        (Scalar::Float(one), Seen::Integer(two)) => (is_same(*two, *one), two.to_string()),
        (Scalar::Float(one), Seen::Float(two)) => (one == two, two.to_string()),
        _ => return None,
    };
    is_equal.then(|| excerpt(shown.as_bytes(), 0))
}

/// Whether two numbers are the same, also where not every whole number has a float.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what is beyond the range becomes its end, which no whole number here is"
)]
fn is_same(whole: i128, float: f64) -> bool {
    float.fract() == 0.0 && float as i128 == whole
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.here.is_empty() {
            return IgnoredAny::deserialize(deserializer).map(drop);
        }
        // As deep as the pointers at most, and as deep as the reader allows.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.test(&Seen::Null);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.test(&Seen::Bool(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.test(&Seen::Integer(value.into()));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.test(&Seen::Integer(value.into()));
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.test(&Seen::Float(value));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.test(&Seen::Text(value));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let depth = self.depth.saturating_add(1);
        while let Some(here) = map.next_key_seed(Name(&self))? {
            map.next_value_seed(Value { probes: &mut *self.probes, here, depth })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let depth = self.depth.saturating_add(1);
        for index in 0_usize.. {
            // Written as in a pointer, without leading zeros.
            let here = self.inside(&index.to_string());
            if seq.next_element_seed(Value { probes: &mut *self.probes, here, depth })?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// The name of an object's part, read as the probes that want it.
struct Name<'v, 'p, 'a>(&'v Value<'p, 'a>);

impl<'de> DeserializeSeed<'de> for Name<'_, '_, '_> {
    type Value = Vec<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_, '_> {
    type Value = Vec<usize>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Vec<usize>, E> {
        Ok(self.0.inside(name))
    }
}
