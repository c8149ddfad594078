//! The gateway put together: engine, platform, listeners, drain.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arqon::{
    OverseerLayer, RolloutLayer, TenantId,
    bus::{Bus, BusConfig, BusMetrics, Event},
    config::{self, Config, NatsConfig},
    memory::{self, Broker},
    nats,
    platform::Platform,
};
use axum::{Router, body::Body};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Layer, ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    admin::{self, Admin},
    hub::Hub,
    readiness::Readiness,
    routes::{self, MessageService, Public},
    server::{self, Limits},
};

/// How often readiness is looked at, so that a flip is told on the bus.
const READINESS_TICK: Duration = Duration::from_millis(250);

/// What the admin routes and the background tasks share.
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) readiness: Readiness,
    pub(crate) platform: Platform,
    engine: &'static str,
    started: Instant,
}

impl Shared {
    /// Hands what the bus counts to the recorder.
    pub(crate) fn sample_bus(&self) {
        let counted = self.bus.metrics();
        metrics::counter!("bus_overflow_dropped_total").absolute(counted.overflow_dropped_total());
        metrics::gauge!("bus_queue_depth").set(self.bus.queue_depth() as f64);
        metrics::gauge!("bus_subscribers_total").set(self.bus.subscribers() as f64);
    }

    /// Everything an operator may want to see, as one JSON object.
    pub(crate) fn state(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "engine": self.engine,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "ready": self.readiness.is_ready(),
            "checks": self.readiness.checks(),
            "bus": {
                "capacity": self.bus.capacity(),
                "subscribers": self.bus.subscribers(),
                "dropped": self.bus.metrics().overflow_dropped_total(),
            },
            "overseer": { "policies": self.platform.overseer.policies() },
            "registry": self.platform.schema_state(),
            "rollout": self.platform.rollout.status(),
            "mirroring": self.platform.shadow.state(),
        })
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    public: SocketAddr,
    admin: SocketAddr,
    shared: Arc<Shared>,
    broker: Option<Broker>,
    draining: Arc<AtomicBool>,
    stop_public: CancellationToken,
    stop_admin: CancellationToken,
    listeners: TaskTracker,
    sessions: TaskTracker,
    drain_timeout: Duration,
}

/// What carries messages.
#[expect(clippy::large_enum_variant, reason = "there is one, made once at start")]
enum Engine {
    Memory(Broker),
    Nats {
        clients: nats::Clients,
        publish: nats::Publish,
    },
}

