//! Catalogs that a gateway finds other than the others, or not at all.

use arqon::rollout::{Digest, Envelope};
use arqon_test_support::NatsServer;
use async_nats::jetstream::{self, kv};
use serde_json::{Value, json};

use super::site::{CATALOG, Site, becomes, scope};
use crate::process::{Gateway, eventually};

const WITHOUT: &str = r#"{"version": 2, "baseline": 1, "variants": [{"id": 1, "name": "stable"}]}"#;

fn with(version: u32) -> String {
    CATALOG.replace("\"version\": 1", &format!("\"version\": {version}"))
}

fn write_update(site: &Site, version: u32, uri: &str) -> String {
    let update = json!({ "type": "catalog_update", "version": version, "source_uri": uri });
    std::fs::write(site.path("update.json"), update.to_string()).expect("written");
    site.file("update.json")
}

async fn update(site: &Site, gateway: &Gateway, version: u32, uri: &str) {
    let update = write_update(site, version, uri);
    site.gov(gateway, "ops-1", &["sign", &update]).await;
}

/// What must be the same on every node: the phase, the share, both catalogs.
async fn state(gateway: &Gateway) -> [Value; 4] {
    let tenant = gateway.get("/v1/state").await.json()["rollout"]["tenants"][0].clone();
    let scope = scope(gateway).await;
    [
        scope["phase"].clone(),
        scope["percent"].clone(),
        tenant["catalog_version"].clone(),
        tenant["parked_catalog_version"].clone(),
    ]
}

async fn hold(gateway: &Gateway) -> Value {
    gateway.get("/v1/state").await.json()["rollout"]["hold"].clone()
}

#[tokio::test]
async fn a_file_that_only_one_gateway_has_is_read_by_the_others_from_what_that_one_keeps() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let first = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    // Its catalogs are in another folder.
    let own = tempfile::tempdir().expect("temporary folder");
    std::fs::write(own.path().join("catalog.json"), CATALOG).expect("written");
    let second = format!("catalog = {{ path = \"{}/catalog.json\" }}", own.path().display());
    let mut second = Gateway::ready(&site.config(Some(server.url()), "gw-2", &second), &[]).await;
    site.roll_out(&first, "p1", ["10", "60", "100"]).await;
    becomes(&second, "ramping").await;
    std::fs::write(site.path("catalog2.json"), WITHOUT).expect("written");
    let uri = format!("file://{}", site.file("catalog2.json"));
    update(&site, &first, 2, &uri).await;
    becomes(&first, "paused").await;
    becomes(&second, "paused").await;
    assert_eq!(state(&second).await, state(&first).await);
    // The next one waits there as here; then the file is edited, and a gateway comes that has nothing.
    std::fs::write(site.path("catalog2.json"), with(3)).expect("written");
    update(&site, &first, 3, &uri).await;
    std::fs::write(site.path("catalog2.json"), "gone").expect("written");
    let third = Gateway::ready(&site.config(Some(server.url()), "gw-3", &site.catalog()), &[]).await;
    second.kill();
    second.start_again();
    second.becomes_ready(true).await;
    for other in [&second, &third] {
        let same = async || (state(other).await == state(&first).await).then_some(());
        eventually(same).await;
        assert_eq!(state(other).await[3], 3, "parked");
    }
}

