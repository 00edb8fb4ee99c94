//! The fields `RateLimit` and `RateLimit-Policy` of the IETF, which are not an RFC yet: see [`DRAFT`].
//!
//! They are structured fields (RFC 9651): lists of quotas, each a name with parameters. `RateLimit` says what is left (`r`)
//! and in how many seconds there will be more (`t`), `RateLimit-Policy` what there is (`q`) in which time (`w`). Of that only
//! a quota of which nothing is left names a wait. A field that is not as the draft says is ignored as a whole: half of a
//! list can say the opposite of all of it.

use http::HeaderName;

use super::{Causes, Hint};

#[cfg(feature = "fields")]
mod quotas;

#[cfg(feature = "fields")]
pub use quotas::read;

/// The draft that is read. A newer one is compared with this one before the number changes.
pub const DRAFT: &str = "draft-ietf-httpapi-ratelimit-headers-11";

/// What is left of each quota.
pub const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What the quotas are.
pub const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What the fields say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The latest `t` of the quotas of which nothing is left.
    pub hint: Option<Hint>,
    /// The quota that named it, for people: `"daily";r=0;t=3600 (q=1000, w=86400)`. Without its partition key, which may be
    /// that of a client.
    pub window: Option<String>,
    /// What was odd about `RateLimit`.
    pub limit: Causes,
    /// What was odd about `RateLimit-Policy`.
    pub policy: Causes,
}

/// Without the feature `fields` they are not read.
#[cfg(not(feature = "fields"))]
pub fn read<'a>(_: impl IntoIterator<Item = &'a [u8]>, _: impl IntoIterator<Item = &'a [u8]>) -> Reading {
    Reading::default()
}
