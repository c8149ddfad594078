//! `arqon schema push|list|get|diff|rm|rollback`, as an operator calls them, with a real nats-server.

mod site;

use std::{error::Error, fs};

use async_nats::jetstream;
use serde_json::json;
use tokio::process::Command;

use self::site::Site;

type Outcome = Result<(), Box<dyn Error>>;

const ID: &str = "v1.users";

#[tokio::test]
async fn a_push_makes_the_bucket_gzips_the_set_and_writes_only_what_is_new() -> Outcome {
    let site = Site::new().await?;
    site.write("v1.users.proto", "string id = 1;")?;
    let dry = site.run(&["push", "v1.users.proto", "--dry-run"]).await?;
    assert_eq!(
        (dry.code, dry.out.as_str()),
        (Some(0), "v1.users: would be the first\n"),
        "{dry:?}"
    );
    assert!(site.store().await.is_err(), "a dry run writes nothing");

    let first = site.run(&["push", "v1.users.proto"]).await?;
    assert_eq!(
        (first.code, first.out.as_str()),
        (Some(0), "v1.users: revision 1, the first\n"),
        "{first:?}"
    );
    let store = site.store().await?;
    assert_eq!(store.status().await?.history(), 16);
    let value = store.get(ID).await?.ok_or("there")?;
    assert!(value.starts_with(&[0x1f, 0x8b]), "gzipped");
    let loaded = arqon_schema::Descriptors::decode(&value)?;
    assert_eq!(loaded.root()?, "u.User");

    let again = site.run(&["push", "v1.users.proto"]).await?;
    assert!(
        again.code == Some(0) && again.out.contains("unchanged, revision 1"),
        "{again:?}"
    );
    // A descriptor set under another name says the same, plain as it is.
    let mut set = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&value[..]), &mut set)?;
    fs::write(site.path().join("set.binpb"), &set)?;
    let again = site.run(&["push", "set.binpb", "--id", ID, "--json"]).await?;
    assert_eq!(
        (again.code, &again.json()["schemas"][0]["outcome"]),
        (Some(0), &json!("unchanged"))
    );

    site.write("v1.users.proto", "string id = 1; int32 age = 2;")?;
    let wider = site.run(&["push", "v1.users.proto", "--json"]).await?;
    assert_eq!(wider.code, Some(0));
    assert_eq!(
        wider.json(),
        json!({
            "bucket": site.bucket, "compatibility": { "mode": "BACKWARD", "profile": "wire_json" },
            "schemas": [{ "id": ID, "outcome": "pushed", "revision": 2, "after": 1, "breaks": [], "reason": null }],
        })
    );
    // A tenant's own stands beside it.
    let own = site.run(&["push", "v1.users.proto", "--tenant", "acme"]).await?;
    assert!(own.out.starts_with("t.acme.v1.users: revision 3"), "{own:?}");
    // Of what is there already it can be said, once, that its break is meant.
    for expected in [
        "v1.users: revision 4 after 2 (NONE, wire_json)\n",
        "v1.users: unchanged, revision 4 says the same\n",
    ] {
        let marked = site.run(&["push", "v1.users.proto", "--compat", "NONE"]).await?;
        assert_eq!((marked.code, marked.out.as_str()), (Some(0), expected));
    }
    Ok(())
}

