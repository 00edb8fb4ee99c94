//! The certificate authority of TLS interception, and the certificates it makes.
//!
//! A node that asks `https://peer` through CONNECT hides its peer's answers in the tunnel. For hosts that the operator names
//! (`[intercept] hosts`) TLS ends here instead, with a certificate the node trusts because it trusts our authority. Such an
//! authority is a danger to the machine it is trusted on, so everything here keeps it as weak as it can be:
//!
//! - It is made on this machine, at first use, and differs from every other installation's. Its key never leaves the file
//!   `ca.key` (0600, refused when wider) and is never shown.
//! - It carries **name constraints** (RFC 5280 §4.2.1.10) for the hosts that were named when it was made. Whoever steals the
//!   key can pose as those hosts and no others. The price: a host named later is not within them, and a new authority is
//!   needed. That is said by `holdoff check` and at the start, before any client is shown a certificate it must refuse.
//! - It may sign servers' certificates only (path length 0, `serverAuth`), and those are valid for `leaf_lifetime`.
//!
//! | module | what it is |
//! |---|---|
//! | `constraints` | hosts as name constraints, and what those permit |
//! | `certificate` | the public half: `ca.pem` |
//! | `files` | directory and files: modes, owners, atomic writes |
//! | `authority` | both halves: made, opened, checked against the configuration |
//! | `leaf` | one certificate for one host |
//! | `cache` | the certificates in use, as rustls configurations |
//! | `bundle` | the authority beside the machine's roots, for variables that replace the roots |
//!
//! Nothing here knows the data path. Times are arguments.

mod authority;
mod bundle;
mod cache;
mod certificate;
mod constraints;
mod error;
mod files;
mod leaf;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;

pub use authority::Authority;
pub use bundle::bundle;
pub use cache::LeafCache;
pub use certificate::Certificate;
pub use constraints::{Constraints, Subtree};
pub use error::AuthorityError;
pub(crate) use files::replace;
pub use leaf::Leaf;

use crate::config::settings;
use crate::core::time::UnixTime;
use crate::state;

/// Interception as it is configured: which hosts, and what shows them a certificate.
#[derive(Debug)]
pub struct Interception {
    settings: settings::Intercept,
    leaves: LeafCache,
}

impl Interception {
    /// Opens the authority, and makes it when there is none. `None` when no host is named.
    ///
    /// `alpn` is what the servers made here agree to, best first. This reads, and at first use writes, files: call it at the
    /// start. What an operator should know but can be run with is logged.
    ///
    /// # Errors
    /// When the authority cannot be made or read, is not fit for use, or does not permit every host that is named.
    pub fn open(settings: &settings::Intercept, alpn: &[&[u8]], now: UnixTime) -> Result<Option<Self>, AuthorityError> {
        if settings.hosts.is_empty() {
            return Ok(None);
        }
        let directory = directory(settings.ca_dir.as_deref(), |name| std::env::var_os(name))?;
        let authority = Authority::open_or_create(&directory, &settings.hosts, now)?;
        for warning in authority.certificate().warnings(now) {
            tracing::warn!("{warning}");
        }
        let leaves = LeafCache::new(Arc::new(authority), alpn, settings.leaf_lifetime, settings.leaf_cache);
        Ok(Some(Self { settings: settings.clone(), leaves }))
    }

    /// Whether the TLS of a host, in the normal form of a key, ends here.
    pub fn names(&self, host: &str, port: u16) -> bool {
        self.settings.names(host, port)
    }

    /// The server that a client of `host` meets; see [`LeafCache::server`].
    ///
    /// # Errors
    /// As [`Authority::mint`].
    pub async fn server(&self, host: &str, now: UnixTime) -> Result<Arc<ServerConfig>, AuthorityError> {
        self.leaves.server(host, now).await
    }

    /// The authority.
    pub fn authority(&self) -> &Authority {
        self.leaves.authority()
    }

    /// The certificates in use.
    pub fn leaves(&self) -> &LeafCache {
        &self.leaves
    }
}

/// What [`check`] found.
#[derive(Debug)]
pub struct Checked {
    /// Where the authority is, or will be.
    pub directory: PathBuf,
    /// Its certificate; `None`: it will be made at first use.
    pub certificate: Option<Certificate>,
    /// What an operator should know but can be run with.
    pub warnings: Vec<String>,
}

/// Checks what [`Interception::open`] would find, and changes nothing. `None` when no host is named.
///
/// # Errors
/// As [`Interception::open`], but for what only shows when files are written.
pub fn check(settings: &settings::Intercept, now: UnixTime) -> Result<Option<Checked>, AuthorityError> {
    if settings.hosts.is_empty() {
        return Ok(None);
    }
    let directory = directory(settings.ca_dir.as_deref(), |name| std::env::var_os(name))?;
    let certificate = match Authority::open(&directory, now) {
        Ok(authority) => {
            authority.certificate().check_permits(&settings.hosts)?;
            Some(authority.certificate().clone())
        }
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error),
    };
    let warnings = certificate.as_ref().map(|certificate| certificate.warnings(now)).unwrap_or_default();
    Ok(Some(Checked { directory, certificate, warnings }))
}

/// Where the authority is: the configured directory, else `ca` in the [state directory](state::directory).
///
/// # Errors
/// When nothing says where.
pub fn directory(
    configured: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, AuthorityError> {
    if let Some(configured) = configured {
        return Ok(configured.to_owned());
    }
    let state = state::directory(None, variable);
    state.map(|state| state.join("ca")).ok_or_else(|| {
        AuthorityError::new(
            "expected a directory for the certificate authority, found none of `STATE_DIRECTORY`, `XDG_STATE_HOME` and \
             `HOME` set",
        )
        .mend("say where: `ca_dir = \"/var/lib/holdoff/ca\"` in `[intercept]` (`--ca-dir`)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<PathBuf> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        directory(None, find).ok()
    }

    #[test]
    fn the_authority_is_below_the_state_directory_unless_it_is_said_where() {
        let all = [("STATE_DIRECTORY", "/var/lib/holdoff:/x"), ("XDG_STATE_HOME", "/s"), ("HOME", "/home/a")];
        assert_eq!(of(&all), Some("/var/lib/holdoff/ca".into()));
        assert_eq!(of(&all[1..]), Some("/s/holdoff/ca".into()));
        assert_eq!(of(&all[2..]), Some("/home/a/.local/state/holdoff/ca".into()));
        assert_eq!(of(&[("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "relative"), ("HOME", "/h")]).unwrap(), {
            PathBuf::from("/h/.local/state/holdoff/ca")
        });
        assert_eq!(of(&[]), None);
        assert_eq!(directory(Some(Path::new("/etc/ca")), |_| Some("/x".into())).unwrap(), Path::new("/etc/ca"));
    }
}
