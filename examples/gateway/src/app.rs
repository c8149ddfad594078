//! The gateway put together: engine, platform, listeners, drain.

mod state;

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
    bus::{Bus, BusMetrics, Event},
    config::Config,
    memory::{self, Broker},
    nats,
    observe::ObserveLayer,
    platform::Platform,
    supervise::Supervisor,
};
use tokio::{net::TcpListener, sync::mpsc, time::interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Admin},
    body::Times,
    brake, bus,
    control::ControlToken,
    edge::Edge,
    engine::{self, Engine},
    feed::{self, Pump},
    hub::Hub,
    ingress, observe,
    readiness::{Flips, Readiness},
    recorder::Metrics,
    reload::{self, Reloader, Source},
    routes::{self, MessageService, Public},
    server::{self, App, Door, Limits},
};

/// How often readiness is looked at, so that a flip is told on the bus.
const READINESS_TICK: Duration = Duration::from_millis(250);

/// How long an HTTP/2 connection may ask for nothing.
const H2_IDLE: Duration = Duration::from_secs(60);
/// How long the admin listener's open requests may take at the end of a drain.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);
/// How long a reload that is under way is waited for: its file may lie on a disk that does not answer.
const RELOAD_DRAIN: Duration = Duration::from_secs(2);
/// How long tasks may take to end once nothing comes any more.
const TASKS_DRAIN: Duration = Duration::from_secs(3);

/// How long NATS may take at the end of a drain to take what its clients hold.
const NATS_DRAIN: Duration = Duration::from_secs(1);

/// What the admin routes and the background tasks share.
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) readiness: Readiness,
    pub(crate) platform: Platform,
    pub(crate) config: reload::Running,
    /// What operators' orders carry.
    pub(crate) control: Option<ControlToken>,
    flips: Flips,
    /// The gateway's own tasks.
    tasks: Supervisor,
    about: state::About,
    started: Instant,
}

impl Shared {
    /// Hands the recorder what is read rather than counted: readiness, the bus, the age of the registry.
    pub(crate) fn sample(&self) {
        let ready = if self.readiness.is_ready() { 1.0 } else { 0.0 };
        metrics::gauge!("shield_gateway_ready").set(ready);
        let age = self.platform.schema.age();
        metrics::gauge!("shield_schema_registry_age_seconds").set(age.as_secs_f64());
        self.platform.overseer.settle();
        let counted = self.bus.metrics();
        let labels = self.bus.metric_labels();
        metrics::counter!(BusMetrics::OVERFLOW_DROPPED_TOTAL, &labels)
            .absolute(counted.overflow_dropped_total());
        metrics::gauge!(BusMetrics::QUEUE_DEPTH, &labels).set(self.bus.queue_depth() as f64);
        metrics::gauge!(BusMetrics::SUBSCRIBERS_TOTAL, &labels).set(self.bus.subscribers() as f64);
    }

