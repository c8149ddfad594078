//! Users of their own for the mirror and the control log: each may do what its connection is for, and nothing else.

use arqon_test_support::GuardedServer;
use async_nats::jetstream;
use futures_util::StreamExt;
use nkeys::KeyPair;
use tokio::time::timeout;

use super::site::{Site, becomes};
use crate::process::{Gateway, PATIENCE, eventually};

/// The first may publish neither copies nor control messages; the others nothing else. The last one watches.
fn server_config([primary, mirror, control, witness]: [&KeyPair; 4]) -> String {
    format!(
        r#"authorization {{ users: [
    {{ nkey: {}, permissions: {{ publish: {{ deny: ["shadow.>", "gov.>", "$JS.API.*.*.ARQON_GOV", "$JS.API.*.*.ARQON_GOV.>"] }} }} }}
    {{ nkey: {}, permissions: {{ publish: "shadow.>", subscribe: {{ deny: ">" }} }} }}
    {{ nkey: {}, permissions: {{ publish: ["gov.>", "$JS.API.>", "$KV.ARQON_AUDIT.>"], subscribe: "_INBOX.>" }} }}
    {{ nkey: {} }}
] }}
"#,
        primary.public_key(),
        mirror.public_key(),
        control.public_key(),
        witness.public_key()
    )
}

#[tokio::test]
async fn mirror_and_control_log_may_be_other_users_than_the_one_who_publishes() {
    let [primary, mirror, control, witness] = [(); 4].map(|()| KeyPair::new_user());
    let config = server_config([&primary, &mirror, &control, &witness]);
    let server = GuardedServer::start(&config, &[]).await.expect("a nats-server");
    let site = Site::new().await;
    for (name, pair) in [("p.nk", &primary), ("m.nk", &mirror), ("c.nk", &control)] {
        std::fs::write(site.path(name), pair.seed().expect("a seed")).expect("written");
    }
    let options = async_nats::ConnectOptions::with_nkey(witness.seed().expect("a seed"));
    let watching = options.connect(server.url()).await.expect("let in");
    let mut copies = watching.subscribe("shadow.>").await.expect("subscribed");
    watching.flush().await.expect("flushed");

    let nats = format!(
        "{}\"\nnkey_file = \"{}\"\nmirror = {{ nkey_file = \"{}\" }}\ncontrol = {{ nkey_file = \"{}\" }}\nstream = \"ARQON_IN",
        server.url(),
        site.file("p.nk"),
        site.file("m.nk"),
        site.file("c.nk")
    );
    let more = format!(
        "{}\n[platform.mirroring]\nrules = [{{ prefix = \"in.t.default.>\", percent = \"100%\" }}]",
        site.catalog()
    );
    let gateway = Gateway::ready(&site.config(Some(&nats), "gw-1", &more), &[]).await;
    // Advisory: it may be ready before they are.
    eventually(async || {
        let ready = gateway.get("/readyz").await.json();
        let ok = |name: &str| {
            let mut checks = ready["checks"].as_array().into_iter().flatten();
            checks.any(|check| check["name"] == name && check["ok"] == true)
        };
        (ok("nats_mirror") && ok("nats_control")).then_some(())
    })
    .await;

    assert_eq!(gateway.publish("orders", &[], "hello").await.status, 202);
    let copy = timeout(PATIENCE, copies.next()).await.expect("in time");
    assert_eq!(
        copy.expect("a copy").subject.as_str(),
        "shadow.in.t.default.orders"
    );

    site.roll_out(&gateway, "p1", ["0.5", "0", "0.5"]).await;
    becomes(&gateway, "holding").await;
    let log = jetstream::new(watching.clone());
    let mut log = log
        .get_stream("ARQON_GOV")
        .await
        .expect("made by the control log's user");
    let info = log.info().await.expect("known");
    assert!(info.state.messages > 0, "{info:?}");
}
