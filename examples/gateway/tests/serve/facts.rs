//! Reload by signal, and what readers of `/v1/events` see of a whole life.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use tokio::{task::JoinHandle, time::timeout};

use super::process::{Gateway, PATIENCE, eventually};

const CONFIG: &str = r#"
[gateway]
control_token_file = "control.token"

[platform.overseer]
watch_interval = "0s"
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"

[platform.mirroring]
rules = [{ prefix = "in.t.default.>", percent = "100%" }]
"#;
const TOKEN: &str = "0123456789abcdef";

/// All events of a stream, as their data, once it has ended.
async fn events(gateway: &Gateway, token: Option<&str>) -> JoinHandle<Vec<Value>> {
    let mut request = Request::get(format!("http://{}/v1/events", gateway.admin));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = request.body(Empty::<Bytes>::new()).expect("valid");
    let answer = timeout(PATIENCE, client.request(request))
        .await
        .expect("in time")
        .expect("answered");
    assert_eq!(answer.status(), StatusCode::OK);
    tokio::spawn(async move {
        let bytes = answer
            .into_body()
            .collect()
            .await
            .expect("it ends whole")
            .to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).expect("JSON"))
            .collect()
    })
}

/// The state, once the configuration has at least this version: a changed file and a signal may each make one.
async fn version(gateway: &Gateway, wanted: u64) -> Value {
    eventually(async || {
        let state = gateway.get("/v1/state").await.json();
        (state["config"]["version"].as_u64()? >= wanted).then_some(state)
    })
    .await
}

async fn refused(gateway: &Gateway, why: &str) -> Value {
    eventually(async || {
        let state = gateway.get("/v1/state").await.json();
        let said = state["config"]["refused"].as_str()?.contains(why);
        said.then_some(state)
    })
    .await
}

#[tokio::test]
async fn sighup_takes_over_the_file_or_nothing_of_it_and_readers_see_each_version() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    assert_eq!(gateway.get("/v1/state").await.json()["config"]["version"], 1);
    let (admin, observer) = (events(&gateway, Some(TOKEN)).await, events(&gateway, None).await);
    let blocked = async || {
        gateway
            .publish("free", &[("x-block-me", "1")], "")
            .await
            .status
            .as_u16()
    };
    assert_eq!(blocked().await, 403);

    // The same file, another policy behind it: a signal reads the policies anew.
    let allow = r#"(module (memory (export "memory") 1) (global (export "arqon_abi_v1") i32 (i32.const 1))
        (func (export "on_request") (result i32) i32.const 0))"#;
    std::fs::write(gateway.path("block_me.wat"), allow).expect("written");
    gateway.signal("HUP");
    version(&gateway, 2).await;
    assert_eq!(blocked().await, 202);

    // A policy that cannot be loaded: the whole reload is refused, the rules beside it too.
    let mirrored = async || gateway.get("/v1/state").await.json()["mirroring"]["rules"][0]["percent"].clone();
    std::fs::write(gateway.path("block_me.wat"), "(module").expect("written");
    gateway.replace(
        "gateway.toml",
        &CONFIG
            .replace("100%", "50%")
            .replace("name", "mode = \"monitor\"\nname"),
    );
    gateway.signal("HUP");
    refused(&gateway, "block_me").await;
    assert_eq!((mirrored().await, blocked().await), (1.0.into(), 202));

    // Both mended: both are taken over.
    std::fs::write(gateway.path("block_me.wat"), super::process::BLOCK_ME).expect("written");
    gateway.signal("HUP");
    let state = version(&gateway, 3).await;
    assert_eq!(state["config"]["refused"], Value::Null);
    assert_eq!(
        (mirrored().await, &state["overseer"]["policies"][0]["mode"]),
        (0.5.into(), &"monitor".into())
    );

    // What needs a restart is named, and nothing of the file is taken over.
    gateway.replace(
        "gateway.toml",
        &CONFIG
            .replace("100%", "25%")
            .replace("[gateway]", "[bus]\ncapacity = 8\n[gateway]\nmax_connections = 5"),
    );
    let state = refused(&gateway, "bus.capacity, gateway.max_connections need a restart").await;
    assert_eq!(
        (mirrored().await, &state["bus"]["capacity"]),
        (0.5.into(), &256.into())
    );
    gateway.replace("gateway.toml", "[gateway\n");
    refused(&gateway, "gateway.toml").await;

    assert_eq!(gateway.terminate().await.code(), Some(0));
    let admin = timeout(PATIENCE, admin)
        .await
        .expect("in time")
        .expect("no panic");
    let observer = timeout(PATIENCE, observer)
        .await
        .expect("in time")
        .expect("no panic");
    let versions: Vec<u64> = admin
        .iter()
        .filter_map(|event| event["version"].as_u64())
        .collect();
    assert!(
        versions.len() >= 2 && versions.iter().copied().eq(2..2 + versions.len() as u64),
        "{versions:?}"
    );
    let reloaded = admin
        .iter()
        .filter(|event| event["event"] == "policy_reloaded")
        .count();
    assert_eq!(
        reloaded,
        versions.len(),
        "each of these reloads read the policy and told so"
    );
    let last: Vec<_> = admin[admin.len() - 2..]
        .iter()
        .map(|event| event["event"].clone())
        .collect();
    assert_eq!(last, ["health", "shutdown"]);
    assert_eq!(
        observer,
        admin[..admin.len() - 1],
        "the same events and ids, without the shutdown"
    );
}

