//! Features change no behaviour: what each adds (source: QUANTUM 8, OBSERVABILITY 4, CONFIG 10.1).
#![cfg(not(loom))]

use std::sync::Arc;

use ron_bus::{Bus, BusMetrics, PqPosture};

#[test]
fn the_pq_posture_is_a_label_of_its_feature_only() {
    let metrics = BusMetrics::new().with_pq(PqPosture::Hybrid, "x25519mlkem768", "ed25519");
    let bus = Bus::with_metrics(8, Arc::new(metrics)).expect("a capacity");
    let expected: &[(&str, &str)] = if cfg!(feature = "pq-labels") {
        &[("pq", "hybrid"), ("kex", "x25519mlkem768"), ("sig", "ed25519")]
    } else {
        &[]
    };
    let labels = bus.metric_labels();
    let labels: Vec<(&str, &str)> = labels
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    assert_eq!(labels, expected);
    let words = [PqPosture::Off, PqPosture::Hybrid, PqPosture::PqOnly].map(PqPosture::as_str);
    assert_eq!(words, ["off", "hybrid", "pq-only"]);
}

#[cfg(feature = "serde")]
mod host_config {
    use figment::{
        providers::{Format, Serialized, Toml},
        Figment,
    };
    use ron_bus::{Bus, BusConfig};

    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Host {
        bus: BusConfig,
    }

    const FILE: &str = "[bus]\ncapacity = 512\nmetrics_namespace = \"edge\"\n";

    /// The documents' figment example, repaired: no `nested()`, keys under `bus`, partial tables allowed.
    #[test]
    fn a_host_layers_flags_over_its_file_over_the_defaults() {
        let host: Host = Figment::new()
            .merge(Toml::string(FILE))
            .merge(Serialized::default("bus.capacity", 1_024))
            .extract()
            .expect("both are well formed");
        let expected = BusConfig::new(1_024).with_metrics_namespace("edge");
        assert_eq!(host.bus, expected);
        assert_eq!(Bus::new(host.bus).expect("valid").capacity(), 1_024);
    }

    #[test]
    fn a_config_survives_a_round_trip() {
        let config = BusConfig::new(64)
            .with_overflow_warn_rate_per_min(6)
            .with_emit_amnesia_label(false);
        let text = toml::to_string(&config).expect("a table");
        assert_eq!(toml::from_str::<BusConfig>(&text).expect("its own table"), config);
        assert_eq!(
            serde_json::from_str::<BusConfig>("{}").expect("defaults"),
            BusConfig::default()
        );
        assert!(toml::from_str::<BusConfig>("capacity = -1").is_err());
    }
}

#[cfg(feature = "tracing")]
mod spans {
    use std::sync::{Arc, Mutex};

    use ron_bus::{Bus, Event, Notice};
    use tracing_subscriber::{layer::Context, prelude::*, Layer};

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    struct Fields<'a>(&'a mut String);

    impl tracing::field::Visit for Fields<'_> {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            use std::fmt::Write;
            write!(self.0, " {}={value:?}", field.name()).expect("a String takes all");
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Seen {
        fn on_new_span(&self, span: &tracing::span::Attributes<'_>, _: &tracing::Id, _: Context<'_, S>) {
            let mut text = span.metadata().name().to_owned();
            span.record(&mut Fields(&mut text));
            self.0.lock().expect("no panic").push(text);
        }

        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
            panic!("the bus logs nothing");
        }
    }

    #[tokio::test]
    async fn publish_and_recv_have_spans_that_name_the_kind_and_never_the_content() {
        let seen = Seen::default();
        let _guard = tracing_subscriber::registry().with(seen.clone()).set_default();
        let bus = Bus::new(8).expect("a capacity");
        let mut subscriber = bus.observe("traced");
        bus.publish(Event::ServiceCrashed {
            service: "a".into(),
            reason: "secret".into(),
        })
        .expect("one");
        bus.publish_batch(vec![Event::MirrorDegraded {
            reason: "secret".into(),
            dropped: 1,
        }])
        .expect("one");
        for _ in 0..2 {
            assert!(matches!(subscriber.next().await, Some(Notice::Event(_))));
        }
        let seen = seen.0.lock().expect("no panic").clone();
        assert_eq!(
            seen,
            [
                "svc.ron_bus.publish event_kind=\"service_crashed\"",
                "svc.ron_bus.publish event_kind=\"batch\"",
                "svc.ron_bus.recv event_kind=\"service_crashed\"",
                "svc.ron_bus.recv event_kind=\"batch\"",
            ]
        );
    }
}
