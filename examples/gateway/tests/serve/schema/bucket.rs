//! Operators: push, roll back, pin, delete; the last known good copy.

use std::path::Path;

use arqon_test_support::NatsServer;
use serde_json::json;

use super::site::{
    BAD, Events, GOOD, ID, SEVEN, answers, arqon, bucket, bucket_name, config, counts, narrow, registry,
    said, source, wider,
};
use crate::process::Gateway;

fn write(folder: &Path, name: &str, fields: &str) -> String {
    let path = folder.join(name);
    let source = format!("syntax = \"proto3\"; package e; message U {{ {fields} }}");
    std::fs::write(&path, source).expect("written");
    path.display().to_string()
}

#[tokio::test]
async fn a_push_a_rollback_and_a_deletion_reach_traffic_and_the_events() {
    let server = NatsServer::start().await.expect("a nats-server");
    let gateway = Gateway::ready(&config(&server, server.url(), ""), &[]).await;
    let mut events = Events::of(&gateway).await;
    let folder = tempfile::tempdir().expect("temporary folder");
    let name = bucket_name(&server);
    let schema = async |more: &[&str]| {
        let at = ["--nats", server.url(), "--bucket", &name];
        arqon(&[&["schema"], more, &at].concat()).await
    };
    let first = write(
        folder.path(),
        "v1.events.user_created.proto",
        "string user_id = 1;",
    );
    let (code, text) = schema(&["push", &first]).await;
    assert_eq!(code, 0, "{text}");
    let changed = events.until(|event| event["event"] == "schema_changed").await;
    assert_eq!(
        (&changed["schema_id"], &changed["revision"]),
        (&json!(ID), &json!(1))
    );
    answers(&gateway, &server, GOOD, 202).await;
    answers(&gateway, &server, SEVEN, 400).await;

    let second = write(folder.path(), "second.proto", "string user_id = 1; int32 n = 7;");
    assert_eq!(schema(&["push", &second, "--id", ID]).await.0, 0);
    answers(&gateway, &server, SEVEN, 202).await;
    // Backwards it breaks (a field is gone): meant, so gateways take it.
    let (code, text) = schema(&["rollback", ID]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("content of revision 1"), "{text}");
    answers(&gateway, &server, SEVEN, 400).await;
    assert_eq!(said(&gateway, &server, GOOD).await.0, 202);
    counts(
        &gateway,
        "shield_schema_alarms_total{alarm=\"contract_broken\"}",
        1.0,
    )
    .await;

    // The same break without the word is refused by the gateway, and told.
    let before = registry(&gateway, |_| true).await;
    let bucket = bucket(&server).await;
    bucket
        .put(ID, source("string other = 1000;").into())
        .await
        .expect("put");
    answers(&gateway, &server, b"\x0a\x02u1\xc2\x3e\x01x", 202).await;
    let gone = bucket.put(ID, narrow().into()).await.expect("put");
    let ill = events
        .until(|event| event["event"] == "health" && event["service"] == format!("schema:{ID}"))
        .await;
    assert_eq!(ill["ok"], false, "{before}");
    let state = registry(&gateway, |registry| registry["refused"][0]["revision"] == gone).await;
    assert!(
        state["refused"][0]["reason"].to_string().contains("FIELD_"),
        "{state}"
    );
    assert_eq!(
        said(&gateway, &server, GOOD).await.0,
        202,
        "the last good one stays"
    );

    let (code, text) = schema(&["rm", ID]).await;
    assert_eq!(code, 0, "{text}");
    let deleted = events
        .until(|event| event["event"] == "schema_changed" && event["revision"] == gone + 1)
        .await;
    assert_eq!(deleted["schema_id"], ID);
    answers(&gateway, &server, GOOD, 503).await;
    assert_eq!(said(&gateway, &server, BAD).await.1, "schema.unavailable");
    let ready = gateway.get("/readyz").await;
    assert!(
        ready.json().to_string().contains("the store is empty"),
        "{}",
        ready.json()
    );
    assert_eq!(
        schema(&["rollback", ID]).await.0,
        0,
        "what was deleted comes back"
    );
    answers(&gateway, &server, GOOD, 202).await;
}

