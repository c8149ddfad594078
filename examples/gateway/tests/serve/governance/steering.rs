//! What else operators do: rotate keys, end by itself, watch, give a tester a pin, notice a trail that was cut.

use std::cell::Cell;

use arqon_test_support::NatsServer;
use async_nats::jetstream;
use serde_json::{Value, json};

use super::site::{Site, becomes, scope, variant};
use crate::process::{Gateway, eventually};

#[tokio::test]
async fn keys_are_rotated_by_the_old_and_the_new_and_the_old_ones_are_worth_nothing_then() {
    let site = Site::new().await;
    let gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    let ed25519 = |line: &str| line.rsplit('"').nth(1).expect("a key").to_owned();
    let public = site.public("ops-2");
    let rotation = json!({ "type": "rotation", "threshold": 1, "keys": { "ops-2": ed25519(&public) } });
    let message = site.file("rotation.json");
    std::fs::write(&message, rotation.to_string()).expect("written");
    let alone = site.try_gov(&gateway, "ops-1", &["sign", &message]).await;
    assert_eq!(alone.code, 1, "the new key has to sign, too: {alone:?}");
    let both = site
        .try_gov(
            &gateway,
            "ops-1",
            &["sign", &message, "--key", &site.key("ops-2")],
        )
        .await;
    assert_eq!(both.code, 0, "{both:?}");
    let old = site.try_gov(&gateway, "ops-1", &["pause"]).await;
    assert!(old.code == 1 && old.out.contains("unknown_key"), "{old:?}");
    let before = site.try_gov(&gateway, "ops-2", &["pause"]).await;
    assert!(
        before.code == 1 && before.out.contains("epoch"),
        "signed for the old set: {before:?}"
    );
    site.gov(&gateway, "ops-2", &["pause", "--epoch", "2"]).await;
    assert_eq!(scope(&gateway).await["phase"], "paused");
}

#[tokio::test]
async fn what_is_enforced_for_a_time_ends_by_itself() {
    let site = Site::new().await;
    let gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    site.gov(
        &gateway,
        "ops-1",
        &["enforce", "set-variant", "42", "--for", "2s"],
    )
    .await;
    assert_eq!(variant(&gateway, 1).await, "fast");
    becomes(&gateway, "idle").await;
    // What is served follows with the next beat.
    eventually(async || (variant(&gateway, 1).await == "stable").then_some(())).await;
}

#[tokio::test]
async fn watch_prints_what_changes() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let gateway = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    let admin = format!("http://{}", gateway.admin);
    let changes = async {
        site.arqon(&["gov", "watch", "--admin", &admin, "--lines", "2"])
            .await
    };
    let messages = async {
        site.arqon(&["gov", "watch", "--nats", server.url(), "--lines", "1"])
            .await
    };
    let seen = Cell::new(false);
    let watched = async {
        let watched = tokio::join!(changes, messages);
        seen.set(true);
        watched
    };
    // Whoever watches the log sees only what comes after: it is told until both have seen it.
    // A stop of what is stopped already is not told for ever: each is of another scope.
    let mut scopes = 0;
    let stop = eventually(async || {
        let scope = format!("in.t.default.s{scopes}.>");
        scopes += 1;
        site.gov(
            &gateway,
            "sre-1",
            &["stop", "--reason", "drill", "--scope", &scope],
        )
        .await;
        seen.get().then_some(())
    });
    let ((changes, messages), ()) = tokio::join!(watched, stop);
    let lines: Vec<&str> = changes.out.lines().collect();
    assert!(
        lines.len() == 2 && lines.last().is_some_and(|line| line.contains("stopped")),
        "{changes:?}"
    );
    assert!(
        messages.out.contains("gov.t.default.down") && messages.out.contains("emergency_stop"),
        "{messages:?}"
    );
}

