//! Where a running holdoff is, for the commands that talk to it.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Error;
use crate::config::secrets;

/// The operators' door of a running holdoff.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AdminArgs {
    /// The running holdoff: http://HOST:PORT, HOST:PORT or unix:/PATH
    #[arg(
        long,
        env = "HOLDOFF_ADMIN",
        hide_env_values = true,
        value_name = "ADDR",
        default_value = "http://127.0.0.1:4291"
    )]
    pub(crate) admin: AdminAddress,
    /// A file with its token
    #[arg(long, env = "HOLDOFF_ADMIN_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    token_file: Option<OsString>,
}

impl AdminArgs {
    /// The same, for a command whose `--admin` is that of the configuration.
    ///
    /// # Errors
    /// When the address is none.
    pub(crate) fn of(admin: Option<&str>, token_file: Option<&str>) -> Result<Self, Error> {
        let admin = admin.unwrap_or_default().parse().map_err(|error| Error::usage(format!("`--admin`: {error}")))?;
        Ok(Self { admin, token_file: token_file.map(OsString::from) })
    }

    /// The token, if a file is named.
    pub(crate) fn token(&self) -> Result<Option<String>, Error> {
        // An empty variable says nothing, as everywhere.
        match self.token_file.as_ref().filter(|file| !file.is_empty()).map(Path::new) {
            None => Ok(None),
            Some(file) => match secrets::token(file) {
                Ok(token) => Ok(Some(token.secret)),
                Err(error) => Err(Error::usage(format!("`{}`: {}", file.display(), error.message()))),
            },
        }
    }
}

/// Where the operators' door is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdminAddress {
    /// Over TCP.
    Tcp {
        /// A name or an address literal, IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for AdminAddress {
    type Err = String;

    /// Reads a URL, or the form in which `[admin] address` and `HOLDOFF_ADMIN` say where to listen: of several addresses
    /// the first, and loopback for one that means them all.
    fn from_str(text: &str) -> Result<Self, String> {
        let first = text.split(',').next().unwrap_or_default().trim();
        if first.is_empty() {
            return Ok(Self::Tcp { host: Ipv4Addr::LOCALHOST.to_string(), port: 4291 });
        }
        if let Some(path) = first.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if Path::new(path).is_absolute() {
                return Ok(Self::Unix(PathBuf::from(path)));
            }
            return Err("expected `unix:` and an absolute path".to_owned());
        }
        if first.starts_with("https://") {
            return Err("expected `http://`, found `https://`; the admin listener speaks plain http".to_owned());
        }
        let rest = first.strip_prefix("http://").unwrap_or(first);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if let Ok(address) = rest.parse::<SocketAddr>() {
            let host = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                ip => ip,
            };
            return Ok(Self::Tcp { host: host.to_string(), port: address.port() });
        }
        let key = match rest.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_err() => None,
            Some((host, port)) => port.parse().ok().map(|port| (host.to_owned(), port)),
            None => Some((rest.to_owned(), if first.starts_with("http://") { 80 } else { 4291 })),
        };
        let good = |host: &str| {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        match key {
            Some((host, port)) if port > 0 && good(&host) => Ok(Self::Tcp { host, port }),
            _ => Err("expected `http://HOST:PORT`, `HOST:PORT` or `unix:/PATH`".to_owned()),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "http://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "http://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<AdminAddress>().map_or_else(|error| error, |address| address.to_string())
    }

    #[test]
    fn an_address_is_a_url_or_what_the_listener_was_told() {
        assert_eq!(shown("http://127.0.0.1:4291"), "http://127.0.0.1:4291");
        assert_eq!(shown("http://holdoff.internal:8080/"), "http://holdoff.internal:8080");
        assert_eq!(shown("0.0.0.0:4291,[::]:4291"), "http://127.0.0.1:4291");
        assert_eq!(shown("[::]:4291"), "http://[::1]:4291");
        assert_eq!(shown("unix:/run/holdoff/admin.sock"), "unix:/run/holdoff/admin.sock");
        assert_eq!(shown(""), "http://127.0.0.1:4291");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["https://a.example", "http://user@a.example:1", "unix:a.sock", "a.example:0", "a b:1", "a:b"] {
            assert!(shown(text).starts_with("expected"), "{text}");
        }
    }
}
