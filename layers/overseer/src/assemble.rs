//! From a configuration to a chain that may run.

use std::sync::Arc;

use crate::{
    abi::arqon_host_v1::{Role, visible},
    chain::{Policy, Snapshot},
    conditions::EngineLimits,
    config::{Fuel, OverseerConfig, Parsed},
    engine::Engine,
    error::{BuildError, EngineError},
    event::OnEvent,
    metrics::PolicyMetrics,
    recorder::Recorder,
    report::LoadReport,
    spec::PolicySpec,
    verdict::Cause,
    verify::{Loaded, Loader},
};

/// Makes the engine and loads every policy; `None` when there is nothing to run.
pub(crate) fn assemble(config: &OverseerConfig, on_event: &OnEvent) -> Result<Option<Snapshot>, BuildError> {
    let parsed = config.parse().map_err(BuildError::Config)?;
    if !parsed.enabled {
        if !parsed.policies.is_empty() {
            tracing::warn!(
                component = "overseer",
                msg = "switched off by enabled = false: no policy looks at requests"
            );
        }
        return Ok(None);
    }
    if parsed.policies.is_empty() {
        return Ok(None);
    }
    let (loader, parsed) = loader(parsed)?;
    let mut refused = Vec::new();
    let mut policies = Vec::new();
    for spec in parsed.policies {
        let (report, loaded) = read_and_load(&loader, &spec);
        if loaded.is_none() && !spec.open[Cause::Load.index()] {
            refused.push(report);
            continue;
        }
        for finding in &report.findings {
            tracing::warn!(component = "overseer", module = &*spec.guest.name, msg = %finding);
        }
        policies.push(Arc::new(policy(spec, loaded.map(Arc::new), report)));
    }
    if !refused.is_empty() {
        return Err(BuildError::Load(refused));
    }
    let recorder = parsed.record.map(|record| {
        let path = record.path.display().to_string();
        Recorder::open(record, EngineLimits::of(loader.engine.settings()))
            .map_err(|source| EngineError::Record { path, source })
    });
    let snapshot = Snapshot {
        recorder: recorder.transpose()?.map(Arc::new),
        loader: Arc::new(loader),
        responses: policies.iter().any(|policy| policy.responds()),
        policies: policies.into(),
        body_bytes_max: parsed.body_bytes_max,
        pool_wait: parsed.pool_wait,
        on_event: Arc::clone(on_event),
    };
    for (module, why) in snapshot.relaxed() {
        let msg = format!("{why}: requests may pass that this policy did not allow");
        tracing::warn!(component = "overseer", module, msg);
    }
    Ok(Some(snapshot))
}

/// The engine and its host functions, and the configuration with its fuel known.
pub(crate) fn loader(mut parsed: Parsed) -> Result<(Loader, Parsed), BuildError> {
    let engine = Engine::new(parsed.settings.clone())?;
    let fuel = match parsed.fuel {
        Fuel::Units(fuel) => fuel,
        Fuel::Worth(time) => {
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            let fuel = engine.fuel_per_ms()?.saturating_mul(micros) / 1_000;
            tracing::info!(
                component = "overseer",
                fuel,
                msg = "calibrated the fuel that `budget` is worth here"
            );
            fuel
        }
    };
    parsed.set_fuel(fuel);
    let loader = Loader::new(engine, parsed.load)?;
    Ok((loader, parsed))
}

/// Reads the module from where the configuration says and loads it.
pub(crate) fn read_and_load(loader: &Loader, spec: &PolicySpec) -> (LoadReport, Option<Loaded>) {
    let source = spec.source.name();
    match spec.source.read(loader.limits.module_bytes_max) {
        Ok(bytes) => loader.load(spec, Role::Active, &source, &bytes),
        Err(error) => {
            let mut report = LoadReport::new(&spec.guest.name, &source);
            let path = visible(source.as_bytes(), 4_096);
            report.error(
                "module.read",
                "path",
                format!("{path} cannot be read: {error}"),
                "correct the path, relative to the configuration file, or the file's permissions",
            );
            (report, None)
        }
    }
}

/// A policy with its series registered.
fn policy(spec: PolicySpec, loaded: Option<Arc<Loaded>>, report: LoadReport) -> Policy {
    let metrics = Arc::new(PolicyMetrics::new(&spec.guest.name));
    metrics.relaxed(spec.monitor || spec.open.contains(&true));
    spec.guest.metrics.get_or_init(|| Arc::clone(&metrics));
    Policy {
        spec,
        source_sha256: loaded.as_ref().map(|loaded| loaded.sha256.clone()),
        loaded,
        candidate: None,
        former: None,
        report,
        metrics,
    }
}
