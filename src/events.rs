//! Facts for the rest of the program: the bus in every request, and the form in which facts leave the process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http::Request;
use ron_bus::{Bus, Event};
use serde::{Deserialize, Serialize};
use tower_layer::Layer;
use tower_service::Service;

/// A layer that puts a [`Bus`] into every request's extensions: HTTP, WebSocket frame and NATS message alike. So any
/// handler, and any layer inside this one, publishes and subscribes without wiring of its own.
///
/// ```
/// use arqon::{BusLayer, bus::{Bus, Event}};
/// use axum::{Extension, Router, routing::post};
///
/// async fn handler(Extension(bus): Extension<Bus>) {
///     let _nobody_has_to_listen = bus.publish(Event::ConfigUpdated { version: 2 });
/// }
///
/// let bus = Bus::new(256)?;
/// let app: Router = Router::new().route("/", post(handler)).layer(BusLayer::new(bus));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct BusLayer {
    bus: Bus,
}

impl BusLayer {
    /// Hands `bus` to every request.
    #[must_use]
    pub const fn new(bus: Bus) -> Self {
        Self { bus }
    }
}

impl<S> Layer<S> for BusLayer {
    type Service = WithBus<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithBus {
            inner,
            bus: self.bus.clone(),
        }
    }
}

/// The service of [`BusLayer`].
#[derive(Clone, Debug)]
pub struct WithBus<S> {
    inner: S,
    bus: Bus,
}

impl<S, B> Service<Request<B>> for WithBus<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.bus.clone());
        self.inner.call(request)
    }
}

/// What killed a task, in words.
pub(crate) fn panic_text(died: tokio::task::JoinError) -> String {
    match died.try_into_panic() {
        Ok(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            format!("panicked: {}", text.unwrap_or("no message"))
        }
        Err(error) => error.to_string(),
    }
}

/// Publishes, and does not mind when nobody listens.
fn tell(bus: &Bus, event: Event) {
    let _unheard = bus.publish(event);
}

/// Reports of the policies.
pub(crate) fn of_overseer(bus: Bus) -> arqon_overseer::OnEvent {
    let loads = AtomicU64::new(0);
    Arc::new(move |event| {
        let (policy, ok) = match event {
            arqon_overseer::Event::PolicyReloaded { name, .. } => (name, true),
            arqon_overseer::Event::PolicyRefused { name, findings } => {
                tracing::warn!(
                    component = "overseer",
                    module = name,
                    findings = findings.join("; "),
                    "policy refused, the last good one stays"
                );
                (name, false)
            }
            _ => return,
        };
        let revision = loads.fetch_add(1, Ordering::Relaxed) + 1;
        tell(&bus, Event::PolicyReloaded { policy, revision, ok });
    })
}

/// Reports of the registry.
pub(crate) fn of_schema(bus: Bus) -> arqon_schema::EventSink {
    Arc::new(move |event| {
        if let arqon_schema::Event::SchemaChanged { id, revision } = event {
            tell(
                &bus,
                Event::SchemaChanged {
                    schema_id: id.as_ref().to_owned(),
                    revision,
                },
            );
        }
    })
}

/// Reports of the rollouts.
pub(crate) fn of_rollout(bus: Bus) -> impl Fn(arqon_rollout::Event) + Send + Sync + 'static {
    let last = AtomicU64::new(0);
    move |event| match event {
        arqon_rollout::Event::Accepted { seq, .. } => last.store(seq, Ordering::Relaxed),
        arqon_rollout::Event::Changed(change) => {
            let rollout = if change.scope.is_empty() {
                change.tenant.to_string()
            } else {
                format!("{} {}", change.tenant, change.scope)
            };
            // Percent to hundredths of a percent; the fold keeps it within 0 to 100.
            let basis_points = (change.percent * 100.0).round().clamp(0.0, 10_000.0) as u16;
            tell(
                &bus,
                Event::RolloutChanged {
                    rollout,
                    seq: last.load(Ordering::Relaxed),
                    basis_points,
                },
            );
        }
        _ => {}
    }
}

/// Reports of the mirror.
pub(crate) fn of_shadow(bus: Bus) -> arqon_shadow::OnEvent {
    Arc::new(move |event| {
        if let arqon_shadow::ShadowEvent::Degraded { reason, dropped, .. } = event {
            tell(
                &bus,
                Event::MirrorDegraded {
                    reason: reason.as_str().to_owned(),
                    dropped,
                },
            );
        }
    })
}

/// The longest crash reason that leaves the process, in characters.
const REASON_CHARS_MAX: usize = 120;

/// A fact in the form in which it leaves the process: JSON with the tag `event` (source: INTEROP 8.1; the reports are
/// additive). Vectors: `tests/vectors/events/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "the fields are those of `ron_bus::Event`, documented there; `corr_id` names the fact"
)]
pub enum WireEvent {
    Health {
        service: String,
        ok: bool,
        corr_id: String,
    },
    ConfigUpdated {
        version: u64,
        corr_id: String,
    },
    ServiceCrashed {
        service: String,
        reason: String,
        corr_id: String,
    },
    Shutdown {
        corr_id: String,
    },
    PolicyReloaded {
        policy: String,
        revision: u64,
        ok: bool,
        corr_id: String,
    },
    SchemaChanged {
        schema_id: String,
        revision: u64,
        corr_id: String,
    },
    RolloutChanged {
        rollout: String,
        seq: u64,
        basis_points: u16,
        corr_id: String,
    },
    MirrorDegraded {
        reason: String,
        dropped: u64,
        corr_id: String,
    },
}

