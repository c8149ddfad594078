//! Two nodes on one log that have not the same catalogs.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arqon_rollout::{
    Appended, AuditConfig, AuditEntry, AuditFuture, AuditSink, Batch, CatalogFuture, CatalogSource,
    CatalogWanted, Channel, Config, ControlLog, DownstreamMessage, Executor, FetchError, KeyPair, LogFuture,
    MemoryLog, Record, Recovered, UpstreamMessage,
};
use bytes::Bytes;

use crate::node::{Node, catalog, tenant};

/// What a node finds at `kv://c/<version>`.
#[derive(Clone, Default)]
pub(crate) struct Shelf {
    catalogs: Arc<Mutex<BTreeMap<u64, Option<String>>>>,
    fails: Arc<AtomicBool>,
}

impl Shelf {
    pub(crate) fn put(&self, version: u64, json: &str) {
        self.catalogs
            .lock()
            .unwrap()
            .insert(version, Some(json.to_owned()));
    }

    /// Whether what gets into the log can be kept.
    pub(crate) fn keeps(&self, keeps: bool) {
        self.fails.store(!keeps, Ordering::SeqCst);
    }

    pub(crate) fn is_away(&self, version: u64) {
        self.catalogs.lock().unwrap().insert(version, None);
    }
}

impl CatalogSource for Shelf {
    fn fetch(&self, wanted: CatalogWanted<'_>) -> CatalogFuture<'_> {
        let uri = wanted.uri.to_owned();
        let asked: u64 = uri.rsplit('/').next().unwrap().parse().unwrap();
        let answer = match self.catalogs.lock().unwrap().get(&asked).cloned() {
            Some(Some(json)) => Ok(Bytes::from(json)),
            Some(None) => Err(FetchError::Unavailable {
                uri,
                source: "away".into(),
            }),
            None => Err(FetchError::Read {
                uri,
                source: "there is no such catalog".into(),
            }),
        };
        Box::pin(std::future::ready(answer))
    }

    fn keep(&self, wanted: CatalogWanted<'_>, _: Bytes) -> CatalogFuture<'_, ()> {
        let failed = FetchError::Unavailable {
            uri: wanted.uri.to_owned(),
            source: "no leader".into(),
        };
        let kept = if self.fails.load(Ordering::SeqCst) {
            Err(failed)
        } else {
            Ok(())
        };
        Box::pin(std::future::ready(kept))
    }
}

/// Catalog 2 lacks what is rolled out, 3 has it.
pub(crate) fn without(version: u64) -> String {
    format!(r#"{{"version":{version},"baseline":1,"variants":[{{"id":1,"name":"stable"}}]}}"#)
}

pub(crate) fn with(version: u64) -> String {
    catalog()
        .to_json()
        .replace("\"version\":1", &format!("\"version\":{version}"))
}

/// A log that outlives its readers.
#[derive(Clone)]
pub(crate) struct Kept(pub(crate) MemoryLog);

impl ControlLog for Kept {
    fn append(&self, channel: Channel, envelope: Bytes) -> LogFuture<'_, Appended> {
        self.0.append(channel, envelope)
    }

    fn read(&self, after: u64) -> LogFuture<'_, Batch> {
        self.0.read(after)
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn report(&self, from: Channel, message: UpstreamMessage) -> LogFuture<'_, ()> {
        self.0.report(from, message)
    }
}

#[derive(Clone, Default)]
pub(crate) struct Trail(pub(crate) Arc<Mutex<Vec<AuditEntry>>>);

impl AuditSink for Trail {
    fn append(&self, entry: AuditEntry) -> AuditFuture<'_> {
        self.0.lock().unwrap().push(entry);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Trail {
    pub(crate) fn records(&self) -> Vec<Recovered> {
        let entries = self.0.lock().unwrap().clone();
        let recovered = entries.into_iter().filter_map(|entry| {
            Some(Recovered {
                record: Record {
                    seq: entry.seq?,
                    received_at_us: entry.received_at_us,
                    channel: entry.channel.parse().unwrap(),
                    envelope: entry.envelope,
                    catalog: entry.catalog,
                },
                verdict: Some(
                    entry
                        .refusal
                        .map_or(Ok(()), |refusal| Err(refusal.reason.to_string())),
                ),
            })
        });
        recovered.collect()
    }
}

/// Two nodes on one log: the first has every catalog, the second what is put on its shelf.
pub(crate) struct Site {
    pub(crate) first: Node,
    pub(crate) second: Node,
    pub(crate) shelf: Shelf,
    pub(crate) trail: Trail,
    folder: tempfile::TempDir,
}

pub(crate) fn beside(node: &Node, config: &Config, shelf: &Shelf, trail: &Trail) -> Node {
    let executor = Executor::builder(config)
        .catalog(catalog())
        .catalogs(shelf.clone())
        .clock(node.clock.clone())
        .log(Kept(node.log.clone()))
        .audit(trail.clone())
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .build()
        .unwrap();
    executor.recover(trail.records());
    node.beside(executor, config.clone())
}

impl Site {
    /// A ramp from 10 % that has gone on for a minute.
    pub(crate) async fn start() -> Self {
        Self::start_with(false).await
    }

