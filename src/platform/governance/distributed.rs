//! The executor on JetStream: the log in `ARQON_GOV`, catalogs in KV, the audit trail's head exported.

use std::{path::Path, time::Duration};

use arqon_message::BoxError;
use arqon_rollout::{
    AlertSeverity, Catalog, CatalogConfig, Executor, FileCatalogs, Handle, NodeId, Recovered, RolloutLayer,
};
use ron_bus::Bus;
use tokio::time::sleep;

use super::{Trail, build, first::First};
use crate::{
    config::{Finding, GovernanceConfig},
    nats::{Clients, KvCatalogs, NatsControlLog, heads},
    supervise::Supervisor,
};

/// Waiting for the first catalog: doubled each time.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

pub(super) fn start(
    config: &GovernanceConfig,
    clients: &Clients,
    bus: &Bus,
    tasks: &Supervisor,
) -> Result<(RolloutLayer, Handle), Vec<Finding>> {
    let trail = Trail::open(config, false)?;
    let catalogs = KvCatalogs::new(clients.primary.clone(), files(config)).with_replicas(clients.replicas);
    let last = Recovered::last_in_row(&trail.records);
    let log = NatsControlLog::new(clients.control.clone(), clients.replicas)
        .appends_through(clients.decisions.clone())
        .anchored(last.as_ref());
    let executor = build(
        trail
            .builder(config, bus)
            .silent()
            .log(log)
            .catalogs(catalogs.clone()),
    )?;
    let handle = executor.handle();
    if let Some(lost) = &trail.lost {
        handle.alert(
            AlertSeverity::Critical,
            format!("{lost}; the control log gives it again"),
        );
    }
    if let (Some(log), Ok(node)) = (&trail.log, NodeId::new(&config.node_id)) {
        let (nats, replicas, log, told) = (
            clients.control.clone(),
            clients.replicas,
            log.clone(),
            handle.clone(),
        );
        let first_keys = handle.status().first_keys;
        let told = move |message| told.alert(AlertSeverity::Critical, message);
        let export = heads::export(nats, replicas, node, log, first_keys, told);
        tasks.run("audit head", async move {
            export.await.map_err(|error| error.to_string())
        });
    }
    let (first, records) = (First::of(config), trail.records);
    let place = config.catalog.as_ref().and_then(|of| of.kv.clone());
    let Some(place) = place else {
        let goes_on = !records.is_empty();
        first.start(&executor, goes_on)?;
        executor.recover(records);
        first.keep_started(&executor, goes_on);
        tasks.run("governance", running(executor));
        return Ok((RolloutLayer::new(&handle), handle));
    };
    match first.kept()? {
        None => tasks.run("governance", async move {
            executor.start_with(&fetch(&place, &first, &catalogs).await);
            executor.recover(records);
            executor.run().await;
            Ok(())
        }),
        // Nothing has to be waited for: what is served is right before the first request.
        Some(catalog) => {
            executor.start_with(&catalog);
            executor.recover(records);
            tasks.run("governance", running(executor));
        }
    }
    Ok((RolloutLayer::new(&handle), handle))
}

async fn running(executor: Executor) -> Result<(), String> {
    executor.run().await;
    Ok(())
}

fn files(config: &GovernanceConfig) -> FileCatalogs {
    let folder = config.catalog.as_ref().and_then(CatalogConfig::folder);
    FileCatalogs::new(folder.map(Path::to_path_buf))
}

/// Asks for the first catalog in KV until there is one. Until then no variant is served.
async fn fetch(place: &str, first: &First, catalogs: &KvCatalogs) -> Catalog {
    let mut backoff = BACKOFF.0;
    loop {
        match try_fetch(place, first, catalogs).await {
            Ok(catalog) => return catalog,
            Err(error) => {
                tracing::warn!(component = "governance", %error, place, "no catalog yet: no variant is served");
            }
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

async fn try_fetch(place: &str, first: &First, catalogs: &KvCatalogs) -> Result<Catalog, BoxError> {
    let bytes = catalogs.first(place).await?;
    let catalog = Catalog::parse(&bytes)?;
    first.keep(&bytes)?;
    Ok(catalog)
}
