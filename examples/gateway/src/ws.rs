//! WebSocket sessions: every frame is a request on the same stack as an HTTP publish.

mod slow;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arqon::{
    Claims, Code, ConnectionId, Problem, Protocol, Rejection, RemoteAddr, Subject, TenantId, TraceKey,
    collect,
    edge::{jwt::Verified, peers::FromTrustedPeer},
    rollout::SessionVariant,
    shadow::SessionPin,
};
use axum::{
    body::Body,
    extract::ws::{CloseFrame, Message as WsMessage, Utf8Bytes, WebSocket, close_code},
};
use http::{Method, Request, Uri, request::Parts};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

pub(crate) use self::slow::Deliveries;
use self::slow::Gap;
use crate::{
    buffers::{NO_ROOM, Unread},
    frame::{Answer, Dialect, Frame, FrameId},
    routes::{self, Public},
    server::Held,
};

/// The largest answer of the stack that goes into an ack, in bytes.
const ACK_BYTES_MAX: usize = 64 * 1024;
/// How many subscriptions one session may have.
const SUBSCRIPTIONS_MAX: usize = 64;
/// What a control frame of a client has around its payload, in bytes (RFC 6455, 5.2).
const CONTROL_FRAME_BYTES: usize = 6;
/// How long a peer may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a session keeps of its upgrade request.
#[derive(Clone)]
pub(crate) struct Session {
    dialect: Dialect,
    tenant: TenantId,
    key: Option<TraceKey>,
    connection: Option<ConnectionId>,
    claims: Option<Claims>,
    verified: Option<Verified>,
    remote: Option<RemoteAddr>,
    trusted: Option<FromTrustedPeer>,
    variant: SessionVariant,
    /// The mirror's border as it was at the upgrade.
    pin: SessionPin,
    /// Its connection's place.
    held: Option<Held>,
    public: Arc<Public>,
}

