//! A KV bucket of schemas, as the stream it is: revisions are sequences, and what was written says how it was checked.

use std::collections::{BTreeSet, HashMap};
#[cfg(feature = "cli")]
use std::{sync::Arc, time::SystemTime};

use arqon_message::BoxError;
use arqon_schema::SCHEMAS_MAX;
#[cfg(feature = "cli")]
use async_nats::jetstream::{context::PublishErrorKind, message::PublishMessage};
use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        context::GetStreamErrorKind,
        message::StreamMessage,
        stream::{self, ConsumerErrorKind, RawMessage, Stream},
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream as streams};
use serde_json::json;

use super::{super::stored::stored, within};

/// How many revisions a bucket that we make keeps of each schema.
pub(crate) const HISTORY: i64 = 16;
/// Most keys that are looked at: a bucket full of other things stops nobody.
const KEYS_MAX: usize = 4 * SCHEMAS_MAX;
/// How many reads are under way at a time.
const READS: usize = 16;
/// How the pusher checked the revision against the one before it; `NONE` says that a break is meant.
const COMPATIBILITY: &str = "Arqon-Compatibility";
const OPERATION: &str = "KV-Operation";
/// Set by the server on what it deleted itself.
const MARKER: &str = "Nats-Marker-Reason";

/// A bucket that is there.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    jetstream: jetstream::Context,
    pub(super) stream: Stream,
    #[cfg(feature = "cli")]
    name: Arc<str>,
}

/// How far a bucket is: equal positions have equal content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    created: i128,
    first_sequence: u64,
    pub(crate) last_sequence: u64,
    messages: u64,
    bytes: u64,
}

impl Position {
    /// Whether this is not what follows `before`.
    pub(crate) fn is_another_bucket(&self, before: &Self) -> bool {
        self.created != before.created || self.last_sequence < before.last_sequence
    }
}

/// One revision of one schema, or its deletion.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) key: String,
    pub(crate) revision: u64,
    pub(crate) value: Bytes,
    pub(crate) deleted: bool,
    /// Whoever wrote it said that it may break compatibility.
    pub(crate) breaking: bool,
    /// Its headers cannot be read, so nobody knows what was meant: in force stays what is, and a push takes it for a deletion.
    pub(crate) unreadable: bool,
    /// When it was written.
    #[cfg(feature = "cli")]
    pub(crate) at: SystemTime,
}

/// Why nothing was written.
#[cfg(feature = "cli")]
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Somebody else wrote meanwhile.
    #[error("somebody else has written it meanwhile")]
    Conflict,
    /// It does not fit.
    #[error("it has {0} bytes, more than the server takes in one message")]
    TooLarge(usize),
    /// NATS refused, or did not answer.
    #[error(transparent)]
    Nats(BoxError),
}

