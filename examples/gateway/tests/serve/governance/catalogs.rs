//! Catalogs in KV, and what goes upstream.

use arqon::rollout::Digest;
use arqon_test_support::NatsServer;
use async_nats::jetstream::{self, kv};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::site::{CATALOG, Printed, Site, becomes, cohort, scope, variant};
use crate::process::{Gateway, PATIENCE, eventually};

fn version(number: u32, more: &str) -> String {
    CATALOG
        .replace("\"version\": 1", &format!("\"version\": {number}"))
        .replace("{\"id\": 1,", &format!("{more}{{\"id\": 1,"))
}

async fn catalog_version(gateway: &Gateway) -> Value {
    let state = gateway.get("/v1/state").await.json();
    state["rollout"]["tenants"][0]["catalog_version"].clone()
}

async fn update(site: &Site, gateway: &Gateway, version: u32, uri: &str, digest: Option<String>) -> Printed {
    let message = site.path("update.json");
    let mut update = json!({ "type": "catalog_update", "version": version, "source_uri": uri });
    if let Some(digest) = digest {
        update["digest"] = json!(digest);
    }
    std::fs::write(&message, update.to_string()).expect("written");
    site.try_gov(gateway, "ops-1", &["sign", message.to_str().expect("UTF-8")])
        .await
}

#[tokio::test]
async fn a_catalog_in_kv_is_read_once_and_then_only_replaced_by_a_signed_update() {
    let site = Site::new().await;
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let jetstream = jetstream::new(server.client().await.expect("connected"));
    let config = site.config(
        Some(server.url()),
        "gw-1",
        "catalog = { kv = \"ARQON_CATALOG/main\" }",
    );
    // Without a bucket there is no variant, and requests pass.
    let mut gateway = Gateway::ready(&config, &[]).await;
    let answer = gateway.publish("x", &[("x-user", "ada")], "{}").await;
    assert_eq!(
        (answer.status.as_u16(), answer.headers.get("x-arqon-variant")),
        (202, None)
    );
    let bucket = kv::Config {
        bucket: "ARQON_CATALOG".to_owned(),
        history: 16,
        ..kv::Config::default()
    };
    let bucket = jetstream.create_key_value(bucket).await.expect("made");
    bucket.put("main", CATALOG.into()).await.expect("put");
    eventually(async || (catalog_version(&gateway).await == 1).then_some(())).await;
    assert_eq!(variant(&gateway, 1).await, "stable");

    let second = version(2, "{\"id\": 43, \"name\": \"faster\"}, ");
    bucket.put("main", second.clone().into()).await.expect("put");
    let digest = Digest::of_bytes(second.as_bytes()).to_string();
    let flipped = digest.replace(['0', '1'], "2");
    for (uri, digest, reason) in [
        ("http://127.0.0.1/catalog.json", &digest, "catalog"),
        ("kv://ARQON_AUDIT/gw-1", &digest, "catalog"),
        ("kv://ARQON_CATALOG/main", &flipped, "catalog"),
        ("kv://ARQON_CATALOG/none", &digest, "catalog"),
        ("kv://NONE/main", &digest, "catalog"),
        ("kv://ARQON_CATALOG", &digest, "catalog"),
        ("file:///etc/passwd", &digest, "catalog"),
        ("kv://ARQON_CATALOG/main", &String::new(), "catalog"),
    ] {
        let digest = Some(digest.clone()).filter(|digest| !digest.is_empty());
        let refused = update(&site, &gateway, 2, uri, digest).await;
        assert_eq!(refused.code, 1, "{uri}: {refused:?}");
        assert!(
            refused.out.contains(&format!("\"reason\":\"{reason}\"")),
            "{uri}: {refused:?}"
        );
    }
    assert_eq!(
        catalog_version(&gateway).await,
        1,
        "what is put into the bucket is not announced by that"
    );
    let taken = update(&site, &gateway, 2, "kv://ARQON_CATALOG/main", Some(digest)).await;
    assert_eq!(taken.code, 0, "{taken:?}");
    assert_eq!(catalog_version(&gateway).await, 2);
    let stale = update(&site, &gateway, 2, "kv://ARQON_CATALOG/main", None).await;
    assert!(stale.out.contains("catalog_version"), "{stale:?}");

    // A node that comes late reads what the others read, although the bucket has moved on.
    bucket.put("main", version(3, "").into()).await.expect("put");
    let config = site.config(
        Some(server.url()),
        "gw-2",
        "catalog = { kv = \"ARQON_CATALOG/main\" }",
    );
    let late = Gateway::ready(&config, &[]).await;
    eventually(async || (catalog_version(&late).await == 2).then_some(())).await;
    // And after a restart without NATS both the catalog and the state are there at once.
    site.gov(&gateway, "ops-1", &["enforce", "set-variant", "43"])
        .await;
    server.stop().await.expect("stopped");
    gateway.kill();
    gateway.start_again();
    eventually(async || {
        gateway
            .try_send(gateway.admin, http::Method::GET, "/healthz", &[], "")
            .await
    })
    .await;
    assert_eq!(catalog_version(&gateway).await, 2);
    assert_eq!(variant(&gateway, 1).await, "faster");
}

#[tokio::test]
async fn figures_go_upstream_and_into_the_state() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let client = server.client().await.expect("connected");
    let mut reports = client
        .subscribe("gov.t.default.tel.gw-1")
        .await
        .expect("subscribed");
    client.flush().await.expect("flushed");
    let more = format!(
        "{}\ntelemetry_seconds = 1\nguard = {{ window_seconds = 1, min_samples = 5, latency_factor = 1000.0 }}",
        site.catalog()
    );
    let gateway = Gateway::ready(&site.config(Some(server.url()), "gw-1", &more), &[]).await;
    site.roll_out(&gateway, "p1", ["50", "0", "50"]).await;
    becomes(&gateway, "holding").await;
    let fast = cohort(&gateway, 60).await.iter().filter(|fast| **fast).count();
    let scope_now = scope(&gateway).await;
    assert_eq!(
        scope_now["cohorts"],
        json!({ "canary": fast, "baseline": 60 - fast })
    );

    let telemetry = async {
        loop {
            let report = reports.next().await.expect("open");
            let report: Value = serde_json::from_slice(&report.payload).expect("JSON");
            if report["type"] == "telemetry" && report["metrics"]["canary_requests"].as_f64() > Some(0.0) {
                return report;
            }
        }
    };
    let (report, ()) = tokio::join!(timeout(PATIENCE, telemetry), async {
        drop(cohort(&gateway, 60).await);
    });
    let report = report.expect("in time");
    assert_eq!(report["node_id"], "gw-1");
    assert!(
        report["metrics"]["baseline_latency_p99"].as_f64() > Some(0.0),
        "{report}"
    );

    // The guard looks at each second; nothing is wrong with either side.
    let judged = eventually(async || {
        drop(cohort(&gateway, 40).await);
        let guard = scope(&gateway).await["guard"].clone();
        (guard["verdict"] == "healthy").then_some(guard)
    })
    .await;
    assert!(judged["canary"]["requests"].as_u64() >= Some(5), "{judged}");
    let seen = scope(&gateway).await;
    assert_eq!(
        (&seen["guarded"], &seen["phase"]),
        (&json!(false), &json!("holding"))
    );
    assert!(
        seen["history"].as_array().is_some_and(|points| points.len() >= 2),
        "{seen}"
    );
    let status = site
        .arqon(&["gov", "status", "--admin", &format!("http://{}", gateway.admin)])
        .await;
    assert!(status.out.contains("guard, last window"), "{}", status.out);
}
