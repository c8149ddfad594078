//! Metrics, traces and signals of the process.

use arqon::{
    config::TelemetryConfig,
    nats,
    observe::{ObserveConfig, ObserveLayer, otlp},
    overseer::EXECUTION_SECONDS_BUCKETS,
};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::recorder::{Buckets, Metrics};

/// From 50 us to 10 s: what a request takes.
const REQUEST_SECONDS_BUCKETS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// The histograms. From 100 ns where something takes less than a microsecond: the usual buckets begin at five milliseconds.
const BUCKETS: Buckets = &[
    (
        "shield_gateway_request_duration_seconds",
        &REQUEST_SECONDS_BUCKETS,
    ),
    ("shield_nats_serve_duration_seconds", &REQUEST_SECONDS_BUCKETS),
    (
        "shield_overseer_candidate_duration_seconds",
        &EXECUTION_SECONDS_BUCKETS,
    ),
    (
        "shield_schema_validation_duration_seconds",
        &EXECUTION_SECONDS_BUCKETS,
    ),
    (
        "shield_wasm_execution_duration_seconds",
        &EXECUTION_SECONDS_BUCKETS,
    ),
];

/// Installs the recorder; it has to be there before any layer is built, for a layer takes its handles then.
///
/// # Errors
/// When a recorder is installed already.
pub(crate) fn metrics() -> Result<Metrics, String> {
    let metrics = Metrics::new(BUCKETS);
    metrics.install()?;
    register();
    Ok(metrics)
}

/// Puts at 0 what nothing else registers at the start, or only where a part is on.
fn register() {
    describe();
    nats::serve::register_metrics();
    arqon::edge::jwt::register_metrics();
    for name in [
        "shield_gateway_events_lost_total",
        "shield_gateway_log_held_back_total",
        "shield_gateway_panics_total",
        "shield_gateway_accept_errors_total",
        "shield_nats_slow_consumers_total",
        "shield_schema_load_errors_total",
    ] {
        metrics::counter!(name).increment(0);
    }
    for result in ["ok", "refused"] {
        metrics::counter!("shield_gateway_reloads_total", "result" => result).increment(0);
    }
    for result in ["sent", "failed", "queue_full"] {
        metrics::counter!("shield_trace_requests_total", "result" => result).increment(0);
    }
    for listener in ["public", "admin"] {
        metrics::counter!("shield_gateway_connections_total", "listener" => listener).increment(0);
        metrics::gauge!("shield_gateway_connections", "listener" => listener).set(0.0);
    }
    metrics::gauge!("shield_gateway_sessions").set(0.0);
    metrics::gauge!("shield_gateway_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::counter!("shield_mirror_divergence_total", "field" => "status").increment(0);
    arqon::rollout::register_metrics();
}

/// What the gateway's own series mean. The layers describe theirs, with what they register.
fn describe() {
    use metrics::{Unit::Seconds, describe_counter, describe_gauge, describe_histogram};

    for (name, what) in [
        (
            "bus_overflow_dropped_total",
            "events that a subscriber of the bus was too slow for",
        ),
        (
            "shield_edge_shed_total",
            "requests, sessions and connections refused because too much was under way, by what of it",
        ),
        (
            "shield_gateway_accept_errors_total",
            "connections that could not be accepted",
        ),
        (
            "shield_gateway_connections_total",
            "connections that were accepted, by listener",
        ),
        (
            "shield_gateway_events_lost_total",
            "facts that readers of /v1/events were too slow for",
        ),
        (
            "shield_gateway_log_held_back_total",
            "log lines over log_repeats_per_min and log_tenant_per_min",
        ),
        (
            "shield_gateway_panics_total",
            "requests that ended in a panic, answered 500",
        ),
        (
            "shield_gateway_reloads_total",
            "reloads of the configuration, by result",
        ),
        (
            "shield_mirror_divergence_total",
            "answers of the shadow that differ from the primary's, by field",
        ),
        (
            "shield_nats_served_total",
            "messages taken off NATS, by source and outcome",
        ),
        (
            "shield_nats_replies_refused_total",
            "replies that were asked for where none may go",
        ),
        (
            "shield_nats_slow_consumers_total",
            "times that NATS said this client is too slow",
        ),
        (
            "shield_reserved_headers_total",
            "reserved headers that were taken from requests",
        ),
        (
            "shield_tenant_limited_total",
            "requests over a tenant's limits, by limit",
        ),
        (
            "shield_trace_requests_total",
            "recorded requests, by what became of their spans",
        ),
        (
            "shield_websocket_closed_total",
            "sessions closed by the gateway, by close code",
        ),
        (
            "shield_overseer_records_dropped_total",
            "requests that should have been recorded and were not, by reason",
        ),
    ] {
        describe_counter!(name, what);
    }
    for (name, what) in [
        (
            "bus_queue_depth",
            "events that wait for the slowest subscriber of the bus",
        ),
        ("bus_subscribers_total", "subscribers of the bus"),
        (
            "shield_gateway_connections",
            "connections that are open, by listener",
        ),
        ("shield_gateway_info", "always 1; the version is in the label"),
        ("shield_gateway_ready", "1 while /readyz says yes"),
        ("shield_gateway_sessions", "WebSocket sessions that are open"),
        (
            "shield_nats_serve_in_flight",
            "messages taken off NATS and not answered yet, by source",
        ),
    ] {
        describe_gauge!(name, what);
    }
    describe_histogram!(
        "shield_nats_serve_duration_seconds",
        Seconds,
        "from a NATS message to its answer, by source"
    );
}

/// The layer that tells requests, and the task that sends traces, where there is a collector.
///
/// # Errors
/// One sentence that names the key.
pub(crate) fn layer(config: &TelemetryConfig) -> Result<(ObserveLayer, Option<otlp::Exporter>), String> {
    let (sink, exporter) = match &config.otlp {
        None => (None, None),
        Some(endpoint) => {
            let made = otlp::exporter(
                endpoint,
                config.otlp_ca_file.as_deref(),
                "arqon-gateway",
                env!("CARGO_PKG_VERSION"),
            );
            let (sink, exporter) = made.map_err(|error| error.to_string())?;
            (Some(sink), Some(exporter))
        }
    };
    let sample = Some(config.otlp_percent.threshold());
    let layer = ObserveLayer::new(ObserveConfig::new(config.access_log, sink, sample));
    Ok((layer, exporter))
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

/// From now on SIGTERM and Ctrl-C end nothing by themselves: what is yielded waits for either and names it.
pub(crate) fn stop_signal() -> impl Future<Output = &'static str> {
    #[cfg(unix)]
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    #[cfg(unix)]
    let interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
    async move {
        #[cfg(unix)]
        if let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) {
            return tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
        }
        let _ = tokio::signal::ctrl_c().await;
        "SIGINT"
    }
}
