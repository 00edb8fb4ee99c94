//! What goes wrong with the authority: said so that an operator can mend it, and never with a byte of the key.

use std::error::Error;
use std::fmt;

/// Why there is no authority, or no certificate by it.
#[derive(Debug)]
pub struct AuthorityError {
    message: String,
    mend: Option<String>,
    missing: bool,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl AuthorityError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), mend: None, missing: false, source: None }
    }

    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self { missing: true, ..Self::new(message) }
    }

    pub(super) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    pub(super) fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether the only thing wrong is that no authority was made yet.
    pub fn is_missing(&self) -> bool {
        self.missing
    }
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.mend.iter().try_for_each(|mend| write!(f, "; {mend}"))
    }
}

impl Error for AuthorityError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
