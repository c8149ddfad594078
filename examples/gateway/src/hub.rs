//! Subscriptions for WebSocket sessions, from whichever engine runs.

use arqon::{Code, Problem, Subject, SubjectPattern, memory::Broker, publish::Message};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio_util::task::AbortOnDropHandle;

use crate::ws::Deliveries;

/// Where published messages are heard.
#[derive(Clone)]
pub(crate) enum Hub {
    Memory(Broker),
    Nats(async_nats::Client),
}

impl Hub {
    /// Sends what the pattern covers to the session until the handle is dropped. A session that takes nothing for its send
    /// timeout, or for which the broker had no more room, has lost a message and ends.
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
                        if !deliver.hand(message).await {
                            return;
                        }
                    }
                    deliver.lose();
                })
            }
            Self::Nats(client) => {
                if let Err(reason) = arqon::nats::connect::ready(client) {
                    return Err(Problem::new(Code::PublishUnavailable, reason));
                }
                let mut messages = client
                    .subscribe(pattern.as_str().to_owned())
                    .await
                    .map_err(|error| Problem::new(Code::PublishUnavailable, error.to_string()))?;
                tokio::spawn(async move {
                    while let Some(message) = messages.next().await {
                        let Some(message) = taken(message) else { continue };
                        if !deliver.hand(message).await {
                            return;
                        }
                    }
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
