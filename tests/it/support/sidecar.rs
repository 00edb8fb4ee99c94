//! A sidecar in this process, on free ports, from a piece of TOML.

use std::net::SocketAddr;
use std::sync::Arc;

use holdoff::config::{self, Sources};
use holdoff::proxy::shared::Shared;
use holdoff::sidecar::{Running, Sidecar};

use super::client::{Answer, Client};

/// A running sidecar.
pub struct Holdoff {
    running: Running,
}

impl Holdoff {
    /// One with the defaults, apart from the ports and what `toml` says. Jitter on hints is off, so that waits are exact.
    pub async fn start(toml: &str) -> Self {
        let mut text = String::new();
        for (table, key) in [("[listen]", "address"), ("[admin]", "address")] {
            if !toml.contains(table) {
                text.push_str(&format!("{table}\n{key} = [\"127.0.0.1:0\"]\n"));
            }
        }
        if !toml.contains("[defaults.cooldown]") {
            text.push_str("[defaults.cooldown]\nhint_jitter = false\n");
        }
        text.push_str(toml);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("holdoff.toml");
        std::fs::write(&file, &text).unwrap();
        let mut sources = Sources::default();
        sources.file(&file);
        let loaded = config::load(&sources).unwrap_or_else(|errors| panic!("{errors}\nin\n{text}"));
        let running = Sidecar::start(loaded.settings).await.unwrap();
        Self { running }
    }

    /// The forward proxy.
    pub fn proxy(&self) -> SocketAddr {
        self.running.proxy_addresses()[0]
    }

    /// The operators' door.
    pub fn admin(&self) -> SocketAddr {
        self.running.admin_addresses()[0]
    }

    /// The n-th address of a reverse listener.
    pub fn reverse(&self, at: usize) -> SocketAddr {
        self.running.reverse_addresses()[at]
    }

    /// The metrics listener.
    pub fn metrics_address(&self) -> SocketAddr {
        self.running.metrics_addresses()[0]
    }

    /// A connection to the proxy.
    pub async fn client(&self) -> Client {
        Client::connect(self.proxy()).await
    }

    /// One request through the proxy on a connection of its own.
    pub async fn get(&self, url: &str) -> Answer {
        self.client().await.get(url).await
    }

    /// One request to the operators' door.
    pub async fn ask_admin(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut client = Client::connect(self.admin()).await;
        let host = self.admin();
        client
            .send(format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        client.answer(method).await
    }

    /// What the operators' door says of one key.
    pub async fn key(&self, key: &str) -> serde_json::Value {
        let answer = self.ask_admin("GET", &format!("/api/v1/cooldowns?key={key}"), "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The value of one sample of `/metrics`, by its name with labels; 0 when it is not there.
    pub async fn metric(&self, sample: &str) -> f64 {
        let answer = self.ask_admin("GET", "/metrics", "").await;
        assert_eq!(answer.status, 200);
        answer
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
            .map_or(0.0, |value| value.parse().unwrap())
    }

    /// What its parts share.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(self.running.shared())
    }

    /// Ends it as SIGTERM would.
    pub async fn shutdown(self) {
        self.running.shutdown().await;
    }
}