impl Gateway {
    /// Starts everything. Nothing listens before the whole configuration is known to hold.
    ///
    /// # Errors
    /// Findings, a line each.
    pub(crate) async fn start(mut config: Config, metrics: PrometheusHandle) -> Result<Self, String> {
        // The edge's cap is every layer's: no contract is checked on a body that could not be published.
        let cap = config.gateway.max_body_bytes;
        let layers = &mut config.platform;
        layers.overseer.max_body_bytes = layers.overseer.max_body_bytes.min(cap);
        layers.registry.max_body_bytes = layers.registry.max_body_bytes.min(cap);
        let gateway = &config.gateway;
        let public = server::bind("gateway.listen", gateway.listen).await?;
        let operators = server::bind("gateway.admin_listen", gateway.admin_listen).await?;
        let control_token = match &gateway.control_token_file {
            Some(path) => Some(Arc::from(config::control_token(path)?)),
            None => None,
        };
        let bus_metrics = Arc::new(BusMetrics::new());
        let bus = Bus::with_metrics(BusConfig::new(config.bus.capacity), bus_metrics)
            .map_err(|error| format!("bus.capacity: {error}"))?;

        let readiness = Readiness::default();
        let tasks = TaskTracker::new();
        let stop_admin = CancellationToken::new();
        let engine = engine(&config, &readiness, &tasks, &stop_admin).await?;
        let platform = match &engine {
            Engine::Memory(broker) => {
                Platform::start(&config.platform, memory::Sink::new(broker.clone()), &bus).await
            }
            Engine::Nats { clients, .. } => Platform::start_with_nats(&config.platform, clients, &bus).await,
        }
        .map_err(|findings| findings.to_string())?;
        readiness.add("schemas", platform.schemas_ready());
        readiness.add("policies", platform.policies_ready());

        let tenant = TenantId::new("default").map_err(|error| error.to_string())?;
        let stack = platform.stack(routes::subjects(tenant.clone()));
        let upgrade = (stack.overseer.clone(), stack.rollout.clone());
        let (service, hub, broker) = message_service(&stack, &engine, gateway.max_body_bytes);
        let draining = Arc::new(AtomicBool::new(false));
        readiness.add("accepting", {
            let draining = Arc::clone(&draining);
            move || {
                if draining.load(Ordering::Relaxed) {
                    Err("draining".to_owned())
                } else {
                    Ok(())
                }
            }
        });
        let shared = Arc::new(Shared {
            bus,
            readiness,
            platform,
            engine: if broker.is_some() { "embedded" } else { "nats" },
            started: Instant::now(),
        });
        shared.sample_bus();
        let this = Self {
            public: public.local_addr().map_err(|error| error.to_string())?,
            admin: operators.local_addr().map_err(|error| error.to_string())?,
            shared: Arc::clone(&shared),
            broker,
            draining,
            stop_public: CancellationToken::new(),
            stop_admin,
            listeners: tasks,
            sessions: TaskTracker::new(),
            drain_timeout: Duration::from_millis(gateway.drain_timeout_ms),
        };
        let admin = Admin {
            shared,
            metrics: metrics.clone(),
            control_token,
        };
        this.serve(
            &config,
            (public, operators),
            this.public_routes(service, upgrade, hub, tenant, &config),
            admin,
        );
        this.watch_readiness(metrics);
        Ok(this)
    }

    fn public_routes(
        &self,
        stack: MessageService,
        (overseer, rollout): (OverseerLayer, RolloutLayer),
        hub: Hub,
        tenant: TenantId,
        config: &Config,
    ) -> Router {
        routes::router(Public {
            stack,
            overseer,
            rollout,
            tenant,
            hub,
            max_body_bytes: config.gateway.max_body_bytes,
            sessions: self.sessions.clone(),
            stop: self.stop_public.clone(),
        })
    }

    fn serve(&self, config: &Config, listeners: (TcpListener, TcpListener), public: Router, admin: Admin) {
        let gateway = &config.gateway;
        let limits = Limits {
            max_connections: gateway.max_connections,
            header_timeout: Duration::from_millis(gateway.header_timeout_ms),
            body_idle_timeout: Duration::from_millis(gateway.body_idle_timeout_ms),
            drain_bytes: gateway.max_body_bytes.saturating_mul(2),
            drain_timeout: self.drain_timeout,
        };
        self.listeners.spawn(server::serve(
            listeners.0,
            public,
            limits,
            self.stop_public.clone(),
        ));
        // An event stream never ends by itself, so the admin listener does not wait for its requests.
        let limits = Limits {
            drain_timeout: Duration::from_millis(200),
            ..limits
        };
        self.listeners.spawn(server::serve(
            listeners.1,
            admin::router(admin),
            limits,
            self.stop_admin.clone(),
        ));
    }

