//! The control log folded here, as by a node that only looks: what it made of a message, and what is in force.

use std::path::Path;

use serde_json::Value;

use super::{Usage, target::Delivery};

/// A message that is in the log at `seq`: what the nodes with this configuration make of it.
pub(super) struct Question<'a> {
    pub(super) url: &'a str,
    pub(super) creds: Option<&'a Path>,
    pub(super) config: &'a Path,
    pub(super) tenant: &'a str,
    /// The subject pattern it is for; empty for the whole tenant.
    pub(super) scope: &'a str,
    pub(super) seq: u64,
}

#[cfg(feature = "nats")]
mod node {
    use std::{path::Path, time::Duration};

    use anyhow::Context;
    use arqon_rollout::{
        Appended, Batch, Catalog, CatalogConfig, Channel, ControlLog, Executor, FileCatalogs, Handle,
        LogFuture, UpstreamMessage,
    };
    use bytes::Bytes;
    use tokio::time::timeout;

    use super::Usage;
    use crate::{
        config::Config,
        nats::{KvCatalogs, NatsControlLog},
    };

    /// How long the log may take to be read to its end.
    const PATIENCE: Duration = Duration::from_secs(15);

    /// The log, for reading only.
    struct ReadOnly(NatsControlLog);

    impl ControlLog for ReadOnly {
        fn append(&self, _: Channel, _: Bytes) -> LogFuture<'_, Appended> {
            Box::pin(std::future::ready(Err(arqon_rollout::LogError::Full)))
        }

        fn read(&self, after: u64) -> LogFuture<'_, Batch> {
            self.0.read(after)
        }

        fn report(&self, _: Channel, _: UpstreamMessage) -> LogFuture<'_, ()> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    /// Folds the log to its end, and at least to `seq`.
    pub(super) async fn fold(
        url: &str,
        creds: Option<&Path>,
        config: &Path,
        seq: u64,
    ) -> Result<Handle, Usage> {
        let loaded = Config::load(Some(config), &[]).map_err(|findings| anyhow::anyhow!("{findings}"))?;
        let mut rollout = loaded.platform.rollout;
        anyhow::ensure!(
            rollout.enabled,
            "{}: [platform.rollout] is off: give the configuration of a gateway that follows the log",
            config.display()
        );
        let kv = rollout.catalog.as_ref().and_then(|of| of.kv.clone());
        let folder = rollout.catalog.as_ref().and_then(CatalogConfig::folder);
        let files = FileCatalogs::new(folder.map(Path::to_path_buf));
        // Nothing of the gateway's own is touched.
        (rollout.audit, rollout.telemetry_seconds) = (None, 0);
        if rollout.node_key_by_rotation || rollout.node_keys.iter().any(|key| key.keyid == rollout.node_id) {
            // Its public half is known: the secret one is not looked for.
            rollout.node_key = None;
        }
        let client = super::super::target::connect(url, creds).await?;
        let catalogs = KvCatalogs::new(client.clone(), files);
        let executor = Executor::builder(&rollout)
            .silent()
            .log(ReadOnly(NatsControlLog::existing(client)))
            .catalogs(catalogs.clone())
            .build()?;
        if let Some(place) = kv {
            let bytes = catalogs
                .first(&place)
                .await
                .map_err(|error| anyhow::anyhow!("{place}: {error}"))?;
            executor.start_with(&Catalog::parse(&bytes)?);
        }
        let handle = executor.handle();
        let run = tokio::spawn(executor.run());
        let read = async {
            handle.contacted().await;
            handle.reached(seq).await;
        };
        let read = timeout(PATIENCE, read).await;
        run.abort();
        read.with_context(|| format!("{url}: the control log was not read in time"))?;
        Ok(handle)
    }
}

/// The state that the log says.
#[cfg(feature = "nats")]
pub(super) async fn status(url: &str, creds: Option<&Path>, config: &Path) -> Result<Value, Usage> {
    let handle = node::fold(url, creds, config, 0).await?;
    Ok(serde_json::to_value(handle.status())?)
}

/// What becomes of a message that the log has.
#[cfg(feature = "nats")]
pub(super) async fn judge(question: Question<'_>) -> Delivery {
    use arqon_rollout::Reason;

    let Question { seq, tenant, .. } = question;
    // All subjects of a tenant are the tenant.
    let scope = match question.scope.strip_suffix(".>") {
        Some(of) if of.strip_prefix("in.t.") == Some(tenant) => "",
        _ => question.scope,
    };
    let unjudged = |why: String| Delivery::Logged { seq, why: Some(why) };
    let handle = match node::fold(question.url, question.creds, question.config, seq).await {
        Ok(handle) => handle,
        Err(error) => return unjudged(format!("{error:#}")),
    };
    match handle.verdict(seq) {
        None => unjudged("more than a thousand messages have come since".to_owned()),
        Some(Err(refusal)) if refusal.reason != Reason::Duplicate => Delivery::Refused {
            reason: refusal.reason.to_string(),
            detail: refusal.detail,
            last: refusal.last_counter,
            log_time_us: refusal.log_time_us,
        },
        // The same bytes by another way are as good.
        Some(_) => {
            let status = handle.status();
            let of = status.scope(tenant, scope).or_else(|| status.scope(tenant, ""));
            let orders = status.tenants.iter().filter(|of| of.tenant == tenant);
            let held = orders.flat_map(|of| &of.scopes).filter(|of| {
                let by = |order: &arqon_rollout::HeldBy| order.scope == scope;
                of.scope != scope && of.held_by.iter().any(by)
            });
            Delivery::Folded {
                seq,
                state: of.map_or_else(String::new, |of| of.phase.to_string()),
                holds: held.map(|of| of.scope.clone()).collect(),
            }
        }
    }
}

#[cfg(not(feature = "nats"))]
pub(super) async fn status(url: &str, _: Option<&Path>, _: &Path) -> Result<Value, Usage> {
    anyhow::bail!("--nats {url}: this program was built without the feature `nats`")
}

#[cfg(not(feature = "nats"))]
pub(super) async fn judge(question: Question<'_>) -> Delivery {
    Delivery::Logged {
        seq: question.seq,
        why: Some("this program was built without the feature `nats`".to_owned()),
    }
}
