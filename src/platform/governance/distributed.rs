//! The executor on JetStream: the log in `ARQON_GOV`, catalogs in KV, the audit trail's head exported.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use arqon_message::BoxError;
use arqon_rollout::{
    AlertSeverity, Catalog, CatalogConfig, Executor, FileCatalogs, Handle, NodeId, RolloutLayer,
};
use ron_bus::Bus;
use tokio::time::sleep;

use super::{Trail, build};
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
    let catalogs = KvCatalogs::new(clients.primary.clone(), files(config));
    let last = trail.records.last().map(|of| &of.record);
    let log = NatsControlLog::new(clients.control.clone(), clients.replicas).anchored(last);
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
        let (client, replicas, log, told) = (
            clients.control.clone(),
            clients.replicas,
            log.clone(),
            handle.clone(),
        );
        let cut_off = move |message| told.alert(AlertSeverity::Critical, message);
        let export = heads::export(client, replicas, node, log, cut_off);
        tasks.run("audit head", async move {
            export.await.map_err(|error| error.to_string())
        });
    }
    let first = First::of(config);
    let records = trail.records;
    match first.kept()? {
        // Nothing has to be waited for: what is served is right before the first request.
        None if first.place.is_some() => {
            tasks.run("governance", async move {
                executor.start_with(&first.fetch(&catalogs).await);
                executor.recover(records);
                executor.run().await;
                Ok(())
            });
        }
        kept => {
            if let Some(catalog) = kept {
                executor.start_with(&catalog);
            }
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

/// The catalog that the fold starts with, when it is in KV. It is fetched once in the life of an audit trail and kept
/// beside it, as `<audit>.catalog`: what is put into KV later comes by a signed catalog update.
struct First {
    place: Option<String>,
    kept: Option<PathBuf>,
}

impl First {
    fn of(config: &GovernanceConfig) -> Self {
        let place = config.catalog.as_ref().and_then(|of| of.kv.clone());
        let beside = |path: &Path| {
            let mut path = path.as_os_str().to_owned();
            path.push(".catalog");
            PathBuf::from(path)
        };
        let kept = config.audit.as_ref().filter(|_| place.is_some());
        Self {
            kept: kept.map(|audit| beside(&audit.path)),
            place,
        }
    }

    /// The catalog of an earlier start.
    fn kept(&self) -> Result<Option<Catalog>, Vec<Finding>> {
        let Some(path) = &self.kept else { return Ok(None) };
        let refused = |error: String| {
            let message = format!(
                "{}: {error}: mend it, or remove it to read the bucket again",
                path.display()
            );
            vec![Finding::new("platform.rollout.catalog.kv", message)]
        };
        match fs::read(path) {
            Ok(bytes) => Catalog::parse(&bytes)
                .map(Some)
                .map_err(|error| refused(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// Asks until there is one. Until then no variant is served.
    async fn fetch(&self, catalogs: &KvCatalogs) -> Catalog {
        let place = self.place.as_deref().unwrap_or_default();
        let mut backoff = BACKOFF.0;
        loop {
            match self.try_fetch(catalogs, place).await {
                Ok(catalog) => return catalog,
                Err(error) => {
                    tracing::warn!(component = "governance", %error, place, "no catalog yet: no variant is served");
                }
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn try_fetch(&self, catalogs: &KvCatalogs, place: &str) -> Result<Catalog, BoxError> {
        let bytes = catalogs.first(place).await?;
        let catalog = Catalog::parse(&bytes)?;
        if let Some(path) = &self.kept {
            let mut next = path.clone().into_os_string();
            next.push(".next");
            let mut file = fs::File::create(&next)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&next, path)?;
        }
        Ok(catalog)
    }
}
