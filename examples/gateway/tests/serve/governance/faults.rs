//! Restarts, a NATS that is away, a node that is cut off, messages nobody should have sent.

use std::time::Duration;

use arqon_test_support::NatsServer;
use async_nats::jetstream;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::site::{Site, becomes, cohort, scope};
use crate::process::{Gateway, Proxy, eventually};

async fn percent(gateway: &Gateway) -> f64 {
    scope(gateway).await["percent"].as_f64().expect("a number")
}

#[tokio::test]
async fn a_restart_without_nats_serves_what_was_decided_and_a_stop_made_then_holds_everywhere() {
    let site = Site::new().await;
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let mut gateway = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    site.roll_out(&gateway, "p1", ["50", "0", "50"]).await;
    let before = (scope(&gateway).await, cohort(&gateway, 50).await);

    server.stop().await.expect("stopped");
    gateway.kill();
    gateway.start_again();
    // The listener opens with the state of the trail, before NATS is there.
    let after = eventually(async || {
        let answer = gateway
            .try_send(gateway.admin, http::Method::GET, "/v1/state", &[], "")
            .await?;
        Some(answer.json())
    })
    .await;
    let after = after["rollout"]["tenants"][0]["scopes"][0].clone();
    for key in ["phase", "percent", "rollout", "since_us", "by"] {
        assert_eq!(after[key], before.0[key], "{key}");
    }
    assert_eq!(cohort(&gateway, 50).await, before.1, "the same users");

    // A stop acts although nothing can be written to the log, and holds over the next restart.
    let stop = site.gov(&gateway, "sre-1", &["stop", "--reason", "fire"]).await;
    assert_eq!(stop["targets"][0]["seq"], Value::Null, "{stop}");
    gateway.kill();
    gateway.start_again();
    let stopped = eventually(async || {
        let answer = gateway
            .try_send(gateway.admin, http::Method::GET, "/v1/state", &[], "")
            .await?;
        Some(answer.json())
    })
    .await;
    assert_eq!(stopped["rollout"]["tenants"][0]["scopes"][0]["phase"], "stopped");
    assert!(!cohort(&gateway, 50).await.contains(&true));

    // Once the log is back it has the stop, and a node that was never told reads it there.
    server.start_again().await.expect("started");
    let other = Gateway::ready(&site.config(Some(server.url()), "gw-2", &site.catalog()), &[]).await;
    becomes(&other, "stopped").await;
    gateway.becomes_ready(true).await;
    assert_eq!(scope(&gateway).await["phase"], "stopped");
    // A resume ends both.
    site.gov(&other, "ops-1", &["resume"]).await;
    becomes(&gateway, "idle").await;
    becomes(&other, "idle").await;
}

#[tokio::test]
async fn a_replayed_log_gives_the_same_state_although_its_approvals_have_expired() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let gateway = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    let file = site.file("p1.json");
    let proposal = r#"{"id":"p1","timestamp_us":1,"variant_id":42,"reason":"","confidence":1}"#;
    std::fs::write(&file, proposal).expect("written");
    let expires = ["--expires", "5s"];
    site.gov(&gateway, "ops-1", &[&["propose", &file][..], &expires].concat())
        .await;
    let ramp = [
        "--proposal",
        &file,
        "--initial",
        "30",
        "--increment",
        "0",
        "--max",
        "30",
    ];
    site.gov(
        &gateway,
        "ops-1",
        &[&["approve", "p1"][..], &ramp, &expires].concat(),
    )
    .await;
    let users = cohort(&gateway, 50).await;
    // There is no event for an expiry.
    sleep(Duration::from_secs(6)).await;
    // A node without any trail of its own reads everything from the stream.
    let late = Gateway::ready(&site.config(Some(server.url()), "gw-2", &site.catalog()), &[]).await;
    let late_scope = becomes(&late, "holding").await;
    assert_eq!(late_scope["rollout"], scope(&gateway).await["rollout"]);
    assert_eq!(cohort(&late, 50).await, users);
}

