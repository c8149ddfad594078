//! What sessions hold in memory besides the message that is being served: messages that are not whole yet, and deliveries
//! that wait. All sessions share one budget, and where there are tenants each has half of it at most, so that memory ends for
//! whoever fills it before it ends for everybody. Connections that are no session hold [`heads`] that are not whole yet.

mod frames;
mod heads;

use std::{
    collections::HashMap,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use arqon::TenantId;
use http::Version;
use metrics::{Counter, counter};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take},
    time::{Instant, Sleep, sleep_until},
};

use self::heads::{Answering, Head, Spoken};
pub(crate) use self::heads::{HEAD_BYTES_MAX, Heads, listed};

/// What one side of a session may hold whatever the others do, in bytes: who keeps up is not ended for who does not.
const FREE_BYTES: usize = 16 * 1024;
/// What a read fails with once there is no more room.
pub(crate) const NO_ROOM: &str =
    "sessions hold as much as they may; see gateway.websocket.max_buffered_bytes";

/// What a read fails with once a head over HTTP/2 has had its time.
const LATE: &str = "a head was not whole within gateway.header_timeout_ms";

/// The budget of all sessions. Cloning it is a reference count.
#[derive(Clone)]
pub(crate) struct Buffers(Arc<Budget>);

struct Budget {
    max: usize,
    /// What the sessions of one tenant may hold of it.
    tenant_max: usize,
    held: AtomicUsize,
    /// What those tenants hold that have sessions: as many as there are sessions, at most.
    tenants: Mutex<HashMap<TenantId, Weak<AtomicUsize>>>,
    shed: Counter,
}

/// The budget as the sessions of one tenant have it.
#[derive(Clone)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    held: Arc<AtomicUsize>,
}

/// What one side of one session holds; dropping it gives everything back.
pub(crate) struct Account {
    share: Share,
    own: AtomicUsize,
    own_max: usize,
}

impl Buffers {
    /// All sessions together may hold `max` bytes, those of one tenant `tenant_max`.
    pub(crate) fn new(max: usize, tenant_max: usize) -> Self {
        let shed = counter!("shield_edge_shed_total", "what" => "buffers");
        shed.increment(0);
        Self(Arc::new(Budget {
            max,
            tenant_max,
            held: AtomicUsize::new(0),
            tenants: Mutex::default(),
            shed,
        }))
    }

    /// What sessions of `tenant` share.
    pub(crate) fn share(&self, tenant: &TenantId) -> Share {
        let mut tenants = self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let held = tenants.get(tenant).and_then(Weak::upgrade).unwrap_or_else(|| {
            // Tenants come and go; those without a session hold nothing.
            tenants.retain(|_, held| held.strong_count() > 0);
            let held = Arc::default();
            tenants.insert(tenant.clone(), Arc::downgrade(&held));
            held
        });
        Share {
            budget: Arc::clone(&self.0),
            held,
        }
    }
}

impl Share {
    /// An account that may hold `own_max` bytes, or one thing that is larger.
    pub(crate) fn account(&self, own_max: usize) -> Account {
        Account {
            share: self.clone(),
            own: AtomicUsize::new(0),
            own_max,
        }
    }
}

impl Share {
    fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Account {
    /// Takes room for `bytes` more; false where there is none, and nothing is taken.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let budget = &self.share.budget;
        let grown = |held: &AtomicUsize| held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let (own, tenants, all) = (grown(&self.own), grown(&self.share.held), grown(&budget.held));
        let has_room = tenants <= budget.tenant_max && all <= budget.max;
        let fits = (own <= self.own_max || own == bytes) && (has_room || own <= FREE_BYTES);
        if !fits {
            self.give(bytes);
            budget.shed.increment(1);
        }
        fits
    }

    /// Gives `bytes` back, or as many as it has.
    pub(crate) fn give(&self, bytes: usize) {
        let less = |own: usize| Some(own.saturating_sub(bytes));
        let own = self.own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.share.give(own.map_or(0, |own| own.min(bytes)));
    }

