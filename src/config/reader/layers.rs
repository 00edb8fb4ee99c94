//! Lists of tables, tables with names of their own, and the preset that lies below a table.
//!
//! A table that names a preset reads each of its keys from the preset where it does not say it itself, so the order of the
//! sources is kept key by key and nothing has to be merged afterwards. What the preset says is not judged here: a preset of
//! the file is read by itself once, and that is where its mistakes are shown.

use std::fmt::Display;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::schema::ANY;
use super::super::value::quoted;
use super::{Diagnostic, Known, Origin, Reader, Section, describe, elements};

/// A table of a preset.
#[derive(Clone, Copy)]
pub(in crate::config) struct Below<'a> {
    /// The preset's name.
    pub(in crate::config) preset: &'a str,
    pub(in crate::config) table: &'a DeTable<'a>,
    /// Whether it stands in the file.
    pub(in crate::config) is_own: bool,
}

impl<'a> Below<'a> {
    /// A table inside it.
    pub(super) fn table(self, name: &str) -> Option<Self> {
        match self.table.get(name)?.get_ref() {
            DeValue::Table(table) => Some(Self { table, ..self }),
            _ => None,
        }
    }

    /// A value of it, and what is to be remembered of it.
    pub(super) fn value(self, name: &str) -> Option<(&'a DeValue<'a>, Known)> {
        let value = self.table.get(name)?;
        let at = self.is_own.then(|| value.span());
        let elements = if self.is_own { elements(value.get_ref()) } else { Vec::new() };
        let known = Known { origin: Origin::Preset(self.preset.into(), at), elements, refused: false };
        Some((value.get_ref(), known))
    }
}

impl<'a> Section<'a> {
    /// Puts a preset below the table.
    pub(in crate::config) fn lay(&mut self, below: Below<'a>) {
        self.below = Some(below);
    }

    /// The table as a preset of the file.
    pub(in crate::config) fn as_preset(&self, preset: &'a str) -> Option<Below<'a>> {
        Some(Below { preset, table: self.table?, is_own: true })
    }

    /// Whether all of the table is a preset's.
    pub(in crate::config) fn is_of_preset(&self) -> bool {
        self.table.is_none() && self.below.is_some()
    }
}

impl<'a> Reader<'a> {
    /// The tables of a list at the top level.
    pub(in crate::config) fn list(
        &mut self,
        root: &mut Section<'a>,
        name: &'static str,
        inherits: bool,
    ) -> Vec<Section<'a>> {
        let mut tables = self.tables(root, name, usize::MAX).unwrap_or_default();
        for table in &mut tables {
            table.inherits = inherits;
        }
        tables
    }

