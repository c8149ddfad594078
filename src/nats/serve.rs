//! Any tower service on a NATS subscription: message in, request through the stack, reply out.
//!
//! [`serve`] takes a [`Source`] (a core subscription, or a JetStream pull consumer) and a service, and runs until its stop
//! token is cancelled. A message becomes an `http::Request`: `POST /<subject>`, the message's headers as HTTP headers, the
//! payload as its body, and in its extensions [`Subject`](arqon_message::Subject), the tenant that a canonical subject
//! names ([`TenantId`](arqon_message::TenantId)) and [`Protocol::Nats`](arqon_message::Protocol). So it passes
//! *the same* stack as an HTTP publish: [`subjects`] names the subject for a [`Stack`](crate::Stack).
//!
//! ```no_run
//! # async fn run(client: async_nats::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use arqon::{SubjectPattern, nats::{self, serve::Source}};
//! use axum::{Router, routing::post};
//! use tokio_util::sync::CancellationToken;
//!
//! let app = Router::new().route("/{subject}", post(|body: String| async move { body.to_uppercase() }));
//! let stop = CancellationToken::new();
//! let source = Source::requests(&client, SubjectPattern::parse("rpc.>")?).queue_group("workers");
//! // Each message on rpc.> is answered; after `stop.cancel()` what was taken is answered still.
//! let served = nats::serve(source, app).in_flight_max(64).run(stop).await?;
//! println!("{} requests, {} refused", served.total(), served.refused);
//! # Ok(()) }
//! ```
//!
//! A JetStream consumer is one call away: `Source::consumer(&client, stream.get_consumer("workers").await?)`.
//!
//! # Answers
//!
//! | the service answers | core | JetStream |
//! | --- | --- | --- |
//! | below 400 | reply: its headers and body | ack |
//! | 4xx | reply with `Nats-Service-Error-Code` and `Nats-Service-Error`, the problem as payload | term: the same message would be refused again |
//! | 408, 425, 429, 5xx, an error, a panic, no answer in time | the same | nak, with a growing delay, or `Retry-After` where that is longer |
//! | nothing: the message cannot be a request (subject, headers, more than [`HEADERS_MAX`] of them, size) | the same, 400, 403 or 413 | term (poison) |
//! | nothing: the client cannot read the message | no reply | term (poison), see below |
//!
//! A JetStream message that was delivered [`deliveries_max`](Serve::deliveries_max) times and failed is poison too: it is
//! terminated and logged, so that it does not go round for ever. Long calls are kept alive with progress acknowledgements.
//!
//! # Trust
//!
//! Whoever may publish on the subject is trusted with the tenant it names: bind subjects to accounts or permissions in
//! NATS. Headers `x-arqon-*` are taken off all the same, but for the shadow marker: what was mirrored once is not mirrored
//! again (DESIGN 10). `Nats-*` headers stay for the service to see and are never forwarded by a publisher.
//!
//! # Messages that cannot be read
//!
//! A NATS server passes on whatever a publisher calls headers. The client (async-nats 0.51) ends its connection at a message
//! whose headers are not of NATS's form, and connects again; core subscriptions come back with the connection, and what others
//! sent them in between is not heard. So whoever may publish to a source can cut its connection: give the source a client of
//! its own, apart from the one that publishes, and let replies go by that ([`Source::replies_through`]).
//! One whose header value has a carriage return in it ends the client itself. A [`Connection`] makes another one, and requests
//! are heard with that; with a client of your own, and always with a consumer, [`run`](Serve::run) returns
//! [`Closed`](ServeError::Closed), and has to be called with a new one.
//!
//! A stream would deliver such a message again and again. So at each connection a consumer looks by the JetStream API
//! at what it owes (of `ack_policy` explicit), and terminates what cannot be read, as poison. Where it did, or could
//! not look, messages are asked for one by one for an ack wait: what was lost with the connection comes again in it,
//! and is not lost once more. The client has to be permitted to publish to `$JS.API.CONSUMER.INFO.<stream>.<consumer>`
//! and `$JS.API.STREAM.MSG.GET.<stream>` for it; else such a message comes alone at each ack wait, until `max_deliver`
//! ends it.
//!
//! # Under load
//!
//! At most [`in_flight_max`](Serve::in_flight_max) messages are worked on; more wait in the client's bounded subscription
//! queue (core: what does not fit there is lost and told as a slow consumer) or in the stream. With more than one in flight
//! order is not kept.
//!
//! # Cancellation
//!
//! Dropping the future of [`run`](Serve::run) drops every call under way: core messages are lost without a reply, JetStream
//! messages come again once their ack wait is over. Cancelling its token drains instead.

