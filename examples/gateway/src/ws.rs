//! WebSocket sessions: every frame is a request on the same stack as an HTTP publish.

use std::time::Duration;

use arqon::{
    Claims, Code, ConnectionId, Problem, Protocol, Rejection, RemoteAddr, RolloutLayer, Subject, TenantId,
    TraceKey, collect,
    publish::Message,
    rollout::SessionVariant,
    shadow::{SessionPin, ShadowHandle},
};
use axum::{
    body::Body,
    extract::ws::{CloseFrame, Message as WsMessage, Utf8Bytes, WebSocket, close_code},
};
use http::{Method, Request, request::Parts};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    frame::{self, Frame},
    hub::Hub,
    routes::MessageService,
};

/// How long a peer may take to take one frame before it is given up as too slow.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer of the stack that goes into an ack, in bytes.
const ACK_BYTES_MAX: usize = 64 * 1024;
/// How many subscriptions one session may have.
const SUBSCRIPTIONS_MAX: usize = 64;
/// How many deliveries may wait for one session.
const DELIVERIES_MAX: usize = 256;

/// What a session keeps of its upgrade request.
#[derive(Clone)]
pub(crate) struct Session {
    tenant: TenantId,
    key: Option<TraceKey>,
    connection: Option<ConnectionId>,
    claims: Option<Claims>,
    remote: Option<RemoteAddr>,
    variant: SessionVariant,
    /// The mirror's border as it was at the upgrade.
    pin: SessionPin,
    stack: MessageService,
    hub: Hub,
    stop: CancellationToken,
}

impl Session {
    pub(crate) fn of(
        upgrade: &Parts,
        tenant: TenantId,
        (rollout, shadow): (&RolloutLayer, &ShadowHandle),
        stack: MessageService,
        hub: Hub,
        stop: CancellationToken,
    ) -> Self {
        let extensions = &upgrade.extensions;
        Self {
            tenant,
            key: TraceKey::from_request(&upgrade.headers, extensions),
            connection: extensions.get().copied(),
            claims: extensions.get().cloned(),
            remote: extensions.get().copied(),
            variant: rollout.session(&upgrade.headers, extensions),
            pin: shadow.session(),
            stack,
            hub,
            stop,
        }
    }

