//! What a sidecar keeps on disk, and where.
//!
//! | module | what it is |
//! |---|---|
//! | `secret` | what credentials are hashed with, so that keys of one machine tell nothing to another |

use std::ffi::OsString;
use std::path::{Path, PathBuf};

mod secret;

pub use secret::{Secret, SecretError};

/// The state directory: the configured one, else `$STATE_DIRECTORY` (which systemd sets), else `$XDG_STATE_HOME/holdoff`, else
/// `~/.local/state/holdoff`. `None`: nothing says where.
pub fn directory(configured: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(configured) = configured {
        return Some(configured.to_owned());
    }
    // The XDG base directory specification has relative paths ignored.
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let named = |name: &str| variable(name).map(PathBuf::from).and_then(absolute);
    // systemd separates several directories by colons.
    variable("STATE_DIRECTORY")
        .and_then(|all| std::env::split_paths(&all).next())
        .and_then(absolute)
        .or_else(|| named("XDG_STATE_HOME").map(|state| state.join("holdoff")))
        .or_else(|| named("HOME").map(|home| home.join(".local/state/holdoff")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_the_first_that_is_named_absolutely() {
        let all = [("STATE_DIRECTORY", "/var/lib/holdoff:/x"), ("XDG_STATE_HOME", "/s"), ("HOME", "/home/a")];
        let of = |named: &[(&str, &str)]| {
            directory(None, |name| named.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(of(&all), Some("/var/lib/holdoff".into()));
        assert_eq!(of(&all[1..]), Some("/s/holdoff".into()));
        assert_eq!(of(&all[2..]), Some("/home/a/.local/state/holdoff".into()));
        assert_eq!(of(&[("XDG_STATE_HOME", "relative"), ("HOME", "/h")]), Some("/h/.local/state/holdoff".into()));
        assert_eq!(of(&[]), None);
        assert_eq!(directory(Some(Path::new("/d")), |_| Some("/x".into())), Some("/d".into()));
    }
}
