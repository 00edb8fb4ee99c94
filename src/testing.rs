//! Settings for unit tests, with nothing switched on.

use std::sync::Arc;
use std::time::Duration;

use crate::config::settings::{Answer, AnswerFormat, HostSettings, Timeouts, Tls, TlsVersion};
use crate::core::policy::Policy;

/// Settings of a host that differ from the defaults by their policy only.
pub(crate) fn host_settings(policy: Policy) -> Arc<HostSettings> {
    Arc::new(HostSettings {
        policy: Arc::new(policy),
        answer: Answer {
            status: None,
            max_advertised: None,
            format: AnswerFormat::Auto,
            body: None,
            content_type: None,
            headers: Vec::new(),
            annotate: false,
        },
        tls: Tls { min_version: TlsVersion::Tls12, ca_files: Vec::new(), insecure: false },
        timeouts: Timeouts {
            connect: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            head: Duration::ZERO,
            body_idle: Duration::from_secs(300),
            tunnel_idle: Duration::from_secs(3600),
            max_request_body: 0,
        },
    })
}
