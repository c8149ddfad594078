//! Core subscriptions: a reply to each message that asks for one.

use std::sync::Arc;

use arqon_message::{BoxError, SubjectPattern};
use async_nats::{Message, SubscribeError, Subscriber, client::SubscribeErrorKind};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{super::connection::Life, ServeError, Server};

pub(super) async fn run<S, B>(
    server: &Arc<Server<S>>,
    pattern: &SubjectPattern,
    queue_group: Option<String>,
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
    let mut life = server.heard.life();
    let mut ended = Err(ServeError::Closed);
    let stopped = loop {
        match subscribe(&life, pattern, queue_group.clone()).await {
            Ok(mut messages) => {
                if take(server, &mut messages, &mut working, &stop).await {
                    break Some(messages);
                }
            }
            // A client that has died meanwhile.
            Err(source) if source.kind() == SubscribeErrorKind::Other => {}
            Err(source) => {
                let pattern = pattern.as_str().to_owned();
                ended = Err(ServeError::Subscribe { pattern, source });
                break None;
            }
        }
        tokio::select! {
            () = stop.cancelled() => {
                ended = Ok(());
                break None;
            }
            next = server.heard.after(&life) => match next {
                Some(next) => life = next,
                None => break None,
            },
        }
    };
    let deadline = Instant::now() + server.limits.drain_timeout;
    if let Some(mut messages) = stopped {
        ended = Ok(());
        let rest = async {
            if !life.is_connected() {
                // No server hears of it, and what would come is not waited for: only what has come.
                take_what_is_there(server, &mut messages, &mut working).await;
            } else if messages.drain().await.is_ok() {
                // What the server sent before it heard of it; the stream ends behind the last one.
                take(server, &mut messages, &mut working, &CancellationToken::new()).await;
            }
        };
        let _ = timeout_at(deadline, rest).await;
    }
    server.end(working, deadline, "they get no reply").await;
    ended
}

async fn subscribe(
    life: &Life,
    pattern: &SubjectPattern,
    queue_group: Option<String>,
) -> Result<Subscriber, SubscribeError> {
    let pattern = pattern.as_str().to_owned();
    match queue_group {
        Some(group) => life.client.queue_subscribe(pattern, group).await,
        None => life.client.subscribe(pattern).await,
    }
}

/// Works on what lies there already.
async fn take_what_is_there<S, B>(
    server: &Arc<Server<S>>,
    messages: &mut Subscriber,
    working: &mut JoinSet<()>,
) where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    while let Some(Some(message)) = messages.next().now_or_never() {
        while working.len() >= server.limits.in_flight_max {
            working.join_next().await;
        }
        let server = Arc::clone(server);
        working.spawn(async move { server.reply(message).await });
    }
}

/// Works on what comes until `stop` (true), or until the subscription ends (false).
async fn take<S, B>(
    server: &Arc<Server<S>>,
    messages: &mut Subscriber,
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
    loop {
        let has_room = working.len() < server.limits.in_flight_max;
        tokio::select! {
            biased;
            () = stop.cancelled() => return true,
            Some(_) = working.join_next() => {}
            message = messages.next(), if has_room => match message {
                Some(message) => {
                    let server = Arc::clone(server);
                    working.spawn(async move { server.reply(message).await });
                }
                None => return false,
            },
        }
    }
}

impl<S, B> Server<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    async fn reply(&self, message: Message) {
        let answer = self.answer(&message).await;
        self.count(answer.outcome);
        let Some(to) = message.reply else {
            return;
        };
        if !self.may_reply(to.as_str()) {
            self.metrics.replies_refused.increment(1);
            tracing::warn!(
                component = "nats",
                subject = message.subject.as_str(),
                reply = to.as_str(),
                "a reply was asked for where none may go; see `reply_prefixes`"
            );
            return;
        }
        let replies = self.replies.client();
        let replying = replies.publish_with_headers(to, answer.headers, answer.payload);
        self.send("a reply", replying).await;
    }
}
