//! The fields about waiting of one response, family by family (SPEC 2.8).

use std::time::Duration;

use http::header::{AGE, RETRY_AFTER};
use http::{HeaderMap, HeaderName};

use super::{scope, values};
use crate::core::decision::Source;
use crate::core::policy::SignalRules;
use crate::core::signal::date::is_fresh;
use crate::core::signal::grpc::{self, GRPC_RETRY_PUSHBACK_MS};
use crate::core::signal::rate_limit::{self, RATE_LIMIT, RATE_LIMIT_POLICY};
use crate::core::signal::retry_after::{self, Context, RETRY_AFTER_MS, X_MS_RETRY_AFTER_MS};
use crate::core::signal::{Cause, Causes, Field, Hint, MAX_RECEIVED, printable, vendor};

/// What the fields about waiting say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// In the order of their precedence: `Retry-After` and its like, the vendor's reset (which the pushback of gRPC is),
    /// `RateLimit`. After them comes the ladder, which is no hint.
    families: [Family; 3],
    pub(super) errors: Oddities,
    pub(super) scope: Option<usize>,
}

/// What one family of fields says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Family {
    hint: Option<Hint>,
    /// The field that named the hint, or the first that is there, as received.
    received: Option<Box<str>>,
}

impl Fields {
    /// The fields of a response that may be a signal.
    pub(super) fn read(rules: &SignalRules, headers: &HeaderMap, context: &Context) -> Self {
        let mut fields = Self { scope: scope(rules, headers), ..Self::default() };
        fields.families = [
            fields.retry_after(headers, context),
            fields.vendor(rules, headers, context, true),
            fields.rate_limit(headers),
        ];
        fields
    }

    /// The fields of a good answer that say what is left.
    pub(super) fn of_good_answer(rules: &SignalRules, headers: &HeaderMap, context: &Context) -> Self {
        let mut fields = Self::default();
        fields.families =
            [Family::default(), fields.vendor(rules, headers, context, false), fields.rate_limit(headers)];
        fields
    }

    fn retry_after(&mut self, headers: &HeaderMap, context: &Context) -> Family {
        let millis = |name| retry_after::milliseconds(values(headers, name), Source::RetryAfterMs);
        let mut family = Family::default();
        for (field, name, shown, reading) in [
            (Field::RetryAfter, &RETRY_AFTER, "Retry-After", retry_after::read(values(headers, &RETRY_AFTER), context)),
            (Field::RetryAfterMs, &RETRY_AFTER_MS, "retry-after-ms", millis(&RETRY_AFTER_MS)),
            (Field::XMsRetryAfterMs, &X_MS_RETRY_AFTER_MS, "x-ms-retry-after-ms", millis(&X_MS_RETRY_AFTER_MS)),
        ] {
            self.errors.add(field, reading.causes);
            family.take(reading.hint, || received(headers, name, shown));
        }
        family
    }

    fn vendor(&mut self, rules: &SignalRules, headers: &HeaderMap, context: &Context, is_limited: bool) -> Family {
        let reading = vendor::read(&rules.fields, headers, context, is_limited);
        self.errors.add(Field::VendorReset, reading.reset);
        self.errors.add(Field::VendorRemaining, reading.remaining);
        let mut family = Family::default();
        let rule = reading.rule.and_then(|at| rules.fields.get(at));
        family.take(reading.hint, || rule.and_then(|rule| received(headers, &rule.reset, rule.reset.as_str())));
        family
    }

    fn rate_limit(&mut self, headers: &HeaderMap) -> Family {
        let mut family = Family::default();
        // Nearly no response has it.
        if !headers.contains_key(RATE_LIMIT) && !headers.contains_key(RATE_LIMIT_POLICY)
            || !is_fresh(values(headers, &AGE))
        {
            return family;
        }
        let reading = rate_limit::read(values(headers, &RATE_LIMIT), values(headers, &RATE_LIMIT_POLICY));
        self.errors.add(Field::RateLimit, reading.limit);
        self.errors.add(Field::RateLimitPolicy, reading.policy);
        family.take(reading.hint, || {
            reading.window.map(|window| printable(format!("RateLimit: {window}").as_bytes(), MAX_RECEIVED))
        });
        family
    }

    /// Adds what the end of a gRPC call says.
    pub(super) fn add_pushback(&mut self, call: &grpc::Reading, trailers: &HeaderMap) {
        self.errors.add(Field::GrpcRetryPushback, call.pushback);
        let [_, vendor, _] = &mut self.families;
        vendor.take(call.hint, || received(trailers, &GRPC_RETRY_PUSHBACK_MS, "grpc-retry-pushback-ms"));
    }

    /// Takes off every wait what has passed of it.
    pub(super) fn let_pass(&mut self, time: Duration) {
        for hint in self.families.iter_mut().filter_map(|family| family.hint.as_mut()) {
            hint.wait = hint.wait.saturating_sub(time);
        }
    }

    /// The hint of the first family that has one.
    pub(super) fn hint(&self) -> Option<Hint> {
        self.families.iter().find_map(|family| family.hint)
    }

    /// The field that named the hint, or the first that is there, as received; for people.
    pub(super) fn into_received(self) -> Option<Box<str>> {
        let has_hint = self.hint().is_some();
        self.families.into_iter().filter(|family| family.hint.is_some() == has_hint).find_map(|family| family.received)
    }
}

impl Family {
    /// Takes a hint that is longer than the one before it, and `received` with it.
    fn take(&mut self, hint: Option<Hint>, received: impl FnOnce() -> Option<Box<str>>) {
        let is_longer = match (hint, self.hint) {
            (Some(hint), Some(longest)) => hint.wait > longest.wait,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if is_longer {
            (self.hint, self.received) = (hint, received());
        } else if self.received.is_none() {
            self.received = received();
        }
    }
}

/// What was odd about each field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Oddities([Causes; Field::ALL.len()]);

impl Oddities {
    pub(super) fn add(&mut self, field: Field, causes: Causes) {
        let slot = Field::ALL.iter().zip(&mut self.0).find(|(other, _)| **other == field);
        slot.into_iter().for_each(|(_, all)| all.add(causes));
    }

    pub(super) fn merge(&mut self, others: &Self) {
        self.0.iter_mut().zip(others.0).for_each(|(all, causes)| all.add(causes));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Field, Cause)> {
        Field::ALL.into_iter().zip(self.0).flat_map(|(field, causes)| causes.iter().map(move |cause| (field, cause)))
    }
}

/// A field as received, for people.
fn received(headers: &HeaderMap, name: &HeaderName, shown: &str) -> Option<Box<str>> {
    let mut text = Vec::new();
    for value in values(headers, name) {
        if text.is_empty() {
            text.extend_from_slice(shown.as_bytes());
            text.extend_from_slice(b": ");
        } else {
            text.extend_from_slice(b", ");
        }
        text.extend(value.iter().take(MAX_RECEIVED));
        if text.len() >= MAX_RECEIVED {
            break;
        }
    }
    (!text.is_empty()).then(|| printable(&text, MAX_RECEIVED))
}
