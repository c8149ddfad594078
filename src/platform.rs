//! `[platform.*]` made into layers, handles and tasks.

#[cfg(feature = "compare")]
mod comparison;
mod governance;
mod schemas;

use std::{path::Path, sync::Arc, time::Duration};

use arqon_message::SubjectLayer;
use arqon_overseer::{OverseerHandle, OverseerLayer};
use arqon_rollout::RolloutLayer;
use arqon_schema::{DirStore, Registry, RegistryWriter, SchemaLayer, SchemaStore};
use arqon_shadow::{ShadowHandle, ShadowLayer, Sink};
use ron_bus::Bus;

use crate::{
    config::{Finding, InvalidConfig, PlatformConfig},
    edge::{limit::TenantLimitLayer, reserved::ReservedHeadersLayer},
    events::{self, BusLayer},
    stack::Stack,
    supervise::{Crash, Supervisor},
};

/// The four layers of one program, running: their handles, and the tasks behind them.
///
/// ```no_run
/// # async fn app() -> Result<(), Box<dyn std::error::Error>> {
/// use arqon::{SubjectLayer, TenantId, bus::Bus, config::Config, memory, platform::Platform};
/// use tower::Layer;
///
/// let config = Config::load(Some("gateway.toml".as_ref()), &[])?;
/// let broker = memory::Broker::new();
/// let platform = Platform::start(&config.platform, memory::Sink::new(broker.clone()), &Bus::new(256)?).await?;
/// let subjects = SubjectLayer::from_path("/v1/publish").tenant(TenantId::new("default")?);
/// let service = platform.stack(subjects).layer(memory::Publish::new(broker));
/// # let _ = service;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Platform {
    /// Policies.
    pub overseer: OverseerHandle,
    /// Contracts.
    pub schema: Registry,
    /// Rollouts.
    pub rollout: arqon_rollout::Handle,
    /// Mirrors.
    pub shadow: ShadowHandle,
    /// What comparing answers found, where `platform.mirroring.compare` asks for it. Its rules need a
    /// [`ResponseTapLayer`](arqon_shadow::ResponseTapLayer) around the service under the [`stack`](Self::stack).
    #[cfg(feature = "compare")]
    pub comparison: Option<arqon_shadow::compare::Comparison>,
    schemas: RegistryWriter,
    layers: Layers,
    tasks: Supervisor,
}

#[derive(Clone, Debug)]
struct Layers {
    overseer: OverseerLayer,
    schema: SchemaLayer,
    rollout: RolloutLayer,
    shadow: ShadowLayer,
    bus: BusLayer,
}

impl Platform {
    /// Builds the layers and starts their tasks; mirrored copies go to `sink`.
    ///
    /// # Errors
    /// Everything that does not hold, before anything was started: values, policies that cannot be loaded, schemas that
    /// cannot be read.
    pub async fn start(config: &PlatformConfig, sink: impl Sink, bus: &Bus) -> Result<Self, InvalidConfig> {
        let mut findings = Vec::new();
        if config.registry.enabled && config.registry.kv_bucket.is_some() {
            let message = "a KV bucket needs [nats]; without it use `dir`";
            findings.push(Finding::new("platform.registry.kv_bucket", message));
        }
        if config.rollout.enabled && config.rollout.catalog.as_ref().is_some_and(|of| of.kv.is_some()) {
            let message = "a KV catalog needs [nats]; without it use `path`";
            findings.push(Finding::new("platform.rollout.catalog.kv", message));
        }
        let engine = Engine {
            schemas: Schemas::Dir,
            #[cfg(feature = "nats")]
            clients: None,
        };
        Self::build(config, sink, bus, engine, findings).await
    }

