//! `nats.serve`: requests over NATS, and servers that ask who is there.

use arqon_test_support::{GuardedServer, NatsServer};
use async_nats::HeaderMap;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::timeout;

use super::process::{Gateway, PATIENCE, eventually, folder, run};

fn config(server: &NatsServer, prefix: &str) -> String {
    format!(
        r#"
[nats]
url = "{}"
serve = {{ prefix = "{prefix}" }}

[platform.overseer]
deadline = "1s"
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"

[platform.registry]
dir = "schemas"
mappings = [{{ subject = "in.t.*.users", schema_id = "v1.events.user_created", required = ["user_id"] }}]

[platform.mirroring]
rules = [{{ prefix = "in.t.>", percent = "100%" }}]
"#,
        server.url()
    )
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.insert(*name, *value);
    }
    headers
}

fn header<'a>(message: &'a async_nats::Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str())
}

#[tokio::test]
async fn a_request_over_nats_passes_the_same_stack_as_one_over_http() {
    let server = NatsServer::start().await.expect("a nats-server");
    let (client, tenant) = (
        server.client().await.expect("connected"),
        server.unique().to_owned(),
    );
    let prefix = format!("gw{tenant}");
    let mut copies = client
        .subscribe(format!("shadow.in.t.{tenant}.>"))
        .await
        .expect("subscribed");
    let mut stored = client
        .subscribe(format!("in.t.{tenant}.>"))
        .await
        .expect("subscribed");
    client.flush().await.expect("flushed");
    let gateway = Gateway::ready(&config(&server, &prefix), &[]).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let ask = async |suffix: &str, pairs: &[(&'static str, &str)], body: &'static [u8]| {
        let subject = format!("{prefix}.in.t.{tenant}.{suffix}");
        let asked = client.request_with_headers(subject, headers(pairs), body.into());
        timeout(PATIENCE, asked)
            .await
            .expect("in time")
            .expect("answered")
    };
    eventually(async || {
        let subject = format!("{prefix}.in.t.{tenant}.probe");
        client.request(subject, "".into()).await.ok()
    })
    .await;

    let good = ask(
        "users",
        &[("traceparent", trace), ("X-Arqon-Variant", "7"), ("x-own", "1")],
        b"\x0a\x02u1",
    )
    .await;
    let ack: Value = serde_json::from_slice(&good.payload).expect("JSON");
    assert_eq!(ack["subject"], format!("in.t.{tenant}.users"));
    assert_eq!(ack["stream"], "ARQON_IN");
    assert_eq!(header(&good, "Nats-Service-Error"), None);
    let next = async |messages: &mut async_nats::Subscriber| loop {
        let message = timeout(PATIENCE, messages.next())
            .await
            .expect("in time")
            .expect("one");
        if message.subject.ends_with(".users") {
            return message;
        }
    };
    let primary = next(&mut stored).await;
    assert_eq!(
        header(&primary, "traceparent").map(|value| &value[..35]),
        Some(&trace[..35])
    );
    assert_eq!(
        (header(&primary, "x-own"), header(&primary, "x-arqon-variant")),
        (Some("1"), None)
    );
    let copy = next(&mut copies).await;
    assert_eq!(header(&copy, "x-arqon-shadow"), Some("true"));

    for (suffix, pairs, body, code, problem) in [
        (
            "users",
            &[("X-Block-Me", "1")][..],
            &b"\x0a\x02u1"[..],
            "403",
            "overseer.denied",
        ),
        ("users", &[], b"\x0a\x09u1", "400", "schema.violation"),
        ("users", &[("a(b", "1")], b"", "400", "frame.invalid"),
    ] {
        let refused = ask(suffix, pairs, body).await;
        assert_eq!(
            header(&refused, "Nats-Service-Error-Code"),
            Some(code),
            "{problem}"
        );
        let told: Value = serde_json::from_slice(&refused.payload).expect("a problem");
        assert_eq!(told["code"], problem);
        assert!(header(&refused, "Nats-Service-Error").is_some_and(|line| line.starts_with(problem)));
    }

    // A copy that comes in again is published, and not mirrored again.
    ask(
        "loop.users",
        &[("x-arqon-shadow", "true"), ("traceparent", trace)],
        b"x",
    )
    .await;
    ask("users", &[("traceparent", trace)], b"\x0a\x02u2").await;
    let after = next(&mut copies).await;
    assert_eq!(
        &after.payload[..],
        b"\x0a\x02u2",
        "the marked one made no copy before it"
    );

    let metrics = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
    assert!(
        metrics.contains("shield_nats_served_total{source=\"core\",outcome=\"refused\"}"),
        "{metrics}"
    );
    assert!(gateway.terminate().await.success());
    assert!(
        client
            .request(format!("{prefix}.in.t.{tenant}.x"), "".into())
            .await
            .is_err(),
        "drained"
    );
}

#[tokio::test]
async fn a_gateway_shows_the_server_its_token_and_says_unready_with_a_wrong_one() {
    let server = GuardedServer::start("authorization { token: \"open-sesame-16-chars\" }", &[])
        .await
        .expect("a nats-server");
    let token = server.folder().join("token");
    std::fs::write(&token, "open-sesame-16-chars\n").expect("written");
    let config = format!(
        "[nats]\nurl = \"{}\"\ntoken_file = \"{}\"\n",
        server.url(),
        token.display()
    );
    let gateway = Gateway::ready(&config, &[]).await;
    assert_eq!(gateway.publish("x", &[], "1").await.status, 202);
    assert!(gateway.terminate().await.success());

    std::fs::write(&token, "wrong").expect("written");
    let gateway = Gateway::start(&config, &[]);
    let told = gateway.becomes_ready(false).await;
    assert!(
        told["checks"].to_string().contains("not connected to NATS"),
        "{told}"
    );
    let refused = gateway.publish("x", &[], "1").await;
    assert_eq!(
        (refused.status.as_u16(), refused.code().as_str()),
        (503, "publish.unavailable")
    );
    assert!(
        gateway.terminate().await.success(),
        "a server that is away does not keep a drain"
    );
}

#[test]
fn credentials_that_cannot_be_used_are_said_before_the_start_and_not_shown() {
    let folder = folder(
        "[nats]\nurl = \"nats://user:hunter2@127.0.0.1:1\"\nnkey_file = \"control.token\"\ncert_file = \"control.token\"\n",
    );
    let ended = run(folder.path(), &["serve", "--config", "gateway.toml"]);
    assert_eq!(ended.status.code(), Some(2));
    let said = String::from_utf8(ended.stderr).expect("text");
    for key in [
        "nats.nkey_file: ",
        "nats.cert_file: ",
        "nats.key_file: cert_file is given without it",
    ] {
        assert!(said.contains(key), "{key} in {said}");
    }
    assert!(
        !said.contains("hunter2") && !said.contains("0123456789abcdef"),
        "{said}"
    );
}
