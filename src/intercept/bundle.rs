//! The authority beside the machine's roots.
//!
//! `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE` replace the roots a program trusts. With the authority alone in
//! such a file every host that is not intercepted would be refused.

use std::collections::HashSet;

use super::certificate::{Certificate, pem};
use super::error::AuthorityError;

/// The authority's certificate and the machine's roots, each once, in PEM.
///
/// # Errors
/// When the machine has no roots: a file without them would break every host that is not intercepted.
pub fn bundle(certificate: &Certificate) -> Result<String, AuthorityError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let message = "expected root certificates on this machine, found none";
        let error =
            AuthorityError::new(message).mend("install `ca-certificates`, or say where they are: `SSL_CERT_FILE`");
        return Err(match found.errors.into_iter().next() {
            Some(cause) => error.caused_by(cause),
            None => error,
        });
    }
    let mut text = certificate.pem();
    // `SSL_CERT_FILE` may name an earlier bundle of ours.
    let mut known: HashSet<&[u8]> = HashSet::from([certificate.der().as_ref()]);
    for root in &found.certs {
        if known.insert(root.as_ref()) {
            text.push_str(&pem(root));
        }
    }
    Ok(text)
}
