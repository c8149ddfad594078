//! A request's body at the edge: it may not go idle, and what nobody read is read in the end.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use arqon::{BodyBroken, BodyTimeout, BoxError};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::guard::is_late;

/// How long the rest of a refused body may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a body may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Without a byte.
    pub(crate) idle: Duration,
    /// In all.
    pub(crate) whole: Duration,
}

/// The body that the application gets.
pub(crate) struct EdgeBody {
    shared: Arc<Mutex<Shared>>,
    times: Times,
    /// When it has to be whole; reckoned from when it was first waited for, which is when the request's own time begins.
    ends: Option<Instant>,
    waited: bool,
    /// Looks at a frame that was not there.
    looks: u8,
    /// Runs while we wait for a frame.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The same body, kept by the edge until the answer is there.
pub(crate) struct Rest(Arc<Mutex<Shared>>);

struct Shared {
    /// What was read before anybody asked.
    first: Option<Read>,
    body: Incoming,
    polled: bool,
    failed: bool,
}

type Read = Result<Frame<Bytes>, hyper::Error>;

/// What is there of a body when its head is.
pub(crate) enum Arrived {
    /// All of it.
    Whole(Bytes),
    /// The rest comes as it is asked for.
    Begun(Option<Read>, Incoming),
}

/// Looks at what has arrived of a body, without waiting: a small one comes with its head, and needs no clock and no lock then.
pub(crate) async fn arrived(mut body: Incoming) -> Arrived {
    let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
    match first {
        Poll::Ready(Some(Ok(frame))) if frame.is_data() && body.is_end_stream() => {
            Arrived::Whole(frame.into_data().unwrap_or_default())
        }
        Poll::Ready(Some(read)) => Arrived::Begun(Some(read), body),
        Poll::Ready(None) => Arrived::Whole(Bytes::new()),
        Poll::Pending => Arrived::Begun(None, body),
    }
}

impl EdgeBody {
    /// `first` was read of `body` before.
    pub(crate) fn new(first: Option<Read>, body: Incoming, times: Times) -> (Self, Rest) {
        let shared = Arc::new(Mutex::new(Shared {
            first,
            body,
            polled: false,
            failed: false,
        }));
        (
            Self {
                shared: Arc::clone(&shared),
                times,
                ends: None,
                waited: false,
                looks: 0,
                timer: None,
            },
            Rest(shared),
        )
    }
}

impl Shared {
    fn of(shared: &Mutex<Self>) -> std::sync::MutexGuard<'_, Self> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut shared = Shared::of(&this.shared);
        shared.polled = true;
        let read = match shared.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut shared.body).poll_frame(cx),
        };
        if let Poll::Ready(frame) = read {
            (this.timer, this.looks) = (None, 0);
            shared.failed |= matches!(frame, Some(Err(_)));
            // hyper's error is what the client did to its body; whoever reads it answers 400.
            return Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| {
                    tracing::debug!(component = "edge", error = %error, "a body broke off");
                    BoxError::from(BodyBroken)
                })
            }));
        }
        // Not at the first time: a clock costs more than another look.
        if this.waited && this.ends.is_none() {
            this.ends = Some(Instant::now() + this.times.whole);
        }
        this.waited = true;
        let (ends, idle) = (this.ends, this.times.idle);
        let clock = || {
            let idle = Instant::now() + idle;
            sleep_until(ends.map_or(idle, |ends| ends.min(idle)))
        };
        if is_late(&mut this.looks, &mut this.timer, clock, cx) {
            // Whoever asks again waits again.
            this.timer = None;
            shared.failed = true;
            return Poll::Ready(Some(Err(Box::new(BodyTimeout))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let shared = Shared::of(&self.shared);
        shared.first.is_none() && shared.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let shared = Shared::of(&self.shared);
        let first = shared
            .first
            .as_ref()
            .and_then(|read| read.as_ref().ok()?.data_ref());
        let (first, rest) = (first.map_or(0, Bytes::len) as u64, shared.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(first));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(first));
        }
        hint
    }
}

impl Rest {
    /// Reads on to the end, at most `max` bytes and five seconds. A body that failed is left; so is one that the client
    /// has not sent yet because it waits for 100-continue, which the answer makes unnecessary.
    pub(crate) async fn drain(self, max: usize, waits_for_continue: bool) {
        // The application may still hold its half, in a task of its own: then it goes on reading, not we.
        let Ok(shared) = Arc::try_unwrap(self.0) else {
            return;
        };
        let Shared {
            first,
            mut body,
            polled,
            failed,
        } = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        if failed
            || first.is_some_and(|read| read.is_err())
            || body.is_end_stream()
            || (waits_for_continue && !polled)
        {
            return;
        }
        let read = async {
            let mut seen = 0;
            while let Some(Ok(frame)) = body.frame().await {
                seen += frame.data_ref().map_or(0, Bytes::len);
                if seen > max {
                    break;
                }
            }
        };
        let _ = timeout(DRAIN_TIMEOUT, read).await;
    }
}
