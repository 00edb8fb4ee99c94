//! The certificate authority of interception: its files, `holdoff ca`, and what real clients make of its certificates.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use holdoff::config::settings::HostPattern;
use holdoff::core::time::UnixTime;
use holdoff::intercept::{Authority, Certificate, Interception, LeafCache};
use holdoff::table::clock;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DAY: Duration = Duration::from_secs(86_400);

/// A home directory with nothing in it, and the program in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join(inside)
    }

    fn ca(&self) -> PathBuf {
        self.path(".local/state/holdoff/ca")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdoff"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("HOLDOFF_") || ["STATE_DIRECTORY", "XDG_STATE_HOME", "SSL_CERT_FILE"].contains(&&*name)
            {
                command.env_remove(name);
            }
        }
        command.args(arguments).env("HOME", self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What it prints when it works.
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The exit code and what it says when it does not.
    fn bad(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        (output.status.code().unwrap(), text(&output.stderr))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn hosts(texts: &[&str]) -> Vec<HostPattern> {
    holdoff::config::parse(&format!("intercept.hosts = {texts:?}")).unwrap().settings.intercept.hosts
}

fn openssl(arguments: &[&str]) -> Output {
    Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// An authority in a directory of its own.
fn authority(names: &[&str]) -> (tempfile::TempDir, Authority) {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::create(directory.path(), &hosts(names), clock::wall(), false);
    (directory, authority.unwrap())
}

/// What a thief of the key would sign.
fn forged(directory: &Path, host: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let ca_key = KeyPair::from_pem(&fs::read_to_string(directory.join("ca.key")).unwrap()).unwrap();
    let ca = CertificateDer::from_pem_file(directory.join("ca.pem")).unwrap();
    let issuer = Issuer::from_ca_cert_der(&ca, ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    let leaf = params.signed_by(&key, &issuer).unwrap();
    (leaf.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

/// `openssl verify` of a leaf, trusting the authority only.
fn openssl_verifies(directory: &Path, leaf: &CertificateDer<'_>, host: &str) -> Result<(), String> {
    let file = directory.join("leaf.der");
    fs::write(&file, leaf).unwrap();
    let name = if host.parse::<std::net::IpAddr>().is_ok() { "-verify_ip" } else { "-verify_hostname" };
    let ca = directory.join("ca.pem");
    let arguments = ["verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-no-CAstore", "-CAfile"];
    let mut arguments = arguments.to_vec();
    arguments.extend([ca.to_str().unwrap(), name, host, file.to_str().unwrap()]);
    let output = openssl(&arguments);
    if output.status.success() { Ok(()) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}

fn client(directory: &Path, alpn: &[&[u8]], version: &'static rustls::SupportedProtocolVersion) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// A handshake of both; what the client agreed to.
async fn handshake(connector: TlsConnector, server: Arc<ServerConfig>, host: &str) -> Result<Option<Vec<u8>>, String> {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let (accepted, connected) = tokio::join!(TlsAcceptor::from(server).accept(theirs), connector.connect(name, ours));
    let connected = connected.map_err(|error| error.to_string())?;
    accepted.map_err(|error| error.to_string())?;
    Ok(connected.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
}

#[test]
fn init_makes_an_authority_that_only_its_owner_can_use_and_only_for_the_named_hosts() {
    let home = Home::new();
    let shown = home.good(&["ca", "init", "--intercept", "api.example.com:8443,*.example.org,10.1.0.0/16"]);
    let (certificate, key) = (home.ca().join("ca.pem"), home.ca().join("ca.key"));
    assert_eq!((mode(&home.ca()), mode(&key), mode(&certificate)), (0o700, 0o600, 0o644));
    assert_eq!(fs::read_dir(home.ca()).unwrap().count(), 2, "nothing is left over");

    let file = certificate.to_str().unwrap();
    let facts = text(&openssl(&["x509", "-in", file, "-noout", "-text"]).stdout);
    let flat = facts.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "X509v3 Basic Constraints: critical CA:TRUE, pathlen:0",
        "X509v3 Key Usage: critical Certificate Sign, CRL Sign X509v3",
        "X509v3 Extended Key Usage: TLS Web Server Authentication X509v3",
        "X509v3 Name Constraints: critical Permitted: DNS:api.example.com DNS:example.org IP:10.1.0.0/255.255.0.0 \
         Excluded: IP:0:0:0:0:0:0:0:0/0:0:0:0:0:0:0:0",
        "NIST CURVE: P-256",
    ] {
        assert!(flat.contains(expected), "{expected} in\n{facts}");
    }
    let fingerprint = text(&openssl(&["x509", "-in", file, "-noout", "-fingerprint", "-sha256"]).stdout);
    let serial = text(&openssl(&["x509", "-in", file, "-noout", "-serial"]).stdout);
    let fingerprint = fingerprint.trim().split_once('=').unwrap().1;
    let serial = serial.trim().split_once('=').unwrap().1.to_lowercase();
    assert_eq!(serial.len(), 32);
    assert_eq!(home.good(&["ca", "show"]), shown);
    for expected in [fingerprint, &serial, file, "api.example.com, example.org, 10.1.0.0/16", "every IPv6 address"] {
        assert!(shown.contains(expected), "{expected} in\n{shown}");
    }
    let json: serde_json::Value = serde_json::from_str(&home.good(&["ca", "show", "--json"])).unwrap();
    assert_eq!((json["sha256"].as_str(), json["serial"].as_str()), (Some(fingerprint), Some(&*serial)));
    assert_eq!(json["permitted"][1], "example.org");
}

#[test]
fn every_installation_has_an_authority_of_its_own() {
    let (one, other) = (authority(&["a.example"]), authority(&["a.example"]));
    let (one, other) = (one.1.certificate(), other.1.certificate());
    assert_ne!(one.serial(), other.serial());
    assert_ne!(one.subject(), other.subject());
    assert_ne!(one.fingerprint(), other.fingerprint());
}

#[test]
fn init_replaces_an_authority_only_when_told_to() {
    let home = Home::new();
    let init = ["ca", "init", "--intercept", "a.example"];
    let first = home.good(&init);
    let (code, told) = home.bad(&init);
    assert_eq!(code, 1);
    assert!(told.contains("already") && told.contains("ca init --force"), "{told}");
    assert_eq!(home.good(&["ca", "show"]), first);
    let second = home.good(&[&init[..], &["--force"]].concat());
    assert_ne!(second, first);
    assert_eq!(home.good(&["ca", "show"]), second);
    assert_eq!(mode(&home.ca().join("ca.key")), 0o600);
}

#[test]
fn without_hosts_no_authority_is_made() {
    let home = Home::new();
    let (code, told) = home.bad(&["ca", "init"]);
    assert_eq!(code, 2);
    assert!(told.contains("[intercept] hosts"), "{told}");
    assert!(!home.ca().exists());
    for (named, because) in [("*", "name the hosts"), ("http://a.example", "https"), ("0.0.0.0/0", "smaller")] {
        let (code, told) = home.bad(&["check", "--intercept", named]);
        assert_eq!(code, 2, "{named}");
        assert!(told.contains(because), "{told}");
    }
    let (code, told) = home.bad(&["ca", "show"]);
    assert_eq!(code, 1);
    assert!(told.contains("`holdoff ca init` makes it"), "{told}");
}

#[test]
fn a_host_beyond_the_constraints_is_an_error_at_the_check_and_at_the_start() {
    let home = Home::new();
    home.good(&["check", "--intercept", "a.example"]);
    assert!(!home.ca().exists(), "a check changes nothing");
    home.good(&["ca", "init", "--intercept", "a.example,10.0.0.0/8"]);
    home.good(&["check", "--intercept", "a.example:8443,b.a.example,10.2.0.0/16"]);
    for outside in ["b.example", "*.example", "11.0.0.0/8", "10.0.0.0/7", "fd00::1"] {
        let (code, told) = home.bad(&["check", "--intercept", &format!("a.example,{outside}")]);
        assert_eq!(code, 2, "{outside}");
        assert!(told.contains(&format!("names `{outside}`, but")) && told.contains("ca init --force"), "{told}");
        let error = Authority::open_or_create(&home.ca(), &hosts(&[outside]), clock::wall()).unwrap_err();
        assert!(told.contains(&error.to_string()), "{told}\n{error}");
    }
    home.good(&["ca", "init", "--force", "--intercept", "b.example"]);
    home.good(&["check", "--intercept", "b.example"]);
}

#[test]
fn a_key_or_directory_that_others_can_get_at_is_refused() {
    let home = Home::new();
    home.good(&["ca", "init", "--intercept", "a.example"]);
    let key = home.ca().join("ca.key");
    let check = ["check", "--intercept", "a.example"];
    for wide in [0o640, 0o604, 0o660, 0o620, 0o700] {
        set_mode(&key, wide);
        let (code, told) = home.bad(&check);
        assert_eq!(code, 2);
        assert!(
            told.contains(&format!("found mode {wide:04o}")) || told.contains(&format!("found {wide:04o}")),
            "{told}"
        );
        assert!(told.contains("`chmod 600 "), "{told}");
    }
    for narrow in [0o600, 0o400] {
        set_mode(&key, narrow);
        home.good(&check);
    }
    for wide in [0o770, 0o702, 0o1777] {
        set_mode(&home.ca(), wide);
        let (code, told) = home.bad(&check);
        assert_eq!(code, 2);
        assert!(told.contains(&format!("{wide:04o}")) && told.contains("`chmod 700 "), "{told}");
    }
    set_mode(&home.ca(), 0o755);
    home.good(&check);
    // Only root can give files away.
    if fs::metadata(&key).unwrap().uid() == 0 {
        std::os::unix::fs::chown(&key, Some(12_345), None).unwrap();
        let (code, told) = home.bad(&check);
        assert_eq!(code, 2);
        assert!(told.contains("found user 12345") && told.contains("`chown 0 "), "{told}");
        std::os::unix::fs::chown(&key, Some(0), None).unwrap();
        std::os::unix::fs::chown(home.ca(), Some(12_345), None).unwrap();
        assert!(home.bad(&check).1.contains("12345's"));
    }
}

#[test]
fn files_that_are_damaged_or_do_not_belong_together_are_named_with_the_mend() {
    let home = Home::new();
    let init = ["ca", "init", "--force", "--intercept", "a.example"];
    let (certificate, key) = (home.ca().join("ca.pem"), home.ca().join("ca.key"));
    let other = authority(&["a.example"]);
    let other_key = fs::read_to_string(other.0.path().join("ca.key")).unwrap();
    let other_certificate = fs::read_to_string(other.0.path().join("ca.pem")).unwrap();
    let leaf = other.1.mint("a.example", DAY, clock::wall()).unwrap();
    let leaf_file = other.0.path().join("leaf.der");
    fs::write(&leaf_file, &leaf.chain()[0]).unwrap();
    let leaf_pem = text(&openssl(&["x509", "-inform", "der", "-in", leaf_file.to_str().unwrap()]).stdout);
    let secret = other_key.lines().nth(1).unwrap();

    let damage = |file: &Path, content: Option<&str>| {
        home.good(&init);
        match content {
            Some(content) => fs::write(file, content).unwrap(),
            None => fs::remove_file(file).unwrap(),
        }
        let (code, told) = home.bad(&["check", "--intercept", "a.example"]);
        assert_eq!(code, 2, "{told}");
        assert!(told.contains(home.ca().to_str().unwrap()), "{told}");
        assert!(!told.contains(secret), "{told}");
        told
    };
    let truncated = format!("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n{other_key}");
    let two = format!("{other_certificate}{other_certificate}");
    for (content, found) in [
        ("", "found none"),
        ("not a certificate", "found none"),
        (truncated.as_str(), "found something else"),
        (two.as_str(), "found more"),
        (leaf_pem.as_str(), "CA:TRUE"),
        (other_certificate.as_str(), "is not the certificate of the key"),
    ] {
        let told = damage(&certificate, Some(content));
        assert!(told.contains(found) && told.contains("ca init --force"), "{content}: {told}");
    }
    for content in ["", secret, &other_key.replace("PRIVATE KEY", "EC PRIVATE KEY"), &other_key.replace('M', "N")] {
        let told = damage(&key, Some(content));
        assert!(told.contains("expected a private key in PEM") && told.contains("ca init --force"), "{told}");
    }
    assert!(damage(&key, Some(&other_key)).contains("is not the certificate of the key"));
    assert!(damage(&certificate, None).contains("ca init --force"));
    assert!(damage(&key, None).contains("ca.key"));
    home.good(&init);
    home.good(&["check", "--intercept", "a.example"]);
}

#[test]
fn an_authority_that_has_ended_is_an_error_and_one_about_to_end_a_warning() {
    let (directory, made) = authority(&["a.example"]);
    let (now, end) = (clock::wall(), made.certificate().not_after());
    assert!(made.certificate().warnings(now).is_empty());
    let before = |days: u32| end.saturating_sub(DAY * days);
    assert!(made.certificate().warnings(before(31)).is_empty());
    assert!(made.certificate().warnings(before(29))[0].contains("ends on"));
    assert!(Authority::open(directory.path(), before(29)).is_ok());
    let later = end.saturating_add(DAY);
    let error = Authority::open(directory.path(), later).unwrap_err().to_string();
    assert!(error.contains("ended on") && error.contains("ca init --force"), "{error}");
    assert!(made.mint("a.example", DAY, later).is_err());
    let error = Authority::open(directory.path(), UnixTime::from_secs(1)).unwrap_err().to_string();
    assert!(error.contains("set the clock"), "{error}");
    let leaf = made.mint("a.example", DAY * 30, before(1)).unwrap();
    assert_eq!(leaf.not_after(), end, "a leaf does not outlive its authority");
}

#[test]
fn programs_that_start_together_end_with_the_same_authority() {
    let home = Home::new();
    let children: Vec<_> = (0..8)
        .map(|_| {
            let mut command = home.command(&["ca", "init", "--intercept", "a.example"]);
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let opened: Vec<_> = (0..8)
        .map(|_| {
            let directory = home.ca();
            std::thread::spawn(move || {
                let made = Authority::open_or_create(&directory, &hosts(&["a.example"]), clock::wall());
                made.map(|made| made.certificate().fingerprint())
            })
        })
        .collect();
    let mut seen: Vec<String> = opened.into_iter().map(|each| each.join().unwrap().unwrap()).collect();
    let inits = children.into_iter().map(|child| child.wait_with_output().unwrap());
    assert!(inits.filter(|output| output.status.success()).count() <= 1);
    seen.push(Authority::open(&home.ca(), clock::wall()).unwrap().certificate().fingerprint());
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[test]
fn a_leaf_is_what_clients_ask_of_a_server_certificate() {
    let (directory, authority) = authority(&["a.example", "127.0.0.1"]);
    let now = clock::wall();
    for (host, san) in [("a.example", "DNS:a.example"), ("127.0.0.1", "IP Address:127.0.0.1")] {
        let leaf = authority.mint(host, DAY * 398, now).unwrap();
        let file = directory.path().join("leaf.der");
        fs::write(&file, &leaf.chain()[0]).unwrap();
        assert_eq!(leaf.chain().len(), 1, "a root need not be sent");
        let facts =
            text(&openssl(&["x509", "-inform", "der", "-in", file.to_str().unwrap(), "-noout", "-text"]).stdout);
        let flat = facts.split_whitespace().collect::<Vec<_>>().join(" ");
        let expected = format!("X509v3 Subject Alternative Name: {san} X509v3");
        for expected in [
            expected.as_str(),
            "X509v3 Key Usage: critical Digital Signature X509v3",
            "X509v3 Extended Key Usage: TLS Web Server Authentication X509v3",
            "X509v3 Authority Key Identifier:",
            "X509v3 Subject Key Identifier:",
            "CA:FALSE",
            "Subject: O = holdoff Subject",
        ] {
            assert!(flat.contains(expected), "{expected} in\n{facts}");
        }
        assert_eq!(leaf.not_after().saturating_since(leaf.not_before()), DAY * 398);
        assert_eq!(now.saturating_since(leaf.not_before()), DAY);
    }
    let serial = |host: &str| {
        let file = directory.path().join("leaf.der");
        fs::write(&file, &authority.mint(host, DAY, now).unwrap().chain()[0]).unwrap();
        text(&openssl(&["x509", "-inform", "der", "-in", file.to_str().unwrap(), "-noout", "-serial"]).stdout)
    };
    let (one, other) = (serial("a.example"), serial("a.example"));
    assert_ne!(one, other);
    assert_eq!(one.trim().len(), "serial=".len() + 32, "{one}");
}

#[tokio::test]
async fn clients_that_trust_the_authority_accept_the_named_hosts_and_no_forgery_for_another() {
    let cases: [(&[&str], &[&str], &[&str]); 4] = [
        (&["a.example", "*.example.org"], &["a.example", "x.y.example.org"], &["b.example", "127.0.0.1", "::1"]),
        (&["127.0.0.0/8"], &["127.0.0.1"], &["a.example", "128.0.0.1", "::1"]),
        (&["::1"], &["::1"], &["a.example", "127.0.0.1", "::2"]),
        (&["a.example", "127.0.0.1"], &["a.example", "127.0.0.1"], &["b.example", "127.0.0.2", "::1"]),
    ];
    for (named, good, bad) in cases {
        let (directory, authority) = authority(named);
        let directory = directory.path();
        let cache = LeafCache::new(Arc::new(authority), &[b"h2", b"http/1.1"], DAY, 10);
        let leaf = |host: &str| cache.authority().mint(host, DAY, clock::wall());
        for host in good {
            let server = cache.server(host, clock::wall()).await.unwrap();
            for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
                for (offered, agreed) in [
                    (&[b"h2".as_slice(), b"http/1.1"][..], Some(b"h2".to_vec())),
                    (&[b"http/1.1"], Some(b"http/1.1".to_vec())),
                    (&[], None),
                ] {
                    let found = handshake(client(directory, offered, version), Arc::clone(&server), host).await;
                    assert_eq!(found, Ok(agreed), "{host}");
                }
            }
            assert_eq!(openssl_verifies(directory, &leaf(host).unwrap().chain()[0], host), Ok(()));
        }
        for host in bad {
            let refused = leaf(host).unwrap_err().to_string();
            assert!(refused.contains("does not permit"), "{refused}");
            let (certificate, key) = forged(directory, host);
            let found = openssl_verifies(directory, &certificate, host).unwrap_err();
            assert!(found.contains("subtree violation"), "{host}: {found}");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let server = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
                .unwrap();
            let found = handshake(client(directory, &[], &rustls::version::TLS13), Arc::new(server), host).await;
            assert!(found.clone().is_err_and(|error| error.contains("NameConstraintViolation")), "{host}: {found:?}");
        }
    }
}

#[test]
fn export_writes_the_certificate_alone_or_beside_the_machines_roots() {
    let home = Home::new();
    home.good(&["ca", "init", "--intercept", "a.example"]);
    let pem = fs::read_to_string(home.ca().join("ca.pem")).unwrap();
    assert_eq!(home.good(&["ca", "export"]), pem);
    let out = home.path("holdoff.crt");
    assert_eq!(home.good(&["ca", "export", "--out", out.to_str().unwrap()]), "");
    assert_eq!(fs::read_to_string(&out).unwrap(), pem);
    assert_eq!(mode(&out), 0o644);
    let (code, told) = home.bad(&["ca", "export", "--out", "/nonexistent/holdoff.crt"]);
    assert!(code == 1 && told.contains("/nonexistent/holdoff.crt"), "{told}");

    let on_this_machine = home.good(&["ca", "export", "--bundle"]);
    assert!(on_this_machine.starts_with(&pem) && on_this_machine.matches("BEGIN CERTIFICATE").count() > 1);
    // Each root once, ours included: `SSL_CERT_FILE` may name an earlier bundle.
    let (bundle, roots) = (home.path("bundle.pem"), home.path("roots.pem"));
    let other = authority(&["b.example"]).1.certificate().pem();
    fs::write(&roots, format!("{other}{pem}{other}")).unwrap();
    let export = |roots: &Path| {
        let mut command = home.command(&["ca", "export", "--bundle", "--out", bundle.to_str().unwrap()]);
        command.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR").output().unwrap()
    };
    for roots in [&roots, &bundle] {
        assert!(export(roots).status.success());
        assert_eq!(fs::read_to_string(&bundle).unwrap(), format!("{pem}{other}"));
    }
    // Without roots it would break every other host.
    fs::write(&roots, "").unwrap();
    let none = export(&roots);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("expected root certificates"), "{}", text(&none.stderr));
    assert_eq!(fs::read_to_string(&bundle).unwrap(), format!("{pem}{other}"), "what was there is left as it was");
}

#[tokio::test]
async fn the_key_is_shown_nowhere() {
    let home = Home::new();
    let named = ["--intercept", "a.example"];
    let mut said = home.good(&[&["ca", "init"][..], &named].concat());
    let pem = fs::read_to_string(home.ca().join("ca.key")).unwrap();
    let secret: Vec<&str> = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(secret.len() >= 3);
    for command in [
        &["ca", "show"][..],
        &["ca", "show", "--json"],
        &["ca", "export"],
        &["ca", "export", "--bundle"],
        &["config", "show"],
        &["check"],
    ] {
        let output = home.run(&[command, &named].concat());
        assert!(output.status.success(), "{command:?}");
        said += &(text(&output.stdout) + &text(&output.stderr));
    }
    let ca_dir = home.ca();
    let settings =
        holdoff::config::parse(&format!("[intercept]\nhosts = [\"a.example\"]\nca_dir = {ca_dir:?}")).unwrap();
    let now = clock::wall();
    let open = Interception::open(&settings.settings.intercept, &[b"http/1.1"], now).unwrap().unwrap();
    assert!(open.names("a.example", 443) && !open.names("b.a.example", 443));
    open.server("a.example", now).await.unwrap();
    let leaf = open.authority().mint("a.example", DAY, now).unwrap();
    said += &format!("{open:?} {leaf:?} {:?} {settings:?}", open.leaves());
    said += &format!("{:?}", Certificate::read(&ca_dir).unwrap());
    for line in secret {
        assert!(!said.contains(line));
    }
    assert!(!said.contains("PRIVATE"));
    let leaf_key = leaf.private_key();
    assert!(!said.contains(&format!("{:?}", leaf_key.secret_der())));
}

#[test]
fn without_hosts_interception_is_off_and_touches_no_file() {
    let settings = holdoff::config::parse("intercept.ca_dir = \"/nonexistent/ca\"").unwrap().settings.intercept;
    assert!(Interception::open(&settings, &[], clock::wall()).unwrap().is_none());
    assert!(holdoff::intercept::check(&settings, clock::wall()).unwrap().is_none());
}

#[test]
fn a_directory_that_cannot_be_made_is_said_with_where_it_would_be() {
    let home = Home::new();
    let file = home.path("file");
    fs::write(&file, "").unwrap();
    let inside = file.join("ca");
    let (code, told) = home.bad(&["ca", "init", "--intercept", "a.example", "--ca-dir", inside.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(told.contains(inside.to_str().unwrap()), "{told}");
    let told = home.command(&["ca", "init", "--intercept", "a.example"]).env_remove("HOME").output().unwrap();
    assert_eq!(told.status.code(), Some(2));
    assert!(text(&told.stderr).contains("ca_dir"), "{}", text(&told.stderr));
}
