//! Lists of tables, `[[host]]` and the like: from the file, or whole from `--set`.

use toml::de::DeValue;

use super::super::diagnostic::Diagnostic;
use super::super::value::{describe, quoted};
use super::{Origin, Reader, Section};

impl<'a> Reader<'a> {
    /// The tables of a list of tables.
    pub(in crate::config) fn list(
        &mut self,
        parent: &mut Section<'a>,
        name: &'static str,
        inherits: bool,
    ) -> Vec<Section<'a>> {
        parent.known.push(name);
        let list = parent.key(name);
        let label = format!("[[{}]]", parent.label_of(name));
        let entry = |index: usize| Section {
            path: format!("{list}.{index}"),
            label: label.clone(),
            table: None,
            place: None,
            said_by: parent.said_by,
            known: Vec::new(),
            inherits,
        };
        if let Some(recorder) = &mut self.recorder {
            recorder.list(&list);
            return vec![entry(0)];
        }
        let expected = |reader: &mut Self, origin: &Origin, found: String| {
            let message = format!("`{name}`: expected a list of tables, found {found}");
            let error = Diagnostic::new(reader.place_of(origin), message);
            reader.errors.push(error.help(match origin {
                Origin::File(_) => format!("write `{label}` with double brackets, once for each"),
                _ => format!("write `{list}=[{{ … }}]`, or `{label}` in a file"),
            }));
        };
        // What `--set` says replaces the list.
        let set = self.said_of(&list).filter(|(each, _)| each.is_set).last();
        let (items, said_by) = match (set, parent.table.and_then(|table| table.get(name))) {
            (Some((each, value)), _) => {
                self.answered.insert(&each.key);
                match value {
                    Some(DeValue::Array(items)) => (items, Some(&each.origin)),
                    other => {
                        expected(self, &each.origin, other.map_or_else(|| quoted(&each.text), describe));
                        return Vec::new();
                    }
                }
            }
            (None, Some(value)) => match value.get_ref() {
                DeValue::Array(items) => (items, parent.said_by),
                other => {
                    expected(self, &parent.origin_of(value.span()), describe(other));
                    return Vec::new();
                }
            },
            (None, None) => return Vec::new(),
        };
        let mut sections = Vec::new();
        for item in items {
            let origin = said_by.cloned().unwrap_or(Origin::File(item.span()));
            match item.get_ref() {
                DeValue::Table(table) => {
                    let entry = entry(sections.len());
                    sections.push(Section { table: Some(table), place: Some(origin), said_by, ..entry });
                }
                other => expected(self, &origin, describe(other)),
            }
        }
        sections
    }
}