    /// Gives everything back.
    pub(crate) fn clear(&self) {
        self.share.give(self.own.swap(0, Ordering::Relaxed));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What a session has read of a message that is not whole yet.
pub(crate) struct Unread {
    account: Account,
    /// When its first byte came.
    since: Mutex<Option<Instant>>,
}

impl Unread {
    fn take(&self, bytes: usize) -> bool {
        if bytes > 0 {
            self.begun().get_or_insert_with(Instant::now);
        }
        self.account.take(bytes)
    }

    /// `bytes` of it were a control frame, which may stand between the frames of a message.
    pub(crate) fn give(&self, bytes: usize) {
        self.account.give(bytes);
        if self.account.own.load(Ordering::Relaxed) == 0 {
            *self.begun() = None;
        }
    }

    /// The message is whole.
    pub(crate) fn clear(&self) {
        self.account.clear();
        *self.begun() = None;
    }

    /// When the message began that is not whole yet.
    pub(crate) fn since(&self) -> Option<Instant> {
        *self.begun()
    }

    fn begun(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a connection's reads are counted: unfinished heads, and once it has become a session unfinished messages.
#[derive(Default)]
pub(crate) struct Meter {
    session: OnceLock<Unread>,
    head: Option<Head>,
}

impl Meter {
    /// Its heads are counted in the budget of `heads`.
    pub(crate) fn of(heads: &Heads) -> Self {
        Self {
            session: OnceLock::new(),
            head: Some(Head::new(heads)),
        }
    }

    /// A request's head is whole; what is read from here on, until its answer, is its body.
    pub(crate) fn answer(&self, version: Version) -> Option<Answering<'_>> {
        self.head.as_ref()?.answer(version)
    }

    /// From now on what is read is counted as a session's, until it is cleared as a whole message.
    pub(crate) fn begin(&self, share: &Share) -> &Unread {
        self.session.get_or_init(|| Unread {
            account: share.account(usize::MAX),
            since: Mutex::default(),
        })
    }
}

/// A stream with a [`Meter`].
pub(crate) struct Metered<S> {
    stream: Take<S>,
    spoken: Spoken,
    /// None: nothing is counted any more.
    meter: Option<Arc<Meter>>,
    /// There while a head over HTTP/2 is waited for.
    clock: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead> Metered<S> {
    pub(crate) fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self {
            stream: stream.take(u64::MAX),
            spoken: Spoken::Preface(0),
            meter: Some(meter),
            clock: None,
        }
    }

    /// Below TLS, whose handshake is counted as a head until it is [`done`](Self::done).
    pub(crate) fn handshake(stream: S, meter: Arc<Meter>) -> Self {
        Self {
            spoken: Spoken::Http1,
            ..Self::new(stream, meter)
        }
    }

    /// What comes from here on is counted above.
    pub(crate) fn done(&mut self) {
        if let Some(head) = self.meter.take().as_ref().and_then(|meter| meter.head.as_ref()) {
            head.reset();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let meter = this.meter.as_deref();
        let session = meter.and_then(|meter| meter.session.get());
        let head = meter.and_then(|meter| meter.head.as_ref());
        let head = head.filter(|_| session.is_none());
        let read_max = match head {
            Some(head) => {
                this.spoken.may_read(head)?;
                this.spoken.read_max()
            }
            None => u64::MAX,
        };
        this.stream.set_limit(read_max);
        let before = into.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, into) else {
            let ends = head.and_then(|head| this.spoken.ends(head));
            ready!(wait(&mut this.clock, ends, cx));
            return Poll::Ready(Err(io::Error::other(LATE)));
        };
        read?;
        let bytes = &into.filled()[before..];
        Poll::Ready(match (session, head) {
            (Some(unread), _) if !unread.take(bytes.len()) => Err(io::Error::other(NO_ROOM)),
            (_, Some(head)) => {
                this.spoken.read(bytes, head)?;
                // Who sends a little now and then is no better.
                match this.spoken.ends(head) {
                    Some(ends) if ends <= Instant::now() => Err(io::Error::other(LATE)),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        })
    }
}

/// Waits until `ends`, where there is such a time.
fn wait(clock: &mut Option<Pin<Box<Sleep>>>, ends: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
    let Some(ends) = ends else {
        *clock = None;
        return Poll::Pending;
    };
    let clock = clock.get_or_insert_with(|| Box::pin(sleep_until(ends)));
    if clock.deadline() != ends {
        clock.as_mut().reset(ends);
    }
    clock.as_mut().poll(cx)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(self.stream.get_mut()).poll_write(cx, bytes))?;
        self.spoken.wrote(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(self.stream.get_mut()).poll_write_vectored(cx, slices))?;
        self.spoken.wrote(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("a tenant")
    }

    #[test]
    fn a_tenant_has_its_share_and_no_more_whatever_it_opens() {
        let buffers = Buffers::new(100_000, 50_000);
        let (one, other) = (buffers.share(&tenant("a")), buffers.share(&tenant("b")));
        let (first, second) = (
            one.account(usize::MAX),
            buffers.share(&tenant("a")).account(usize::MAX),
        );
        assert!(first.take(30_000) && second.take(20_000));
        assert!(!second.take(1), "one byte more");
        assert!(other.account(usize::MAX).take(50_000), "the others have theirs");
        drop((first, second, one, other));
        buffers.share(&tenant("c"));
        let tenants = buffers.0.tenants.lock().expect("no panic");
        assert_eq!(tenants.len(), 1, "who has no session is not kept");
    }

    #[test]
    fn the_budget_is_shared_and_a_small_account_is_never_refused() {
        let buffers = Buffers::new(100_000, 100_000);
        let share = buffers.share(&tenant("a"));
        let (large, small) = (share.account(usize::MAX), share.account(usize::MAX));
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
        let account = Buffers::new(usize::MAX / 2, usize::MAX / 2)
            .share(&tenant("a"))
            .account(50_000);
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
        let share = Buffers::new(40_000, 40_000).share(&tenant("a"));
        let account = meter.begin(&share);
        assert_eq!(account.since(), None, "what came before is no message");
        let before = Instant::now();
        peer.write_all(&bytes).await?;
        stream.read_exact(&mut bytes).await?;
        peer.write_all(b"x").await?;
        let refused = stream.read_exact(&mut bytes[..1]).await.expect_err("no room");
        assert_eq!(refused.to_string(), NO_ROOM);
        let since = account.since().expect("begun");
        assert!(since >= before);
        account.give(1);
        assert_eq!(account.since(), Some(since), "a control frame in it ends nothing");
        account.clear();
        assert_eq!(account.since(), None);
        peer.write_all(b"x").await?;
        stream.read_exact(&mut bytes[..1]).await?;
        Ok(())
    }
}
