//! A message that was refused, played again at a better moment; a stop without key, token or network.

use arqon::rollout::Digest;
use arqon_test_support::NatsServer;
use async_nats::jetstream;
use serde_json::Value;

use super::site::{Site, becomes, cohort, scope, scope_of};
use crate::process::{Gateway, eventually};

const PROPOSAL: &str = r#"{"id":"p1","timestamp_us":1,"variant_id":42,"reason":"","confidence":1}"#;

/// An approval of `PROPOSAL`, signed and not sent.
async fn approval(site: &Site) -> String {
    let message = site.file("approval.json");
    let digest = Digest::of_proposal_json(PROPOSAL.as_bytes()).expect("a digest");
    let text = format!(
        r#"{{"type":"approval","proposal_id":"p1","proposal_digest":"{digest}",
            "rollout":{{"initial_percent":100,"increment_per_minute":0,"max_percent":100}}}}"#
    );
    std::fs::write(&message, text).expect("written");
    let signed = site
        .arqon(&["gov", "sign", &message, "--key", &site.key("ops-1")])
        .await;
    assert_eq!(signed.code, 0, "{signed:?}");
    signed.out.trim().to_owned()
}

/// What a gateway answers to the very bytes.
async fn played(gateway: &Gateway, envelope: &str) -> (u16, Value) {
    let token = [("authorization", "Bearer 0123456789abcdef")];
    let answer = gateway
        .try_send(
            gateway.admin,
            http::Method::POST,
            "/v1/control",
            &token,
            envelope.to_owned(),
        )
        .await
        .expect("answered");
    (answer.status.as_u16(), answer.json()["reason"].clone())
}

/// Proposes it, now that its approval was refused.
async fn propose(site: &Site, gateway: &Gateway) {
    let file = site.file("p1.json");
    std::fs::write(&file, PROPOSAL).expect("written");
    site.gov(gateway, "ops-1", &["propose", &file]).await;
}

#[tokio::test]
async fn what_one_gateway_refused_no_gateway_takes_later() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let mut first = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    let second = Gateway::ready(&site.config(Some(server.url()), "gw-2", &site.catalog()), &[]).await;
    let early = approval(&site).await;
    assert_eq!(played(&first, &early).await, (409, "unknown_proposal".into()));
    propose(&site, &second).await;
    for gateway in [&second, &first] {
        eventually(async || {
            let state = gateway.get("/v1/state").await.json();
            (state["rollout"]["tenants"][0]["pending"][0]["id"] == "p1").then_some(())
        })
        .await;
        assert_eq!(played(gateway, &early).await, (409, "spent".into()));
    }
    // Past every gateway, into the log: no node takes it either, and a restart changes nothing.
    let jetstream = jetstream::new(server.client().await.expect("connected"));
    let stored = jetstream
        .publish("gov.t.default.down", early.clone().into())
        .await;
    let stored = stored.expect("sent").await.expect("stored").sequence;
    first.kill();
    first.start_again();
    for gateway in [&first, &second] {
        eventually(async || {
            let answer = gateway
                .try_send(gateway.admin, http::Method::GET, "/v1/state", &[], "")
                .await?;
            (answer.json()["rollout"]["seq"] == stored).then_some(())
        })
        .await;
        assert_eq!(scope(gateway).await["phase"], "idle");
        assert!(!cohort(gateway, 10).await.contains(&true));
        assert_eq!(played(gateway, &early).await.0, 409);
    }
    // Signed anew it is taken by all.
    assert_eq!(played(&second, &approval(&site).await).await.0, 200);
    becomes(&first, "complete").await;

    // A flood of them does not fill the stream, and is over with the issuer, not with the node.
    let mut stream = jetstream.get_stream("ARQON_GOV").await.expect("there");
    let before = stream.info().await.expect("known").state.messages;
    let mut rate = 0;
    for _ in 0..60 {
        let (status, reason) = played(&first, &approval(&site).await).await;
        assert_eq!(status, 409);
        rate += u32::from(reason == "rate");
    }
    let grown = stream.info().await.expect("known").state.messages - before;
    println!("60 refused messages of one issuer: {grown} in the log, {rate} kept out of it");
    assert!(grown <= 18 && u64::from(rate) == 60 - grown, "{grown} {rate}");
    let stop = site.gov(&first, "sre-1", &["stop"]).await;
    assert_eq!(stop["targets"][0]["state"], "stopped");
}

