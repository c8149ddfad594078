//! Facts for the rest of the program: the bus in every request, and the form in which facts leave the process.

mod redact;
mod wire;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http::Request;
use ron_bus::{Bus, Event};
use tower_layer::Layer;
use tower_service::Service;

pub(crate) use self::redact::redacted;
pub use self::redact::{visible, without_credentials};
pub use self::wire::{Audience, WireEvent};

/// A layer that puts a [`Bus`] into every request's extensions, those of WebSocket frames too. So any
/// handler, and any layer inside this one, publishes and subscribes without wiring of its own.
///
/// With the feature `axum`, [`RequestBus`] extracts it; without, it is in the extensions as a [`Bus`].
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

/// The bus of a request, for a handler of axum's: to publish on, or to subscribe to.
///
/// Where no [`BusLayer`] stands around the handler, the request is refused with 500 `internal`.
///
/// ```
/// use arqon::{BusLayer, RequestBus, bus::{Bus, Event}};
/// use axum::{Router, routing::get};
///
/// async fn next_version(RequestBus(bus): RequestBus) -> String {
///     let mut receiver = bus.subscribe();
///     match receiver.recv().await {
///         Ok(Event::ConfigUpdated { version }) => version.to_string(),
///         other => format!("{other:?}"),
///     }
/// }
///
/// let app: Router = Router::new().route("/", get(next_version)).layer(BusLayer::new(Bus::new(256)?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
#[derive(Clone, Debug)]
pub struct RequestBus(pub Bus);