#[tokio::test]
async fn a_tester_with_a_pin_sees_a_variant_before_anybody_else() {
    let site = Site::new().await;
    let more = format!("{}\npin_keys = [{}]", site.catalog(), site.public("ops-2"));
    let gateway = Gateway::ready(&site.config(None, "gw-1", &more), &[]).await;
    let pin = site.file("pin.json");
    let token = json!({ "tenant": "default", "variant": 42, "expires_at_us": 9_000_000_000_000_000_u64 });
    std::fs::write(&pin, token.to_string()).expect("written");
    let signed = async |keyid: &str| {
        site.arqon(&["gov", "sign", &pin, "--key", &site.key(keyid)])
            .await
            .out
    };
    let sees = async |pin: &str| {
        let answer = gateway
            .publish("x", &[("x-user", "ada"), ("x-arqon-pin", pin.trim())], "{}")
            .await;
        answer.headers["x-arqon-variant"]
            .to_str()
            .expect("text")
            .to_owned()
    };
    assert_eq!(sees(&signed("ops-2").await).await, "fast");
    assert_eq!(
        sees(&signed("ops-1").await).await,
        "stable",
        "an operator's key signs no pins"
    );
    assert_eq!(sees("x.y").await, "stable");
    assert_eq!(scope(&gateway).await["phase"], "idle", "a pin is no rollout");
    site.gov(&gateway, "sre-1", &["stop"]).await;
    assert_eq!(
        sees(&signed("ops-2").await).await,
        "stable",
        "a stop is for testers, too"
    );
}

#[tokio::test]
async fn a_trail_whose_end_was_cut_off_is_noticed_at_start_and_read_again_from_the_log() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let jetstream = jetstream::new(server.client().await.expect("connected"));
    let told = jetstream::stream::Config {
        name: "TOLD".to_owned(),
        subjects: vec!["gov.t.default.tel.*".to_owned()],
        ..jetstream::stream::Config::default()
    };
    let told = jetstream.create_stream(told).await.expect("made");
    let mut gateway = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    site.roll_out(&gateway, "p1", ["50", "0", "50"]).await;
    site.gov(&gateway, "ops-1", &["pause"]).await;
    let before = scope(&gateway).await;
    let trail = gateway.path("audit.jsonl");
    let words = [
        "audit",
        "verify",
        trail.to_str().expect("UTF-8"),
        "--nats",
        server.url(),
        "--node",
        "gw-1",
    ];
    eventually(async || {
        let heads = jetstream.get_key_value("ARQON_AUDIT").await.ok()?;
        let head = heads.get("gw-1").await.ok()??;
        let head: Value = serde_json::from_slice(&head).ok()?;
        (head["lines"] == 3).then_some(())
    })
    .await;
    assert_eq!(site.arqon(&words).await.code, 0);
    gateway.kill();
    let whole = std::fs::read_to_string(&trail).expect("there");
    let cut: String = whole.split_inclusive('\n').take(1).collect();
    std::fs::write(&trail, cut).expect("cut");
    let noticed = site.arqon(&words).await;
    assert!(
        noticed.code == 1 && noticed.out.contains("cut off"),
        "{noticed:?}"
    );
    gateway.start_again();
    let alert = eventually(async || {
        let last = told.get_info().await.ok()?.state.last_sequence;
        for seq in 1..=last {
            let alert: Value = serde_json::from_slice(&told.get_raw_message(seq).await.ok()?.payload).ok()?;
            if alert["message"]
                .as_str()
                .is_some_and(|text| text.contains("cut off"))
            {
                return Some(alert);
            }
        }
        None
    })
    .await;
    assert_eq!(alert["severity"], "critical");
    // What it reads again is served from the end of the log on.
    let after = eventually(async || {
        let after = becomes(&gateway, "paused").await;
        (after["percent"] == before["percent"]).then_some(after)
    })
    .await;
    for key in ["rollout", "since_us"] {
        assert_eq!(after[key], before[key], "{key}");
    }
}
