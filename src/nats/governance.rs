//! The control log on JetStream (DESIGN 8): stream `ARQON_GOV`, read by every node from where it stands.

mod limits;
mod session;
mod told;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arqon_message::{BoxError, TenantId};
use arqon_rollout::{
    Appended, Batch, CURRENT, Channel, ControlLog, LogError, LogFuture, NodeId, Record, UpstreamMessage,
    Uptime,
};
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
    message::PublishMessage,
    response::Response,
    stream::{self, StorageType, Stream},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{sleep, timeout};

use self::{
    limits::keeps_everything,
    session::{Opened, Session},
    told::Told,
};
use super::{Connection, connection::Life, stored::stored};

/// The stream of the control log.
pub const STREAM: &str = "ARQON_GOV";

/// What the stream takes: decisions and proposals of every tenant. Telemetry and alerts are under `tel` and not kept.
pub const SUBJECTS: [&str; 2] = ["gov.t.*.down", "gov.t.*.up.*"];

/// How often a read that waits asks whether nothing is new indeed: by the wall clock, so that all nodes ask, and with
/// that let their shares rise, at the same moments.
const BEAT: Duration = arqon_rollout::TICK;
/// How often the server says that it still knows this reader.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the server may take to answer a question.
const ANSWER: Duration = Duration::from_secs(1);
/// How often a client that is not connected is looked at.
const RECONNECT_POLL: Duration = Duration::from_millis(25);
/// The most records of one batch.
const BATCH: usize = 256;
/// How long a consumer that nobody reads is kept by the server.
const INACTIVE: Duration = Duration::from_secs(30);

/// The answer to one question, within its time.
async fn answered<T, E: Into<BoxError>>(question: impl Future<Output = Result<T, E>>) -> Result<T, BoxError> {
    timeout(ANSWER, question)
        .await
        .map_err(|_| "NATS did not answer within a second")?
        .map_err(Into::into)
}

/// The control log in JetStream stream `ARQON_GOV`: file storage, no limit of age or number, neither delete nor purge.
///
/// Reading follows the stream by a consumer of its own and, when nothing comes, asks the stream's leader every 250 ms
/// where its end is: only that answer is contact. A node that stands at position `n` looks at the entry `n` again after
/// every reconnect; when it is another than the one it folded, or gone, the stream is not the one it knew: the batch says
/// `gap`, which holds every share, and the new stream is read from its start, behind the old positions, so that a stop in
/// it still acts.
#[derive(Debug)]
pub struct NatsControlLog {
    nats: Connection,
    /// What decisions go by.
    appends: Connection,
    /// None: the stream is somebody else's to make.
    replicas: Option<usize>,
    session: Mutex<Option<Session>>,
    /// The last entry this node knows, to recognise the stream by.
    anchor: Mutex<Option<Anchor>>,
    /// Where following it ended last without a record: the next one is read by the API.
    broke_at: Mutex<Option<u64>>,
    /// Added to the stream's positions: above 0 once it was replaced.
    offset: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Anchor {
    seq: u64,
    envelope: Bytes,
}

/// Where a node's telemetry and alerts go: `gov.t.<tenant>.tel.<node>`.
#[must_use]
pub fn telemetry_subject(tenant: &TenantId, node: &NodeId) -> String {
    format!("gov.t.{tenant}.tel.{node}")
}

impl NatsControlLog {
    /// The log that `nats` reaches. The stream is made when it is first needed, with `replicas` copies.
    #[must_use]
    pub fn new(nats: impl Into<Connection>, replicas: usize) -> Self {
        let nats = nats.into();
        Self {
            appends: nats.clone(),
            nats,
            replicas: Some(replicas),
            session: Mutex::new(None),
            anchor: Mutex::new(None),
            broke_at: Mutex::new(None),
            offset: AtomicU64::new(0),
        }
    }

    /// The log as it is: without a stream there is none.
    #[must_use]
    pub fn existing(nats: impl Into<Connection>) -> Self {
        Self {
            replicas: None,
            ..Self::new(nats, 1)
        }
    }