#[tokio::test]
async fn a_cut_off_node_never_rises_and_is_right_again_at_once() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let proxy = Proxy::to(server.url()).await;
    let first = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    let second = Gateway::ready(&site.config(Some(&proxy.url()), "gw-2", &site.catalog()), &[]).await;
    // 100 % a minute.
    site.roll_out(&first, "p1", ["5", "100", "100"]).await;
    becomes(&second, "ramping").await;
    eventually(async || (percent(&second).await > 8.0).then_some(())).await;
    proxy.cut();
    let cut = percent(&first).await;
    let (mut highest, start) = (0.0_f64, Instant::now());
    while start.elapsed() < Duration::from_secs(4) {
        let scope = scope(&second).await;
        let (served, function) = (scope["percent"].as_f64(), scope["log_percent"].as_f64());
        assert!(served <= function, "{scope}");
        highest = highest.max(served.expect("a number"));
        sleep(Duration::from_millis(50)).await;
    }
    assert!(highest <= cut, "served {highest} %, cut off at {cut} %");
    assert!(percent(&first).await > cut + 4.0, "the others go on");
    proxy.heal();
    let healed = Instant::now();
    eventually(async || ((percent(&first).await - percent(&second).await).abs() < 1.5).then_some(())).await;
    println!(
        "cut off at {cut:.2} %, served at most {highest:.2} %, right {:?} after the network was",
        healed.elapsed()
    );
    // What was decided meanwhile holds as soon as it is back.
    proxy.cut();
    site.gov(&first, "ops-1", &["pause"]).await;
    proxy.heal();
    becomes(&second, "paused").await;
    // Each reads the record from the log by itself, in whichever order.
    becomes(&first, "paused").await;
    eventually(async || (percent(&first).await == percent(&second).await).then_some(())).await;
}

#[tokio::test]
async fn what_nobody_may_say_changes_nothing_and_is_told() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let client = server.client().await.expect("connected");
    let jetstream = jetstream::new(client.clone());
    let told = jetstream::stream::Config {
        name: "TOLD".to_owned(),
        subjects: vec!["gov.t.*.tel.*".to_owned()],
        ..jetstream::stream::Config::default()
    };
    let mut told = jetstream.create_stream(told).await.expect("made");
    let gateway = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    site.roll_out(&gateway, "p1", ["50", "0", "50"]).await;
    let mut log = jetstream.get_stream("ARQON_GOV").await.expect("there");
    let approval = log.get_raw_message(2).await.expect("the approval").payload;
    let before = scope(&gateway).await;
    let users = cohort(&gateway, 30).await;

    let message = site.file("stop.json");
    std::fs::write(
        &message,
        r#"{"type":"enforce","action":{"kind":"emergency_stop"},"reason":""}"#,
    )
    .expect("written");
    let stranger = site.file("eve.key");
    site.arqon(&["gov", "keygen", "--key", &stranger]).await;
    let sign = async |key: &str, more: &[&str]| {
        let signed = site
            .arqon(&[&["gov", "sign", &message, "--key", key][..], more].concat())
            .await;
        signed.out.trim().to_owned()
    };
    let good = sign(&site.key("sre-1"), &[]).await;
    let flipped = {
        let mut flipped: Value = serde_json::from_str(&good).expect("JSON");
        let sig = flipped["signatures"][0]["sig"].as_str().expect("text").to_owned();
        let other = if sig.starts_with('A') { "B" } else { "A" };
        flipped["signatures"][0]["sig"] = json!(format!("{other}{}", &sig[1..]));
        flipped.to_string()
    };
    let unsigned = {
        let mut unsigned: Value = serde_json::from_str(&good).expect("JSON");
        unsigned["signatures"] = json!([]);
        unsigned.to_string()
    };
    let twice = good.replacen('{', "{\"payload\":\"\",", 1);
    let elsewhere = sign(&site.key("sre-1"), &["--tenant", "other"]).await;
    let hostile: Vec<(&str, String)> = vec![
        ("not JSON", "x".to_owned()),
        ("oversize", format!("{}{good}", " ".repeat(70_000))),
        ("a flipped bit", flipped),
        ("no signature", unsigned),
        ("a key twice", twice),
        ("a stranger", sign(&stranger, &[]).await),
        ("another tenant's", elsewhere),
        ("too many sign too little", sign(&site.key("gw-1"), &[]).await),
        (
            "the approval again",
            String::from_utf8(approval.to_vec()).expect("text"),
        ),
    ];
    let count = hostile.len() as u64;
    for (_, bytes) in &hostile {
        let published = jetstream
            .publish("gov.t.default.down", bytes.clone().into())
            .await;
        published.expect("sent").await.expect("stored");
    }
    let end = log.info().await.expect("known").state.last_sequence;
    assert_eq!(end, 2 + count);
    eventually(async || {
        let state = gateway.get("/v1/state").await.json();
        (state["rollout"]["seq"] == end).then_some(())
    })
    .await;
    let after = scope(&gateway).await;
    for key in ["phase", "percent", "rollout", "since_us", "by", "reason"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    assert_eq!(cohort(&gateway, 30).await, users);
    let metrics = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
    for reason in [
        "malformed",
        "oversize",
        "bad_signature",
        "unsigned",
        "unknown_key",
        "wrong_tenant",
        "role",
        "duplicate",
    ] {
        let line = format!("shield_rollout_refused_total{{reason=\"{reason}\"}} ");
        let refused = metrics.lines().find_map(|text| text.strip_prefix(&line));
        assert_ne!(refused, Some("0"), "{reason}");
        assert!(refused.is_some(), "{reason}");
    }
    // Each refusal but the duplicate is in the trail, and people were told.
    let trail = std::fs::read_to_string(gateway.path("audit.jsonl")).expect("there");
    assert_eq!(
        trail
            .lines()
            .filter(|line| line.contains("\"verdict\":\"refused\""))
            .count() as u64,
        count
    );
    let alerts = eventually(async || {
        let alerts = told.info().await.expect("known").state.messages;
        (alerts >= count - 1).then_some(alerts)
    })
    .await;
    println!("{count} hostile messages, {alerts} alerts");

    // And the very stop that was tampered with acts when it comes as it was signed.
    jetstream
        .publish("gov.t.default.down", good.into())
        .await
        .expect("sent")
        .await
        .expect("stored");
    becomes(&gateway, "stopped").await;
}