#[tokio::test]
async fn a_bucket_that_moved_on_holds_the_gateway_that_missed_a_revision_until_it_is_back() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let jetstream = jetstream::new(server.client().await.expect("connected"));
    let bucket = kv::Config {
        bucket: "ARQON_CATALOG".to_owned(),
        history: 1,
        ..kv::Config::default()
    };
    let bucket = jetstream.create_key_value(bucket).await.expect("made");
    let config = |node| site.config(Some(server.url()), node, &site.catalog());
    let first = Gateway::ready(&config("gw-1"), &[]).await;
    let mut second = Gateway::ready(&config("gw-2"), &[]).await;
    site.roll_out(&first, "p1", ["10", "60", "100"]).await;
    becomes(&second, "ramping").await;
    second.signal("STOP");
    // Without a digest nothing but the version tells what was meant. No gateway lets such a one in; older ones did.
    bucket.put("main", WITHOUT.into()).await.expect("put");
    let update = write_update(&site, 2, "kv://ARQON_CATALOG/main");
    let signed = site
        .arqon(&["gov", "sign", &update, "--key", &site.key("ops-1")])
        .await;
    let client = server.client().await.expect("connected");
    let sent = client.publish("gov.t.default.down", signed.out.trim().to_owned().into());
    sent.await.expect("sent");
    client.flush().await.expect("flushed");
    let paused = becomes(&first, "paused").await;
    bucket.put("main", with(3).into()).await.expect("put");
    second.signal("CONT");
    for again in [false, true] {
        if again {
            second.kill();
            second.start_again();
            second.becomes_ready(true).await;
        }
        let why = eventually(async || {
            let why = hold(&second).await.as_str().map(str::to_owned);
            why.filter(|why| why.contains("announced was 2"))
        })
        .await;
        assert!(why.contains("catalog 2 of tenant `default`"), "{why}");
        assert!(
            scope(&second).await["percent"].as_f64() <= paused["percent"].as_f64(),
            "no more than the others"
        );
    }
    // What it cannot judge yet it does not claim.
    let words = ["pause", "--scope", "in.t.default.nobody.>"];
    let paused = site.gov(&second, "sre-1", &words).await;
    assert_eq!(paused["targets"][0]["judged"], false, "{paused}");
    bucket.put("main", WITHOUT.into()).await.expect("put");
    eventually(async || (state(&second).await == state(&first).await).then_some(())).await;
    assert_eq!(hold(&second).await, Value::Null);
    assert_eq!(scope(&second).await["phase"], "paused");
}

#[tokio::test]
async fn a_restart_after_the_catalog_s_file_was_edited_serves_what_was_served() {
    let site = Site::new().await;
    let config = site.config(None, "gw-1", &site.catalog());
    let mut gateway = Gateway::ready(&config, &[]).await;
    site.roll_out(&gateway, "p1", ["10", "60", "100"]).await;
    let uri = format!("file://{}", site.file("catalog.json"));
    std::fs::write(site.path("catalog.json"), WITHOUT).expect("written");
    update(&site, &gateway, 2, &uri).await;
    becomes(&gateway, "paused").await;
    std::fs::write(site.path("catalog.json"), with(3)).expect("written");
    update(&site, &gateway, 3, &uri).await;
    let before = state(&gateway).await;
    assert_eq!((&before[0], &before[3]), (&json!("paused"), &json!(3)));
    gateway.kill();
    gateway.start_again();
    gateway.becomes_ready(true).await;
    assert_eq!(state(&gateway).await, before);
    assert_eq!(hold(&gateway).await, Value::Null);
    // Where what it began with is gone it serves baselines, and says so.
    gateway.kill();
    std::fs::remove_file(gateway.path("audit.jsonl.catalog")).expect("removed");
    gateway.start_again();
    gateway.becomes_ready(true).await;
    let why = eventually(async || hold(&gateway).await.as_str().map(str::to_owned)).await;
    assert!(
        why.contains("position 3") && why.contains("catalog_version"),
        "{why}"
    );
    assert_eq!(state(&gateway).await[1], 0.0);
}

#[tokio::test]
async fn an_update_without_a_digest_is_signed_with_that_of_its_file() {
    let site = Site::new().await;
    std::fs::write(site.path("catalog2.json"), WITHOUT).expect("written");
    let digest = Digest::of_bytes(WITHOUT.as_bytes()).to_string();
    let (file, key, catalog) = (
        site.file("update.json"),
        site.key("ops-1"),
        site.file("catalog2.json"),
    );
    let signed = async |uri: &str, version: u32, more: &[&str]| {
        let update = json!({ "type": "catalog_update", "version": version, "source_uri": uri });
        std::fs::write(&file, update.to_string()).expect("written");
        site.arqon(&[&["gov", "sign", &file, "--key", &key][..], more].concat())
            .await
    };
    let payload = |printed: &str| {
        let envelope = Envelope::parse(printed.trim().as_bytes()).expect("an envelope");
        String::from_utf8(envelope.payload().to_vec()).expect("text")
    };
    let local = signed(&format!("file://{catalog}"), 2, &[]).await;
    let named = signed("kv://ARQON_CATALOG/main", 2, &["--catalog", &catalog]).await;
    for printed in [local, named] {
        assert!(payload(&printed.out).contains(&digest), "{printed:?}");
    }
    let unnamed = signed("kv://ARQON_CATALOG/main", 2, &[]).await;
    assert!(!payload(&unnamed.out).contains("sha256"), "{unnamed:?}");
    let other = signed("kv://ARQON_CATALOG/main", 3, &["--catalog", &catalog]).await;
    assert!(other.code != 0 && other.errors.contains("version 2"), "{other:?}");
}
