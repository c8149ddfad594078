//! A gateway that takes its contracts from a bucket, and what its operators have in their hands.

use arqon_test_support::NatsServer;
use async_nats::jetstream::{self, kv::Store};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    nats::descriptors,
    process::{Answer, Gateway, PATIENCE, eventually},
};

pub(super) const ID: &str = "v1.events.user_created";
/// A payload that every revision takes.
pub(super) const GOOD: &[u8] = b"\x0a\x02u1";
/// One that lacks what the mapping requires.
pub(super) const BAD: &[u8] = b"\x10\x05";
/// One with field 7, which only [`wider`] knows.
pub(super) const SEVEN: &[u8] = b"\x0a\x02u1\x38\x01";

/// Looks at its bucket every second, and is stale after three.
pub(super) const QUICK: &str = "cache_ttl_seconds = 3";

/// A configuration whose bucket and subjects are this server handle's own.
pub(super) fn config(server: &NatsServer, url: &str, more: &str) -> String {
    let unique = server.unique();
    format!(
        r#"
[gateway]
control_token_file = "control.token"

[nats]
url = "{url}"
stream = "ARQON_IN"

[platform.registry]
kv_bucket = "{bucket}"
mappings = [{{ subject = "in.t.default.{unique}.users", schema_id = "{ID}", required = ["user_id"] }}]
{more}
"#,
        bucket = bucket_name(server),
    )
}

pub(super) fn bucket_name(server: &NatsServer) -> String {
    format!("ARQON_SCHEMAS_{}", server.unique())
}

pub(super) fn source(fields: &str) -> Vec<u8> {
    descriptors(&format!(
        "syntax = \"proto3\"; package e; message U {{ string user_id = 1; {fields} }}"
    ))
}

pub(super) fn narrow() -> Vec<u8> {
    source("")
}

pub(super) fn wider() -> Vec<u8> {
    source("int32 n = 7;")
}

/// The bucket, once the gateway has made it.
pub(super) async fn bucket(server: &NatsServer) -> Store {
    let client = server.client().await.expect("connected");
    eventually(async || {
        jetstream::new(client.clone())
            .get_key_value(bucket_name(server))
            .await
            .ok()
    })
    .await
}

/// Publishes to the mapped subject.
pub(super) async fn publish(gateway: &Gateway, server: &NatsServer, payload: &'static [u8]) -> Answer {
    let subject = format!("{}.users", server.unique());
    gateway.publish(&subject, &[], payload).await
}

/// The status, and the code of a problem.
pub(super) async fn said(gateway: &Gateway, server: &NatsServer, payload: &'static [u8]) -> (u16, String) {
    let answer = publish(gateway, server, payload).await;
    (answer.status.as_u16(), answer.code())
}

/// Waits until a payload is answered like that.
pub(super) async fn answers(gateway: &Gateway, server: &NatsServer, payload: &'static [u8], status: u16) {
    eventually(async || (publish(gateway, server, payload).await.status == status).then_some(())).await;
}

/// `/v1/state`'s part of the registry, once it is like that.
pub(super) async fn registry(gateway: &Gateway, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(async || {
        let registry = gateway.get("/v1/state").await.json()["registry"].take();
        wanted(&registry).then_some(registry)
    })
    .await
}

/// One check of `/readyz`.
pub(super) async fn check(gateway: &Gateway, name: &str) -> Value {
    let answer = gateway.get("/readyz").await.json();
    let checks = answer["checks"].as_array().cloned().unwrap_or_default();
    checks
        .into_iter()
        .find(|check| check["name"] == name)
        .expect("named")
}

/// The sum of a metric's series.
pub(super) async fn metric(gateway: &Gateway, name: &str) -> f64 {
    let text = gateway.get("/metrics").await;
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let series = text.lines().filter(|line| line.starts_with(name));
    series
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// Waits until that sum is at least that much: what is counted may be counted a moment after it works.
pub(super) async fn counts(gateway: &Gateway, name: &str, least: f64) {
    eventually(async || (metric(gateway, name).await >= least).then_some(())).await;
}

/// Runs `arqon` with those arguments: the exit code and what it printed.
pub(super) async fn arqon(arguments: &[&str]) -> (u8, String) {
    let arguments: Vec<std::ffi::OsString> = ["arqon"].iter().chain(arguments).map(Into::into).collect();
    tokio::task::spawn_blocking(move || {
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = arqon::cli::run_from(arguments, &mut out, &mut errors);
        let text = [out, errors].concat();
        (code, String::from_utf8(text).expect("text"))
    })
    .await
    .expect("no panic")
}

/// A reader of `/v1/events` that is there.
pub(super) struct Events {
    body: Incoming,
    unread: String,
}

impl Events {
    pub(super) async fn of(gateway: &Gateway) -> Self {
        let request = Request::get(format!("http://{}/v1/events", gateway.admin))
            .body(Empty::<Bytes>::new())
            .expect("valid");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = timeout(PATIENCE, client.request(request)).await;
        Self {
            body: answer.expect("in time").expect("answered").into_body(),
            unread: String::new(),
        }
    }

    /// The next event that is wanted.
    pub(super) async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        timeout(PATIENCE, self.next(wanted)).await.expect("in time")
    }

    async fn next(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            while let Some((line, rest)) = self.unread.split_once('\n') {
                let event = line.strip_prefix("data: ").map(serde_json::from_str::<Value>);
                self.unread = rest.to_owned();
                if let Some(event) = event {
                    let event = event.expect("JSON");
                    if wanted(&event) {
                        return event;
                    }
                }
            }
            let frame = self.body.frame().await.expect("open").expect("whole");
            if let Ok(data) = frame.into_data() {
                self.unread.push_str(&String::from_utf8_lossy(&data));
            }
        }
    }
}
