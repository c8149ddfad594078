//! Which keys of a bucket were written: a consumer without payloads, always polled.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arqon_message::BoxError;
use arqon_schema::SCHEMAS_MAX;
use async_nats::jetstream::consumer::{DeliverPolicy, push::OrderedConfig};
use futures_util::StreamExt;
use tokio::{sync::Notify, task::JoinHandle};

use super::bucket::Bucket;

/// A watch that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Arc<Seen>,
    task: JoinHandle<String>,
}

#[derive(Debug, Default)]
struct Seen {
    written: Mutex<Written>,
    told: Notify,
    /// The last sequence that was delivered.
    sequence: AtomicU64,
}

#[derive(Debug, Default)]
struct Written {
    subjects: BTreeSet<String>,
    /// There were more than are remembered, or some may have been missed.
    all: bool,
}

impl Watch {
    /// Watches what is written after `sequence`.
    pub(super) async fn start(bucket: &Bucket, name: &str, sequence: u64) -> Result<Self, BoxError> {
        let config = OrderedConfig {
            name: Some(name.to_owned()),
            description: Some("arqon: schemas".to_owned()),
            deliver_subject: bucket.inbox(),
            headers_only: true,
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: sequence + 1,
            },
            ..OrderedConfig::default()
        };
        let consumer = bucket.stream.create_consumer(config).await?;
        let mut messages = consumer.messages().await?;
        let seen = Arc::new(Seen::default());
        seen.sequence.store(sequence, Ordering::Relaxed);
        let telling = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                match message {
                    Ok(message) => {
                        if let Ok(info) = message.info() {
                            telling.sequence.store(info.stream_sequence, Ordering::Relaxed);
                        }
                        telling.note(Some(message.message.subject.as_str()));
                    }
                    // The consumer is made anew if it is polled on; what was missed, a full read brings.
                    Err(error) => {
                        tracing::debug!(component = "registry", error = %error, "the watch mends itself");
                        telling.note(None);
                    }
                }
            }
            "the watch ended".to_owned()
        });
        Ok(Self { seen, task })
    }

    /// The subjects that were written since the last time; `None` when everything has to be looked at.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub(super) async fn written(&mut self) -> Result<Option<BTreeSet<String>>, BoxError> {
        loop {
            let told = self.seen.told.notified();
            if let Some(written) = self.seen.take() {
                return Ok((!written.all).then_some(written.subjects));
            }
            tokio::select! {
                () = told => {}
                ended = &mut self.task => {
                    return Err(ended.unwrap_or_else(|died| died.to_string()).into());
                }
            }
        }
    }

    /// Whether that sequence was not delivered yet.
    pub(super) fn is_behind(&self, sequence: u64) -> bool {
        self.seen.sequence.load(Ordering::Relaxed) < sequence
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn note(&self, subject: Option<&str>) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match subject {
            Some(subject) if written.subjects.len() < SCHEMAS_MAX => {
                written.subjects.insert(subject.to_owned());
            }
            _ => written.all = true,
        }
        drop(written);
        self.told.notify_one();
    }

    fn take(&self) -> Option<Written> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = written.all || !written.subjects.is_empty();
        is_news.then(|| std::mem::take(&mut *written))
    }
}
