//! M5 and F1 to F5, in process: whatever the sink does, the primary does not feel it and each copy lost has a reason.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arqon_shadow::{
    Delivery, Reason, ShadowConfig, ShadowCopy, ShadowEvent, ShadowHandle, ShadowLayer, Sink, SinkError,
};
use bytes::Bytes;
use http_body_util::Full;
use tokio::sync::Semaphore;

use super::support::*;

pub(crate) fn body() -> Full<Bytes> {
    Full::new(Bytes::from_static(b"0123456789"))
}

/// Sends `n` requests and holds the primary to its answer.
pub(crate) async fn load(layer: &ShadowLayer, n: usize) {
    for _ in 0..n {
        let response = send(layer, request(body()), echo).await;
        assert_eq!(
            (response.status(), read(response.into_body()).await.body),
            (http::StatusCode::OK, "0123456789".into())
        );
    }
}

pub(crate) async fn end(handle: &ShadowHandle) -> arqon_shadow::ShadowStats {
    let stats = handle.shutdown(Duration::from_secs(3_600)).await;
    assert_eq!(
        (stats.in_flight, stats.sampled),
        (0, stats.mirrored + stats.dropped_sum()),
        "{stats:?}"
    );
    stats
}

/// Takes nothing until it is let; remembers how many came.
#[derive(Clone)]
struct Gate {
    open: Arc<Semaphore>,
    came: Arc<AtomicUsize>,
    concurrency: usize,
    /// Of copies that are not compared.
    plain: usize,
}

impl Gate {
    fn shut(concurrency: usize) -> Self {
        Self {
            open: Arc::new(Semaphore::new(0)),
            came: Arc::default(),
            concurrency,
            plain: concurrency,
        }
    }
}

impl Sink for Gate {
    fn send(&self, _: ShadowCopy) -> Delivery<'_> {
        self.came.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            self.open.acquire().await.map_err(SinkError::publish)?.forget();
            Ok(())
        })
    }

    fn concurrency(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.concurrency).expect("positive")
    }

    fn plain_concurrency(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.plain).expect("positive")
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_sink_costs_its_timeout_and_nothing_else() {
    let (layer, handle, _drain) = with_sink(&all().with_timeout_ms(250), Gate::shut(1));
    let begun = tokio::time::Instant::now();
    load(&layer, 10).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "the primary does not wait");
    let stats = end(&handle).await;
    assert_eq!(stats.dropped_by(Reason::Timeout), 10);
    assert_eq!(begun.elapsed().as_millis() / 100, 25);
}

#[tokio::test(start_paused = true)]
async fn copies_that_are_not_compared_wait_in_the_queue_for_each_other() {
    let sink = || Gate {
        plain: 1,
        ..Gate::shut(8)
    };
    for (config, tenths) in [(all(), 25), (ShadowConfig::default().rule(rule().comparing()), 5)] {
        let (layer, handle, _drain) = with_sink(&config.with_timeout_ms(250), sink());
        let begun = tokio::time::Instant::now();
        load(&layer, 10).await;
        let stats = end(&handle).await;
        assert_eq!(stats.dropped_by(Reason::Timeout), 10);
        assert_eq!(begun.elapsed().as_millis() / 100, tenths);
    }
}

/// Down for what is not compared; takes everything that comes all the same.
struct Down;

