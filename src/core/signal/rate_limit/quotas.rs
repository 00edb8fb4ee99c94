//! The lists of quotas.

use std::borrow::Cow;
use std::convert::Infallible;
use std::time::Duration;

use sfv::visitor::{EntryVisitor, Ignored, InnerListVisitor, ItemVisitor, ListVisitor, ParameterVisitor};
use sfv::{BareItemFromInput, KeyRef, Parser, StringRef};

use super::super::date::trim;
use super::super::{Cause, Causes, retry_after};
use super::Reading;
use crate::core::decision::Source;

/// The most bytes that are read of all fields of one name together.
const MAX_VALUE: usize = 4096;

/// Reads the values of all `RateLimit` and of all `RateLimit-Policy` fields of one response that comes from no cache.
pub fn read<'a>(limits: impl IntoIterator<Item = &'a [u8]>, policies: impl IntoIterator<Item = &'a [u8]>) -> Reading {
    let mut reading = Reading::default();
    let policies = joined(policies, &mut reading.policy);
    let quotas = members(policies.as_deref(), Which::Policy, &mut reading.policy);
    let limits = joined(limits, &mut reading.limit);
    let mut latest: Option<&Member<'_>> = None;
    let members = members(limits.as_deref(), Which::Limit, &mut reading.limit);
    for member in members.iter().filter(|member| member.remaining == Some(0) && member.reset.is_some()) {
        if latest.is_none_or(|latest| member.reset > latest.reset) {
            latest = Some(member);
        }
    }
    let Some((member, reset)) = latest.and_then(|member| Some((member, member.reset?))) else { return reading };
    let mut wait = retry_after::Reading::default();
    wait.take(Duration::from_secs(reset), Source::RateLimit);
    reading.hint = wait.hint;
    reading.limit.add(wait.causes);
    let mut window = format!("\"{}\";r=0;t={reset}", member.name.as_str());
    let quota = quotas.iter().find(|quota| quota.name == member.name);
    match quota.and_then(|quota| Some((quota.quota?, quota.window))) {
        Some((quota, Some(seconds))) => window.push_str(&format!(" (q={quota}, w={seconds})")),
        Some((quota, None)) => window.push_str(&format!(" (q={quota})")),
        None => {}
    }
    reading.window = Some(window);
    reading
}

/// The values of one field as one (RFC 9651 §4.2).
fn joined<'a>(values: impl IntoIterator<Item = &'a [u8]>, causes: &mut Causes) -> Option<Cow<'a, [u8]>> {
    let mut values = values.into_iter();
    let mut all = Cow::Borrowed(values.next()?);
    for value in values {
        if all.len() > MAX_VALUE {
            break;
        }
        let all = all.to_mut();
        all.extend_from_slice(b", ");
        all.extend_from_slice(value);
    }
    if all.len() > MAX_VALUE {
        causes.insert(Cause::TooLong);
        return None;
    }
    Some(all)
}

/// The members of a field, or none when one of them is not as it must be.
fn members<'a>(value: Option<&'a [u8]>, which: Which, causes: &mut Causes) -> Vec<Member<'a>> {
    let Some(value) = value else { return Vec::new() };
    if trim(value).is_empty() {
        causes.insert(Cause::Empty);
        return Vec::new();
    }
    // The grammar knows spaces around a field, and no tabs; what is optional in HTTP is both.
    let read = Parser::new(trim(value)).parse_list_with_visitor(List { which, members: Vec::new() });
    let mut odd = Causes::default();
    match &read {
        Ok(members) => members.iter().filter_map(|member| member.odd(which)).for_each(|cause| odd.insert(cause)),
        Err(_) => odd.insert(Cause::Malformed),
    }
    let is_good = odd.is_empty();
    causes.add(odd);
    read.ok().filter(|_| is_good).unwrap_or_default()
}

/// The two fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Limit,
    Policy,
}

/// A member of one of the two lists.
struct Member<'de> {
    name: Cow<'de, StringRef>,
    /// `r`
    remaining: Option<u64>,
    /// `t`
    reset: Option<u64>,
    /// `q`
    quota: Option<u64>,
    /// `w`
    window: Option<u64>,
    /// What is not as it must be. The last of several parameters of one key counts (RFC 9651 §4.2.3.2), so that this is
    /// kept for each of them.
    odd: [Option<Cause>; KEYS.len() + 1],
}

/// The parameters that are read: numbers, then the partition key and the unit, of which only the type matters.
const KEYS: [&str; 6] = ["r", "t", "q", "w", "pk", "qu"];

impl<'de> Member<'de> {
    fn new(item: BareItemFromInput<'de>) -> Self {
        let (name, odd) = match item {
            BareItemFromInput::String(name) => (name, None),
            _ => (Cow::Borrowed(sfv::string_ref("")), Some(Cause::Malformed)),
        };
        let mut member = Self { name, remaining: None, reset: None, quota: None, window: None, odd: [None; 7] };
        if let Some(last) = member.odd.last_mut() {
            *last = odd;
        }
        member
    }