mod answer;
mod core;
mod counts;
mod cuts;
mod jetstream;
mod owed;
mod request;
mod unreadable;

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arqon_message::{BoxError, MAX_BODY_BYTES, Problem, SubjectLayer, SubjectPattern};
use async_nats::{
    Client,
    jetstream::{Context, consumer::PullConsumer},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

pub use self::counts::register_metrics;
use self::{
    answer::Outcome,
    counts::{Counts, Metrics},
    request::RefuseWith,
};
use super::Connection;

/// How many messages are worked on at once, unless set otherwise.
pub const IN_FLIGHT_MAX: usize = 64;
/// How long one call may take, its body included, unless set otherwise.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How long a drain may take, unless set otherwise.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);
/// How often a JetStream message may come before it is poison, unless set otherwise.
pub const DELIVERIES_MAX: u64 = 16;
/// How many headers a message may have, values of one name counted one by one: as many as hyper takes of a request over HTTP/1.
pub const HEADERS_MAX: usize = 100;
/// Where requesters wait for replies, unless set otherwise (NATS ADR-4).
const INBOX: &str = "_INBOX";
/// How long the client may take to accept a reply or an acknowledgement: its queue is full while NATS is away.
const SEND_TIMEOUT: Duration = Duration::from_millis(800);

/// Where messages come from.
#[derive(Debug)]
pub struct Source {
    heard: Connection,
    replies: Connection,
    kind: Kind,
    strip_prefix: Option<String>,
    reply_prefixes: Vec<String>,
}

#[derive(Debug)]
enum Kind {
    Core {
        pattern: SubjectPattern,
        queue_group: Option<String>,
    },
    JetStream(Box<PullConsumer>, Option<Context>),
}

impl Source {
    /// Core NATS: at most once, and a reply to each message that asks for one. Through a [`Connection`] it goes on with the next
    /// client when one has died; a client of your own ends it then.
    #[must_use]
    pub fn requests(nats: impl Into<Connection>, pattern: SubjectPattern) -> Self {
        let heard = nats.into();
        Self {
            replies: heard.clone(),
            heard,
            kind: Kind::Core {
                pattern,
                queue_group: None,
            },
            strip_prefix: None,
            reply_prefixes: vec![INBOX.to_owned()],
        }
    }

    /// A JetStream pull consumer: at least once, with ack, nak and term. `client` is the consumer's own.
    #[must_use]
    pub fn consumer(client: &Client, consumer: PullConsumer) -> Self {
        let heard = Connection::from(client);
        Self {
            replies: heard.clone(),
            heard,
            kind: Kind::JetStream(Box::new(consumer), None),
            strip_prefix: None,
            reply_prefixes: Vec::new(),
        }
    }

    /// Shares the subscription with all that name the same group: each message goes to one of them. A JetStream consumer
    /// is shared by its name anyway.
    #[must_use]
    pub fn queue_group(mut self, name: impl Into<String>) -> Self {
        if let Kind::Core { queue_group, .. } = &mut self.kind {
            *queue_group = Some(name.into());
        }
        self
    }

    /// The context by which the JetStream API is asked, for a consumer behind a domain or another prefix. Without it
    /// that of the client is.
    #[must_use]
    pub fn context(mut self, context: Context) -> Self {
        if let Kind::JetStream(_, own) = &mut self.kind {
            *own = Some(context);
        }
        self
    }

    /// Sends replies by another client than the one that is subscribed. Acknowledgements of JetStream go by the consumer's own.
    #[must_use]
    pub fn replies_through(mut self, nats: impl Into<Connection>) -> Self {
        self.replies = nats.into();
        self
    }

    /// Takes `prefix.` off every subject: what comes on `gateway.in.t.acme.x` is `in.t.acme.x` to the service. A message on
    /// another subject is refused.
    #[must_use]
    pub fn strip_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.strip_prefix = Some(prefix.into());
        self
    }

    /// The first tokens of the subjects that replies may go to; default `_INBOX`. A NATS server does not look at what a
    /// requester names as its reply subject: without a limit it could have us publish wherever we may.
    #[must_use]
    pub fn reply_prefixes(mut self, prefixes: impl IntoIterator<Item = String>) -> Self {
        self.reply_prefixes = prefixes.into_iter().collect();
        self
    }
}

