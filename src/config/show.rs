//! The effective configuration as TOML, each key with the place its value came from (`holdoff config show`).
//!
//! What is printed can be read again and means the same. Secrets are not in it: they are kept in files, and of a file only
//! the path is known here.

use std::fmt;

/// Every effective value, in the order it was read.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    pub(super) tables: Vec<Table>,
}

/// A table and its keys.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) path: String,
    pub(super) header: String,
    /// Whether what is not here is taken from the table of `[defaults]` of the same name.
    pub(super) inherits: bool,
    pub(super) lines: Vec<Line>,
}

/// A key.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    /// `None`: it has no value, and no default.
    pub(super) value: Option<String>,
    pub(super) origin: String,
}

impl Effective {
    /// Whether file, environment or a flag gave the key `key` (`admin.address`) its value; otherwise it is the default.
    pub fn is_said(&self, key: &str) -> bool {
        let Some((path, name)) = key.rsplit_once('.') else { return false };
        let lines = self.tables.iter().filter(|table| table.path == path).flat_map(|table| &table.lines);
        lines.filter(|line| line.name == name).any(|line| line.origin != "default")
    }

    /// The table of `[defaults]` that a table of a host takes the rest from.
    fn base(&self, table: &Table) -> Option<&Table> {
        if !table.inherits || !table.path.starts_with("host.") {
            return None;
        }
        let path = match table.path.splitn(3, '.').nth(2) {
            Some(below) => format!("defaults.{below}"),
            None => "defaults".to_owned(),
        };
        self.tables.iter().find(|other| other.path == path)
    }

    /// The dotted names of every key outside of lists of tables, with whether it has a value.
    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = (String, bool)> {
        self.tables.iter().flat_map(|table| {
            table.lines.iter().map(|line| (format!("{}.{}", table.path, line.name), line.value.is_some()))
        })
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A table of a preset that says nothing is not there.
        let is_there = |table: &&Table| !table.lines.is_empty() || !table.path.starts_with("preset.");
        for (index, table) in self.tables.iter().filter(is_there).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{}", table.header)?;
            let base = self.base(table).map(|base| base.lines.as_slice()).unwrap_or_default();
            // Where a preset lies is decided by the table that names it: it is no value that is passed on.
            let base: Vec<&Line> = base.iter().filter(|line| line.name != "preset").collect();
            for own in table.lines.iter().filter(|own| base.iter().all(|line| line.name != own.name)) {
                own.write(f, "")?;
            }
            for line in base {
                match table.lines.iter().find(|own| own.name == line.name) {
                    Some(own) => own.write(f, "")?,
                    None => line.write(f, "[defaults] ")?,
                }
            }
        }
        Ok(())
    }
}

impl Line {
    fn write(&self, f: &mut fmt::Formatter<'_>, prefix: &str) -> fmt::Result {
        let origin: String = self.origin.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        match &self.value {
            Some(value) => writeln!(f, "{} = {value}  # {prefix}{origin}", self.name),
            None => writeln!(f, "# {} is not set  # {prefix}{origin}", self.name),
        }
    }
}
