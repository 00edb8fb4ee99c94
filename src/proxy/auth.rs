//! Basic proxy authentication (RFC 7617) against hashes.
//!
//! A bcrypt hash is slow on purpose, tens of milliseconds, and a client sends its credentials with every request. So what
//! was verified is remembered, as a keyed hash of the whole field: the key is random and of this process, and neither names
//! nor passwords stay in memory. Verifying runs off the runtime's threads, a few at a time. An unknown name costs the same
//! time as a wrong password.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::error::{ErrorKind, ProxyError};
use crate::config::settings;
use crate::metrics::Bound;

/// How many hashes are computed at a time.
const CONCURRENT: usize = 2;

/// How many requests may wait for that.
const WAITING: usize = 256;

/// The most credentials remembered.
const REMEMBERED: usize = 1024;

/// A hash of the usual cost that no password is known for.
const NOBODY: &str = "$2b$12$Jq4dWZ0ZrO3n0mVbZc1fUeqUoJxJm2WbR3p5v0o8m9cC6mYw1oG6W";

/// Checks proxy credentials.
pub(super) struct Authenticator {
    users: Arc<BTreeMap<String, String>>,
    keys: [RandomState; 2],
    verified: Mutex<HashSet<[u64; 2]>>,
    places: Semaphore,
    waiting: Semaphore,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl Authenticator {
    pub(super) fn new(auth: &settings::Auth) -> Self {
        Self {
            users: Arc::new(auth.users.clone()),
            keys: [RandomState::new(), RandomState::new()],
            verified: Mutex::new(HashSet::new()),
            places: Semaphore::new(CONCURRENT),
            waiting: Semaphore::new(WAITING),
        }
    }

    /// Whether the request carries the name and password of a user.
    ///
    /// # Errors
    /// [`ErrorKind::ProxyAuth`], [`ErrorKind::Overload`].
    pub(super) async fn check(&self, headers: &HeaderMap) -> Result<(), ProxyError> {
        let mut fields = headers.get_all(PROXY_AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else {
            return Err(denied("this proxy needs a user name and a password"));
        };
        let mark = self.keys.each_ref().map(|key| key.hash_one(field.as_bytes()));
        if self.is_remembered(mark) {
            return Ok(());
        }
        let Some((user, password)) = credentials(field.as_bytes()) else {
            return Err(denied("expected `Basic` proxy credentials"));
        };
        let _waits = self.waiting.try_acquire().map_err(|_| {
            ProxyError::new(ErrorKind::Overload, "too many proxy credentials are being verified")
                .at(Some(Bound::ProxyAuth))
        })?;
        let known = self.verify(user, password).await?;
        if !known {
            return Err(denied("the user name or the password is wrong"));
        }
        self.remember(mark);
        Ok(())
    }

    async fn verify(&self, user: String, password: Vec<u8>) -> Result<bool, ProxyError> {
        let internal = || ProxyError::new(ErrorKind::Internal, "proxy credentials could not be verified");
        let _place = self.places.acquire().await.map_err(|_| internal())?;
        let users = Arc::clone(&self.users);
        let verified = tokio::task::spawn_blocking(move || {
            let hash = users.get(&user);
            let fits = bcrypt::verify(&password, hash.map_or(NOBODY, String::as_str)).unwrap_or(false);
            fits && hash.is_some()
        });
        verified.await.map_err(|_| internal())
    }

    fn is_remembered(&self, mark: [u64; 2]) -> bool {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        // The look-up is by a keyed hash that nobody outside can aim; the comparison takes the same time for all.
        verified.get(&mark).is_some_and(|known| bool::from(known.ct_eq(&mark)))
    }

    fn remember(&self, mark: [u64; 2]) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(mark);
    }
}

fn denied(detail: &'static str) -> ProxyError {
    ProxyError::new(ErrorKind::ProxyAuth, detail)
}

/// `Basic base64(user:password)`
fn credentials(field: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = field.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    let user = String::from_utf8(decoded.get(..colon)?.to_vec()).ok()?;
    Some((user, decoded.get(colon.saturating_add(1)..)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn authenticator() -> Authenticator {
        let users = BTreeMap::from([("ann".to_owned(), bcrypt::hash("word", 4).unwrap())]);
        Authenticator::new(&settings::Auth { file: PathBuf::new(), users })
    }

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (PROXY_AUTHORIZATION, value.parse().unwrap())).collect()
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[tokio::test]
    async fn only_a_user_with_the_right_password_passes() {
        let auth = authenticator();
        let good = basic("ann:word");
        assert!(auth.check(&headers(&[&good])).await.is_ok());
        assert!(auth.check(&headers(&[&good.replace("Basic", "bASIC")])).await.is_ok());
        for values in [
            &[][..],
            &[&*basic("ann:other")],
            &[&*basic("bob:word")],
            &[&*basic("ann")],
            &["Bearer x"],
            &["Basic !!"],
            &["Basic"],
            &[&*good, &*good],
        ] {
            let error = auth.check(&headers(values)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ProxyAuth, "{values:?}");
        }
    }

    #[tokio::test]
    async fn what_was_verified_is_remembered_and_the_memory_is_bounded() {
        let auth = authenticator();
        let good = headers(&[&basic("ann:word")]);
        auth.check(&good).await.unwrap();
        assert_eq!(auth.verified.lock().unwrap().len(), 1);
        // Without a place to verify in, only the memory can answer.
        auth.places.close();
        auth.check(&good).await.unwrap();
        for n in 0..REMEMBERED as u64 * 2 {
            auth.remember([n, n]);
        }
        assert!(auth.verified.lock().unwrap().len() <= REMEMBERED);
    }

    #[test]
    fn the_hash_of_nobody_is_a_hash() {
        assert!(!bcrypt::verify("word", NOBODY).unwrap());
    }
}
