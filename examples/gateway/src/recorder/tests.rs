use std::thread;

use metrics::{Level as Severity, Metadata};
use metrics_exporter_prometheus::Matcher;
use proptest::prelude::*;

use super::*;

const BOUNDS: [f64; 3] = [0.5, 1.0, 2.5];
const BUCKETS: Buckets = &[("h", &BOUNDS)];

static METADATA: Metadata<'static> = Metadata::new("tests", Severity::INFO, None);

/// What a program does with a metric.
#[derive(Clone, Copy, Debug)]
enum Act {
    Count(u64),
    Add(i32),
    Set(i32),
    Record(f64, usize),
    Render,
}

fn acts() -> impl Strategy<Value = Vec<(bool, Act)>> {
    // Quarters and whole numbers, so that sums are exact whatever their order; each bound among them.
    let values = (0..16_u32).prop_map(|quarters| f64::from(quarters) / 4.0);
    let act = prop_oneof![
        (0..9_u64).prop_map(Act::Count),
        (-9..9).prop_map(Act::Add),
        (-9..9).prop_map(Act::Set),
        (values, 0..5_usize).prop_map(|(value, count)| Act::Record(value, count)),
        Just(Act::Render),
    ];
    proptest::collection::vec((any::<bool>(), act), 1..60)
}

/// The metrics that both recorders have: two of each kind.
fn handles(recorder: &impl Recorder) -> [(Counter, Gauge, Histogram); 2] {
    recorder.describe_counter("c".into(), None, "counts".into());
    recorder.describe_gauge("g".into(), None, "a level".into());
    recorder.describe_histogram("h".into(), None, "times \\ \"so\"\nsaid".into());
    ["a", "b\"\\\n"].map(|of| {
        let labels = vec![metrics::Label::new("of", of)];
        let key = |name: &'static str| Key::from_parts(name, labels.clone());
        (
            recorder.register_counter(&key("c"), &METADATA),
            recorder.register_gauge(&key("g"), &METADATA),
            recorder.register_histogram(&key("h"), &METADATA),
        )
    })
}

fn act(handles: &[(Counter, Gauge, Histogram); 2], (second, act): (bool, Act)) {
    let (count, level, spread) = &handles[usize::from(second)];
    match act {
        Act::Count(by) => count.increment(by),
        Act::Add(by) if by < 0 => level.decrement(f64::from(-by)),
        Act::Add(by) => level.increment(f64::from(by)),
        Act::Set(to) => level.set(f64::from(to)),
        Act::Record(value, times) => spread.record_many(value, times),
        Act::Render => {}
    }
}

/// The lines, which have no order.
fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    lines
}

proptest! {
    #[test]
    fn what_is_read_is_what_the_library_itself_would_say(acts in acts()) {
        let library = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full("h".to_owned()), &BOUNDS)
            .expect("buckets")
            .build_recorder();
        let ours = Metrics::new(BUCKETS);
        let (oracle, own) = (handles(&library), handles(&ours));
        // One of nothing: the library says nothing of a histogram before its first value.
        for handles in [&oracle, &own] {
            act(handles, (false, Act::Record(0.25, 1)));
            act(handles, (true, Act::Record(0.25, 1)));
        }
        for step in acts {
            act(&oracle, step);
            // Each on a thread of its own: on another place, or on that of the one before.
            if matches!(step.1, Act::Render) {
                drop(ours.render());
            } else {
                thread::scope(|scope| drop(scope.spawn(|| act(&own, step)).join()));
            }
        }
        let (said, wanted) = (ours.render(), library.handle().render());
        prop_assert_eq!(lines(&said), lines(&wanted));
    }
}

#[test]
fn a_handle_asked_for_again_is_the_same_metric() {
    let metrics = Metrics::new(BUCKETS);
    for _ in 0..3 {
        for (count, level, spread) in handles(&metrics) {
            count.increment(1);
            level.increment(2.0);
            spread.record(1.0);
        }
    }
    let text = metrics.render();
    for line in [
        "c{of=\"a\"} 3\n",
        "g{of=\"a\"} 6\n",
        "h_bucket{of=\"a\",le=\"0.5\"} 0\n",
        "h_bucket{of=\"a\",le=\"1\"} 3\n",
        "h_count{of=\"a\"} 3\n",
    ] {
        assert_eq!(text.matches(line).count(), 1, "{line} in {text}");
    }
}

#[test]
fn each_of_many_has_a_number_of_its_own() {
    let metrics = Metrics::new(BUCKETS);
    let name = |n: usize| format!("c{n}");
    for n in 0..2 * TRAY + 1 {
        let count = metrics.register_counter(&Key::from_name(name(n)), &METADATA);
        count.increment(n as u64 + 1);
    }
    let text = metrics.render();
    for n in 0..2 * TRAY + 1 {
        let line = format!("\n{} {}\n", name(n), n + 1);
        assert_eq!(text.matches(&line).count(), 1, "{line} in {text}");
    }
}

#[test]
fn a_counter_may_be_told_what_it_is() {
    let metrics = Metrics::new(BUCKETS);
    let count = metrics.register_counter(&Key::from_name("c"), &METADATA);
    for (told, read) in [(7, 7), (5, 7), (9, 9)] {
        count.absolute(told);
        let text = metrics.render();
        assert!(text.contains(&format!("\nc {read}\n")), "{text}");
    }
}

#[test]
fn a_histogram_without_buckets_is_the_librarys() {
    let metrics = Metrics::new(BUCKETS);
    metrics.describe_histogram("other".into(), None, "what else".into());
    metrics
        .register_histogram(&Key::from_name("other"), &METADATA)
        .record(1.0);
    metrics.run_upkeep();
    let text = metrics.render();
    assert!(
        text.contains("# HELP other what else\n") && text.contains("\nother_count 1\n"),
        "{text}"
    );
    assert!(!text.contains("# TYPE h "), "nobody asked for it: {text}");
}