#[cfg(feature = "axum")]
impl<S: Send + Sync> axum::extract::FromRequestParts<S> for RequestBus {
    type Rejection = axum::response::Response;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _state: &S,
    ) -> Result<Self, Self::Rejection> {
        if let Some(bus) = parts.extensions.get::<Bus>() {
            return Ok(Self(bus.clone()));
        }
        let problem = arqon_message::Problem::new(
            arqon_message::Code::Internal,
            "no BusLayer is around this handler",
        );
        let refused = arqon_message::Rejection::new(problem).into_response::<axum::body::Body>(parts);
        Err(refused.map(axum::body::Body::new))
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

/// The most schemas whose refusal is remembered.
const ILL_MAX: usize = arqon_schema::SCHEMAS_MAX;

/// Publishes, and does not mind when nobody listens.
fn tell(bus: &Bus, event: Event) {
    let _unheard = bus.publish(event);
}

/// Reports of the policies. A revision counts the loads of one policy, refused ones included.
pub(crate) fn of_overseer(bus: Bus) -> arqon_overseer::OnEvent {
    let loads = Mutex::new(HashMap::<String, u64>::new());
    let report = move |policy: String, ok| {
        let mut loads = loads.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = loads.entry(policy.clone()).or_insert(0);
        *revision += 1;
        Event::PolicyReloaded {
            policy,
            revision: *revision,
            ok,
        }
    };
    Arc::new(move |event| match event {
        arqon_overseer::Event::PolicyReloaded { name, .. } => tell(&bus, report(name, true)),
        arqon_overseer::Event::PolicyRefused { name, findings } => {
            tracing::warn!(
                component = "overseer",
                module = name,
                findings = findings.join("; "),
                "policy refused, the last good one stays"
            );
            tell(&bus, report(name, false));
        }
        // What is in force is what it was: no report.
        arqon_overseer::Event::CandidateInstalled { name, sha256 } => tracing::info!(
            component = "overseer",
            module = name,
            sha256,
            "a candidate runs beside the policy"
        ),
        arqon_overseer::Event::CandidateDropped { name, sha256 } => tracing::info!(
            component = "overseer",
            module = name,
            sha256,
            "the candidate was taken away, the policy is what it was"
        ),
        // A new chain: each of its policies was loaded anew.
        arqon_overseer::Event::Reconfigured { names } => {
            for names in names.chunks(Bus::BATCH_EVENTS_MAX) {
                let reports = names.iter().map(|name| report(name.clone(), true));
                // Nobody has to listen.
                let _ = bus.publish_batch(reports.collect());
            }
        }
        _ => {}
    })
}

/// Reports of the registry (ADR 31). What is in force changes, by a revision or by a deletion: `SchemaChanged`. An update that
/// is refused, and a store that lost or went back, change nothing that is in force: then the health of `schema:<id>` or of
/// `registry` flips, and flips back with the next good one.
pub(crate) fn of_schema(bus: Bus) -> arqon_schema::EventSink {
    use arqon_schema::Event as Fact;

    let ill = Mutex::new(HashSet::<String>::new());
    let health = move |bus: &Bus, service: String, ok: bool| {
        let mut ill = ill.lock().unwrap_or_else(PoisonError::into_inner);
        let flipped = if ok {
            ill.remove(&service)
        } else {
            ill.len() < ILL_MAX && ill.insert(service.clone())
        };
        if flipped {
            tell(bus, Event::Health { service, ok });
        }
    };
    let changed = |id: &str, revision| Event::SchemaChanged {
        schema_id: id.to_owned(),
        revision,
    };
    Arc::new(move |event| match event {
        Fact::SchemaChanged { id, revision } => {
            tell(&bus, changed(&id, revision));
            health(&bus, format!("schema:{id}"), true);
        }
        Fact::SchemaDeleted { id, revision } => {
            tracing::warn!(component = "registry", schema_id = %id, revision, "schema deleted");
            tell(&bus, changed(&id, revision));
            health(&bus, format!("schema:{id}"), true);
        }
        Fact::SchemaRefused { id, .. } | Fact::RevisionRegressed { id, .. } => {
            health(&bus, format!("schema:{id}"), false);
        }
        Fact::SchemaMended { id, .. } => health(&bus, format!("schema:{id}"), true),
        Fact::StoreEmptied { .. } => health(&bus, "registry".to_owned(), false),
        Fact::StoreMended => health(&bus, "registry".to_owned(), true),
        Fact::SchemaHeldBack { id, revision } => {
            tracing::info!(component = "registry", schema_id = %id, revision, "a pin keeps a newer revision out");
        }
        // Its change follows; the alarm is a counter and in the log.
        _ => {}
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
        // What holds on one node alone, people have to look at.
        arqon_rollout::Event::Alone { tenant, orders } => {
            let service = format!("rollout:{tenant}");
            tell(
                &bus,
                Event::Health {
                    service,
                    ok: orders == 0,
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn a_brake_on_one_node_alone_is_ill_health_until_the_last_one_ended()
    -> Result<(), Box<dyn std::error::Error>> {
        let bus = Bus::new(16)?;
        let mut receiver = bus.subscribe();
        let tell = of_rollout(bus);
        let tenant = arqon_message::TenantId::new("t")?;
        for (orders, ok) in [(2, false), (0, true)] {
            let tenant = tenant.clone();
            tell(arqon_rollout::Event::Alone { tenant, orders });
            let service = "rollout:t".to_owned();
            assert_eq!(receiver.recv().await?, Event::Health { service, ok });
        }
        Ok(())
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

    #[cfg(feature = "axum")]
    #[tokio::test]
    async fn a_handler_extracts_the_bus_and_is_refused_where_there_is_none()
    -> Result<(), Box<dyn std::error::Error>> {
        use axum::{Router, routing::get};
        use tower::ServiceExt;

        let handler = |RequestBus(bus): RequestBus| async move { bus.subscribers().to_string() };
        let bus = Bus::new(16)?;
        let _one = bus.subscribe();
        let bare: Router = Router::new().route("/", get(handler));
        let app = bare.clone().layer(BusLayer::new(bus));
        let ask = || Request::new(axum::body::Body::empty());
        let body = axum::body::to_bytes(app.oneshot(ask()).await?.into_body(), 100).await?;
        assert_eq!(body, "1");
        let refused = bare.oneshot(ask()).await?;
        assert_eq!(refused.status(), 500);
        let body = axum::body::to_bytes(refused.into_body(), 10_000).await?;
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&body)?["code"],
            "internal"
        );
        Ok(())
    }

    #[test]
    fn what_an_update_did_is_told_and_a_refusal_is_health_that_flips_once()
    -> Result<(), Box<dyn std::error::Error>> {
        use arqon_schema::Event as Fact;

        let bus = Bus::new(64)?;
        let mut facts = bus.subscribe();
        let sink = of_schema(bus);
        let id = || Arc::<str>::from("v1.a");
        let refused = |revision| Fact::SchemaRefused {
            id: id(),
            revision,
            reason: "secret=hunter2".to_owned(),
        };
        let regressed = Fact::RevisionRegressed {
            id: id(),
            from: 9,
            to: 1,
        };
        let changed = |revision| Fact::SchemaChanged { id: id(), revision };
        let deleted = |revision| Fact::SchemaDeleted { id: id(), revision };
        for event in [
            changed(1),
            refused(2),
            refused(3),
            regressed,
            changed(4),
            refused(5),
            Fact::SchemaMended {
                id: id(),
                revision: 4,
            },
            deleted(6),
            Fact::StoreEmptied { kept: 1 },
            Fact::StoreEmptied { kept: 2 },
            Fact::StoreMended,
            Fact::StoreMended,
        ] {
            sink(event);
        }
        let mut told = Vec::new();
        while let Ok(fact) = facts.try_recv() {
            told.push(match fact {
                Event::SchemaChanged { schema_id, revision } => format!("{schema_id}@{revision}"),
                Event::Health { service, ok } => format!("{service} {ok}"),
                other => panic!("{other:?}"),
            });
        }
        let expected = [
            "v1.a@1",
            "schema:v1.a false",
            "v1.a@4",
            "schema:v1.a true",
            "schema:v1.a false",
            "schema:v1.a true",
            "v1.a@6",
            "registry false",
            "registry true",
        ];
        assert_eq!(told, expected);
        Ok(())
    }

    #[test]
    fn a_policy_revision_counts_the_loads_of_that_policy() -> Result<(), Box<dyn std::error::Error>> {
        let bus = Bus::new(16)?;
        let mut facts = bus.subscribe();
        let sink = of_overseer(bus);
        let reloaded = |name: &str| arqon_overseer::Event::PolicyReloaded {
            name: name.to_owned(),
            sha256: String::new(),
        };
        sink(reloaded("a"));
        for candidate in [true, false] {
            let (name, sha256) = ("a".to_owned(), String::new());
            sink(match candidate {
                true => arqon_overseer::Event::CandidateInstalled { name, sha256 },
                false => arqon_overseer::Event::CandidateDropped { name, sha256 },
            });
        }
        sink(reloaded("b"));
        sink(arqon_overseer::Event::PolicyRefused {
            name: "a".to_owned(),
            findings: Vec::new(),
        });
        sink(arqon_overseer::Event::Reconfigured {
            names: vec!["a".to_owned(), "b".to_owned()],
        });
        let mut told = Vec::new();
        while let Ok(event) = facts.try_recv() {
            for fact in event.facts() {
                let Event::PolicyReloaded { policy, revision, ok } = fact else {
                    panic!("{fact:?}")
                };
                told.push((policy.clone(), *revision, *ok));
            }
        }
        let expected = [
            ("a", 1, true),
            ("b", 1, true),
            ("a", 2, false),
            ("a", 3, true),
            ("b", 2, true),
        ];
        assert_eq!(
            told,
            expected.map(|(policy, revision, ok)| (policy.to_owned(), revision, ok))
        );
        Ok(())
    }
}