    fn parameter(&mut self, which: Which, key: &str, value: &BareItemFromInput<'_>) {
        let Some(at) = KEYS.iter().position(|known| *known == key) else { return };
        let (number, odd) = match (key, value) {
            ("pk", BareItemFromInput::ByteSequence(_)) => (None, None),
            ("qu", BareItemFromInput::String(_)) => (None, None),
            ("pk", _) => (None, Some(Cause::Malformed)),
            // What the other field has is a comment here.
            ("r" | "t", _) if which == Which::Policy => return,
            ("q" | "w" | "qu", _) if which == Which::Limit => return,
            ("qu", _) => (None, Some(Cause::Malformed)),
            (_, BareItemFromInput::Integer(number)) => match u64::try_from(i64::from(*number)) {
                Ok(0) if key == "w" => (None, Some(Cause::Malformed)),
                Ok(number) => (Some(number), None),
                Err(_) => (None, Some(Cause::Negative)),
            },
            _ => (None, Some(Cause::Malformed)),
        };
        match key {
            "r" => self.remaining = number,
            "t" => self.reset = number,
            "q" => self.quota = number,
            "w" => self.window = number,
            _ => {}
        }
        if let Some(slot) = self.odd.get_mut(at) {
            *slot = odd;
        }
    }

    /// Why the member is not as it must be.
    fn odd(&self, which: Which) -> Option<Cause> {
        let required = match which {
            Which::Limit => self.remaining,
            Which::Policy => self.quota,
        };
        self.odd.iter().flatten().next().copied().or_else(|| required.is_none().then_some(Cause::Malformed))
    }
}

struct List<'de> {
    which: Which,
    members: Vec<Member<'de>>,
}

impl<'de> ListVisitor<'de> for List<'de> {
    type Out = Vec<Member<'de>>;
    type Error = Infallible;

    fn entry(&mut self) -> Result<impl EntryVisitor<'de>, Infallible> {
        Ok(Entry(self))
    }

    fn finish(self) -> Result<Self::Out, Infallible> {
        Ok(self.members)
    }
}

struct Entry<'l, 'de>(&'l mut List<'de>);

impl<'de> EntryVisitor<'de> for Entry<'_, 'de> {
    type Error = Infallible;

    fn item(self) -> Result<impl ItemVisitor<'de>, Infallible> {
        Ok(self)
    }

    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, Infallible> {
        // No name, so that the field is malformed.
        self.0.members.push(Member::new(BareItemFromInput::Boolean(false)));
        Ok(Ignored)
    }
}

impl<'de> ItemVisitor<'de> for Entry<'_, 'de> {
    type Out = ();
    type Error = Infallible;

    fn bare_item(self, item: BareItemFromInput<'de>) -> Result<impl ParameterVisitor<'de, Out = ()>, Infallible> {
        self.0.members.push(Member::new(item));
        Ok(self)
    }
}

impl<'de> ParameterVisitor<'de> for Entry<'_, 'de> {
    type Out = ();
    type Error = Infallible;