    /// Tells on the bus whether readiness has flipped.
    fn look_at_readiness(&self) {
        self.flips.look(&self.readiness, &self.bus);
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
    sessions: TaskTracker,
    /// Cancelled once the public listener has let its last request end.
    edge_ended: CancellationToken,
    /// Cancelled once every message that was taken off NATS is answered.
    ingress_ended: CancellationToken,
    /// What is flushed and closed last.
    clients: Option<nats::Clients>,
    /// Cancelled once no reload is under way and none will be; None where none was asked for.
    reload_ended: Option<CancellationToken>,
    drain_timeout: Duration,
    /// What it was started with.
    config: Config,
}

/// The configuration as it is in force: the edge's cap is every layer's, since no contract is checked on a body that could
/// not be published.
pub(crate) fn effective(mut config: Config) -> Config {
    let cap = config.gateway.max_body_bytes;
    let layers = &mut config.platform;
    layers.overseer.max_body_bytes = layers.overseer.max_body_bytes.min(cap);
    layers.registry.max_body_bytes = layers.registry.max_body_bytes.min(cap);
    config
}

/// How many facts a reader of `/v1/events` may be behind: a batch is one place on the bus and many facts to a reader.
fn feed_capacity(bus: usize) -> usize {
    bus.max(4 * Bus::BATCH_EVENTS_MAX)
}

impl Gateway {
    /// Starts everything. Nothing listens before the whole configuration is known to hold.
    ///
    /// # Errors
    /// Findings, a line each.
    pub(crate) async fn start(config: Config, metrics: Metrics) -> Result<Self, String> {
        let config = effective(config);
        let gateway = &config.gateway;
        let public = server::bind("gateway.listen", gateway.listen).await?;
        let operators = server::bind("gateway.admin_listen", gateway.admin_listen).await?;
        let control = gateway.control_token_file.as_deref();
        let control = control.map(ControlToken::read).transpose()?;
        let bus = bus::new(&config)?;
        // Before anything is published: readers of the feed miss nothing that the start tells.
        let (feed, pump) = feed::feed(bus.observe("events"), feed_capacity(bus.capacity()));

        let readiness = Readiness::default();
        let tasks = Supervisor::new(bus.clone());
        let stop_admin = CancellationToken::new();
        let edge = Edge::new(&config, &readiness, &tasks, &stop_admin)?;
        let engine = engine::start(&config, &readiness, &tasks, &stop_admin).await?;
        let platform = match &engine {
            Engine::Memory(broker) => {
                Platform::start(&config.platform, memory::Sink::new(broker.clone()), &bus).await
            }
            Engine::Nats { clients, .. } => Platform::start_with_nats(&config.platform, clients, &bus).await,
        }
        .map_err(|findings| findings.to_string())?;
        readiness.add_noted("schemas", platform.schemas_ready(), platform.schemas_note());
        readiness.add("policies", platform.policies_ready());
        brake::watch(&platform, &readiness, &tasks, &stop_admin);
        readiness.add("tasks", {
            let (of_layers, own) = (platform.tasks_ready(), tasks.clone());
            move || {
                of_layers()
                    .and_then(|()| own.alive(&["edge", "admin", "readiness", "stream", "ingress", "auth"]))
            }
        });

        let tenant = TenantId::new("default").map_err(|error| error.to_string())?;
        let mut stack = platform.stack(routes::subjects());
        edge.protect(&mut stack);
        let upgrade = (stack.overseer.clone(), stack.rollout.clone());
        let (observe, exporter) = observe::layer(&config.telemetry)?;
        if let Some(exporter) = exporter {
            tasks.run("otlp", exporter.run(stop_admin.clone()));
        }
        let (service, hub, broker) = engine::message_service(&stack, &engine, gateway.max_body_bytes);
        let draining = Arc::new(AtomicBool::new(false));
        readiness.add("accepting", {
            let draining = Arc::clone(&draining);
            move || match draining.load(Ordering::Relaxed) {
                true => Err("draining".to_owned()),
                false => Ok(()),
            }
        });
        let shared = Arc::new(Shared {
            bus,
            readiness,
            platform,
            config: reload::Running::default(),
            control,
            flips: Flips::default(),
            tasks,
            about: state::About::new(&config, &public, &operators)?,
            started: Instant::now(),
        });
        shared.sample();
        let mut this = Self {
            public: public.local_addr().map_err(|error| error.to_string())?,
            admin: operators.local_addr().map_err(|error| error.to_string())?,
            shared: Arc::clone(&shared),
            broker,
            draining,
            stop_public: CancellationToken::new(),
            stop_admin,
            sessions: TaskTracker::new(),
            edge_ended: CancellationToken::new(),
            ingress_ended: CancellationToken::new(),
            clients: engine.clients(),
            reload_ended: None,
            drain_timeout: Duration::from_millis(gateway.drain_timeout_ms),
            config: config.clone(),
        };
        let admin = Admin {
            shared,
            metrics: metrics.clone(),
            feed,
        };
        this.tell_readers(pump);
        let limit = edge.limit.clone();
        this.serve(
            &config,
            (public, operators),
            this.public_routes(
                (observe.clone(), service),
                upgrade,
                (hub, edge.clone()),
                tenant,
                &config,
            ),
            (admin, edge),
        );
        this.watch_readiness(metrics);
        let ended = this.ingress_ended.clone().drop_guard();
        if let (Engine::Nats { clients, hearing, .. }, Some(Some(serve))) =
            (&engine, config.nats.as_ref().map(|nats| &nats.serve))
        {
            let mut stack = this.shared.platform.nats_stack();
            stack.limit = limit;
            let (service, ..) = engine::message_service(&stack, &engine, config.gateway.max_body_bytes);
            let timeout = Duration::from_millis(config.gateway.request_timeout_ms);
            let service = MessageService::new(routes::of_messages(&observe, service, timeout));
            let limits = (config.gateway.max_body_bytes, this.drain_timeout);
            let heard = engine::connected(hearing.of_all().await)?.nats;
            // Messages pass without it.
            let ready = heard.clone();
            this.shared.readiness.advise("nats_serve", move || ready.ready());
            let (replies, serve) = (clients.primary.clone(), serve.clone());
            let stop = this.stop_public.clone();
            this.shared.tasks.keep("ingress", move || {
                // The last life ends what waits for it; it is gone with this closure.
                let _waited_for = &ended;
                ingress::run(
                    (heard.clone(), replies.clone()),
                    serve.clone(),
                    (observe.clone(), service.clone()),
                    limits,
                    stop.clone(),
                )
            });
        }
        Ok(this)
    }

