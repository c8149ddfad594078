//! Where copies go.

mod http;
mod recording;

use std::{future::Future, num::NonZeroUsize, pin::Pin, sync::Arc, time::Duration};

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

    /// The largest copy that it takes now, in bytes: the body, and of each header what
    /// [`header_bytes`](Self::header_bytes) says. Asked again at least ten times a second; larger copies are dropped as
    /// `max_payload` before they are queued. Must return at once.
    fn copy_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// The same, of copies of which the answer is compared ([`ShadowCopy::is_compared`]): for a sink that sends those
    /// somewhere else. The default: no difference.
    fn compared_bytes_max(&self) -> usize {
        self.copy_bytes_max()
    }

    /// What one header takes of [`copy_bytes_max`](Self::copy_bytes_max), in bytes: 0 for one that it does not carry, and no
    /// more than seven beside name and value.
    /// Asked by requests, of copies that may be too large. Must return at once.
    fn header_bytes(&self, name: &str, value: &[u8]) -> usize {
        name.len() + value.len() + ": \r\n".len()
    }

    /// Whether nothing can be delivered now, nor what would wait for a moment: copies are then dropped as `disconnected`
    /// before they are made, which costs the primary next to nothing. Asked by each request that is chosen, unless its answer
    /// is compared. Must return at once.
    fn is_down(&self) -> bool {
        false
    }

    /// Waits until deliveries can go on, asked after one that took too long: meanwhile copies stay in the queue, so a sink
    /// that stalls for a while costs one copy, and not one of each trace that waits. A sink that is down is ready. The
    /// default: at once, so that each copy has its own deadline.
    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    /// How much longer than `timeout_ms` a delivery that begins now may take: for a sink that is about to make its first
    /// connection. Must return at once.
    fn grace(&self) -> Duration {
        Duration::ZERO
    }

    /// How many deliveries may be under way at once. One, the default, keeps the order.
    fn concurrency(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// How many of them may be deliveries of copies whose answer is not compared, for a sink that sends those somewhere else.
    /// While there are as many, the next such copy is not begun, nor what comes after it. The default: all.
    fn plain_concurrency(&self) -> NonZeroUsize {
        self.concurrency()
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

    fn copy_bytes_max(&self) -> usize {
        (**self).copy_bytes_max()
    }

    fn compared_bytes_max(&self) -> usize {
        (**self).compared_bytes_max()
    }

    fn header_bytes(&self, name: &str, value: &[u8]) -> usize {
        (**self).header_bytes(name, value)
    }

    fn is_down(&self) -> bool {
        (**self).is_down()
    }

    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        (**self).ready()
    }

    fn grace(&self) -> Duration {
        (**self).grace()
    }

    fn concurrency(&self) -> NonZeroUsize {
        (**self).concurrency()
    }

    fn plain_concurrency(&self) -> NonZeroUsize {
        (**self).plain_concurrency()
    }
}
