//! Body rules: signs of a busy host that stand in the body of an answer which looks well (SPEC 2.11, 2.12).
//!
//! A host accepts a job with 202 and says only later, in an answer with status 200, that no worker was there. No field of the
//! head tells, so an operator writes down what to look for, and the bytes of such answers are looked at while they pass. They
//! pass unchanged and at once: a [`Watch`] keeps a copy of the first ones, never more than its bound, and judges when the
//! body ends or when that copy is full.
//!
//! The order of calls: [`BodyRules::watch`] with the head; for `Some`, [`Watch::see`] with each piece of the body until it
//! says `true` or the body ends or breaks off; then [`Watch::finish`], once. How the body is cut into pieces changes nothing
//! about the verdict.
//!
//! What is judged is decoded and bounded twice: in the bytes that are kept, and in the bytes that decoding makes of them. A
//! body that is longer, or breaks off, is judged by what there is of it; of zstd that is whole blocks. Of a
//! `text/event-stream` it is everything up to the end of the first event.

use std::fmt;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

use decode::{Coding, Decoded, End};
use json::Probe;

use super::{MAX_RECEIVED, printable};

pub use json::{Pointer, PointerError};
pub use rule::{BodyRule, Condition, Cools, Scalar, Test, When};

mod decode;
mod events;
mod json;
mod rule;

/// The rules of one policy, tried in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct BodyRules {
    rules: Vec<Arc<BodyRule>>,
    prefix: usize,
    decoded: usize,
}

impl BodyRules {
    /// The rules, of which the first that matches counts; how many bytes of a body are kept; and how many are made of them
    /// by decoding.
    pub fn new(rules: Vec<BodyRule>, prefix: usize, decoded: usize) -> Self {
        Self { rules: rules.into_iter().map(Arc::new).collect(), prefix, decoded }
    }

    /// How many bytes of a body are kept.
    pub const fn prefix(&self) -> usize {
        self.prefix
    }

    /// How many bytes are made of them by decoding.
    pub const fn decoded_prefix(&self) -> usize {
        self.decoded
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &BodyRule> {
        self.rules.iter().map(|rule| &**rule)
    }

    /// What looks at the body of a response with this head. `None`: no rule fits it, or its status has no body. That the
    /// answer to a HEAD has none is for the caller to know.
    pub fn watch(&self, status: StatusCode, headers: &HeaderMap) -> Option<Watch> {
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED) {
            return None;
        }
        let media_type = headers.get(CONTENT_TYPE).map(media_type);
        let fits = |rule: &&Arc<BodyRule>| rule.fits(status, media_type);
        let rules: Vec<_> = self.rules.iter().filter(fits).cloned().collect();
        if rules.is_empty() {
            return None;
        }
        let is_stream = media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case(b"text/event-stream"));
        Some(Watch {
            rules,
            prefix: self.prefix,
            decoded: self.decoded,
            coding: Coding::of(headers),
            stream: is_stream.then(Stream::default),
            kept: Vec::new(),
            is_done: false,
        })
    }
}

/// A media type without its parameters.
fn media_type(value: &HeaderValue) -> &[u8] {
    value.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Looks at one body while it passes.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Those that fit the head.
    rules: Vec<Arc<BodyRule>>,
    prefix: usize,
    decoded: usize,
    coding: Option<Coding>,
    stream: Option<Stream>,
    /// The first bytes, as they came.
    kept: Vec<u8>,
    is_done: bool,
}

/// What is known of a stream of events.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    finder: events::Finder,
    /// How many coded bytes were kept when the end of the first event was last looked for.
    tried: usize,
}

impl Watch {
    /// Takes notice of the next bytes of the body. `true`: nothing that follows can change the verdict.
    pub fn see(&mut self, mut data: &[u8]) -> bool {
        while !self.is_done && !data.is_empty() {
            let wanted = self.step().saturating_sub(self.kept.len());
            let (piece, rest) = data.split_at_checked(wanted).unwrap_or((data, &[]));
            data = rest;
            self.take(piece);
        }
        self.is_done |= self.coding.is_none() || self.kept.len() >= self.prefix;
        self.is_done
    }