    /// Tells a flip of readiness on the bus, and keeps the recorder's buckets small.
    fn watch_readiness(&self, metrics: PrometheusHandle) {
        let (shared, stop) = (Arc::clone(&self.shared), self.stop_admin.clone());
        self.listeners.spawn(async move {
            let mut ticks = interval(READINESS_TICK);
            let (mut ready, mut count) = (None, 0_u64);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                let now = shared.readiness.is_ready();
                if ready.replace(now) != Some(now) {
                    // Nobody has to listen.
                    let _ = shared.bus.publish(Event::Health {
                        service: "gateway".to_owned(),
                        ok: now,
                    });
                }
                count += 1;
                if count.is_multiple_of(20) {
                    metrics.run_upkeep();
                }
            }
        });
    }

    /// Where clients connect.
    pub(crate) fn public(&self) -> SocketAddr {
        self.public
    }

    /// Where operators connect.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The embedded broker, unless NATS carries the messages.
    pub(crate) fn broker(&self) -> Option<&Broker> {
        self.broker.as_ref()
    }

    /// What the layers know of themselves.
    pub(crate) fn platform(&self) -> &Platform {
        &self.shared.platform
    }

    /// Takes no more traffic, lets what is under way end, closes sessions with 1001, delivers what the mirror holds, and
    /// returns within the drain's time and a few seconds.
    pub(crate) async fn drain(self) {
        self.draining.store(true, Ordering::Relaxed);
        let _ = self.shared.bus.publish(Event::Shutdown);
        self.stop_public.cancel();
        self.sessions.close();
        if tokio::time::timeout(self.drain_timeout, self.sessions.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                component = "edge",
                "sessions were still open when the drain's time was up"
            );
        }
        self.shared.platform.shutdown(Duration::from_secs(2)).await;
        self.stop_admin.cancel();
        self.listeners.close();
        let _ = tokio::time::timeout(self.drain_timeout, self.listeners.wait()).await;
    }
}

async fn engine(
    config: &Config,
    readiness: &Readiness,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Engine, String> {
    let Some(settings) = &config.nats else {
        return Ok(Engine::Memory(Broker::new()));
    };
    let clients = nats::Clients {
        primary: connect(settings).await?,
        mirror: connect(settings).await?,
        control: connect(settings).await?,
        replicas: settings.replicas,
    };
    let publish = nats::Publish::new(clients.primary.clone())
        .replicas(settings.replicas)
        .timeout(Duration::from_millis(settings.publish_timeout_ms))
        .max_body_bytes(config.gateway.max_body_bytes);
    readiness.add("nats", {
        let client = clients.primary.clone();
        move || nats::connect::ready(&client)
    });
    // The server may come later: the stream is made once it is there, and readiness says so until then.
    let made = Arc::new(AtomicBool::new(false));
    readiness.add("stream", {
        let (made, stream) = (Arc::clone(&made), settings.stream.clone());
        move || {
            if made.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err(format!("stream {stream} is not there yet"))
            }
        }
    });
    let (maker, stream, stop) = (publish.clone(), settings.stream.clone(), stop.clone());
    tasks.spawn(async move {
        let mut ticks = interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match maker.create_stream(&stream).await {
                Ok(()) => return made.store(true, Ordering::Relaxed),
                Err(error) => tracing::debug!(component = "nats", error = %error, "no stream yet"),
            }
        }
    });
    Ok(Engine::Nats { clients, publish })
}

async fn connect(settings: &NatsConfig) -> Result<async_nats::Client, String> {
    let connected = nats::connect(&settings.url, settings.creds_file.as_deref()).await;
    connected.map_err(|error| {
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    })
}

/// One box, here at the edge: everything inside it is one concrete type. (A macro, since a function would have to name
/// the bounds of all seven layers.)
macro_rules! boxed {
    ($stack:expr, $bottom:expr) => {
        BoxCloneSyncService::new(
            ServiceBuilder::new()
                .map_response(|response: http::Response<_>| response.map(Body::new))
                .service($stack.layer($bottom)),
        )
    };
}

fn message_service(
    stack: &arqon::Stack,
    engine: &Engine,
    max_body_bytes: usize,
) -> (MessageService, Hub, Option<Broker>) {
    match engine {
        Engine::Memory(broker) => {
            let bottom = memory::Publish::new(broker.clone()).max_body_bytes(max_body_bytes);
            (
                boxed!(stack, bottom),
                Hub::Memory(broker.clone()),
                Some(broker.clone()),
            )
        }
        Engine::Nats { clients, publish } => (
            boxed!(stack, publish.clone()),
            Hub::Nats(clients.primary.clone()),
            None,
        ),
    }
}
