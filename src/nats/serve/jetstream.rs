//! JetStream pull consumers: ack, nak and term.

use std::{fmt::Display, sync::Arc, time::Duration};

use arqon_message::BoxError;
use async_nats::jetstream::{
    AckKind, Context, Message,
    consumer::{
        PullConsumer, StreamError,
        pull::{self, BatchError},
    },
};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, interval_at, sleep},
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{ServeError, Server, answer::Outcome, cuts::Cuts};

/// The pauses between two tries of one message, and of asking a consumer that does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a request for messages stays open at the server.
const PULL_EXPIRES: Duration = Duration::from_secs(30);

/// The shortest time for which one message is asked for.
const ONE_EXPIRES_MIN: Duration = Duration::from_millis(100);
/// How often it is looked whether the connection was cut.
const CUT_EVERY: Duration = Duration::from_millis(50);

/// Why no more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Stopped,
    /// The connection was cut.
    Cut,
    /// What was asked for is over.
    Over,
    /// The consumer does not answer as it should.
    Failed,
}

pub(super) async fn run<S, B>(
    server: &Arc<Server<S>>,
    consumer: &PullConsumer,
    context: Option<Context>,
    stop: CancellationToken,
) -> Result<(), ServeError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let mut working = JoinSet::new();
    let taken = take_all(server, consumer, context, &mut working, &stop).await;
    let deadline = Instant::now() + server.limits.drain_timeout;
    server.end(working, deadline, "they come again").await;
    taken.map_err(|error| {
        tracing::debug!(component = "nats", %error, "the consumer's client was closed");
        ServeError::Closed
    })
}

/// Works on what comes until `stop`, or until the client is closed.
async fn take_all<S, B>(
    server: &Arc<Server<S>>,
    consumer: &PullConsumer,
    context: Option<Context>,
    working: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<(), BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let mut cuts = Cuts::of(&server.heard.client(), context, consumer);
    let mut failures = 0_u32;
    // Nothing is asked for before there is a connection, since it is looked at first what is owed.
    while !stop.is_cancelled() && server.heard.connects() == 0 {
        pause_until(stop, CUT_EVERY).await;
    }
    while !stop.is_cancelled() {
        if cuts.is_due() {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = cuts.look(server) => {}
            }
        }
        let alone = cuts.alone();
        let (came, ended) = match alone {
            Some(left) => {
                let one = one(consumer, left).await?;
                take(server, consumer, one, &mut cuts, working, stop).await
            }
            None => {
                let messages = open(consumer, server.limits.in_flight_max).await?;
                take(server, consumer, messages, &mut cuts, working, stop).await
            }
        };
        if came {
            failures = 0;
        }
        // One message, or none in time, is all that was asked for; many have no end.
        if ended == Ended::Failed || ended == Ended::Over && alone.is_none() {
            failures = failures.saturating_add(1);
            let pause = pause(u64::from(failures));
            tracing::warn!(
                component = "nats",
                consumer = consumer.cached_info().name,
                pause_ms = pause.as_millis() as u64,
                "the consumer is asked again after a pause"
            );
            pause_until(stop, pause).await;
        }
    }
    Ok(())
}

async fn pause_until(stop: &CancellationToken, pause: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(pause) => {}
    }
}

async fn open(consumer: &PullConsumer, in_flight_max: usize) -> Result<pull::Stream, StreamError> {
    consumer
        .stream()
        .max_messages_per_batch(in_flight_max)
        .expires(PULL_EXPIRES)
        .messages()
        .await
}

/// One message, if it comes before `left` is over: nothing else is asked for, so nothing is lost with it.
async fn one(consumer: &PullConsumer, left: Duration) -> Result<pull::Batch, BatchError> {
    consumer
        .batch()
        .max_messages(1)
        .expires(left.clamp(ONE_EXPIRES_MIN, PULL_EXPIRES))
        .messages()
        .await
}

