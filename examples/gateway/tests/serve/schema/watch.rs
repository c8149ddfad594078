//! What the watch of a bucket loses, and what it leaves (F9 and F10 of the reliability notes), with a real nats-server.

use std::collections::BTreeSet;

use arqon_test_support::NatsServer;
use async_nats::jetstream;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::time::timeout;

use super::site::{GOOD, ID, QUICK, SEVEN, answers, bucket, bucket_name, check, config, narrow, wider};
use crate::process::{Gateway, PATIENCE, Proxy, eventually};

#[tokio::test]
async fn f9_what_the_watch_loses_the_next_look_at_the_bucket_finds() {
    let server = NatsServer::start_own().await.expect("a nats-server");
    let proxy = Proxy::eating(server.url(), Some("$KV.")).await;
    let gateway = Gateway::ready(&config(&server, &proxy.url(), QUICK), &[]).await;
    let bucket = bucket(&server).await;
    bucket.put(ID, narrow().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 400).await;
    bucket.put(ID, wider().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 202).await;
    bucket.delete(ID).await.expect("deleted");
    answers(&gateway, &server, GOOD, 503).await;
    assert!(proxy.eaten() >= 1, "the watch was told and the network lost it");
}

#[tokio::test]
async fn f9_a_watch_that_dies_silently_is_made_anew() {
    let server = NatsServer::start_own().await.expect("a nats-server");
    // The next look is 30 s away: what is seen sooner comes of the watch, which is given up after 10 s of silence.
    let gateway = Gateway::ready(&config(&server, server.url(), ""), &[]).await;
    let bucket = bucket(&server).await;
    bucket.put(ID, narrow().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 400).await;
    let jetstream = jetstream::new(server.client().await.expect("connected"));
    let stream = jetstream
        .get_stream(format!("KV_{}", bucket_name(&server)))
        .await
        .expect("there");
    let watches = async || {
        stream
            .consumer_names()
            .try_collect::<Vec<_>>()
            .await
            .expect("listed")
    };
    let dead = eventually(async || watches().await.into_iter().next()).await;
    stream.delete_consumer(&dead).await.expect("deleted");
    bucket.put(ID, wider().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 202).await;
    eventually(async || (!watches().await.is_empty()).then_some(())).await;
}

/// The consumers of the bucket as the server tells of them: each that was made and removed, however short it lived.
struct Consumers {
    told: async_nats::Subscriber,
    there: BTreeSet<String>,
    made: usize,
    /// The most at a time.
    most: usize,
}

impl Consumers {
    async fn of(server: &NatsServer) -> Self {
        let client = server.client().await.expect("connected");
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.*.KV_{}.>", bucket_name(server));
        let told = client.subscribe(subject).await.expect("subscribed");
        client.flush().await.expect("flushed");
        Self {
            told,
            there: BTreeSet::new(),
            made: 0,
            most: 0,
        }
    }

    /// Takes in what is told until it is like that.
    async fn until(&mut self, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            let told = timeout(PATIENCE, self.told.next())
                .await
                .expect("in time")
                .expect("open");
            let told: Value = serde_json::from_slice(&told.payload).expect("JSON");
            let name = told["consumer"].as_str().expect("a name").to_owned();
            match told["action"].as_str() {
                Some("create") => {
                    self.made += 1;
                    self.there.insert(name);
                    self.most = self.most.max(self.there.len());
                }
                Some("delete") => drop(self.there.remove(&name)),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn f10_fifty_reconnects_leave_at_most_two_consumers_and_a_watch_that_works() {
    let server = NatsServer::start_own().await.expect("a nats-server");
    let proxy = Proxy::to(server.url()).await;
    let mut consumers = Consumers::of(&server).await;
    let gateway = Gateway::ready(&config(&server, &proxy.url(), ""), &[]).await;
    let bucket = bucket(&server).await;
    bucket.put(ID, narrow().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 400).await;
    consumers.until(|of| of.made >= 1).await;
    for number in 1..=50 {
        proxy.cut();
        eventually(async || (check(&gateway, "nats").await["ok"] == false).then_some(())).await;
        proxy.heal();
        eventually(async || (check(&gateway, "nats").await["ok"] == true).then_some(())).await;
        // Most reconnects come before the watch is there again; some find one that has to be replaced.
        if number % 5 == 0 {
            let before = consumers.made;
            consumers.until(|of| of.made > before).await;
        }
    }
    bucket.put(ID, wider().into()).await.expect("put");
    answers(&gateway, &server, SEVEN, 202).await;
    let jetstream = jetstream::new(server.client().await.expect("connected"));
    let name = format!("KV_{}", bucket_name(&server));
    let stream = jetstream.get_stream(name).await.expect("there");
    let names = stream.consumer_names().try_collect().await.expect("listed");
    consumers.until(|of| of.there == names).await;
    let (made, most, left) = (consumers.made, consumers.most, names.len());
    assert!(most <= 2, "{most} consumers at a time, of {made}");
    assert!((1..=2).contains(&left), "{names:?}");
}
