//! The JSON Schema of the configuration, for editors and TOML checkers (`holdoff config schema`).
//!
//! It is not written down a second time: the code that reads the configuration is run over an empty document, and a
//! [`Recorder`] keeps what it asks for, so that a key that is read is a key of the schema, with the type, range and default
//! it is read with. What a key is for is told in one place, too: the comments of [`DEFAULT_TOML`].
//!
//! The dialect is draft 7, the newest that the editors' TOML plug-ins and `taplo` all read. A schema knows less than
//! `holdoff check`: what depends on another key or on a file is not in it, and it refuses nothing that we take.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use serde::{Serialize, Serializer};

use super::DEFAULT_TOML;
use super::reader::Reader;
use super::tables;

/// What can be said of a value, as a node of a JSON Schema. The fields stand in the order in which they are written.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Schema {
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    dialect: Option<&'static str>,
    #[serde(rename = "$id", skip_serializing_if = "Option::is_none")]
    id: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "str::is_empty")]
    kind: &'static str,
    #[serde(rename = "enum", skip_serializing_if = "<[_]>::is_empty")]
    words: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Box<Self>>,
    #[serde(rename = "maxProperties", skip_serializing_if = "Option::is_none")]
    max_properties: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    required: Vec<String>,
    #[serde(skip_serializing_if = "Properties::is_empty")]
    properties: Properties,
    #[serde(rename = "additionalProperties", skip_serializing_if = "Option::is_none")]
    additional: Option<Additional>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<toml::Value>,
}

impl Schema {
    fn of(kind: &'static str) -> Self {
        Self { kind, ..Self::default() }
    }

    /// A string that matches a pattern, if there is one, and is one of the words, if there are any.
    pub(super) fn text(pattern: Option<&'static str>, words: &'static [&'static str]) -> Self {
        Self { pattern, words, ..Self::of("string") }
    }

    pub(super) fn boolean() -> Self {
        Self::of("boolean")
    }

    pub(super) fn number() -> Self {
        Self::of("number")
    }

    /// A whole number; `u64::MAX` is no bound.
    pub(super) fn integer(first: u64, last: u64) -> Self {
        Self { minimum: Some(first), maximum: Some(last).filter(|&last| last < u64::MAX), ..Self::of("integer") }
    }

    pub(super) fn list(items: Self) -> Self {
        Self { items: Some(Box::new(items)), ..Self::of("array") }
    }

    /// A table with these keys, each with what it is for, written in place of a value.
    pub(super) fn table(keys: impl IntoIterator<Item = (&'static str, &'static str, Self)>) -> Self {
        let key = |(name, description, schema): (&str, &str, Self)| {
            (name.to_owned(), Self { description: Some(description.to_owned()), ..schema })
        };
        let properties = Properties(keys.into_iter().map(key).collect());
        Self { properties, additional: Some(Additional::None), ..Self::of("object") }
    }

    /// Whatever it is.
    pub(super) fn any() -> Self {
        Self::default()
    }

    /// A table whose keys are the operator's.
    pub(super) fn map(values: Self, most: usize) -> Self {
        let additional = Some(Additional::Each(Box::new(values)));
        Self { additional, max_properties: Some(most), ..Self::of("object") }
    }
}

#[derive(Clone, Debug, Default)]
struct Properties(Vec<(String, Schema)>);

impl Properties {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, schema)| (name, schema)))
    }
}

/// The keys that are not named.
#[derive(Clone, Debug)]
enum Additional {
    None,
    Each(Box<Schema>),
}

impl Serialize for Additional {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_bool(false),
            Self::Each(schema) => schema.serialize(serializer),
        }
    }
}

/// The schema of a whole configuration, as text.
pub(super) fn document() -> String {
    let mut schema = record().root.schema(&mut Vec::new(), &descriptions(DEFAULT_TOML));
    schema.dialect = Some("http://json-schema.org/draft-07/schema#");
    schema.id = Some("urn:holdoff:configuration");
    schema.title = Some("holdoff.toml");
    schema.description = Some("The configuration of holdoff. Every key has a default.".to_owned());
    // Strings for keys and finite numbers: there is nothing in it that JSON cannot hold.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// What the code that reads a configuration asks for.
pub(super) fn record() -> Recorder {
    let mut reader = Reader::recording();
    let mut root = reader.root(None);
    tables::settings(&mut reader, &mut root);
    reader.recorder.unwrap_or_default()
}

/// Keeps which tables and keys are asked for, in that order.
///
/// Paths are those of the reader: `host.0.cooldown.growth` is a key of an entry of a list of tables. For a table whose keys
/// are the operator's names for tables, record one entry named [`ANY`]: `preset.*.cooldown.growth`.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    root: Node,
}

/// The name that stands for every name an operator may choose.
pub(super) const ANY: &str = "*";

#[derive(Debug, Default)]
struct Node {
    name: String,
    kind: Kind,
    required: Vec<String>,
    children: Vec<Node>,
}

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Table,
    /// A list of tables; its one child is an entry.
    List,
    Key(Box<Schema>),
}

