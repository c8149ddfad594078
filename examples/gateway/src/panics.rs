//! What a panic was: a line of the log like all others, instead of the text that Rust writes to standard error by itself.

use std::panic::{self, PanicHookInfo};

/// From now on each panic is told in the log, whoever catches it. It is counted where a request is answered in its place.
/// Where the log takes no errors, it is told as before.
pub(crate) fn tell() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if tracing::enabled!(tracing::Level::ERROR) {
            told(panic);
        } else {
            before(panic);
        }
    }));
}

fn told(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let panic_message = text.unwrap_or("of no text");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    // A place in the log of its own: whoever sends what the client dies of hides no defect of ours behind it.
    if location.contains("/async-nats-") {
        tracing::error!(
            component = "nats",
            panic_message,
            location,
            "a task of the NATS client panicked"
        );
    } else {
        tracing::error!(component = "gateway", panic_message, location, "a task panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt,
        sync::{
            Arc, Mutex,
            atomic::{AtomicU32, Ordering},
        },
    };

    use tracing::field::{Field, Visit};
    use tracing_subscriber::{Layer, layer::SubscriberExt};

    use super::*;

    type Fields = Vec<(&'static str, String)>;

    #[derive(Clone, Default)]
    struct Events(Arc<Mutex<Vec<Fields>>>);

    struct Read<'a>(&'a mut Fields);

    impl Visit for Read<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.push((field.name(), format!("{value:?}")));
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            self.0.push((field.name(), value.to_owned()));
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Events {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            let mut fields = Fields::new();
            event.record(&mut Read(&mut fields));
            self.0.lock().expect("no panic with it").push(fields);
        }
    }

    #[test]
    fn a_panic_is_one_event_with_its_text_and_its_place() {
        let events = Events::default();
        let subscriber = tracing_subscriber::registry().with(events.clone());
        let before = panic::take_hook();
        let silent = Arc::new(AtomicU32::new(0));
        let counts = Arc::clone(&silent);
        panic::set_hook(Box::new(move |_| {
            counts.fetch_add(1, Ordering::Relaxed);
        }));
        tell();
        assert!(panic::catch_unwind(|| panic!("nobody logs")).is_err());
        assert_eq!(silent.load(Ordering::Relaxed), 1);
        let line = line!() + 2;
        tracing::subscriber::with_default(subscriber, || {
            let ended = panic::catch_unwind(|| panic!("at {}", "night"));
            assert!(ended.is_err());
            assert!(panic::catch_unwind(|| panic::panic_any(7)).is_err());
        });
        panic::set_hook(before);
        assert_eq!(silent.load(Ordering::Relaxed), 1, "once is enough");
        let events = events.0.lock().expect("no panic with it");
        let [first, second] = &events[..] else {
            panic!("{events:?}")
        };
        let of = |fields: &Fields, name: &str| {
            let found = fields.iter().find(|(field, _)| *field == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        assert_eq!(of(first, "message"), "a task panicked");
        assert_eq!(of(first, "panic_message"), "at night");
        let place = format!("panics.rs:{line}:");
        assert!(of(first, "location").contains(&place), "{first:?}");
        assert_eq!(of(second, "panic_message"), "of no text");
    }
}