#[tokio::test]
async fn a_tenants_own_schema_goes_before_the_common_one_and_its_deletion_gives_way() {
    let server = NatsServer::start().await.expect("a nats-server");
    let gateway = Gateway::ready(&config(&server, server.url(), ""), &[]).await;
    let bucket = bucket(&server).await;
    bucket.put(ID, narrow().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 400).await;
    let own = format!("t.default.{ID}");
    bucket.put(&own, wider().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 202).await;
    let state = registry(&gateway, |registry| {
        registry["schemas"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await;
    assert_eq!(state["schemas"][0]["id"], own);
    bucket.delete(&own).await.expect("deleted");
    answers(&gateway, &server, SEVEN, 400).await;
    bucket.put(&own, wider().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 202).await;
    bucket.purge(&own).await.expect("purged");
    answers(&gateway, &server, SEVEN, 400).await;
}

#[tokio::test]
async fn a_pin_holds_a_revision_by_a_reload_and_lets_go_by_the_next() {
    let server = NatsServer::start().await.expect("a nats-server");
    let plain = config(&server, server.url(), "");
    let gateway = Gateway::ready(&plain, &[]).await;
    let bucket = bucket(&server).await;
    let old = bucket.put(ID, narrow().into()).await.expect("put");
    let new = bucket.put(ID, wider().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 202).await;

    let pinned = config(&server, server.url(), &format!("pins = {{ \"{ID}\" = {old} }}"));
    gateway.replace("gateway.toml", &pinned);
    answers(&gateway, &server, SEVEN, 400).await;
    let state = registry(&gateway, |registry| registry["schemas"][0]["held_back"] == new).await;
    assert_eq!(state["schemas"][0]["pinned"], true);
    assert_eq!(state["schemas"][0]["revision"], old);
    let newest = bucket
        .put(ID, source("int32 n = 7; bool b = 8;").into())
        .await
        .expect("put");
    registry(&gateway, |registry| registry["schemas"][0]["held_back"] == newest).await;
    assert_eq!(said(&gateway, &server, SEVEN).await.0, 400);

    gateway.replace("gateway.toml", &plain);
    answers(&gateway, &server, b"\x0a\x02u1\x40\x01", 202).await;

    // A pin that the bucket has forgotten is told; what is in force stays.
    let lost = config(&server, server.url(), &format!("pins = {{ \"{ID}\" = 4000 }}"));
    gateway.replace("gateway.toml", &lost);
    let state = registry(&gateway, |registry| registry["refused"][0]["revision"] == 4000).await;
    assert!(
        state["refused"][0]["reason"].to_string().contains("pinned"),
        "{state}"
    );
    assert_eq!(said(&gateway, &server, SEVEN).await.0, 202);
}

#[tokio::test]
async fn a_gateway_that_starts_pinned_enforces_the_pinned_revision() {
    let server = NatsServer::start().await.expect("a nats-server");
    {
        let gateway = Gateway::ready(&config(&server, server.url(), ""), &[]).await;
        let bucket = bucket(&server).await;
        assert_eq!(bucket.put(ID, narrow().into()).await.expect("put"), 1);
        assert_eq!(bucket.put(ID, wider().into()).await.expect("put"), 2);
        answers(&gateway, &server, SEVEN, 202).await;
    }
    let pinned = config(&server, server.url(), &format!("pins = {{ \"{ID}\" = 1 }}"));
    let gateway = Gateway::ready(&pinned, &[]).await;
    answers(&gateway, &server, GOOD, 202).await;
    assert_eq!(said(&gateway, &server, SEVEN).await.0, 400);
}

#[tokio::test]
async fn every_series_of_the_store_is_there_before_anything_happens() {
    let server = NatsServer::start().await.expect("a nats-server");
    let gateway = Gateway::ready(&config(&server, server.url(), ""), &[]).await;
    let text = gateway.get("/metrics").await;
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let mut series = vec!["shield_schema_load_errors_total 0".to_owned()];
    for alarm in [
        "registry_regressed",
        "registry_emptied",
        "contract_broken",
        "copies",
    ] {
        series.push(format!("shield_schema_alarms_total{{alarm=\"{alarm}\"}} 0"));
    }
    for what in ["on_incompatible", "on_regression"] {
        series.push(format!("shield_schema_relaxed{{what=\"{what}\"}} 0"));
    }
    for one in series {
        assert!(text.lines().any(|line| line == one), "{one}");
    }
}