/// Serves what comes from `source` with `service`; see the [module docs](self).
pub fn serve<S>(source: Source, service: S) -> Serve<S> {
    Serve {
        source,
        service,
        refuse_with: RefuseWith::default(),
        limits: Limits {
            in_flight_max: IN_FLIGHT_MAX,
            deadline: DEADLINE,
            drain_timeout: DRAIN_TIMEOUT,
            deliveries_max: DELIVERIES_MAX,
            max_body_bytes: MAX_BODY_BYTES,
        },
    }
}

/// A layer that takes the subject which [`serve`] put into the extensions, for a [`Stack`](crate::Stack).
#[must_use]
pub fn subjects() -> SubjectLayer {
    SubjectLayer::with(|parts: &http::request::Parts| {
        Ok(parts.extensions.get::<arqon_message::Subject>().cloned())
    })
}

/// A service about to be served.
#[derive(Debug)]
#[must_use = "nothing is served before `run`"]
pub struct Serve<S> {
    source: Source,
    service: S,
    refuse_with: RefuseWith,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    in_flight_max: usize,
    deadline: Duration,
    drain_timeout: Duration,
    deliveries_max: u64,
    max_body_bytes: usize,
}

impl<S> Serve<S> {
    /// How many messages are worked on at once, at least 1. Default 64; 1 keeps the order.
    pub fn in_flight_max(mut self, max: usize) -> Self {
        self.limits.in_flight_max = max.max(1);
        self
    }

    /// How long one call may take, its body included. Default 30 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = deadline;
        self
    }

    /// How long a drain may take before calls under way are dropped. Default 25 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.limits.drain_timeout = timeout;
        self
    }

    /// How often a JetStream message may come before a further failure makes it poison, at least 1. Default 16.
    pub fn deliveries_max(mut self, max: u64) -> Self {
        self.limits.deliveries_max = max.max(1);
        self
    }

    /// The largest payload that is served, in bytes. Default 1 MiB; more is poison.
    pub fn max_body_bytes(mut self, max: usize) -> Self {
        self.limits.max_body_bytes = max;
        self
    }

    /// Asks this of each message that cannot be a request, before it is replied to with what comes back: such a message reaches no
    /// layer that would count or tell it. The request has what is known of it. Default: the problem says which request it was.
    /// [`ObserveLayer::refused`](crate::observe::ObserveLayer::refused) is one.
    pub fn refuse_with(
        mut self,
        refuse: impl Fn(Request<()>, Problem) -> Problem + Send + Sync + 'static,
    ) -> Self {
        self.refuse_with = RefuseWith::new(refuse);
        self
    }

    /// Serves until `stop`, then takes no more, lets what was taken end, and tells how it went.
    ///
    /// NATS may be away, and may go away: core subscriptions come back with the connection, a consumer is asked again with
    /// a growing pause.
    ///
    /// # Errors
    /// When the subscription cannot be made, or the client was closed.
    pub async fn run<B>(self, stop: CancellationToken) -> Result<Served, ServeError>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let Self {
            source,
            service,
            refuse_with,
            limits,
        } = self;
        let Source {
            heard,
            replies,
            kind,
            strip_prefix,
            reply_prefixes,
        } = source;
        let name = match kind {
            Kind::Core { .. } => "core",
            Kind::JetStream(..) => "jetstream",
        };
        let server = Arc::new(Server {
            heard,
            replies,
            service,
            refuse_with,
            limits,
            strip_prefix,
            reply_prefixes,
            served: Counts::default(),
            metrics: Metrics::of(name),
        });
        match kind {
            Kind::Core { pattern, queue_group } => {
                self::core::run(&server, &pattern, queue_group, stop).await?;
            }
            Kind::JetStream(consumer, context) => {
                self::jetstream::run(&server, &consumer, context, stop).await?;
            }
        }
        Ok(server.served.read())
    }
}