#[tokio::test]
async fn the_bus_has_its_flags_its_variables_and_its_label() {
    let flags = [
        "--bus-capacity",
        "64",
        "--bus-overflow-warn-rate",
        "6",
        "--bus-metrics-namespace",
        "edge",
    ];
    let gateway = Gateway::start_with("", &flags, &[("RON_AMNESIA", "on"), ("RON_BUS_CAPACITY", "32")]);
    gateway.becomes_ready(true).await;
    let state = gateway.get("/v1/state").await.json();
    assert_eq!(
        (&state["bus"]["capacity"], &state["bus"]["namespace"]),
        (&64.into(), &"edge".into())
    );
    let text = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
    for line in [
        "bus_overflow_dropped_total{amnesia=\"on\"} 0",
        "bus_queue_depth{amnesia=\"on\"} ",
        "bus_subscribers_total{amnesia=\"on\"} ",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    drop(gateway);
    let gateway = Gateway::start_with("", &["--bus-amnesia-label", "false"], &[("RON_AMNESIA", "on")]);
    gateway.becomes_ready(true).await;
    let text = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
    assert!(text.contains("bus_overflow_dropped_total 0"), "{text}");
}

#[tokio::test]
async fn the_control_token_is_changed_by_a_reload_and_a_bad_one_is_refused() {
    let config = "[gateway]\ncontrol_token_file = \"control.token\"\n\
                  [[platform.overseer.policies]]\nname = \"block_me\"\npath = \"block_me.wat\"\n";
    let gateway = Gateway::ready(config, &[]).await;
    let status = async |token: &str| {
        let request = Request::get(format!("http://{}/v1/events", gateway.admin))
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::<Bytes>::new())
            .expect("valid");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = timeout(PATIENCE, client.request(request)).await.expect("in time");
        answer.expect("answered").status().as_u16()
    };
    let next = "fedcba9876543210";
    assert_eq!((status(TOKEN).await, status(next).await), (200, 401));

    std::fs::write(gateway.path("control.token"), "short\n").expect("written");
    gateway.signal("HUP");
    refused(&gateway, "control.token").await;
    assert_eq!((status(TOKEN).await, status("short").await), (200, 401));

    std::fs::write(gateway.path("control.token"), format!("{next}\n")).expect("written");
    gateway.signal("HUP");
    version(&gateway, 2).await;
    assert_eq!((status(TOKEN).await, status(next).await), (401, 200));

    // A reload that is refused for something else leaves the token too.
    std::fs::write(gateway.path("block_me.wat"), "(module").expect("written");
    std::fs::write(gateway.path("control.token"), format!("{TOKEN}\n")).expect("written");
    gateway.signal("HUP");
    refused(&gateway, "block_me").await;
    assert_eq!((status(TOKEN).await, status(next).await), (401, 200));
}

/// As a network's disk that is gone: whoever reads waits for ever (F30).
#[cfg(unix)]
#[tokio::test]
async fn a_pipe_in_place_of_a_file_is_refused_and_holds_up_neither_reloads_nor_the_end() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let pipe = |name: &str| {
        let path = gateway.path(name);
        std::fs::remove_file(&path).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo").success());
    };
    for name in ["gateway.toml", "control.token", "block_me.wat"] {
        let kept = std::fs::read(gateway.path(name)).expect("there");
        pipe(name);
        gateway.signal("HUP");
        refused(
            &gateway,
            if name == "block_me.wat" {
                "is not a file"
            } else {
                "not a regular file"
            },
        )
        .await;
        std::fs::remove_file(gateway.path(name)).expect("removed");
        std::fs::write(gateway.path(name), kept).expect("written");
        gateway.signal("HUP");
        eventually(async || {
            let state = gateway.get("/v1/state").await.json();
            state["config"]["refused"].is_null().then_some(())
        })
        .await;
    }
    pipe("gateway.toml");
    gateway.signal("HUP");
    refused(&gateway, "not a regular file").await;
    assert_eq!(gateway.terminate().await.code(), Some(0));
}