    /// How many bytes to keep before the next look.
    ///
    /// Where the first event of a coded stream ends is seen in decoded bytes only, and decoding all of them with each piece
    /// would let the host choose how often. So they are looked at after every 64 bytes, then after every quarter more:
    /// places that do not depend on how the body is cut.
    fn step(&self) -> usize {
        const STEP: usize = 64;
        match (self.coding, self.stream) {
            (None, _) => 0,
            (Some(Coding::Identity), _) | (_, None) => self.prefix,
            (Some(_), Some(Stream { tried, .. })) => tried.saturating_add(STEP.max(tried >> 2)).min(self.prefix),
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let Some(coding) = self.coding.filter(|_| self.kept.len() < self.prefix) else {
            self.is_done = true;
            return;
        };
        match &mut self.stream {
            Some(stream) if coding == Coding::Identity => {
                let end = stream.finder.end(piece);
                self.is_done = end.is_some();
                self.keep(end.and_then(|end| piece.get(..end)).unwrap_or(piece));
            }
            Some(_) => {
                self.keep(piece);
                if self.kept.len() >= self.step() {
                    let found = coding.decode(&self.kept, self.decoded);
                    self.is_done = found.end != End::Input || events::Finder::default().end(&found.bytes).is_some();
                    self.stream = Some(Stream { tried: self.kept.len(), ..Stream::default() });
                }
            }
            None => self.keep(piece),
        }
    }

    /// Keeps the bytes; never has room for more than the bound.
    fn keep(&mut self, piece: &[u8]) {
        let needed = self.kept.len().saturating_add(piece.len());
        if self.kept.capacity() < needed {
            let room = self.kept.capacity().saturating_mul(2).min(self.prefix).max(needed);
            self.kept.reserve_exact(room.saturating_sub(self.kept.len()));
        }
        self.kept.extend_from_slice(piece);
    }

    /// Judges what was seen.
    pub fn finish(self) -> Verdict {
        let mut problems = Problems::default();
        let Some(coding) = self.coding else {
            problems.insert(Problem::Unsupported);
            return Verdict { matched: None, problems };
        };
        let Decoded { bytes, end } = coding.decode(&self.kept, self.decoded);
        let (mut body, mut is_whole) = (&*bytes, false);
        if self.stream.is_some()
            && let Some(length) = events::Finder::default().end(body)
        {
            (body, is_whole) = (body.get(..length).unwrap_or_default(), true);
        }
        // Of what stands behind the first event nothing matters, also not that it cannot be read.
        if !is_whole {
            match end {
                End::Input if self.kept.len() < self.prefix => {}
                End::Input | End::Limit => problems.insert(Problem::TooLong),
                End::Malformed => problems.insert(Problem::Malformed),
                End::Memory => problems.insert(Problem::Unsupported),
            }
        }
        let mut probes = probes(&self.rules);
        if !probes.is_empty() {
            let data = self.stream.is_some().then(|| events::data(body));
            if !json::walk(data.as_deref().unwrap_or(body), &mut probes) {
                problems.insert(Problem::Malformed);
            }
        }
        let mut probes = probes.into_iter();
        let matched = self.rules.iter().find_map(|rule| {
            let seen = judge(rule, body, &mut probes)?;
            Some(Match { rule: Arc::clone(rule), seen })
        });
        Verdict { matched, problems }
    }
}

/// One for each pointer of the rules, in their order.
fn probes(rules: &[Arc<BodyRule>]) -> Vec<Probe<'_>> {
    let conditions = rules.iter().flat_map(|rule| &rule.conditions);
    conditions
        .filter_map(|condition| match condition {
            Condition::Pointer { pointer, test } => Some(Probe { pointer, test, passed: None }),
            Condition::Text(_) | Condition::Regex(_) => None,
        })
        .collect()
}

