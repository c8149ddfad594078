//! What a sink says of itself: how large a copy it takes, how long it may take, and that it is flushed.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arqon_shadow::{Delivery, Reason, ShadowConfig, ShadowCopy, Sink, SinkError};
use bytes::Bytes;
use http_body_util::Full;
use tokio::sync::Semaphore;

use super::{
    faults::{body, end, load},
    support::*,
};

/// Takes copies up to a size, and those of rules that compare up to another; remembers what came.
#[derive(Default)]
struct Small {
    most: usize,
    compared_most: usize,
    /// Header lines are not counted.
    bodies_only: bool,
    came: AtomicUsize,
    flushed: AtomicUsize,
}

impl Sink for Small {
    fn send(&self, _: ShadowCopy) -> Delivery<'_> {
        self.came.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(()) })
    }

    fn flush(&self) -> Delivery<'_> {
        self.flushed.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(()) })
    }

    fn copy_bytes_max(&self) -> usize {
        self.most
    }

    fn compared_bytes_max(&self) -> usize {
        self.compared_most
    }

    fn header_bytes(&self, name: &str, value: &[u8]) -> usize {
        if self.bodies_only {
            0
        } else {
            name.len() + value.len() + 4
        }
    }
}

#[tokio::test]
async fn what_the_sink_cannot_take_is_not_even_queued() {
    // F12
    let sink = Arc::new(Small {
        most: 9,
        bodies_only: true,
        ..Small::default()
    });
    let (layer, handle, _drain) = with_sink(&all(), Arc::clone(&sink));
    load(&layer, 3).await;
    send(&layer, request(Full::new(Bytes::from_static(b"012345678"))), echo).await;
    let stats = end(&handle).await;
    assert_eq!(
        (
            stats.dropped_by(Reason::MaxPayload),
            stats.mirrored,
            sink.came.load(Ordering::SeqCst)
        ),
        (3, 1, 1)
    );
}

#[tokio::test]
async fn headers_count_to_the_byte_before_a_copy_is_queued() {
    // What the copy of a request takes, as the sink counts it.
    let rig = rig(&all());
    load(&rig.layer, 1).await;
    let size = rig.settled().await.1[0].size();
    for (most, mirrored) in [(size, 1), (size - 1, 0)] {
        let sink = Arc::new(Small {
            most,
            ..Small::default()
        });
        let (layer, handle, _drain) = with_sink(&all(), Arc::clone(&sink));
        let mut one = request(body());
        // What a copy does not carry does not count.
        let secret = http::HeaderValue::from_static("a-long-secret");
        one.headers_mut().insert("authorization", secret);
        send(&layer, one, echo).await;
        assert_eq!(handle.stats().dropped_by(Reason::MaxPayload), 1 - mirrored);
        assert_eq!(end(&handle).await.mirrored, mirrored);
        assert_eq!(sink.came.load(Ordering::SeqCst) as u64, mirrored);
    }
}

#[tokio::test]
async fn the_limit_of_one_sink_does_not_hold_for_copies_that_go_to_another() {
    let sink = Arc::new(Small {
        most: 5,
        compared_most: usize::MAX,
        ..Small::default()
    });
    let config = ShadowConfig::default().rule(rule().comparing());
    let (layer, handle, _drain) = with_sink(&config, Arc::clone(&sink));
    load(&layer, 1).await;
    assert_eq!(end(&handle).await.mirrored, 1);
}