    /// The same with NATS: copies are published to `shadow.<subject>`, schemas are watched in `kv_bucket`, the control log
    /// is stream `ARQON_GOV`.
    ///
    /// # Errors
    /// As [`Platform::start`]. NATS itself may still be away.
    #[cfg(feature = "nats")]
    pub async fn start_with_nats(
        config: &PlatformConfig,
        clients: &crate::nats::Clients,
        bus: &Bus,
    ) -> Result<Self, InvalidConfig> {
        let sink = crate::nats::sink::NatsSink::new(clients.mirror.clone());
        let schemas = match &config.registry.kv_bucket {
            Some(bucket) => {
                let nats = clients.primary.clone();
                let store = crate::nats::schemas::KvSchemas::new(nats, bucket, &config.registry);
                Schemas::Kv(Box::new(store.replicas(clients.replicas)))
            }
            None => Schemas::Dir,
        };
        let engine = Engine {
            schemas,
            clients: Some(clients.clone()),
        };
        Self::build(config, sink, bus, engine, Vec::new()).await
    }

    /// Loads what the configuration names (policies, schemas, catalogs) as a start would, and starts nothing that stays.
    /// What is in NATS is not asked for, and nothing is written.
    ///
    /// # Errors
    /// As [`Platform::start`].
    pub async fn check(config: &PlatformConfig) -> Result<(), InvalidConfig> {
        let mut config = config.clone();
        config.overseer.record = None;
        config.rollout.audit = None;
        config.rollout.catalog = config.rollout.catalog.filter(|catalog| catalog.kv.is_none());
        if config.registry.kv_bucket.take().is_some() {
            config.registry.mappings.clear();
            config.registry.pins.clear();
            config.registry.last_known_good = None;
        }
        let bus = Bus::with_metrics(ron_bus::BusConfig::default(), Arc::default())
            .map_err(|error| InvalidConfig(vec![Finding::new("bus", error.to_string())]))?;
        let platform = Self::start(&config, arqon_shadow::RecordingSink::new(1), &bus).await?;
        platform.shutdown(Duration::ZERO).await;
        Ok(())
    }

    async fn build(
        config: &PlatformConfig,
        sink: impl Sink,
        bus: &Bus,
        engine: Engine,
        mut findings: Vec<Finding>,
    ) -> Result<Self, InvalidConfig> {
        let tasks = Supervisor::new(bus.clone());

        // Compiling takes milliseconds a policy: off the async workers.
        let (overseer_config, on_event) = (config.overseer.clone(), events::of_overseer(bus.clone()));
        let overseer =
            tokio::task::spawn_blocking(move || OverseerLayer::channel_with(overseer_config, on_event));
        let overseer = match overseer.await {
            Ok(Ok(overseer)) => Some(overseer),
            Ok(Err(error)) => {
                findings.extend(overseer_findings(&error));
                None
            }
            Err(died) => {
                findings.push(Finding::new("platform.overseer", events::panic_text(died)));
                None
            }
        };
        let schema = start_schemas(config, engine.schemas, bus, &tasks)
            .await
            .map_err(|found| findings.extend(found))
            .ok();
        #[cfg(feature = "nats")]
        let rollout = governance::start(&config.rollout, engine.clients.as_ref(), bus, &tasks);
        #[cfg(not(feature = "nats"))]
        let rollout = governance::start(&config.rollout, bus, &tasks);
        let rollout = rollout.map_err(|found| findings.extend(found)).ok();
        #[cfg(feature = "compare")]
        let copy_timeout = Duration::from_millis(config.mirroring.timeout_ms);
        #[cfg(feature = "compare")]
        let made = comparison::sink(config.mirroring.compare.as_ref(), copy_timeout, sink);
        #[cfg(feature = "compare")]
        let (sink, comparison) = match made {
            Ok(made) => made,
            Err(found) => {
                findings.extend(found);
                tasks.stop().await;
                return Err(InvalidConfig(findings));
            }
        };
        #[cfg(not(feature = "compare"))]
        if config.mirroring.compare.is_some() {
            let message = "this program is built without the feature `compare`";
            findings.push(Finding::new("platform.mirroring.compare", message));
        }
        let shadow =
            match ShadowLayer::channel_with_events(&config.mirroring, sink, events::of_shadow(bus.clone())) {
                Ok(shadow) => Some(shadow),
                Err(error) => {
                    findings.extend(error.findings().iter().map(|found| {
                        Finding::new(format!("platform.mirroring.{}", found.key), found.to_string())
                    }));
                    None
                }
            };
        let (Some((overseer, policies)), Some((schema, schemas)), Some((rollout, governance)), Some(shadow)) =
            (overseer, schema, rollout, shadow)
        else {
            tasks.stop().await;
            return Err(InvalidConfig(findings));
        };
        if !findings.is_empty() {
            tasks.stop().await;
            return Err(InvalidConfig(findings));
        }
        let (shadow, mirror, drain) = shadow;
        if let Some(every) = config.overseer.watch_every() {
            let policies = policies.clone();
            tasks.run("policies", async move {
                policies.watch(every).await;
                Ok(())
            });
        }
        tasks.run("mirror", async move {
            drain.run().await;
            Ok(())
        });
        Ok(Self {
            overseer: policies,
            schema: schemas.registry(),
            schemas,
            rollout: governance,
            shadow: mirror,
            #[cfg(feature = "compare")]
            comparison,
            layers: Layers {
                overseer,
                schema,
                rollout,
                shadow,
                bus: BusLayer::new(bus.clone()),
            },
            tasks,
        })
    }

