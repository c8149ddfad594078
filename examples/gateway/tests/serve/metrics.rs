//! The names of `/metrics`: a closed list, each there from the start and explained, and what documents and the console say of
//! them.

use std::{collections::BTreeSet, path::Path};

use super::process::Gateway;

/// Every name that `/metrics` has, whatever is on (DESIGN 5 to 10, and the gateway's own).
const METRICS: &[&str] = &[
    "bus_overflow_dropped_total",
    "bus_queue_depth",
    "bus_subscribers_total",
    "shield_auth_refresh_total",
    "shield_auth_total",
    "shield_edge_shed_total",
    "shield_gateway_accept_errors_total",
    "shield_gateway_connections",
    "shield_gateway_connections_total",
    "shield_gateway_events_lost_total",
    "shield_gateway_info",
    "shield_gateway_log_held_back_total",
    "shield_gateway_panics_total",
    "shield_gateway_problems_total",
    "shield_gateway_ready",
    "shield_gateway_reloads_total",
    "shield_gateway_request_duration_seconds",
    "shield_gateway_requests_in_flight",
    "shield_gateway_requests_total",
    "shield_gateway_sessions",
    "shield_layer_entered_total",
    "shield_layer_passed_total",
    "shield_mirror_divergence_total",
    "shield_mirror_dropped_total",
    "shield_mirror_in_flight",
    "shield_mirror_key_source_total",
    "shield_mirror_loop_total",
    "shield_mirror_no_key_total",
    "shield_mirror_queue_bytes",
    "shield_mirror_queue_messages",
    "shield_nats_replies_refused_total",
    "shield_nats_serve_duration_seconds",
    "shield_nats_serve_in_flight",
    "shield_nats_served_total",
    "shield_nats_slow_consumers_total",
    "shield_reserved_headers_total",
    "shield_rollout_alone",
    "shield_rollout_decisions_total",
    "shield_rollout_fraction",
    "shield_rollout_refused_total",
    "shield_rollout_stopped",
    "shield_schema_alarms_total",
    "shield_schema_load_errors_total",
    "shield_schema_refused_total",
    "shield_schema_registry_age_seconds",
    "shield_schema_relaxed",
    "shield_schema_unmapped_total",
    "shield_schema_validation_duration_seconds",
    "shield_tenant_limited_total",
    "shield_trace_requests_total",
    "shield_websocket_closed_total",
];
/// What is there once something is configured, since it goes by its name: an issuer, a policy, a mapping, a rule. Their
/// series are at 0 from the start too.
const CONFIGURED: &[&str] = &[
    "shield_auth_keys",
    "shield_mirror_effective_fraction",
    "shield_mirror_sampled_total",
    "shield_mirror_traffic_total",
    "shield_overseer_candidate_duration_seconds",
    "shield_overseer_candidate_failures_total",
    "shield_overseer_candidate_log_lines_dropped_total",
    "shield_overseer_candidate_total",
    "shield_overseer_decisions_total",
    "shield_overseer_failures_total",
    "shield_overseer_log_lines_dropped_total",
    "shield_overseer_records_dropped_total",
    "shield_overseer_relaxed",
    "shield_overseer_reloads_total",
    "shield_overseer_standby_total",
    "shield_schema_violation_total",
    "shield_wasm_execution_duration_seconds",
    "shield_wasm_fuel_consumed_total",
];

/// The names of `/metrics`; what each means stands beside it.
async fn names(gateway: &Gateway) -> BTreeSet<String> {
    let text = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
    let after = |prefix: &'static str| {
        let lines = text.lines().filter_map(move |line| line.strip_prefix(prefix));
        lines.filter_map(|line| line.split_once(' '))
    };
    let kinds: Vec<_> = after("# TYPE ").collect();
    assert!(
        kinds
            .iter()
            .all(|(_, kind)| ["counter", "gauge", "histogram"].contains(kind))
    );
    let names: BTreeSet<_> = kinds.iter().map(|(name, _)| (*name).to_owned()).collect();
    let explained: BTreeSet<_> = after("# HELP ").map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names.difference(&explained).collect::<Vec<_>>(), [&""; 0]);
    names
}

