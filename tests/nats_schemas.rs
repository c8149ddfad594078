//! What the store of schemas does besides watching, with a real nats-server: it looks at the whole bucket now and then and
//! when its watch has missed something, and removes what an earlier watch left behind.
#![cfg(feature = "nats")]

use std::{collections::BTreeSet, time::Duration};

use arqon::{
    nats::schemas::KvSchemas,
    schema::{Compatibility, Registry, RegistryConfig, SchemaStore, channel},
};
use arqon_test_support::NatsServer;
use async_nats::jetstream::{self, consumer::pull, stream::Stream};
use futures_util::TryStreamExt;
use tokio::{
    io::AsyncWriteExt,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

type Error = Box<dyn std::error::Error>;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);
const ID: &str = "v1.users";

async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "nothing within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A set with that many fields.
fn set(fields: u32) -> Vec<u8> {
    let fields: String = (1..=fields).map(|at| format!("int32 f{at} = {at}; ")).collect();
    text(&fields)
}

/// A set with those fields.
fn text(fields: &str) -> Vec<u8> {
    let source = format!("syntax = \"proto3\"; message User {{ {fields} }}");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("user.proto");
    std::fs::write(&path, source).expect("written");
    arqon::schema::read_schema(&path).expect("compiles")
}

/// A store that is followed until this is dropped.
struct Followed {
    registry: Registry,
    stream: Stream,
    bucket: String,
    jetstream: jetstream::Context,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Followed {
    async fn new(server: &NatsServer, interval: Duration) -> Result<Self, Error> {
        let (registry, writer) = channel(RegistryConfig::default())?;
        let client = server.client().await?;
        let bucket = format!("SCHEMAS_{}", server.unique());
        let store = KvSchemas::new(client.clone(), &bucket, registry.config()).reconcile_every(interval);
        let task = tokio::spawn(async move { drop(store.run(writer).await) });
        let jetstream = jetstream::new(client);
        let name = format!("KV_{bucket}");
        let stream = eventually(async || jetstream.get_stream(&name).await.ok()).await;
        let followed = Self {
            registry,
            stream,
            bucket,
            jetstream,
            task,
        };
        eventually(async || followed.registry.is_ready().then_some(())).await;
        Ok(followed)
    }

    async fn put(&self, key: &str, fields: u32) -> Result<u64, Error> {
        let bucket = self.jetstream.get_key_value(&self.bucket).await?;
        let revision = bucket.put(key, set(fields).into()).await?;
        eventually(async || (self.revision(key) == Some(revision)).then_some(())).await;
        Ok(revision)
    }

    fn revision(&self, key: &str) -> Option<u64> {
        let schemas = self.registry.schemas();
        schemas.iter().find(|one| one.id == key).map(|one| one.revision)
    }

    async fn consumers(&self) -> Option<BTreeSet<String>> {
        let names = self.stream.consumer_names();
        timeout(PATIENCE, names.try_collect()).await.ok()?.ok()
    }
}

#[tokio::test]
async fn what_no_watch_can_tell_the_next_look_at_the_bucket_finds() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    let followed = Followed::new(&server, Duration::from_millis(250)).await?;
    let kept = followed.put("v1.kept", 1).await?;
    let lost = followed.put(ID, 1).await?;
    // Taken out of the stream itself: nothing is written, so nothing is delivered.
    let subject = format!("$KV.{}.{ID}", followed.bucket);
    followed.stream.purge().filter(subject).await?;
    eventually(async || (followed.registry.lost() == [ID]).then_some(())).await;
    assert_eq!(followed.revision(ID), Some(lost), "absence unloads nothing");
    assert_eq!(followed.revision("v1.kept"), Some(kept));
    assert!(followed.put(ID, 2).await? > lost);
    eventually(async || followed.registry.lost().is_empty().then_some(())).await;
    Ok(())
}

#[tokio::test]
async fn between_two_looks_such_a_loss_is_not_seen_and_a_put_is() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    // The control of the test before: what finds the loss is the look, not something else.
    let followed = Followed::new(&server, Duration::from_secs(3_600)).await?;
    followed.put(ID, 1).await?;
    let subject = format!("$KV.{}.{ID}", followed.bucket);
    followed.stream.purge().filter(subject).await?;
    for fields in 2..12 {
        followed.put("v1.other", fields).await?;
    }
    assert!(
        followed.registry.lost().is_empty(),
        "{:?}",
        followed.registry.lost()
    );
    Ok(())
}