impl Recorder {
    pub(super) fn table(&mut self, path: &str) {
        self.node(path);
    }

    /// A list of tables. What is recorded below `PATH.0` is said of each entry.
    pub(super) fn list(&mut self, path: &str) {
        self.node(path).kind = Kind::List;
    }

    /// A key; `default` is TOML.
    pub(super) fn key(&mut self, path: &str, mut schema: Schema, default: Option<&str>) {
        let default = default.and_then(|text| format!("value = {text}").parse::<toml::Table>().ok());
        schema.default = default.and_then(|mut table| table.remove("value"));
        self.node(path).kind = Kind::Key(Box::new(schema));
    }

    /// The range of a key that was recorded.
    pub(super) fn bound(&mut self, path: &str, range: &RangeInclusive<u64>) {
        if let Kind::Key(schema) = &mut self.node(path).kind {
            schema.minimum = Some(*range.start());
            schema.maximum = Some(*range.end());
        }
    }

    /// A key that must be in its table.
    pub(super) fn require(&mut self, table: &str, name: &str) {
        self.node(table).required.push(name.to_owned());
    }

    /// The path of every key.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        self.root.keys("", &mut keys);
        keys
    }

    fn node(&mut self, path: &str) -> &mut Node {
        let mut node = &mut self.root;
        for name in path.split('.').filter(|name| !name.is_empty()) {
            node = node.child(name);
        }
        node
    }
}

impl Node {
    fn child(&mut self, name: &str) -> &mut Self {
        let at = self.children.iter().position(|child| child.name == name).unwrap_or_else(|| {
            self.children.push(Self { name: name.to_owned(), ..Self::default() });
            self.children.len().saturating_sub(1)
        });
        #[expect(clippy::indexing_slicing, reason = "it was found there, or put there")]
        &mut self.children[at]
    }

    fn keys(&self, prefix: &str, keys: &mut Vec<String>) {
        for child in &self.children {
            let path = if prefix.is_empty() { child.name.clone() } else { format!("{prefix}.{}", child.name) };
            match child.kind {
                Kind::Key(_) => keys.push(path),
                Kind::Table | Kind::List => child.keys(&path, keys),
            }
        }
    }

    /// The schema of what stands at `path`, which is without the entries' numbers and names.
    fn schema<'a>(&'a self, path: &mut Vec<&'a str>, descriptions: &HashMap<String, String>) -> Schema {
        let mut below = |child: &'a Self| {
            let is_entry = child.name == ANY || matches!(self.kind, Kind::List);
            if is_entry {
                return child.schema(path, descriptions);
            }
            path.push(&child.name);
            let mut schema = child.schema(path, descriptions);
            schema.description = describe(path, descriptions);
            path.pop();
            schema
        };
        match &self.kind {
            Kind::Key(schema) => (**schema).clone(),
            Kind::List => match self.children.first() {
                Some(entry) => Schema::list(below(entry)),
                None => Schema::of("array"),
            },
            Kind::Table => {
                let mut schema = Schema { required: self.required.clone(), ..Schema::of("object") };
                schema.additional = Some(Additional::None);
                for child in &self.children {
                    let mut found = below(child);
                    if self.required.contains(&child.name) {
                        found.default = None;
                    }
                    if child.name == ANY {
                        schema.additional = Some(Additional::Each(Box::new(found)));
                    } else {
                        schema.properties.0.push((child.name.clone(), found));
                    }
                }
                schema
            }
        }
    }
}

/// What a key is for. The keys of a host and the like are those of `[defaults]`, and told there.
fn describe(path: &[&str], descriptions: &HashMap<String, String>) -> Option<String> {
    let own = path.join(".");
    let general = own.split_once('.').and_then(|(_, rest)| descriptions.get(&format!("defaults.{rest}")));
    general.or_else(|| descriptions.get(&own)).cloned()
}

/// The comments of a default file by the path of what they stand before. A key right below another one shares its comment.
fn descriptions(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut table = String::new();
    let mut comment = Vec::new();
    let mut shared = String::new();
    for line in text.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = header(bare) {
            name.clone_into(&mut table);
            if !comment.is_empty() {
                // What is said of a preset of some name is said of the table of all names.
                if let Some((of_names @ "preset", _)) = name.split_once('.') {
                    found.entry(of_names.to_owned()).or_insert_with(|| comment.join(" "));
                }
                found.insert(table.clone(), comment.join(" "));
            }
            shared.clear();
            comment.clear();
        } else if let Some(name) = key(bare) {
            if !comment.is_empty() {
                shared = comment.join(" ");
            }
            if !shared.is_empty() {
                found.insert(format!("{table}.{name}"), shared.clone());
            }
            comment.clear();
        } else if line.starts_with("# ") && !bare.starts_with("----") {
            comment.push(bare.trim());
        } else {
            comment.clear();
            shared.clear();
        }
    }
    found
}

