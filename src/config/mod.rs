//! Configuration: TOML, environment and flags → checked [`settings`].
//!
//! [`load`] is the one way in. It reads the file (if there is one), lets the environment and then the flags have the last
//! word key by key, checks everything, and either gives [`Settings`] that the rest of the program can rely on or every error
//! it found, each with its place. No file at all is a valid configuration.

use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

mod bodies;
mod check;
pub mod diagnostic;
mod headers;
mod hosts;
mod levels;
pub mod parent;
mod pattern;
mod policies;
pub mod presets;
mod reader;
mod schema;
pub mod secrets;
mod set;
pub mod settings;
mod show;
mod signals;
mod tables;
mod tls;
mod value;

use diagnostic::{ConfigErrors, Diagnostic, Place, Source};
use reader::{Origin, Reader};
use settings::Settings;
pub use show::Effective;

/// The annotated configuration with every key and its default, as `holdoff config default` prints it.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// The file read when none is named.
pub const DEFAULT_FILE: &str = "/etc/holdoff/holdoff.toml";

/// The largest configuration file. One with ten thousand hosts has about a tenth of it.
const MAX_FILE: u64 = 16 << 20;

/// What a configuration is made of.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    overrides: Vec<Override>,
}

/// What the environment or a flag says of a key.
#[derive(Clone, Debug)]
struct Override {
    key: String,
    text: String,
    origin: Origin,
    /// Whether it is one of `--set`, which knows every key, and reads its value as a file does.
    is_set: bool,
}

impl Sources {
    /// Reads this file, which then must exist; otherwise [`DEFAULT_FILE`], if it exists.
    pub fn file(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.file = Some(path.into());
        self
    }

    /// Sets the key `key` (`listen.address`) to what the environment variable `name` says. An empty variable says nothing.
    /// Those of [`parent::VARIABLES`] are keys of their own, for `upstream.proxy_from_env`.
    pub fn env(&mut self, key: &str, name: &'static str, text: impl Into<String>) -> &mut Self {
        let text = text.into();
        if !text.is_empty() {
            self.overrides.push(Override { key: key.to_owned(), text, origin: Origin::Env(name), is_set: false });
        }
        self
    }

    /// Sets the key `key` to what the flag `name` (`--listen`) says. Flags go before the environment, whatever the order of
    /// the calls.
    pub fn flag(&mut self, key: &str, name: &'static str, text: impl Into<String>) -> &mut Self {
        let (key, text, origin) = (key.to_owned(), text.into(), Origin::Flag(name));
        self.overrides.push(Override { key, text, origin, is_set: false });
        self
    }

    /// Sets any key, as the flag `name` says: `defaults.cooldown.max_backoff=10m`. The value is TOML, or what a flag of the
    /// key's own would take.
    pub fn set_flag(&mut self, name: &'static str, said: &str) -> &mut Self {
        self.overrides.push(set::split(said, Origin::Flag(name)));
        self
    }

    /// [`Sources::set_flag`] for each line of an environment variable.
    pub fn set_env(&mut self, name: &'static str, said: &str) -> &mut Self {
        let lines = said.lines().filter(|line| !line.trim().is_empty());
        self.overrides.extend(lines.map(|line| set::split(line, Origin::Env(name))));
        self
    }
}

impl Sources {
    /// What a flag, else the environment, says of a key, as it was written.
    pub fn said(&self, key: &str) -> Option<&str> {
        let of = |is_flag| {
            let is_meant = move |each: &&Override| each.key == key && matches!(each.origin, Origin::Flag(_)) == is_flag;
            self.overrides.iter().rfind(is_meant).map(|each| each.text.as_str())
        };
        of(true).or_else(|| of(false))
    }
}

/// A configuration that was found good.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What an operator should know but can be run with.
    pub warnings: Vec<String>,
    /// What could be better, for `check`.
    pub hints: Vec<String>,
    /// Every value with its origin, for `config show`.
    pub effective: Effective,
}

/// Reads and checks a configuration.
///
/// # Errors
/// Everything that is wrong with it: as many errors as can be told apart in one run.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    load_or(sources, Path::new(DEFAULT_FILE))
}

/// The JSON Schema of the configuration, as `holdoff config schema` prints it.
pub fn schema() -> String {
    schema::document()
}

/// Reads and checks the text of a configuration, without file, environment and flags.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str) -> Result<Loaded, ConfigErrors> {
    read(Some(&Source::new("holdoff.toml", text.to_owned())), &[])
}

/// [`load`] with another path in the place of [`DEFAULT_FILE`].
fn load_or(sources: &Sources, default_file: &Path) -> Result<Loaded, ConfigErrors> {
    let source = match &sources.file {
        Some(path) => match open(path)? {
            Some(source) => Some(source),
            None => {
                let place = Place::File { file: path.clone(), line: None };
                let error = Diagnostic::new(Some(place), "expected a configuration file, found none");
                return Err(error
                    .help("without `--config` the defaults hold; `holdoff config default` prints a file")
                    .into());
            }
        },
        None => open(default_file)?,
    };
    let mut overrides = sources.overrides.clone();
    overrides.sort_by_key(|each| matches!(each.origin, Origin::Flag(_)));
    read(source.as_ref(), &overrides)
}

/// Reads a file; `None` when it does not exist.
fn open(path: &Path) -> Result<Option<Source>, Diagnostic> {
    let content = match secrets::read_bounded(path, MAX_FILE) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let place = Place::File { file: path.to_owned(), line: None };
            return Err(Diagnostic::new(Some(place), format!("expected a readable configuration file: {error}")));
        }
    };
    match String::from_utf8(content) {
        Ok(text) => Ok(Some(Source::new(path, text))),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let source = Source::new(path, String::from_utf8_lossy(error.as_bytes()).into_owned());
            // The text before the first bad byte is the same in both.
            let place = source.place(&(good..good.saturating_add(1)));
            Err(Diagnostic::new(Some(place), "expected UTF-8, found a byte that is not").help("save the file as UTF-8"))
        }
    }
}

fn read(source: Option<&Source>, overrides: &[Override]) -> Result<Loaded, ConfigErrors> {
    let document = match source.map(|source| (source, DeTable::parse(source.text()))) {
        None => None,
        Some((_, Ok(document))) => Some(document),
        Some((source, Err(error))) => return Err(syntax(source, &error).into()),
    };
    let set: Vec<Option<DeValue<'_>>> = set::values(overrides);
    let mut reader = Reader::new(source, overrides, &set);
    let mut root = reader.root(document.as_ref().map(|document| document.get_ref()));
    let settings = tables::settings(&mut reader, &mut root);
    reader.finish(root);
    reader.report_unknown();
    reader.report_unanswered();
    let Reader { mut errors, warnings, effective, .. } = reader;
    if !errors.is_empty() {
        errors.sort();
        return Err(errors);
    }
    let hints = presets::hints(&settings.hosts);
    Ok(Loaded { settings, file: source.map(|source| source.path().to_owned()), warnings, hints, effective })
}

/// An error of the TOML itself.
fn syntax(source: &Source, error: &toml::de::Error) -> Diagnostic {
    let place = error.span().map(|span| source.place(&span));
    // The parser may say more than one line.
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    Diagnostic::new(place, format!("the file is not TOML: {message}"))
}

#[cfg(test)]
mod tests;
