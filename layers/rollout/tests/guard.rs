//! The guard and the telemetry, through the layer.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use std::{convert::Infallible, time::Duration};

use arqon_rollout::{
    AlertSeverity, AuditConfig, Config, Executor, GuardAction, GuardConfig, KeyPair, RolloutLayer,
    UpstreamMessage, Variant,
};
use http::{Request, Response, StatusCode};
use tower::{Layer, ServiceExt, service_fn};

use self::node::{Node, catalog, tenant};

fn guarded(action: GuardAction) -> Node {
    guarded_beside(action, None)
}

/// One that keeps what it latched and capped beside this trail.
fn guarded_beside(action: GuardAction, trail: Option<&std::path::Path>) -> Node {
    let source = Node::start();
    let config = Config {
        guard: Some(GuardConfig {
            window_seconds: 10,
            // These tests are of error rates: real latencies on a loaded machine prove nothing.
            latency_factor: 1e6,
            action,
            ..GuardConfig::default()
        }),
        telemetry_seconds: 60,
        audit: trail.map(|path| AuditConfig {
            path: path.to_path_buf(),
        }),
        ..source.config.clone()
    };
    let executor = Executor::builder(&config)
        .catalog(catalog())
        .clock(source.clock.clone())
        .log(source.log.clone())
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .build()
        .unwrap();
    source.run.abort();
    Node {
        handle: executor.handle(),
        run: tokio::spawn(executor.run()),
        config,
        ..source
    }
}

/// A thousand users, each asking once; the variant fails as often as `broken` says.
async fn traffic(node: &Node, broken: impl Fn(u32) -> bool + Copy + Send + 'static) {
    let layer = RolloutLayer::new(&node.handle).with_key("header:x-user".parse().unwrap());
    for user in 0..1_000_u32 {
        let inner = service_fn(move |request: Request<()>| async move {
            let mut response = Response::new(());
            if !request.extensions().get::<Variant>().unwrap().baseline && broken(user) {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            Ok::<_, Infallible>(response)
        });
        let mut request = Request::new(());
        request
            .headers_mut()
            .insert("x-user", user.to_string().parse().unwrap());
        request.extensions_mut().insert(tenant("default"));
        layer.layer(inner).oneshot(request).await.unwrap();
    }
}

async fn window(node: &Node) {
    node.clock.advance(Duration::from_secs(10));
    node.settle().await;
}

fn percent(node: &Node) -> f64 {
    node.handle.status().scope("default", "").unwrap().percent
}

#[tokio::test(start_paused = true)]
async fn a_worse_variant_is_rolled_back_here_and_people_are_told() {
    let node = guarded(GuardAction::Rollback);
    node.roll_out("p1", (50.0, 6.0, 100.0)).await;
    node.settle().await;
    traffic(&node, |user| user % 5 == 0).await;
    window(&node).await;
    assert!(percent(&node) <= 0.0, "{}", percent(&node));
    assert!(node.handle.status().scope("default", "").unwrap().guarded);
    assert!(node.cohort().await.is_empty());
    let alerts: Vec<_> = node.log.take_reports();
    let alert = alerts.iter().find_map(|report| match report {
        UpstreamMessage::Alert {
            severity,
            message,
            context,
            ..
        } => Some((severity, message, context)),
        _ => None,
    });
    let (severity, message, context) = alert.unwrap();
    assert_eq!(*severity, AlertSeverity::Error);
    assert!(message.contains("error rate"), "{message}");
    assert!(context.contains_key("canary_error_rate"));
    // It may only lower: healthy windows do not bring it back, another rollout starts anew.
    traffic(&node, |_| false).await;
    window(&node).await;
    assert!(percent(&node) <= 0.0);
    node.enforce(arqon_rollout::EnforcementAction::EmergencyStop)
        .await
        .unwrap();
    node.enforce(arqon_rollout::EnforcementAction::ResumeAdaptation)
        .await
        .unwrap();
    node.roll_out("p2", (50.0, 0.0, 50.0)).await;
    assert!((percent(&node) - 50.0).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn what_the_guard_has_rolled_back_stays_so_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let trail = folder.path().join("audit.jsonl");
    let mut node = guarded_beside(GuardAction::Rollback, Some(&trail));
    node.roll_out("p1", (50.0, 6.0, 100.0)).await;
    node.settle().await;
    traffic(&node, |user| user % 5 == 0).await;
    window(&node).await;
    assert!(percent(&node) <= 0.0, "{}", percent(&node));
    // Its file is written on a thread that paused time does not wait for.
    let slots = folder.path().join("audit.jsonl.stop");
    let has_cap = || String::from_utf8_lossy(&std::fs::read(&slots).unwrap()).contains("\"percent\":0");
    for _ in 0..100_000 {
        if has_cap() {
            break;
        }
        tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
    }
    assert!(has_cap());
    node.restart().await;
    node.settle().await;
    assert!(percent(&node) <= 0.0, "{}", percent(&node));
    assert!(node.handle.status().scope("default", "").unwrap().guarded);
    assert!(node.cohort().await.is_empty());
    // Of another rollout it says nothing.
    for action in [
        arqon_rollout::EnforcementAction::EmergencyStop,
        arqon_rollout::EnforcementAction::ResumeAdaptation,
    ] {
        node.enforce(action).await.unwrap();
    }
    node.roll_out("p2", (50.0, 0.0, 50.0)).await;
    assert!((percent(&node) - 50.0).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn without_data_the_share_is_held_and_with_it_goes_on() {
    let node = guarded(GuardAction::Freeze);
    node.roll_out("p1", (30.0, 6.0, 100.0)).await;
    node.settle().await;
    window(&node).await;
    let held = percent(&node);
    window(&node).await;
    window(&node).await;
    assert_eq!(percent(&node).to_bits(), held.to_bits(), "nobody asked");
    traffic(&node, |_| false).await;
    window(&node).await;
    assert!(percent(&node) > held + 1.0, "{} after {held}", percent(&node));
}

#[tokio::test(start_paused = true)]
async fn figures_are_sent_upstream() {
    let node = guarded(GuardAction::Freeze);
    node.roll_out("p1", (50.0, 0.0, 50.0)).await;
    node.settle().await;
    node.log.take_reports();
    traffic(&node, |user| user % 2 == 0).await;
    node.clock.advance(Duration::from_secs(61));
    node.settle().await;
    let reports = node.log.take_reports();
    let metrics = reports.iter().find_map(|report| match report {
        UpstreamMessage::Telemetry { node_id, metrics, .. } if node_id == "node" => Some(metrics),
        _ => None,
    });
    let metrics = metrics.unwrap();
    let answers = metrics["canary_requests"] + metrics["baseline_requests"];
    assert!((answers - 1_000.0).abs() < 0.5, "{metrics:?}");
    assert!((0.3..0.7).contains(&metrics["canary_error_rate"]), "{metrics:?}");
    assert!(metrics["baseline_error_rate"] <= 0.0);
}
