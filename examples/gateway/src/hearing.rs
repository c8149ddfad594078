//! Connections of NATS that hear, apart from the one that publishes.
//!
//! A NATS server passes headers on as they came, and the client ends its connection at the first message whose headers it cannot
//! read. Whoever may publish where we hear can send one: so what hears for `nats.serve` has a connection, and so has what hears
//! for each tenant's sessions. One that is cut comes back at once; publishes, readiness and the other tenants notice nothing of it. Where the
//! client does not end its connection but dies of the message, [`Connection`] has another one in its place as soon.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arqon::{
    TenantId,
    config::NatsConfig,
    nats::{ConnectError, Connection},
};
use async_nats::Event;
use tokio::sync::{OnceCell, watch};

/// How many tenants have a connection of their own; those beyond share one.
const TENANTS_MAX: usize = 256;
/// What is said of the connection of `nats.serve` in place of a tenant.
const ALL: &str = "(all: nats.serve)";
/// What is said of the connection that tenants share.
const SHARED: &str = "(shared)";

/// A connection that hears.
#[derive(Debug)]
pub(crate) struct Ear {
    pub(crate) nats: Connection,
    /// Changes whenever messages may have passed by: the connection was lost, or the client had no more room.
    pub(crate) losses: watch::Receiver<u64>,
}

/// Opens them. Cloning it is a reference count.
#[derive(Clone)]
pub(crate) struct Hearing(Arc<Shared>);

struct Shared {
    settings: NatsConfig,
    publishing: Connection,
    /// By tenant; `None` is the one that is shared.
    ears: Mutex<HashMap<Option<TenantId>, Arc<OnceCell<Ear>>>>,
}

impl Hearing {
    /// Beside `publishing`, as the same user.
    pub(crate) fn new(settings: &NatsConfig, publishing: Connection) -> Self {
        Self(Arc::new(Shared {
            settings: settings.clone(),
            publishing,
            ears: Mutex::default(),
        }))
    }

    /// Whether a server is there, as far as the connection that publishes knows.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.0.publishing.ready()
    }

    /// The connection that hears requests of all tenants.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub(crate) async fn of_all(&self) -> Result<Ear, ConnectError> {
        self.open(ALL).await
    }

    /// The connection that hears for the sessions of `tenant`; it is kept while somebody holds what is returned.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub(crate) async fn of(&self, tenant: &TenantId) -> Result<Arc<OnceCell<Ear>>, ConnectError> {
        let (ear, whose) = {
            let mut ears = self.0.ears.lock().unwrap_or_else(PoisonError::into_inner);
            // One that nobody uses goes. While its server is away it stays, since its client would go on trying anyway.
            ears.retain(|_, ear| {
                let open = ear.get();
                Arc::strong_count(ear) > 1 || open.is_some_and(|open| !open.nats.is_connected())
            });
            let own = Some(tenant.clone());
            let alone = ears.contains_key(&own) || ears.len() < TENANTS_MAX;
            let (key, whose) = if alone {
                (own, tenant.as_str())
            } else {
                (None, SHARED)
            };
            (Arc::clone(ears.entry(key).or_default()), whose)
        };
        ear.get_or_try_init(|| self.open(whose)).await?;
        Ok(ear)
    }

    async fn open(&self, whose: &str) -> Result<Ear, ConnectError> {
        let (missed, losses) = watch::channel(0);
        let (publishing, whose) = (self.0.publishing.clone(), whose.to_owned());
        // How often the other one had connected when this one was lost.
        let at_loss = AtomicU64::new(u64::MAX);
        let hears = move |event: &Event| match event {
            Event::Disconnected => {
                at_loss.store(publishing.connects(), Ordering::Relaxed);
                missed.send_modify(|count| *count += 1);
            }
            Event::SlowConsumer(_) => missed.send_modify(|count| *count += 1),
            Event::Connected
                if at_loss.swap(u64::MAX, Ordering::Relaxed) == publishing.connects()
                    && publishing.is_connected() =>
            {
                tracing::warn!(
                    component = "nats",
                    tenant = whose.as_str(),
                    "a connection that hears was cut while the one that publishes held, and is back: a message whose headers \
                     cannot be read does that, and whoever may publish where it hears can send one (see the runbook)"
                );
            }
            _ => {}
        };
        let settings = &self.0.settings;
        let nats = Connection::open(&settings.url, &settings.into(), hears).await?;
        Ok(Ear { nats, losses })
    }
}