#[tokio::test]
async fn a_watch_takes_the_place_of_what_bears_its_name_and_of_nobody_else() -> Result<(), Error> {
    let mut server = NatsServer::start_own().await?;
    let followed = Followed::new(&server, Duration::from_secs(3_600)).await?;
    followed.put(ID, 1).await?;
    let ours = eventually(async || followed.consumers().await?.into_iter().next()).await;
    assert!(ours.starts_with("arqon-schemas-"), "{ours}");
    // Durable, and of another kind: nothing but a removal makes room. As if a lost connection's consumer came to be late.
    followed.stream.delete_consumer(&ours).await?;
    let others = ["somebody-elses", "arqon-schemas-of-another-gateway"];
    for name in [&[ours.as_str()], &others[..]].concat() {
        let config = pull::Config {
            durable_name: Some(name.to_owned()),
            ..pull::Config::default()
        };
        followed.stream.create_consumer(config).await?;
    }
    server.restart().await?;
    eventually(async || {
        let watch = followed.stream.consumer_info(&ours).await.ok()?;
        watch.config.deliver_subject.map(drop)
    })
    .await;
    let names = eventually(async || followed.consumers().await).await;
    let wanted = others.map(str::to_owned).into_iter().chain([ours]);
    assert_eq!(names, wanted.collect());
    followed.put(ID, 2).await?;
    Ok(())
}

#[tokio::test]
async fn a_heartbeat_that_counts_more_than_came_makes_the_bucket_be_read() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    // No look for an hour: what is found, the watch has asked for.
    let followed = Followed::new(&server, Duration::from_secs(3_600)).await?;
    followed.put(ID, 1).await?;
    let ours = eventually(async || followed.consumers().await?.into_iter().next()).await;
    let watch = followed.stream.consumer_info(&ours).await?;
    let inbox = watch.config.deliver_subject.ok_or("a push consumer")?;
    let subject = format!("$KV.{}.{ID}", followed.bucket);
    followed.stream.purge().filter(subject).await?;
    assert!(followed.registry.lost().is_empty(), "nobody has looked");

    // One that is no client's to send: two deliveries, where there was one.
    let head = "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 2\r\n\r\n";
    let size = head.len();
    let spoken = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true}}\r\nHPUB {inbox} {size} {size}\r\n{head}\r\nPING\r\n"
    );
    let address = server.url().trim_start_matches("nats://");
    let mut connection = tokio::net::TcpStream::connect(address).await?;
    connection.write_all(spoken.as_bytes()).await?;
    eventually(async || (followed.registry.lost() == [ID]).then_some(())).await;
    Ok(())
}

/// What happened between the first revision and the last while the store was not followed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Between {
    MeantBreak,
    Deletion,
    Break,
}

#[tokio::test]
async fn who_was_away_takes_what_follows_a_meant_break_or_a_deletion_and_nothing_else() -> Result<(), Error> {
    let server = NatsServer::start().await?;
    for between in [Between::MeantBreak, Between::Deletion, Between::Break] {
        let (registry, writer) = channel(RegistryConfig {
            compatibility: Some(Compatibility::Backward),
            ..RegistryConfig::default()
        })?;
        let client = server.client().await?;
        let bucket = format!("SCHEMAS_{}_{between:?}", server.unique());
        let follow = || {
            let store = KvSchemas::new(client.clone(), &bucket, registry.config());
            let writer = writer.clone();
            tokio::spawn(async move { drop(store.run(writer).await) })
        };
        let revision = || registry.schemas().first().map(|one| one.revision);
        let jetstream = jetstream::new(client.clone());
        let put = async |set: Vec<u8>, headers: &[(&str, &str)]| {
            let mut all = async_nats::HeaderMap::new();
            for (name, value) in headers {
                all.insert(*name, *value);
            }
            let subject = format!("$KV.{bucket}.{ID}");
            let sent = jetstream.publish_with_headers(subject, all, set.into()).await?;
            Ok::<_, Error>(sent.await?.sequence)
        };
        let following = follow();
        eventually(async || registry.is_ready().then_some(())).await;
        let first = put(set(1), &[]).await?;
        eventually(async || (revision() == Some(first)).then_some(())).await;
        following.abort();
        let _ = following.await;

        let marks: &[(&str, &str)] = match between {
            Between::MeantBreak => &[("Arqon-Compatibility", "NONE")],
            Between::Deletion => &[("KV-Operation", "DEL")],
            Between::Break => &[],
        };
        put(text("string f1 = 1;"), marks).await?;
        let last = put(text("string f1 = 1; string f2 = 2;"), &[]).await?;
        let following = follow();
        if between == Between::Break {
            eventually(async || {
                registry
                    .refused()
                    .iter()
                    .any(|one| one.revision == last)
                    .then_some(())
            })
            .await;
            assert_eq!(revision(), Some(first));
            // And what is meant later is taken.
            let meant = put(
                text("string f1 = 1; string f2 = 2;"),
                &[("Arqon-Compatibility", "NONE")],
            )
            .await?;
            eventually(async || (revision() == Some(meant)).then_some(())).await;
        } else {
            eventually(async || (revision() == Some(last)).then_some(())).await;
        }
        following.abort();
    }
    Ok(())
}
