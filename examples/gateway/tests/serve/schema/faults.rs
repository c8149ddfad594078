//! The faults of the store (F1, F2, F4, F6, F32, F33 of the reliability notes) with a real nats-server.

use arqon_test_support::NatsServer;
use async_nats::jetstream;
use tokio::time::timeout;

use super::site::{
    BAD, Events, GOOD, ID, QUICK, SEVEN, answers, bucket, bucket_name, check, config, counts, narrow,
    registry, said, source, wider,
};
use crate::process::{Gateway, PATIENCE, Proxy, eventually};

const COPY: &str = "last_known_good = \"schemas.lkg\"";

/// Waits until the copy on disk is of that revision.
async fn copied(gateway: &Gateway, server: &NatsServer, revision: u64) {
    let store = bucket_name(server);
    eventually(async || {
        let (path, store) = (gateway.path("schemas.lkg"), store.clone());
        let (registry, writer) =
            arqon::schema::channel(arqon::schema::RegistryConfig::default()).expect("valid");
        let _ = arqon::schema::Copies::new(path, store).restore(&writer).ok()?;
        registry
            .schemas()
            .iter()
            .any(|of| of.revision == revision)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn f1_a_gateway_that_starts_without_nats_enforces_its_copy_says_so_and_goes_on_once_nats_is_there() {
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let mut gateway = Gateway::ready(&config(&server, server.url(), COPY), &[]).await;
    let bucket = bucket(&server).await;
    let revision = bucket.put(ID, narrow().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 400).await;
    copied(&gateway, &server, revision).await;
    gateway.kill();
    server.kill().await.expect("killed");

    gateway.start_again();
    gateway.becomes_ready(false).await;
    let schemas = check(&gateway, "schemas").await;
    assert_eq!(schemas["ok"], true, "the copy is enough to decide by: {schemas}");
    let note = schemas["note"].as_str().expect("a note");
    assert!(
        note.contains("last known good copy") && note.contains("not been read yet"),
        "{note}"
    );
    assert_eq!(registry(&gateway, |_| true).await["origin"], "copy");
    // The contract is judged first; what passes it finds no NATS.
    assert_eq!(
        said(&gateway, &server, SEVEN).await,
        (400, "schema.violation".to_owned())
    );
    assert_eq!(
        said(&gateway, &server, BAD).await,
        (400, "schema.violation".to_owned())
    );
    assert_eq!(
        said(&gateway, &server, GOOD).await,
        (503, "publish.unavailable".to_owned())
    );

    server.start_again().await.expect("started");
    gateway.becomes_ready(true).await;
    registry(&gateway, |registry| registry["origin"] == "store").await;
    bucket.put(ID, wider().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 202).await;
}

#[tokio::test]
async fn f1_without_a_copy_or_with_a_damaged_one_it_is_not_ready_and_refuses_what_is_mapped() {
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let config = config(&server, server.url(), COPY);
    server.stop().await.expect("stopped");
    let mut gateway = Gateway::start(&config, &[]);
    for damaged in [false, true] {
        gateway.becomes_ready(false).await;
        let schemas = check(&gateway, "schemas").await;
        let reason = schemas["reason"].as_str().expect("a reason");
        assert!(reason.contains("not been read yet"), "{schemas}");
        assert_eq!(
            said(&gateway, &server, GOOD).await,
            (503, "schema.unavailable".to_owned())
        );
        if damaged {
            counts(&gateway, "shield_schema_alarms_total{alarm=\"copies\"}", 1.0).await;
        }
        gateway.kill();
        std::fs::write(gateway.path("schemas.lkg"), b"\xff damaged").expect("written");
        gateway.start_again();
    }
}

#[tokio::test]
async fn f2_nats_that_dies_under_load_stops_no_contract_and_each_answer_comes_in_time() {
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let gateway = Gateway::ready(&config(&server, server.url(), ""), &[]).await;
    let bucket = bucket(&server).await;
    bucket.put(ID, narrow().into()).await.expect("put");
    answers(&gateway, &server, GOOD, 202).await;
    let subject = format!("{}.users", server.unique());
    let load = async |count: usize| {
        let all = (0..count).map(|at| {
            let payload = if at % 2 == 0 { GOOD } else { BAD };
            let publishing = gateway.publish(&subject, &[], payload);
            async move {
                let answer = timeout(PATIENCE, publishing).await.expect("in time");
                (at % 2 == 0, answer.status.as_u16(), answer.code())
            }
        });
        futures_util::future::join_all(all).await
    };
    let (under_way, ()) = tokio::join!(load(400), async { server.kill().await.expect("killed") });
    let later = load(100).await;
    for (good, status, code) in under_way.into_iter().chain(later) {
        match good {
            true => assert!(status == 202 || code == "publish.unavailable", "{status} {code}"),
            false => assert_eq!((status, code.as_str()), (400, "schema.violation")),
        }
    }
    gateway.becomes_ready(false).await;
    server.start_again().await.expect("started");
    gateway.becomes_ready(true).await;
    bucket.put(ID, wider().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 202).await;
}

#[tokio::test]
async fn f4_a_stalled_store_makes_contracts_stale_as_configured_and_they_are_fresh_once_it_goes_on() {
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let rejecting = Gateway::ready(&config(&server, server.url(), QUICK), &[]).await;
    let serving = format!("{QUICK}\non_stale = \"serve\"");
    let serving = Gateway::ready(&config(&server, server.url(), &serving), &[]).await;
    let bucket = bucket(&server).await;
    bucket.put(ID, narrow().into()).await.expect("put");
    for gateway in [&rejecting, &serving] {
        answers(gateway, &server, SEVEN, 400).await;
    }
    server.pause().await.expect("paused");
    eventually(async || (said(&rejecting, &server, BAD).await.1 == "schema.unavailable").then_some(())).await;
    assert_eq!(
        said(&serving, &server, BAD).await.1,
        "schema.violation",
        "as configured"
    );
    let schemas = check(&rejecting, "schemas").await;
    assert!(
        schemas["reason"].to_string().contains("not been heard of for"),
        "{schemas}"
    );
    counts(&rejecting, "shield_schema_registry_age_seconds", 3.0).await;
    counts(&serving, "shield_schema_relaxed{what=\"on_stale\"}", 1.0).await;

    server.resume().await.expect("resumed");
    for gateway in [&rejecting, &serving] {
        answers(gateway, &server, SEVEN, 400).await;
    }
    bucket.put(ID, wider().into()).await.expect("put");
    for gateway in [&rejecting, &serving] {
        answers(gateway, &server, SEVEN, 202).await;
    }
}

#[tokio::test]
async fn f6_a_bucket_that_comes_back_empty_unloads_nothing_and_what_is_pushed_into_it_counts_on() {
    let server = NatsServer::start_own().await.expect("a nats-server");
    let proxy = Proxy::to(server.url()).await;
    let gateway = Gateway::ready(&config(&server, &proxy.url(), ""), &[]).await;
    let mut events = Events::of(&gateway).await;
    let lost = bucket(&server).await;
    for _ in 0..5 {
        lost.put("v1.unused", narrow().into()).await.expect("put");
    }
    let revision = lost.put(ID, narrow().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 400).await;

    // A restart with a lost store, as the gateway sees it.
    proxy.cut();
    let client = server.client().await.expect("connected");
    let jetstream = jetstream::new(client);
    jetstream
        .delete_key_value(bucket_name(&server))
        .await
        .expect("deleted");
    proxy.heal();
    let ill = events
        .until(|event| event["event"] == "health" && event["service"] == "registry")
        .await;
    assert_eq!(ill["ok"], false);
    let state = registry(&gateway, |registry| {
        registry["lost"].as_array().is_some_and(|lost| lost.len() == 2)
    })
    .await;
    assert_eq!(state["schemas"][0]["revision"], revision, "{state}");
    assert_eq!(
        said(&gateway, &server, SEVEN).await.1,
        "schema.violation",
        "it is still in force"
    );
    counts(
        &gateway,
        "shield_schema_alarms_total{alarm=\"registry_emptied\"}",
        1.0,
    )
    .await;

    // The gateway made it anew, so that what is written into it is newer than what was lost.
    let again = bucket(&server).await;
    let newer = again.put(ID, wider().into()).await.expect("put");
    assert!(newer > revision, "{newer} after {revision}");
    answers(&gateway, &server, SEVEN, 202).await;
    again.put("v1.unused", narrow().into()).await.expect("put");
    let mended = events
        .until(|event| event["event"] == "health" && event["service"] == "registry")
        .await;
    assert_eq!(mended["ok"], true);
}

#[tokio::test]
async fn f6_a_bucket_that_comes_back_with_lower_revisions_replaces_nothing_and_raises_an_alarm() {
    for adopt in [false, true] {
        let server = NatsServer::start_own().await.expect("a nats-server");
        let proxy = Proxy::to(server.url()).await;
        let more = if adopt { "on_regression = \"adopt\"" } else { "" };
        let gateway = Gateway::ready(&config(&server, &proxy.url(), more), &[]).await;
        let lost = bucket(&server).await;
        lost.put(ID, narrow().into()).await.expect("put");
        let revision = lost.put(ID, wider().into()).await.expect("put");
        answers(&gateway, &server, SEVEN, 202).await;

        proxy.cut();
        let jetstream = jetstream::new(server.client().await.expect("connected"));
        jetstream
            .delete_key_value(bucket_name(&server))
            .await
            .expect("deleted");
        let again = jetstream::kv::Config {
            bucket: bucket_name(&server),
            history: 16,
            ..jetstream::kv::Config::default()
        };
        let again = jetstream.create_key_value(again).await.expect("made");
        // An old backup: below what is in force, and another contract (one that may follow it).
        let other = source("int32 n = 7; string later = 9;");
        assert!(again.put(ID, other.into()).await.expect("put") < revision);
        proxy.heal();
        let later = b"\x0a\x02u1\x4a\x01x";
        if adopt {
            answers(&gateway, &server, later, 202).await;
            continue;
        }
        let state = registry(&gateway, |registry| registry["refused"][0]["revision"] == 1).await;
        assert_eq!(state["schemas"][0]["revision"], revision, "{state}");
        assert_eq!(
            (
                said(&gateway, &server, SEVEN).await.0,
                said(&gateway, &server, later).await.0
            ),
            (202, 400)
        );
        counts(
            &gateway,
            "shield_schema_alarms_total{alarm=\"registry_regressed\"}",
            1.0,
        )
        .await;
        // What passes the revision in force is taken again.
        for _ in 0..2 {
            again
                .put(ID, source("int32 n = 7; string later = 9;").into())
                .await
                .expect("put");
        }
        answers(&gateway, &server, later, 202).await;
    }
}

/// Damaged sets: what a disk, a network or a hand makes of a good one.
fn damaged() -> Vec<Vec<u8>> {
    use std::io::Write;

    let good = wider();
    let flipped = (0..8).map(|at| {
        let mut bytes = good.clone();
        let place = 11 + at * (bytes.len() - 12) / 8;
        bytes[place] ^= 1 << at;
        bytes
    });
    let cut = [1, 2, 3, 5].map(|part| good[..good.len() * part / 6].to_vec());
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).expect("compressed");
        encoder.finish().expect("compressed")
    };
    let trailing = [good.clone(), b"more".to_vec()].concat();
    let two = [good.clone(), good.clone()].concat();
    let bomb = gzip(&vec![0; 16 << 20]);
    // A file `a.proto` that imports `b.proto`, which is not there.
    let orphan = gzip(b"\x0a\x12\x0a\x07a.proto\x1a\x07b.proto");
    let others = [
        trailing,
        two,
        bomb,
        orphan,
        gzip(b"garbage"),
        Vec::new(),
        b"{}".to_vec(),
        gzip(b""),
    ];
    flipped.chain(cut).chain(others).collect()
}

#[tokio::test]
async fn f32_a_corrupt_set_is_refused_counted_and_told_and_the_last_good_one_stays() {
    let server = NatsServer::start().await.expect("a nats-server");
    let gateway = Gateway::ready(&config(&server, server.url(), ""), &[]).await;
    let bucket = bucket(&server).await;
    let good = bucket.put(ID, narrow().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 400).await;
    let sets = damaged();
    assert_eq!(sets.len(), 20);
    for (at, set) in sets.into_iter().enumerate() {
        let revision = bucket.put(ID, set.into()).await.expect("put");
        let state = registry(&gateway, |registry| {
            registry["refused"][0]["revision"] == revision
        })
        .await;
        assert_eq!(state["schemas"][0]["revision"], good, "set {at}: {state}");
        assert_eq!(said(&gateway, &server, GOOD).await.0, 202, "set {at}");
        assert_eq!(said(&gateway, &server, SEVEN).await.0, 400, "set {at}");
    }
    counts(&gateway, "shield_schema_load_errors_total", 20.0).await;
    bucket.put(ID, wider().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 202).await;
    let state = registry(&gateway, |_| true).await;
    assert_eq!(state["refused"], serde_json::json!([]), "{state}");
}

#[tokio::test]
async fn f33_an_incompatible_revision_is_refused_or_taken_with_an_alarm_as_configured() {
    // From, to, and a payload that only the second takes.
    let pairs: [(&str, &str, &'static [u8]); 3] = [
        ("int32 n = 7;", "string n = 7;", b"\x0a\x02u1\x3a\x01x"),
        ("int32 n = 7;", "repeated string n = 7;", b"\x0a\x02u1\x3a\x01x"),
        ("int32 n = 7;", "bytes other = 8;", b"\x0a\x02u1\x42\x01x"),
    ];
    for accept in [false, true] {
        let server = NatsServer::start().await.expect("a nats-server");
        let more = if accept {
            "on_incompatible = \"accept\""
        } else {
            ""
        };
        let gateway = Gateway::ready(&config(&server, server.url(), more), &[]).await;
        let bucket = bucket(&server).await;
        for (at, (from, to, payload)) in pairs.into_iter().enumerate() {
            bucket.delete(ID).await.expect("deleted");
            answers(&gateway, &server, GOOD, 503).await;
            bucket.put(ID, source(from).into()).await.expect("put");
            answers(&gateway, &server, SEVEN, 202).await;
            let revision = bucket.put(ID, source(to).into()).await.expect("put");
            if accept {
                answers(&gateway, &server, payload, 202).await;
                let alarm = "shield_schema_alarms_total{alarm=\"contract_broken\"}";
                counts(&gateway, alarm, at as f64 + 1.0).await;
            } else {
                let state = registry(&gateway, |registry| {
                    registry["refused"][0]["revision"] == revision
                })
                .await;
                assert!(
                    state["refused"][0]["reason"].to_string().contains("FIELD_"),
                    "{state}"
                );
                assert_eq!(
                    said(&gateway, &server, SEVEN).await.0,
                    202,
                    "the last good one stays"
                );
                assert_eq!(said(&gateway, &server, payload).await.0, 400);
            }
        }
    }
}

#[tokio::test]
async fn a_burst_of_a_hundred_puts_ends_with_the_newest_of_each() {
    let server = NatsServer::start().await.expect("a nats-server");
    let gateway = Gateway::ready(&config(&server, server.url(), ""), &[]).await;
    let bucket = bucket(&server).await;
    let mut newest = 0;
    for round in 0..100 {
        let fields: String = (0..=round % 50)
            .map(|at| format!("int32 f{at} = {}; ", at + 7))
            .collect();
        // Rounds 50 to 99 begin again: refused until they have caught up.
        newest = bucket.put(ID, source(&fields).into()).await.expect("put");
    }
    let state = registry(&gateway, |registry| registry["schemas"][0]["revision"] == newest).await;
    assert_eq!(state["refused"], serde_json::json!([]), "{state}");
}