#[tokio::test]
async fn what_people_have_to_know_waits_for_nats() {
    let site = Site::new().await;
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let client = server.client().await.expect("connected");
    let told = jetstream::stream::Config {
        name: "TOLD".to_owned(),
        subjects: vec!["gov.t.*.tel.*".to_owned()],
        ..jetstream::stream::Config::default()
    };
    jetstream::new(client).create_stream(told).await.expect("made");
    let gateway = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    server.stop().await.expect("stopped");
    gateway.becomes_ready(false).await;
    for _ in 0..20 {
        let refused = site.try_gov(&gateway, "gw-1", &["stop", "--counter", "7"]).await;
        assert_eq!(refused.code, 1, "{refused:?}");
    }
    let waiting = gateway.get("/v1/state").await.json()["rollout"]["reports_waiting"].as_u64();
    assert!(
        (1..=8).contains(&waiting.expect("a number")),
        "the same thing once: {waiting:?}"
    );
    server.start_again().await.expect("started");
    let jetstream = jetstream::new(server.client().await.expect("connected"));
    let role = eventually(async || {
        let stream = jetstream.get_stream("TOLD").await.ok()?;
        let state = gateway.get("/v1/state").await.json();
        if state["rollout"]["reports_waiting"] != 0 {
            return None;
        }
        let last = stream.cached_info().state.last_sequence;
        let mut role = 0;
        for seq in 1..=last {
            let message = stream.get_raw_message(seq).await.ok()?;
            // That the log is away is told for each tenant, if the node notices before the server is back.
            let subject = message.subject.as_str();
            assert!(
                ["gov.t.default.tel.gw-1", "gov.t.other.tel.gw-1"].contains(&subject),
                "{subject}"
            );
            let alert: Value = serde_json::from_slice(&message.payload).expect("JSON");
            assert_eq!(alert["type"], "alert");
            role += u32::from(
                alert["message"]
                    .as_str()
                    .is_some_and(|text| text.contains("role")),
            );
        }
        (role > 0).then_some(role)
    })
    .await;
    assert_eq!(role, 1, "told once");
}
