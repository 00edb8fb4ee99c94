//! `[defaults.signals]` and its like: what counts as a signal.

use super::reader::{Reader, Section};
use crate::core::policy::SignalRules;

/// Reads the table.
pub(super) fn read<'a>(reader: &mut Reader<'a>, parent: &mut Section<'a>, base: &SignalRules) -> SignalRules {
    let mut section = reader.section(parent, "signals");
    let s = &mut section;
    let signals = SignalRules {
        statuses: reader.get(s, "statuses", base.statuses.clone()),
        unavailable: reader.get(s, "unavailable", base.unavailable.clone()),
        hintless: reader.get(s, "hintless", base.hintless),
        trust_hints: reader.get(s, "trust_hints", base.trust_hints),
        fractional_seconds: reader.get(s, "fractional_seconds", base.fractional_seconds),
        ..base.clone()
    };
    reader.finish(section);
    signals
}
