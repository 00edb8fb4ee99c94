//! Reads the keys of a configuration one by one, from whichever source says the last word: default, file, environment,
//! flag.
//!
//! Each key stands in the code once, at the place that reads it, with its type and default. The reader learns from those
//! calls which keys exist (so it can name the nearest one to a mistyped one), where each value came from (so that checks
//! made later can point at it, and `config show` can say it), and goes on after an error, so that one run shows them all.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

use toml::de::{DeTable, DeValue};

use super::Override;
use super::diagnostic::{ConfigErrors, Diagnostic, Place, Source, nearest};
use super::schema::Recorder;
use super::set;
use super::show::{Effective, Line, Table};
use super::value::{Mismatch, Setting, describe};
mod layers;

pub(super) use layers::Below;

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nobody said anything.
    #[default]
    Default,
    /// The file, at these bytes.
    File(Range<usize>),
    /// An environment variable.
    Env(&'static str),
    /// A flag.
    Flag(&'static str),
    /// A preset, and where it says so if it is one of the file's own.
    Preset(Box<str>, Option<Range<usize>>),
}

/// What is remembered of a key that was read.
#[derive(Debug, Default)]
struct Known {
    origin: Origin,
    elements: Vec<Range<usize>>,
    /// Whether a value was refused.
    refused: bool,
}

/// A key nobody asked for.
struct Unknown {
    name: String,
    origin: Origin,
    label: String,
    known: Vec<&'static str>,
}

/// Reads one configuration.
pub(super) struct Reader<'a> {
    source: Option<&'a Source>,
    overrides: &'a [Override],
    /// What each of them is in TOML, see [`set::values`].
    set: &'a [Option<DeValue<'a>>],
    /// The keys of `--set` that are keys.
    answered: HashSet<&'a str>,
    known: HashMap<String, Known>,
    unknown: Vec<Unknown>,
    /// Every key of every table, with the table's label.
    keys: Vec<(&'static str, String)>,
    pub(super) errors: ConfigErrors,
    pub(super) warnings: Vec<String>,
    pub(super) effective: Effective,
    /// Keeps what is asked for, if that is all that is wanted.
    pub(super) recorder: Option<Recorder>,
}

/// One table, while it is read.
pub(super) struct Section<'a> {
    /// `host.3.cooldown`: unique.
    path: String,
    /// `[host.cooldown]`: as written.
    label: String,
    table: Option<&'a DeTable<'a>>,
    /// The same table of the preset that it names: the file goes before it.
    below: Option<Below<'a>>,
    /// The table's own place.
    place: Option<Origin>,
    /// Who said all of the table, where it is not the file.
    said_by: Option<&'a Origin>,
    known: Vec<&'static str>,
    /// Keys that are absent are taken from elsewhere, and shown so.
    pub(super) inherits: bool,
}

impl Section<'_> {
    /// The label of a table inside this one, without brackets.
    fn label_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.label.trim_matches(['[', ']'])) }
    }

    /// As written: `[host.cooldown]`.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// The path of a key, for [`Reader::origin`] and the like.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Where a value of this table comes from.
    fn origin_of(&self, span: Range<usize>) -> Origin {
        self.said_by.cloned().unwrap_or(Origin::File(span))
    }
}

