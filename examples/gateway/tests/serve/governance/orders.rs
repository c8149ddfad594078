//! What an order reaches, whose clock it was signed by, and what the command may say of it.

use std::time::{SystemTime, UNIX_EPOCH};

use arqon::rollout::{Control, DownstreamMessage, EnforcementAction, KeyPair};
use arqon_test_support::NatsServer;
use serde_json::{Value, json};

use super::site::{Printed, Site, becomes, scope};
use crate::process::{Gateway, eventually};

pub(super) const A: &str = "in.t.default.a.>";
const B: &str = "in.t.default.a.b.>";

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_micros()).expect("before the year 500,000")
}

/// Rolls 42 out to everyone in a scope.
async fn roll_out(site: &Site, gateway: &Gateway, id: &str, scope: &str) -> Printed {
    let file = site.file(&format!("{id}.json"));
    let scope = if scope.is_empty() {
        String::new()
    } else {
        format!(r#","scope":"{scope}""#)
    };
    let text =
        format!(r#"{{"id":"{id}","timestamp_us":1,"variant_id":42,"reason":"","confidence":1{scope}}}"#);
    std::fs::write(&file, text).expect("written");
    let proposed = site.try_gov(gateway, "ops-1", &["propose", &file]).await;
    if proposed.code != 0 {
        return proposed;
    }
    let ramp = ["--initial", "100", "--increment", "0", "--max", "100"];
    let words = [&["approve", id, "--proposal", &file][..], &ramp].concat();
    site.try_gov(gateway, "ops-1", &words).await
}

async fn on(gateway: &Gateway, suffix: &str) -> String {
    let answer = gateway.publish(suffix, &[("x-user", "ada")], "{}").await;
    answer.headers["x-arqon-variant"]
        .to_str()
        .expect("text")
        .to_owned()
}

/// What the command says to people.
pub(super) async fn said(site: &Site, gateway: &Gateway, words: &[&str]) -> Printed {
    let (admin, token) = (format!("http://{}", gateway.admin), site.file("control.token"));
    site.arqon(&[&["gov"][..], words, &["--admin", &admin, "--token-file", &token]].concat())
        .await
}

#[tokio::test]
async fn a_stop_of_a_wide_scope_holds_the_narrow_ones_also_later_and_names_them() {
    let site = Site::new().await;
    let sre = site.key("sre-1");
    let mut gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    for (id, scope) in [("wide", A), ("narrow", B)] {
        assert_eq!(roll_out(&site, &gateway, id, scope).await.code, 0);
    }
    assert_eq!(
        (on(&gateway, "a.x").await, on(&gateway, "a.b.x").await),
        ("fast".into(), "fast".into())
    );

    let all = "in.t.default.>";
    let stopped = said(&site, &gateway, &["stop", "--scope", all, "--key", &sre]).await;
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert!(
        stopped.out.contains(&format!("it holds {A}, {B}"))
            || stopped.out.contains(&format!("it holds {B}, {A}")),
        "{stopped:?}"
    );
    for suffix in ["a.x", "a.b.x", "c.x"] {
        assert_eq!(on(&gateway, suffix).await, "stable", "{suffix}");
    }
    // What comes later is held as well, and the status says by what.
    let later = roll_out(&site, &gateway, "later", "in.t.default.c.>").await;
    assert!(
        later.code == 1 && later.out.contains("\"reason\":\"stopped\""),
        "{later:?}"
    );
    gateway.kill();
    gateway.start_again();
    gateway.becomes_ready(true).await;
    assert_eq!(on(&gateway, "a.b.x").await, "stable");
    let status = said(&site, &gateway, &["status"]).await;
    let order = "stop for the whole tenant, by sre-1";
    assert!(
        status.out.matches(order).count() >= 3,
        "the tenant, a and a.b:\n{}",
        status.out
    );

    // A resume of a part frees that part alone.
    let resumed = site.gov(&gateway, "ops-1", &["resume", "--scope", B]).await;
    assert_eq!(resumed["targets"][0]["state"], "idle", "{resumed}");
    assert_eq!(roll_out(&site, &gateway, "again", B).await.code, 0);
    let wide = roll_out(&site, &gateway, "again-wide", A).await;
    assert_eq!(wide.code, 1, "{wide:?}");
    assert_eq!(
        (on(&gateway, "a.x").await, on(&gateway, "a.b.x").await),
        ("stable".into(), "fast".into())
    );
    // And a resume of all ends the order.
    let resumed = site.gov(&gateway, "ops-1", &["resume"]).await;
    assert_eq!(resumed["targets"][0]["held"], json!([]), "{resumed}");
    assert_eq!(roll_out(&site, &gateway, "again-wide-2", A).await.code, 0);
    assert_eq!(on(&gateway, "a.x").await, "fast");

    // A slip of the pen is told, and so is what a stop is cut out of.
    let typo = said(
        &site,
        &gateway,
        &["stop", "--scope", "in.t.default.usres.>", "--key", &sre],
    )
    .await;
    assert!(
        typo.code == 0 && typo.out.contains("nothing is rolled out in this scope"),
        "{typo:?}"
    );
    let cut = said(
        &site,
        &gateway,
        &["stop", "--scope", "in.t.default.a.c.>", "--key", &sre],
    )
    .await;
    assert!(
        cut.code == 0 && cut.out.contains(&format!("its subjects were part of {A}")),
        "{cut:?}"
    );
    assert_eq!(
        (on(&gateway, "a.c.x").await, on(&gateway, "a.x").await),
        ("stable".into(), "fast".into())
    );
    let crossed = said(
        &site,
        &gateway,
        &["pause", "--scope", "in.t.default.*.b.>", "--key", &sre],
    )
    .await;
    assert!(crossed.out.contains(&format!("it holds {A}, {B}")), "{crossed:?}");
}

/// An enforcement as another operator signs it whose clock is off by so much.
fn signed(
    site: &Site,
    keyid: &str,
    action: EnforcementAction,
    ahead_us: i64,
    counter: Option<u64>,
) -> String {
    let key = KeyPair::load(keyid, &site.path(&format!("{keyid}.key"))).expect("a key");
    let reason = "from elsewhere".to_owned();
    let now = now_us().saturating_add_signed(ahead_us);
    let control = Control::new(
        "default",
        now,
        60_000_000,
        DownstreamMessage::Enforce { action, reason },
    );
    let counter = counter.unwrap_or(control.counter);
    control
        .with_counter(counter)
        .sign(&[&key])
        .expect("finite")
        .to_json()
}

async fn post(gateway: &Gateway, envelope: String) -> (u16, Value) {
    let token = [("authorization", "Bearer 0123456789abcdef")];
    let sent = gateway.try_send(gateway.admin, http::Method::POST, "/v1/control", &token, envelope);
    let answer = sent.await.expect("answered");
    (answer.status.as_u16(), answer.json())
}

#[tokio::test]
async fn a_stop_by_a_right_clock_is_taken_although_another_operator_s_was_ahead() {
    let site = Site::new().await;
    let gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    site.roll_out(&gateway, "p1", ["50", "0", "50"]).await;
    // The operators, and a stop key that two people have: each once with a clock that is 25 s ahead.
    for keyid in ["ops-1", "sre-1"] {
        let pause = signed(&site, keyid, EnforcementAction::PauseAdaptation, 25_000_000, None);
        assert_eq!(post(&gateway, pause).await.0, 200);
        let stop = said(&site, &gateway, &["stop", "--key", &site.key(keyid)]).await;
        assert!(
            stop.code == 0 && !stop.out.contains("signed anew"),
            "a stop needs no order among others: {stop:?}"
        );
        assert_eq!(scope(&gateway).await["phase"], "stopped");
        // And the next one, by a clock that is behind.
        let slow = signed(&site, keyid, EnforcementAction::EmergencyStop, -20_000_000, None);
        let (status, taken) = post(&gateway, slow).await;
        assert_eq!((status, &taken["state"]), (200, &"stopped".into()), "{taken}");
    }
    // A later stop is taken with whatever counter.
    let chosen = said(
        &site,
        &gateway,
        &["stop", "--counter", "7", "--key", &site.key("sre-1")],
    )
    .await;
    assert!(
        chosen.code == 0 && chosen.out.contains("in force, stopped"),
        "{chosen:?}"
    );
    // A resume loosens: it is not signed anew past what was decided meanwhile, but what to do is said.
    let ops = site.key("ops-1");
    let resumed = said(&site, &gateway, &["resume", "--key", &ops]).await;
    assert!(
        resumed.code == 1 && resumed.out.contains("refused, stale") && resumed.out.contains("gov status"),
        "{resumed:?}"
    );
    assert_eq!(scope(&gateway).await["phase"], "stopped");
    let (_, last) = resumed.out.split_once("--counter ").expect("what to do");
    let resumed = said(
        &site,
        &gateway,
        &["resume", "--counter", last.trim(), "--key", &ops],
    )
    .await;
    assert_eq!(resumed.code, 0, "{resumed:?}");
    assert_eq!(scope(&gateway).await["phase"], "idle");
    // A stop that was signed before the resume does not come back by it; one that is signed now stops.
    let old = signed(
        &site,
        "sre-1",
        EnforcementAction::EmergencyStop,
        -20_000_000,
        None,
    );
    let (status, refused) = post(&gateway, old).await;
    assert_eq!((status, &refused["reason"]), (409, &"stale".into()), "{refused}");
    assert!(
        refused["last_counter"].is_u64(),
        "it says how to get in: {refused}"
    );
}

#[tokio::test]
async fn a_stop_by_a_clock_that_is_an_hour_off_is_signed_once_more_at_the_log_s_time_and_a_resume_is_not() {
    let site = Site::new().await;
    let gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    let (sre, ops) = (site.key("sre-1"), site.key("ops-1"));
    const HOUR_US: u64 = 3_600_000_000;
    // The answer has the time that the next one is to be signed at.
    let old = signed(
        &site,
        "sre-1",
        EnforcementAction::PauseAdaptation,
        -3_600_000_000,
        None,
    );
    let (status, refused) = post(&gateway, old).await;
    assert_eq!(
        (status, &refused["reason"]),
        (409, &"expired".into()),
        "{refused}"
    );
    let log_us = refused["log_time_us"].as_u64().expect("a time");
    assert!(log_us.abs_diff(now_us()) < HOUR_US, "{refused}");

    for (at_us, said_of_it) in [
        (now_us() - HOUR_US, "s behind it"),
        (now_us() + HOUR_US, "s ahead of it"),
    ] {
        let at = at_us.to_string();
        let stop = ["stop", "--issued-at", &at, "--key", &sre];
        let stopped = said(&site, &gateway, &stop).await;
        assert!(
            stopped.code == 0
                && stopped.out.contains("signed anew at the log's time")
                && stopped.out.contains(said_of_it),
            "{stopped:?}"
        );
        assert_eq!(scope(&gateway).await["phase"], "stopped");
        // Who chose the counter signs anew, too; and nothing that loosens is signed by another clock than its operator's.
        let chosen = ["pause", "--issued-at", &at, "--counter", "9", "--key", &sre];
        let chosen = said(&site, &gateway, &chosen).await;
        let late = said(&site, &gateway, &["resume", "--issued-at", &at, "--key", &ops]).await;
        for refused in [chosen, late] {
            assert!(
                refused.code == 1 && !refused.out.contains("signed anew"),
                "{refused:?}"
            );
        }
        assert_eq!(scope(&gateway).await["phase"], "stopped");
        let resumed = site.gov(&gateway, "ops-1", &["resume"]).await;
        assert_eq!(resumed["targets"][0]["state"], "idle", "{resumed}");
    }
    // A reason that is too long is cut, and the stop is taken.
    let long = said(
        &site,
        &gateway,
        &["stop", "--reason", &"r".repeat(5_000), "--key", &sre],
    )
    .await;
    assert!(
        long.code == 0
            && long
                .out
                .contains("the reason has 5000 bytes: the first 4096 were sent"),
        "{long:?}"
    );
    assert_eq!(
        scope(&gateway).await["reason"].as_str().map(str::len),
        Some(4_096)
    );
}

#[tokio::test]
async fn a_counter_far_ahead_is_refused_and_blocks_nobody() {
    let site = Site::new().await;
    let mut gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    for far in [(1 << 53) - 1, now_us() + 60_000_000] {
        for keyid in ["ops-1", "sre-1"] {
            let stop = signed(&site, keyid, EnforcementAction::EmergencyStop, 0, Some(far));
            let (status, refused) = post(&gateway, stop).await;
            assert_eq!(
                (status, &refused["reason"]),
                (409, &"not_yet_valid".into()),
                "{refused}"
            );
            assert!(
                refused["detail"]
                    .as_str()
                    .is_some_and(|text| text.contains("ahead of the log's time")),
                "{refused}"
            );
        }
    }
    assert_eq!(scope(&gateway).await["phase"], "idle");
    gateway.kill();
    gateway.start_again();
    gateway.becomes_ready(true).await;
    for (keyid, words) in [("sre-1", "stop"), ("ops-1", "resume"), ("ops-1", "stop")] {
        let done = site.gov(&gateway, keyid, &[words]).await;
        assert_eq!(done["signed_anew"], false, "nothing was in its way: {done}");
    }
}

#[tokio::test]
async fn by_the_log_the_command_claims_only_what_it_has_judged() {
    let (site, server) = (
        Site::new().await,
        NatsServer::start_own().await.expect("a nats-server"),
    );
    let gateway = Gateway::logged(&site.config(Some(server.url()), "gw-1", &site.catalog())).await;
    let config = gateway.path("gateway.toml").display().to_string();
    let eve = site.file("eve.key");
    site.arqon(&["gov", "keygen", "--key", &eve]).await;
    let (sre, ops) = (site.key("sre-1"), site.key("ops-1"));
    let run = async |words: &[&str]| {
        let printed = site
            .arqon(&[&["--json", "gov"][..], words, &["--nats", server.url()]].concat())
            .await;
        let said: Value = serde_json::from_str(&printed.out).expect("JSON");
        (printed.code, said)
    };
    let judged = ["--config", config.as_str()];

    // Whoever it is: without a configuration nobody knows.
    for key in [&eve, &sre] {
        let (code, said) = run(&["stop", "--key", key]).await;
        assert_eq!(
            (code, &said["accepted"], &said["targets"][0]["accepted"]),
            (3, &Value::Null, &Value::Null),
            "{said}"
        );
    }
    becomes(&gateway, "stopped").await;
    let text = site
        .arqon(&["gov", "stop", "--key", &eve, "--nats", server.url()])
        .await;
    assert!(
        text.code == 3 && text.out.contains("not judged here") && text.out.contains("--config"),
        "{text:?}"
    );

    // With one it is what the gateways make of it.
    let (code, said) = run(&[&["stop", "--key", &eve][..], &judged].concat()).await;
    assert_eq!(
        (code, &said["accepted"], &said["targets"][0]["reason"]),
        (1, &false.into(), &"unknown_key".into()),
        "{said}"
    );
    // The log says it in words: nothing in them is taken for a secret.
    eventually(async || {
        let mut lines = gateway.log_lines().into_iter();
        lines.find(|line| {
            let detail = line["detail"].as_str().unwrap_or_default();
            line["message"] == "control message refused"
                && line["reason"] == "unknown_key"
                && detail.contains("eve")
                && !detail.contains("redacted")
        })
    })
    .await;
    let (code, said) = run(&[&["resume", "--key", &sre][..], &judged].concat()).await;
    assert_eq!(
        (code, &said["targets"][0]["reason"]),
        (1, &"role".into()),
        "{said}"
    );
    let (code, said) = run(&[&["resume", "--key", &ops][..], &judged].concat()).await;
    assert_eq!(
        (code, &said["accepted"], &said["targets"][0]["state"]),
        (0, &true.into(), &"idle".into()),
        "{said}"
    );
    becomes(&gateway, "idle").await;
    // Somebody's clock was ahead: a stop needs no order among others, by the log as by a gateway.
    let ahead = signed(
        &site,
        "sre-1",
        EnforcementAction::PauseAdaptation,
        25_000_000,
        None,
    );
    assert_eq!(post(&gateway, ahead).await.0, 200);
    let (code, said) = run(&[&["stop", "--key", &sre][..], &judged].concat()).await;
    assert_eq!(
        (code, &said["signed_anew"], &said["accepted"]),
        (0, &false.into(), &true.into()),
        "{said}"
    );
    becomes(&gateway, "stopped").await;

    // For a tenant that nobody has: refused here, and in the trail and the counters of every node.
    let (code, said) = run(&[&["stop", "--key", &sre, "--tenant", "nobody"][..], &judged].concat()).await;
    assert_eq!(
        (code, &said["targets"][0]["reason"]),
        (1, &"wrong_tenant".into()),
        "{said}"
    );
    eventually(async || {
        let trail = std::fs::read_to_string(gateway.path("audit.jsonl")).ok()?;
        let line = trail.lines().find(|line| line.contains("gov.t.nobody.down"))?;
        let line: Value = serde_json::from_str(line).ok()?;
        (line["verdict"] == "refused" && line["reason"] == "wrong_tenant" && line["seq"].is_u64())
            .then_some(())
    })
    .await;
    // Counted once it is in the trail.
    eventually(async || {
        let metrics = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
        let counted = metrics.contains("shield_rollout_refused_total{reason=\"wrong_tenant\"} 1\n");
        counted.then_some(())
    })
    .await;

    // Every gateway that was named has to take it.
    let (admin, token, dead) = (
        format!("http://{}", gateway.admin),
        site.file("control.token"),
        "http://127.0.0.1:9",
    );
    let both = ["--admin", &admin, "--admin", dead, "--token-file", &token];
    let printed = site
        .arqon(&[&["gov", "stop", "--key", &sre][..], &both].concat())
        .await;
    assert!(
        printed.code == 1 && printed.out.contains("accepted by 1 of 2"),
        "{printed:?}"
    );
    assert!(
        printed.out.contains("in force, stopped") && printed.out.contains("cannot be reached"),
        "{printed:?}"
    );
    let both = ["--admin", &admin, "--admin", &admin, "--token-file", &token];
    let printed = site
        .arqon(&[&["gov", "stop", "--key", &sre][..], &both].concat())
        .await;
    assert!(
        printed.code == 0 && printed.out.contains("accepted by 2 of 2"),
        "{printed:?}"
    );
    // The help says what the statuses are.
    let help = site.arqon(&["gov", "stop", "--help"]).await;
    assert!(
        help.out.contains("Exit status") && help.out.contains("nobody has judged it"),
        "{}",
        help.out
    );
}