fn own(names: &[&[&str]]) -> BTreeSet<String> {
    names.concat().into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn every_metric_is_there_from_the_start_and_none_that_is_not_named() {
    let gateway = Gateway::ready("", &[]).await;
    let found = names(&gateway).await;
    let expected = own(&[METRICS]);
    let (more, less): (Vec<_>, Vec<_>) = (
        found.difference(&expected).collect(),
        expected.difference(&found).collect(),
    );
    assert!(
        more.is_empty() && less.is_empty(),
        "not named: {more:?}; not there: {less:?}"
    );
    let text = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
    for series in [
        "shield_gateway_requests_total{protocol=\"ws\",status=\"5xx\"} 0",
        "shield_gateway_problems_total{code=\"overseer.fuel\"} 0",
        "shield_nats_served_total{source=\"jetstream\",outcome=\"poison\"} 0",
        "shield_rollout_refused_total{reason=",
        "shield_auth_total{result=\"expired\"} 0",
        "shield_auth_refresh_total{result=\"failed\"} 0",
        "shield_gateway_request_duration_seconds_count{protocol=\"h2\"} 0",
        "shield_gateway_request_duration_seconds_bucket{protocol=\"ws\",le=\"+Inf\"} 0",
        "shield_nats_serve_duration_seconds_sum{source=\"core\"} 0",
        "shield_schema_validation_duration_seconds_count 0",
    ] {
        assert!(text.contains(series), "{series} in\n{text}");
    }

    let all = r#"
[auth]
issuers = [{ issuer = "https://id.example", audience = "arqon", jwks_file = "keys.json" }]
[platform.overseer]
record = { path = "records.jsonl" }
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"
[platform.registry]
dir = "schemas"
mappings = [{ subject = "in.t.default.users", schema_id = "v1.events.user_created" }]
[platform.mirroring]
rules = [{ prefix = "in.t.default.>", percent = 0.5 }]
"#;
    let gateway = Gateway::ready(all, &[]).await;
    let text = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
    for series in [
        "shield_auth_keys{issuer=\"https://id.example\"} 1",
        "shield_wasm_execution_duration_seconds_count{module=\"block_me\"} 0",
    ] {
        assert!(text.contains(series), "{series} in\n{text}");
    }
    let found = names(&gateway).await;
    let expected = own(&[METRICS, CONFIGURED]);
    let (more, less): (Vec<_>, Vec<_>) = (
        found.difference(&expected).collect(),
        expected.difference(&found).collect(),
    );
    assert!(
        more.is_empty() && less.is_empty(),
        "not named: {more:?}; not there: {less:?}"
    );
}

/// A metric's name, or the beginning of some, as in `shield_layer_*`.
fn is_known(name: &str) -> bool {
    let known = || METRICS.iter().chain(CONFIGURED);
    let histogram = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|part| name.strip_suffix(part));
    match name.strip_suffix('*') {
        Some(beginning) => known().any(|known| known.starts_with(beginning)),
        None => known().any(|known| *known == name || Some(*known) == histogram),
    }
}

#[test]
fn every_alert_has_a_paragraph_in_the_runbook() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let read = |file: &str| std::fs::read_to_string(root.join(file)).expect("there");
    let (rules, runbook) = (read("alerts/arqon.rules.yml"), read("runbook.md"));
    let alerts: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() > 12, "{alerts:?}");
    for alert in &alerts {
        assert!(runbook.contains(&format!("\n**{alert}**: ")), "{alert}");
    }
    let explained = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("**Arqon")?.split_once("**"));
    for (alert, _) in explained {
        assert!(
            alerts.contains(&&*format!("Arqon{alert}")),
            "no alert Arqon{alert}"
        );
    }
}

#[test]
fn what_documents_say_of_metrics_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Where the least number is told, so that a page whose names are no longer found is noticed.
    for (file, least) in [
        ("docs/alerts/arqon.rules.yml", 10),
        ("docs/dashboards/arqon.json", 15),
        ("docs/runbook.md", 8),
        ("docs/console.md", 5),
        ("docs/guide.md", 0),
        ("docs/schemas.md", 0),
        ("docs/shadow-consumers.md", 0),
        ("docs/adr/0034-names-of-our-own.md", 5),
        ("examples/gateway/src/console/rules.js", 8),
        ("examples/gateway/src/console/contracts.js", 4),
        ("examples/gateway/src/console/health.js", 8),
        ("examples/gateway/src/console/layers.js", 5),
        ("examples/gateway/src/console/mirror.js", 5),
        ("examples/gateway/src/console/policies.js", 4),
        ("examples/gateway/src/console/traffic.js", 4),
    ] {
        let text = std::fs::read_to_string(root.join(file)).expect(file);
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && !"_*".contains(letter));
        let named: BTreeSet<_> = words
            .filter(|word| word.starts_with("shield_") || word.starts_with("bus_"))
            .filter(|word| !["bus_attached", "bus_capacity"].contains(word))
            .collect();
        let unknown: Vec<_> = named.iter().filter(|name| !is_known(name)).collect();
        assert!(
            unknown.is_empty(),
            "{file} names {unknown:?}, which /metrics has not"
        );
        assert!(named.len() >= least, "{file} names {named:?} only");
    }
}
