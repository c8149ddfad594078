//! The one task that delivers copies, keeps the gauges, moves the shedding back and writes the log.

mod report;

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn, ready},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arqon_message::Subject;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use self::report::Report;
use crate::{
    Delivery, OnEvent, Reason, Sink, SinkError,
    copy::Draft,
    ledger::Ticket,
    mirror::{Core, share},
    shed::{Level, Shedder, TICK},
};

/// Copies taken out of the queue at once, and delivered in a row before the task looks at its clock and its orders again.
const BATCH: usize = 64;
/// How long the task leaves an empty queue alone, for each thousand that it holds (4 at most). A copy that comes meanwhile
/// wakes nobody: waking a task costs a request more than all the rest of its copy.
const LINGER: Duration = Duration::from_millis(1);

/// The task behind a [`ShadowLayer`](crate::ShadowLayer): spawn [`run`](Self::run) once.
///
/// It ends when the last service is gone and the queue is empty, or when
/// [`ShadowHandle::shutdown`](crate::ShadowHandle::shutdown) says so. Dropping or aborting it is safe: copies still
/// queued, and all that come later, are counted as `shutdown`; the primary does not notice.
#[must_use = "without the task nothing is delivered: spawn `run()`"]
pub struct DrainTask {
    queue: mpsc::Receiver<Box<Draft>>,
    core: Arc<Core>,
    sink: Arc<dyn Sink>,
    timeout: Duration,
    /// The deadline of a shutdown, once there is one.
    orders: watch::Receiver<Option<Instant>>,
    report: Report,
    /// The queue at the last tick.
    before: Level,
}

/// What became of one delivery.
type Outcome = Result<(), (Reason, Option<SinkError>)>;

/// A delivery that has to wait; with what became of it, whether its answer is compared.
type Waiting<'s> = Pin<Box<dyn Future<Output = (bool, Outcome)> + Send + 's>>;

/// Deliveries that wait, at most so many at once.
struct Flying<'s> {
    all: FuturesUnordered<Waiting<'s>>,
    /// Those of copies that are not compared.
    plain: usize,
    all_max: usize,
    plain_max: usize,
}

impl<'s> Flying<'s> {
    fn new(sink: &dyn Sink) -> Self {
        Self {
            all: FuturesUnordered::new(),
            plain: 0,
            all_max: sink.concurrency().get(),
            plain_max: sink.plain_concurrency().get(),
        }
    }

    /// Whether the copy that is next may be begun.
    fn takes(&self, next: Option<&Draft>) -> bool {
        let takes = |draft: &Draft| draft.is_compared() || self.plain < self.plain_max;
        self.all.len() < self.all_max && next.is_some_and(takes)
    }

    fn push(&mut self, compared: bool, waiting: Waiting<'s>) {
        self.plain += usize::from(!compared);
        self.all.push(waiting);
    }

    async fn next(&mut self) -> Option<Outcome> {
        let (compared, outcome) = self.all.next().await?;
        self.plain -= usize::from(!compared);
        Some(outcome)
    }
}

impl DrainTask {
    pub(crate) fn new(
        queue: mpsc::Receiver<Box<Draft>>,
        core: Arc<Core>,
        sink: Arc<dyn Sink>,
        timeout: Duration,
        orders: watch::Receiver<Option<Instant>>,
        on_event: Option<OnEvent>,
    ) -> Self {
        Self {
            queue,
            core,
            sink,
            timeout,
            orders,
            report: Report::new(on_event),
            before: Level::default(),
        }
    }