/// What the conditions that hold saw, if enough of them do. Takes as many probes as the rule has pointers.
fn judge<'r>(
    rule: &'r BodyRule,
    body: &[u8],
    probes: &mut impl Iterator<Item = Probe<'r>>,
) -> Option<Vec<(String, String)>> {
    let mut seen = Vec::new();
    for condition in &rule.conditions {
        let saw = match condition {
            Condition::Text(text) => memchr::memmem::find(body, text.as_bytes()).map(|at| excerpt(body, at)),
            Condition::Regex(regex) => regex.find(body).map(|found| excerpt(body, found.start())),
            Condition::Pointer { .. } => probes.next().and_then(|probe| probe.passed),
        };
        seen.extend(saw.map(|saw| (condition.to_string(), saw)));
    }
    let is_match = match rule.when {
        When::All => seen.len() == rule.conditions.len(),
        When::Any => true,
    };
    (is_match && !seen.is_empty()).then_some(seen)
}

/// The bytes from this place on, or from the beginning where that shows it too: printable, at most [`MAX_RECEIVED`].
fn excerpt(bytes: &[u8], at: usize) -> String {
    let from = if bytes.len() <= MAX_RECEIVED { 0 } else { at };
    printable(bytes.get(from..).unwrap_or_default(), MAX_RECEIVED).into_string()
}

/// What the rules say of a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The first rule that matches.
    pub matched: Option<Match>,
    /// Why less of the body was judged than its host sent.
    pub problems: Problems,
}

/// A rule that matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// The rule.
    pub rule: Arc<BodyRule>,
    /// The conditions that hold, as they are written, and what each saw: printable, at most [`MAX_RECEIVED`] bytes.
    pub seen: Vec<(String, String)>,
}

/// `rule NAME: /status = "failed", text "worker died"`: the rule, and of the conditions that hold what each found. Of a text
/// that is no more than the condition says.
impl fmt::Display for Match {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "rule {}", self.rule.name)?;
        for (at, (condition, saw)) in self.seen.iter().enumerate() {
            out.write_str(if at == 0 { ": " } else { ", " })?;
            let of_rule = self.rule.conditions.iter().find(|of_rule| of_rule.to_string() == *condition);
            match of_rule {
                Some(Condition::Pointer { pointer, test: Test::Equals(Scalar::Text(_)) | Test::Contains(_) }) => {
                    write!(out, "{pointer} = {saw:?}")?;
                }
                Some(Condition::Pointer { pointer, .. }) => write!(out, "{pointer} = {saw}")?,
                Some(Condition::Text(_) | Condition::Regex(_)) | None => out.write_str(condition)?,
            }
        }
        Ok(())
    }
}

/// Why less of a body was judged than its host sent. Closed: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Problem {
    /// It is in a coding that is not read, in several, or asks for too large a window. Nothing was judged, or only what stood
    /// before that.
    Unsupported,
    /// It is not what its coding, or a JSON pointer, asks for. What stood before that was judged.
    Malformed,
    /// It is as long as a bound or longer. The first bytes were judged.
    TooLong,
}

impl Problem {
    /// Every problem.
    pub const ALL: [Self; 3] = [Self::Unsupported, Self::Malformed, Self::TooLong];

    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Unsupported => 1,
            Self::Malformed => 2,
            Self::TooLong => 4,
        }
    }
}

/// A set of problems.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Problems(u8);

impl Problems {
    /// Adds a problem.
    pub const fn insert(&mut self, problem: Problem) {
        self.0 |= problem.bit();
    }

    /// Whether the problem is in the set.
    pub const fn contains(self, problem: Problem) -> bool {
        self.0 & problem.bit() != 0
    }

    /// Whether all of the body was judged.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The problems, in the order of [`Problem::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Problem> {
        Problem::ALL.into_iter().filter(move |problem| self.contains(*problem))
    }
}

#[cfg(test)]
mod tests;