    /// The tables of a list inside a table. `None`: nobody said it, and it is what the table inherits. A list that is said
    /// stands in the place of the inherited one, and what `--set` says in the place of any.
    pub(in crate::config) fn tables(
        &mut self,
        parent: &mut Section<'a>,
        name: &'static str,
        most: usize,
    ) -> Option<Vec<Section<'a>>> {
        parent.known.push(name);
        let label = format!("[[{}]]", parent.label_of(name));
        let path = parent.key(name);
        let entry = |index: usize| Section {
            path: format!("{path}.{index}"),
            label: label.clone(),
            table: None,
            below: None,
            place: None,
            said_by: parent.said_by,
            known: Vec::new(),
            inherits: false,
        };
        if let Some(recorder) = &mut self.recorder {
            recorder.list(&path);
            return Some(vec![entry(0)]);
        }
        let expected = |reader: &mut Self, origin: &Origin, found: String| {
            let message = format!("`{name}`: expected a list of tables, found {found}");
            let error = Diagnostic::new(reader.place_of(origin), message);
            reader.errors.push(error.help(match origin {
                Origin::File(_) => format!("write `{label}` with double brackets, once for each"),
                _ => format!("write `{path}=[{{ … }}]`, or `{label}` in a file"),
            }));
        };
        let set = self.said_of(&path).filter(|(each, _)| each.is_set).last();
        let (items, said_by, origin) = match (set, parent.table.and_then(|table| table.get(name))) {
            (Some((each, value)), _) => {
                self.answered.insert(&each.key);
                match value {
                    Some(DeValue::Array(items)) => (items, Some(&each.origin), each.origin.clone()),
                    other => {
                        expected(self, &each.origin, other.map_or_else(|| quoted(&each.text), describe));
                        return None;
                    }
                }
            }
            (None, Some(value)) => {
                let origin = parent.origin_of(value.span());
                match value.get_ref() {
                    DeValue::Array(items) => (items, parent.said_by, origin),
                    other => {
                        expected(self, &origin, describe(other));
                        return None;
                    }
                }
            }
            (None, None) => {
                let below = parent.below?;
                let DeValue::Array(items) = below.table.get(name)?.get_ref() else { return None };
                let tables = items.iter().take(most).filter_map(|item| match item.get_ref() {
                    DeValue::Table(table) => Some(Below { table, ..below }),
                    _ => None,
                });
                let tables = tables.enumerate().map(|(index, below)| Section { below: Some(below), ..entry(index) });
                return Some(self.said_list(parent, name, Origin::Preset(below.preset.into(), None), tables.collect()));
            }
        };
        let mut tables = Vec::new();
        for item in items {
            let place = said_by.cloned().unwrap_or(Origin::File(item.span()));
            match item.get_ref() {
                DeValue::Table(_) if tables.len() >= most => {
                    let message = format!("`{name}`: expected at most {most} tables, found {}", items.len());
                    self.errors.push(Diagnostic::new(self.place_of(&place), message));
                    break;
                }
                DeValue::Table(table) => {
                    let entry = entry(tables.len());
                    tables.push(Section { table: Some(table), place: Some(place), said_by, ..entry });
                }
                other => expected(self, &place, describe(other)),
            }
        }
        Some(self.said_list(parent, name, origin, tables))
    }

    /// Shows a list that is said to be empty, which no table would.
    fn said_list(
        &mut self,
        parent: &Section<'a>,
        name: &'static str,
        origin: Origin,
        tables: Vec<Section<'a>>,
    ) -> Vec<Section<'a>> {
        if tables.is_empty() {
            self.show(parent, name, Some("[]".to_owned()), &origin);
        }
        tables
    }

    /// The tables with names of their own inside a table: `[preset.NAME]`.
    pub(in crate::config) fn named(
        &mut self,
        root: &mut Section<'a>,
        name: &'static str,
    ) -> Vec<(&'a str, Section<'a>)> {
        root.known.push(name);
        let entry = |key: &str| {
            let path = format!("{name}.{key}");
            Section {
                label: format!("[{path}]"),
                path,
                table: None,
                below: None,
                place: None,
                said_by: None,
                known: Vec::new(),
                inherits: true,
            }
        };
        if let Some(recorder) = &mut self.recorder {
            let entry = entry(ANY);
            recorder.table(&entry.path);
            return vec![(ANY, entry)];
        }
        let Some(value) = root.table.and_then(|table| table.get(name)) else { return Vec::new() };
        let mut found = Vec::new();
        let expected = |reader: &mut Self, value: &Spanned<DeValue<'_>>, label: &str| {
            let message = format!("`{name}`: expected a table, found {}", describe(value.get_ref()));
            let error = Diagnostic::new(reader.place(&value.span()), message);
            reader.errors.push(error.help(format!("write `[{label}]` and its keys below")));
        };
        let DeValue::Table(tables) = value.get_ref() else {
            expected(self, value, &format!("{name}.NAME"));
            return Vec::new();
        };
        for (key, value) in tables {
            let entry = entry(key.get_ref());
            match value.get_ref() {
                DeValue::Table(table) => {
                    let place = Some(Origin::File(key.span()));
                    found.push((&**key.get_ref(), Section { table: Some(table), place, ..entry }));
                }
                _ => expected(self, value, &entry.path),
            }
        }
        found
    }

    /// Keys that must be there, each with an example.
    pub(in crate::config) fn required(&mut self, section: &Section<'_>, keys: &[(&str, &str)]) {
        for (key, example) in keys {
            if !self.is_said(&section.key(key)) {
                self.missing(section, key, example);
            }
        }
    }

    /// Makes an error of a key's value, unless it is a preset's: that one is judged where the preset stands.
    pub(in crate::config) fn refuse(&mut self, section: &Section<'_>, name: &str, expected: impl Display) {
        if !section.is_of_preset() {
            let place = self.place_at(&section.key(name), None).or_else(|| self.place_of_table(section));
            self.errors.push(Diagnostic::new(place, format!("`{name}`: expected {expected}")));
        }
    }

    /// Makes an error of what keys say together, at the key of this path or at the table, with a mend.
    pub(in crate::config) fn refuse_at(&mut self, section: &Section<'_>, path: &str, message: String, help: String) {
        if !section.is_of_preset() {
            let place = self.place_at(path, None).or_else(|| self.place_of_table(section));
            self.errors.push(Diagnostic::new(place, message).help(help));
        }
    }
}
