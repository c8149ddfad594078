//! What operators are told: whose rollouts, by whom they are held, and a trail that lost its end.

use serde_json::Value;

use super::{
    orders::{A, said},
    site::{Site, scope},
};
use crate::process::Gateway;

#[tokio::test]
async fn a_tenant_that_is_asked_for_is_the_only_one_shown_and_one_that_is_not_there_is_told() {
    let site = Site::new().await;
    let gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    let all = said(&site, &gateway, &["status"]).await;
    assert!(
        all.out.contains("tenant default") && all.out.contains("tenant other"),
        "{all:?}"
    );
    let other = said(&site, &gateway, &["status", "--tenant", "other"]).await;
    assert!(
        !other.out.contains("tenant default") && other.out.contains("tenant other"),
        "{other:?}"
    );
    for words in [["status", "--tenant", "nope"], ["watch", "--tenant", "nope"]] {
        let nope = said(&site, &gateway, &words).await;
        assert_eq!(nope.code, 2, "{nope:?}");
        assert!(
            nope.errors.contains("`nope`") && nope.errors.contains("default, other"),
            "{nope:?}"
        );
    }
    // Whoever stops something for the first time is told where from.
    let away = site
        .arqon(&[
            "gov",
            "stop",
            "--key",
            &site.key("sre-1"),
            "--admin",
            "http://127.0.0.1:9",
        ])
        .await;
    assert!(
        away.code == 1
            && away
                .out
                .contains("name the gateway's admin listener with --admin"),
        "{away:?}"
    );
    // What waits is told in words.
    site.gov(
        &gateway,
        "ops-1",
        &["propose", "--id", "p1", "--variant", "42", "--reason", "faster"],
    )
    .await;
    let ramp = ["--initial", "1", "--increment", "0", "--max", "1"];
    let ops = site.key("ops-1");
    let words = [&["approve", "p1", "--key", &ops][..], &ramp].concat();
    let nameless = said(&site, &gateway, &words).await;
    assert!(
        nameless.code == 2 && nameless.errors.contains("pending p1: variant 42, proposed by"),
        "{nameless:?}"
    );
    assert!(!nameless.errors.contains('{'), "{nameless:?}");

    // Each order is told with who gave it: the scope's own outlives the tenant's.
    let scoped = ["--scope", A];
    site.gov(&gateway, "ops-1", &["stop", "--reason", "all of it"])
        .await;
    site.gov(
        &gateway,
        "sre-1",
        &[&["stop", "--reason", "only a"][..], &scoped].concat(),
    )
    .await;
    let status = said(&site, &gateway, &["status", "--tenant", "default"])
        .await
        .out;
    for order in [
        "stop for the whole tenant, by ops-1",
        "stop for in.t.default.a.>, by sre-1",
    ] {
        assert!(status.contains(order), "{order}:\n{status}");
    }
    site.gov(&gateway, "ops-1", &["resume"]).await;
    let status = said(&site, &gateway, &["status", "--tenant", "default"])
        .await
        .out;
    let line = status
        .lines()
        .find(|line| line.contains("a.>: stopped"))
        .expect("the scope");
    assert!(
        line.contains("by sre-1: only a") && !line.contains("all of it"),
        "{line}"
    );
}

