//! How little of a body is in our hands when one side does not take it.
//!
//! hyper's buffers must have room for the largest head, 64 KiB, and hyper fills them with bodies as well: what it has read,
//! what waits between its two connections, and what waits to be written. For a slow side that is more than three times as
//! much. So reads are small here, and a body is not asked for its next piece before the last one is written.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// The most that is read at a time from an upstream, and from a client, whose request takes up more room beside. Two or
/// three pieces stand between a fast and a slow side. hyper doubles a buffer that a read has filled, so each is one byte less.
pub(super) const FROM_UPSTREAM: usize = 8 * 1024 - 1;
pub(super) const FROM_CLIENT: usize = 8 * 1024 - 1;

/// So much of a body is written at a time. Smaller pieces are written together.
const ENOUGH: usize = 8 * 1024;

/// So many pieces may be read before others have their turn: what is read may be cheap to send and dear to take apart, as
/// are 1xx answers without end.
const IN_A_ROW: u8 = 8;

/// How finely it is measured for how long a write has been waiting.
const PARTS: u32 = 4;

/// Reads pieces.
#[derive(Debug)]
pub(super) struct Pieces {
    most: usize,
    in_a_row: u8,
}

impl Pieces {
    pub(super) const fn of(most: usize) -> Self {
        Self { most, in_a_row: 0 }
    }

    /// Reads a piece.
    pub(super) fn poll_read<T: AsyncRead + Unpin>(
        &mut self,
        from: &mut T,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.in_a_row >= IN_A_ROW {
            self.in_a_row = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut piece = into.limit(self.most);
        let read = pin!(from.read_buf(&mut piece)).poll(cx);
        self.in_a_row = if read.is_ready() { self.in_a_row.saturating_add(1) } else { 0 };
        ready!(read)?;
        Poll::Ready(Ok(()))
    }
}

/// Between the writing side of a connection and the body that is written. Both are polled by one task, the body first.
#[derive(Debug, Default)]
pub(super) struct Backpressure {
    /// Bytes of the body that no write has followed.
    taken: AtomicUsize,
    /// A write is waiting.
    stalled: AtomicBool,
    /// How many writes have gone through.
    writes: AtomicUsize,
    /// The body waits to be asked again.
    holds: AtomicBool,
    body: Mutex<Option<Waker>>,
}

impl Backpressure {
    /// So much of the body is going to be written.
    pub(super) fn take(&self, bytes: usize) {
        let taken = self.taken.load(Ordering::Relaxed);
        self.taken.store(taken.saturating_add(bytes), Ordering::Relaxed);
    }

    /// A write is waiting.
    pub(super) fn stall(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }

    /// Something was written.
    pub(super) fn moved(&self) {
        self.stalled.store(false, Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.taken.store(0, Ordering::Relaxed);
        if self.holds.swap(false, Ordering::Relaxed)
            && let Some(body) = self.body.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            body.wake();
        }
    }

    /// Whether a write is waiting.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Waits until a write has been waiting for `bound`, or up to a quarter more. Zero: for ever.
    pub(super) async fn stands_still(&self, bound: Duration) {
        let Some(part) = bound.checked_div(PARTS).filter(|part| !part.is_zero()) else {
            return pending().await;
        };
        let (mut last, mut still) = (self.writes.load(Ordering::Relaxed), 0_u32);
        while still < PARTS {
            tokio::time::sleep(part).await;
            let now = self.writes.load(Ordering::Relaxed);
            still = if now == last && self.is_stalled() { still.saturating_add(1) } else { 0 };
            last = now;
        }
    }

    /// Whether the body has to wait; then its task is woken when it may go on.
    pub(super) fn holds(&self, cx: &Context<'_>) -> bool {
        if !self.is_stalled() && self.taken.load(Ordering::Relaxed) < ENOUGH {
            return false;
        }
        *self.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        self.holds.store(true, Ordering::Relaxed);
        true
    }
}
