//! What is wrong with a configuration, and where.
//!
//! Whoever reads an error must find the place without counting: each one names the file, line and column with the line
//! itself and a caret under the culprit, or the flag or environment variable it came from.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The most errors kept: a hostile file must not fill the memory with them.
const MAX_ERRORS: usize = 50;

/// How many characters of a line are shown around the culprit.
const MAX_SNIPPET: usize = 120;

/// A configuration file and where its lines begin.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    text: String,
    starts: Vec<usize>,
}

impl Source {
    pub(super) fn new(path: impl Into<PathBuf>, text: String) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(newlines.map(|(at, _)| at.saturating_add(1))).collect();
        Self { path: path.into(), text, starts }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The line of a byte, counted from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    /// The place of a range of bytes: its first line only.
    pub(super) fn place(&self, range: &Range<usize>) -> Place {
        let line = self.line(range.start);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let end = self.starts.get(line).map_or(self.text.len(), |next| next.saturating_sub(1));
        let whole = self.text.get(start..end).unwrap_or_default().trim_end_matches('\r');
        let before = self.text.get(start..range.start.min(end)).unwrap_or_default().chars().count();
        let width = self.text.get(range.start.min(end)..range.end.min(end)).unwrap_or_default().chars().count();
        let (snippet, caret) = window(&mask_credentials(whole), before);
        Place::Text {
            file: self.path.clone(),
            line,
            column: before.saturating_add(1),
            caret: caret..caret.saturating_add(width.max(1)).min(snippet.chars().count().max(caret.saturating_add(1))),
            snippet,
        }
    }
}

/// Cuts a long line around `column` (from 0) and makes every character one that a terminal shows as one.
fn window(line: &str, column: usize) -> (String, usize) {
    let first = if column > MAX_SNIPPET.saturating_sub(40) { column.saturating_sub(40) } else { 0 };
    let mut caret = column.saturating_sub(first);
    let mut shown: String = line.chars().skip(first).take(MAX_SNIPPET).map(visible).collect();
    if first > 0 {
        shown.insert(0, '…');
        caret = caret.saturating_add(1);
    }
    if line.chars().count() > first.saturating_add(MAX_SNIPPET) {
        shown.push('…');
    }
    let shown = shown.trim_end().to_owned();
    (shown, caret)
}

/// The character, or one that shows there was one that does something else than being shown.
pub(super) fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        // Marks that reorder text could show another line than the one in the file.
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    }
}

/// Text for a terminal, whatever of it came from a file.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { visible(c) }).collect()
}

