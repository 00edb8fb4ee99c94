//! `--set KEY=VALUE`: any key, without a flag of its own.
//!
//! What is typed there is what stands in a file, so a value is TOML first. But a shell takes quotes away, and `10m` is what
//! people write: what is no TOML, or a bare word of it that does not fit the key, is read as a flag of the key's own would be.

use toml::de::DeValue;

use super::Override;
use super::diagnostic::{Diagnostic, Place, nearest};
use super::reader::Origin;
use super::schema;
use super::value::{Mismatch, Setting};

/// Splits `KEY=VALUE`. Without a key, all of it is the text of one that is unknown.
pub(super) fn split(said: &str, origin: Origin) -> Override {
    let (key, text) = match said.split_once('=') {
        Some((key, text)) if !key.trim().is_empty() => (key.trim(), text.trim()),
        _ => ("", said),
    };
    Override { key: key.to_owned(), text: text.to_owned(), origin, is_set: true }
}

/// What each override is in TOML, if it is TOML and of `--set`.
pub(super) fn values(overrides: &[Override]) -> Vec<Option<DeValue<'_>>> {
    let values = overrides.iter().map(|each| each.is_set.then(|| DeValue::parse(&each.text)));
    values.map(|value| value.and_then(Result::ok).map(toml::Spanned::into_inner)).collect()
}

/// Reads a value that is TOML.
pub(super) fn read<T: Setting>(value: &DeValue<'_>, text: &str) -> Result<T, Mismatch> {
    let read = T::from_toml(value);
    match (read, value) {
        // Whoever writes quotes or brackets means them.
        (Err(mismatch), DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_)) => {
            T::from_text(text).map_err(|_| mismatch)
        }
        (read, _) => read,
    }
}

/// The error of a key that nobody asked for.
pub(super) fn unknown(said: &Override, place: Option<Place>) -> Diagnostic {
    let Override { key, text, .. } = said;
    if key.is_empty() {
        let error = Diagnostic::new(place, format!("expected `KEY=VALUE`, found `{text}`"));
        return error.help("such as `defaults.cooldown.max_backoff=10m`");
    }
    let cut: String = key.chars().take(80).collect();
    let keys = schema::record().keys();
    let inside = |table: &str| {
        let below = |name: &&String| name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
        keys.iter().find(below)
    };
    if let Some(example) = inside(key) {
        let error = Diagnostic::new(place, format!("`{cut}`: expected a key, found a table"));
        return error.help(format!("set the keys of the table, such as `{example}`"));
    }
    let entry = any_entry(key);
    let error = Diagnostic::new(place, format!("unknown key `{cut}`"));
    let is_in_list = |known: &str| known.split('.').any(|part| part == "0");
    if is_in_list(&entry) && (keys.contains(&entry) || inside(&entry).is_some()) {
        return error
            .help("it counts the tables of the file from 0, and there are not so many; new ones go into a file");
    }
    if key.starts_with("preset.") {
        return error.help("a preset is made in a file, as a table `[preset.NAME]`, whose keys can be set then");
    }
    let known = || keys.iter().map(String::as_str).filter(|known| !known.starts_with("preset."));
    // `max_backoff` alone, or in a table that does not have it.
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let elsewhere = || known().find(|known| !is_in_list(known) && last(known) == last(key));
    match nearest(&entry, known()).or_else(elsewhere) {
        Some(near) if is_in_list(near) => {
            error.help(format!("did you mean `{near}`, of the first such table in the file?"))
        }
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help("`holdoff config default` prints every key; write its table before it: `listen.via`"),
    }
}

/// The key with the number of every entry of a list 0, as it is recorded.
fn any_entry(key: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    key.split('.').map(|part| if is_number(part) { "0" } else { part }).collect::<Vec<_>>().join(".")
}
