//! Presets: named sets of settings, as data (SPEC 4.7).
//!
//! The built-in ones are a file of the same form as the operator's, `config/presets.toml`, and are read by the same code. A
//! preset lies below the table that names it: over what the table inherits, under what the table says itself.

use std::sync::LazyLock;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, nearest};
use super::policies;
use super::reader::{Below, Reader, Section};
use super::settings::{HostPattern, HostSettings, HostTarget, Hosts};
use super::value::Text;

/// The built-in presets, as `holdoff config presets` prints them.
pub const PRESETS_TOML: &str = include_str!("../../config/presets.toml");

/// The most presets of a file.
const MAX_OWN: usize = 256;

/// The longest name of a preset.
const MAX_NAME: usize = 32;

static BUILT_IN: LazyLock<DeTable<'static>> =
    LazyLock::new(|| DeTable::parse(PRESETS_TOML).map(Spanned::into_inner).unwrap_or_default());

/// Well-known hosts and the presets that are about them. A preset is never taken by the name of a host alone.
const KNOWN_HOSTS: &[(&str, &str)] = &[
    ("api.github.com", "github"),
    ("uploads.github.com", "github"),
    ("discord.com", "discord"),
    ("discordapp.com", "discord"),
    ("api.openai.com", "openai"),
    ("api.anthropic.com", "anthropic"),
    (".openai.azure.com", "azure"),
    (".documents.azure.com", "azure"),
    ("management.azure.com", "azure"),
    ("slack.com", "slack"),
    (".slack.com", "slack"),
    (".myshopify.com", "shopify"),
    ("oauth.reddit.com", "reddit"),
    ("mastodon.social", "mastodon"),
];

/// The names of the built-in presets, in the order of the alphabet.
pub fn names() -> impl Iterator<Item = &'static str> {
    table(&BUILT_IN).into_iter().flat_map(|presets| presets.keys()).map(|name| &**name.get_ref())
}

/// The text of a built-in preset, with what stands above it.
///
/// # Errors
/// When there is none of that name; the error names those there are.
pub fn text(name: &str) -> Result<&'static str, String> {
    let unknown = || format!("expected the name of a preset ({}), found `{name}`", listed(names()));
    let blocks = blocks();
    blocks.into_iter().find(|(found, _)| *found == name).map(|(_, text)| text).ok_or_else(unknown)
}

/// Each built-in preset and its text: from the comment above its header to the comment above the next one.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let mut starts: Vec<(&str, usize)> = Vec::new();
    let (mut at, mut comment) = (0_usize, None);
    for line in PRESETS_TOML.split_inclusive('\n') {
        if line.starts_with('#') {
            comment = comment.or(Some(at));
        } else {
            let header = line.trim_start_matches('[').strip_prefix("preset.").filter(|_| line.starts_with('['));
            let name = header.and_then(|header| header.split(['.', ']']).next());
            if let Some(name) = name.filter(|name| starts.last().is_none_or(|(last, _)| last != name)) {
                starts.push((name, comment.unwrap_or(at)));
            }
            comment = None;
        }
        at = at.saturating_add(line.len());
    }
    let ends = starts.iter().skip(1).map(|(_, start)| *start).chain([PRESETS_TOML.len()]);
    let text = |((name, start), end): (&(&'static str, usize), usize)| {
        Some((*name, PRESETS_TOML.get(*start..end)?.trim_end()))
    };
    starts.iter().zip(ends).filter_map(text).collect()
}

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn table<'a>(document: &'a DeTable<'static>) -> Option<&'a DeTable<'static>> {
    match document.get("preset")?.get_ref() {
        DeValue::Table(presets) => Some(presets),
        _ => None,
    }
}

/// The presets that a table may name.
pub(super) struct Presets<'a> {
    own: Vec<Below<'a>>,
    /// The tables of the file's own, until each was read by itself.
    unread: Vec<(&'a str, Section<'a>)>,
}

impl<'a> Presets<'a> {
    /// Finds those of the file.
    pub(super) fn new(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Self {
        let mut unread = reader.named(root, "preset");
        if let Some((_, section)) = unread.get(MAX_OWN) {
            let place = reader.place_of_table(section);
            reader.errors.push(Diagnostic::new(place, format!("`preset`: expected at most {MAX_OWN} presets")));
        }
        unread.truncate(MAX_OWN);
        let own = unread.iter().filter_map(|(name, section)| section.as_preset(name)).collect();
        Self { own, unread }
    }

    fn find(&self, name: &str) -> Option<Below<'a>> {
        let built_in = || {
            let (preset, value) = table(&BUILT_IN)?.get_key_value(name)?;
            let DeValue::Table(table) = value.get_ref() else { return None };
            Some(Below { preset: preset.get_ref(), table, is_own: false })
        };
        self.own.iter().find(|own| own.preset == name).copied().or_else(built_in)
    }

