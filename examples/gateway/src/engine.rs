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
use async_nats::Event;
use axum::body::Body;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceBuilder, util::BoxCloneSyncService};

use crate::{hearing::Hearing, hub::Hub, readiness::Readiness, routes::MessageService};

/// How often the stream is looked for that was there, and at most how long after it is gone.
const STREAM_LOOK: Duration = Duration::from_secs(5);
/// The pause before it is looked for again where it is not there, and the least after a message found none.
const STREAM_PAUSE: Duration = Duration::from_millis(500);

/// What carries messages.
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
    let new_connection = Arc::new(Notify::new());
    let tells = Arc::clone(&new_connection);
    let hears = move |event: &Event| {
        if matches!(event, Event::Connected) {
            tells.notify_one();
        }
    };
    let control = open(settings, settings.control.as_ref(), |_| {}).await?;
    let decisions = if config.platform.rollout.enabled {
        open(settings, settings.control.as_ref(), |_| {}).await?
    } else {
        control.clone()
    };
    let clients = nats::Clients {
        primary: open(settings, None, hears).await?,
        mirror: open(settings, settings.mirror.as_ref(), |_| {}).await?,
        control,
        decisions,
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
    let (mirror, control, decisions) = (
        clients.mirror.clone(),
        clients.control.clone(),
        clients.decisions.clone(),
    );
    // A user that the server does not know is to be seen; messages pass without it.
    if settings.mirror.is_some() {
        readiness.advise("nats_mirror", move || mirror.ready());
    }
    if settings.control.is_some() {
        readiness.advise("nats_control", move || {
            control.ready().and_then(|()| decisions.ready())
        });
    }
    // The server may come later: the stream is made once it is there, and readiness says so until then.
    let is_there = Arc::new(AtomicBool::new(false));
    readiness.add("stream", {
        let (is_there, stream) = (Arc::clone(&is_there), settings.stream.clone());
        move || {
            if is_there.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err(format!("stream {stream} is not there"))
            }
        }
    });
    let (keeper, stream, stop) = (publish.clone(), settings.stream.clone(), stop.clone());
    tasks.keep("stream", move || {
        let (is_there, connected) = (Arc::clone(&is_there), Arc::clone(&new_connection));
        keep_stream(keeper.clone(), stream.clone(), is_there, connected, stop.clone())
    });
    let hearing = Hearing::new(settings, clients.primary.clone());
    Ok(Engine::Nats {
        clients,
        publish,
        hearing,
    })
}

/// Makes the stream, and goes on to look whether it is there: a server may come back without its store, and somebody may delete it.
/// A look is due where a message found none, after a new connection, and every few seconds.
async fn keep_stream(
    publish: nats::Publish,
    stream: String,
    is_there: Arc<AtomicBool>,
    connected: Arc<Notify>,
    stop: CancellationToken,
) -> Result<(), String> {
    loop {
        // NATS may be away, and then the answer is waited for some seconds.
        let made = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            made = publish.create_stream(&stream) => made,
        };
        match &made {
            Ok(()) => is_there.store(true, Ordering::Relaxed),
            Err(error) if error.is_answered() && is_there.swap(false, Ordering::Relaxed) => {
                let error = causes(error);
                tracing::error!(
                    component = "nats",
                    stream,
                    error,
                    "the stream is not there any more, or JetStream is not, and it cannot be made"
                );
            }
            Err(error) => tracing::debug!(component = "nats", error = causes(error), "no stream"),
        }
        let pause = if made.is_ok() { STREAM_LOOK } else { STREAM_PAUSE };
        let soonest = Instant::now() + STREAM_PAUSE;
        let found_none = async {
            publish.found_no_stream().await;
            sleep_until(soonest).await;
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep(pause) => {}
            () = found_none => {}
            () = connected.notified() => {}
        }
    }
}

async fn open(
    settings: &NatsConfig,
    user: Option<&NatsUserConfig>,
    hears: impl Fn(&Event) + Send + Sync + 'static,
) -> Result<nats::Connection, String> {
    let (url, identity) = nats::Identity::of(settings, user);
    connected(nats::Connection::open(&url, &identity, hears).await)
}

/// What was connected, or why not.
pub(crate) fn connected<C>(client: Result<C, nats::ConnectError>) -> Result<C, String> {
    client.map_err(|error| causes(&error))
}

fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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
