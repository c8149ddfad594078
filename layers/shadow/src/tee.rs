//! A copy under way: the body's side and the answer's side, and the place where they meet.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use http::HeaderMap;

use crate::{Answer, Reason, copy::Draft, frames::Frames, head::Head, mirror::Mirror};

/// Where the end of the body and the answer of the primary meet; whichever is last sends the copy.
#[derive(Debug)]
pub(crate) struct Pending {
    mirror: Arc<Mirror>,
    stage: Mutex<Stage>,
    /// There will be no copy: the body need not be captured any further.
    over: AtomicBool,
}

#[derive(Debug)]
struct Stage {
    /// Gone when sent or dropped.
    draft: Option<Box<Draft>>,
    /// The whole body, in bytes, once it ended.
    body: Option<usize>,
    accepted: bool,
    /// The primary's response is wanted and has not ended.
    answering: bool,
}

impl Pending {
    pub(crate) fn new(mirror: Arc<Mirror>, draft: Box<Draft>, accepted: bool) -> Self {
        let answering = draft.ticket.rule().terms.compare;
        let stage = Mutex::new(Stage {
            draft: Some(draft),
            body: None,
            accepted,
            answering,
        });
        Self {
            mirror,
            stage,
            over: AtomicBool::new(false),
        }
    }

    /// The primary answered, or failed.
    pub(crate) fn answered(&self, accepted: bool) {
        if accepted {
            self.meet(|stage| stage.accepted = true);
        } else {
            self.give_up(Reason::PrimaryRejected);
        }
    }

    /// The body ended; `held` bytes are reserved for it and its trailers.
    pub(crate) fn body_ended(&self, frames: Frames, held: usize, trailers: Option<Head>) {
        let (mut late, bytes) = (held, frames.len());
        self.meet(|stage| {
            if let Some(draft) = &mut stage.draft {
                draft.ticket.adopt(std::mem::take(&mut late));
                draft.frames = frames;
                draft.trailers = trailers;
                stage.body = Some(bytes);
            }
        });
        self.mirror.core.ledger.release(late);
    }

    /// The primary's response ended, having `bytes` bytes that are reserved, or cannot be had.
    pub(crate) fn response_ended(&self, answer: Option<Answer>, bytes: usize) {
        let mut late = bytes;
        self.meet(|stage| {
            stage.answering = false;
            if let Some(draft) = &mut stage.draft {
                draft.ticket.adopt(std::mem::take(&mut late));
                draft.answer = answer.map(Box::new);
            }
        });
        self.release(late);
    }

    /// Takes bytes of the budget; false if there are not enough left.
    pub(crate) fn reserve(&self, bytes: usize) -> bool {
        !self.over.load(Ordering::Relaxed) && self.mirror.core.ledger.reserve(bytes)
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.mirror.core.ledger.release(bytes);
    }

    /// There will be no copy.
    pub(crate) fn give_up(&self, reason: Reason) {
        self.over.store(true, Ordering::Relaxed);
        let draft = self.stage().draft.take();
        if let Some(draft) = draft {
            if reason == Reason::ByteBudget {
                let threshold = draft.ticket.rule().threshold;
                self.mirror.core.shed.lost(threshold, draft.hash);
            }
            draft.ticket.dropped(reason);
        }
    }

    fn meet(&self, change: impl FnOnce(&mut Stage)) {
        let complete = {
            let mut stage = self.stage();
            change(&mut stage);
            match stage.body {
                Some(bytes) if stage.accepted && !stage.answering => {
                    stage.draft.take().map(|draft| (draft, bytes))
                }
                _ => None,
            }
        };
        if let Some((draft, bytes)) = complete {
            self.mirror.enqueue(draft, bytes);
        }
    }

    /// No code that can panic runs under the lock.
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body's side: gathers frames as they pass to the primary.
#[derive(Debug)]
pub(crate) struct Tee {
    pending: Arc<Pending>,
    frames: Frames,
    /// Reserved for the frames and the trailers.
    held: usize,
    bytes_max: usize,
    trailers: Option<Head>,
    ended: bool,
}

impl Tee {
    pub(crate) fn new(pending: Arc<Pending>, bytes_max: usize) -> Self {
        Self {
            pending,
            frames: Frames::None,
            held: 0,
            bytes_max,
            trailers: None,
            ended: false,
        }
    }

    /// A data frame passed. False: there will be no copy, and the tee is not needed any more.
    pub(crate) fn data(&mut self, frame: &Bytes) -> bool {
        if self.pending.over.load(Ordering::Relaxed) {
            return false;
        }
        if frame.is_empty() {
            return true;
        }
        if frame.len() > self.bytes_max.saturating_sub(self.frames.len()) {
            self.pending.give_up(Reason::BodyTooLarge);
            return false;
        }
        let growth = self.frames.growth(frame.len(), self.bytes_max);
        if !self.pending.mirror.core.ledger.reserve(growth) {
            self.pending.give_up(Reason::ByteBudget);
            return false;
        }
        self.held += growth;
        self.frames.push(frame, self.bytes_max);
        true
    }

    /// The trailers passed. False: there will be no copy.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) -> bool {
        let size = Head::headers_size(trailers);
        if !self.pending.mirror.core.ledger.reserve(size) {
            self.pending.give_up(Reason::ByteBudget);
            return false;
        }
        self.held += size;
        self.trailers = Some(Head::pack_headers(trailers));
        true
    }

    /// The body ended as it should.
    pub(crate) fn end(mut self) {
        self.ended = true;
        let (frames, held) = (std::mem::take(&mut self.frames), std::mem::take(&mut self.held));
        self.pending.body_ended(frames, held, self.trailers.take());
    }
}

impl Drop for Tee {
    /// A body that failed, was cancelled, or was not read to its end leaves no copy.
    fn drop(&mut self) {
        self.pending.mirror.core.ledger.release(self.held);
        if !self.ended {
            self.pending.give_up(Reason::Cancelled);
        }
    }
}
