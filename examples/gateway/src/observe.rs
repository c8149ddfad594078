//! Logs, metrics and signals of the process.

use std::io::IsTerminal;

use arqon::{config::LogFormat, overseer::EXECUTION_SECONDS_BUCKETS};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging to standard error; `RUST_LOG` filters, `info` is the default.
pub(crate) fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber in one process is refused, which only tests can cause.
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}

/// Installs the recorder; it has to be there before any layer is built, for a layer takes its handles then.
///
/// # Errors
/// When a recorder is installed already.
pub(crate) fn metrics() -> Result<PrometheusHandle, String> {
    let builder = PrometheusBuilder::new();
    let builder = [
        "shield_wasm_execution_duration_seconds",
        "shield_schema_validation_duration_seconds",
    ]
    .into_iter()
    .try_fold(builder, |builder, name| {
        // From 100 ns: both take less than a microsecond, and the usual buckets begin at five milliseconds.
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), &EXECUTION_SECONDS_BUCKETS)
    })
    .map_err(|error| error.to_string())?;
    builder.install_recorder().map_err(|error| error.to_string())
}

/// One message for each SIGHUP from now on; one that comes while another waits is the same wish.
pub(crate) fn reload_signals() -> mpsc::Receiver<()> {
    let (wish, wishes) = mpsc::channel(1);
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut hangups) = signal(SignalKind::hangup()) {
            tokio::spawn(async move {
                while hangups.recv().await.is_some() {
                    if let Err(TrySendError::Closed(())) = wish.try_send(()) {
                        return;
                    }
                }
            });
        }
    }
    #[cfg(not(unix))]
    drop(wish);
    wishes
}

/// Waits for SIGTERM or Ctrl-C and names it.
pub(crate) async fn stop_signal() -> &'static str {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = tokio::signal::ctrl_c() => "SIGINT",
            };
        }
    }
    let _ = tokio::signal::ctrl_c().await;
    "SIGINT"
}
