//! Nodes that know less than the others: they missed a part of the log, lack a catalog, or start with other keys.

use std::time::Duration;

use arqon_test_support::NatsServer;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::site::{CATALOG, Site, becomes, scope, variant};
use crate::process::{Gateway, eventually};

async fn rollout(gateway: &Gateway) -> Value {
    gateway.get("/v1/state").await.json()["rollout"].clone()
}

async fn percent(gateway: &Gateway) -> f64 {
    scope(gateway).await["percent"].as_f64().expect("a number")
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
    second.signal("CONT");
    assert_eq!(served_until(&second, end).await, ["stable"]);
    becomes(&second, "stopped").await;
    // Nor does one that has nothing but the log.
    let third = Gateway::ready(&config("gw-3"), &[]).await;
    assert_eq!(served_until(&third, end).await, ["stable"]);
    becomes(&third, "stopped").await;
}

#[tokio::test]
async fn a_node_without_a_catalog_that_the_others_have_never_serves_more_than_they_do() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let first = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    // Its catalogs are in another folder.
    let second = "catalog = { path = \"own/catalog.json\" }";
    let own = tempfile::tempdir().expect("temporary folder");
    std::fs::write(own.path().join("catalog.json"), CATALOG).expect("written");
    let second = second.replace("own/", &format!("{}/", own.path().display()));
    let mut second = Gateway::ready(&site.config(Some(server.url()), "gw-2", &second), &[]).await;
    site.roll_out(&first, "p1", ["10", "60", "100"]).await;
    becomes(&second, "ramping").await;
    let without = r#"{"version": 2, "baseline": 1, "variants": [{"id": 1, "name": "stable"}]}"#;
    std::fs::write(site.path("catalog2.json"), without).expect("written");
    let uri = format!("file://{}", site.file("catalog2.json"));
    let update = json!({ "type": "catalog_update", "version": 2, "source_uri": uri });
    std::fs::write(site.path("update.json"), update.to_string()).expect("written");
    site.gov(&first, "ops-1", &["sign", &site.file("update.json")])
        .await;
    becomes(&first, "paused").await;
    let at = percent(&first).await;
    for again in [false, true] {
        if again {
            second.kill();
            second.start_again();
            second.becomes_ready(true).await;
        }
        let hold = eventually(async || {
            let rollout = rollout(&second).await;
            (rollout["seq"] == 3 && rollout["hold"].is_string()).then(|| rollout["hold"].to_string())
        })
        .await;
        assert!(hold.contains("catalog 2"), "{hold}");
        let is = percent(&second).await;
        // The ramp goes on by half a point meanwhile.
        sleep(Duration::from_millis(500)).await;
        assert!(percent(&second).await <= is, "it does not rise");
        // It may have read the update after the others, and not much later.
        assert!(is <= at + 30.0, "{is} where the others have {at}");
        let checks = second.becomes_ready(true).await["checks"].clone();
        let checks = checks.as_array().expect("checks");
        let check = checks
            .iter()
            .find(|check| check["name"] == "rollout")
            .expect("there");
        assert_eq!(
            (&check["ok"], &check["advisory"]),
            (&json!(false), &json!(true)),
            "{check}"
        );
    }
    // A stop acts there as well.
    site.gov(&first, "sre-1", &["stop"]).await;
    becomes(&second, "stopped").await;
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