#[tokio::test]
async fn a_push_that_breaks_is_refused_by_the_rules_names_in_each_mode() -> Outcome {
    let site = Site::new().await?;
    site.write("v1.users.proto", "string id = 1; int32 age = 2;")?;
    assert_eq!(site.run(&["push", "v1.users.proto"]).await?.code, Some(0));
    site.write("v1.users.proto", "string id = 1;")?;
    let refused = site.run(&["push", "v1.users.proto"]).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for part in [
        "refused, not compatible",
        "BACKWARD, wire_json",
        "u.User",
        "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
    ] {
        assert!(refused.out.contains(part), "{part}: {refused:?}");
    }
    let refused = site.run(&["push", "v1.users.proto", "--json"]).await?;
    let schema = refused.json()["schemas"][0].clone();
    assert_eq!(
        (refused.code, &schema["outcome"], &schema["after"]),
        (Some(1), &json!("refused"), &json!(1))
    );
    let rules: Vec<_> = schema["breaks"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|of| of["rule"].clone())
        .collect();
    assert!(
        rules.contains(&json!("FIELD_NO_DELETE_UNLESS_NAME_RESERVED")),
        "{schema}"
    );
    // By the wire alone the name is no matter; forwards, a field less is none either.
    let wire = site.run(&["push", "v1.users.proto", "--profile", "wire"]).await?;
    assert!(
        wire.code == Some(1) && !wire.out.contains("NAME_RESERVED"),
        "{wire:?}"
    );
    let forward = site
        .run(&["push", "v1.users.proto", "--compat", "forward", "--dry-run"])
        .await?;
    assert_eq!(forward.code, Some(0), "{forward:?}");
    assert_eq!(
        site.store().await?.status().await?.values(),
        1,
        "nothing was written"
    );
    // Meant: written, and marked for the gateways.
    let meant = site.run(&["push", "v1.users.proto", "--compat", "NONE"]).await?;
    assert_eq!(
        (meant.code, meant.out.as_str()),
        (Some(0), "v1.users: revision 2 after 1 (NONE, wire_json)\n")
    );
    let stream = jetstream::new(site.server.client().await?)
        .get_stream(format!("KV_{}", site.bucket))
        .await?;
    let marked = stream.get_raw_message(2).await?;
    assert_eq!(
        marked.headers.get("Arqon-Compatibility").map(|of| of.as_str()),
        Some("NONE")
    );

    // Two revisions back: only a transitive mode looks there.
    site.write("v1.users.proto", "string id = 1; string age = 2;")?;
    assert_eq!(
        site.run(&["push", "v1.users.proto", "--dry-run"]).await?.code,
        Some(0)
    );
    let transitive = [
        "push",
        "v1.users.proto",
        "--dry-run",
        "--compat",
        "BACKWARD_TRANSITIVE",
    ];
    let transitive = site.run(&transitive).await?;
    assert!(
        transitive.code == Some(1) && transitive.out.contains("u.User.age"),
        "{transitive:?}"
    );

    // What cannot be loaded cannot be compared with.
    site.store().await?.put(ID, "garbage".into()).await?;
    let unknown = site.run(&["push", "v1.users.proto"]).await?;
    assert!(
        unknown.code == Some(1) && unknown.out.contains("push with --compat NONE"),
        "{unknown:?}"
    );
    // After a deletion a contract begins anew.
    assert_eq!(site.run(&["rm", ID]).await?.code, Some(0));
    assert_eq!(site.run(&["push", "v1.users.proto"]).await?.code, Some(0));
    Ok(())
}

#[tokio::test]
async fn of_two_pushers_one_wins_and_the_other_is_told() -> Outcome {
    let site = Site::new().await?;
    site.write("v1.users.proto", "string id = 1;")?;
    assert_eq!(site.run(&["push", "v1.users.proto"]).await?.code, Some(0));
    let (mut conflicts, mut rounds) = (0, 0);
    let mut fields = "string id = 1;".to_owned();
    while conflicts == 0 {
        rounds += 1;
        assert!(rounds < 60, "two pushers at a time never met");
        for (name, field) in [("a", rounds * 2), ("b", rounds * 2 + 1)] {
            site.write(name, &format!("{fields} int32 {name}{rounds} = {field};"))?;
            fs::rename(site.path().join(name), site.path().join(format!("{name}.proto")))?;
        }
        let before = site.store().await?.entry(ID).await?.ok_or("there")?.revision;
        let (a, b) = (
            ["push", "a.proto", "--id", ID, "--json"],
            ["push", "b.proto", "--id", ID, "--json"],
        );
        let (a, b) = tokio::join!(site.run(&a), site.run(&b));
        let (a, b) = (a?, b?);
        let newest = site.store().await?.entry(ID).await?.ok_or("there")?;
        match (a.code, b.code) {
            // One after the other: the second was checked against the first, and does not have its field.
            (Some(0), Some(0)) => panic!("both won, although each lacks the other's field: {a:?} {b:?}"),
            (Some(0), Some(1)) | (Some(1), Some(0)) => {
                assert_eq!(newest.revision, before + 1, "exactly one was written");
                let (winner, field) = if a.code == Some(0) {
                    (&a, rounds * 2)
                } else {
                    (&b, rounds * 2 + 1)
                };
                let name = if a.code == Some(0) { "a" } else { "b" };
                assert_eq!(winner.json()["schemas"][0]["revision"], newest.revision);
                let loser = if a.code == Some(0) { &b } else { &a };
                let reason = loser.json()["schemas"][0]["reason"].to_string();
                if reason.contains("somebody else has pushed") {
                    conflicts += 1;
                } else {
                    assert!(reason.contains("not compatible"), "{loser:?}");
                }
                fields = format!("{fields} int32 {name}{rounds} = {field};");
            }
            other => panic!("{other:?}: {a:?} {b:?}"),
        }
    }
    println!("two pushers met in round {rounds}");
    Ok(())
}