impl Sink for Down {
    fn send(&self, _: ShadowCopy) -> Delivery<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_down(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_down_does_not_keep_copies_from_being_compared_elsewhere() {
    for (rule, mirrored) in [(rule(), 0), (rule().comparing(), 3)] {
        let (layer, handle, _drain) = with_sink(&ShadowConfig::default().rule(rule), Down);
        // The sink is looked at by the clock.
        tokio::time::sleep(Duration::from_secs(1)).await;
        load(&layer, 3).await;
        let stats = end(&handle).await;
        assert_eq!(
            (stats.mirrored, stats.dropped_by(Reason::Disconnected)),
            (mirrored, 3 - mirrored)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_the_newest() {
    let gate = Gate::shut(1);
    let mut config = all().with_queue(8, 1 << 20);
    config.high_water = 1.0.into();
    let (layer, handle, _drain) = with_sink(&config, gate.clone());
    // Nothing runs but this test. 8 fit; being full halves the share that is kept: a key at 0.42 of the range stays in,
    // finds the queue full, and is shed from there on; one at 0.85 is shed at once.
    for _ in 0..20 {
        send(&layer, traced("4bf92f3577b34da6a3ce929d0e0e4736", body()), echo).await;
    }
    load(&layer, 5).await;
    let stats = handle.stats();
    assert_eq!(
        (
            stats.in_flight,
            stats.dropped_by(Reason::QueueFull),
            stats.dropped_by(Reason::Shed)
        ),
        (8, 1, 16)
    );
    assert_eq!(handle.state().rules[0].effective, 0.5);
    gate.open.add_permits(100);
    assert_eq!(end(&handle).await.mirrored, 8);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_bounded_too_and_bodies_on_their_way_count() {
    let mut config = ShadowConfig::default()
        .rule(rule().with_max_body_bytes(2_000))
        .with_queue(1_000, 20_000);
    config.high_water = 1.0.into();
    let (layer, handle, _drain) = with_sink(&config, Gate::shut(1));
    let mut held = Vec::new();
    for n in 0..30 {
        let (hand, taken) = std::sync::mpsc::channel();
        let frames = Frames::of([""; 1]);
        let mut frames = frames;
        frames.frames = [
            Some(Ok(http_body::Frame::data(Bytes::from(vec![0; 1_000])))),
            None,
        ]
        .into();
        send(
            &layer,
            traced(&format!("{:032x}", n + 1), frames),
            move |request| {
                hand.send(request.into_body()).expect("handed");
                async { status(200) }
            },
        )
        .await;
        let mut body = taken.recv().expect("body");
        http_body_util::BodyExt::frame(&mut body)
            .await
            .expect("frame")
            .expect("data");
        held.push(body);
        assert!(handle.state().queue_bytes <= 20_000);
    }
    let stats = handle.stats();
    assert!(stats.dropped_by(Reason::ByteBudget) > 15, "{stats:?}");
    drop(held);
    assert_eq!(handle.state().queue_bytes, 0, "everything taken was given back");
    end(&handle).await;
}

#[tokio::test]
async fn a_sink_that_panics_in_the_call_or_later_is_contained() {
    let calls = Arc::new(AtomicUsize::new(0));
    let sink = move |_: ShadowCopy| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        assert!(call != 1, "in the call");
        async move {
            tokio::task::yield_now().await;
            assert!(call != 2, "in the future");
            Ok(())
        }
    };
    let (layer, handle, _drain) = with_sink(&all(), sink);
    load(&layer, 5).await;
    let stats = end(&handle).await;
    assert_eq!((stats.mirrored, stats.dropped_by(Reason::Panic)), (3, 2));
}

#[tokio::test]
async fn each_error_of_a_sink_has_its_reason() {
    let calls = AtomicUsize::new(0);
    let sink = move |_: ShadowCopy| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            match call {
                0 => Err(SinkError::MaxPayload { size: 10, limit: 5 }),
                1 => Err(SinkError::Disconnected),
                2 => Err(SinkError::Timeout),
                3 => Err(SinkError::publish("refused")),
                _ => Ok(()),
            }
        }
    };
    let (layer, handle, _drain) = with_sink(&all(), sink);
    load(&layer, 6).await;
    let stats = end(&handle).await;
    let reasons = [
        Reason::MaxPayload,
        Reason::Disconnected,
        Reason::Timeout,
        Reason::PublishError,
    ];
    assert_eq!(
        (reasons.map(|reason| stats.dropped_by(reason)), stats.mirrored),
        ([1; 4], 2)
    );
}

#[tokio::test]
async fn a_sink_says_how_many_deliveries_it_takes_at_once() {
    for concurrency in [1, 3] {
        let gate = Gate::shut(concurrency);
        let (layer, handle, _drain) = with_sink(&all(), gate.clone());
        load(&layer, 7).await;
        // The drain task runs until it has nothing to do but wait.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.came.load(Ordering::SeqCst), concurrency);
        gate.open.add_permits(7);
        assert_eq!(end(&handle).await.mirrored, 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_delivers_what_it_can_and_counts_the_rest() {
    let gate = Gate::shut(1);
    let (layer, handle, drain) = with_sink(&all().with_timeout_ms(60_000), gate.clone());
    load(&layer, 10).await;
    gate.open.add_permits(4);
    let begun = tokio::time::Instant::now();
    let stats = handle.shutdown(Duration::from_secs(2)).await;
    assert!(begun.elapsed() >= Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(3));
    assert_eq!(
        (
            stats.mirrored,
            stats.dropped_by(Reason::Shutdown),
            stats.in_flight
        ),
        (4, 6, 0)
    );
    drain.await.expect("ended");
    load(&layer, 3).await;
    assert_eq!(handle.stats().dropped_by(Reason::Shutdown), 9);
}

#[tokio::test(start_paused = true)]
async fn an_aborted_drain_task_is_counted_and_not_felt() {
    let (layer, handle, drain) = with_sink(&all(), Gate::shut(1));
    load(&layer, 5).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    drain.abort();
    assert!(drain.await.expect_err("aborted").is_cancelled());
    load(&layer, 5).await;
    let stats = end(&handle).await;
    assert_eq!(stats.dropped_by(Reason::Shutdown), 10);
}

#[tokio::test]
async fn a_task_that_is_never_spawned_is_not_felt_either() {
    let (layer, handle, drain) = ShadowLayer::channel(&all(), Gate::shut(1)).expect("config");
    load(&layer, 3).await;
    drop(drain);
    load(&layer, 3).await;
    assert_eq!(end(&handle).await.dropped_by(Reason::Shutdown), 6);
}

#[tokio::test]
async fn the_task_ends_with_the_last_service_and_delivers_what_is_queued_first() {
    let rig = rig(&all());
    load(&rig.layer, 3).await;
    let (handle, sink) = (rig.handle, rig.sink);
    drop(rig.layer);
    rig.drain.await.expect("ended");
    assert_eq!((sink.total(), handle.stats().in_flight), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn trouble_and_its_end_are_told_once() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&events);
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let sink = {
        let broken = Arc::clone(&broken);
        move |_: ShadowCopy| {
            let fails = broken.load(Ordering::SeqCst);
            async move {
                if fails {
                    Err(SinkError::Disconnected)
                } else {
                    Ok(())
                }
            }
        }
    };
    let on_event = Arc::new(move |event| {
        told.lock().expect("lock").push(event);
        panic!("a callback that panics does not end the deliveries");
    });
    let (layer, handle, drain) = ShadowLayer::channel_with_events(&all(), sink, on_event).expect("config");
    tokio::spawn(drain.run());
    // A trace for each: one that lost a copy is not copied any more.
    let send_two = async |first: u32| {
        for n in [first, first + 1] {
            send(&layer, traced(&format!("{n:032x}"), body()), echo).await;
        }
    };
    for n in 0..5 {
        send_two(2 * n + 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    broken.store(false, Ordering::SeqCst);
    send_two(11).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let events = events.lock().expect("lock").clone();
    assert_eq!(
        events,
        [
            ShadowEvent::Degraded {
                reason: Reason::Disconnected,
                dropped: 2,
                kept: 1.0
            },
            ShadowEvent::Recovered
        ]
    );
    let stats = end(&handle).await;
    assert_eq!((stats.mirrored, stats.dropped_by(Reason::Disconnected)), (2, 10));
}

#[tokio::test(start_paused = true)]
async fn under_overload_whole_traces_are_shed() {
    // One copy a millisecond goes out; ten come in, of 8 connections with 20 requests a trace.
    let kept = Arc::new(Mutex::new(std::collections::HashMap::<String, u32>::new()));
    let sink = {
        let kept = Arc::clone(&kept);
        move |copy: ShadowCopy| {
            let kept = Arc::clone(&kept);
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                *kept
                    .lock()
                    .expect("lock")
                    .entry(copy.key.as_str().to_owned())
                    .or_default() += 1;
                Ok(())
            }
        }
    };
    let (layer, handle, _drain) = with_sink(&all().with_queue(512, 32 << 20), sink);
    let mut open = [(0_u128, 0_u32); 8];
    let mut next = 0;
    for n in 0..60_000 {
        let slot = &mut open[n % 8];
        if slot.1 == 0 {
            next += 1;
            *slot = (next, 20);
        }
        slot.1 -= 1;
        send(&layer, traced(&format!("{:032x}", slot.0), body()), echo).await;
        if n % 10 == 9 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let stats = end(&handle).await;
    let kept = kept.lock().expect("lock");
    let whole = kept.values().filter(|&&n| n == 20).count();
    assert!(stats.dropped_by(Reason::Shed) > 40_000, "{stats:?}");
    let ratio = whole as f64 / kept.len() as f64;
    // A short run: the first cuts weigh in it. The long run is in shed/tests.rs.
    assert!(
        ratio > 0.9,
        "{whole} of {} traces are whole, {stats:?}",
        kept.len()
    );
}