impl<'a> Reader<'a> {
    /// `set` is what [`set::values`] makes of the overrides.
    pub(super) fn new(source: Option<&'a Source>, overrides: &'a [Override], set: &'a [Option<DeValue<'a>>]) -> Self {
        Self {
            source,
            overrides,
            set,
            answered: HashSet::new(),
            known: HashMap::new(),
            unknown: Vec::new(),
            keys: Vec::new(),
            errors: ConfigErrors::default(),
            warnings: Vec::new(),
            effective: Effective::default(),
            recorder: None,
        }
    }

    /// A reader of nothing, which keeps what it is asked for. Every list of tables has one entry.
    pub(super) fn recording() -> Self {
        Self { recorder: Some(Recorder::default()), ..Self::new(None, &[], &[]) }
    }

    /// The whole document.
    pub(super) fn root(&self, table: Option<&'a DeTable<'a>>) -> Section<'a> {
        let label = "the top level".to_owned();
        Section {
            path: String::new(),
            label,
            table,
            below: None,
            place: None,
            said_by: None,
            known: Vec::new(),
            inherits: false,
        }
    }

    /// A table inside another one.
    pub(super) fn section(&mut self, parent: &mut Section<'a>, name: &'static str) -> Section<'a> {
        parent.known.push(name);
        let mut section = Section {
            path: parent.key(name),
            label: format!("[{}]", parent.label_of(name)),
            table: None,
            below: parent.below.and_then(|below| below.table(name)),
            place: parent.place.clone(),
            said_by: parent.said_by,
            known: Vec::new(),
            inherits: parent.inherits,
        };
        if let Some(recorder) = &mut self.recorder {
            recorder.table(&section.path);
        }
        if let Some(value) = parent.table.and_then(|table| table.get(name)) {
            match value.get_ref() {
                DeValue::Table(table) => {
                    section.table = Some(table);
                    section.place = Some(parent.origin_of(value.span()));
                }
                other => {
                    let message = format!("`{name}`: expected a table, found {}", describe(other));
                    let place = self.place_of(&parent.origin_of(value.span()));
                    let error = Diagnostic::new(place, message);
                    self.errors.push(error.help(format!("write `{}` and its keys below", section.label)));
                }
            }
        }
        self.open(&section);
        section
    }

    /// Notes that a table is read now: what follows is shown below its header.
    pub(super) fn open(&mut self, section: &Section<'_>) {
        self.effective.tables.push(Table {
            path: section.path.clone(),
            header: section.label.clone(),
            inherits: section.inherits,
            lines: Vec::new(),
        });
    }

    /// The value of a key.
    pub(super) fn get<T: Setting>(&mut self, section: &mut Section<'a>, name: &'static str, default: T) -> T {
        self.checked(section, name, default, |_| Ok(()))
    }

    /// The value of a key without a default.
    pub(super) fn optional<T: Setting>(
        &mut self,
        section: &mut Section<'a>,
        name: &'static str,
        inherited: Option<T>,
    ) -> Option<T> {
        self.record::<T>(section, name, inherited.as_ref());
        let (value, origin) = self.said(section, name, &|_: &T| Ok(()));
        let said = value.is_some();
        let value = value.or(inherited);
        if said || !section.inherits {
            self.show(section, name, value.as_ref().map(Setting::to_toml), &origin);
        }
        value
    }

    /// The value of a key that holds a count.
    pub(super) fn count(
        &mut self,
        section: &mut Section<'a>,
        name: &'static str,
        default: usize,
        range: RangeInclusive<u64>,
    ) -> usize {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let default = u64::try_from(default).unwrap_or(u64::MAX);
        let check = |value: &u64| if range.contains(value) { Ok(()) } else { Err(expected.clone()) };
        let value = usize::try_from(self.checked(section, name, default, check)).unwrap_or(usize::MAX);
        if let Some(recorder) = &mut self.recorder {
            recorder.bound(&section.key(name), &range);
        }
        value
    }

    /// The value of a key, checked by itself; the error of `check` says what is expected.
    pub(super) fn checked<T: Setting>(
        &mut self,
        section: &mut Section<'a>,
        name: &'static str,
        default: T,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> T {
        self.record(section, name, Some(&default));
        let (value, origin) = self.said(section, name, &check);
        let said = value.is_some();
        let value = value.unwrap_or(default);
        if said || !section.inherits {
            self.show(section, name, Some(value.to_toml()), &origin);
        }
        value
    }

    fn record<T: Setting>(&mut self, section: &Section<'_>, name: &str, default: Option<&T>) {
        if let Some(recorder) = &mut self.recorder {
            // What is inherited is no default of the key's own.
            let default = default.filter(|_| !section.inherits).map(Setting::to_toml);
            recorder.key(&section.key(name), T::schema(), default.as_deref());
        }
    }

    /// What the environment and the flags say of a key, and what that is in TOML where `--set` said it.
    fn said_of<'p>(
        &self,
        path: &'p str,
    ) -> impl Iterator<Item = (&'a Override, Option<&'a DeValue<'a>>)> + use<'a, 'p> {
        let said = self.overrides.iter().zip(self.set).map(|(each, value)| (each, value.as_ref()));
        said.filter(move |(each, _)| each.key == path)
    }

    /// What the sources say of a key, the last word winning. Every source is read, so that a bad value is an error even
    /// where another one wins.
    fn said<T: Setting>(
        &mut self,
        section: &mut Section<'a>,
        name: &'static str,
        check: &dyn Fn(&T) -> Result<(), String>,
    ) -> (Option<T>, Origin) {
        let path = section.key(name);
        section.known.push(name);
        let mut said = None;
        let mut known = Known::default();
        // What is wrong in a preset is an error where it stands.
        if let Some((value, below)) = section.below.and_then(|below| below.value(name))
            && let Ok(value) = T::from_toml(value)
            && check(&value).is_ok()
        {
            (said, known) = (Some(value), below);
        }
        if let Some(value) = section.table.and_then(|table| table.get(name)) {
            known.origin = section.origin_of(value.span());
            known.elements = if section.said_by.is_none() { elements(value.get_ref()) } else { Vec::new() };
            let read = T::from_toml(value.get_ref()).and_then(|read| match check(&read) {
                Ok(()) => Ok(read),
                Err(expected) => Err(Mismatch::new(expected, describe(value.get_ref()))),
            });
            match read {
                Ok(value) => said = Some(value),
                Err(mismatch) => {
                    let element = mismatch.element.and_then(|index| known.elements.get(index));
                    let place = element.map_or_else(|| self.place_of(&known.origin), |at| self.place(at));
                    self.mismatch(place, name, mismatch);
                    known.refused = true;
                }
            }
        }
        for (each, value) in self.said_of(&path) {
            let place = self.place_of(&each.origin);
            let read = self.read::<T>(each, value).and_then(|read| match check(&read) {
                Ok(()) => Ok(read),
                Err(expected) => Err(Mismatch::new(expected, super::value::quoted(&each.text))),
            });
            match read {
                Ok(value) => said = Some(value),
                Err(mismatch) => {
                    self.mismatch(place, if each.is_set { &path } else { name }, mismatch);
                    known.refused = true;
                }
            }
            known.origin = each.origin.clone();
            known.elements.clear();
        }
        let origin = known.origin.clone();
        // What nobody said is not worth remembering once for each host.
        if origin != Origin::Default {
            self.known.insert(path, known);
        }
        (said, origin)
    }

    fn read<T: Setting>(&mut self, said: &'a Override, value: Option<&DeValue<'_>>) -> Result<T, Mismatch> {
        if said.is_set {
            self.answered.insert(&said.key);
        }
        match value {
            Some(value) => set::read(value, &said.text),
            None => T::from_text(&said.text),
        }
    }

    /// The list of a key to which a flag or the environment adds; `--set` sets it.
    pub(super) fn added<T: Setting + Clone>(
        &mut self,
        section: &mut Section<'a>,
        name: &'static str,
        inherited: Vec<T>,
    ) -> Vec<T> {
        let path = section.key(name);
        self.record(section, name, Some(&inherited));
        let before = self.errors.count();
        let mut values = Vec::new();
        let mut elements = Vec::new();
        let overrides = std::mem::take(&mut self.overrides);
        let (from_file, origin) = self.said(section, name, &|_: &Vec<T>| Ok(()));
        self.overrides = overrides;
        let mut said = from_file.is_some();
        let mut origins: Vec<String> = Vec::new();
        match from_file {
            Some(from_file) => {
                values = from_file;
                elements = self.known.get(&path).map(|known| known.elements.clone()).unwrap_or_default();
                origins.push(self.origin_text(&origin));
            }
            None => values.extend(inherited),
        }
        let mut last = origin;
        for (each, value) in self.said_of(&path) {
            if each.is_set {
                (values, elements, origins) = (Vec::new(), Vec::new(), Vec::new());
            }
            match self.read(each, value) {
                Ok(more) => values.extend::<Vec<T>>(more),
                Err(mismatch) => {
                    self.mismatch(self.place_of(&each.origin), if each.is_set { &path } else { name }, mismatch);
                }
            }
            said = true;
            origins.push(self.origin_text(&each.origin));
            last = each.origin.clone();
        }
        let text = if origins.is_empty() { self.origin_text(&last) } else { origins.join(", ") };
        if said || !section.inherits {
            self.show_as(section, name, Some(values.to_toml()), text);
        }
        let refused = self.errors.count() > before;
        if last != Origin::Default {
            self.known.insert(path, Known { origin: last, elements, refused });
        }
        values
    }

    fn mismatch(&mut self, place: Option<Place>, name: &str, mismatch: Mismatch) {
        let message = format!("`{name}`: expected {}, found {}", mismatch.expected, mismatch.found);
        let error = Diagnostic::new(place, message);
        self.errors.push(match mismatch.help {
            Some(help) => error.help(help),
            None => error,
        });
    }

    fn show(&mut self, section: &Section<'_>, name: &'static str, value: Option<String>, origin: &Origin) {
        let origin = self.origin_text(origin);
        self.show_as(section, name, value, origin);
    }

    fn show_as(&mut self, section: &Section<'_>, name: &'static str, value: Option<String>, origin: String) {
        if let Some(table) = self.effective.tables.iter_mut().rev().find(|table| table.path == section.path) {
            table.lines.push(Line { name, value, origin });
        }
    }

    /// Notes a `[[reverse]]` that a flag or the environment added, and gives the key of its address.
    pub(super) fn add_reverse(&mut self, from: &Override, address: String, upstream: String) -> String {
        let origin = self.origin_text(&from.origin);
        let path = format!("reverse.{}", self.effective.tables.len());
        let key = format!("{path}.address");
        for name in ["address", "upstream"] {
            let known = Known { origin: from.origin.clone(), ..Known::default() };
            self.known.insert(format!("{path}.{name}"), known);
        }
        let lines = [("address", address), ("upstream", upstream)].map(|(name, value)| Line {
            name,
            value: Some(value),
            origin: origin.clone(),
        });
        let table =
            Table { path, header: "[[reverse]]".to_owned(), inherits: false, lines: lines.into_iter().collect() };
        self.effective.tables.push(table);
        key
    }

    /// Overrides of a key that adds to what the file says, with their places.
    pub(super) fn additions(&self, key: &str) -> impl Iterator<Item = &'a Override> + use<'a> {
        let key = key.to_owned();
        self.overrides.iter().filter(move |each| each.key == key && !each.is_set)
    }

    /// Ends a table: what was not asked for is not known.
    pub(super) fn finish(&mut self, section: Section<'a>) {
        for key in &section.known {
            if !section.path.contains('.') || section.path.starts_with("defaults.") || section.path.ends_with(".0") {
                self.keys.push((key, section.label.clone()));
            }
        }
        for (name, _) in section.table.into_iter().flatten() {
            if !section.known.contains(&name.get_ref().as_ref()) && self.unknown.len() < 1000 {
                self.unknown.push(Unknown {
                    name: name.get_ref().chars().take(80).collect(),
                    origin: section.origin_of(name.span()),
                    label: section.label.clone(),
                    known: section.known.clone(),
                });
            }
        }
    }

    /// Makes errors of the unknown keys, once every key is known.
    pub(super) fn report_unknown(&mut self) {
        for unknown in std::mem::take(&mut self.unknown) {
            let Unknown { name, origin, label, known } = unknown;
            let message = format!("unknown key `{name}` in {}", code(&label));
            let error = Diagnostic::new(self.place_of(&origin), message);
            let elsewhere = self.keys.iter().find(|(key, table)| *key == name && *table != label);
            self.errors.push(if let Some(near) = nearest(&name, known.iter().copied()) {
                error.help(format!("did you mean `{near}`?"))
            } else if let Some((key, table)) = elsewhere {
                error.help(format!("`{key}` is a key of {}", code(table)))
            } else {
                let known: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
                error.help(format!("known here: {}", known.join(", ")))
            });
        }
    }

    /// Makes errors of what `--set` names and nobody asked for.
    pub(super) fn report_unanswered(&mut self) {
        for each in self.overrides.iter().filter(|each| each.is_set && !self.answered.contains(each.key.as_str())) {
            self.errors.push(set::unknown(each, self.place_of(&each.origin)));
        }
    }

    /// A key that must be there.
    pub(super) fn missing(&mut self, section: &Section<'_>, name: &str, example: &str) {
        if section.is_of_preset() {
            return;
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.require(&section.path, name);
        }
        let place = self.place_of_table(section);
        let error = Diagnostic::new(place, format!("missing key `{name}` in {}", code(&section.label)));
        self.errors.push(error.help(format!("add `{name} = {example}`")));
    }

    /// Whether a source names the key; a value that was refused counts.
    pub(super) fn is_said(&self, path: &str) -> bool {
        self.origin(path) != Origin::Default
    }

    /// Whether a value of the key was refused: what follows from it is not worth an error.
    pub(super) fn is_refused(&self, path: &str) -> bool {
        self.known.get(path).is_some_and(|known| known.refused)
    }

    /// The effective value of a key and its origin, as shown.
    pub(super) fn shown(&self, path: &str) -> Option<(&str, &str)> {
        let (table, name) = path.rsplit_once('.')?;
        let table = self.effective.tables.iter().rev().find(|each| each.path == table)?;
        let line = table.lines.iter().find(|line| line.name == name)?;
        Some((line.value.as_deref()?, &line.origin))
    }

    pub(super) fn origin(&self, path: &str) -> Origin {
        self.known.get(path).map(|known| known.origin.clone()).unwrap_or_default()
    }

    /// The place of a key, or of an element of its list.
    pub(super) fn place_at(&self, path: &str, element: Option<usize>) -> Option<Place> {
        let known = self.known.get(path)?;
        match element.and_then(|index| known.elements.get(index)) {
            Some(range) => self.place(range),
            None => self.place_of(&known.origin),
        }
    }

    /// The place of a table's header.
    pub(super) fn place_of_table(&self, section: &Section<'_>) -> Option<Place> {
        section.place.as_ref().and_then(|place| self.place_of(place))
    }

    /// `holdoff.toml:12`. Other than a place it costs little, however long the line is.
    pub(super) fn line_of_table(&self, section: &Section<'_>) -> Option<String> {
        let (Some(source), Some(Origin::File(place))) = (self.source, &section.place) else { return None };
        Some(format!("{}:{}", source.path().display(), source.line(place.start)))
    }

    pub(super) fn place(&self, range: &Range<usize>) -> Option<Place> {
        // Finding a place reads its line, which may be the whole file.
        self.source.filter(|_| !self.errors.is_full()).map(|source| source.place(range))
    }

    pub(super) fn place_of(&self, origin: &Origin) -> Option<Place> {
        match origin {
            Origin::Default | Origin::Preset(_, None) => None,
            Origin::File(range) | Origin::Preset(_, Some(range)) => self.place(range),
            Origin::Env(name) => Some(Place::Env(name)),
            Origin::Flag(name) => Some(Place::Flag(name)),
        }
    }

    /// An origin in a few words.
    pub(super) fn origin_text(&self, origin: &Origin) -> String {
        match origin {
            Origin::Default => "default".to_owned(),
            Origin::File(range) => match self.source {
                Some(source) => format!("{}:{}", source.path().display(), source.line(range.start)),
                None => "file".to_owned(),
            },
            Origin::Env(name) => format!("env {name}"),
            Origin::Flag(name) => format!("flag {name}"),
            Origin::Preset(name, _) => format!("preset {name}"),
        }
    }
}

/// Where the elements of a list stand.
fn elements(value: &DeValue<'_>) -> Vec<Range<usize>> {
    match value {
        DeValue::Array(items) => items.iter().map(toml::Spanned::span).collect(),
        _ => Vec::new(),
    }
}

fn code(label: &impl Display) -> String {
    let label = label.to_string();
    if label.starts_with('[') { format!("`{label}`") } else { label }
}
