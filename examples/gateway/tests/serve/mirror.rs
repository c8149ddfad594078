//! Open WebSocket sessions and a mirrored share that changes.

use http::Method;
use serde_json::{Value, json};

use super::{
    embedded::{Socket, ask, open},
    process::{Gateway, eventually},
};

/// Where XXH3-64 with seed 0 puts these traces, by PyPI's xxhash: 0.3454 and 0.9867 of the range.
const LOW: &str = "00-00000000000000000000000000000001-b7ad6b7169203331-01";
const HIGH: &str = "00-00000000000000000000000000000004-b7ad6b7169203331-01";

fn config(percent: &str) -> String {
    format!("[platform.mirroring]\nrules = [{{ prefix = \"in.t.default.>\", percent = \"{percent}\" }}]\n")
}

async fn mirroring(gateway: &Gateway) -> Value {
    gateway.get("/v1/state").await.json()["mirroring"].take()
}

/// Changes the running gateway's share.
async fn change(gateway: &Gateway, percent: u32) {
    gateway.replace("gateway.toml", &config(&format!("{percent}%")));
    eventually(async || {
        let now = mirroring(gateway).await["rules"][0]["percent"].as_f64()?;
        ((now * 100.0).round() == f64::from(percent)).then_some(())
    })
    .await;
}

async fn session(gateway: &Gateway, trace: &'static str) -> Socket {
    let headers = [
        ("sec-websocket-protocol", "arqon.v1.json"),
        ("traceparent", trace),
    ];
    open(gateway, &headers).await.expect("upgraded")
}

async fn sampled(gateway: &Gateway) -> u64 {
    mirroring(gateway).await["sampled"].as_u64().expect("a count")
}

/// Whether a frame of the session is chosen.
async fn chosen(gateway: &Gateway, socket: &mut Socket) -> bool {
    let before = sampled(gateway).await;
    let reply = ask(socket, json!({ "id": 1, "subject": "orders", "json": {} })).await;
    assert!(reply["ack"].is_object(), "{reply}");
    sampled(gateway).await > before
}

#[tokio::test]
async fn an_open_session_keeps_the_border_of_its_upgrade_until_mirroring_is_taken_away() {
    let gateway = Gateway::ready(&config("50%"), &[]).await;
    let (mut low, mut high) = (session(&gateway, LOW).await, session(&gateway, HIGH).await);

    // The change comes before their first frames: what counts is the upgrade.
    change(&gateway, 10).await;
    let mut later = session(&gateway, LOW).await;
    assert!(chosen(&gateway, &mut low).await, "begun at 50 %");
    assert!(!chosen(&gateway, &mut later).await, "begun at 10 %");
    let http = gateway
        .try_send(
            gateway.public,
            Method::POST,
            "/v1/publish/orders",
            &[("traceparent", LOW)],
            "x",
        )
        .await;
    assert_eq!(http.expect("answered").status, 202);
    assert_eq!(sampled(&gateway).await, 1, "a request goes by the share of now");

    change(&gateway, 100).await;
    let mut last = session(&gateway, HIGH).await;
    assert!(!chosen(&gateway, &mut high).await, "begun at 50 %");
    assert!(!chosen(&gateway, &mut later).await, "begun at 10 %");
    assert!(chosen(&gateway, &mut last).await, "begun at 100 %");

    change(&gateway, 0).await;
    for socket in [&mut low, &mut last] {
        assert!(!chosen(&gateway, socket).await, "0 holds for everyone");
    }
    change(&gateway, 20).await;
    assert!(chosen(&gateway, &mut low).await && !chosen(&gateway, &mut later).await);
    let books = eventually(async || {
        let books = mirroring(&gateway).await;
        (books["in_flight"] == 0).then_some(books)
    })
    .await;
    assert_eq!(
        (&books["sampled"], &books["mirrored"]),
        (&json!(3), &json!(3)),
        "{books}"
    );
}