#[tokio::test]
async fn a_sink_is_flushed_once_at_the_end() {
    for by_order in [true, false] {
        let sink = Arc::new(Small {
            most: usize::MAX,
            ..Small::default()
        });
        let (layer, handle, drain) = with_sink(&all(), Arc::clone(&sink));
        load(&layer, 3).await;
        assert_eq!(sink.flushed.load(Ordering::SeqCst), 0);
        if by_order {
            end(&handle).await;
        }
        drop(layer);
        drain.await.expect("ended");
        let seen = (&sink.came, &sink.flushed);
        assert_eq!(
            (seen.0.load(Ordering::SeqCst), seen.1.load(Ordering::SeqCst)),
            (3, 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_makes_its_first_connection_has_more_time_for_it() {
    struct Starting(tokio::time::Instant);
    impl Sink for Starting {
        fn send(&self, _: ShadowCopy) -> Delivery<'_> {
            Box::pin(async {
                tokio::time::sleep_until(self.0).await;
                Ok(())
            })
        }
        fn grace(&self) -> Duration {
            self.0.saturating_duration_since(tokio::time::Instant::now())
        }
    }
    let connected = tokio::time::Instant::now() + Duration::from_secs(9);
    let (layer, handle, _drain) = with_sink(&all().with_timeout_ms(250), Starting(connected));
    load(&layer, 5).await;
    assert_eq!(end(&handle).await.mirrored, 5);
}

#[tokio::test]
async fn for_a_sink_that_is_down_no_copy_is_made() {
    /// Down while it is told to be, and when it is asked for the first time it panics.
    struct Away {
        asked: AtomicUsize,
        down: AtomicBool,
        came: AtomicUsize,
    }
    impl Sink for Away {
        fn send(&self, _: ShadowCopy) -> Delivery<'_> {
            self.came.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Ok(()) })
        }
        fn is_down(&self) -> bool {
            assert!(
                self.asked.fetch_add(1, Ordering::SeqCst) > 0,
                "the primary does not feel it"
            );
            self.down.load(Ordering::SeqCst)
        }
    }
    let sink = Arc::new(Away {
        asked: AtomicUsize::new(0),
        down: AtomicBool::new(true),
        came: AtomicUsize::new(0),
    });
    let (layer, handle, _drain) = with_sink(&all(), Arc::clone(&sink));
    let trace = |n: u32| format!("{n:032x}");
    for n in 1..=4 {
        send(&layer, traced(&trace(n), body()), echo).await;
    }
    // At once, and not when its turn would have come.
    assert_eq!(handle.stats().dropped_by(Reason::Disconnected), 3);
    sink.down.store(false, Ordering::SeqCst);
    // The rest of a trace of which something is lost is left out; others are copied.
    for n in [1, 2, 3, 4, 5, 6] {
        send(&layer, traced(&trace(n), body()), echo).await;
    }
    let stats = end(&handle).await;
    assert_eq!((stats.mirrored, stats.dropped_by(Reason::Shed)), (4, 3));
    assert_eq!(sink.came.load(Ordering::SeqCst), 4);
}

/// Delivers nothing until it is let, and says so.
struct Stalling {
    goes_on: Semaphore,
    begun: AtomicUsize,
}

impl Sink for Stalling {
    fn send(&self, _: ShadowCopy) -> Delivery<'_> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            let _leave = self.goes_on.acquire().await.map_err(SinkError::publish)?;
            Ok(())
        })
    }

    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let _ = self.goes_on.acquire().await.expect("open");
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_stalls_for_a_while_costs_one_copy() {
    let sink = Arc::new(Stalling {
        goes_on: Semaphore::new(0),
        begun: AtomicUsize::new(0),
    });
    let (layer, handle, _drain) = with_sink(&all().with_timeout_ms(250), Arc::clone(&sink));
    load(&layer, 10).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let stats = handle.stats();
    assert_eq!((stats.dropped_by(Reason::Timeout), stats.in_flight), (1, 9));
    assert_eq!(sink.begun.load(Ordering::SeqCst), 1);
    // The trace has lost one: nothing more of it is let in.
    load(&layer, 1).await;
    assert_eq!(handle.stats().dropped_by(Reason::Shed), 1);
    sink.goes_on.add_permits(1);
    assert_eq!(end(&handle).await.mirrored, 9);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_stays_stalled_does_not_hold_up_the_end() {
    for by_order in [true, false] {
        let sink = Arc::new(Stalling {
            goes_on: Semaphore::new(0),
            begun: AtomicUsize::new(0),
        });
        let (layer, handle, drain) = with_sink(&all().with_timeout_ms(250), sink);
        load(&layer, 10).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let begun = tokio::time::Instant::now();
        if by_order {
            // It is not ready, but there is time: each copy is tried.
            let stats = handle.shutdown(Duration::from_millis(1_100)).await;
            assert_eq!((stats.mirrored, stats.in_flight), (0, 0));
            assert!(stats.dropped_by(Reason::Shutdown) > 0 && stats.dropped_by(Reason::Timeout) > 2);
        } else {
            drop(layer);
            drain.await.expect("ended");
            assert_eq!(handle.stats().dropped_by(Reason::Timeout), 10);
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
}