#[tokio::test]
async fn the_status_of_several_gateways_is_told_of_each() {
    let site = Site::new().await;
    let one = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    let other = Gateway::ready(&site.config(None, "gw-2", &site.catalog()), &[]).await;
    site.gov(&other, "sre-1", &["stop", "--reason", "here alone"])
        .await;
    let admins = [one.admin, other.admin].map(|admin| format!("http://{admin}"));
    let mut words = vec![
        "gov", "status", "--tenant", "default", "--admin", &admins[0], "--admin", &admins[1],
    ];
    let told = site.arqon(&words).await;
    assert_eq!(
        (told.code, told.out.matches("tenant default").count()),
        (0, 2),
        "{told:?}"
    );
    let at = |text: &str| told.out.find(text).expect("told");
    assert!(
        at(&admins[0]) < at(&admins[1]) && at(&admins[1]) < at("here alone"),
        "{told:?}"
    );
    // One that does not answer is named, and the others are told all the same.
    words.extend(["--admin", "http://127.0.0.1:9"]);
    let told = site.arqon(&words).await;
    assert!(
        told.code == 1
            && told.out.contains("here alone")
            && told.out.contains("http://127.0.0.1:9 cannot be reached"),
        "{told:?}"
    );
    let told = site.arqon(&[&["--json"][..], &words].concat()).await;
    let json: Value = serde_json::from_str(&told.out).expect("JSON");
    let gateways = json["gateways"].as_array().expect("three");
    assert_eq!((told.code, gateways.len()), (1, 3), "{json}");
    let phase = |at: usize| &gateways[at]["rollout"]["tenants"][0]["scopes"][0]["phase"];
    assert_eq!(
        (phase(0), phase(1)),
        (&"idle".into(), &"stopped".into()),
        "{json}"
    );
    assert!(gateways[2]["error"].is_string(), "{json}");
}

#[tokio::test]
async fn an_embedded_gateway_whose_trail_lost_its_end_does_not_start_until_somebody_has_looked() {
    let site = Site::new().await;
    let mut gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    site.roll_out(&gateway, "p1", ["50", "0", "50"]).await;
    site.gov(&gateway, "sre-1", &["stop"]).await;
    gateway.kill();
    let trail = gateway.path("audit.jsonl");
    let (whole, name) = (
        std::fs::read_to_string(&trail).expect("there"),
        trail.to_str().expect("UTF-8").to_owned(),
    );
    assert_eq!(site.arqon(&["audit", "verify", &name]).await.code, 0);
    // Without its last entry the rollout would be back.
    let cut: String = whole.split_inclusive('\n').take(2).collect();
    std::fs::write(&trail, &cut).expect("cut");
    let broken = site.arqon(&["--json", "audit", "verify", &name]).await;
    let report: Value = serde_json::from_str(&broken.out).expect("JSON");
    assert_eq!((broken.code, &report["index"]), (1, &2.into()), "{report}");
    let told = gateway.refuses_to_start();
    assert!(told.contains("entry 2 was acknowledged and is missing"), "{told}");
    // Nor without the file that tells.
    let head = gateway.path("audit.jsonl.head");
    std::fs::rename(&head, site.path("head")).expect("moved");
    let broken = site.arqon(&["audit", "verify", &name]).await;
    assert!(broken.code == 1 && broken.out.contains("--no-head"), "{broken:?}");
    assert_eq!(site.arqon(&["audit", "verify", &name, "--no-head"]).await.code, 0);
    let told = gateway.refuses_to_start();
    assert!(
        told.contains("audit.jsonl.head is missing") && told.contains("audit seal"),
        "{told}"
    );
    // Nor is the loss of all of it overlooked.
    std::fs::rename(site.path("head"), &head).expect("moved");
    std::fs::remove_file(&trail).expect("removed");
    let gone = site.arqon(&["--json", "audit", "verify", &name]).await;
    let report: Value = serde_json::from_str(&gone.out).expect("JSON");
    assert_eq!((gone.code, &report["index"]), (1, &0.into()), "{report}");
    std::fs::remove_file(&head).expect("removed");
    // With the end put back it is as it was.
    std::fs::write(&trail, &whole).expect("written");
    let sealed = site.arqon(&["audit", "seal", &name]).await;
    assert!(
        sealed.code == 0 && sealed.out.contains("ends with 3 entries"),
        "{sealed:?}"
    );
    gateway.start_again();
    gateway.becomes_ready(true).await;
    assert_eq!(scope(&gateway).await["phase"], "stopped");
}