    /// Delivers until there is nothing left to deliver.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn run(mut self) {
        let sink = Arc::clone(&self.sink);
        let mut flying = Flying::new(&*sink);
        // After a delivery that took too long: until the sink goes on.
        let mut stalled: Option<Stall<'_>> = None;
        // Out of the queue, not begun. While the sink has to be waited for, copies are taken one by one.
        let mut taken: VecDeque<Box<Draft>> = VecDeque::with_capacity(BATCH);
        let mut arrived = Vec::with_capacity(BATCH);
        let mut batch = 1;
        let mut shadows = Shadows::default();
        let mut deadline: Option<Instant> = None;
        let (mut commanded, mut open, mut lingering) = (true, true, false);
        let leave = LINGER * (self.queue.max_capacity() / 1_000).clamp(1, 4) as u32;
        let mut linger = pin!(sleep(leave));
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while open || !flying.all.is_empty() || !taken.is_empty() {
            // Once nothing more can come, whatever is left is tried, each copy for its own time.
            let goes_on = stalled.is_none() || self.queue.is_closed();
            tokio::select! {
                biased;
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => break,
                order = self.orders.changed(), if commanded => {
                    // Without a handle nobody will order anything: the end of the last service ends the task.
                    commanded = order.is_ok();
                    deadline = *self.orders.borrow_and_update();
                    if deadline.is_some() {
                        self.queue.close();
                        lingering = false;
                    }
                }
                _ = tick.tick() => self.look(stalled.is_some()),
                Some(outcome) = flying.next(), if !flying.all.is_empty() => {
                    if matches!(outcome, Err((Reason::Timeout, _))) && stalled.is_none() {
                        stalled = stall(&*sink);
                    }
                    self.report.delivered(outcome);
                }
                _ = poll_fn(|cx| stalled.as_mut().map_or(Poll::Pending, |stall| stall.as_mut().poll(cx))),
                    if stalled.is_some() => stalled = None,
                () = ready(()), if goes_on && flying.takes(taken.front().map(AsRef::as_ref)) => {
                    let before = flying.all.len();
                    poll_fn(|cx| {
                        while flying.takes(taken.front().map(AsRef::as_ref))
                            && let Some(draft) = taken.pop_front()
                        {
                            let compared = draft.is_compared();
                            if let Some(waiting) = self.deliver(*draft, &*sink, &mut shadows, cx) {
                                flying.push(compared, waiting);
                            }
                        }
                        Poll::Ready(())
                    })
                    .await;
                    batch = if flying.all.len() == before { BATCH } else { 1 };
                }
                () = linger.as_mut(), if lingering => lingering = false,
                count = self.queue.recv_many(&mut arrived, batch),
                    if open && goes_on && !lingering && taken.is_empty() && flying.all.len() < flying.all_max =>
                {
                    open = count > 0;
                    taken.extend(arrived.drain(..));
                    if self.queue.is_empty() && deadline.is_none() {
                        lingering = true;
                        linger.as_mut().reset(Instant::now() + leave);
                    }
                }
            }
        }
        drop((flying, taken, stalled));
        self.finish(deadline).await;
    }

    /// One delivery: done at once, or what is left of it.
    fn deliver<'s>(
        &mut self,
        draft: Draft,
        sink: &'s dyn Sink,
        shadows: &mut Shadows,
        cx: &mut Context<'_>,
    ) -> Option<Waiting<'s>> {
        let shadow = shadows.of(&draft.subject);
        let (hash, compared) = (draft.hash, draft.is_compared());
        let (copy, ticket) = draft.finish(shadow);
        // The call itself may panic, not only the future.
        let begun = catch_unwind(AssertUnwindSafe(|| match sink.offer(&copy) {
            Some(outcome) => Ok(outcome),
            None => {
                let mut delivery = sink.send(copy);
                match delivery.as_mut().poll(cx) {
                    Poll::Ready(outcome) => Ok(outcome),
                    Poll::Pending => Err((delivery, sink.grace())),
                }
            }
        }));
        match begun {
            Ok(Ok(outcome)) => {
                let outcome = outcome.map_err(|error| (error.reason(), Some(error)));
                self.report
                    .delivered(settle(ticket, hash, &self.core.shed, outcome));
            }
            Ok(Err((delivery, grace))) => {
                let limit = self.timeout.saturating_add(grace);
                let core = Arc::clone(&self.core);
                return Some(Box::pin(async move {
                    let outcome = wait(delivery, limit).await;
                    (compared, settle(ticket, hash, &core.shed, outcome))
                }));
            }
            Err(_panic) => {
                let outcome = Err((Reason::Panic, None));
                self.report
                    .delivered(settle(ticket, hash, &self.core.shed, outcome));
            }
        }
        None
    }

    /// One look at the clock's tick.
    fn look(&mut self, stalled: bool) {
        let core = &*self.core;
        let (bytes, bytes_max) = core.ledger.bytes();
        let queued = self.queue.len();
        let fill = share(queued, self.queue.max_capacity()).max(share(bytes, bytes_max));
        let level = Level { fill, queued };
        let shedding = core.shed.tick(level, self.before);
        self.before = level;
        core.limits.look(&*self.sink);
        self.report.tell(core, queued, shedding || stalled);
    }

    /// The end: what is still in flight or queued is dropped, and settles itself as `shutdown`.
    async fn finish(mut self, deadline: Option<Instant>) {
        self.queue.close();
        while let Some(draft) = self.queue.recv().await {
            drop(draft);
        }
        let limit = deadline.map_or(self.timeout, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        let flushed = AssertUnwindSafe(async { self.sink.flush().await }).catch_unwind();
        match timeout(limit, flushed).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(component = "shadow", %error, "the sink did not flush"),
            Ok(Err(_panic)) => tracing::warn!(component = "shadow", "the sink panicked while flushing"),
            Err(_elapsed) => tracing::warn!(component = "shadow", "the sink did not flush in time"),
        }
        self.look(false);
        self.report.tell_all(&self.core);
    }
}

