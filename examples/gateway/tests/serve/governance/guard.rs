//! A variant that is worse than the baseline, in real traffic: the guard lowers it and says why.

use arqon_test_support::NatsServer;
use async_nats::jetstream::{self, stream};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::timeout;

use super::site::{Site, becomes, scope};
use crate::process::{Gateway, PATIENCE, eventually};

/// A variant whose name alone makes a message too large for the stream: every publish of it fails, of the baseline none.
const CATALOG: &str = r#"{"version": 1, "baseline": 1, "variants": [{"id": 1, "name": "stable"},
    {"id": 42, "name": "a-variant-whose-name-makes-messages-too-large-for-the-stream"}]}"#;

/// One message of each of the first users: how many were accepted, and how many were not.
async fn traffic(gateway: &Gateway) -> (usize, usize) {
    let (mut good, mut bad) = (0, 0);
    for user in 0..80 {
        let user = format!("user-{user}");
        let answer = gateway.publish("x", &[("x-user", &user)], "{}").await;
        let variant = answer.headers["x-arqon-variant"].to_str().expect("text");
        match answer.status.as_u16() {
            202 => good += 1,
            503 => bad += 1,
            other => panic!("{other}"),
        }
        assert_eq!(answer.status == 202, variant == "stable", "{variant}");
    }
    (good, bad)
}

async fn breach(action: &str) {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let client = server.client().await.expect("connected");
    let mut reports = client
        .subscribe("gov.t.default.tel.gw-1")
        .await
        .expect("subscribed");
    client.flush().await.expect("flushed");
    std::fs::write(site.path("catalog.json"), CATALOG).expect("written");
    let more = format!(
        "{}\nguard = {{ window_seconds = 1, min_samples = 20, latency_factor = 1000.0, action = \"{action}\" }}",
        site.catalog()
    );
    let gateway = Gateway::ready(&site.config(Some(server.url()), "gw-1", &more), &[]).await;

    // How large a message of the baseline is, with its headers; the name of the variant is 54 bytes longer.
    assert_eq!(traffic(&gateway).await, (80, 0));
    let jetstream = jetstream::new(client.clone());
    let mut inbox = jetstream
        .get_stream("ARQON_IN")
        .await
        .expect("the gateway's stream");
    let state = inbox.info().await.expect("known").state.clone();
    let size = i32::try_from(state.bytes / state.messages).expect("small");
    let config = stream::Config {
        max_message_size: size,
        ..inbox.cached_info().config.clone()
    };
    jetstream.update_stream(config).await.expect("updated");
    assert_eq!(traffic(&gateway).await, (80, 0), "the baseline still fits");

    site.roll_out(&gateway, "p1", ["40", "60", "100"]).await;
    becomes(&gateway, "ramping").await;
    let alert = async {
        loop {
            let report = reports.next().await.expect("open");
            let report: Value = serde_json::from_slice(&report.payload).expect("JSON");
            if report["message"]
                .as_str()
                .is_some_and(|text| text.contains("error rate"))
            {
                return report;
            }
        }
    };
    let guarded = eventually(async || {
        let (_, bad) = traffic(&gateway).await;
        let of = scope(&gateway).await;
        assert!(bad > 0 || of["guarded"] == true, "{of}");
        (of["guarded"] == true).then_some(of)
    })
    .await;
    let alert = timeout(PATIENCE, alert).await.expect("in time");
    println!("{action}: {alert}");
    assert_eq!(
        (&alert["type"], &alert["severity"]),
        (&"alert".into(), &"error".into())
    );
    let figure = |name: &str| -> f64 {
        let text = alert["context"][name].as_str().expect("a figure");
        text.parse().expect("a number")
    };
    assert!(
        (figure("canary_error_rate") - 1.0).abs() < 1e-9 && figure("baseline_error_rate") <= 0.0,
        "{alert}"
    );
    assert!(
        figure("canary_requests") >= 20.0 && figure("baseline_requests") >= 20.0,
        "{alert}"
    );
    assert_eq!(guarded["guard"]["verdict"], "breach");
    assert_eq!(guarded["guard"]["canary"]["error_rate"], 1.0);

    // The log goes on, this node does not; only another rollout begins anew.
    let lowered = guarded["percent"].as_f64().expect("a number");
    let higher = eventually(async || {
        let of = scope(&gateway).await;
        (of["log_percent"].as_f64() > Some(lowered + 2.0)).then_some(of)
    })
    .await;
    assert_eq!(higher["percent"], guarded["percent"], "{higher}");
    let (_, bad) = traffic(&gateway).await;
    match action {
        "freeze" => assert!(lowered > 40.0 && bad > 0, "{lowered} {bad}"),
        _ => assert!(lowered <= 0.0 && bad == 0, "{lowered} {bad}"),
    }
    let admin = format!("http://{}", gateway.admin);
    let status = site.arqon(&["gov", "status", "--admin", &admin]).await;
    assert!(status.out.contains("lowered by the guard"), "{}", status.out);
    assert!(status.out.contains("breach"), "{}", status.out);
}

#[tokio::test]
async fn a_failing_variant_is_frozen_where_it_is_and_people_are_told_the_figures() {
    breach("freeze").await;
}

#[tokio::test]
async fn a_failing_variant_is_rolled_back_and_people_are_told_the_figures() {
    breach("rollback").await;
}
