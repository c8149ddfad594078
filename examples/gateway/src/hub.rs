//! Subscriptions for WebSocket sessions, from whichever engine runs.

use std::time::Duration;

use arqon::{Code, Problem, Subject, SubjectPattern, TenantId, memory::Broker, publish::Message};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::{hearing::Hearing, ws::Deliveries};

/// How long NATS may take to take a subscription.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_millis(800);

/// Where published messages are heard.
#[derive(Clone)]
pub(crate) enum Hub {
    Memory(Broker),
    Nats(Hearing),
}

impl Hub {
    /// Sends what the pattern covers to the session until the handle is dropped. A session that has no more room, or for
    /// which the broker had none, or whose messages NATS did not deliver, has lost a message and ends.
    pub(crate) async fn subscribe(
        &self,
        tenant: &TenantId,
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
            Self::Nats(hearing) => {
                let away = |reason| Problem::new(Code::PublishUnavailable, reason);
                hearing.ready().map_err(away)?;
                let subscribing = async {
                    let ear = hearing.of(tenant).await.map_err(|error| error.to_string())?;
                    let open = ear.get().ok_or("there is no connection")?;
                    let client = open.nats.client();
                    // A connection that is new is not there yet.
                    client.flush().await.map_err(|error| error.to_string())?;
                    // Both before the subscription: what is lost from here on is told.
                    let (mut losses, nats) = (open.losses.clone(), open.nats.clone());
                    losses.mark_unchanged();
                    let connects = nats.connects();
                    let subscribed = client.subscribe(pattern.as_str().to_owned()).await;
                    let messages = subscribed.map_err(|error| error.to_string())?;
                    // On its way before the session is told: what is published from then on goes by another connection.
                    client.flush().await.map_err(|error| error.to_string())?;
                    Ok::<_, String>((ear, losses, nats, connects, messages))
                };
                // The client waits for ever for a server, and once its queue is full.
                let subscribed = timeout(SUBSCRIBE_TIMEOUT, subscribing).await;
                let (ear, mut losses, nats, connects, mut messages) = subscribed
                    .unwrap_or_else(|_| Err("NATS takes nothing".to_owned()))
                    .map_err(away)?;
                tokio::spawn(async move {
                    let _held = ear;
                    loop {
                        let message = tokio::select! {
                            biased;
                            _ = losses.changed() => break,
                            message = messages.next() => message,
                        };
                        let Some(message) = message else { break };
                        // The first message of another connection may come before its loss is told.
                        if nats.connects() != connects {
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
