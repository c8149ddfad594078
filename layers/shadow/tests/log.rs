//! Log lines at a limited rate. Alone in its program: tracing caches for all threads whether anyone listens to a line.

#[path = "shadow/support.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use arqon_shadow::{Reason, ShadowCopy, SinkError};
use bytes::Bytes;
use http_body_util::Full;

use self::support::*;

/// Log lines, kept.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_reason_is_logged_once_a_second_with_rule_and_trace_and_never_by_a_request() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(move || writer.clone())
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let sink = |_: ShadowCopy| async { Err(SinkError::publish("no room at the inn")) };
    let (layer, handle, _drain) = with_sink(&all(), sink);
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        for _ in 0..10 {
            let before = lines.0.lock().expect("lock").len();
            send(&layer, request(Full::<Bytes>::default()), echo).await;
            assert_eq!(
                lines.0.lock().expect("lock").len(),
                before,
                "a request writes no log"
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stats = handle.shutdown(Duration::from_secs(1)).await;
    let text = String::from_utf8(lines.0.lock().expect("lock").clone()).expect("text");
    let told: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("json")["fields"].clone())
        .collect();
    assert!((5..=8).contains(&told.len()), "{text}");
    let sum: u64 = told
        .iter()
        .map(|fields| fields["dropped"].as_u64().expect("count"))
        .sum();
    assert_eq!(
        sum,
        stats.dropped_by(Reason::PublishError),
        "every drop is in one line"
    );
    for fields in &told {
        assert_eq!(
            (&fields["reason"], &fields["rule"], &fields["trace"]),
            (&"publish_error".into(), &"in.>".into(), &TRACE.into())
        );
    }
    assert!(text.contains("no room at the inn"), "{text}");
}
