//! `[platform.rollout]` made into an executor: its log, audit trail and catalog.

use arqon_rollout::{Executor, ExecutorBuilder, Handle, MemoryLog, Recovered, RolloutLayer};
use ron_bus::Bus;

use self::first::First;
#[cfg(feature = "nats")]
use crate::nats::Clients;
use crate::supervise::Supervisor;
use crate::{
    audit::AuditLog,
    config::{Finding, GovernanceConfig},
    events,
};

/// What was recorded before, and where the rest is recorded.
#[derive(Default)]
struct Trail {
    log: Option<AuditLog>,
    records: Vec<Recovered>,
    /// What is wrong with its end, which the log gives again.
    lost: Option<String>,
}

impl Trail {
    /// Opens the trail. Where it is all there is, one that lost its end is not gone on with: what ended with it may be a stop.
    fn open(config: &GovernanceConfig, is_all: bool) -> Result<Self, Vec<Finding>> {
        let Some(audit) = &config.audit else {
            return Ok(Self::default());
        };
        let opened = if is_all {
            AuditLog::open(&audit.path).map(|(log, records)| (log, records, None))
        } else {
            AuditLog::open_beside_a_log(&audit.path)
        };
        let (log, records, lost) =
            opened.map_err(|error| vec![Finding::new("platform.rollout.audit.path", error.to_string())])?;
        Ok(Self {
            log: Some(log),
            records,
            lost,
        })
    }

    fn builder(&self, config: &GovernanceConfig, bus: &Bus) -> ExecutorBuilder {
        let builder = Executor::builder(config).on_event(events::of_rollout(bus.clone()));
        match &self.log {
            Some(log) => builder.audit(log.clone()),
            None => builder,
        }
    }
}

fn disabled() -> (RolloutLayer, Handle) {
    let handle = Handle::disabled();
    (RolloutLayer::new(&handle), handle)
}

fn build(builder: ExecutorBuilder) -> Result<Executor, Vec<Finding>> {
    builder.build().map_err(|error| {
        let nested = |found: &arqon_rollout::Finding| {
            Finding::new(format!("platform.rollout.{}", found.key), found.to_string())
        };
        error.0.iter().map(nested).collect()
    })
}

/// The log in this process; its positions go on where the trail ends.
fn embedded(
    config: &GovernanceConfig,
    bus: &Bus,
    tasks: &Supervisor,
) -> Result<(RolloutLayer, Handle), Vec<Finding>> {
    let trail = Trail::open(config, true)?;
    let log = MemoryLog::new().with_records(trail.records.clone());
    let executor = build(trail.builder(config, bus).log(log))?;
    let (first, goes_on) = (First::of(config), !trail.records.is_empty());
    first.start(&executor, goes_on)?;
    executor.recover(trail.records);
    first.keep_started(&executor, goes_on);
    let handle = executor.handle();
    tasks.run("governance", async move {
        executor.run().await;
        Ok(())
    });
    Ok((RolloutLayer::new(&handle), handle))
}

#[cfg(not(feature = "nats"))]
pub(super) fn start(
    config: &GovernanceConfig,
    bus: &Bus,
    tasks: &Supervisor,
) -> Result<(RolloutLayer, Handle), Vec<Finding>> {
    if config.enabled {
        embedded(config, bus, tasks)
    } else {
        Ok(disabled())
    }
}

#[cfg(feature = "nats")]
pub(super) fn start(
    config: &GovernanceConfig,
    clients: Option<&Clients>,
    bus: &Bus,
    tasks: &Supervisor,
) -> Result<(RolloutLayer, Handle), Vec<Finding>> {
    match clients {
        _ if !config.enabled => Ok(disabled()),
        None => embedded(config, bus, tasks),
        Some(clients) => distributed::start(config, clients, bus, tasks),
    }
}

#[cfg(feature = "nats")]
mod distributed;
mod first;
