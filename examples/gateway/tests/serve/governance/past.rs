//! The bytes of a catalog update that comes to the log past every gateway: all nodes have them.

use arqon_test_support::NatsServer;
use serde_json::{Value, json};

use super::site::{CATALOG, Site, scope};
use crate::process::{Gateway, eventually};

async fn rollout(gateway: &Gateway) -> Value {
    gateway.get("/v1/state").await.json()["rollout"].clone()
}

#[tokio::test]
async fn an_update_that_is_written_to_the_log_itself_leaves_its_bytes_with_the_nodes() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let config = |node: &str| {
        let folder = site.path(node);
        std::fs::create_dir(&folder).expect("made");
        std::fs::write(folder.join("catalog.json"), CATALOG).expect("written");
        let catalog = format!(
            "catalog = {{ path = \"{}\" }}",
            folder.join("catalog.json").display()
        );
        site.config(Some(server.url()), node, &catalog)
    };
    let first = Gateway::ready(&config("gw-1"), &[]).await;
    // What only the operator has.
    let next = site.path("next.json");
    std::fs::write(&next, CATALOG.replace("\"version\": 1", "\"version\": 2")).expect("written");
    let send = async |uri: String, more: &[&str]| {
        let message = site.path("update.json");
        let update = json!({ "type": "catalog_update", "version": 2, "source_uri": uri });
        std::fs::write(&message, update.to_string()).expect("written");
        let (message, key) = (message.display().to_string(), site.key("ops-1"));
        let words = [
            "--json",
            "gov",
            "sign",
            &message,
            "--key",
            &key,
            "--nats",
            server.url(),
        ];
        site.arqon(&[&words[..], more].concat()).await
    };
    let nowhere = "kv://NONE/next".to_owned();
    let unsent = send(nowhere.clone(), &[]).await;
    assert_eq!(unsent.code, 2, "{unsent:?}");
    assert_eq!(rollout(&first).await["seq"], 0, "nothing is in the log");
    let sent = send(nowhere, &["--catalog", &next.display().to_string()]).await;
    assert_eq!(sent.code, 3, "{sent:?}");
    let version = async |gateway: &Gateway| rollout(gateway).await["tenants"][0]["catalog_version"].clone();
    eventually(async || (version(&first).await == 2).then_some(())).await;
    assert_eq!(scope(&first).await["phase"], "idle");
    let late = Gateway::ready(&config("gw-2"), &[]).await;
    eventually(async || (version(&late).await == 2).then_some(())).await;
}
