//! Nodes that know less than the others: they missed a part of the log, or start with other keys.

use std::time::Instant;

use arqon::rollout::CURRENT;
use arqon_test_support::NatsServer;
use serde_json::Value;

use super::site::{Site, becomes, variant};
use crate::process::{Gateway, eventually};

async fn rollout(gateway: &Gateway) -> Value {
    gateway.get("/v1/state").await.json()["rollout"].clone()
}

/// What one user gets from a gateway until that has read the log to `end`.
async fn served_until(gateway: &Gateway, end: u64) -> Vec<String> {
    let mut served: Vec<String> = Vec::new();
    eventually(async || {
        let is = variant(gateway, 1).await;
        if served.last() != Some(&is) {
            served.push(is);
        }
        (rollout(gateway).await["seq"] == end).then_some(())
    })
    .await;
    served
}

#[tokio::test]
async fn a_node_that_was_away_serves_nothing_of_what_it_missed_before_it_has_read_all_of_it() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let client = server.client().await.expect("connected");
    let config = |node| site.config(Some(server.url()), node, &site.catalog());
    let first = Gateway::ready(&config("gw-1"), &[]).await;
    let second = Gateway::ready(&config("gw-2"), &[]).await;
    second.signal("STOP");
    let stands_still = Instant::now();
    site.roll_out(&first, "p1", ["100", "0", "100"]).await;
    assert_eq!(variant(&first, 1).await, "fast");
    // More than one batch, and all of it takes time to judge and to write down.
    for _ in 0..600 {
        let junk = client.publish("gov.t.default.down", r#"{"x":1}"#.into());
        junk.await.expect("sent");
    }
    client.flush().await.expect("flushed");
    site.gov(&first, "sre-1", &["stop", "--reason", "fire"]).await;
    let end = 2 + 600 + 1;
    eventually(async || (rollout(&first).await["seq"] == end).then_some(())).await;
    // What it asked before it stood still is no news any more.
    eventually(async || (stands_still.elapsed() > 2 * CURRENT).then_some(())).await;
    second.signal("CONT");
    assert_eq!(served_until(&second, end).await, ["stable"]);
    becomes(&second, "stopped").await;
    // Nor does one that has nothing but the log.
    let third = Gateway::ready(&config("gw-3"), &[]).await;
    assert_eq!(served_until(&third, end).await, ["stable"]);
    becomes(&third, "stopped").await;
}

#[tokio::test]
async fn a_stop_outlives_its_key_in_the_configuration() {
    let site = Site::new().await;
    let config = site.config(None, "gw-1", &site.catalog());
    let mut gateway = Gateway::ready(&config, &[]).await;
    site.roll_out(&gateway, "p1", ["100", "0", "100"]).await;
    assert_eq!(variant(&gateway, 1).await, "fast");
    site.gov(&gateway, "sre-1", &["stop", "--reason", "fire"]).await;
    gateway.kill();
    let other = site.public("ops-2");
    gateway.replace(
        "gateway.toml",
        &config.replace(
            &format!("stop_keys = [{}]", site.public("sre-1")),
            &format!("stop_keys = [{other}]"),
        ),
    );
    gateway.start_again();
    gateway.becomes_ready(true).await;
    let after = becomes(&gateway, "stopped").await;
    assert_eq!(
        (after["reason"].as_str(), variant(&gateway, 1).await.as_str()),
        (Some("fire"), "stable")
    );
    // Nor may what operators have said be lost: where it is, only baselines are served.
    site.gov(&gateway, "ops-1", &["resume"]).await;
    site.roll_out(&gateway, "p2", ["100", "0", "100"]).await;
    assert_eq!(variant(&gateway, 1).await, "fast");
    gateway.kill();
    let ops = format!("keys = [{}]", site.public("ops-1"));
    let both = format!(
        "threshold = 2\nkeys = [{}, {}]",
        site.public("ops-1"),
        site.public("ops-2")
    );
    gateway.replace("gateway.toml", &config.replacen(&ops, &both, 1));
    gateway.start_again();
    gateway.becomes_ready(true).await;
    let hold = rollout(&gateway).await["hold"].to_string();
    assert!(hold.contains("position"), "{hold}");
    assert_eq!(variant(&gateway, 1).await, "stable");
    // The keys are put back.
    gateway.kill();
    gateway.replace("gateway.toml", &config);
    gateway.start_again();
    gateway.becomes_ready(true).await;
    assert_eq!(variant(&gateway, 1).await, "fast");
    assert_eq!(rollout(&gateway).await["hold"], Value::Null);
}