impl Bucket {
    /// The bucket, or `None` where there is none.
    pub(crate) async fn open(jetstream: &jetstream::Context, name: &str) -> Result<Option<Self>, BoxError> {
        match jetstream.get_stream(format!("KV_{name}")).await {
            Ok(stream) => Ok(Some(Self {
                jetstream: jetstream.clone(),
                stream,
                #[cfg(feature = "cli")]
                name: name.into(),
            })),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Ok(None)
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Makes the bucket. Its first revision is `first`; 1 unless one was lost.
    pub(crate) async fn create(
        jetstream: &jetstream::Context,
        name: &str,
        replicas: usize,
        first: u64,
    ) -> Result<Self, BoxError> {
        // As async-nats makes a bucket, but for the first sequence.
        let config = stream::Config {
            name: format!("KV_{name}"),
            description: Some("Schemas of arqon".to_owned()),
            subjects: vec![format!("$KV.{name}.>")],
            max_messages_per_subject: HISTORY,
            max_messages: -1,
            max_bytes: -1,
            max_message_size: -1,
            max_consumers: -1,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            num_replicas: replicas,
            discard: stream::DiscardPolicy::New,
            first_sequence: (first > 1).then_some(first),
            ..stream::Config::default()
        };
        let stream = match jetstream.create_stream(config).await {
            Ok(stream) => stream,
            // Somebody else made it a moment before, perhaps with another first sequence.
            Err(error) => match jetstream.get_stream(format!("KV_{name}")).await {
                Ok(stream) => stream,
                Err(_) => return Err(error.into()),
            },
        };
        Ok(Self {
            jetstream: jetstream.clone(),
            stream,
            #[cfg(feature = "cli")]
            name: name.into(),
        })
    }

    /// The context that the bucket is used by.
    pub(super) const fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// How far the bucket is.
    pub(crate) async fn position(&self) -> Result<Position, BoxError> {
        let info = self.stream.get_info().await?;
        Ok(Position {
            created: info.created.unix_timestamp_nanos(),
            first_sequence: info.state.first_sequence,
            last_sequence: info.state.last_sequence,
            messages: info.state.messages,
            bytes: info.state.bytes,
        })
    }

    /// Every subject that has a revision or a deletion.
    pub(crate) async fn subjects(&self) -> Result<BTreeSet<String>, BoxError> {
        let subjects = self.stream.info_with_subjects(">").await?;
        let subjects = subjects.take(KEYS_MAX).map_ok(|(subject, _)| subject);
        Ok(subjects.try_collect().await?)
    }

    /// The subject of a key.
    #[cfg(feature = "cli")]
    pub(crate) fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    /// The newest record of each subject; from the leader, so that nothing written is missed.
    ///
    /// A record that a break was meant before, since the revision that is `known` of its key, says so too: who was away or
    /// slow takes it as those did who saw the break itself.
    pub(crate) async fn last_of(
        &self,
        subjects: BTreeSet<String>,
        known: &HashMap<String, u64>,
    ) -> Result<Vec<Record>, BoxError> {
        let reads = streams::iter(subjects).map(|subject| async move {
            let Some(mut record) = within(self.last(&subject)).await? else {
                return Ok(None);
            };
            if let Some(&before) = known.get(&record.key)
                && before < record.revision
                && !record.deleted
                && !record.breaking
            {
                record.breaking = within(self.breaks_between(&subject, before, record.revision)).await?;
            }
            Ok::<_, BoxError>(Some(record))
        });
        let found: Vec<Option<Record>> = reads.buffer_unordered(READS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The newest record of one subject.
    pub(crate) async fn last(&self, subject: &str) -> Result<Option<Record>, BoxError> {
        self.stored(json!({"last_by_subj": subject})).await
    }

    async fn stored(&self, wanted: serde_json::Value) -> Result<Option<Record>, BoxError> {
        let name = &self.stream.cached_info().config.name;
        let found = stored(&self.jetstream, name, wanted).await??;
        Ok(found.map(record))
    }

    /// Whether a break was meant between those revisions of a subject, or the key was deleted: then nothing binds what
    /// follows.
    async fn breaks_between(&self, subject: &str, after: u64, before: u64) -> Result<bool, BoxError> {
        let mut next = after + 1;
        while next < before {
            match self.stored(json!({"seq": next, "next_by_subj": subject})).await? {
                Some(between) if between.revision < before => {
                    next = between.revision + 1;
                    if between.breaking || between.deleted && !between.unreadable {
                        return Ok(true);
                    }
                }
                _ => break,
            }
        }
        Ok(false)
    }

    /// That revision of a key, if the bucket still has it.
    pub(crate) async fn at(&self, key: &str, revision: u64) -> Result<Option<Record>, BoxError> {
        let found = self.stored(json!({"seq": revision})).await?;
        Ok(found.filter(|record| record.key == key))
    }

    /// Everything that the bucket keeps of a key, the oldest first.
    #[cfg(feature = "cli")]
    pub(crate) async fn history(&self, key: &str) -> Result<Vec<Record>, BoxError> {
        let subject = self.subject(key);
        let (mut records, mut next) = (Vec::new(), 1);
        while let Some(record) = self.stored(json!({"seq": next, "next_by_subj": subject})).await? {
            next = record.revision + 1;
            records.push(record);
        }
        Ok(records)
    }

    /// Writes a revision if the key's newest record is still `after` (0: none), and says which it became.
    #[cfg(feature = "cli")]
    pub(crate) async fn put(
        &self,
        key: &str,
        value: Bytes,
        after: u64,
        checked: arqon_schema::Compatibility,
    ) -> Result<u64, WriteError> {
        let size = value.len();
        let message = PublishMessage::build()
            .payload(value)
            .header(COMPATIBILITY, checked.as_str());
        self.write(key, message, after, size).await
    }

    /// Deletes a key if its newest record is still `after`, and says the revision of the deletion.
    #[cfg(feature = "cli")]
    pub(crate) async fn delete(&self, key: &str, after: u64) -> Result<u64, WriteError> {
        let message = PublishMessage::build().header(OPERATION, "DEL");
        self.write(key, message, after, 0).await
    }

    #[cfg(feature = "cli")]
    async fn write(
        &self,
        key: &str,
        message: PublishMessage,
        after: u64,
        size: usize,
    ) -> Result<u64, WriteError> {
        let message = message.expected_last_subject_sequence(after);
        let failed = |error: jetstream::context::PublishError| match error.kind() {
            PublishErrorKind::WrongLastSequence => WriteError::Conflict,
            PublishErrorKind::MaxPayloadExceeded => WriteError::TooLarge(size),
            _ => WriteError::Nats(error.into()),
        };
        let sent = self.jetstream.send_publish(self.subject(key), message).await;
        let acknowledged = sent.map_err(failed)?.await.map_err(failed)?;
        Ok(acknowledged.sequence)
    }

    /// Removes the consumer of that name, if there is one.
    pub(super) async fn remove_consumer(&self, name: &str) -> Result<(), BoxError> {
        match self.stream.delete_consumer(name).await {
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                ConsumerErrorKind::JetStream(said) if said.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {
                    Ok(())
                }
                _ => Err(error.into()),
            },
        }
    }
}

fn record(message: RawMessage) -> Record {
    let mut record = Record {
        key: key_of(&message.subject).to_owned(),
        revision: message.sequence,
        deleted: true,
        breaking: false,
        unreadable: true,
        #[cfg(feature = "cli")]
        at: message.time.into(),
        value: Bytes::new(),
    };
    if let Ok(message) = StreamMessage::try_from(message) {
        let header = |name: &str| header(&message.headers, name);
        record.deleted = header(MARKER).is_some() || matches!(header(OPERATION), Some("DEL" | "PURGE"));
        record.breaking = header(COMPATIBILITY) == Some("NONE");
        record.unreadable = false;
        record.value = message.payload;
    }
    record
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.as_str())
}

/// The key of `$KV.<bucket>.<key>`; a mirror's subjects name the bucket it mirrors.
fn key_of(subject: &str) -> &str {
    subject.splitn(3, '.').nth(2).unwrap_or(subject)
}
