//! Proof of admission: completed with an outcome, or dropped, which counts as cancelled.

use std::sync::Arc;

use super::entry::{Entry, Report};
use crate::core::decision::{Admission, AdmissionKind};
use crate::core::signal::Outcome;
use crate::core::time::Instant;

/// Proof that a key let something pass.
#[derive(Debug)]
#[must_use = "dropping a permit counts as cancelled"]
pub struct Permit<X: Send + Sync + 'static> {
    entry: Arc<Entry<X>>,
    /// Taken by completion.
    admission: Option<Admission>,
}

impl<X: Send + Sync + 'static> Permit<X> {
    pub(super) const fn new(entry: Arc<Entry<X>>, admission: Admission) -> Self {
        Self { entry, admission: Some(admission) }
    }

    /// The key it is of.
    pub const fn entry(&self) -> &Arc<Entry<X>> {
        &self.entry
    }

    /// Whether this is the probe.
    pub fn is_probe(&self) -> bool {
        self.admission.is_some_and(|admission| matches!(admission.kind(), AdmissionKind::Probe(_)))
    }

    /// Tells what is known so far, and stays: for an exchange that may yet turn out to be a signal. What it is completed
    /// with then counts like that of any other request of its epoch; dropping it then says nothing more. Returns the number
    /// of the error line, as [`Permit::complete`] does.
    pub fn report_early(&mut self, report: &Report<'_>) -> u64 {
        let Some(admission) = &mut self.admission else { return 0 };
        let number = self.entry.complete(*admission, report);
        // The probe's slot, or the place in the ramp, was given back.
        admission.kind = AdmissionKind::Plain;
        number
    }

    /// What became of it. `now` is the arrival of the response head, `draw` a random word, `error` one line for people about
    /// a signal or failure. Returns the number of that line for [`Entry::add_error_body`], 0 when there is none.
    pub fn complete(self, outcome: &Outcome, status: Option<u16>, error: Option<&str>, now: Instant, draw: u64) -> u64 {
        self.report(&Report { outcome, status, error, now, draw })
    }

    /// [`Permit::complete`], with everything in one.
    pub fn report(mut self, report: &Report<'_>) -> u64 {
        self.admission.take().map_or(0, |admission| self.entry.complete(admission, report))
    }
}

impl<X: Send + Sync + 'static> Drop for Permit<X> {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            self.entry.cancel(admission);
        }
    }
}
