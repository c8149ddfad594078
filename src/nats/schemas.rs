//! Schemas in a NATS KV bucket (DESIGN 7): watched, reconciled, never the truth by themselves.

pub(crate) mod bucket;
mod watch;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arqon_message::{BoxError, ConnectionId};
use arqon_schema::{
    Applied, ApplyError, Change, Copies, Entry, LoadError, RegistryConfig, RegistryWriter, SchemaStore,
    StoreError,
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use self::{
    bucket::{Bucket, Position, Record},
    watch::Watch,
};
use super::Connection;

/// The longest time between two looks at the whole bucket.
const RECONCILE: Duration = Duration::from_secs(30);
/// Waiting after an error: doubled each time, with jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long one read may take. A whole bucket takes as long as it has schemas; a server that stalls ends the first.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the connection is looked at.
const LOOK: Duration = Duration::from_millis(250);
const LOST: &str = "the connection was lost";

/// Feeds a registry from a bucket: a full read, then every change as it is watched, and a full read again after every
/// error, every reconnect, and every 30 seconds if anything was written since. What was in force stays in force while the
/// bucket cannot be read; only a deletion in the bucket unloads a schema, never its absence (ADR 17).
///
/// The watch carries no schemas, only which keys were written; those are read from the bucket's leader. So what a flood of
/// updates holds in memory is their names, and a schema written a hundred times while one is compiled is read once.
#[derive(Clone, Debug)]
pub struct KvSchemas {
    nats: Connection,
    bucket: Arc<str>,
    replicas: usize,
    reconcile: Duration,
    copies: Option<Copies>,
    /// What this program's consumer is called: always the same, so that there is never a second one.
    name: Arc<str>,
}

impl KvSchemas {
    /// The bucket called `bucket`; it is made, with a history of 16, if it is not there.
    #[must_use]
    pub fn new(nats: impl Into<Connection>, bucket: &str, config: &RegistryConfig) -> Self {
        let copies = config.last_known_good.as_ref();
        Self {
            nats: nats.into(),
            bucket: bucket.into(),
            replicas: 1,
            reconcile: interval_of(config),
            copies: copies.map(|path| Copies::new(path, bucket)),
            name: format!("arqon-schemas-{:016x}", ConnectionId::mint().as_u128() as u64).into(),
        }
    }

    /// How many servers keep the bucket if it is made.
    #[must_use]
    pub const fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Looks at the whole bucket that often instead of every 30 s, or every third of `cache_ttl_seconds` if that is less: so
    /// late is seen what no watch tells.
    #[must_use]
    pub const fn reconcile_every(mut self, interval: Duration) -> Self {
        self.reconcile = interval;
        self
    }

    /// Puts the last known good copy in force, if there is one. A copy that cannot be used is told, and changes nothing.
    pub async fn restore(&self, writer: &RegistryWriter) {
        let Some(copies) = self.copies.clone() else {
            return;
        };
        let path = copies.path().display().to_string();
        let writer = writer.clone();
        let restored = tokio::task::spawn_blocking(move || copies.restore(&writer)).await;
        match restored {
            Ok(Ok(restored)) => {
                if !restored.damaged.is_empty() {
                    let damaged = restored.damaged.join(", ");
                    tracing::warn!(
                        component = "registry",
                        path,
                        damaged,
                        "damaged copies are left out"
                    );
                }
                let (schemas, age) = (restored.applied.changed, restored.age.unwrap_or_default());
                tracing::info!(
                    component = "registry",
                    path,
                    schemas,
                    age_seconds = age.as_secs(),
                    "last known good schemas"
                );
            }
            Ok(Err(error)) => {
                tracing::warn!(component = "registry", error = %error, "the last known good schemas are not used");
            }
            Err(died) => {
                tracing::warn!(component = "registry", error = %died, "the last known good schemas are not used");
            }
        }
    }

    /// Follows the bucket over one connection, the one that was there when `connects` was counted, until something goes wrong.
    async fn follow(
        &self,
        writer: &RegistryWriter,
        connects: u64,
        backoff: &mut Duration,
        copied: &mut bool,
    ) -> Result<(), BoxError> {
        let mut repinned = writer.repinned();
        repinned.mark_unchanged();
        let bucket = self.over(connects, within(self.open(writer))).await?;
        let mut read = self.read(&bucket, writer, connects, copied).await?;
        let watching = within(Watch::start(&bucket, &self.name, read.last_sequence));
        let mut watch = self.over(connects, watching).await?;
        *backoff = BACKOFF.0;
        let mut reconcile = interval(self.reconcile);
        reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
        reconcile.reset();
        loop {
            tokio::select! {
                dirty = watch.written() => match dirty? {
                    Some(subjects) => {
                        let fetching = self.fetch(&bucket, writer, subjects);
                        let Found { entries, gone, .. } = self.over(connects, fetching).await?;
                        writer.contact();
                        let applied = writer.apply_in_background(Change::Merge { entries, gone }).await;
                        self.keep(writer, &applied, copied).await;
                    }
                    // Too many to count.
                    None => read = self.read(&bucket, writer, connects, copied).await?,
                },
                _ = repinned.changed() => read = self.read(&bucket, writer, connects, copied).await?,
                () = self.lost(connects) => return Err(LOST.into()),
                _ = reconcile.tick() => {
                    let now = self.over(connects, within(bucket.position())).await?;
                    writer.contact();
                    if now.is_another_bucket(&read) {
                        return Err("the bucket was replaced, or has lost what was written last".into());
                    }
                    // What an earlier look found, the watch has told by now.
                    if watch.is_behind(read.last_sequence) {
                        return Err("the watch missed what was written".into());
                    }
                    if now != read {
                        read = self.read(&bucket, writer, connects, copied).await?;
                    } else {
                        self.touch(writer, copied).await;
                    }
                }
            }
        }
    }

    /// How often the connection was made.
    fn connects(&self) -> u64 {
        self.nats.connects()
    }

    async fn open(&self, writer: &RegistryWriter) -> Result<Bucket, BoxError> {
        let nats = self.nats.life();
        if let Some(bucket) = Bucket::open(&nats.jetstream, &self.bucket).await? {
            return Ok(bucket);
        }
        // A bucket made in the place of a lost one counts on from what was in force: what is written into it is newer.
        let known = writer.revisions().into_values().max();
        Bucket::create(
            &nats.jetstream,
            &self.bucket,
            self.replicas,
            known.unwrap_or(0) + 1,
        )
        .await
    }

    /// Reads everything.
    async fn read(
        &self,
        bucket: &Bucket,
        writer: &RegistryWriter,
        connects: u64,
        copied: &mut bool,
    ) -> Result<Position, BoxError> {
        let reading = async {
            let listing = async { Ok((bucket.position().await?, bucket.subjects().await?)) };
            let (position, subjects) = within(listing).await?;
            Ok((position, self.fetch(bucket, writer, subjects).await?))
        };
        let (position, found) = self.over(connects, reading).await?;
        writer.contact();
        let change = Change::Listing {
            entries: found.entries,
            gone: found.gone,
            unread: found.unread,
        };
        // What was refused is in the log, in the state and on the bus; the last good one stays.
        let applied = writer.apply_in_background(change).await;
        self.keep(writer, &applied, copied).await;
        Ok(position)
    }

    /// The newest revisions of those subjects, and what is pinned.
    async fn fetch(
        &self,
        bucket: &Bucket,
        writer: &RegistryWriter,
        subjects: BTreeSet<String>,
    ) -> Result<Found, BoxError> {
        let Found {
            mut entries,
            mut gone,
            mut unread,
        } = Found::default();
        let in_force = writer.revisions();
        for record in bucket.last_of(subjects, &in_force).await? {
            if record.unreadable {
                let (id, revision) = (record.key, record.revision);
                let cause = LoadError::Decode("its headers in NATS cannot be read".to_owned());
                unread.push(id.clone());
                writer.refuse(&id.clone(), revision, ApplyError::Load { id, revision, cause });
            } else if record.deleted {
                gone.push((record.key, record.revision));
            } else {
                entries.push(entry(record));
            }
        }
        for (id, revision) in writer.pins().iter() {
            let there = |entry: &Entry| entry.id == *id && entry.revision == *revision;
            if in_force.get(id) == Some(revision) && !entries.iter().any(|entry| entry.id == *id) {
                continue;
            }
            if entries.iter().any(there) {
                continue;
            }
            match within(bucket.at(id, *revision)).await? {
                Some(record) if !record.deleted => entries.push(entry(record)),
                _ if in_force.get(id) == Some(revision) => {}
                _ => {
                    let (id, revision) = (id.clone(), *revision);
                    writer.refuse(&id.clone(), revision, ApplyError::PinNotThere { id, revision });
                }
            }
        }
        Ok(Found {
            entries,
            gone,
            unread,
        })
    }

    /// Writes the copy anew where something changed, or was never written.
    async fn keep(&self, writer: &RegistryWriter, applied: &Applied, copied: &mut bool) {
        if applied.changed > 0 || !*copied {
            *copied = self.on_disk(writer, Copies::save).await;
        } else {
            self.touch(writer, copied).await;
        }
    }

    /// Says that the copy is as good as new.
    async fn touch(&self, writer: &RegistryWriter, copied: &mut bool) {
        if *copied {
            *copied = self.on_disk(writer, |copies, _| copies.touch()).await;
        }
    }

    async fn on_disk(
        &self,
        writer: &RegistryWriter,
        write: impl FnOnce(&Copies, &RegistryWriter) -> Result<(), StoreError> + Send + 'static,
    ) -> bool {
        let Some(copies) = self.copies.clone() else {
            return true;
        };
        let writer = writer.clone();
        let written = tokio::task::spawn_blocking(move || write(&copies, &writer)).await;
        match written {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(component = "registry", error = %error, "the last known good schemas are not on disk");
                false
            }
            Err(died) => {
                tracing::warn!(component = "registry", error = %died, "the last known good schemas are not on disk");
                false
            }
        }
    }

    /// Whether there is a connection, and it is the one that was there when `connects` was counted.
    fn is_connected_since(&self, connects: u64) -> bool {
        self.nats.is_connected() && self.connects() == connects
    }

    /// Waits until that connection is lost.
    async fn lost(&self, connects: u64) {
        let mut look = interval(LOOK);
        while self.is_connected_since(connects) {
            look.tick().await;
        }
    }

    /// Asks something over that connection: what is under way when it is lost would wait for its deadline.
    async fn over<T>(
        &self,
        connects: u64,
        asked: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T, BoxError> {
        tokio::select! {
            answer = asked => answer,
            () = self.lost(connects) => Err(LOST.into()),
        }
    }

    /// Waits before the next try. A connection that was lost meanwhile is waited for, and tried at once: what failed has
    /// failed with it. Else it is the bucket that fails, and the back-off is waited.
    async fn wait(&self, connects: u64, backoff: &mut Duration) {
        // Up to a quarter more, so that gateways do not come back in step.
        let jitter = ConnectionId::mint().as_u128() as u32 % 256;
        if self.is_connected_since(connects) {
            let rest = *backoff + *backoff * jitter / 1_024;
            *backoff = (*backoff * 2).min(BACKOFF.1).min(self.reconcile.max(BACKOFF.0));
            if timeout(rest, self.lost(connects)).await.is_err() {
                return;
            }
        }
        let mut look = interval(LOOK);
        while !self.nats.is_connected() {
            look.tick().await;
        }
        sleep(BACKOFF.0 * jitter / 256).await;
    }
}

/// What a read found.
#[derive(Default)]
struct Found {
    entries: Vec<Entry>,
    /// What was deleted, and the revision of the deletion.
    gone: Vec<(String, u64)>,
    /// What is there but could not be read.
    unread: Vec<String>,
}

/// The answer, unless it takes too long.
async fn within<T>(asked: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    let answer = timeout(READ_TIMEOUT, asked).await;
    answer.map_err(|_| "the bucket did not answer within 10 s")?
}

/// A registry that goes stale sooner has to hear from its store sooner.
fn interval_of(config: &RegistryConfig) -> Duration {
    let third = Duration::from_secs(config.cache_ttl_seconds) / 3;
    RECONCILE.min(third).max(Duration::from_secs(1))
}

fn entry(record: Record) -> Entry {
    Entry::new(record.key, record.revision, record.value).breaking(record.breaking)
}

impl SchemaStore for KvSchemas {
    async fn run(self, writer: RegistryWriter) -> Result<(), StoreError> {
        let mut backoff = BACKOFF.0;
        let mut copied = false;
        let mut said: Option<(String, Instant)> = None;
        loop {
            let connects = self.connects();
            if self.nats.is_connected() {
                let followed = self.follow(&writer, connects, &mut backoff, &mut copied);
                let Err(error) = followed.await else {
                    continue;
                };
                let error = error.to_string();
                // The same thing once a minute: a server that is away for a day fills no disk.
                let again = said
                    .as_ref()
                    .is_some_and(|(last, at)| *last == error && at.elapsed() < Duration::from_secs(60));
                if !again {
                    tracing::warn!(component = "registry", error, bucket = %self.bucket, "the schema bucket is read anew");
                    said = Some((error, Instant::now()));
                }
            }
            self.wait(connects, &mut backoff).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_looked_at_every_thirty_seconds_or_thrice_before_it_goes_stale() {
        for (ttl, seconds) in [(3_600, 30), (90, 30), (60, 20), (3, 1), (1, 1)] {
            let config = RegistryConfig {
                cache_ttl_seconds: ttl,
                ..RegistryConfig::default()
            };
            assert_eq!(interval_of(&config), Duration::from_secs(seconds), "{ttl}");
        }
    }
}
