//! The one task that delivers copies, keeps the gauges, moves the shedding back and writes the log.

mod report;

use std::{
    fmt,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, error::Elapsed, interval, sleep_until, timeout},
};

use self::report::Report;
use crate::{
    OnEvent, Reason, Sink, SinkError,
    copy::Draft,
    mirror::{Core, share},
    shed::TICK,
};

/// Copies delivered in a row before the task looks at its clock and its orders again.
const BATCH: usize = 64;

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
    /// How full the queue was at the last tick.
    before: u32,
}

/// As tokio's `timeout`, but without a timer for what is ready at once.
async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    match poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => timeout(limit, future).await,
    }
}

/// What became of one delivery.
type Outcome = Result<(), (Reason, Option<SinkError>)>;

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
            before: 0,
        }
    }

    /// Delivers until there is nothing left to deliver.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn run(mut self) {
        let concurrency = self.sink.concurrency().get();
        let mut flying = FuturesUnordered::new();
        let mut deadline: Option<Instant> = None;
        let mut commanded = true;
        let mut open = true;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while open || !flying.is_empty() {
            tokio::select! {
                biased;
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => break,
                order = self.orders.changed(), if commanded => {
                    // Without a handle nobody will order anything: the end of the last service ends the task.
                    commanded = order.is_ok();
                    deadline = *self.orders.borrow_and_update();
                    if deadline.is_some() {
                        self.queue.close();
                    }
                }
                _ = tick.tick() => self.look(),
                Some(outcome) = flying.next(), if !flying.is_empty() => self.report.delivered(outcome),
                draft = self.queue.recv(), if open && flying.len() < concurrency => {
                    let mut next = draft;
                    open = next.is_some();
                    let mut batch = 0;
                    while let Some(draft) = next.take() {
                        let mut delivery = self.deliver(draft);
                        match poll_fn(|cx| Poll::Ready(delivery.as_mut().poll(cx))).await {
                            Poll::Ready(outcome) => self.report.delivered(outcome),
                            Poll::Pending => flying.push(delivery),
                        }
                        batch += 1;
                        if batch < BATCH && flying.len() < concurrency {
                            next = self.queue.try_recv().ok();
                        }
                    }
                }
            }
        }
        self.finish(flying, deadline).await;
    }

    /// One delivery, which settles its ticket whatever happens, also when it is dropped.
    fn deliver(&self, draft: Box<Draft>) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        let sink = Arc::clone(&self.sink);
        let limit = self.timeout;
        Box::pin(async move {
            let (copy, ticket) = draft.finish();
            // The call itself may panic, not only the future, so it is made inside.
            let sent = AssertUnwindSafe(async { sink.send(copy).await }).catch_unwind();
            let outcome = match within(limit, sent).await {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(Ok(Err(error))) => Err((error.reason(), Some(error))),
                Ok(Err(_panic)) => Err((Reason::Panic, None)),
                Err(_elapsed) => Err((Reason::Timeout, None)),
            };
            match &outcome {
                Ok(()) => ticket.mirrored(),
                Err((reason, _)) => ticket.dropped(*reason),
            }
            outcome
        })
    }

    /// One look at the clock's tick.
    fn look(&mut self) {
        let core = &*self.core;
        let (bytes, bytes_max) = core.ledger.bytes();
        let queued = self.queue.len();
        let fill = share(queued, self.queue.max_capacity()).max(share(bytes, bytes_max));
        let shedding = core.shed.tick(fill, self.before);
        self.before = fill;
        let limit = std::panic::catch_unwind(AssertUnwindSafe(|| self.sink.body_bytes_max()));
        core.sink_bytes_max
            .store(limit.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.report.tell(core, queued, shedding);
    }

    /// The end: what is still in flight or queued is dropped, and settles itself as `shutdown`.
    async fn finish(
        mut self,
        flying: FuturesUnordered<Pin<Box<dyn Future<Output = Outcome> + Send>>>,
        deadline: Option<Instant>,
    ) {
        drop(flying);
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
        self.look();
        self.report.tell_all(&self.core);
    }
}

impl fmt::Debug for DrainTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainTask")
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}
