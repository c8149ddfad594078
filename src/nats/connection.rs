//! A client of NATS, and the next one when it has died.
//!
//! At a message with a carriage return in a header's value async-nats 0.51 does not only end its connection: the task that has
//! it panics. The client is gone for ever then, its subscriptions end, and what it says of its state is what held last.
//! Whoever may publish where it hears can send one. A [`Connection`] makes another client in its place, with the same
//! settings, and says meanwhile that it is not connected. What was subscribed, asked or about to be sent is gone with the client, as
//! with a server that is lost; who hears has to subscribe with the next one.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_nats::{
    Client, Event,
    connection::State,
    jetstream::{self, Context},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Duration, Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::connect::{self, ConnectError, Identity};

/// A client that lived as long as this begins with the first pause again.
const SOUND: Duration = Duration::from_secs(3);
/// The pause before a client is made in the place of a dead one grows so often, to 0.64 s.
const DEATHS_MAX: usize = 6;

/// A client that is made anew when it has died. Cloning it is a reference count; once the last is dropped, no more are made.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use arqon::nats::{Connection, Identity};
///
/// let nats = Connection::open("nats://127.0.0.1:4222", &Identity::default(), |_| {}).await?;
/// // Ask for the client each time: the one of before may be dead.
/// nats.client().publish("greetings", "hello".into()).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    lives: watch::Receiver<Arc<Life>>,
    /// None: the client is somebody else's, and there is no other.
    _keeper: Option<AbortOnDropHandle<()>>,
}

/// One client.
pub(crate) struct Life {
    pub(crate) client: Client,
    pub(crate) jetstream: Context,
    /// How often those before it had connected.
    connects_before: u64,
    /// What the server of those before it takes.
    max_payload_before: Option<usize>,
    /// Whether a server has said what it takes.
    is_greeted: AtomicBool,
    is_dead: AtomicBool,
}

impl Life {
    fn new(client: Client, before: Option<&Self>) -> Self {
        Self {
            jetstream: jetstream::new(client.clone()),
            client,
            connects_before: before.map_or(0, Self::connects),
            max_payload_before: before.map(Self::max_payload),
            is_greeted: AtomicBool::new(false),
            is_dead: AtomicBool::new(false),
        }
    }

    /// Whether there is a connection to a server; a dead client has none, whatever it says.
    pub(crate) fn is_connected(&self) -> bool {
        !self.is_dead.load(Ordering::Relaxed)
            && self.client.connection_state() == State::Connected
            && self.is_greeted()
    }

    /// The largest message with its headers, in bytes, that the server takes. Before one has said so, that of before, or what the
    /// client takes for it (1 MiB).
    pub(crate) fn max_payload(&self) -> usize {
        match self.max_payload_before {
            Some(before) if !self.is_greeted() => before,
            _ => self.client.max_payload(),
        }
    }

    /// Whether a server has said what it takes: the client is `Connected` a moment before.
    fn is_greeted(&self) -> bool {
        if self.is_greeted.load(Ordering::Relaxed) {
            return true;
        }
        // What is said of a server that has not come yet is empty. The client has the number before it says this.
        let is_greeted = self.client.server_info().max_payload > 0;
        if is_greeted {
            self.is_greeted.store(true, Ordering::Relaxed);
        }
        is_greeted
    }