    /// The layers in their order, for a stack whose subjects `subject` names; nobody is authenticated and nothing limited
    /// until its `auth` and `limit` are set.
    #[must_use]
    pub fn stack(&self, subject: SubjectLayer) -> Stack {
        let Layers {
            overseer,
            schema,
            rollout,
            shadow,
            bus,
        } = self.layers.clone();
        Stack {
            reserved: ReservedHeadersLayer::new(),
            auth: None,
            limit: TenantLimitLayer::default(),
            subject,
            bus,
            overseer,
            schema,
            rollout,
            shadow,
        }
    }

    /// The layers in their order, for messages taken off NATS ([`nats::serve`](crate::nats::serve())): the subject is the
    /// message's own, and the shadow marker stays, so that a copy is not mirrored again.
    #[cfg(feature = "nats")]
    #[must_use]
    pub fn nats_stack(&self) -> Stack {
        Stack {
            reserved: ReservedHeadersLayer::keeping_shadow_marker(),
            ..self.stack(crate::nats::serve::subjects())
        }
    }

    /// For `/readyz`: whether every policy has a module, or which has none.
    pub fn policies_ready(&self) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
        let overseer = self.overseer.clone();
        move || match overseer.policies().into_iter().find(|policy| !policy.loaded) {
            None => Ok(()),
            Some(policy) => Err(format!("policy {} is not loaded", policy.name)),
        }
    }

    /// For `/readyz`: whether the tasks live without which a layer decides on old knowledge. The mirror is not among them:
    /// the primary never waits for it.
    pub fn tasks_ready(&self) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
        let tasks = self.tasks.clone();
        move || tasks.alive(&["schemas", "governance"])
    }

    /// Takes over what can change while requests run: all of `[platform.overseer]`, `enabled`, `seed` and `rules` of
    /// `[platform.mirroring]`, and `pins` of `[platform.registry]`. A request that has begun ends under what it began with. Every policy is read and loaded
    /// anew, also what was uploaded since; with `keep_policies` Overseer stays as it is.
    ///
    /// # Errors
    /// Everything that does not hold; then nothing has changed.
    pub async fn reload(&self, config: &PlatformConfig, keep_policies: bool) -> Result<(), InvalidConfig> {
        let refuse = |found: &arqon_shadow::ConfigFinding| {
            Finding::new(format!("platform.mirroring.{}", found.key), found.to_string())
        };
        let findings: Vec<_> = config.mirroring.validate().iter().map(refuse).collect();
        if !findings.is_empty() {
            return Err(InvalidConfig(findings));
        }
        if !keep_policies && let Err(error) = self.overseer.reconfigure(config.overseer.clone()).await {
            return Err(InvalidConfig(vec![Finding::new(
                "platform.overseer",
                error.to_string(),
            )]));
        }
        self.shadow
            .reload(&config.mirroring)
            .map_err(|error| InvalidConfig(error.findings().iter().map(refuse).collect()))?;
        self.schemas.pin(config.registry.pins.clone());
        Ok(())
    }

    /// The tasks behind the layers that died.
    #[must_use]
    pub fn crashed(&self) -> Vec<Crash> {
        self.tasks.crashed()
    }

    /// Delivers what the mirror still holds, at most `limit`, and ends the tasks.
    pub async fn shutdown(&self, limit: Duration) {
        self.shadow.shutdown(limit).await;
        self.tasks.stop().await;
    }
}