    /// Appends by another client than the one that reads: a record of which the reader dies does not keep a stop from the log.
    #[must_use]
    pub fn appends_through(mut self, nats: impl Into<Connection>) -> Self {
        self.appends = nats.into();
        self
    }

    /// Knows the stream by this record, such as the last one of the audit trail.
    #[must_use]
    pub fn anchored(self, last: Option<&Record>) -> Self {
        *lock(&self.anchor) = last.map(|record| Anchor {
            seq: record.seq,
            envelope: record.envelope.clone(),
        });
        self
    }

    /// Finds the stream by this client, or makes it.
    async fn stream(&self, nats: &Life) -> Result<Stream, BoxError> {
        let Some(replicas) = self.replicas else {
            let found = nats.jetstream.get_stream(STREAM).await;
            return found.map_err(|error| {
                format!("stream {STREAM} is not there ({error}): a gateway makes it").into()
            });
        };
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: SUBJECTS.map(str::to_owned).to_vec(),
            storage: StorageType::File,
            num_replicas: replicas,
            deny_delete: true,
            deny_purge: true,
            description: Some("Arqon's control log".to_owned()),
            ..stream::Config::default()
        };
        let stream = nats.jetstream.get_or_create_stream(config).await?;
        keeps_everything(&stream.cached_info().config)?;
        Ok(stream)
    }

    fn connected(&self) -> bool {
        self.nats.is_connected()
    }

    /// Waits for a connection, at most a heartbeat.
    async fn connection(&self) -> Result<(), BoxError> {
        let connected = async {
            while !self.connected() {
                sleep(RECONNECT_POLL).await;
            }
        };
        timeout(HEARTBEAT, connected)
            .await
            .map_err(|_| "not connected to NATS".into())
    }

