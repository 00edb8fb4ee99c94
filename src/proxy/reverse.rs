//! `[[reverse]]`: a local http listener mapped onto upstreams, so that a client which is given another base URL needs no
//! proxy setting and holdoff sees inside https (SPEC 7.4). Several upstreams share an address by path prefix.

use http::header::{CONTENT_LOCATION, HOST, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;

use super::body::ResponseBody;
use super::connection::Client;
use super::error::{ErrorKind, ProxyError};
use super::exchange::{self, Outbound, refuse};
use super::forward::{self, Passage};
use super::record::Record;
use super::tap::Head;
use super::target::{self, Form};
use crate::config::settings;
use crate::core::key::{KeyRef, Scheme};
use crate::core::time::Instant;

/// The upstreams behind one address, the longest prefix first.
#[derive(Debug)]
pub(super) struct Routes(Vec<Route>);

/// One `[[reverse]]` at one address.
#[derive(Debug)]
pub(super) struct Route {
    settings: settings::Reverse,
    /// `Host` as the upstream knows it.
    host: Option<HeaderValue>,
}

impl Routes {
    pub(super) fn new(mut routes: Vec<settings::Reverse>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(prefix(&route.path).len()));
        Self(routes.into_iter().map(Route::new).collect())
    }

    /// The route of a path, and the rest of the path behind the prefix.
    fn find<'p>(&self, path: &'p str) -> Option<(&Route, &'p str)> {
        self.0.iter().find_map(|route| Some((route, behind(path, prefix(&route.settings.path))?)))
    }

    /// Who may connect: every route of an address has to agree.
    pub(super) fn allows(&self, peer: std::net::IpAddr) -> bool {
        self.0.iter().all(|route| allows(&route.settings.clients, peer))
    }
}

/// Whether `peer` is among `clients`; with none named, everybody is.
pub(super) fn allows(clients: &[ipnet::IpNet], peer: std::net::IpAddr) -> bool {
    let peer = peer.to_canonical();
    clients.is_empty() || clients.iter().any(|net| net.contains(&peer))
}

/// A prefix without a trailing slash, so that `/` is the empty one.
fn prefix(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// What of `path` is behind `prefix`, if whole segments agree: `/api` is a prefix of `/api` and `/api/x`, not of `/apix`.
fn behind<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Route {
    fn new(settings: settings::Reverse) -> Self {
        let host =
            HeaderValue::try_from(target::authority(&settings.upstream)).ok().filter(|_| settings.host_from_upstream);
        Self { settings, host }
    }

    /// Path and query as the upstream gets them.
    fn outbound(&self, rest: &str, whole: &PathAndQuery) -> Result<PathAndQuery, ProxyError> {
        let base = self.settings.upstream_path.as_str();
        if base.is_empty() && rest == whole.path() && !rest.is_empty() {
            return Ok(whole.clone());
        }
        let slash = if base.is_empty() && rest.is_empty() { "/" } else { "" };
        let mark = if whole.query().is_some() { "?" } else { "" };
        format!("{base}{slash}{rest}{mark}{}", whole.query().unwrap_or_default())
            .parse()
            .map_err(|_| ProxyError::new(ErrorKind::BadRequest, "the path cannot be mapped to the upstream"))
    }
}

/// Maps an answer back to what the client knows: only `Location` and `Content-Location` that point at the upstream.
pub(super) struct Mapping<'a> {
    route: &'a Route,
    /// The client's `Host`.
    client_host: String,
}

