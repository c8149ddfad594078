//! Metrics stand at 0 from the start.

use arqon_shadow::{Reason, RuleConfig, ShadowConfig};
use bytes::Bytes;
use http_body_util::Full;
use metrics_exporter_prometheus::PrometheusBuilder;

use super::support::*;

#[tokio::test]
async fn every_series_is_there_at_zero_and_counts_what_happens() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let rig = metrics::with_local_recorder(&recorder, || rig(&all()));
    let start = page.render();
    for reason in Reason::ALL {
        let line = format!("shield_mirror_dropped_total{{reason=\"{reason}\"}} 0");
        assert!(start.lines().any(|shown| shown == line), "{line}\n{start}");
    }
    for line in [
        "shield_mirror_traffic_total{rule=\"in.>\"} 0",
        "shield_mirror_sampled_total{rule=\"in.>\"} 0",
        "shield_mirror_effective_fraction{rule=\"in.>\"} 1",
        "shield_mirror_key_source_total{source=\"traceparent\"} 0",
        "shield_mirror_key_source_total{source=\"connection\"} 0",
        "shield_mirror_no_key_total 0",
        "shield_mirror_loop_total 0",
    ] {
        assert!(start.lines().any(|shown| shown == line), "{line}\n{start}");
    }
    send(&rig.layer, request(Full::<Bytes>::default()), echo).await;
    send(&rig.layer, request(Full::<Bytes>::default()), |_| async {
        status(500)
    })
    .await;
    rig.sink.recorded(1).await;
    rig.settled().await;
    let end = page.render();
    for line in [
        "shield_mirror_traffic_total{rule=\"in.>\"} 1",
        "shield_mirror_sampled_total{rule=\"in.>\"} 2",
        "shield_mirror_dropped_total{reason=\"primary_rejected\"} 1",
        "shield_mirror_key_source_total{source=\"traceparent\"} 2",
        "shield_mirror_queue_messages 0",
        "shield_mirror_in_flight 0",
    ] {
        assert!(end.lines().any(|shown| shown == line), "{line}\n{end}");
    }
}

#[tokio::test]
async fn the_effective_share_is_nothing_when_off_and_of_a_rule_that_is_gone() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let shown = |rule: &str, share: &str| {
        let line = format!("shield_mirror_effective_fraction{{rule=\"{rule}\"}} {share}");
        let page = page.render();
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    };
    let rig = metrics::with_local_recorder(&recorder, || rig(&all()));
    shown("in.>", "1");
    metrics::with_local_recorder(&recorder, || {
        rig.handle.set_enabled(false);
        shown("in.>", "0");
        assert_eq!(rig.handle.state().rules[0].effective, 0.0);
        rig.handle.set_enabled(true);
        shown("in.>", "1");
        let other = ShadowConfig::default().rule(RuleConfig::new("out.>", 0.25));
        rig.handle.reload(&other).expect("valid");
    });
    shown("in.>", "0");
    shown("out.>", "0.25");
}
