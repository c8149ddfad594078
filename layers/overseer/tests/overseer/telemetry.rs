//! Names of series and log fields (DESIGN 5; the original's names).

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
};

use arqon_message::MessageBody;
use arqon_overseer::{
    EXECUTION_SECONDS_BUCKETS, OverseerConfig, OverseerLayer, PolicyConfig, RecordConfig, RecordedRequest,
};
use axum::body::Body;
use http::{Request, Response};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{Layer, ServiceExt};

use crate::guests::{BLOCK_ME, get, on_request, run, small};

#[tokio::test]
async fn every_series_starts_at_zero_and_counts() {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&EXECUTION_SECONDS_BUCKETS)
        .unwrap()
        .build_recorder();
    let rendered = recorder.handle();
    let policies = [
        PolicyConfig::from_module("block_me", BLOCK_ME),
        PolicyConfig {
            mode: "monitor".to_owned(),
            ..PolicyConfig::from_module("watch", BLOCK_ME)
        },
    ];
    let folder = tempfile::tempdir().unwrap();
    let config = OverseerConfig {
        record: Some(RecordConfig {
            path: folder.path().join("records.jsonl"),
            ..RecordConfig::default()
        }),
        ..small(policies)
    };
    let (layer, handle) = metrics::with_local_recorder(&recorder, || OverseerLayer::channel(config).unwrap());
    let text = rendered.render();
    for series in [
        r#"shield_wasm_fuel_consumed_total{module="block_me"} 0"#,
        r#"shield_overseer_decisions_total{module="block_me",decision="allow"} 0"#,
        r#"shield_overseer_decisions_total{module="block_me",decision="reject"} 0"#,
        r#"shield_overseer_failures_total{module="block_me",cause="fuel"} 0"#,
        r#"shield_overseer_failures_total{module="block_me",cause="body"} 0"#,
        r#"shield_overseer_standby_total{result="hit"} 0"#,
        r#"shield_overseer_relaxed{module="block_me"} 0"#,
        r#"shield_overseer_relaxed{module="watch"} 1"#,
        r#"shield_overseer_reloads_total{module="block_me",result="ok"} 0"#,
        r#"shield_overseer_candidate_total{module="watch",verdict="skipped"} 0"#,
        r#"shield_overseer_candidate_failures_total{module="watch",cause="deadline"} 0"#,
        r#"shield_overseer_candidate_duration_seconds_count{module="watch"} 0"#,
        r#"shield_overseer_log_lines_dropped_total{module="watch"} 0"#,
        r#"shield_overseer_candidate_log_lines_dropped_total{module="watch"} 0"#,
        "shield_overseer_records_dropped_total 0",
        r#"shield_overseer_reloads_total{module="block_me",result="refused"} 0"#,
    ] {
        assert!(text.contains(series), "{series} in\n{text}");
    }
    let ask = |block: bool| {
        let inner = tower::service_fn(|_: Request<MessageBody<Body>>| async {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let mut request = get("/");
        if block {
            request
                .headers_mut()
                .insert("x-block-me", http::HeaderValue::from_static("1"));
        }
        layer.layer(inner).oneshot(request)
    };
    ask(false).await.unwrap();
    ask(true).await.unwrap();
    handle.replace("watch", BLOCK_ME.into()).await.unwrap();
    handle.replace("watch", "(module)".into()).await.unwrap_err();
    handle.settle();
    let text = rendered.render();
    // Live and offline, the same request costs the same fuel.
    let offline = |json: serde_json::Value| {
        let request: RecordedRequest = serde_json::from_value(json).unwrap();
        run(&PolicyConfig::from_module("block_me", BLOCK_ME), &request).fuel
    };
    let fuel = offline(serde_json::json!({})) + offline(serde_json::json!({"headers": {"x-block-me": "1"}}));
    for series in [
        format!(r#"shield_wasm_fuel_consumed_total{{module="block_me"}} {fuel}"#),
        r#"shield_overseer_decisions_total{module="block_me",decision="allow"} 1"#.to_owned(),
        r#"shield_overseer_reloads_total{module="watch",result="ok"} 1"#.to_owned(),
        r#"shield_overseer_reloads_total{module="watch",result="refused"} 1"#.to_owned(),
        r#"shield_overseer_decisions_total{module="block_me",decision="reject"} 1"#.to_owned(),
        r#"shield_wasm_execution_duration_seconds_count{module="block_me"} 2"#.to_owned(),
        r#"shield_wasm_execution_duration_seconds_bucket{module="block_me",le="0.0000001"}"#.to_owned(),
    ] {
        assert!(text.contains(&series), "{series} in\n{text}");
    }
}

#[tokio::test]
async fn a_candidates_time_and_failures_are_counted_apart_from_the_active_modules() {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&EXECUTION_SECONDS_BUCKETS)
        .unwrap()
        .build_recorder();
    let rendered = recorder.handle();
    let config = small([PolicyConfig::from_module("p", BLOCK_ME)]);
    let (layer, handle) = metrics::with_local_recorder(&recorder, || OverseerLayer::channel(config).unwrap());
    handle
        .candidate("p", on_request("unreachable").into())
        .await
        .unwrap();
    ask(&layer).await;
    let begun = std::time::Instant::now();
    let differs = r#"shield_overseer_candidate_total{module="p",verdict="differs"} 1"#;
    while !rendered.render().contains(differs) {
        assert!(begun.elapsed().as_secs() < 60, "{}", rendered.render());
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    handle.settle();
    let text = rendered.render();
    for series in [
        r#"shield_overseer_candidate_failures_total{module="p",cause="trap"} 1"#,
        r#"shield_overseer_candidate_duration_seconds_count{module="p"} 1"#,
        r#"shield_overseer_failures_total{module="p",cause="trap"} 0"#,
        r#"shield_wasm_execution_duration_seconds_count{module="p"} 1"#,
        r#"shield_overseer_decisions_total{module="p",decision="allow"} 1"#,
    ] {
        assert!(text.contains(series), "{series} in\n{text}");
    }
}

async fn ask(layer: &OverseerLayer) {
    let inner = tower::service_fn(|_: Request<MessageBody<Body>>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let response = layer.layer(inner).oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn every_call_is_counted_once_however_its_instance_goes() {
    for standby in [0, 1, 4] {
        let config = OverseerConfig {
            standby,
            ..small([PolicyConfig::from_module("block_me", BLOCK_ME)])
        };
        let (layer, handle) = OverseerLayer::channel(config).unwrap();
        let counted = || -> u64 {
            let status = handle.policies().remove(0);
            status.fuel.buckets.iter().map(|bucket| bucket.calls).sum()
        };
        for asked in 1..=60 {
            ask(&layer).await;
            if asked % 7 == 0 {
                assert_eq!(counted(), asked, "standby {standby}");
            }
            if asked % 3 == 0 {
                // Used instances are dropped now, if somebody was asked to.
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(counted(), 60, "standby {standby}");
    }
}

#[tokio::test]
async fn calls_are_counted_soon_even_if_nobody_asks() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    let config = small([PolicyConfig::from_module("block_me", BLOCK_ME)]);
    let layer = metrics::with_local_recorder(&recorder, || OverseerLayer::new(config).unwrap());
    ask(&layer).await;
    let begun = std::time::Instant::now();
    let series = r#"shield_overseer_decisions_total{module="block_me",decision="allow"} 1"#;
    while !rendered.render().contains(series) {
        assert!(begun.elapsed().as_secs() < 30, "{}", rendered.render());
        tokio::task::yield_now().await;
    }
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Captures what is logged on any thread while `act` runs.
fn captured(act: impl FnOnce()) -> String {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = captured.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_guests_line_has_the_originals_fields() {
    let text = captured(|| {
        let wasm: &[u8] = include_bytes!("../fixtures/log.wasm");
        run(
            &PolicyConfig::from_module("auth_policy", wasm),
            &RecordedRequest::default(),
        );
    });
    assert!(
        text.contains(r#"INFO arqon_overseer::guest: component="overseer" module="auth_policy" msg="hello from the guest""#),
        "{text}"
    );
    assert!(!text.contains("candidate"), "{text}");
}
