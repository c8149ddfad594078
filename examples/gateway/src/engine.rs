//! What carries messages, and the one service that every message passes on its way to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arqon::{
    config::{Config, NatsConfig, NatsUserConfig},
    memory::{self, Broker},
    nats,
    shadow::ResponseTapLayer,
    supervise::Supervisor,
};
use axum::body::Body;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceBuilder, util::BoxCloneSyncService};

use crate::{hearing::Hearing, hub::Hub, readiness::Readiness, routes::MessageService};

/// What carries messages.
#[expect(clippy::large_enum_variant, reason = "there is one, made once at start")]
pub(crate) enum Engine {
    Memory(Broker),
    Nats {
        clients: nats::Clients,
        publish: nats::Publish,
        /// What hears, apart from them.
        hearing: Hearing,
    },
}

impl Engine {
    pub(crate) fn clients(&self) -> Option<nats::Clients> {
        match self {
            Self::Memory(_) => None,
            Self::Nats { clients, .. } => Some(clients.clone()),
        }
    }
}

/// Connects to NATS where the configuration names one, and names what readiness waits for; else a broker in memory.
pub(crate) async fn start(
    config: &Config,
    readiness: &Readiness,
    tasks: &Supervisor,
    stop: &CancellationToken,
) -> Result<Engine, String> {
    let Some(settings) = &config.nats else {
        return Ok(Engine::Memory(Broker::new()));
    };
    let (url, identity) = nats::Identity::of(settings, settings.mirror.as_ref());
    let clients = nats::Clients {
        primary: open(settings, None).await?,
        mirror: connected(nats::connect_as(&url, &identity).await)?,
        control: open(settings, settings.control.as_ref()).await?,
        replicas: settings.replicas,
    };
    let publish = nats::Publish::new(clients.primary.clone())
        .replicas(settings.replicas)
        .timeout(Duration::from_millis(settings.publish_timeout_ms))
        .max_body_bytes(config.gateway.max_body_bytes);
    readiness.add("nats", {
        let primary = clients.primary.clone();
        move || primary.ready()
    });
    for (name, user, connection) in [
        (
            "nats_mirror",
            &settings.mirror,
            nats::Connection::from(&clients.mirror),
        ),
        ("nats_control", &settings.control, clients.control.clone()),
    ] {
        // A user that the server does not know is to be seen; messages pass without it.
        if user.is_some() {
            readiness.advise(name, move || connection.ready());
        }
    }
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
    tasks.keep("stream", move || {
        make_stream(maker.clone(), stream.clone(), Arc::clone(&made), stop.clone())
    });
    let hearing = Hearing::new(settings, clients.primary.clone());
    Ok(Engine::Nats {
        clients,
        publish,
        hearing,
    })
}

/// Tries until the stream is there.
async fn make_stream(
    maker: nats::Publish,
    stream: String,
    made: Arc<AtomicBool>,
    stop: CancellationToken,
) -> Result<(), String> {
    let mut ticks = interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        // NATS may be away, and then the answer is waited for some seconds.
        let created = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            created = maker.create_stream(&stream) => created,
        };
        match created {
            Ok(()) => {
                made.store(true, Ordering::Relaxed);
                return Ok(());
            }
            Err(error) => tracing::debug!(component = "nats", error = %error, "no stream yet"),
        }
    }
}

async fn open(settings: &NatsConfig, user: Option<&NatsUserConfig>) -> Result<nats::Connection, String> {
    let (url, identity) = nats::Identity::of(settings, user);
    connected(nats::Connection::open(&url, &identity, |_| {}).await)
}

/// What was connected, or why not.
pub(crate) fn connected<C>(client: Result<C, nats::ConnectError>) -> Result<C, String> {
    client.map_err(|error| {
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
                .service($stack.layer(ResponseTapLayer.layer($bottom))),
        )
    };
}

/// The stack around what publishes, where frames and NATS messages go in; and what subscribers hear.
pub(crate) fn message_service(
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
        Engine::Nats { publish, hearing, .. } => {
            (boxed!(stack, publish.clone()), Hub::Nats(hearing.clone()), None)
        }
    }
}
