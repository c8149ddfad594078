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
async fn a_message_that_cannot_be_a_request_is_counted_and_told_as_every_refusal_is() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let server = NatsServer::start().await.expect("a nats-server");
    let (client, tenant) = (
        server.client().await.expect("connected"),
        server.unique().to_owned(),
    );
    let prefix = format!("gw{tenant}");
    let told = "[telemetry]\naccess_log = true\n";
    let gateway = Gateway::logging(&format!("{}{told}", config(&server, &prefix)), "info").await;
    let ask = async |suffix: &str, headers: HeaderMap| {
        let subject = format!("{prefix}.in.t.{tenant}{suffix}");
        let asked = client.request_with_headers(subject, headers, "\x0a\x02u1".into());
        let answer = timeout(PATIENCE, asked).await.expect("in time").ok()?;
        serde_json::from_slice::<Value>(&answer.payload).ok()
    };
    eventually(async || ask(".probe", HeaderMap::new()).await).await;
    let known = |id: &str| {
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        headers(&[("traceparent", &parent), ("x-request-id", id)])
    };
    let many = |count: usize, id: &str| {
        let mut headers = known(id);
        (2..count).for_each(|_| headers.append("x", "1"));
        headers
    };
    // As many as HTTP/1 has, and as many as http's map cannot be made for at once.
    let good = ask(".users", many(100, "fits")).await.expect("answered");
    assert_eq!(good["stream"], "ARQON_IN", "{good}");
    let mut two = known("two");
    two.append("content-type", "a");
    two.append("content-type", "b");
    let mut control = known("control");
    control.insert("a", "\u{1}");
    let refused = [
        (".users", many(101, "more"), "frame.invalid", 400),
        (".users", many(40_000, "panic"), "frame.invalid", 400),
        (".users", two, "frame.invalid", 400),
        (".users", control, "frame.invalid", 400),
        ("/b.users", known("tenant"), "tenant.invalid", 403),
    ];
    for (suffix, headers, code, status) in refused {
        let id = headers.get("x-request-id").expect("sent").to_string();
        let problem = ask(suffix, headers).await.expect("answered");
        let tenant = Some(tenant.as_str()).filter(|_| suffix == ".users");
        assert_eq!(problem["code"], code, "{problem}");
        let ids = ["request_id", "trace_id", "tenant"].map(|name| problem[name].as_str());
        assert_eq!(ids, [Some(id.as_str()), Some(TRACE), tenant], "{problem}");
        let line = eventually(async || {
            let lines = gateway.log_lines();
            lines.into_iter().find(|line| line["request_id"] == *id)
        })
        .await;
        assert_eq!(
            (&line["status"], &line["code"]),
            (&status.into(), &code.into()),
            "{line}"
        );
        assert_eq!(line["span_id"], problem["span_id"], "{line}");
        assert_eq!(line["tenant"].as_str(), tenant, "{line}");
    }
    let metrics = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
    for counted in [
        "shield_gateway_requests_total{protocol=\"nats\",status=\"4xx\"} 5",
        "shield_gateway_problems_total{code=\"frame.invalid\"} 4",
        "shield_gateway_problems_total{code=\"tenant.invalid\"} 1",
        "shield_nats_served_total{source=\"core\",outcome=\"poison\"} 5",
        "shield_gateway_panics_total 0",
    ] {
        assert!(
            metrics.lines().any(|line| line == counted),
            "{counted} in {metrics}"
        );
    }
    assert!(gateway.terminate().await.success());
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