    /// Serves the session until the peer closes, a policy ends it, or the gateway drains.
    pub(crate) async fn run(self, mut socket: WebSocket) {
        let (deliver, mut deliveries) = mpsc::channel(DELIVERIES_MAX);
        let mut subscriptions = Vec::new();
        loop {
            let reply = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    return close(&mut socket, close_code::AWAY, "the gateway is going away").await;
                }
                Some(message) = deliveries.recv() => Reply::Text(frame::deliver(&message)),
                received = socket.recv() => match received {
                    None => return,
                    Some(Err(error)) => return fail(&mut socket, &error).await,
                    Some(Ok(WsMessage::Text(text))) => {
                        self.answer(&text, &deliver, &mut subscriptions).await
                    }
                    Some(Ok(WsMessage::Binary(_))) => {
                        return close(&mut socket, close_code::UNSUPPORTED, "arqon.v1.json has text frames only").await;
                    }
                    Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_))) => Reply::Nothing,
                    Some(Ok(WsMessage::Close(_))) => return,
                },
            };
            let (text, ends) = match reply {
                Reply::Nothing => continue,
                Reply::Text(text) => (text, false),
                Reply::Last(text) => (text, true),
            };
            match timeout(SEND_TIMEOUT, socket.send(WsMessage::Text(text.into()))).await {
                Ok(Ok(())) if ends => {
                    return close(&mut socket, close_code::POLICY, "a policy ended the session").await;
                }
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => return close(&mut socket, close_code::AGAIN, "the peer reads too slowly").await,
            }
        }
    }

    async fn answer(
        &self,
        text: &str,
        deliver: &mpsc::Sender<Message>,
        subscriptions: &mut Vec<tokio_util::task::AbortOnDropHandle<()>>,
    ) -> Reply {
        match frame::read(text, &self.tenant) {
            Err(refused) => Reply::Text(frame::nack(&refused.0, &refused.1)),
            Ok(Frame::Publish {
                id,
                subject,
                headers,
                payload,
            }) => {
                let mut request = Request::new(Body::from(payload));
                *request.headers_mut() = headers;
                self.publish(&id, subject, request).await
            }
            Ok(Frame::Subscribe { id, pattern }) => {
                if subscriptions.len() >= SUBSCRIPTIONS_MAX {
                    let detail = format!("a session has at most {SUBSCRIPTIONS_MAX} subscriptions");
                    return Reply::Text(frame::nack(&id, &Problem::new(Code::Overloaded, detail)));
                }
                let suffix = pattern.as_str().to_owned();
                match self.hub.subscribe(pattern, deliver.clone()).await {
                    Ok(subscription) => {
                        subscriptions.push(subscription);
                        Reply::Text(json!({ "id": id, "ack": { "subscribed": suffix } }).to_string())
                    }
                    Err(problem) => Reply::Text(frame::nack(&id, &problem)),
                }
            }
        }
    }

    /// A frame is `POST /v1/publish/<suffix>` with the frame's headers only.
    async fn publish(&self, id: &Value, subject: Subject, mut request: Request<Body>) -> Reply {
        *request.method_mut() = Method::POST;
        let path = format!(
            "/v1/publish/{}",
            crate::routes::escape(subject.suffix().unwrap_or_default())
        );
        match path.parse() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(_) => {
                let problem = Problem::new(Code::SubjectInvalid, "the subject makes no path");
                return Reply::Text(frame::nack(id, &problem));
            }
        }
        let key = TraceKey::of_trace(request.headers()).or(self.key);
        let extensions = request.extensions_mut();
        extensions.insert(subject);
        extensions.insert(self.tenant.clone());
        extensions.insert(Protocol::Ws);
        extensions.insert(self.variant.clone());
        extensions.insert(self.pin.clone());
        if let Some(key) = key {
            extensions.insert(key);
        }
        if let Some(connection) = self.connection {
            extensions.insert(connection);
        }
        if let Some(claims) = &self.claims {
            extensions.insert(claims.clone());
        }
        if let Some(remote) = self.remote {
            extensions.insert(remote);
        }
        let response = match self.stack.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            let text = frame::nack(id, rejection.problem());
            return if rejection.closes_session() {
                Reply::Last(text)
            } else {
                Reply::Text(text)
            };
        }
        let status = response.status();
        match collect(response.into_body(), ACK_BYTES_MAX).await {
            Ok(body) if status.is_success() => Reply::Text(frame::ack(id, &body.bytes)),
            _ => {
                let problem = Problem::new(Code::Internal, format!("the handler answered {status}"));
                Reply::Text(frame::nack(id, &problem))
            }
        }
    }
}

enum Reply {
    Nothing,
    Text(String),
    /// The session ends with it.
    Last(String),
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    };
    let closing = async {
        if socket.send(WsMessage::Close(Some(frame))).await.is_ok() {
            // The peer answers with its own close frame; what else it sends is not read any more.
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    let _ = timeout(Duration::from_secs(2), closing).await;
}

/// A frame that breaks RFC 6455: say which way, and close.
async fn fail(socket: &mut WebSocket, error: &axum::Error) {
    let said = error.to_string();
    let (code, reason) = if said.contains("too long") || said.contains("Space limit") {
        (close_code::SIZE, "the message is too large")
    } else if said.contains("UTF-8") {
        (close_code::INVALID, "text has to be UTF-8")
    } else {
        (close_code::PROTOCOL, "the frame breaks the protocol")
    };
    close(socket, code, reason).await;
}

#[cfg(test)]
mod tests;