/// Hides what stands before an `@`, as a user and a password in a URL do, character by character so that columns hold.
/// Rather too much than too little: a password may hold a `/` that ends it for a parser, but not for a reader.
pub(crate) fn mask_credentials(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for token in text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`')) {
        let Some((secret, rest)) = token.rsplit_once('@') else {
            masked.push_str(token);
            continue;
        };
        let secret = match secret.split_once("://") {
            Some((scheme, secret)) => {
                masked.push_str(scheme);
                masked.push_str("://");
                secret
            }
            None => secret,
        };
        masked.extend(secret.chars().map(|_| '*'));
        masked.push('@');
        masked.push_str(rest);
    }
    masked
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file whose text is shown.
    Text {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The line, cut if it is long.
        snippet: String,
        /// Which characters of `snippet` are meant.
        caret: Range<usize>,
    },
    /// In a file whose text is secret, or that could not be read.
    File {
        /// The file.
        file: PathBuf,
        /// The line, from 1, when there is one.
        line: Option<usize>,
    },
    /// An environment variable.
    Env(&'static str),
    /// A flag.
    Flag(&'static str),
}

impl Place {
    /// The place in a few words, for a note beside another place.
    fn brief(&self) -> String {
        match self {
            Self::Text { file, line, .. } => format!("{}:{line}", file.display()),
            Self::File { file, line: Some(line) } => format!("{}:{line}", file.display()),
            Self::File { file, line: None } => file.display().to_string(),
            Self::Env(name) => format!("the environment variable `{name}`"),
            Self::Flag(name) => format!("the flag `{name}`"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub(super) place: Option<Box<Place>>,
    pub(super) message: String,
    pub(super) notes: Vec<String>,
    pub(super) help: Option<String>,
}

impl Diagnostic {
    pub(super) fn new(place: Option<Place>, message: impl Into<String>) -> Self {
        Self { place: place.map(Box::new), message: message.into(), notes: Vec::new(), help: None }
    }

    /// A mend.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Another place that belongs to it.
    pub(super) fn note(mut self, text: &str, place: Option<&Place>) -> Self {
        self.notes.push(match place {
            Some(place) => format!("{text} {}", place.brief()),
            None => text.to_owned(),
        });
        self
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_deref()
    }

    /// The mend, when there is one.
    pub fn mend(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", printable(&mask_credentials(&self.message)).replace('\n', " "))?;
        let mut gutter = 1;
        match self.place() {
            Some(Place::Text { file, line, column, snippet, caret }) => {
                gutter = line.to_string().len();
                let carets = "^".repeat(caret.len().max(1));
                writeln!(f, "{:gutter$}--> {}:{line}:{column}", "", file.display())?;
                writeln!(f, "{:gutter$} |", "")?;
                writeln!(f, "{line} | {snippet}")?;
                writeln!(f, "{:gutter$} | {:indent$}{carets}", "", "", indent = caret.start)?;
            }
            Some(place) => writeln!(f, "{:gutter$}--> {}", "", place.brief())?,
            None => {}
        }
        for note in &self.notes {
            writeln!(f, "{:gutter$} = note: {}", "", printable(note))?;
        }
        if let Some(help) = &self.help {
            writeln!(f, "{:gutter$} = help: {}", "", printable(&mask_credentials(help)))?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors {
    errors: Vec<Diagnostic>,
    left_off: usize,
}

impl ConfigErrors {
    pub(super) fn push(&mut self, error: Diagnostic) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        } else {
            self.left_off = self.left_off.saturating_add(1);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether further errors are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    /// The errors, in the order of the places in the file.
    pub fn errors(&self) -> &[Diagnostic] {
        &self.errors
    }

    /// How many errors there are, with those beyond the bound of what is kept.
    pub fn count(&self) -> usize {
        self.errors.len().saturating_add(self.left_off)
    }

    pub(super) fn sort(&mut self) {
        self.errors.sort_by_key(|error| match error.place() {
            Some(Place::Text { line, column, .. }) => (*line, *column),
            _ => (usize::MAX, 0),
        });
        // What a preset says wrongly with its hosts is found with each of them.
        self.errors
            .dedup_by(|one, other| one.place.is_some() && one.place == other.place && one.message == other.message);
    }
}

impl From<Diagnostic> for ConfigErrors {
    fn from(error: Diagnostic) -> Self {
        Self { errors: vec![error], left_off: 0 }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        if self.left_off > 0 {
            writeln!(f, "\nand {} more", self.left_off)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The known name nearest to a mistyped one, if one is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let bound = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_file_reaches_a_terminal_as_a_command() {
        let odd = "a\u{1b}[2J\tb\u{202e}";
        let error = Diagnostic::new(None, odd).note(odd, None).help(odd).to_string();
        assert!(error.chars().all(|c| c == '\n' || !c.is_control()), "{error:?}");
        assert!(!error.contains('\u{202e}'), "{error:?}");
    }

    #[test]
    fn a_diagnostic_shows_file_line_column_and_a_caret_under_the_culprit() {
        let source = Source::new("holdoff.toml", "[listen]\nadress = 1\n".to_owned());
        let error =
            Diagnostic::new(Some(source.place(&(9..15))), "unknown key `adress`").help("did you mean `address`?");
        assert_eq!(
            error.to_string(),
            "error: unknown key `adress`\n --> holdoff.toml:2:1\n  |\n2 | adress = 1\n  | ^^^^^^\n  = help: did you mean \
             `address`?\n"
        );
    }

    #[test]
    fn columns_count_characters_and_a_long_line_is_cut_around_the_culprit() {
        let source = Source::new("f", format!("{}x = 1", "é".repeat(500)));
        let Place::Text { column, snippet, caret, .. } = source.place(&(1000..1001)) else { panic!() };
        assert_eq!(column, 501);
        assert!(snippet.chars().count() <= MAX_SNIPPET + 2);
        assert_eq!(snippet.chars().nth(caret.start), Some('x'));
        assert_eq!(caret.len(), 1);
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let source = Source::new("f", "a\u{1b}[31mb".to_owned());
        let shown = Diagnostic::new(Some(source.place(&(0..1))), "x\u{1b}y").to_string();
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }

    #[test]
    fn credentials_in_urls_are_masked_in_place() {
        for (line, shown) in [
            ("upstream = \"https://user:pass@peer.example/\"", "upstream = \"https://*********@peer.example/\""),
            ("upstream = \"user:p/w@peer.example\" # x", "upstream = \"********@peer.example\" # x"),
            ("a = \"http://ok\"", "a = \"http://ok\""),
        ] {
            assert_eq!(mask_credentials(line), shown);
        }
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        assert_eq!(nearest("adress", ["address", "name"]), Some("address"));
        assert_eq!(nearest("max_key", ["max_keys"]), Some("max_keys"));
        assert_eq!(nearest("zzz", ["address", "name"]), None);
    }

    #[test]
    fn the_number_of_errors_kept_is_bounded() {
        let mut errors = ConfigErrors::default();
        for _ in 0..1000 {
            errors.push(Diagnostic::new(None, "x"));
        }
        assert_eq!((errors.errors().len(), errors.count()), (MAX_ERRORS, 1000));
    }
}