#[tokio::test]
async fn a_folder_is_pushed_file_by_file_with_progress_or_as_one_schema() -> Outcome {
    let site = Site::new().await?;
    let folder = site.path().join("schemas");
    fs::create_dir_all(folder.join("common"))?;
    fs::write(
        folder.join("common/id.proto"),
        "syntax = \"proto3\"; package c; message Id { string v = 1; }",
    )?;
    let order = "syntax = \"proto3\"; package o; import \"common/id.proto\"; message Order { c.Id id = 1; }";
    fs::write(folder.join("v1.orders.proto"), order)?;
    fs::write(folder.join("v1.broken.proto"), "no schema")?;
    fs::write(folder.join("t.acme.v1.orders.proto"), order)?;
    fs::write(folder.join("README.md"), "not a schema")?;
    let pushed = site.run(&["push", "schemas"]).await?;
    assert_eq!(pushed.code, Some(1), "one is refused: {pushed:?}");
    let lines: Vec<_> = pushed.out.lines().collect();
    assert_eq!(lines[0], "[1/3] t.acme.v1.orders: revision 1, the first");
    assert!(
        lines[1].starts_with("[2/3] v1.broken: refused: v1.broken.proto: "),
        "{pushed:?}"
    );
    assert_eq!(lines[2], "[3/3] v1.orders: revision 2, the first");
    let told = site.run(&["push", "schemas", "--json"]).await?;
    let outcomes: Vec<_> = told.json()["schemas"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|of| of["outcome"].clone())
        .collect();
    assert_eq!(
        (told.code, outcomes),
        (
            Some(1),
            vec![json!("unchanged"), json!("refused"), json!("unchanged")]
        )
    );

    for other in ["v1.broken.proto", "t.acme.v1.orders.proto"] {
        fs::remove_file(folder.join(other))?;
    }
    let one = site.run(&["push", "schemas", "--id", "v1.all"]).await?;
    assert_eq!(one.code, Some(0), "{one:?}");
    let shown = site.run(&["get", "v1.all", "--json"]).await?.json();
    assert_eq!(shown["messages"], json!(["c.Id", "o.Order"]));
    Ok(())
}

