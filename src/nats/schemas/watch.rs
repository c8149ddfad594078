//! Which keys of a bucket were written: a consumer without payloads, always polled.
//!
//! It is a plain push consumer and not one of async-nats' ordered ones: those make themselves anew, under another name each
//! time, and what a lost connection leaves of them lives on for half a minute. Here what is missed ends the watch or asks for
//! a full read, and the next watch takes the name of the one before it: a program has one consumer, however often it comes back.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arqon_message::BoxError;
use arqon_schema::SCHEMAS_MAX;
use async_nats::{
    Client, Message, StatusCode, Subscriber,
    header::{NATS_LAST_CONSUMER, NATS_LAST_STREAM},
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, push},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

use super::bucket::Bucket;

/// How often the server says that it has nothing to say.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long it has said nothing once the watch is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the server keeps a consumer that nobody listens to.
const INACTIVE: Duration = Duration::from_secs(30);

/// Names the subject on which the server waits for word.
const STALLED: &str = "Nats-Consumer-Stalled";

/// A watch that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Arc<Seen>,
    task: JoinHandle<&'static str>,
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
    /// Watches what is written after `sequence`, in the place of what was watched under this name before.
    pub(super) async fn start(bucket: &Bucket, name: &str, sequence: u64) -> Result<Self, BoxError> {
        bucket.remove_consumer(name).await?;
        let client = bucket.jetstream().client();
        let inbox = client.new_inbox();
        let delivered = client.subscribe(inbox.clone()).await?;
        let config = push::Config {
            name: Some(name.to_owned()),
            description: Some("arqon: schemas".to_owned()),
            deliver_subject: inbox,
            headers_only: true,
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: sequence + 1,
            },
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            inactive_threshold: INACTIVE,
            num_replicas: 1,
            memory_storage: true,
            ..push::Config::default()
        };
        bucket.stream.create_consumer(config).await?;
        let seen = Arc::new(Seen::default());
        seen.sequence.store(sequence, Ordering::Relaxed);
        let following = Following {
            client,
            jetstream: bucket.jetstream().clone(),
            seen: Arc::clone(&seen),
            count: 0,
        };
        let task = tokio::spawn(following.run(delivered));
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
                    return Err(ended.map_or_else(|died| died.to_string(), str::to_owned).into());
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

/// The task of a watch.
struct Following {
    client: Client,
    jetstream: jetstream::Context,
    seen: Arc<Seen>,
    /// How many deliveries there were, as the server counts them.
    count: u64,
}

impl Following {
    /// Notes what is delivered, until nothing is; says why.
    async fn run(mut self, mut delivered: Subscriber) -> &'static str {
        loop {
            match timeout(SILENCE, delivered.next()).await {
                Err(_) => return "the watch was not heard of for 10 s",
                Ok(None) => return "the watch ended",
                Ok(Some(message)) if message.status.is_none() => self.note(message),
                Ok(Some(message)) if message.status == Some(StatusCode::IDLE_HEARTBEAT) => {
                    self.heartbeat(message).await;
                }
                Ok(Some(other)) => {
                    tracing::debug!(component = "registry", status = ?other.status, "the watch was told");
                }
            }
        }
    }

    fn note(&mut self, message: Message) {
        let message = jetstream::Message {
            message,
            context: self.jetstream.clone(),
        };
        let Ok(info) = message.info() else {
            return;
        };
        self.seen.sequence.store(info.stream_sequence, Ordering::Relaxed);
        self.counted(info.consumer_sequence, 1);
        self.seen.note(Some(message.message.subject.as_str()));
    }

    /// A sign of life, or the server's wish to know how far this is.
    async fn heartbeat(&mut self, message: Message) {
        let headers = message.headers.as_ref();
        // The second: the first wish was lost, and the server waits.
        let asked = message.reply.clone();
        if let Some(asked) = asked.or_else(|| Some(headers?.get_last(STALLED)?.as_str().into())) {
            // What cannot be sent has no connection, which ends this.
            let _ = self.client.publish(asked, Bytes::new()).await;
        }
        let number = |name| headers?.get_last(name)?.as_str().parse::<u64>().ok();
        if let Some(count) = number(NATS_LAST_CONSUMER) {
            self.counted(count, 0);
        }
        if let Some(sequence) = number(NATS_LAST_STREAM) {
            self.seen.sequence.fetch_max(sequence, Ordering::Relaxed);
        }
    }

    /// The server has delivered `count`, of which `here` came just now; if others are missing, everything is looked at.
    fn counted(&mut self, count: u64, here: u64) {
        if self.count + here != count {
            tracing::debug!(
                component = "registry",
                known = self.count,
                count,
                "the watch has missed something"
            );
            self.seen.note(None);
        }
        self.count = count;
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
