//! Somebody who has never seen it: keys, a proposal, an approval, a stop.

use arqon_test_support::NatsServer;

use super::site::{Site, becomes, cohort, scope, scope_of};
use crate::process::{Gateway, eventually};

#[tokio::test]
async fn a_stranger_rolls_a_variant_out_with_the_command_line_and_stops_it() {
    let (site, server) = (
        Site::new().await,
        NatsServer::start_own().await.expect("a nats-server"),
    );
    let gateway = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    let (admin, token) = (format!("http://{}", gateway.admin), site.file("control.token"));
    let (ops, sre) = (site.key("ops-1"), site.key("sre-1"));
    assert!(
        !cohort(&gateway, 20).await.contains(&true),
        "nothing is rolled out yet"
    );

    // 1. A proposal, and its digest.
    let proposal = site.file("p1.json");
    let text =
        r#"{"id":"p1","timestamp_us":1700000000000000,"variant_id":42,"reason":"faster","confidence":0.92}"#;
    std::fs::write(&proposal, text).expect("written");
    let digest = site.arqon(&["gov", "digest", &proposal]).await;
    assert_eq!(
        (digest.code, digest.out.len()),
        (0, "sha256:".len() + 64 + 1),
        "{digest:?}"
    );
    let to = ["--admin", &admin, "--token-file", &token];
    let proposed = site
        .arqon(&[&["gov", "propose", &proposal, "--key", &ops][..], &to].concat())
        .await;
    assert_eq!(proposed.code, 0, "{proposed:?}");
    assert!(
        proposed.out.contains("in force") && proposed.out.contains(digest.out.trim()),
        "{proposed:?}"
    );

    // 2. Nothing is approved by its name alone: the error says what is pending.
    let ramp = ["--initial", "50", "--increment", "0", "--max", "50"];
    let approve = |more: &[&str]| {
        let words = [&["gov", "approve", "p1"][..], &ramp, more, &to].concat();
        words.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = async |words: Vec<String>| {
        site.arqon(&words.iter().map(String::as_str).collect::<Vec<_>>())
            .await
    };
    let nameless = run(approve(&["--key", &ops])).await;
    assert_eq!(nameless.code, 2);
    assert!(
        nameless.errors.contains("--digest") && nameless.errors.contains(digest.out.trim()),
        "{nameless:?}"
    );
    // A stop key approves nothing.
    let wrong = run(approve(&["--key", &sre, "--proposal", &proposal])).await;
    assert_eq!(wrong.code, 1);
    assert!(wrong.out.contains("refused, role"), "{wrong:?}");
    let approved = run(approve(&["--key", &ops, "--proposal", &proposal])).await;
    assert_eq!(approved.code, 0, "{approved:?}");
    assert!(approved.out.contains("holding"), "{approved:?}");
    let half = cohort(&gateway, 100).await;
    let fast = half.iter().filter(|fast| **fast).count();
    assert!((30..=70).contains(&fast), "{fast} of 100 at 50 %");

    // 3. What is live, since when, and why.
    let status = site.arqon(&["gov", "status", "--admin", &admin]).await;
    for said in [
        "tenant default",
        "holding 50.00 % fast (42)",
        "approved by ops-1",
        "served since it began",
        "decided at",
    ] {
        assert!(status.out.contains(said), "missing: {said}\nin:\n{}", status.out);
    }

    // The console is there, runs nothing but its own script, and asks for what the status has.
    let console = gateway.get("/").await;
    assert_eq!(console.status, 200);
    let policy = console.headers["content-security-policy"].to_str().expect("text");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let mut script = String::new();
    for file in ["/console.js", "/console/rollout.js", "/console/stop.js"] {
        script += std::str::from_utf8(&gateway.get(file).await.body).expect("text");
    }
    assert!(script.contains("v1/state") && !script.contains("innerHTML"));
    let state = gateway.get("/v1/state").await.json();
    let shown = &state["rollout"]["tenants"][0];
    for key in ["cohorts", "history", "guard", "by", "since_us", "reason", "phase"] {
        assert!(
            shown["scopes"][0].get(key).is_some() && script.contains(key),
            "{key}"
        );
    }
    assert_eq!(shown["decisions"][1]["by"], serde_json::json!(["ops-1"]));

    // 4. Stop, and only a resume ends it; the stopped rollout never comes back.
    let stop = ["gov", "stop", "--reason", "it burns", "--key", &sre];
    let stopped = site.arqon(&[&stop[..], &to].concat()).await;
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert!(stopped.out.contains("stopped"), "{stopped:?}");
    assert!(!cohort(&gateway, 100).await.contains(&true));
    let status = site.arqon(&["gov", "status", "--admin", &admin]).await;
    assert!(
        status.out.contains("stopped") && status.out.contains("by sre-1: it burns"),
        "{}",
        status.out
    );
    let again = run(approve(&["--key", &ops, "--proposal", &proposal])).await;
    assert_eq!(again.code, 1, "{again:?}");
    let resumed = site
        .arqon(&[&["gov", "resume", "--key", &ops][..], &to].concat())
        .await;
    assert_eq!(resumed.code, 0, "{resumed:?}");
    assert_eq!(scope(&gateway).await["phase"], "idle");
    let again = run(approve(&["--key", &ops, "--proposal", &proposal])).await;
    assert_eq!(again.code, 1, "{again:?}");
    assert!(
        again.out.contains("tombstoned") || again.out.contains("unknown_proposal"),
        "{again:?}"
    );

    // 5. The log itself tells the same, without a gateway.
    let config = gateway.path("gateway.toml").display().to_string();
    let folded = site
        .arqon(&[
            "--json",
            "gov",
            "status",
            "--nats",
            server.url(),
            "--config",
            &config,
        ])
        .await;
    assert_eq!(folded.code, 0, "{folded:?}");
    let folded: serde_json::Value = serde_json::from_str(&folded.out).expect("JSON");
    let live = gateway.get("/v1/state").await.json();
    assert_eq!(folded["seq"], live["rollout"]["seq"]);
    assert_eq!(
        folded["tenants"][0]["counter"],
        live["rollout"]["tenants"][0]["counter"]
    );

    // 6. The trail is unbroken, its head is in NATS, and a cut end is noticed.
    let trail = gateway.path("audit.jsonl");
    let verify = [
        "--json",
        "audit",
        "verify",
        trail.to_str().expect("UTF-8"),
        "--nats",
        server.url(),
        "--node",
        "gw-1",
    ];
    let verified = eventually(async || {
        let verified = site.arqon(&verify).await;
        (verified.code == 0).then_some(verified)
    })
    .await;
    assert!(verified.out.contains("\"ok\":true"), "{verified:?}");
    let whole = std::fs::read_to_string(&trail).expect("there");
    let cut: String = whole.split_inclusive('\n').take(2).collect();
    std::fs::write(&trail, cut).expect("cut");
    // Once the newest head is exported.
    let cut = eventually(async || {
        let cut = site.arqon(&verify).await;
        (cut.code == 1).then_some(cut)
    })
    .await;
    assert!(cut.out.contains("cut off"), "{cut:?}");
}

#[tokio::test]
async fn a_stop_goes_to_all_that_are_named_and_to_the_log() {
    let (site, server) = (
        Site::new().await,
        NatsServer::start_own().await.expect("a nats-server"),
    );
    let gateway = Gateway::ready(&site.config(Some(server.url()), "gw-1", &site.catalog()), &[]).await;
    site.roll_out(&gateway, "p1", ["50", "0", "50"]).await;
    becomes(&gateway, "holding").await;
    // Only by the log, with a gateway that is not there besides.
    let (dead, key) = ("http://127.0.0.1:9", site.key("sre-1"));
    let token = site.file("control.token");
    let config = gateway.path("gateway.toml").display().to_string();
    let words = [
        "gov",
        "stop",
        "--admin",
        dead,
        "--token-file",
        &token,
        "--nats",
        server.url(),
        "--config",
        &config,
        "--key",
        &key,
    ];
    let stopped = site.arqon(&words).await;
    assert_eq!(stopped.code, 0, "{stopped:?}");
    for said in [
        "cannot be reached",
        "in force by the log, stopped",
        "accepted by 1 of 2",
    ] {
        assert!(stopped.out.contains(said), "{said}: {stopped:?}");
    }
    let scope = becomes(&gateway, "stopped").await;
    assert_eq!((&scope["percent"], &scope["baseline"]), (&0.0.into(), &1.into()));
    // Another tenant goes on.
    assert_eq!(scope_of(&gateway, "other").await["phase"], "idle");
}

#[tokio::test]
async fn what_cannot_be_used_is_named_with_its_fix_and_ends_with_2() {
    let site = Site::new().await;
    let (key, missing) = (site.key("ops-1"), site.file("none.key"));
    let proposal = site.file("p.json");
    std::fs::write(
        &proposal,
        r#"{"id":"p","id":"q","timestamp_us":1,"reason":"","confidence":1}"#,
    )
    .expect("written");
    for (words, said) in [
        (&["gov", "keygen", "--key", &key][..], "not overwritten"),
        (&["gov", "keygen", "--keyid", "a.b"], "a.b"),
        (&["gov", "digest", &proposal], "p.json"),
        (&["gov", "digest", &missing], "cannot be read"),
        (&["gov", "stop"], "--key is missing"),
        (&["gov", "stop", "--key", &missing], "keygen"),
        (&["gov", "stop", "--key", &proposal], "base64"),
        (&["gov", "stop", "--key", &key, "--expires", "5x"], "30s, 5m"),
        (
            &["gov", "stop", "--key", &key, "--admin", "https://x"],
            "http://host:port",
        ),
        (
            &["gov", "stop", "--key", &key, "--token-file", &missing],
            "--token-file",
        ),
        (
            &["gov", "enforce", "set-variant", "x", "--key", &key],
            "`x` is no variant",
        ),
        (
            &["gov", "enforce", "set-params", "alpha", "--key", &key],
            "name=value",
        ),
        (&["gov", "enforce", "reboot", "--key", &key], "reboot"),
        (
            &[
                "gov",
                "approve",
                "p",
                "--digest",
                "d",
                "--initial",
                "60",
                "--increment",
                "1",
                "--max",
                "50",
                "--key",
                &key,
            ],
            "60",
        ),
        (
            &["gov", "approve", "p", "--digest", "d", "--key", &key],
            "--initial",
        ),
        (
            &["gov", "status", "--admin", "http://127.0.0.1:9"],
            "cannot be reached",
        ),
        (&["gov", "status", "--nats", "nats://127.0.0.1:9"], "--config"),
        (&["audit", "verify", &missing], "is not a file"),
        (&["audit", "verify", &key, "--head", "x"], "<lines>"),
    ] {
        let printed = site.arqon(words).await;
        assert_eq!(printed.code, 2, "{words:?}: {printed:?}");
        assert!(
            printed.errors.contains(said),
            "{words:?}: {printed:?} lacks {said}"
        );
    }
}

#[tokio::test]
async fn two_operators_in_different_places_reach_a_threshold() {
    let site = Site::new().await;
    let config = site.config(None, "gw-1", &site.catalog());
    let ops2 = site
        .arqon(&[
            "--json",
            "gov",
            "keygen",
            "--key",
            &site.file("x.key"),
            "--keyid",
            "ops-x",
        ])
        .await;
    let ops2: serde_json::Value = serde_json::from_str(&ops2.out).expect("JSON");
    let second = format!("keys = [{{ keyid = \"ops-x\", ed25519 = {} }}, ", ops2["ed25519"]);
    let config = config
        .replacen("keys = [", &second, 1)
        .replace("node_id", "threshold = 2\nnode_id");
    let gateway = Gateway::ready(&config, &[]).await;
    let message = site.file("m.json");
    std::fs::write(
        &message,
        r#"{"type":"enforce","action":{"kind":"set_variant","value":42},"reason":"both"}"#,
    )
    .expect("written");
    let first = site
        .arqon(&["gov", "sign", &message, "--key", &site.key("ops-1")])
        .await;
    assert_eq!(first.code, 0, "{first:?}");
    let envelope = site.file("e.json");
    std::fs::write(&envelope, &first.out).expect("written");
    let (admin, token) = (format!("http://{}", gateway.admin), site.file("control.token"));
    let to = ["--admin", &admin, "--token-file", &token];
    let one = site
        .arqon(&[&["gov", "sign", &envelope, "--key", &site.key("ops-1")][..], &to].concat())
        .await;
    assert_eq!(one.code, 1, "the same key twice is one: {one:?}");
    assert!(one.out.contains("threshold"), "{one:?}");
    let key = format!("ops-x={}", site.file("x.key"));
    let both = site
        .arqon(&[&["gov", "sign", &envelope, "--key", &key][..], &to].concat())
        .await;
    assert_eq!(both.code, 0, "{both:?}");
    let scope = scope(&gateway).await;
    assert_eq!(scope["phase"], "forced");
    assert_eq!(scope["by"], serde_json::json!(["ops-1", "ops-x"]));
}