/// How many messages were served, by how it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// Answered below 400.
    pub ok: u64,
    /// Refused for good: 4xx.
    pub refused: u64,
    /// Failed, and worth another try.
    pub failed: u64,
    /// No request could be made of them, or they failed too often.
    pub poison: u64,
}

impl Served {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.ok + self.refused + self.failed + self.poison
    }
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The subscription could not be made.
    #[error("cannot subscribe to {pattern:?}")]
    Subscribe {
        /// What was subscribed to.
        pattern: String,
        /// Why not.
        #[source]
        source: async_nats::SubscribeError,
    },
    /// The client was closed or has died, so no message will come any more.
    #[error("the NATS client was closed")]
    Closed,
}

/// What every call shares.
struct Server<S> {
    heard: Connection,
    replies: Connection,
    service: S,
    refuse_with: RefuseWith,
    limits: Limits,
    strip_prefix: Option<String>,
    reply_prefixes: Vec<String>,
    served: Counts,
    metrics: Metrics,
}

impl<S> Server<S> {
    /// Whether a reply may go to `subject`: to a place below one of the prefixes, one place and no pattern.
    fn may_reply(&self, subject: &str) -> bool {
        let below = |prefix: &String| {
            let rest = subject.strip_prefix(prefix.as_str());
            rest.is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'))
        };
        self.reply_prefixes.iter().any(below) && !subject.contains(['*', '>'])
    }

    fn count(&self, outcome: Outcome) {
        let (count, metric) = match outcome {
            Outcome::Ok => (&self.served.ok, &self.metrics.ok),
            Outcome::Refused => (&self.served.refused, &self.metrics.refused),
            Outcome::Failed => (&self.served.failed, &self.metrics.failed),
            Outcome::Poison => (&self.served.poison, &self.metrics.poison),
        };
        count.fetch_add(1, Ordering::Relaxed);
        metric.increment(1);
    }

    /// Lets what is worked on end until `deadline`; what does not is dropped, and `fate` says what becomes of it.
    async fn end(&self, mut working: JoinSet<()>, deadline: Instant, fate: &'static str) {
        let ending = async { while working.join_next().await.is_some() {} };
        if timeout_at(deadline, ending).await.is_err() {
            tracing::warn!(
                component = "nats",
                open = working.len(),
                "messages were still worked on when the drain's time was up; {fate}"
            );
            working.shutdown().await;
        }
        // Through a client that never reached a server nothing was sent.
        for nats in [&self.heard, &self.replies] {
            if nats.connects() > 0 {
                let _ = timeout(SEND_TIMEOUT, nats.client().flush()).await;
            }
        }
    }

    /// Waits for the client to take what is sent, but not for ever.
    async fn send<E: Into<BoxError>>(
        &self,
        what: &'static str,
        sending: impl Future<Output = Result<(), E>>,
    ) {
        match timeout(SEND_TIMEOUT, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = error.into();
                tracing::warn!(component = "nats", %error, "{what} could not be sent");
            }
            Err(_) => tracing::warn!(component = "nats", "{what} could not be sent in time"),
        }
    }
}