/// Works on what comes until `stop`, until the consumer fails, or until the connection is cut; and whether any message
/// came.
async fn take<S, B, M, E>(
    server: &Arc<Server<S>>,
    consumer: &PullConsumer,
    mut messages: M,
    cuts: &mut Cuts,
    working: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> (bool, Ended)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
    M: Stream<Item = Result<Message, E>> + Unpin,
    E: Display,
{
    let ack_wait = consumer.cached_info().config.ack_wait;
    let was_alone = cuts.alone().is_some();
    let mut ticks = interval(CUT_EVERY);
    let mut came = false;
    let ended = loop {
        if cuts.is_due() {
            if was_alone {
                break Ended::Cut;
            }
            tokio::select! {
                () = stop.cancelled() => break Ended::Stopped,
                () = cuts.look(server) => {}
            }
            if cuts.alone().is_some() {
                break Ended::Cut;
            }
        }
        let has_room = working.len() < server.limits.in_flight_max;
        tokio::select! {
            biased;
            () = stop.cancelled() => break Ended::Stopped,
            Some(_) = working.join_next() => {}
            _ = ticks.tick() => {}
            message = messages.next(), if has_room => match message {
                Some(Ok(message)) => {
                    came = true;
                    let (delivered, sequence) = message.info().map_or((1, 0), |info| {
                        (u64::try_from(info.delivered).unwrap_or(1), info.stream_sequence)
                    });
                    cuts.came(sequence);
                    let server = Arc::clone(server);
                    working.spawn(async move { server.settle(message, delivered, sequence, ack_wait).await });
                }
                Some(Err(error)) => {
                    tracing::debug!(component = "nats", %error, "no more messages from the consumer for now");
                    break Ended::Failed;
                }
                None => break Ended::Over,
            },
        }
    };
    // What came and was not begun goes back at once, so that another node need not wait for it.
    while let Some(Some(Ok(message))) = messages.next().now_or_never() {
        server.send("a nak", message.ack_with(AckKind::Nak(None))).await;
    }
    (came, ended)
}

/// What grows from one try to the next.
fn pause(tries: u64) -> Duration {
    let doubled = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    PAUSE_MIN.saturating_mul(1 << doubled).min(PAUSE_MAX)
}

/// What the answer asked for, and no less than what grows: a service that asks for a second each time would have spent all tries of a
/// message while something it needs is away.
fn again_after(asked: Option<Duration>, tries: u64) -> Duration {
    asked.unwrap_or_default().max(pause(tries))
}

impl<S, B> Server<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    async fn settle(&self, message: Message, delivered: u64, sequence: u64, ack_wait: Duration) {
        let answering = self.answer(&message.message);
        let mut answering = std::pin::pin!(answering);
        let every = (ack_wait / 2).max(Duration::from_millis(50));
        let mut alive = interval_at(Instant::now() + every, every);
        let mut answer = loop {
            tokio::select! {
                answer = &mut answering => break answer,
                _ = alive.tick() => self.send("progress", message.ack_with(AckKind::Progress)).await,
            }
        };
        if answer.outcome == Outcome::Failed && delivered >= self.limits.deliveries_max {
            answer.outcome = Outcome::Poison;
        }
        self.count(answer.outcome);
        let kind = match answer.outcome {
            Outcome::Ok => AckKind::Ack,
            Outcome::Failed => AckKind::Nak(Some(again_after(answer.retry_after, delivered))),
            Outcome::Refused | Outcome::Poison => AckKind::Term,
        };
        if answer.outcome == Outcome::Poison {
            tracing::error!(
                component = "nats",
                subject = %message.subject,
                sequence,
                delivered,
                answer = answer.summary,
                "a poison message is terminated"
            );
        }
        self.send("an acknowledgement", message.ack_with(kind)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_tries_take_five_minutes_whatever_the_answers_ask_for() {
        let second = Some(Duration::from_secs(1));
        let waited: Duration = (1..16).map(|tries| again_after(second, tries)).sum();
        assert!(waited > Duration::from_secs(240), "{waited:?}");
        let minute = Duration::from_secs(60);
        assert_eq!(again_after(Some(minute), 1), minute, "who asks for more gets it");
        assert_eq!(again_after(None, 1), PAUSE_MIN);
    }

    #[test]
    fn a_pause_doubles_and_ends_at_thirty_seconds() {
        let pauses = [0, 1, 2, 3, 8, 100, u64::MAX].map(|tries| pause(tries).as_millis());
        assert_eq!(pauses, [250, 250, 500, 1_000, 30_000, 30_000, 30_000]);
    }
}
