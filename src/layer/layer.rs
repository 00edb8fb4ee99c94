//! The layer and the service it makes.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::answer::{Answer, AsError, AsResponse, EmptyBody, FromBytes, ShortCircuit};
use super::future::ResponseFuture;
use super::handle::{Holdoff, KeptVerdict};
use super::hooks::{RequestKey, Unreachable};
use super::{ClassifyError, KeyFor};

/// Keeps a client from asking hosts that said "slow down". See the [module](super).
///
/// `K` says what a cooldown is held against, `C` what an error says about the host, `A` how a refused request is answered.
/// Clones, and the services they make, share one [`Holdoff`].
pub struct HoldoffLayer<K = RequestKey, C = Unreachable, A = AsResponse<FromBytes>> {
    hooks: Arc<Hooks<K, C, A>>,
}

/// What a layer, its services and their futures have in common.
pub(super) struct Hooks<K, C, A> {
    pub(super) holdoff: Holdoff,
    key: K,
    pub(super) classify: C,
    pub(super) answer: A,
}

impl HoldoffLayer {
    /// With cooldowns of its own.
    pub fn new() -> Self {
        Self::sharing(&Holdoff::new())
    }

    /// With the cooldowns of `holdoff`, which other layers may share.
    pub fn sharing(holdoff: &Holdoff) -> Self {
        Self::of(holdoff.clone(), RequestKey::new(), Unreachable, AsResponse::new(FromBytes))
    }
}

impl<K: Clone, C: Clone, A: Clone> HoldoffLayer<K, C, A> {
    /// Says what a cooldown is held against. Default [`RequestKey`]: scheme, host and port.
    #[must_use]
    pub fn key_for<T>(self, key: T) -> HoldoffLayer<T, C, A> {
        let Hooks { holdoff, classify, answer, .. } = &*self.hooks;
        HoldoffLayer::of(holdoff.clone(), key, classify.clone(), answer.clone())
    }

    /// Says what an error of the inner service says about the host. Default [`Unreachable`].
    #[must_use]
    pub fn classify_error<T>(self, classify: T) -> HoldoffLayer<K, T, A> {
        let Hooks { holdoff, key, answer, .. } = &*self.hooks;
        HoldoffLayer::of(holdoff.clone(), key.clone(), classify, answer.clone())
    }

    /// Answers a refused request by an error, a [`HoldoffError`](super::HoldoffError), in which errors of the inner service are wrapped, too.
    #[must_use]
    pub fn short_circuit_as_error(self) -> HoldoffLayer<K, C, AsError> {
        self.answer(AsError)
    }

    /// Answers a refused request by a response without a body, for bodies that cannot be made from [`bytes::Bytes`] but
    /// have a default.
    #[must_use]
    pub fn short_circuit_without_body(self) -> HoldoffLayer<K, C, AsResponse<EmptyBody>> {
        self.answer(AsResponse::new(EmptyBody))
    }

    /// Answers a refused request by a response whose body `make` makes of one line for people, of type `text/plain`.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use holdoff::layer::HoldoffLayer;
    /// use http_body_util::combinators::BoxBody;
    /// use http_body_util::{BodyExt, Full};
    ///
    /// let layer = HoldoffLayer::new()
    ///     .short_circuit_with_body(|line: Bytes| -> BoxBody<Bytes, hyper::Error> {
    ///         Full::new(line).map_err(|never| match never {}).boxed()
    ///     });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn short_circuit_with_body<M>(self, make: M) -> HoldoffLayer<K, C, AsResponse<M>> {
        self.answer(AsResponse::new(make))
    }

    fn answer<T>(self, answer: T) -> HoldoffLayer<K, C, T> {
        let Hooks { holdoff, key, classify, .. } = &*self.hooks;
        HoldoffLayer::of(holdoff.clone(), key.clone(), classify.clone(), answer)
    }
}

impl<K, C, A> HoldoffLayer<K, C, A> {
    fn of(holdoff: Holdoff, key: K, classify: C, answer: A) -> Self {
        Self { hooks: Arc::new(Hooks { holdoff, key, classify, answer }) }
    }

    /// The cooldowns.
    pub fn holdoff(&self) -> &Holdoff {
        &self.hooks.holdoff
    }
}

impl<S, K, C, A> Layer<S> for HoldoffLayer<K, C, A> {
    type Service = HoldoffService<S, K, C, A>;

    fn layer(&self, inner: S) -> Self::Service {
        HoldoffService { inner, hooks: Arc::clone(&self.hooks) }
    }
}

impl Default for HoldoffLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, C, A> Clone for HoldoffLayer<K, C, A> {
    fn clone(&self) -> Self {
        Self { hooks: Arc::clone(&self.hooks) }
    }
}

impl<K, C, A> fmt::Debug for HoldoffLayer<K, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldoffLayer").field("holdoff", &self.hooks.holdoff).finish_non_exhaustive()
    }
}

/// What [`HoldoffLayer`] makes of a service.
pub struct HoldoffService<S, K = RequestKey, C = Unreachable, A = AsResponse<FromBytes>> {
    inner: S,
    hooks: Arc<Hooks<K, C, A>>,
}

impl<S, K, C, A> HoldoffService<S, K, C, A> {
    /// The cooldowns.
    pub fn holdoff(&self) -> &Holdoff {
        &self.hooks.holdoff
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R, K, C, A> Service<Request<B>> for HoldoffService<S, K, C, A>
where
    S: Service<Request<B>, Response = Response<R>>,
    K: KeyFor<B>,
    C: ClassifyError<S::Error>,
    A: Answer<R, S::Error>,
{
    type Response = Response<R>;
    type Error = A::Error;
    type Future = ResponseFuture<S::Future, K, C, A>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context).map_err(|error| self.hooks.answer.failed(error))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let hooks = Arc::clone(&self.hooks);
        let Some(key) = hooks.key.key_for(&request) else {
            hooks.holdoff.count_without_key();
            return ResponseFuture::unobserved(self.inner.call(request), hooks);
        };
        match hooks.holdoff.admit(&key) {
            (entry, KeptVerdict::Forward(permit)) => {
                let is_ignored = entry.attached().signals.ignore_methods.contains(request.method());
                ResponseFuture::observed(self.inner.call(request), (entry, permit), is_ignored, hooks)
            }
            (_, KeptVerdict::Pass | KeptVerdict::WouldHave(_)) => {
                ResponseFuture::unobserved(self.inner.call(request), hooks)
            }
            (entry, KeptVerdict::ShortCircuit(not_until)) => {
                let refusal = ShortCircuit::new(entry.key().clone(), not_until, hooks.holdoff.wall());
                ResponseFuture::refused(refusal, request.method() == Method::HEAD, hooks)
            }
        }
    }
}

impl<S: Clone, K, C, A> Clone for HoldoffService<S, K, C, A> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), hooks: Arc::clone(&self.hooks) }
    }
}

impl<S: fmt::Debug, K, C, A> fmt::Debug for HoldoffService<S, K, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldoffService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