    /// Reads the key `preset` of a table, and lays the preset below it.
    pub(super) fn choose(&self, reader: &mut Reader<'a>, section: &mut Section<'a>) -> Option<Box<str>> {
        let PresetName(name) = reader.optional(section, "preset", None)?;
        let Some(below) = self.find(&name) else {
            let place = reader.place_at(&section.key("preset"), None);
            let error = Diagnostic::new(place, format!("`preset`: expected the name of a preset, found `\"{name}\"`"));
            let mut known: Vec<&str> = self.own.iter().map(|own| own.preset).collect();
            for name in names() {
                known.push(name);
            }
            let all = format!("there are {}", listed(known.iter().copied()));
            reader.errors.push(error.help(match nearest(&name, known) {
                Some(near) => format!("did you mean `\"{near}\"`? {all}"),
                None => format!("{all}; one of your own is a table `[preset.{name}]`"),
            }));
            return None;
        };
        section.lay(below);
        Some(name.into())
    }

    /// Reads each of the file's own once by itself, so that a mistake in it is shown once, where it stands.
    pub(super) fn check(&mut self, reader: &mut Reader<'a>, defaults: &HostSettings) {
        for (name, section) in std::mem::take(&mut self.unread) {
            if PresetName::parse(name).is_err() {
                let place = reader.place_of_table(&section);
                let message = format!("the name of a preset: expected {}, found `{name}`", PresetName::EXPECTED);
                reader.errors.push(Diagnostic::new(place, message));
            } else if names().any(|built_in| built_in == name) {
                let place = reader.place_of_table(&section);
                let error = Diagnostic::new(place, format!("there is a built-in preset `{name}`"));
                reader.errors.push(error.help(
                    "give this one another name; to change a built-in one, write the keys beside `preset = …`, where they \
                     go before it",
                ));
            }
            read(reader, section, defaults);
        }
    }
}

/// Reads one preset by itself.
fn read<'a>(reader: &mut Reader<'a>, mut section: Section<'a>, defaults: &HostSettings) {
    reader.open(&section);
    let settings = policies::settings(reader, &mut section, defaults);
    policies::refuse_insecure(reader, &section, &settings);
    reader.finish(section);
}

/// The name of a preset.
struct PresetName(String);

impl Text for PresetName {
    const EXPECTED: &'static str = "a name of 1 to 32 lower-case letters, digits and `-`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(None)
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// Hosts that a built-in preset is about and that name none.
pub(super) fn hints(hosts: &Hosts) -> Vec<String> {
    let mut hints = Vec::new();
    for host in hosts.hosts.iter().filter(|host| host.settings.preset.is_none()) {
        for pattern in &host.patterns {
            if let Some(preset) = about(pattern).filter(|preset| names().any(|name| name == *preset)) {
                hints.push(format!(
                    "`{}`: there is a preset with what this host is known to say, `preset = \"{preset}\"` (`holdoff config \
                     presets {preset}` prints it)",
                    pattern.text
                ));
            }
        }
    }
    hints
}

/// The preset that is about what a pattern names.
fn about(pattern: &HostPattern) -> Option<&'static str> {
    let is_about = |known: &str| match &pattern.target {
        HostTarget::Exact(name) if known.starts_with('.') => name.ends_with(known),
        HostTarget::Exact(name) => name == known,
        HostTarget::Suffix(suffix) if known.starts_with('.') => suffix.ends_with(known),
        HostTarget::Suffix(_) | HostTarget::Net(_) | HostTarget::Any => false,
    };
    KNOWN_HOSTS.iter().find(|(known, _)| is_about(known)).map(|(_, preset)| *preset)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::diagnostic::Source;
    use super::*;

    #[test]
    fn the_built_in_presets_are_good_by_themselves() {
        let source = Source::new("presets.toml", PRESETS_TOML.to_owned());
        let document = DeTable::parse(source.text()).unwrap();
        let mut reader = Reader::new(Some(&source), &[], &[]);
        let mut root = reader.root(Some(document.get_ref()));
        let presets = Presets::new(&mut reader, &mut root);
        for (name, section) in presets.unread {
            assert!(PresetName::parse(name).is_ok(), "{name}");
            read(&mut reader, section, &policies::built_in());
        }
        reader.finish(root);
        reader.report_unknown();
        assert!(reader.errors.is_empty(), "{}", reader.errors);
    }

    #[test]
    fn each_preset_is_printed_with_what_is_said_of_it_and_nothing_of_another_one() {
        let mut seen = BTreeSet::new();
        for (name, text) in blocks() {
            let table: toml::Table = text.parse().unwrap();
            let found: Vec<&str> = table["preset"].as_table().unwrap().keys().map(String::as_str).collect();
            assert_eq!(found, [name]);
            assert!(text.starts_with("# "), "{name} has no comment above it");
            assert!(seen.insert(name), "{name} stands in two places");
        }
        assert_eq!(seen, names().collect());
        assert!(text("zzz").unwrap_err().contains("`mesh`"));
    }

    #[test]
    fn every_hint_is_at_a_preset_that_there_is() {
        for (host, preset) in KNOWN_HOSTS {
            assert!(names().any(|name| name == *preset), "{host}");
        }
    }
}
