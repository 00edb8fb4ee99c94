//! The future of one request.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::answer::{Answer, ShortCircuit};
use super::handle::{Holdoff, KeptEntry, KeptPermit};
use super::hooks::ClassifyError;
use super::layer::Hooks;
use crate::core::classify;
use crate::core::signal::Outcome;
use crate::core::time::ceil_secs;

pin_project! {
    /// The response, or what the layer answers in its place. Dropped before it is ready, it says nothing about the host.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, K, C, A> {
        #[pin]
        state: State<F>,
        hooks: Arc<Hooks<K, C, A>>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Sent {
            #[pin]
            future: F,
            admitted: Option<Admitted>,
        },
        Refused {
            refusal: Option<(ShortCircuit, bool)>,
        },
    }
}

/// An admission and the key it is for.
struct Admitted {
    entry: Arc<KeptEntry>,
    permit: KeptPermit,
    /// The request has a method whose signals say nothing about the key.
    is_ignored: bool,
}

impl<F, K, C, A> ResponseFuture<F, K, C, A> {
    pub(super) fn unobserved(future: F, hooks: Arc<Hooks<K, C, A>>) -> Self {
        Self { state: State::Sent { future, admitted: None }, hooks }
    }

    pub(super) fn observed(
        future: F,
        (entry, permit): (Arc<KeptEntry>, KeptPermit),
        is_ignored: bool,
        hooks: Arc<Hooks<K, C, A>>,
    ) -> Self {
        Self { state: State::Sent { future, admitted: Some(Admitted { entry, permit, is_ignored }) }, hooks }
    }

    pub(super) fn refused(refusal: ShortCircuit, is_head: bool, hooks: Arc<Hooks<K, C, A>>) -> Self {
        Self { state: State::Refused { refusal: Some((refusal, is_head)) }, hooks }
    }
}

impl<F, R, E, K, C, A> Future for ResponseFuture<F, K, C, A>
where
    F: Future<Output = Result<Response<R>, E>>,
    C: ClassifyError<E>,
    A: Answer<R, E>,
{
    type Output = Result<Response<R>, A::Error>;

    #[expect(
        clippy::expect_used,
        reason = "who polls a future again after its end has a bug, as with `std::future::Ready`"
    )]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let hooks = &*this.hooks;
        match this.state.project() {
            StateProjection::Sent { future, admitted } => {
                let result = ready!(future.poll(context));
                if let Some(admitted) = admitted.take() {
                    match &result {
                        Ok(response) => admitted.answered(response, &hooks.holdoff),
                        Err(error) => admitted.failed(&hooks.classify.classify_error(error), &hooks.holdoff),
                    }
                }
                Poll::Ready(result.map_err(|error| hooks.answer.failed(error)))
            }
            StateProjection::Refused { refusal } => {
                let (refusal, is_head) = refusal.take().expect("`ResponseFuture` polled after its end");
                Poll::Ready(hooks.answer.short_circuit(refusal, is_head))
            }
        }
    }
}

impl Admitted {
    fn answered<R>(self, response: &Response<R>, holdoff: &Holdoff) {
        let Self { entry, permit, is_ignored } = self;
        let rules = &entry.attached().signals;
        let reading = classify::response(rules, response.status(), response.headers(), holdoff.wall());
        let reading = if is_ignored { reading.of_ignored_method() } else { reading };
        let status = reading.status.as_u16();
        let error = reading.outcome.is_trouble().then(|| {
            let host = entry.key().host();
            match reading.hint_seen {
                Some(hint) => format!("HTTP {status} from {host} (retry_after={}s)", ceil_secs(hint.wait)),
                None => format!("HTTP {status} from {host}"),
            }
        });
        complete(permit, &reading.outcome, Some(status), error.as_deref(), holdoff);
    }

    fn failed(self, outcome: &Outcome, holdoff: &Holdoff) {
        let Self { entry, permit, .. } = self;
        let error = match outcome {
            Outcome::Failing(failure) => Some(format!("no answer from {} ({})", entry.key().host(), failure.as_str())),
            outcome if outcome.is_trouble() => Some(format!("{} by {}", outcome.as_str(), entry.key().host())),
            _ => None,
        };
        complete(permit, outcome, None, error.as_deref(), holdoff);
    }
}

fn complete(permit: KeptPermit, outcome: &Outcome, status: Option<u16>, error: Option<&str>, holdoff: &Holdoff) {
    // Only what can start a cooldown needs jitter.
    let draw = if outcome.is_trouble() || outcome.signal().is_some() { holdoff.draw() } else { 0 };
    permit.complete(outcome, status, error, holdoff.now(), draw);
}

impl<F, K, C, A> fmt::Debug for ResponseFuture<F, K, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
