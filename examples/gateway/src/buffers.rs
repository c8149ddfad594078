//! What sessions hold in memory besides the message that is being served: messages that are not whole yet, and deliveries
//! that wait. All sessions share one budget, so that memory ends for whoever fills it before it ends for everybody.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use metrics::{Counter, counter};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one side of a session may hold whatever the others do, in bytes: who keeps up is not ended for who does not.
const FREE_BYTES: usize = 16 * 1024;
/// What a read fails with once there is no more room.
pub(crate) const NO_ROOM: &str =
    "sessions hold as much as they may; see gateway.websocket.max_buffered_bytes";

/// The budget of all sessions. Cloning it is a reference count.
#[derive(Clone)]
pub(crate) struct Buffers(Arc<Budget>);

struct Budget {
    max: usize,
    held: AtomicUsize,
    shed: Counter,
}

/// What one side of one session holds; dropping it gives everything back.
pub(crate) struct Account {
    budget: Arc<Budget>,
    own: AtomicUsize,
    own_max: usize,
}

impl Buffers {
    /// All sessions together may hold `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        let shed = counter!("shield_edge_shed_total", "what" => "buffers");
        shed.increment(0);
        Self(Arc::new(Budget {
            max,
            held: AtomicUsize::new(0),
            shed,
        }))
    }

    /// An account that may hold `own_max` bytes, or one thing that is larger.
    pub(crate) fn account(&self, own_max: usize) -> Account {
        Account {
            budget: Arc::clone(&self.0),
            own: AtomicUsize::new(0),
            own_max,
        }
    }
}

impl Account {
    /// Takes room for `bytes` more; false where there is none, and nothing is taken.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let own = self.own.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let held = self.budget.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = (own <= self.own_max || own == bytes) && (held <= self.budget.max || own <= FREE_BYTES);
        if !fits {
            self.give(bytes);
            self.budget.shed.increment(1);
        }
        fits
    }

    /// Gives `bytes` back, or as many as it has.
    pub(crate) fn give(&self, bytes: usize) {
        let less = |own: usize| Some(own.saturating_sub(bytes));
        let own = self.own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        let given = own.map_or(0, |own| own.min(bytes));
        self.budget.held.fetch_sub(given, Ordering::Relaxed);
    }

    /// Gives everything back.
    pub(crate) fn clear(&self) {
        let own = self.own.swap(0, Ordering::Relaxed);
        self.budget.held.fetch_sub(own, Ordering::Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Where a connection's reads are counted, once it has become a session.
#[derive(Default)]
pub(crate) struct Meter(OnceLock<Account>);

impl Meter {
    /// From now on what is read is counted, until it is cleared as a whole message.
    pub(crate) fn begin(&self, buffers: &Buffers) -> &Account {
        self.0.get_or_init(|| buffers.account(usize::MAX))
    }
}

/// A stream with a [`Meter`].
pub(crate) struct Metered<S> {
    stream: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    pub(crate) const fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        if let Some(account) = self.meter.0.get()
            && !account.take(into.filled().len() - before)
        {
            return Poll::Ready(Err(io::Error::other(NO_ROOM)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn the_budget_is_shared_and_a_small_account_is_never_refused() {
        let buffers = Buffers::new(100_000);
        let (large, small) = (buffers.account(usize::MAX), buffers.account(usize::MAX));
        assert!(large.take(100_000));
        assert!(!large.take(1), "one byte more");
        assert!(small.take(FREE_BYTES) && !small.take(1));
        large.clear();
        assert!(small.take(1), "there is room again");
        small.give(usize::MAX);
        assert!(large.take(100_000), "no more was given back than there was");
        drop((large, small));
        assert_eq!(buffers.0.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_account_has_a_border_of_its_own_and_one_large_thing_always_has_room() {
        let buffers = Buffers::new(usize::MAX / 2);
        let account = buffers.account(50_000);
        assert!(account.take(50_000) && !account.take(1));
        account.give(50_000);
        assert!(account.take(60_000), "it is alone");
        assert!(!account.take(1));
    }

    #[tokio::test]
    async fn reads_are_counted_from_the_beginning_of_the_session_on() -> io::Result<()> {
        let (mut peer, own) = duplex(1 << 20);
        let meter = Arc::new(Meter::default());
        let mut stream = Metered::new(own, Arc::clone(&meter));
        let mut bytes = vec![0; 40_000];
        peer.write_all(&bytes).await?;
        stream.read_exact(&mut bytes).await?;
        let buffers = Buffers::new(40_000);
        let account = meter.begin(&buffers);
        peer.write_all(&bytes).await?;
        stream.read_exact(&mut bytes).await?;
        peer.write_all(b"x").await?;
        let refused = stream.read_exact(&mut bytes[..1]).await.expect_err("no room");
        assert_eq!(refused.to_string(), NO_ROOM);
        account.clear();
        peer.write_all(b"x").await?;
        stream.read_exact(&mut bytes[..1]).await?;
        Ok(())
    }
}
