//! What layer, handle and drain task share.

use std::sync::{Arc, atomic::Ordering};

use arc_swap::ArcSwap;
use arqon_message::{Subject, TraceKey};
use http::{Request, header};
use http_body::Body;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    Reason, SessionPin, When,
    copy::Draft,
    decision::{Decision, decide},
    frames::Frames,
    gate::{Gate, Word},
    head::Head,
    ledger::{Ledger, Ticket},
    limits::Limits,
    pin,
    rule::Rule,
    rules::Rules,
    shed::{FULL, Fate, Shedder},
    tap::Wanted,
    tee::{Pending, Tee},
};

/// The state of one mirror: rules, books and the kept share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) rules: ArcSwap<Rules>,
    pub(crate) gate: Gate,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) shed: Shedder,
    pub(crate) limits: Limits,
}

impl Core {
    pub(crate) fn replace(&self, rules: Rules) {
        let rules = Arc::new(rules);
        let before = self.rules.swap(Arc::clone(&rules));
        // What is no longer a rule mirrors nothing.
        before.list.iter().for_each(|rule| rule.tell_effective(0.0));
        rules.tell_effective(self.shed.kept());
        self.gate.set(&rules);
    }
}

/// The request side: the core and the way into the queue. The drain task and the handle hold the core alone, so the
/// queue closes when the last service is gone.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) core: Arc<Core>,
    pub(crate) queue: mpsc::Sender<Box<Draft>>,
}

/// The copy of a chosen request, begun: who looks at its body, if one is to come, and at its answer, if that matters.
pub(crate) struct Begun {
    pub(crate) tee: Option<Box<Tee>>,
    pub(crate) answer: Option<Arc<Pending>>,
    /// The wish for the primary's response.
    pub(crate) wanted: Option<Wanted>,
}

impl Mirror {
    /// Decides about a request, and begins the copy of one that is chosen.
    #[inline]
    pub(crate) fn begin<B: Body>(self: &Arc<Self>, request: &Request<B>) -> Option<Begun> {
        if self.core.gate.is_shut() {
            return None;
        }
        self.look(request)
    }

    /// Most requests end here: their key lies outside of every rule.
    fn look<B: Body>(self: &Arc<Self>, request: &Request<B>) -> Option<Begun> {
        let core = &*self.core;
        // A pinned session may be in by rules that are not in force any more.
        if pin::any() && request.extensions().get::<SessionPin>().is_some() {
            return self.choose(request);
        }
        if let Word::Below(sampler, border) = core.gate.word(request.extensions()) {
            let admits = |key: &[u8], source| (border > 0 && sampler.hash(key) < border, source);
            if let Some((false, source)) = TraceKey::read(request.headers(), request.extensions(), admits) {
                core.ledger.metrics.source(source);
                return None;
            }
        }
        self.choose(request)
    }

    #[inline(never)]
    fn choose<B: Body>(self: &Arc<Self>, request: &Request<B>) -> Option<Begun> {
        let core = &*self.core;
        let current = core.rules.load();
        let pin = pin::any()
            .then(|| request.extensions().get::<SessionPin>())
            .flatten();
        let pinned = pin.and_then(|pin| pin.rules(&self.core));
        let rules = pinned.unwrap_or(&current);
        let metrics = &core.ledger.metrics;
        match decide(rules, request.method(), request.headers(), request.extensions()) {
            Decision::Pass { source } => source.into_iter().for_each(|source| metrics.source(source)),
            Decision::NoKey => {
                core.ledger.no_key.fetch_add(1, Ordering::Relaxed);
                metrics.no_key.increment(1);
            }
            Decision::Loop { source } => {
                core.ledger.looped.fetch_add(1, Ordering::Relaxed);
                metrics.looped.increment(1);
                metrics.source(source);
            }
            Decision::Chosen {
                rule,
                subject,
                key,
                hash,
            } => {
                metrics.source(key.source());
                if pinned.is_none() {
                    return self.copy(request, rule, subject, key, hash);
                }
                // Only the share is the session's.
                if let Some(now) = current.mirroring(subject, request.method()) {
                    return self.copy(request, &now.with_share_of(rule), subject, key, hash);
                }
            }
        }
        None
    }

