//! How large a copy the sink takes.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{Sink, copy::Draft};

/// The sink's limits, as the drain task last saw them: what is above them is not even queued.
pub(crate) struct Limits {
    /// In bytes, of a copy that is compared and of one that is not.
    compared: AtomicUsize,
    plain: AtomicUsize,
    /// The drain task has it: it goes with the task.
    sink: Weak<dyn Sink>,
}

impl Limits {
    pub(crate) fn of(sink: &Arc<dyn Sink>) -> Self {
        let limits = Self {
            compared: AtomicUsize::new(usize::MAX),
            plain: AtomicUsize::new(usize::MAX),
            sink: Arc::downgrade(sink),
        };
        limits.look(&**sink);
        limits
    }

    /// Asks again. A sink that panics has no limits.
    pub(crate) fn look(&self, sink: &dyn Sink) {
        let ask = || (sink.copy_bytes_max(), sink.compared_bytes_max());
        let (plain, compared) = catch_unwind(AssertUnwindSafe(ask)).unwrap_or((usize::MAX, usize::MAX));
        self.plain.store(plain, Ordering::Relaxed);
        self.compared.store(compared, Ordering::Relaxed);
    }

    /// Whether the sink takes nothing now.
    pub(crate) fn is_down(&self) -> bool {
        let Some(sink) = self.sink.upgrade() else {
            return false;
        };
        // It runs in a request: a panic of the sink must not reach it.
        catch_unwind(AssertUnwindSafe(|| sink.is_down())).unwrap_or(false)
    }

    /// Whether the sink takes a copy of this size.
    pub(crate) fn admit(&self, draft: &Draft, body_bytes: usize) -> bool {
        let is_compared = draft.ticket.rule().terms.compare;
        let most = if is_compared { &self.compared } else { &self.plain };
        let most = most.load(Ordering::Relaxed);
        if most == usize::MAX {
            return true;
        }
        let Some(sink) = self.sink.upgrade() else {
            return true;
        };
        catch_unwind(AssertUnwindSafe(|| draft.fits(body_bytes, most, &*sink))).unwrap_or(true)
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("compared", &self.compared)
            .field("plain", &self.plain)
            .finish_non_exhaustive()
    }
}