/// Who reads the exported events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// Anybody who may see metrics.
    #[default]
    Observer,
    /// A holder of the control token: sees `Shutdown` too.
    Admin,
}

impl WireEvent {
    /// The exported form of one fact (not of a batch: export each of [`Event::facts`]), or `None` when it stays inside:
    /// `Shutdown` for observers, and whatever a later version of the bus adds. A crash reason keeps its first line
    /// only, cut at 120 characters and without anything that looks like a credential.
    #[must_use]
    pub fn export(fact: &Event, corr_id: &str, audience: Audience) -> Option<Self> {
        let corr_id = corr_id.to_owned();
        Some(match fact.clone() {
            Event::Health { service, ok } => Self::Health { service, ok, corr_id },
            Event::ConfigUpdated { version } => Self::ConfigUpdated { version, corr_id },
            Event::ServiceCrashed { service, reason } => Self::ServiceCrashed {
                service,
                reason: redacted(&reason),
                corr_id,
            },
            Event::Shutdown if audience == Audience::Admin => Self::Shutdown { corr_id },
            Event::PolicyReloaded { policy, revision, ok } => Self::PolicyReloaded {
                policy,
                revision,
                ok,
                corr_id,
            },
            Event::SchemaChanged { schema_id, revision } => Self::SchemaChanged {
                schema_id,
                revision,
                corr_id,
            },
            Event::RolloutChanged {
                rollout,
                seq,
                basis_points,
            } => Self::RolloutChanged {
                rollout,
                seq,
                basis_points,
                corr_id,
            },
            Event::MirrorDegraded { reason, dropped } => Self::MirrorDegraded {
                reason,
                dropped,
                corr_id,
            },
            _ => return None,
        })
    }
}

/// The first line, cut, with words that carry a credential masked: `key=value` of a secret's name, URLs' user parts,
/// bearer tokens and long opaque words.
fn redacted(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default();
    let mut after_bearer = false;
    let words = line.split_whitespace().map(|word| {
        let lower = word.to_ascii_lowercase();
        let named = [
            "password",
            "passwd",
            "secret",
            "token",
            "apikey",
            "api_key",
            "authorization",
        ]
        .iter()
        .any(|name| lower.contains(&format!("{name}=")) || lower.contains(&format!("{name}:")));
        let userinfo = lower
            .split_once("://")
            .is_some_and(|(_, rest)| rest.contains('@'));
        let opaque = word.len() >= 32
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.=+/".contains(&b));
        let secret = std::mem::replace(&mut after_bearer, lower == "bearer") || named || userinfo || opaque;
        if secret { "[redacted]" } else { word }
    });
    words
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(REASON_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn export(event: &Event, audience: Audience) -> Option<String> {
        WireEvent::export(event, "c-1", audience).map(|event| serde_json::to_string(&event).expect("JSON"))
    }

    #[test]
    fn facts_have_the_sources_shape() {
        let event = Event::Health {
            service: "nats".into(),
            ok: true,
        };
        assert_eq!(
            export(&event, Audience::Observer).as_deref(),
            Some(r#"{"event":"health","service":"nats","ok":true,"corr_id":"c-1"}"#)
        );
        let event = Event::ConfigUpdated { version: 3 };
        assert_eq!(
            export(&event, Audience::Observer).as_deref(),
            Some(r#"{"event":"config_updated","version":3,"corr_id":"c-1"}"#)
        );
    }

    #[test]
    fn a_shutdown_is_for_admins() {
        assert_eq!(export(&Event::Shutdown, Audience::Observer), None);
        assert!(export(&Event::Shutdown, Audience::Admin).is_some());
    }

    #[test]
    fn a_crash_reason_keeps_no_secret() {
        for (reason, shown) in [
            ("index out of bounds\nstack: ...", "index out of bounds"),
            ("connect nats://user:pw@host failed", "connect [redacted] failed"),
            ("password=hunter2 refused", "[redacted] refused"),
            ("bad header Bearer abc.def", "bad header Bearer [redacted]"),
            (
                "key c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0 refused",
                "key [redacted] refused",
            ),
        ] {
            assert_eq!(redacted(reason), shown);
        }
        assert_eq!(redacted(&"ab ".repeat(100)).chars().count(), REASON_CHARS_MAX);
    }

    #[tokio::test]
    async fn every_request_carries_the_bus() -> Result<(), Box<dyn std::error::Error>> {
        let bus = Bus::new(16)?;
        let mut receiver = bus.subscribe();
        let mut service = BusLayer::new(bus).layer(tower::service_fn(|request: Request<()>| async move {
            let bus = request
                .extensions()
                .get::<Bus>()
                .expect("the layer put it there")
                .clone();
            bus.publish(Event::ConfigUpdated { version: 1 })
                .expect("somebody listens");
            Ok::<_, Infallible>(())
        }));
        service.call(Request::new(())).await?;
        assert_eq!(receiver.recv().await?, Event::ConfigUpdated { version: 1 });
        Ok(())
    }
}