/// What the layers stand on.
struct Engine {
    schemas: Schemas,
    #[cfg(feature = "nats")]
    clients: Option<crate::nats::Clients>,
}

/// Where schemas come from.
enum Schemas {
    Dir,
    #[cfg(feature = "nats")]
    Kv(Box<crate::nats::schemas::KvSchemas>),
}

/// A mapping whose schema is not in the folder refuses every message of its subjects: said at the start.
fn not_in_the_folder(registry: &Registry, dir: &Path) -> Result<(), Vec<Finding>> {
    let (absent, there) = (registry.unavailable(), registry.schemas());
    let there: Vec<_> = there.iter().map(|schema| schema.id.as_str()).collect();
    let mappings = registry.config().mappings.iter().enumerate();
    let absent = mappings.filter(|(_, mapping)| absent.contains(mapping));
    let findings: Vec<_> = absent
        .map(|(at, mapping)| {
            let message = format!(
                "{:?} is not in {}, or not with that message; there is: {}",
                mapping.schema_id,
                dir.display(),
                if there.is_empty() {
                    "nothing".to_owned()
                } else {
                    there.join(", ")
                }
            );
            Finding::new(format!("platform.registry.mappings[{at}].schema_id"), message)
        })
        .collect();
    if findings.is_empty() {
        Ok(())
    } else {
        Err(findings)
    }
}

async fn start_schemas(
    config: &PlatformConfig,
    schemas: Schemas,
    bus: &Bus,
    tasks: &Supervisor,
) -> Result<(SchemaLayer, RegistryWriter), Vec<Finding>> {
    let mut registry = config.registry.clone();
    if !registry.enabled {
        registry.mappings.clear();
        registry.unmapped = arqon_schema::Unmapped::Allow;
    }
    let (dir, has_mappings) = (registry.dir.clone(), !registry.mappings.is_empty());
    let (registry, writer) =
        arqon_schema::channel_with(registry, events::of_schema(bus.clone())).map_err(|error| {
            error
                .0
                .iter()
                .map(|found| Finding::new(format!("platform.registry.{}", found.key), found.to_string()))
                .collect::<Vec<_>>()
        })?;
    match (schemas, dir) {
        #[cfg(feature = "nats")]
        (Schemas::Kv(store), _) => {
            // Before anything listens: the first request is judged by the copy, if the server is away.
            store.restore(&writer).await;
            let writer = writer.clone();
            tasks.run("schemas", async move {
                store.run(writer).await.map_err(|error| error.to_string())
            });
        }
        (Schemas::Dir, Some(dir)) => {
            let (store, first) = (DirStore::new(&dir), writer.clone());
            let loading = store.clone();
            let loaded = tokio::task::spawn_blocking(move || loading.load(&first)).await;
            match loaded {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(vec![Finding::new("platform.registry.dir", error.to_string())]),
                Err(died) => {
                    return Err(vec![Finding::new(
                        "platform.registry.dir",
                        events::panic_text(died),
                    )]);
                }
            }
            not_in_the_folder(&registry, &dir)?;
            let writer = writer.clone();
            tasks.run("schemas", async move {
                store.run(writer).await.map_err(|error| error.to_string())
            });
        }
        (Schemas::Dir, None) if has_mappings => {
            let message = "there are mappings, but neither `dir` nor `kv_bucket` says where the schemas are";
            return Err(vec![Finding::new("platform.registry.mappings", message)]);
        }
        (Schemas::Dir, None) => {}
    }
    Ok((SchemaLayer::new(registry), writer))
}

fn overseer_findings(error: &arqon_overseer::BuildError) -> Vec<Finding> {
    match error {
        arqon_overseer::BuildError::Config(errors) => errors
            .iter()
            .map(|e| Finding::new(format!("platform.overseer.{}", e.key), e.to_string()))
            .collect(),
        other => vec![Finding::new("platform.overseer", other.to_string())],
    }
}