/// A sink that took too long, until it goes on; one that panics does.
type Stall<'s> = Pin<Box<dyn Future<Output = ()> + Send + 's>>;

fn stall(sink: &dyn Sink) -> Option<Stall<'_>> {
    let waiting = catch_unwind(AssertUnwindSafe(|| sink.ready())).ok()?;
    Some(Box::pin(async {
        let _ = AssertUnwindSafe(waiting).catch_unwind().await;
    }))
}

/// A delivery that has to wait, at most `limit`.
async fn wait(delivery: Delivery<'_>, limit: Duration) -> Outcome {
    match timeout(limit, AssertUnwindSafe(delivery).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome.map_err(|error| (error.reason(), Some(error))),
        Ok(Err(_panic)) => Err((Reason::Panic, None)),
        Err(_elapsed) => Err((Reason::Timeout, None)),
    }
}

/// Settles the ticket of a delivery that ended. Of a trace that the sink lost a copy of, no more is let in.
fn settle(ticket: Ticket, hash: u64, shed: &Shedder, outcome: Outcome) -> Outcome {
    match &outcome {
        Ok(()) => ticket.mirrored(),
        Err((reason, _)) => {
            if matches!(reason, Reason::Timeout | Reason::Disconnected) {
                shed.lost(ticket.rule().threshold, hash);
            }
            ticket.dropped(*reason);
        }
    }
    outcome
}

/// The latest subjects with their shadows: most traffic has few, and to write one anew takes two allocations.
#[derive(Default)]
struct Shadows {
    latest: [Option<(Subject, Subject)>; 8],
    oldest: usize,
}

impl Shadows {
    fn of(&mut self, subject: &Subject) -> Subject {
        if let Some((_, shadow)) = self.latest.iter().flatten().find(|(known, _)| known == subject) {
            return shadow.clone();
        }
        let shadow = subject.shadow();
        self.latest[self.oldest] = Some((subject.clone(), shadow.clone()));
        self.oldest = (self.oldest + 1) % self.latest.len();
        shadow
    }
}

impl fmt::Debug for DrainTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainTask")
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}
