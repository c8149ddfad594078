//! Keys that are replaced by the log, and a gateway that begins with other ones.

use arqon_test_support::NatsServer;
use serde_json::Value;

use super::{
    orders::said,
    site::{Site, becomes},
};
use crate::process::{Gateway, eventually};

/// Makes a key and yields its file and its line for a configuration.
async fn key(site: &Site, file: &str, keyid: &str) -> (String, String) {
    let file = site.file(file);
    let made = site
        .arqon(&["gov", "keygen", "--key", &file, "--keyid", keyid])
        .await;
    assert_eq!(made.code, 0, "{made:?}");
    (file, made.out.trim().to_owned())
}

#[tokio::test]
async fn keys_are_replaced_by_the_log_on_every_gateway_and_one_that_begins_with_others_is_named() {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let (third_key, third) = key(&site, "ops-3.key", "ops-3").await;
    let (stop_key, stop) = key(&site, "sre-2.key", "sre-2").await;
    let (node_key, node) = key(&site, "gw-2.next.key", "gw-2").await;
    let config = |node: &str, more: &str| site.config(Some(server.url()), node, &(site.catalog() + more));
    let one = Gateway::ready(&config("gw-1", ""), &[]).await;
    let renamed = config("gw-2", "\nnode_key_by_rotation = true").replace(&site.key("gw-2"), &node_key);
    let two = Gateway::ready(&renamed, &[]).await;

    let operators = format!("[{}, {third}]", site.public("ops-2"));
    let next = format!("threshold = 2\nkeys = {operators}\nstop_keys = [{stop}]\nnode_keys = [{node}]\n");
    std::fs::write(site.path("next.toml"), next).expect("written");
    let (ops_1, ops_2, sre_1) = (site.key("ops-1"), site.key("ops-2"), site.key("sre-1"));
    let made = site
        .arqon(&["gov", "rotate", &site.file("next.toml"), "--key", &ops_1])
        .await;
    assert_eq!(made.code, 0, "{made:?}");
    std::fs::write(site.path("r1.json"), made.out).expect("written");
    let joined = site
        .arqon(&["gov", "sign", &site.file("r1.json"), "--key", &ops_2])
        .await;
    assert_eq!(joined.code, 0, "{joined:?}");
    std::fs::write(site.path("r2.json"), joined.out).expect("written");
    let r2 = site.file("r2.json");
    let early = said(&site, &one, &["sign", &r2, "--key", &ops_2]).await;
    assert!(
        early.code == 1 && early.out.contains("1 of the new keys signed, 2 must"),
        "{early:?}"
    );
    let last = said(&site, &one, &["sign", &r2, "--key", &third_key]).await;
    assert!(last.code == 0 && last.out.contains("in force"), "{last:?}");

    // The one that nobody sent it to.
    eventually(async || {
        let state = two.get("/v1/state").await.json();
        (state["rollout"]["tenants"][0]["epoch"] == 2).then_some(())
    })
    .await;
    let old = said(&site, &two, &["stop", "--key", &sre_1]).await;
    assert!(old.code == 1 && old.out.contains("unknown_key"), "{old:?}");
    let stopped = said(&site, &two, &["stop", "--key", &stop_key]).await;
    assert_eq!(stopped.code, 0, "{stopped:?}");
    becomes(&one, "stopped").await;
    let resume = ["resume", "--epoch", "2", "--key", &ops_2, "--key", &third_key];
    let resumed = said(&site, &one, &resume).await;
    assert_eq!(resumed.code, 0, "{resumed:?}");

    // Both begin with the same set; a third one begins with the next.
    let admin = |gateway: &Gateway| format!("http://{}", gateway.admin);
    let compared = async |other: &Gateway| {
        let words = ["gov", "status", "--tenant", "default", "--admin", &admin(&one)];
        site.arqon(&[&words[..], &["--admin", &admin(other)]].concat())
            .await
    };
    let same = compared(&two).await;
    assert!(
        same.code == 0 && same.out.matches("key set 2").count() == 2 && !same.out.contains("two states"),
        "{same:?}"
    );
    let others = config("gw-3", "").replacen(
        &format!("keys = [{}]", site.public("ops-1")),
        &format!("keys = {operators}"),
        1,
    );
    let other = Gateway::logged(&others).await;
    other.becomes_ready(true).await;
    let differ = compared(&other).await;
    assert!(
        differ.code == 1
            && differ.out.contains("two states")
            && differ.out.matches(&admin(&other)).count() == 2,
        "{differ:?}"
    );
    // And people are told without asking.
    let told = eventually(async || {
        let lines = other.log_lines();
        let found = lines
            .iter()
            .map(Value::to_string)
            .filter(|line| line.contains("begins with other keys"));
        let found: Vec<String> = found.collect();
        (found.iter().any(|line| line.contains("`gw-1`")) && found.iter().any(|line| line.contains("`gw-2`")))
            .then_some(found)
    })
    .await;
    assert!(told.iter().all(|line| !line.contains("`gw-3`")), "{told:?}");
}
