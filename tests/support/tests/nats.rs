//! The promises of the crate, on real servers.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use arqon_test_support::{NatsError, NatsServer, Places, Source};
use async_nats::{Client, jetstream};

/// A store, an acknowledged publish and a read: what the live tests of the workspace build on.
async fn put_and_publish(client: Client, name: &str) {
    let context = jetstream::new(client);
    let config = jetstream::kv::Config {
        bucket: format!("KV_{name}"),
        history: 16,
        ..Default::default()
    };
    let bucket = context.create_key_value(config).await.unwrap();
    bucket
        .put("v1.events.user_created", "descriptor".into())
        .await
        .unwrap();
    assert_eq!(
        bucket.get("v1.events.user_created").await.unwrap().unwrap(),
        "descriptor"
    );

    let subjects = vec![format!("in.t.{name}.>")];
    let config = jetstream::stream::Config {
        name: format!("S_{name}"),
        subjects,
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let sent = context
        .publish(format!("in.t.{name}.users"), "hello".into())
        .await
        .unwrap();
    let ack = sent.await.unwrap();
    assert_eq!((ack.sequence, ack.duplicate), (1, false));
}

#[tokio::test]
async fn nats_source_is_real() {
    let server = NatsServer::start().await.unwrap();
    put_and_publish(server.client().await.unwrap(), server.unique()).await;
}

#[tokio::test]
async fn two_servers_share_nothing() {
    let (one, two) = tokio::join!(NatsServer::start_own(), NatsServer::start_own());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.url(), two.url());
    assert_ne!(one.unique(), two.unique());
    put_and_publish(one.client().await.unwrap(), "same").await;
    put_and_publish(two.client().await.unwrap(), "same").await;
}

/// Stopping, killing, starting again and pausing, on whatever source the places have.
async fn outages(mut server: NatsServer) {
    put_and_publish(server.client().await.unwrap(), "kept").await;
    let url = server.url().to_owned();

    server.stop().await.unwrap();
    assert!(matches!(server.client().await, Err(NatsError::NotReady { .. })));
    server.start_again().await.unwrap();
    assert_eq!(server.url(), url);
    let context = jetstream::new(server.client().await.unwrap());
    let bucket = context.get_key_value("KV_kept").await.unwrap();
    assert!(
        bucket.get("v1.events.user_created").await.unwrap().is_some(),
        "the store outlives a restart"
    );

    server.kill().await.unwrap();
    assert!(server.client().await.is_err());
    server.start_again().await.unwrap();
    let context = jetstream::new(server.client().await.unwrap());
    context.query_account().await.unwrap();

    server.pause().await.unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(300), context.query_account()).await;
    assert!(answer.is_err(), "a paused server answers nothing");
    server.resume().await.unwrap();
    context.query_account().await.unwrap();
}

#[tokio::test]
async fn a_server_can_be_stopped_killed_and_paused() {
    outages(NatsServer::start_own().await.unwrap()).await;
}

#[tokio::test]
async fn a_binary_can_be_stopped_killed_and_paused() {
    let places = Places::from_env().without_url().without_engines();
    let server = NatsServer::start_from(&places).await.unwrap();
    assert!(matches!(server.source(), Source::Binary { .. }));
    outages(server).await;
}

#[tokio::test]
async fn a_server_that_runs_already_is_used_and_is_not_ours_to_stop() {
    let running = NatsServer::start_own().await.unwrap();
    let places = Places {
        url: Some(running.url().to_owned()),
        ..Places::default()
    };
    let mut server = NatsServer::start_from(&places).await.unwrap();
    assert!(matches!(server.source(), Source::Url { .. }));
    put_and_publish(server.client().await.unwrap(), server.unique()).await;
    assert!(matches!(
        server.stop().await,
        Err(NatsError::NotOurs { action: "stop" })
    ));
    drop(server);
    running.client().await.unwrap();
}

/// A program that answers `--version` and nothing else.
fn program(folder: &Path, says: &str) -> PathBuf {
    let path = folder.join("nats-server");
    fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn an_old_server_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let server = Some(program(folder.path(), "nats-server: v2.9.10"));
    let error = NatsServer::start_from(&Places {
        server,
        ..Places::default()
    })
    .await
    .unwrap_err();
    assert!(matches!(error, NatsError::TooOld { .. }));
    let said = error.to_string();
    assert!(said.contains("nats-server 2.9.10 from"), "{said}");
    assert!(said.contains("older than 2.10.0"), "{said}");
    assert!(said.contains("./tests/run.sh tools"), "{said}");
}

#[tokio::test]
async fn a_program_that_is_no_server_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (server, why) in [
        (program(folder.path(), "hello"), "not a version"),
        (folder.path().join("missing"), "No such file"),
    ] {
        let places = Places {
            server: Some(server.clone()),
            ..Places::default()
        };
        let said = NatsServer::start_from(&places).await.unwrap_err().to_string();
        assert!(
            said.contains(&server.display().to_string()) && said.contains(why),
            "{said}"
        );
    }
    let server = program(folder.path(), "nats-server: v2.15.1");
    let places = Places {
        server: Some(server),
        ..Places::default()
    };
    let said = NatsServer::start_from(&places).await.unwrap_err().to_string();
    assert!(said.contains("it ended"), "{said}");
}

#[tokio::test]
async fn nothing_found_names_every_place_and_the_command_that_mends_it() {
    let said = NatsServer::start_from(&Places::default())
        .await
        .unwrap_err()
        .to_string();
    for part in [
        "TEST_NATS_URL is not set",
        "no Docker engine answers",
        "no nats-server in TEST_NATS_SERVER, target/tools or PATH",
        "mend it with: ./tests/run.sh tools",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
}

#[tokio::test]
async fn a_url_that_does_not_answer_is_refused_without_showing_its_password() {
    let url = Some("nats://user:secret@127.0.0.1:9".to_owned());
    let said = NatsServer::start_from(&Places {
        url,
        ..Places::default()
    })
    .await
    .unwrap_err()
    .to_string();
    assert!(said.contains("TEST_NATS_URL=nats://127.0.0.1:9:"), "{said}");
    assert!(!said.contains("secret"), "{said}");
}

/// The child of the next test: starts a server, says where, and waits to be killed.
#[test]
fn a_server_dies_with_a_test_process_that_drops_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if std::env::var_os("NATS_ORPHAN").is_some() {
        let server = runtime.block_on(NatsServer::start_own()).unwrap();
        fs::write(std::env::var_os("NATS_ORPHAN").unwrap(), server.url()).unwrap();
        loop {
            std::thread::park();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("url");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_dies_with_a_test_process_that_drops_nothing"])
        .env("NATS_ORPHAN", &said)
        .spawn()
        .unwrap();
    let url = runtime.block_on(until(|| async {
        fs::read_to_string(&said).ok().filter(|url| !url.is_empty())
    }));
    assert!(runtime.block_on(async_nats::connect(&url)).is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
    runtime.block_on(until(|| async {
        async_nats::connect(&url).await.is_err().then_some(())
    }));
}

/// Waits for a fact of another process; nothing else tells it to us.
async fn until<T, F: Future<Output = Option<T>>>(mut fact: impl FnMut() -> F) -> T {
    let looked = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            if let Some(found) = fact().await {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looked)
        .await
        .expect("the fact comes within a minute")
}
