//! `/v1/events`: the bus as server-sent events. One task numbers the facts, so that every reader and the log know a fact
//! by the same `corr_id`.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use arqon::{
    ConnectionId, WireEvent,
    bus::{Event, Notice, Subscriber},
    events::Audience,
};
use axum::response::sse::Event as SseEvent;
use futures_util::{Stream, stream};
use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

/// What readers are told.
enum Told {
    Fact(Fact),
    /// So many events were lost before they were numbered.
    Resync {
        lost: u64,
    },
}

/// A fact with its id, and as readers see it: made once for each audience, however many read.
struct Fact {
    fact: Event,
    corr_id: String,
    observers: OnceLock<Option<SseEvent>>,
    admins: OnceLock<Option<SseEvent>>,
}

impl Fact {
    fn new(fact: Event, corr_id: String) -> Self {
        Self {
            fact,
            corr_id,
            observers: OnceLock::new(),
            admins: OnceLock::new(),
        }
    }

    fn shown(&self, audience: Audience) -> Option<&SseEvent> {
        let shown = match audience {
            Audience::Observer => &self.observers,
            Audience::Admin => &self.admins,
        };
        shown
            .get_or_init(|| shown_to(&self.fact, &self.corr_id, audience))
            .as_ref()
    }
}

/// Where readers subscribe. It ends with its [`Pump`].
#[derive(Clone)]
pub(crate) struct Feed(broadcast::WeakSender<Arc<Told>>);

/// Takes facts off the bus, numbers them, writes them to the log and hands them to the readers.
pub(crate) struct Pump {
    subscriber: Subscriber,
    readers: broadcast::Sender<Arc<Told>>,
    /// Of this process, so that no two processes give one id twice.
    prefix: String,
    number: u64,
}

/// A feed of what `subscriber` receives; a reader may be `capacity` facts behind.
pub(crate) fn feed(subscriber: Subscriber, capacity: usize) -> (Feed, Pump) {
    let readers = broadcast::Sender::new(capacity);
    let mut prefix = ConnectionId::mint().to_string();
    prefix.truncate(12);
    let feed = Feed(readers.downgrade());
    let pump = Pump {
        subscriber,
        readers,
        prefix,
        number: 0,
    };
    (feed, pump)
}

impl Pump {
    /// Runs until `stop`, and then to the end of what was published before it.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        loop {
            tokio::select! {
                biased;
                notice = self.subscriber.next() => match notice {
                    Some(notice) => self.tell(&notice),
                    None => return Ok(()),
                },
                () = stop.cancelled() => break,
            }
        }
        // `next` gives way now and then, so that it was not ready does not say that nothing is left. Each notice takes a
        // slot at least: what was published before the stop is told after so many, and publishers cannot keep it going.
        for _ in 0..self.subscriber.backlog() {
            if self.subscriber.backlog() == 0 {
                break;
            }
            match self.subscriber.next().await {
                Some(notice) => self.tell(&notice),
                None => break,
            }
        }
        Ok(())
    }

    fn tell(&mut self, notice: &Notice) {
        match notice {
            Notice::Event(event) => {
                for fact in event.facts() {
                    self.number += 1;
                    let corr_id = format!("{}-{}", self.prefix, self.number);
                    log(fact, &corr_id);
                    self.hand_out(Told::Fact(Fact::new(fact.clone(), corr_id)));
                }
            }
            Notice::Resync { lost } => self.hand_out(Told::Resync { lost: *lost }),
            _ => {}
        }
    }

    fn hand_out(&self, told: Told) {
        // Nobody has to read.
        let _ = self.readers.send(Arc::new(told));
    }
}