    /// With `slots` what the second one latches is on a disk, which paused time does not wait for.
    pub(crate) async fn start_with(slots: bool) -> Self {
        let source = Node::start();
        source.run.abort();
        let (all, shelf, trail) = (Shelf::default(), Shelf::default(), Trail::default());
        for version in [2, 4] {
            all.put(version, &without(version));
            all.put(version + 1, &with(version + 1));
        }
        let folder = tempfile::tempdir().unwrap();
        let first = beside(&source, &source.config, &all, &Trail::default());
        let config = Config {
            audit: slots.then(|| AuditConfig {
                path: folder.path().join("audit.jsonl"),
            }),
            ..source.config.clone()
        };
        let second = beside(&source, &config, &shelf, &trail);
        first.roll_out("p1", (10.0, 10.0, 100.0)).await;
        let site = Self {
            first,
            second,
            shelf,
            trail,
            folder,
        };
        site.pass(60).await;
        site.until(|site| percent(&site.second) > 19.0).await;
        site.are_alike();
        site
    }

    /// Lets time pass until something is so.
    pub(crate) async fn until(&self, so: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if so(self) {
                return;
            }
            tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
            self.first.settle().await;
        }
        panic!("never: {:?}", self.second.handle.status());
    }

    /// Both clocks go on, and both nodes hear from the log.
    pub(crate) async fn pass(&self, seconds: u64) {
        for _ in 0..seconds.div_ceil(10) {
            self.first.clock.advance(Duration::from_secs(seconds.min(10)));
            tokio::time::advance(Duration::from_secs(8)).await;
            for _ in 0..4 {
                self.first.settle().await;
            }
        }
    }

    pub(crate) async fn update(&self, version: u64, digest: Option<String>) -> u64 {
        let unnamed = digest.is_none();
        let update = self.first.control(DownstreamMessage::CatalogUpdate {
            version,
            source_uri: format!("kv://c/{version}"),
            digest,
        });
        let seq = if unnamed {
            // No gateway lets one in, but there may be some from before.
            let envelope = update.sign(&[&self.first.ops]).unwrap().to_json();
            let log = &self.first.log;
            let appended = log
                .append(Channel::Down(tenant("default")), envelope.into())
                .await;
            appended.unwrap().seq
        } else {
            let taken = self.first.submit(update, &self.first.ops).await;
            taken.unwrap().seq.unwrap()
        };
        self.pass(1).await;
        seq
    }

    /// Stops one node, and starts it again with its trail.
    pub(crate) async fn restart(&mut self) {
        self.second.run.abort();
        let _ended = (&mut self.second.run).await;
        self.second = beside(&self.first, &self.second.config, &self.shelf, &self.trail);
        self.pass(1).await;
        assert!(self.folder.path().exists());
    }

    pub(crate) fn are_alike(&self) {
        let seen = |node: &Node| {
            let status = node.handle.status();
            let mut all = Vec::new();
            for of in &status.tenants {
                all.push(format!(
                    "{} {:?} {:?}",
                    of.catalog_version, of.parked_catalog_version, of.hold
                ));
                for scope in &of.scopes {
                    all.push(format!(
                        "{} {} {} {}",
                        scope.scope, scope.phase, scope.percent, scope.baseline
                    ));
                }
            }
            (status.seq, all)
        };
        assert_eq!(seen(&self.second), seen(&self.first));
    }

    pub(crate) fn percents(&self) -> (f64, f64) {
        (percent(&self.first), percent(&self.second))
    }

    pub(crate) fn hold(&self) -> String {
        self.second.handle.status().tenants[0]
            .hold
            .clone()
            .unwrap_or_default()
    }
}

pub(crate) fn percent(node: &Node) -> f64 {
    node.handle.status().scope("default", "").unwrap().percent
}