    /// Follows the stream after position `after`.
    async fn open(&self, after: u64) -> Result<Opened, BoxError> {
        // Half a dozen questions one behind the other: each has its time, or a slow network would never get through them.
        let mut stream = answered(self.stream(&self.nats.life())).await?;
        let state = answered(stream.info()).await?.state.clone();
        let offset = self.offset.load(Ordering::Relaxed);
        let mut from = after.saturating_sub(offset);
        let mut gap = false;
        if from > 0 && !answered(self.recognises(after, from, &state)).await? {
            tracing::error!(
                component = "governance",
                position = after,
                "the stream is not the one this node knew"
            );
            self.offset.store(after, Ordering::Relaxed);
            (from, gap) = (0, true);
        }
        // Nothing is ever deleted: what the stream lacks at its start is lost.
        if state.last_sequence > 0 && from + 1 < state.first_sequence {
            (from, gap) = (state.first_sequence - 1, true);
        }
        let broke_at = lock(&self.broke_at).take();
        if !gap
            && broke_at == Some(after)
            && let Some(batch) = answered(self.read_stored(from + 1)).await?
        {
            return Ok(Opened::Read(batch));
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: from + 1,
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let asked = Uptime::now();
        let told = answered(self.look()).await?;
        let offset = self.offset.load(Ordering::Relaxed);
        let consumer = answered(stream.create_consumer(config)).await?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .expires(Duration::from_secs(30))
            .heartbeat(HEARTBEAT);
        let messages = answered(messages.messages()).await?;
        Ok(Opened::Session(Box::new(Session {
            told_us: told.time_us(),
            messages,
            known: (asked, told.end() + offset),
            asked: after,
            at: from + offset,
            gap,
            fresh: true,
            lost: false,
        })))
    }

    /// The record at `sequence` by the API, if there is one: one that ends the client when it is delivered can be read so, and the
    /// log does not end at it.
    async fn read_stored(&self, sequence: u64) -> Result<Option<Batch>, BoxError> {
        let (nats, asked) = (self.nats.life(), Uptime::now());
        let wanted = serde_json::json!({"seq": sequence});
        let Some(message) = stored(&nats.jetstream, STREAM, wanted).await?? else {
            return Ok(None);
        };
        let seq = sequence + self.offset.load(Ordering::Relaxed);
        let record = self.record(
            seq,
            message.time.unix_timestamp_nanos(),
            &message.subject,
            STANDARD.decode(message.payload)?.into(),
        )?;
        Ok(Some(Batch {
            records: vec![record],
            more: true,
            asked: Some(asked),
            ..Batch::default()
        }))
    }

    /// Whether the stream holds what this node has at its position.
    async fn recognises(&self, after: u64, from: u64, state: &stream::State) -> Result<bool, BoxError> {
        if state.last_sequence < from {
            return Ok(false);
        }
        let anchor = lock(&self.anchor).clone().filter(|anchor| anchor.seq == after);
        let Some(anchor) = anchor else { return Ok(true) };
        let nats = self.nats.life();
        // Its headers are not looked at: they may be unreadable.
        let found = stored(&nats.jetstream, STREAM, serde_json::json!({"seq": from})).await??;
        match found {
            Some(message) => Ok(STANDARD.decode(message.payload)? == anchor.envelope),
            None => Ok(false),
        }
    }

    /// Asks the stream's leader where its end is, and what time it is there.
    async fn look(&self) -> Result<Told, BoxError> {
        let subject = format!("STREAM.INFO.{STREAM}");
        let nats = self.nats.life();
        match nats.jetstream.request(subject, &serde_json::json!({})).await? {
            Response::Ok(told) => Ok(told),
            Response::Err { error } => Err(error.into()),
        }
    }

    async fn next_batch(&self, after: u64) -> Result<Batch, BoxError> {
        self.connection().await?;
        let known = lock(&self.session)
            .take()
            .filter(|session| session.asked == after);
        let mut session = match known {
            Some(session) => session,
            None => match self.open(after).await? {
                Opened::Session(session) => *session,
                Opened::Read(batch) => return Ok(batch),
            },
        };
        let batch = self.follow(&mut session).await;
        if batch.is_err() {
            *lock(&self.broke_at) = Some(after);
        }
        let batch = batch?;
        if !session.lost {
            *lock(&self.session) = Some(session);
        }
        Ok(batch)
    }

    async fn follow(&self, session: &mut Session) -> Result<Batch, BoxError> {
        let mut batch = Batch {
            gap: std::mem::take(&mut session.gap),
            log_time_us: session.told_us.take(),
            asked: Some(session.known.0),
            ..Batch::default()
        };
        if batch.gap {
            return Ok(batch);
        }
        // What is older says nothing soon.
        let is_due = session.known.0.elapsed() > CURRENT / 2;
        let quiet = if is_due { Duration::ZERO } else { until_beat() };
        let first = match timeout(quiet, session.messages.next()).await {
            Ok(first) => first,
            Err(_) => {
                let asked = Uptime::now();
                let told = answered(self.look()).await?;
                let offset = self.offset.load(Ordering::Relaxed);
                let (end, here) = (told.end(), session.at.saturating_sub(offset));
                session.known = (asked, end + offset);
                batch.asked = Some(asked);
                if end == here {
                    batch.log_time_us = told.time_us();
                    return Ok(batch);
                }
                // It is on its way, or the stream is another one: then the next read begins anew.
                timeout(ANSWER, session.messages.next())
                    .await
                    .map_err(|_| format!("at {here} of a log that ends at {end}"))?
            }
        };
        let mut next = Some(first.ok_or("the stream's messages ended")?);
        while let Some(message) = next.take() {
            let message = message?;
            if !batch.records.is_empty() && self.position(&message)? != session.at + 1 {
                (session.lost, batch.more) = (true, true);
                return Ok(batch);
            }
            let follows = self.take(&message, session, &mut batch)?;
            if batch.records.len() < BATCH {
                batch.more = follows;
                next = session.messages.next().now_or_never().flatten();
            } else {
                // What the client holds already is not counted by the server.
                batch.more = true;
            }
        }
        // Those that the server sent first had none behind them then.
        batch.more |= session.at < session.known.1;
        Ok(batch)
    }

    fn position(&self, message: &jetstream::Message) -> Result<u64, BoxError> {
        Ok(message.info()?.stream_sequence + self.offset.load(Ordering::Relaxed))
    }

    /// Adds a message to a batch; true if more are on their way.
    fn take(
        &self,
        message: &jetstream::Message,
        session: &mut Session,
        batch: &mut Batch,
    ) -> Result<bool, BoxError> {
        let info = message.info()?;
        let seq = self.position(message)?;
        if seq != session.at + 1 {
            if !session.fresh {
                // Lost on the way, or deleted by somebody: the next read asks for it again.
                return Err(format!("position {seq} came after {}", session.at).into());
            }
            batch.gap = true;
        }
        (session.at, session.asked, session.fresh) = (seq, seq, false);
        let record = self.record(
            seq,
            info.published.unix_timestamp_nanos(),
            &message.subject,
            message.payload.clone(),
        )?;
        batch.records.push(record);
        Ok(info.pending > 0)
    }

    /// A record that was read, by which the stream is known from now on.
    fn record(
        &self,
        seq: u64,
        published_ns: i128,
        subject: &str,
        envelope: Bytes,
    ) -> Result<Record, BoxError> {
        let received_at_us = u64::try_from(published_ns / 1_000)?;
        *lock(&self.anchor) = Some(Anchor {
            seq,
            envelope: envelope.clone(),
        });
        let channel = match subject.parse::<Channel>() {
            Ok(channel) => channel,
            Err(error) => {
                // The position has to move on all the same: a record that every node refuses alike.
                tracing::warn!(component = "governance", %error, seq, "a subject of the control log cannot be used");
                Channel::Down(TenantId::new("unread")?)
            }
        };
        Ok(Record {
            seq,
            received_at_us,
            channel,
            envelope,
            catalog: None,
        })
    }

    async fn store(&self, channel: Channel, envelope: Bytes) -> Result<Appended, BoxError> {
        // The client would queue for a server that is away, and block once its queue is full.
        let nats = self.appends.life();
        if !nats.is_connected() {
            return Err("not connected to NATS".into());
        }
        let publish = || {
            let message = PublishMessage::build()
                .payload(envelope.clone())
                .expected_stream(STREAM);
            nats.jetstream.send_publish(channel.to_string(), message)
        };
        let acked = match publish().await?.await {
            Err(error) if error.kind() == jetstream::context::PublishErrorKind::StreamNotFound => {
                self.stream(&nats).await?;
                publish().await?.await
            }
            acked => acked,
        };
        let offset = self.offset.load(Ordering::Relaxed);
        Ok(Appended {
            seq: acked?.sequence + offset,
        })
    }

    async fn tell(&self, from: Channel, message: UpstreamMessage) -> Result<(), BoxError> {
        let Channel::Up(tenant, node) = &from else {
            return Err("only a node reports".into());
        };
        if !self.connected() {
            return Err("not connected to NATS".into());
        }
        let payload = serde_json::to_vec(&message)?;
        let client = self.nats.client();
        client
            .publish(telemetry_subject(tenant, node), payload.into())
            .await?;
        client.flush().await?;
        Ok(())
    }
}

/// The time to the next beat of the wall clock.
fn until_beat() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let into = now.as_millis() % BEAT.as_millis();
    BEAT - Duration::from_millis(u64::try_from(into).unwrap_or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every value is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ControlLog for NatsControlLog {
    fn append(&self, channel: Channel, envelope: Bytes) -> LogFuture<'_, Appended> {
        Box::pin(async move { self.store(channel, envelope).await.map_err(LogError::Unavailable) })
    }

    fn read(&self, after: u64) -> LogFuture<'_, Batch> {
        Box::pin(async move { self.next_batch(after).await.map_err(LogError::Unavailable) })
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn report(&self, from: Channel, message: UpstreamMessage) -> LogFuture<'_, ()> {
        Box::pin(async move { self.tell(from, message).await.map_err(LogError::Unavailable) })
    }
}
