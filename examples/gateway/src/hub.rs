//! Subscriptions for WebSocket sessions, from whichever engine runs.

use std::{sync::atomic::Ordering, time::Duration};

use arqon::{Code, Problem, Subject, SubjectPattern, memory::Broker, publish::Message};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::ws::Deliveries;

/// How long NATS may take to take a subscription.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_millis(800);

/// Where published messages are heard.
#[derive(Clone)]
pub(crate) enum Hub {
    Memory(Broker),
    Nats {
        client: async_nats::Client,
        /// Changes whenever messages may have passed by: the connection was lost, or the client had no more room.
        losses: watch::Receiver<u64>,
    },
}

impl Hub {
    /// Sends what the pattern covers to the session until the handle is dropped. A session that has no more room, or for
    /// which the broker had none, or whose messages NATS did not deliver, has lost a message and ends.
    pub(crate) async fn subscribe(
        &self,
        pattern: SubjectPattern,
        deliveries: &Deliveries,
    ) -> Result<AbortOnDropHandle<()>, Problem> {
        let deliver = deliveries.end();
        let task = match self {
            Self::Memory(broker) => {
                let mut messages = broker
                    .subscribe_lossless(pattern)
                    .map_err(|error| Problem::new(Code::Overloaded, error.to_string()))?;
                tokio::spawn(async move {
                    while let Some(message) = messages.recv().await {
                        if !deliver.hand(message) {
                            return;
                        }
                    }
                    deliver.lose();
                })
            }
            Self::Nats { client, losses } => {
                if let Err(reason) = arqon::nats::connect::ready(client) {
                    return Err(Problem::new(Code::PublishUnavailable, reason));
                }
                // Both before the subscription: what is lost from here on is told.
                let (mut losses, counts) = (losses.clone(), client.statistics());
                losses.mark_unchanged();
                let connects = counts.connects.load(Ordering::Relaxed);
                // The client waits for ever once its queue is full.
                let subscribing =
                    timeout(SUBSCRIBE_TIMEOUT, client.subscribe(pattern.as_str().to_owned())).await;
                let mut messages = subscribing
                    .map_err(|_| "NATS takes nothing".to_owned())
                    .and_then(|subscribed| subscribed.map_err(|error| error.to_string()))
                    .map_err(|reason| Problem::new(Code::PublishUnavailable, reason))?;
                tokio::spawn(async move {
                    loop {
                        let message = tokio::select! {
                            biased;
                            _ = losses.changed() => break,
                            message = messages.next() => message,
                        };
                        let Some(message) = message else { break };
                        // The first message of another connection may come before its loss is told.
                        if counts.connects.load(Ordering::Relaxed) != connects {
                            break;
                        }
                        let Some(message) = taken(message) else { continue };
                        if !deliver.hand(message) {
                            return;
                        }
                    }
                    deliver.lose();
                })
            }
        };
        Ok(AbortOnDropHandle::new(task))
    }
}

/// A NATS message as ours; one whose subject or headers HTTP has no form for is left out of what it cannot carry.
fn taken(message: async_nats::Message) -> Option<Message> {
    let subject = Subject::parse(message.subject.as_str()).ok()?;
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter().flat_map(async_nats::HeaderMap::iter) {
        let Ok(name) = AsRef::<str>::as_ref(name).parse::<HeaderName>() else {
            continue;
        };
        for value in values {
            if let Ok(value) = HeaderValue::from_str(value.as_str()) {
                let _ = headers.try_append(name.clone(), value);
            }
        }
    }
    Some(Message {
        subject,
        headers,
        payload: message.payload,
    })
}