/// The name in `[name]` or `[[name]]`.
fn header(line: &str) -> Option<&str> {
    let inside = line.strip_prefix('[')?.strip_suffix(']')?;
    let name = inside.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(inside);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (!name.is_empty() && name.bytes().all(is_plain)).then_some(name)
}

/// The name in `name = value`.
fn key(line: &str) -> Option<&str> {
    let (name, _) = line.split_once(" = ")?;
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_').then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Every node of the schema below `node`, with a path.
    fn walk<'a>(node: &'a Value, path: &str, found: &mut Vec<(String, &'a Value)>) {
        found.push((path.to_owned(), node));
        for (name, child) in node["properties"].as_object().into_iter().flatten() {
            walk(child, &format!("{path}/{name}"), found);
        }
        for entry in [&node["items"], &node["additionalProperties"]] {
            if entry.is_object() {
                walk(entry, &format!("{path}/*"), found);
            }
        }
    }

    fn whole() -> Value {
        serde_json::from_str(&document()).unwrap()
    }

    #[test]
    fn a_key_has_the_type_the_range_the_default_and_the_comment_it_is_read_with() {
        let schema = whole();
        let at = |path: &str| schema.pointer(path).unwrap_or_else(|| panic!("{path}")).clone();
        assert_eq!(
            at("/properties/metrics/properties/max_host_labels"),
            json!({
                "type": "integer", "minimum": 1, "maximum": 10000, "default": 100,
                "description": "How many hosts have a label of their own; the others are counted as `_other`. At most 10000: \
                                each costs about 70 series, here and in Prometheus.",
            })
        );
        let growth = at("/properties/defaults/properties/cooldown/properties/growth");
        assert_eq!(growth, json!({"type": "number", "default": 2.0, "description": "The factor from step to step."}));
        let mode = at("/properties/host/items/properties/mode");
        assert_eq!(mode["enum"], json!(["enforce", "observe", "off"]));
        assert_eq!(mode["default"], Value::Null, "a host without a mode has that of the defaults");
        assert!(mode["description"].as_str().unwrap().contains("observe (decide and count"));
        assert_eq!(at("/properties/reverse/items/required"), json!(["address", "upstream"]));
        assert_eq!(at("/properties/host/items/required"), json!(["match"]));
        assert_eq!(at("/properties/reverse/items/properties/address")["default"], Value::Null);
        assert_eq!(at("/properties/defaults/properties/answer/properties/headers/default"), json!({}));
        assert_eq!(at("/$schema"), "http://json-schema.org/draft-07/schema#");
    }

    #[test]
    fn every_key_has_a_description_and_every_table_refuses_keys_it_does_not_know() {
        let schema = whole();
        let mut nodes = Vec::new();
        walk(&schema, "", &mut nodes);
        assert!(nodes.len() > 150, "{}", nodes.len());
        for (path, node) in nodes {
            if !node["properties"].is_null() {
                let additional = &node["additionalProperties"];
                assert!(*additional == json!(false) || additional.is_object(), "{path}");
            } else if !path.ends_with("/*") {
                assert!(node["description"].is_string(), "{path}: write a comment above it in config/default.toml");
            }
        }
    }

    #[test]
    fn tables_with_names_of_the_operators_own_and_nested_lists_can_be_recorded() {
        let mut recorder = Recorder::default();
        recorder.table("preset");
        recorder.key("preset.*.cooldown.growth", Schema::number(), None);
        recorder.list("preset.*.level");
        recorder.key("preset.*.level.0.name", Schema::text(None, &[]), Some("\"a\""));
        recorder.require("preset.*.level.0", "name");
        let told = descriptions(
            "[defaults.cooldown]\n# How fast.\ngrowth = 1\n# [[preset.level]]\n# Its name.\n# name = \"a\"",
        );
        let schema = recorder.root.schema(&mut Vec::new(), &told);
        let growth = json!({"description": "How fast.", "type": "number"});
        let name = json!({"description": "Its name.", "type": "string"});
        let table =
            |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
        let mut level = table(json!({"name": name}));
        level["required"] = json!(["name"]);
        let one =
            table(json!({"cooldown": table(json!({"growth": growth})), "level": {"type": "array", "items": level}}));
        let preset = json!({"type": "object", "additionalProperties": one});
        assert_eq!(serde_json::to_value(&schema).unwrap(), table(json!({"preset": preset})));
        assert_eq!(recorder.keys(), ["preset.*.cooldown.growth", "preset.*.level.0.name"]);
    }

    #[test]
    fn a_comment_is_told_of_what_stands_right_below_it() {
        let told = descriptions(
            "# A file.\n\n# A table.\n[a]\nplain = 1\n# Two\n# lines.\none = 1\n# two = 2\n\n# ---- ruler\n\nthree = 3\n",
        );
        let mut told: Vec<_> = told.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
        told.sort_unstable();
        assert_eq!(told, [("a", "A table."), ("a.one", "Two lines."), ("a.two", "Two lines.")]);
    }
}
