//! `arqon gov status`: what is live, since when, and why.

use std::io::Write;

use arqon_rollout::{Clock, SystemClock};
use serde_json::Value;

use super::{
    Outcome, Status, Usage,
    print::{ago, details, pending, scope},
    runtime,
};

pub(super) fn status(status: &Status, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let rollout = match (&status.target.nats, &status.config) {
        (Some(url), Some(config)) => folded(url, status, config)?,
        (Some(url), None) => anyhow::bail!(
            "--nats {url} needs --config FILE: the keys of the gateway's configuration judge what is in the log"
        ),
        (None, _) => runtime()?.block_on(status.target.state())?["rollout"].take(),
    };
    if json {
        writeln!(out, "{rollout}")?;
        return Ok(Outcome::Ok);
    }
    let tenants = rollout["tenants"].as_array().map_or(&[][..], Vec::as_slice);
    if tenants.is_empty() {
        writeln!(out, "no rollouts: [platform.rollout] is off")?;
    }
    for tenant in tenants {
        print_tenant(tenant, &rollout, out)?;
    }
    Ok(Outcome::Ok)
}

fn print_tenant(tenant: &Value, rollout: &Value, out: &mut impl Write) -> Result<(), Usage> {
    let now_us = SystemClock::new().now_us();
    writeln!(
        out,
        "tenant {}: key set {}, catalog {}, position {} of the log, {}",
        tenant["tenant"].as_str().unwrap_or_default(),
        tenant["epoch"],
        tenant["catalog_version"],
        rollout["seq"],
        rollout["contact_age_us"].as_u64().map_or_else(
            || "not read yet".to_owned(),
            |age| format!("read {} ago", ago(age))
        ),
    )?;
    if let Some(hold) = rollout["hold"].as_str() {
        writeln!(out, "  held: {hold}")?;
    }
    for of in tenant["scopes"].as_array().into_iter().flatten() {
        writeln!(out, "  {}", scope(of, now_us))?;
        for line in details(of) {
            writeln!(out, "    {line}")?;
        }
    }
    for waiting in tenant["pending"].as_array().into_iter().flatten() {
        writeln!(out, "  {}", pending(waiting, now_us))?;
    }
    for decision in tenant["decisions"].as_array().into_iter().flatten().rev().take(5) {
        writeln!(out, "  {}", super::print::decision(decision))?;
    }
    Ok(())
}

/// Folds the log here, as a node that only looks: for when no gateway can be asked.
#[cfg(feature = "nats")]
fn folded(url: &str, status: &Status, config: &std::path::Path) -> Result<Value, Usage> {
    use std::time::Duration;

    use anyhow::Context;
    use arqon_rollout::{
        Appended, Batch, Channel, ControlLog, Executor, FileCatalogs, LogFuture, UpstreamMessage,
    };
    use bytes::Bytes;

    use crate::{
        config::Config,
        nats::{KvCatalogs, NatsControlLog},
    };

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

    let loaded = Config::load(Some(config), &[]).map_err(|findings| anyhow::anyhow!("{findings}"))?;
    let mut rollout = loaded.platform.rollout;
    let kv = rollout.catalog.as_ref().and_then(|of| of.kv.clone());
    let folder = rollout
        .catalog
        .as_ref()
        .and_then(|of| of.path.as_deref()?.parent());
    let files = FileCatalogs::new(folder.map(std::path::Path::to_path_buf));
    // Nothing of the gateway's own is touched.
    (rollout.audit, rollout.telemetry_seconds) = (None, 0);
    if rollout.node_keys.iter().any(|key| key.keyid == rollout.node_id) {
        // Its public half is known: the secret one is not looked for.
        rollout.node_key = None;
    }
    runtime()?.block_on(async {
        let client = super::target::connect(url, status.target.creds.as_deref()).await?;
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
            executor.start_with(&arqon_rollout::Catalog::parse(&bytes)?);
        }
        let handle = executor.handle();
        let run = tokio::spawn(executor.run());
        let read = tokio::time::timeout(Duration::from_secs(15), handle.contacted()).await;
        run.abort();
        read.with_context(|| format!("{url}: the control log was not read in time"))?;
        Ok(serde_json::to_value(handle.status())?)
    })
}

#[cfg(not(feature = "nats"))]
fn folded(url: &str, _status: &Status, _config: &std::path::Path) -> Result<Value, Usage> {
    anyhow::bail!("--nats {url}: this program was built without the feature `nats`")
}
