//! Where copies go.

mod http;
mod recording;

use std::{future::Future, num::NonZeroUsize, pin::Pin, sync::Arc};

pub use self::{
    http::{CopyBody, HttpSink, InvalidTarget},
    recording::RecordingSink,
};
use crate::{ShadowCopy, SinkError};

/// The future of one delivery. It is boxed: deliveries happen in the drain task, off the request path.
pub type Delivery<'a> = Pin<Box<dyn Future<Output = Result<(), SinkError>> + Send + 'a>>;

/// Where copies go: NATS, another HTTP service, a recording, or any closure.
///
/// A sink is called by the drain task only, never by a request. It may be slow, fail or panic: a delivery that takes
/// longer than `timeout_ms` is dropped, a panic is contained, and each is counted under its [`Reason`](crate::Reason).
///
/// ```
/// use arqon_shadow::{RuleConfig, ShadowConfig, ShadowCopy, ShadowLayer, SinkError};
///
/// let config = ShadowConfig::default().rule(RuleConfig::new("in.t.*.>", "10%"));
/// let (layer, handle, drain) = ShadowLayer::channel(&config, |copy: ShadowCopy| async move {
///     println!("{} {} bytes", copy.subject, copy.body.len());
///     Ok::<_, SinkError>(())
/// })?;
/// # let _ = (layer, handle, drain);
/// # Ok::<(), arqon_shadow::InvalidConfig>(())
/// ```
pub trait Sink: Send + Sync + 'static {
    /// Delivers one copy.
    ///
    /// # Errors
    /// [`SinkError`] says why not, and so under which reason the copy is counted. Nothing is tried twice.
    fn send(&self, copy: ShadowCopy) -> Delivery<'_>;

    /// Takes one copy at once, if that needs no waiting: what became of it. `None`, the default: [`send`](Self::send) gets
    /// the copy. It saves a boxed future for each copy; it is called before `send`, must not block, and keeps the order.
    fn offer(&self, copy: &ShadowCopy) -> Option<Result<(), SinkError>> {
        let _ = copy;
        None
    }

    /// Hands on what the sink itself buffers; called once, when the mirror shuts down.
    ///
    /// # Errors
    /// When that failed; it is logged.
    fn flush(&self) -> Delivery<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The largest body that it takes now, in bytes. Asked again at least ten times a second; larger bodies are dropped
    /// as `max_payload` before they are queued. Must return at once.
    fn body_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// How many deliveries may be under way at once. One, the default, keeps the order.
    fn concurrency(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }
}

impl<F, D> Sink for F
where
    F: Fn(ShadowCopy) -> D + Send + Sync + 'static,
    D: Future<Output = Result<(), SinkError>> + Send + 'static,
{
    fn send(&self, copy: ShadowCopy) -> Delivery<'_> {
        Box::pin(self(copy))
    }
}

impl<K: Sink + ?Sized> Sink for Arc<K> {
    fn send(&self, copy: ShadowCopy) -> Delivery<'_> {
        (**self).send(copy)
    }

    fn offer(&self, copy: &ShadowCopy) -> Option<Result<(), SinkError>> {
        (**self).offer(copy)
    }

    fn flush(&self) -> Delivery<'_> {
        (**self).flush()
    }

    fn body_bytes_max(&self) -> usize {
        (**self).body_bytes_max()
    }

    fn concurrency(&self) -> NonZeroUsize {
        (**self).concurrency()
    }
}