#[tokio::test]
async fn an_embedded_gateway_remembers_what_it_refused_over_a_restart() {
    let site = Site::new().await;
    let mut gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    let early = approval(&site).await;
    assert_eq!(played(&gateway, &early).await, (409, "unknown_proposal".into()));
    gateway.kill();
    gateway.start_again();
    gateway.becomes_ready(true).await;
    propose(&site, &gateway).await;
    assert_eq!(played(&gateway, &early).await, (409, "spent".into()));
    assert_eq!(scope(&gateway).await["phase"], "idle");
    assert_eq!(played(&gateway, &approval(&site).await).await.0, 200);
}

#[tokio::test]
async fn whoever_may_signal_the_process_may_stop_it() {
    let site = Site::new().await;
    let mut gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    site.roll_out(&gateway, "p1", ["100", "0", "100"]).await;
    gateway.signal("USR1");
    let stopped = becomes(&gateway, "stopped").await;
    assert_eq!(
        (&stopped["reason"], &stopped["latched"]),
        (&"SIGUSR1".into(), &true.into())
    );
    // It acts first and is written then.
    eventually(async || (scope_of(&gateway, "other").await["durable"] == true).then_some(())).await;
    assert_eq!(scope_of(&gateway, "other").await["phase"], "stopped", "all of it");
    assert!(!cohort(&gateway, 10).await.contains(&true));
    gateway.kill();
    gateway.start_again();
    gateway.becomes_ready(true).await;
    assert_eq!(scope(&gateway).await["phase"], "stopped");
    site.gov(&gateway, "ops-1", &["resume"]).await;
    assert_eq!(
        scope(&gateway).await["phase"],
        "complete",
        "the log was never stopped"
    );
    assert_eq!(
        scope_of(&gateway, "other").await["phase"],
        "stopped",
        "each tenant by its own operators"
    );
}

#[tokio::test]
async fn a_resume_of_the_tenant_leaves_a_scope_s_own_stop_and_the_command_says_so() {
    let site = Site::new().await;
    let gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    let users = "in.t.default.users.>";
    site.gov(
        &gateway,
        "sre-1",
        &["stop", "--scope", users, "--reason", "only these"],
    )
    .await;
    site.gov(&gateway, "sre-1", &["stop"]).await;
    let (admin, token, key) = (
        format!("http://{}", gateway.admin),
        site.file("control.token"),
        site.key("ops-1"),
    );
    let to = ["--admin", &admin, "--token-file", &token, "--key", &key];
    let resumed = site.arqon(&[&["gov", "resume"][..], &to].concat()).await;
    assert!(
        resumed.code == 0 && resumed.out.contains(&format!("`gov resume --scope '{users}'`")),
        "{resumed:?}"
    );
    let status = site.arqon(&["gov", "status", "--admin", &admin]).await;
    let line = status
        .out
        .lines()
        .find(|line| line.contains("users"))
        .expect("the scope");
    assert!(line.contains("stopped") && line.contains("only these"), "{line}");
    let order = format!("stop for {users}, by sre-1");
    let line = status
        .out
        .lines()
        .find(|line| line.contains(&order))
        .expect("the order");
    assert!(
        line.contains(&format!("`gov resume --scope '{users}'` ends it")),
        "{line}"
    );
    assert_eq!(scope(&gateway).await["phase"], "idle");
    let resumed = site.gov(&gateway, "ops-1", &["resume", "--scope", users]).await;
    assert_eq!(resumed["targets"][0]["state"], "idle", "{resumed}");
}