#[tokio::test]
async fn list_get_diff_rollback_and_rm_say_what_is_there() -> Outcome {
    let site = Site::new().await?;
    site.write("v1.users.proto", "string id = 1;")?;
    site.run(&["push", "v1.users.proto"]).await?;
    site.write("v1.users.proto", "string id = 1; int32 age = 2;")?;
    site.run(&["push", "v1.users.proto"]).await?;
    site.store().await?.put("v1.bad", "garbage".into()).await?;

    let listed = site.run(&["list"]).await?;
    assert!(
        listed.code == Some(0) && listed.out.starts_with("REVISION"),
        "{listed:?}"
    );
    let lines: Vec<_> = listed.out.lines().skip(1).collect();
    assert!(
        lines[0].contains("v1.bad  cannot be loaded: ") && lines[1].ends_with("v1.users"),
        "{listed:?}"
    );
    let listed = site.run(&["list", "--json"]).await?.json();
    assert_eq!(
        (&listed["schemas"][1]["id"], &listed["schemas"][1]["revision"]),
        (&json!(ID), &json!(2))
    );

    let shown = site.run(&["get", ID]).await?;
    for part in [
        "v1.users revision 2, written 20",
        "field u.User.age = 2 optional int32",
        "kept: 1, 2",
    ] {
        assert!(shown.out.contains(part), "{part}: {shown:?}");
    }
    let old = site
        .run(&["get", ID, "--revision", "1", "--json", "--output", "old.binpb.gz"])
        .await?;
    assert_eq!(
        (
            &old.json()["revision"],
            old.json()["history"].as_array().map(Vec::len)
        ),
        (&json!(1), Some(2))
    );
    let written = arqon_schema::Descriptors::load(site.path().join("old.binpb.gz"))?;
    assert!(!written.outline().iter().any(|line| line.contains("User.age")));
    let absent = site.run(&["get", ID, "--revision", "9"]).await?;
    assert!(
        absent.code == Some(1) && absent.out.contains("kept are 1, 2"),
        "{absent:?}"
    );

    let diff = site.run(&["diff", ID]).await?;
    assert_eq!(diff.code, Some(0), "an addition breaks nothing: {diff:?}");
    assert!(
        diff.out.contains("revision 1 to 2") && diff.out.contains("+ field u.User.age = 2"),
        "{diff:?}"
    );
    let back = site
        .run(&["diff", ID, "--from", "2", "--to", "1", "--json"])
        .await?;
    let told = back.json();
    assert_eq!(
        (back.code, &told["removed"]),
        (Some(1), &json!(["field u.User.age = 2 optional int32"]))
    );
    assert!(
        told["breaks"]["backward"][0]["rule"]
            .to_string()
            .contains("FIELD_NO_DELETE"),
        "{told}"
    );
    site.write("next.proto", "string id = 1; string age = 2;")?;
    let next = site.run(&["diff", ID, "--file", "next.proto"]).await?;
    assert!(
        next.code == Some(1) && next.out.contains("revision 2 to next.proto"),
        "{next:?}"
    );
    assert!(next.out.contains("breaks BACKWARD: u.User.age"), "{next:?}");

    let rolled = site.run(&["rollback", ID]).await?;
    assert_eq!(rolled.code, Some(0), "{rolled:?}");
    assert!(
        rolled.out.contains("has the content of revision 1") && rolled.out.contains("breaks, as meant"),
        "{rolled:?}"
    );
    let store = site.store().await?;
    let entry = store.entry(ID).await?.ok_or("there")?;
    assert_eq!(
        Some(entry.value),
        store.entry_for_revision(ID, 1).await?.map(|of| of.value)
    );
    let forth = site.run(&["rollback", ID, "--to", "2", "--json"]).await?.json();
    assert_eq!(
        (&forth["outcome"], &forth["content_of"]),
        (&json!("rolled_back"), &json!(2))
    );
    let same = site.run(&["rollback", ID, "--to", "2"]).await?;
    assert!(
        same.code == Some(1) && same.out.contains("in place already"),
        "{same:?}"
    );

    let gone = site.run(&["rm", ID, "--json"]).await?;
    assert_eq!((gone.code, &gone.json()["outcome"]), (Some(0), &json!("deleted")));
    assert!(store.get(ID).await?.is_none());
    let twice = site.run(&["rm", ID]).await?;
    assert!(
        twice.code == Some(1) && twice.out.contains("is not in the bucket"),
        "{twice:?}"
    );
    assert!(!site.run(&["list"]).await?.out.contains(ID));
    assert_eq!(
        site.run(&["rollback", ID]).await?.code,
        Some(0),
        "a deleted one comes back"
    );
    assert!(store.get(ID).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_lost_bucket_is_pushed_anew_above_what_gateways_have() -> Outcome {
    let site = Site::new().await?;
    site.write("v1.users.proto", "string id = 1;")?;
    let pushed = site
        .run(&["push", "v1.users.proto", "--first-revision", "1000"])
        .await?;
    assert_eq!(
        (pushed.code, pushed.out.as_str()),
        (Some(0), "v1.users: revision 1000, the first\n"),
        "{pushed:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_used_is_said_and_ends_with_2() -> Outcome {
    let site = Site::new().await?;
    site.write("users", "string id = 1;")?;
    site.write("v1.users.proto", "string id = 1;")?;
    fs::create_dir(site.path().join("empty"))?;
    for (arguments, part) in [
        (&["push", "gone.proto"][..], "gone.proto is not there"),
        (&["push", "users"], "does not say which schema it is: give --id"),
        (&["push", "empty"], "has no schemas"),
        (&["push", "v1.users.proto", "--id", "a b"], "is no schema id"),
        (&["push", "v1.users.proto", "--id", "t.x"], "is no schema id"),
        (&["push", "v1.users.proto", "--tenant", "a.b"], "tenant"),
        (
            &["push", "v1.users.proto", "--compat", "SOME"],
            "NONE, BACKWARD, FORWARD or FULL",
        ),
        (&["push", "v1.users.proto", "--profile", "json"], "wire_json"),
        (&["get", ID], "has no bucket"),
        (&["list"], "has no bucket"),
    ] {
        let ended = site.run(arguments).await?;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.errors.contains(part), "{arguments:?}: {ended:?}");
    }
    let away = Command::new(env!("CARGO_BIN_EXE_arqon"))
        .args(["schema", "list", "--nats", "nats://127.0.0.1:1"])
        .output()
        .await?;
    assert_eq!(away.status.code(), Some(2));
    assert!(String::from_utf8(away.stderr)?.contains("does not answer"));
    Ok(())
}