impl Mapping<'_> {
    /// Maps the fields of an answer.
    pub(super) fn map_back(&self, headers: &mut HeaderMap) {
        for name in [LOCATION, CONTENT_LOCATION] {
            let mapped = headers.get(&name).and_then(|value| self.location(value.to_str().ok()?));
            if let Some(mapped) = mapped.and_then(|mapped| HeaderValue::try_from(mapped).ok())
                && let Some(value) = headers.get_mut(&name)
            {
                *value = mapped;
            }
        }
    }

    /// The client's URL of a location; `None`: it does not point at the upstream, or needs no change.
    fn location(&self, location: &str) -> Option<String> {
        let settings = &self.route.settings;
        let upstream = &settings.upstream;
        let (scheme, rest) = if let Some(rest) = location.strip_prefix("//") {
            (upstream.scheme(), rest)
        } else if location.starts_with('/') {
            let path = self.path(location)?;
            return (path != location).then_some(path);
        } else {
            let (scheme, rest) = location.split_once("://")?;
            let scheme = [Scheme::Http, Scheme::Https].into_iter().find(|s| scheme.eq_ignore_ascii_case(s.as_str()))?;
            (scheme, rest)
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let is_upstream = KeyRef::from_authority(scheme, authority).is_ok_and(|key| key.to_key() == *upstream)
            // An upstream that was given the client's `Host` builds its URLs with it.
            || !settings.host_from_upstream
                && scheme == upstream.scheme()
                && authority.eq_ignore_ascii_case(&self.client_host);
        if !is_upstream {
            return None;
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(format!("http://{}{}", self.client_host, self.path(&path)?))
    }

    /// A path at the upstream as a path at our side, with query and fragment.
    fn path(&self, location: &str) -> Option<String> {
        let end = location.find(['?', '#']).unwrap_or(location.len());
        let (path, tail) = location.split_at_checked(end)?;
        let rest = behind(path, prefix(&self.route.settings.upstream_path))?;
        let ours = prefix(&self.route.settings.path);
        let slash = if ours.is_empty() && rest.is_empty() { "/" } else { "" };
        Some(format!("{ours}{slash}{rest}{tail}"))
    }
}

/// Serves a request on a `[[reverse]]` listener.
pub(super) async fn serve(
    client: &Client,
    routes: &Routes,
    mut request: Request<Incoming>,
    seen: Head,
    arrived: Instant,
) -> Response<ResponseBody> {
    let context = &client.context;
    let read = read(client, routes, &request, &seen);
    let (route, path, client_host) = match read {
        Ok(read) => read,
        Err(error) => {
            let record = Record::new(&context.shared, None, &request, arrived);
            return refuse(client, request, &error, record).await;
        }
    };
    if let Passage::Answer(answer) = forward::passage(client, &mut request) {
        return forward::own(client, request, answer, arrived).await;
    }
    // The client's own, also where it stood in the target or was left out.
    let host = route.host.clone().or_else(|| HeaderValue::try_from(client_host.as_str()).ok());
    let mapping = route.settings.rewrite_location.then_some(Mapping { route, client_host });
    let to = Outbound { key: route.settings.upstream.as_ref(), path, host, mapping };
    exchange::run(client, request, to, arrived).await
}

fn read<'r>(
    client: &Client,
    routes: &'r Routes,
    request: &Request<Incoming>,
    seen: &Head,
) -> Result<(&'r Route, PathAndQuery, String), ProxyError> {
    target::check_head(request.version(), request.headers(), seen)?;
    target::check_stream(request, client.context.shared.settings.limits.max_header_fields)?;
    if request.method() == Method::CONNECT {
        return Err(ProxyError::new(ErrorKind::NoTunnel, "this port serves `[[reverse]]`: it opens no tunnels"));
    }
    let own = client.local.to_string();
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let client_host = match target::form(request.method(), request.uri())? {
        Form::Origin | Form::Asterisk => host.unwrap_or(&own).to_owned(),
        // Not forwarded anywhere but to the upstreams of this port, whatever it names (RFC 9112 §3.2.2).
        Form::Absolute(authority) => authority.to_string(),
        Form::Authority(_) => return Err(ProxyError::new(ErrorKind::BadRequest, "expected a path as the target")),
    };
    if client.context.via.is_loop(request.headers()) {
        return Err(ProxyError::new(ErrorKind::Loop, "the request has been here before: `Via` has our name"));
    }
    if request.uri().path() == "*" || seen.no_path {
        let (route, _) = routes.find("/").ok_or_else(no_route)?;
        return Ok((route, PathAndQuery::from_static("*"), client_host));
    }
    let whole = target::origin_form(request.uri());
    let (route, rest) = routes.find(whole.path()).ok_or_else(no_route)?;
    let path = route.outbound(rest, &whole)?;
    Ok((route, path, client_host))
}