    fn connects(&self) -> u64 {
        self.connects_before + self.client.statistics().connects.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// A client for `url` that starts at once and connects in the background, for ever: the server may come later. A cluster's
    /// servers are named as a list (`nats://a:4222,nats://b:4222`), since the next client knows no others. `hears` is given each
    /// event of the connection, and `Disconnected` of a client that has died; it must return at once.
    ///
    /// # Errors
    /// When the URL or a certificate cannot be used, or a file of credentials cannot be read.
    pub async fn open(
        url: &str,
        identity: &Identity,
        hears: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Self, ConnectError> {
        let making = Making {
            url: url.to_owned(),
            identity: identity.clone(),
            hears: Arc::new(hears),
        };
        let (life, end) = making.life(None).await?;
        let (present, lives) = watch::channel(Arc::new(life));
        let keeper = AbortOnDropHandle::new(tokio::spawn(making.keep(present, end)));
        Ok(Self(Arc::new(Inner {
            lives,
            _keeper: Some(keeper),
        })))
    }

    /// The client as it is now. Ask again for each use: it may be another one.
    #[must_use]
    pub fn client(&self) -> Client {
        self.life().client.clone()
    }

    /// Whether there is a connection to a server.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.lives.borrow().is_connected()
    }

    /// How often a connection was made, those of dead clients too.
    #[must_use]
    pub fn connects(&self) -> u64 {
        self.life().connects()
    }

    /// Whether there is a connection to a server that is new enough, or why not.
    ///
    /// # Errors
    /// One sentence for `/readyz`.
    pub fn ready(&self) -> Result<(), String> {
        let life = self.life();
        if life.is_dead.load(Ordering::Relaxed) {
            return Err("not connected to NATS: the client has died".to_owned());
        }
        connect::ready(&life.client)
    }

    pub(crate) fn life(&self) -> Arc<Life> {
        Arc::clone(&self.0.lives.borrow())
    }

    /// Waits for the client behind `life`; None if there will be none.
    pub(crate) async fn after(&self, life: &Arc<Life>) -> Option<Arc<Life>> {
        let mut lives = self.0.lives.clone();
        let next = lives.wait_for(|present| !Arc::ptr_eq(present, life)).await;
        next.ok().map(|next| Arc::clone(&next))
    }
}

/// A client that was made elsewhere: once it is dead, there is no other.
impl From<Client> for Connection {
    fn from(client: Client) -> Self {
        let (_, lives) = watch::channel(Arc::new(Life::new(client, None)));
        Self(Arc::new(Inner { lives, _keeper: None }))
    }
}

impl From<&Client> for Connection {
    fn from(client: &Client) -> Self {
        client.clone().into()
    }
}

impl From<&Connection> for Connection {
    fn from(connection: &Connection) -> Self {
        connection.clone()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("connected", &self.is_connected())
            .field("connects", &self.connects())
            .finish_non_exhaustive()
    }
}

/// How clients are made.
struct Making {
    url: String,
    identity: Identity,
    hears: Arc<dyn Fn(&Event) + Send + Sync>,
}

/// The end of a client.
struct End {
    /// Whoever tells is dropped with the client's tasks.
    told: oneshot::Receiver<()>,
    /// Somebody wanted it.
    is_closed: Arc<AtomicBool>,
}

impl Making {
    async fn life(&self, before: Option<&Life>) -> Result<(Life, End), ConnectError> {
        let (tells, told) = oneshot::channel();
        let is_closed = Arc::new(AtomicBool::new(false));
        let (closed, hears) = (Arc::clone(&is_closed), Arc::clone(&self.hears));
        let hears = move |event: &Event| {
            let _dropped_last = &tells;
            if matches!(event, Event::Draining | Event::Closed) {
                closed.store(true, Ordering::Relaxed);
            }
            hears(event);
        };
        let client = connect::connect_hearing(&self.url, &self.identity, hears).await?;
        Ok((Life::new(client, before), End { told, is_closed }))
    }

    /// Puts another client in the place of each that has died, until one is closed.
    async fn keep(self, present: watch::Sender<Arc<Life>>, mut end: End) {
        let mut deaths = 0_usize;
        loop {
            let began = Instant::now();
            let _ = end.told.await;
            if end.is_closed.load(Ordering::Relaxed) {
                return;
            }
            let before = Arc::clone(&present.borrow());
            before.is_dead.store(true, Ordering::Relaxed);
            (self.hears)(&Event::Disconnected);
            tracing::error!(
                component = "nats",
                "a NATS client has died, and another takes its place: a message with a carriage return in a header's value does \
                 that, and whoever may publish where the client hears can send one (see the runbook)"
            );
            deaths = if began.elapsed() < SOUND { deaths + 1 } else { 0 };
            let next = loop {
                sleep(connect::pause(deaths.min(DEATHS_MAX))).await;
                match self.life(Some(&before)).await {
                    Ok(next) => break next,
                    // A file of credentials that is being replaced.
                    Err(error) => {
                        tracing::warn!(component = "nats", %error, "no NATS client can be made");
                        deaths = DEATHS_MAX;
                    }
                }
            };
            end = next.1;
            present.send_replace(Arc::new(next.0));
        }
    }
}