/// The fields of the source (OBSERVABILITY): service, event, reason, corr_id; as readers see them, free of credentials.
fn log(fact: &Event, corr_id: &str) {
    let event = fact.kind();
    match WireEvent::export(fact, corr_id, Audience::Admin) {
        Some(WireEvent::Health { service, ok, .. }) => {
            tracing::info!(component = "bus", service, event, ok, corr_id, "fact")
        }
        Some(WireEvent::ServiceCrashed { service, reason, .. }) => {
            tracing::info!(component = "bus", service, event, reason, corr_id, "fact");
        }
        _ => tracing::info!(component = "bus", service = "gateway", event, corr_id, "fact"),
    }
}

impl Feed {
    /// What happens from now on, as `audience` may see it. A reader that fell behind is told to read `/v1/state` again.
    pub(crate) fn read(
        &self,
        audience: Audience,
    ) -> impl Stream<Item = Result<SseEvent, Infallible>> + use<> {
        let receiver = self.0.upgrade().map(|readers| readers.subscribe());
        stream::unfold(receiver, move |receiver| async move {
            let mut receiver = receiver?;
            loop {
                let event = match receiver.recv().await {
                    Ok(told) => match &*told {
                        Told::Fact(fact) => fact.shown(audience).cloned(),
                        Told::Resync { lost } => Some(resync(*lost)),
                    },
                    Err(RecvError::Lagged(lost)) => {
                        metrics::counter!("shield_gateway_events_lost_total").increment(lost);
                        Some(resync(lost))
                    }
                    Err(RecvError::Closed) => return None,
                };
                if let Some(event) = event {
                    return Some((Ok(event), Some(receiver)));
                }
            }
        })
    }
}

fn shown_to(fact: &Event, corr_id: &str, audience: Audience) -> Option<SseEvent> {
    let wire = WireEvent::export(fact, corr_id, audience)?;
    let data = serde_json::to_string(&wire).expect("an event is plain data");
    Some(SseEvent::default().event(fact.kind()).id(corr_id).data(data))
}

fn resync(lost: u64) -> SseEvent {
    let data = json!({ "lost": lost, "read": "/v1/state" });
    SseEvent::default().event("resync").data(data.to_string())
}

#[cfg(test)]
mod tests {
    use arqon::bus::Bus;
    use axum::response::{IntoResponse, Sse};
    use http_body_util::BodyExt;

    use super::*;

