//! Where connections come in. It is kept while its task dies and is started again: the port stays open, clients wait in the
//! system's queue, and the connections that are there go on.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use arqon::supervise::Supervisor;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{App, Connection, Held, Limits, Raised, extensions, streams::Streams};
use crate::{buffers::Meter, edge::Edge};

/// How long to wait after the system refused a connection, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long clients that come are served, each with `Connection: close`, once the gateway drains: until then whoever sends them
/// may not have heard of it (F30).
const GRACE: Duration = Duration::from_secs(1);

/// One listener and the connections that came by it.
pub(crate) struct Door<A> {
    /// Until nobody is let in any more.
    listener: Mutex<Option<Arc<TcpListener>>>,
    /// Locked to be cloned for a connection; in a lock since an application need not be `Sync`.
    app: Mutex<A>,
    limits: Limits,
    edge: Option<Edge>,
    places: Arc<Semaphore>,
    connections: TaskTracker,
    /// Cancelled when the gateway drains.
    stop: CancellationToken,
    /// Cancelled when nobody is let in any more.
    closed: CancellationToken,
    accepted: metrics::Counter,
    open: metrics::Gauge,
}

impl<A: App> Door<A> {
    /// For `app`, until `stop`. Operators' listeners have no `edge`: nothing is shed there, and they close at once.
    pub(crate) fn new(
        listener: TcpListener,
        app: A,
        limits: Limits,
        edge: Option<Edge>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            listener: Mutex::new(Some(Arc::new(listener))),
            app: Mutex::new(app),
            limits,
            edge,
            places: Arc::new(Semaphore::new(limits.max_connections)),
            connections: TaskTracker::new(),
            stop,
            closed: CancellationToken::new(),
            accepted: metrics::counter!("shield_gateway_connections_total", "listener" => limits.listener),
            open: metrics::gauge!("shield_gateway_connections", "listener" => limits.listener),
        })
    }

    /// Serves in a task that is started again when it dies. What is returned is cancelled once the last connection has ended.
    pub(crate) fn keep(self: Arc<Self>, name: &'static str, tasks: &Supervisor) -> CancellationToken {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        tasks.keep(name, move || {
            // The last life ends what waits for it; it is gone with this closure.
            let _waited_for = &guard;
            let serving = Arc::clone(&self).serve();
            async move {
                serving.await;
                Ok(())
            }
        });
        ended
    }

    /// Serves until it is stopped, then for a second more, closing behind each answer, and then lets open requests end, at most
    /// `drain_timeout`. It may be called again after it panicked.
    pub(crate) async fn serve(self: Arc<Self>) {
        let listener = self
            .listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(listener) = listener {
            self.listen(&listener).await;
            // Both handles go: nobody listens from here on.
            drop(listener);
            self.listener
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
        }
        self.closed.cancel();
        self.connections.close();
        let ended = timeout(self.limits.drain_timeout, self.connections.wait()).await;
        if ended.is_err() {
            tracing::warn!(
                component = "edge",
                "requests were still open when the drain's time was up"
            );
        }
    }

    async fn listen(&self, listener: &TcpListener) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.admit(listener) => {}
        }
        if self.edge.is_some() {
            // Done early where nobody is left.
            self.connections.close();
            tokio::select! {
                () = sleep(GRACE) => {}
                () = self.connections.wait() => {}
                () = self.admit(listener) => {}
            }
            // Those that the system has taken already, and that would be reset.
            let _ = timeout(Duration::ZERO, self.admit(listener)).await;
        }
    }

    /// Lets in whoever comes, for ever.
    async fn admit(&self, listener: &TcpListener) {
        loop {
            let place = Arc::clone(&self.places)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, remote)) => self.open(stream, remote, place),
                Err(error) => {
                    metrics::counter!("shield_gateway_accept_errors_total").increment(1);
                    tracing::warn!(component = "edge", error = %error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn open(&self, stream: TcpStream, remote: SocketAddr, place: OwnedSemaphorePermit) {
        let _ = stream.set_nodelay(true);
        let meter = self.edge.as_ref().map(|edge| Meter::of(&edge.heads));
        let held = Held {
            meter: Arc::new(meter.unwrap_or_default()),
            _place: Arc::new((Raised::of(&self.open), place)),
        };
        let app = self.app.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let peers = self.edge.as_ref().map(|edge| &edge.peers);
        let connection = Connection {
            app: Mutex::new(app),
            told: extensions(remote, peers.is_some_and(|peers| peers.contains(remote.ip()))),
            edge: self.edge.clone(),
            remote,
            limits: self.limits,
            asked: AtomicBool::new(false),
            streams: Streams::default(),
            stop: self.stop.clone(),
            closed: self.closed.clone(),
            held,
        };
        self.accepted.increment(1);
        self.connections.spawn(Arc::new(connection).serve(stream));
    }
}
