//! JetStream pull consumers: ack, nak and term.

use std::{sync::Arc, time::Duration};

use arqon_message::BoxError;
use async_nats::jetstream::{
    AckKind, Message,
    consumer::{PullConsumer, StreamError, pull},
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tokio::{
    task::JoinSet,
    time::{Instant, interval_at, sleep},
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{Server, answer::Outcome};

/// The pauses between two tries of one message, and of asking a consumer that does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a request for messages stays open at the server.
const PULL_EXPIRES: Duration = Duration::from_secs(30);

pub(super) async fn run<S, B>(server: &Arc<Server<S>>, consumer: &PullConsumer, stop: CancellationToken)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let mut working = JoinSet::new();
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        match open(consumer, server.limits.in_flight_max).await {
            Ok(messages) => {
                if take(server, consumer, messages, &mut working, &stop).await {
                    failures = 0;
                }
            }
            Err(error) => tracing::debug!(component = "nats", %error, "the consumer does not answer"),
        }
        if !stop.is_cancelled() {
            failures = failures.saturating_add(1);
            let pause = pause(u64::from(failures));
            tracing::warn!(
                component = "nats",
                consumer = consumer.cached_info().name,
                pause_ms = pause.as_millis() as u64,
                "the consumer is asked again after a pause"
            );
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pause) => {}
            }
        }
    }
    let deadline = Instant::now() + server.limits.drain_timeout;
    server.end(working, deadline, "they come again").await;
}

async fn open(consumer: &PullConsumer, in_flight_max: usize) -> Result<pull::Stream, StreamError> {
    consumer
        .stream()
        .max_messages_per_batch(in_flight_max)
        .expires(PULL_EXPIRES)
        .messages()
        .await
}

/// Works on what comes until `stop` or until the consumer fails; whether any message came.
async fn take<S, B>(
    server: &Arc<Server<S>>,
    consumer: &PullConsumer,
    mut messages: pull::Stream,
    working: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> bool
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let ack_wait = consumer.cached_info().config.ack_wait;
    let mut came = false;
    loop {
        let has_room = working.len() < server.limits.in_flight_max;
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = working.join_next() => {}
            message = messages.next(), if has_room => match message {
                Some(Ok(message)) => {
                    came = true;
                    let server = Arc::clone(server);
                    working.spawn(async move { server.settle(message, ack_wait).await });
                }
                Some(Err(error)) => {
                    tracing::debug!(component = "nats", %error, "no more messages from the consumer for now");
                    break;
                }
                None => break,
            },
        }
    }
    // What came and was not begun goes back at once, so that another node need not wait for it.
    while let Some(Some(Ok(message))) = messages.next().now_or_never() {
        server.send("a nak", message.ack_with(AckKind::Nak(None))).await;
    }
    came
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
    async fn settle(&self, message: Message, ack_wait: Duration) {
        let (delivered, sequence) = message.info().map_or((1, 0), |info| {
            (u64::try_from(info.delivered).unwrap_or(1), info.stream_sequence)
        });
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