    async fn text(stream: impl Stream<Item = Result<SseEvent, Infallible>> + Send + 'static) -> String {
        let body = Sse::new(stream).into_response().into_body();
        let bytes = body.collect().await.expect("it ends").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[test]
    fn a_fact_is_exported_once_for_each_audience() {
        let fact = Fact::new(Event::ConfigUpdated { version: 2 }, "id-1".to_owned());
        let of = |audience| fact.shown(audience).expect("it is shown") as *const SseEvent;
        for audience in [Audience::Observer, Audience::Admin] {
            assert_eq!(of(audience), of(audience));
        }
        assert_ne!(of(Audience::Observer), of(Audience::Admin));
        let stop = Fact::new(Event::Shutdown, "id-2".to_owned());
        assert!(stop.shown(Audience::Observer).is_none() && stop.shown(Audience::Admin).is_some());
    }

    #[tokio::test]
    async fn every_reader_gets_the_same_ids_and_only_an_admin_the_shutdown() {
        let bus = Bus::new(16).expect("a capacity");
        let (feed, pump) = feed(bus.observe("events"), 16);
        let (observer, admin) = (feed.read(Audience::Observer), feed.read(Audience::Admin));
        let stop = CancellationToken::new();
        bus.publish(Event::ConfigUpdated { version: 2 }).expect("heard");
        bus.publish(Event::Shutdown).expect("heard");
        let reports = ["a", "b"].map(|id| Event::SchemaChanged {
            schema_id: id.to_owned(),
            revision: 1,
        });
        bus.publish_batch(reports.to_vec()).expect("heard");
        stop.cancel();
        pump.run(stop).await.expect("no death");
        let (observer, admin) = (text(observer).await, text(admin).await);
        let without: Vec<_> = admin
            .split("\n\n")
            .filter(|event| !event.contains("shutdown"))
            .collect();
        assert_eq!(observer, without.join("\n\n"));
        assert_eq!(
            admin.matches("event: schema_changed\n").count(),
            2,
            "a batch is told report by report"
        );
        assert!(admin.contains("event: shutdown\n") && !observer.contains("shutdown"));
        let ids: Vec<_> = admin
            .lines()
            .filter_map(|line| line.strip_prefix("id: "))
            .collect();
        assert_eq!(ids.len(), 4);
        assert!(
            ids.iter()
                .all(|id| admin.contains(&format!("\"corr_id\":\"{id}\""))),
            "{admin}"
        );
        assert_eq!(
            text(feed.read(Audience::Admin)).await,
            "",
            "it ended with its pump"
        );
    }

    /// What a reader of `room` lines is sent by a feed that could hold two of seven facts.
    async fn fallen_behind(room: usize) -> String {
        let bus = Bus::new(2).expect("a capacity");
        let (feed, pump) = feed(bus.observe("events"), room);
        let reader = feed.read(Audience::Observer);
        for version in 0..7 {
            bus.publish(Event::ConfigUpdated { version }).expect("heard");
        }
        let stop = CancellationToken::new();
        stop.cancel();
        pump.run(stop).await.expect("no death");
        text(reader).await
    }

    #[tokio::test]
    async fn a_reader_and_a_feed_that_fell_behind_are_told_to_read_the_state() {
        let text = fallen_behind(2).await;
        // The pump lost 5 of 7 and tells so; of its three lines the reader, two places long, lost the first: the reader is
        // told of its own loss, which is one line.
        assert!(
            text.starts_with("event: resync\ndata: {\"lost\":1,\"read\":\"/v1/state\"}\n\n"),
            "{text}"
        );
        assert!(
            text.contains("\"version\":5") && text.contains("\"version\":6"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_reader_with_room_is_told_how_many_the_feed_lost() {
        let text = fallen_behind(16).await;
        assert!(
            text.starts_with("event: resync\ndata: {\"lost\":5,\"read\":\"/v1/state\"}\n\n"),
            "{text}"
        );
        assert_eq!(text.matches("event: config_updated\n").count(), 2, "{text}");
    }

    #[tokio::test]
    async fn all_that_was_published_before_the_stop_is_told_the_shutdown_too() {
        let bus = Bus::new(256).expect("a capacity");
        let (feed, pump) = feed(bus.observe("events"), 256);
        let reader = feed.read(Audience::Admin);
        for version in 0..200 {
            bus.publish(Event::ConfigUpdated { version }).expect("heard");
        }
        bus.publish(Event::Shutdown).expect("heard");
        let stop = CancellationToken::new();
        stop.cancel();
        pump.run(stop).await.expect("no death");
        let text = text(reader).await;
        assert_eq!(text.matches("event: config_updated\n").count(), 200);
        assert_eq!(text.matches("event: shutdown\n").count(), 1);
    }

    /// The fields of whatever is logged.
    #[derive(Clone, Default)]
    struct Said(Arc<std::sync::Mutex<String>>);

    impl tracing::field::Visit for Said {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            let mut said = self.0.lock().expect("not poisoned");
            said.push_str(&format!("{field}={value:?} "));
        }
    }

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Said {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            event.record(&mut self.clone());
        }
    }

    #[test]
    fn the_log_shows_a_crash_as_readers_see_it() {
        use tracing_subscriber::layer::SubscriberExt;

        let said = Said::default();
        let subscriber = tracing_subscriber::registry().with(said.clone());
        let crash = Event::ServiceCrashed {
            service: "password=hunter2".to_owned(),
            reason: "dbPass: hunter2\nand hunter2".to_owned(),
        };
        tracing::subscriber::with_default(subscriber, || log(&crash, "p-1"));
        let said = said.0.lock().expect("not poisoned").clone();
        assert!(
            said.contains("corr_id=\"p-1\"") && !said.contains("hunter2"),
            "{said}"
        );
    }
}