    fn parameter(&mut self, key: &'de KeyRef, value: BareItemFromInput<'de>) -> Result<(), Infallible> {
        let which = self.0.which;
        if let Some(member) = self.0.members.last_mut() {
            member.parameter(which, key.as_str(), &value);
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::signal::Hint;
    use crate::core::signal::MAX_WAIT;

    fn of(limits: &[&str], policies: &[&str]) -> Reading {
        read(limits.iter().map(|text| text.as_bytes()), policies.iter().map(|text| text.as_bytes()))
    }

    /// Seconds, and what was odd.
    fn limit(text: &str) -> (Option<u64>, Vec<Cause>) {
        let reading = of(&[text], &[]);
        (reading.hint.map(|hint| hint.wait.as_secs()), reading.limit.iter().collect())
    }

    fn policy(text: &str) -> Vec<Cause> {
        of(&[], &[text]).policy.iter().collect()
    }

    #[test]
    fn an_exhausted_quota_names_the_wait_until_there_is_more() {
        let reading = of(&["\"default\";r=0;t=30"], &[]);
        assert_eq!(reading.hint, Some(Hint { wait: Duration::from_secs(30), source: Source::RateLimit }));
        assert_eq!(reading.window.as_deref(), Some("\"default\";r=0;t=30"));
        assert_eq!(limit("\"default\";r=0;t=30;pk=:QXBwLTk5OQ==:"), (Some(30), vec![]));
        assert_eq!(limit("\"default\";t=30;comment;r=0;acme-x=?0"), (Some(30), vec![]), "others are comments");
        assert_eq!(limit("\t\"default\";r=0;t=0 "), (Some(0), vec![]));
    }

    #[test]
    fn what_is_left_or_has_no_time_names_no_wait() {
        for text in ["\"default\";r=1;t=30", "\"default\";r=0", "\"a\";r=0, \"b\";r=5;t=9"] {
            assert_eq!(limit(text), (None, vec![]), "{text}");
        }
    }

    #[test]
    fn the_latest_of_the_exhausted_quotas_counts_and_is_shown_with_its_policy() {
        let limits = ["\"burst\";r=0;t=2, \"daily\";r=0;t=3600;pk=:c2VjcmV0:", "\"monthly\";r=17;t=86400"];
        let policies = ["\"burst\";q=10;w=5,\"daily\";q=1000;w=86400;qu=\"requests\"", "\"bytes\";q=9"];
        let reading = of(&limits, &policies);
        assert_eq!(reading.hint.map(|hint| hint.wait.as_secs()), Some(3600));
        assert_eq!(reading.window.as_deref(), Some("\"daily\";r=0;t=3600 (q=1000, w=86400)"));
        assert!(reading.limit.is_empty() && reading.policy.is_empty());
        let reading = of(&["\"bytes\";r=0;t=5"], &policies);
        assert_eq!(reading.window.as_deref(), Some("\"bytes\";r=0;t=5 (q=9)"));
    }

    #[test]
    fn a_malformed_field_is_ignored_as_a_whole() {
        for text in [
            "limit=100, remaining=0, reset=5",
            "default;r=0;t=30",
            "0;r=0;t=30",
            "(\"default\");r=0;t=30",
            "\"default\";t=30",
            "\"default\";r=0.0;t=30",
            "\"default\";r=0;t=\"30\"",
            "\"default\";r=0;t=30.5",
            "\"default\";r=0;t=30;pk=\"x\"",
            "\"default\";r;t=30",
            "\"default\";r=0;t=1234567890123456",
            "\"default\";r=0;t=30,",
            "\"default\";r=0;t=30, junk here",
            "\"default;r=0;t=30",
        ] {
            assert_eq!(limit(text), (None, vec![Cause::Malformed]), "{text}");
        }
        for text in ["\"a\";r=0;t=9, \"b\";r=-1;t=30", "\"a\";r=0;t=-1"] {
            assert_eq!(limit(text), (None, vec![Cause::Negative]), "{text}");
        }
        assert_eq!(limit(" \t"), (None, vec![Cause::Empty]));
        assert_eq!(of(&["\"a\";r=0;t=9", "junk("], &[]).hint, None, "the lines are one field");
        let bytes = read([&b"\"\xff\";r=0;t=30"[..]], []);
        assert!(bytes.hint.is_none() && bytes.limit.contains(Cause::Malformed));
    }

    #[test]
    fn the_last_of_several_parameters_of_one_key_counts() {
        assert_eq!(limit("\"default\";r=5;t=1;r=0;t=30"), (Some(30), vec![]));
        assert_eq!(limit("\"default\";r=-1;r=0;t=30"), (Some(30), vec![]));
        assert_eq!(limit("\"default\";r=0;t=30;r=x"), (None, vec![Cause::Malformed]));
    }

    #[test]
    fn too_long_a_wait_is_the_longest_one() {
        assert_eq!(limit("\"default\";r=0;t=999999999999999"), (Some(MAX_WAIT.as_secs()), vec![Cause::Saturated]));
    }

    #[test]
    fn a_policy_names_no_wait_but_is_checked() {
        assert_eq!(of(&[], &["\"default\";q=0;w=60;r=0;t=60"]).hint, None);
        for text in ["\"permin\";q=50;w=60,\"perhr\";q=1000;w=3600", "\"a\";q=0;r=-1;t=?0", "\"a\";q=1;pk=:cHs=:"] {
            assert_eq!(policy(text), [], "{text}");
        }
        for text in
            ["\"a\";w=60", "\"a\";q=5;w=0", "a;q=5", "\"a\";q=5;qu=bytes", "\"a\";q=5;pk=1", "100;w=60", "(\"a\")"]
        {
            assert_eq!(policy(text), [Cause::Malformed], "{text}");
        }
        assert_eq!(policy("\"a\";q=-5"), [Cause::Negative]);
        assert_eq!(policy(""), [Cause::Empty]);
        let reading = of(&["\"a\";r=0;t=30"], &["junk("]);
        assert_eq!(reading.hint.map(|hint| hint.wait.as_secs()), Some(30), "a field of its own");
        assert_eq!(reading.window.as_deref(), Some("\"a\";r=0;t=30"));
    }

    #[test]
    fn a_field_without_end_is_not_read() {
        let item = "\"default\";r=0;t=30";
        let spaces = |all: usize| item.to_owned() + &" ".repeat(all - item.len() - item.len() - 1) + "," + item;
        assert_eq!(limit(&spaces(MAX_VALUE)), (Some(30), vec![]));
        assert_eq!(limit(&spaces(MAX_VALUE + 1)), (None, vec![Cause::TooLong]));
        let many = vec![item; 1000];
        let reading = of(&many, &[]);
        assert!(reading.hint.is_none() && reading.limit.contains(Cause::TooLong));
    }
}