/// Why the session ends, as the close frame says it.
type Ending = (u16, &'static str);

impl Session {
    pub(crate) fn of(upgrade: &Parts, dialect: Dialect, tenant: TenantId, public: Arc<Public>) -> Self {
        let extensions = &upgrade.extensions;
        Self {
            dialect,
            tenant,
            key: TraceKey::from_request(&upgrade.headers, extensions),
            connection: extensions.get().copied(),
            claims: extensions.get().cloned(),
            verified: extensions.get().cloned(),
            remote: extensions.get().copied(),
            trusted: extensions.get().copied(),
            variant: public.rollout.session(&upgrade.headers, extensions),
            pin: public.shadow.session(),
            held: extensions.get().cloned(),
            public,
        }
    }

    /// Serves the session until the peer closes or is gone, its token ends, a policy ends it, or the gateway drains.
    pub(crate) async fn run(self, mut socket: WebSocket) {
        let Some((code, reason)) = self.serve(&mut socket).await else {
            // Where the peer has closed, reading on is what writes the answer to it.
            let answered = async { while let Some(Ok(_)) = socket.recv().await {} };
            let _ = timeout(CLOSE_TIMEOUT, answered).await;
            return;
        };
        metrics::counter!("shield_websocket_closed_total", "code" => code.to_string()).increment(1);
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
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }

    /// `None` when the peer has closed, or is not there any more.
    async fn serve(&self, socket: &mut WebSocket) -> Option<Ending> {
        let share = self.public.edge.buffers.share(&self.tenant);
        let mut deliveries = Deliveries::new(&share);
        let unread = self.held.as_ref().map(|held| held.meter().begin(&share));
        let mut subscriptions = Vec::new();
        let limits = self.public.edge.websocket;
        let (ping, idle) = (
            Duration::from_secs(limits.ping_seconds),
            Duration::from_secs(limits.idle_seconds),
        );
        let mut heard = Instant::now();
        let mut pinged = heard;
        loop {
            // A client that pings us is never pinged.
            if let Some(ending) = self.withdrawn() {
                return Some(ending);
            }
            let next_ping = heard.max(pinged) + ping;
            // A message has as long as a body has; one that begins meanwhile is looked at with the next ping.
            let whole = unread
                .and_then(Unread::since)
                .map(|since| since + self.public.request_timeout);
            let wake = self
                .ends()
                .into_iter()
                .chain(whole)
                .fold(next_ping.min(heard + idle), Instant::min);
            let (message, ends) = tokio::select! {
                () = self.public.stop.cancelled() => return Some((close_code::AWAY, "the gateway is going away")),
                delivered = deliveries.next() => match delivered {
                    Ok(message) => (self.dialect.write(&Answer::Delivery(message)), false),
                    Err(Gap::Slow) => return Some(SLOW),
                    Err(Gap::Missed) => return Some(MISSED),
                },
                received = socket.recv() => {
                    heard = Instant::now();
                    let received = received?;
                    settle(unread, &received);
                    match received {
                        Err(error) => return Some(broken(&error)),
                        Ok(WsMessage::Ping(_) | WsMessage::Pong(_)) => continue,
                        Ok(WsMessage::Close(_)) => return None,
                        Ok(message) if self.dialect.takes(&message) => {
                            let (answer, ends) = self.answer(&message, &deliveries, &mut subscriptions).await;
                            (self.dialect.write(&answer), ends)
                        }
                        Ok(_) => return Some((close_code::UNSUPPORTED, "the subprotocol has no such frames")),
                    }
                }
                () = sleep_until(wake) => {
                    if let Some(ending) = self.over() {
                        return Some(ending);
                    }
                    if whole.is_some_and(|whole| whole <= Instant::now()) {
                        return Some(DRIPS);
                    }
                    if heard.elapsed() >= idle {
                        return Some((close_code::AWAY, "nothing was heard for too long"));
                    }
                    pinged = Instant::now();
                    (WsMessage::Ping(Vec::new().into()), false)
                }
            };
            tokio::select! {
                sent = timeout(self.send_timeout(), socket.send(message)) => match sent {
                    Ok(sent) => sent.ok()?,
                    Err(_) => return Some(SLOW),
                },
                () = self.public.stop.cancelled() => {
                    return Some((close_code::AWAY, "the gateway is going away"));
                }
            }
            if ends {
                let of_policy = (close_code::POLICY, "a policy ended the session");
                return Some(self.over().unwrap_or(of_policy));
            }
        }
    }

    fn send_timeout(&self) -> Duration {
        Duration::from_millis(self.public.edge.websocket.send_timeout_ms)
    }

    /// When the token ends, by the wall clock as it stands now; it is looked at again with each ping.
    fn ends(&self) -> Option<Instant> {
        let left = self.verified.as_ref()?.ends().saturating_sub(now());
        // Far ahead is never; `Instant` does not reach as far as a token may.
        Some(Instant::now() + Duration::from_secs(left.min(86_400)))
    }

    /// How a session ends whose token holds no longer.
    fn over(&self) -> Option<Ending> {
        let verified = self.verified.as_ref()?;
        if verified.holds_at(now()) {
            self.withdrawn()
        } else {
            Some(EXPIRED)
        }
    }

    /// How a session ends whose token's key is no longer in force.
    fn withdrawn(&self) -> Option<Ending> {
        let (auth, verified) = (self.public.edge.auth.as_ref()?, self.verified.as_ref()?);
        (!auth.has_key_of(verified)).then_some(WITHDRAWN)
    }

    /// The answer to one frame, and whether the session ends with it.
    async fn answer(
        &self,
        message: &WsMessage,
        deliveries: &Deliveries,
        subscriptions: &mut Vec<AbortOnDropHandle<()>>,
    ) -> (Answer, bool) {
        match self.dialect.read(message, &self.tenant) {
            Err(refused) => {
                let (id, problem) = *refused;
                (self.refuse(id, problem), false)
            }
            Ok(Frame::Publish {
                id,
                subject,
                headers,
                payload,
            }) => {
                let place = match self.public.edge.load.enter(payload.len()) {
                    Ok(place) => place,
                    Err(problem) => return (self.refuse(id, problem), false),
                };
                let mut request = Request::new(Body::from(payload));
                *request.headers_mut() = headers;
                let answered = self.publish(id, subject, request).await;
                drop(place);
                answered
            }
            // A publish is held to the token by the stack.
            Ok(Frame::Subscribe { id, .. }) if self.over().is_some() => {
                let problem = Problem::new(Code::AuthInvalid, "the session's token holds no longer");
                (self.refuse(id, problem), true)
            }
            Ok(Frame::Subscribe { id, pattern }) => {
                let limit = self
                    .public
                    .edge
                    .limit
                    .admit(Some(&self.tenant))
                    .map_err(|over| over.problem());
                let problem = match limit {
                    Err(problem) => problem,
                    Ok(_) if subscriptions.len() >= SUBSCRIPTIONS_MAX => {
                        let detail = format!("a session has at most {SUBSCRIPTIONS_MAX} subscriptions");
                        Problem::new(Code::Overloaded, detail)
                    }
                    Ok(_permit) => match self
                        .public
                        .hub
                        .subscribe(&self.tenant, pattern.clone(), deliveries)
                        .await
                    {
                        Ok(subscription) => {
                            subscriptions.push(subscription);
                            return (Answer::Subscribed { id, pattern }, false);
                        }
                        Err(problem) => problem,
                    },
                };
                (self.refuse(id, problem), false)
            }
        }
    }

    /// The answer to a frame that no layer has seen: it is counted and told as those are that a layer refuses.
    fn refuse(&self, id: FrameId, problem: Problem) -> Answer {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/v1/ws");
        let extensions = request.extensions_mut();
        extensions.insert(self.tenant.clone());
        if let Some(connection) = self.connection {
            extensions.insert(connection);
        }
        if let Some(remote) = self.remote {
            extensions.insert(remote);
        }
        let problem = self.public.observe.refused(Protocol::Ws, request, problem);
        Answer::Nack { id, problem }
    }

    /// A frame is `POST /v1/publish/<suffix>` with the frame's headers only.
    async fn publish(&self, id: FrameId, subject: Subject, mut request: Request<Body>) -> (Answer, bool) {
        *request.method_mut() = Method::POST;
        let path = format!(
            "/v1/publish/{}",
            routes::escape(subject.suffix().unwrap_or_default())
        );
        match path.parse() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(_) => {
                let problem = Problem::new(Code::SubjectInvalid, "the subject makes no path");
                return (Answer::Nack { id, problem }, false);
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
        if let Some(verified) = &self.verified {
            extensions.insert(verified.clone());
        }
        if let Some(remote) = self.remote {
            extensions.insert(remote);
        }
        if let Some(trusted) = self.trusted {
            extensions.insert(trusted);
        }
        let Public { observe, stack, .. } = &*self.public;
        let service = routes::of_messages(observe, stack.clone(), self.public.request_timeout);
        let response = match service.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            let problem = rejection.problem().clone();
            return (Answer::Nack { id, problem }, rejection.closes_session());
        }
        let status = response.status();
        match collect(response.into_body(), ACK_BYTES_MAX).await {
            Ok(body) if status.is_success() => (Answer::Ack { id, body: body.bytes }, false),
            _ => {
                let problem = Problem::new(Code::Internal, format!("the handler answered {status}"));
                (Answer::Nack { id, problem }, false)
            }
        }
    }
}

const SLOW: Ending = (close_code::AGAIN, "the peer reads too slowly");
const DRIPS: Ending = (close_code::POLICY, "a message did not come whole in time");
const MISSED: Ending = (
    close_code::AGAIN,
    "deliveries may be missing: NATS was lost for a moment",
);
const EXPIRED: Ending = (close_code::POLICY, "the token has expired");
const WITHDRAWN: Ending = (close_code::POLICY, "the key of the token was withdrawn");

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(u64::MAX, |since| since.as_secs())
}

/// What has come whole is no longer held as what has not.
fn settle(unread: Option<&Unread>, received: &Result<WsMessage, axum::Error>) {
    let Some(unread) = unread else { return };
    match received {
        // It may stand between the frames of one message.
        Ok(WsMessage::Ping(bytes) | WsMessage::Pong(bytes)) => unread.give(CONTROL_FRAME_BYTES + bytes.len()),
        _ => unread.clear(),
    }
}

/// A frame that breaks RFC 6455: which way; or one that there was no room for.
fn broken(error: &axum::Error) -> Ending {
    let said = error.to_string();
    if said.contains(NO_ROOM) {
        (
            close_code::AGAIN,
            "the gateway holds as many unfinished messages as it may",
        )
    } else if said.contains("too long") || said.contains("Space limit") {
        (close_code::SIZE, "the message is too large")
    } else if said.contains("UTF-8") || said.contains("utf-8") {
        (close_code::INVALID, "text has to be UTF-8")
    } else {
        (close_code::PROTOCOL, "the frame breaks the protocol")
    }
}

#[cfg(test)]
mod tests;