    /// The copy of a chosen request, unless overload, its size or the budget forbid it.
    #[inline(never)]
    fn copy<B: Body>(
        self: &Arc<Self>,
        request: &Request<B>,
        rule: &Arc<Rule>,
        subject: &Subject,
        key: TraceKey,
        hash: u64,
    ) -> Option<Begun> {
        let core = &*self.core;
        let (method, headers) = (request.method(), request.headers());
        let mut ticket = Ticket::open(Arc::clone(&core.ledger), Arc::clone(rule), key);
        if !rule.terms.compare && core.limits.is_down() {
            // If the sink comes back, it does not get the rest of a trace.
            core.shed.lost(rule.threshold, hash);
            ticket.dropped(Reason::Disconnected);
            return None;
        }
        let fate = core.shed.fate(rule.threshold, hash, self.fill());
        if fate == Fate::Shed {
            ticket.dropped(Reason::Shed);
            return None;
        }
        if announced(request) > rule.terms.max_body_bytes as u64 {
            ticket.dropped(Reason::BodyTooLarge);
            return None;
        }
        // What a copy costs besides its body: the draft, the joint state and the headers.
        let head = Head::size(request.uri(), headers);
        if !ticket.reserve(head + DRAFT_BYTES) {
            core.shed.lost(rule.threshold, hash);
            ticket.dropped(Reason::ByteBudget);
            return None;
        }
        let draft = Box::new(Draft {
            subject: subject.clone(),
            method: method.clone(),
            head: Head::pack(request.uri(), headers, head),
            context: request.extensions().get().copied(),
            frames: Frames::None,
            trailers: None,
            answer: None,
            hash,
            fate,
            ticket,
        });
        let accepted = rule.terms.when == When::Arrival;
        let pending = Arc::new(Pending::new(Arc::clone(self), draft, accepted));
        let answer = (!accepted).then(|| Arc::clone(&pending));
        let bytes_max = rule.terms.max_body_bytes;
        let wanted = rule
            .terms
            .compare
            .then(|| Wanted::new(Arc::clone(&pending), bytes_max));
        if request.body().is_end_stream() {
            pending.body_ended(Frames::None, 0, None);
            return Some(Begun {
                tee: None,
                answer,
                wanted,
            });
        }
        Some(Begun {
            tee: Some(Box::new(Tee::new(pending, bytes_max))),
            answer,
            wanted,
        })
    }

    /// Puts a complete copy into the queue, or drops it: never waits.
    pub(crate) fn enqueue(&self, mut draft: Box<Draft>, body_bytes: usize) {
        let core = &*self.core;
        if !core.limits.admit(&draft, body_bytes) {
            return draft.ticket.dropped(Reason::MaxPayload);
        }
        if draft.frames.is_pinning() && (body_bytes < COPIED_BELOW || !draft.ticket.pin()) {
            draft.frames.unpin();
        }
        let fate = draft.fate;
        // If the drain task dies with the copy in the queue, that is what happened to it.
        draft.ticket.if_lost(Reason::Shutdown);
        match self.queue.try_send(draft) {
            Ok(()) => core.shed.filled(self.fill(), fate),
            Err(TrySendError::Full(draft)) => {
                core.shed.overflowed();
                core.shed.lost(draft.ticket.rule().threshold, draft.hash);
                draft.ticket.dropped(Reason::QueueFull);
            }
            Err(TrySendError::Closed(draft)) => draft.ticket.dropped(Reason::Shutdown),
        }
    }

    /// How full the queue is, of [`FULL`]: in messages or in bytes, whichever is worse.
    fn fill(&self) -> u32 {
        let max = self.queue.max_capacity();
        let (bytes, bytes_max) = self.core.ledger.bytes();
        share(max - self.queue.capacity(), max).max(share(bytes, bytes_max))
    }
}

/// A smaller body is copied rather than let hold on to a server's read buffer, in bytes.
const COPIED_BELOW: usize = 4 * 1_024;
/// What a copy under way costs besides its headers and body, in bytes, about.
const DRAFT_BYTES: usize = 768;

/// `part` of `whole`, in [`FULL`]s.
pub(crate) fn share(part: usize, whole: usize) -> u32 {
    (part as u64 * u64::from(FULL) / (whole as u64).max(1)) as u32
}

/// How many body bytes a request announces, at least.
fn announced<B: Body>(request: &Request<B>) -> u64 {
    let hinted = request.body().size_hint().lower();
    let length = request.headers().get(header::CONTENT_LENGTH);
    let told = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
    hinted.max(told.unwrap_or(0))
}