    fn public_routes(
        &self,
        (observe, stack): (ObserveLayer, MessageService),
        (overseer, rollout): (OverseerLayer, RolloutLayer),
        (hub, edge): (Hub, Edge),
        tenant: TenantId,
        config: &Config,
    ) -> impl App + Sync + use<> {
        routes::app(Public {
            observe,
            stack,
            overseer,
            rollout,
            shadow: self.shared.platform.shadow.clone(),
            tenant,
            edge,
            hub,
            request_timeout: Duration::from_millis(config.gateway.request_timeout_ms),
            cors_origins: config.gateway.cors_origins.clone().into(),
            sessions: self.sessions.clone(),
            stop: self.stop_public.clone(),
        })
    }

    fn serve(
        &mut self,
        config: &Config,
        listeners: (TcpListener, TcpListener),
        public: impl App + Sync,
        (admin, edge): (Admin, Edge),
    ) {
        let gateway = &config.gateway;
        let limits = Limits {
            listener: "public",
            max_connections: gateway.max_connections,
            max_streams: gateway.max_streams,
            header_timeout: Duration::from_millis(gateway.header_timeout_ms),
            body: Times {
                idle: Duration::from_millis(gateway.body_idle_timeout_ms),
                whole: Duration::from_millis(gateway.request_timeout_ms),
            },
            drain_bytes: gateway.max_body_bytes.saturating_mul(2),
            h2_idle: H2_IDLE,
            drain_timeout: self.drain_timeout,
        };
        let stop = self.stop_public.clone();
        let door = Door::new(listeners.0, public, limits, Some(edge), stop);
        self.edge_ended = door.keep("edge", &self.shared.tasks);
        // Event streams end with the feed; a reader that takes nothing any more is not waited for.
        let limits = Limits {
            listener: "admin",
            drain_timeout: ADMIN_DRAIN,
            ..limits
        };
        let stop = self.stop_admin.clone();
        Door::new(listeners.1, admin::router(admin), limits, None, stop).keep("admin", &self.shared.tasks);
    }

    /// Hands facts to the readers of `/v1/events`.
    fn tell_readers(&self, pump: Pump) {
        self.shared.tasks.run("events", pump.run(self.stop_admin.clone()));
    }

    /// Looks at readiness, so that a flip is told on the bus, and keeps the recorder's buckets small.
    fn watch_readiness(&self, metrics: Metrics) {
        let (shared, stop) = (Arc::clone(&self.shared), self.stop_admin.clone());
        self.shared.tasks.keep("readiness", move || {
            look(Arc::clone(&shared), stop.clone(), metrics.clone())
        });
    }

    /// Reloads the configuration from `source` on each of `signals` and when its file changes.
    pub(crate) fn reload_from(&mut self, source: Source, signals: mpsc::Receiver<()>) {
        let reloader = Reloader::new(Arc::clone(&self.shared), source, self.config.clone());
        let running = reloader.run(signals, self.stop_public.clone());
        let ended = self
            .reload_ended
            .insert(CancellationToken::new())
            .clone()
            .drop_guard();
        self.shared.tasks.run("reload", async move {
            let ran = running.await;
            drop(ended);
            ran
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
        self.shared.look_at_readiness();
        // Nobody has to listen.
        let _ = self.shared.bus.publish(Event::Shutdown);
        self.stop_public.cancel();
        self.sessions.close();
        // Requests and sessions first: what they publish is mirrored too, and operators see readiness say no meanwhile.
        // A reload that is under way tells what it did before the readers' streams end.
        let reload = async {
            if let Some(ended) = &self.reload_ended {
                let _ = tokio::time::timeout(RELOAD_DRAIN, ended.cancelled()).await;
            }
        };
        let traffic = async {
            tokio::join!(
                self.edge_ended.cancelled(),
                self.ingress_ended.cancelled(),
                self.sessions.wait(),
                reload
            )
        };
        if tokio::time::timeout(self.drain_timeout, traffic).await.is_err() {
            tracing::warn!(
                component = "edge",
                "requests or sessions were still open when the drain's time was up"
            );
        }
        self.shared.platform.shutdown(Duration::from_secs(2)).await;
        if let Some(clients) = &self.clients {
            clients.drain(NATS_DRAIN).await;
        }
        self.stop_admin.cancel();
        let _ = tokio::time::timeout(TASKS_DRAIN, self.shared.tasks.ended()).await;
        self.shared.tasks.stop().await;
    }
}

async fn look(shared: Arc<Shared>, stop: CancellationToken, metrics: Metrics) -> Result<(), String> {
    let mut ticks = interval(READINESS_TICK);
    let mut count = 0_u64;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        shared.look_at_readiness();
        count += 1;
        if count.is_multiple_of(20) {
            metrics.run_upkeep();
        }
    }
}

#[cfg(test)]
mod tests;