fn no_route() -> ProxyError {
    ProxyError::new(
        ErrorKind::NoRoute,
        "no `[[reverse]]` on this address has a `path` that the request's path starts with",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::key::Key;

    fn reverse(path: &str, upstream: &str, upstream_path: &str, host_from_upstream: bool) -> settings::Reverse {
        settings::Reverse {
            address: Vec::new(),
            upstream: Key::parse(upstream).unwrap(),
            upstream_path: upstream_path.to_owned(),
            path: path.to_owned(),
            host_from_upstream,
            rewrite_location: true,
            clients: Vec::new(),
        }
    }

    fn mapped(routes: &Routes, target: &str) -> Option<String> {
        let whole: PathAndQuery = target.parse().unwrap();
        let (route, rest) = routes.find(whole.path())?;
        let path = route.outbound(rest, &whole).unwrap();
        Some(format!("{}{path}", route.settings.upstream.host()))
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let routes = Routes::new(vec![
            reverse("/", "https://root", "", true),
            reverse("/api", "https://api", "/v1", true),
            reverse("/api/deep", "https://deep", "", true),
        ]);
        for (target, expected) in [
            ("/", "root/"),
            ("/x?a=/api", "root/x?a=/api"),
            ("/apix", "root/apix"),
            ("/api", "api/v1"),
            ("/api?q=%2F", "api/v1?q=%2F"),
            ("/api/", "api/v1/"),
            ("/api/x/%41?y=1?z", "api/v1/x/%41?y=1?z"),
            ("/api/deeper", "api/v1/deeper"),
            ("/api/deep", "deep/"),
            ("/api/deep/x?", "deep/x?"),
        ] {
            assert_eq!(mapped(&routes, target).as_deref(), Some(expected), "{target}");
        }
        assert_eq!(mapped(&Routes::new(vec![reverse("/api", "https://a", "", true)]), "/other"), None);
    }

    fn location(route: settings::Reverse, location: &str) -> Option<String> {
        let route = Route::new(route);
        Mapping { route: &route, client_host: "localhost:4300".to_owned() }.location(location)
    }

    #[test]
    fn a_location_at_the_upstream_is_mapped_back_and_no_other() {
        let route = || reverse("/api", "https://peer.example", "/v1", true);
        for (from, to) in [
            ("https://peer.example/v1/x?y#z", Some("http://localhost:4300/api/x?y#z")),
            ("https://PEER.example:443/v1", Some("http://localhost:4300/api")),
            ("//peer.example/v1/x", Some("http://localhost:4300/api/x")),
            ("/v1/x", Some("/api/x")),
            ("/v1", Some("/api")),
            ("/v1x", None),
            ("/other", None),
            ("x", None),
            ("?x", None),
            ("http://peer.example/v1/x", None),
            ("https://peer.example:8443/v1/x", None),
            ("https://other.example/v1/x", None),
            ("https://localhost:4300/v1/x", None),
            ("mailto:a@b", None),
        ] {
            assert_eq!(location(route(), from).as_deref(), to, "{from}");
        }
        let root = || reverse("/", "http://peer.example:8080", "", true);
        assert_eq!(location(root(), "http://peer.example:8080").as_deref(), Some("http://localhost:4300/"));
        assert_eq!(location(root(), "http://peer.example:8080?q").as_deref(), Some("http://localhost:4300/?q"));
        assert_eq!(location(root(), "/x"), None);
    }

    #[test]
    fn an_upstream_that_knows_the_clients_host_may_use_it() {
        let route = reverse("/api", "https://peer.example", "", false);
        assert_eq!(location(route, "https://LOCALHOST:4300/x").as_deref(), Some("http://localhost:4300/api/x"));
    }
}
