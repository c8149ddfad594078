//! M14: sampled = mirrored + dropped by reason + in flight, exactly, whatever happens in which order.

use std::{num::NonZeroUsize, time::Duration};

use arqon_shadow::{Delivery, Reason, ShadowConfig, ShadowCopy, Sink, SinkError};
use proptest::prelude::*;
use tower::{Layer, Service};

use super::support::*;

/// What one request goes through.
#[derive(Clone, Debug)]
struct Story {
    frames: usize,
    fails: bool,
    trailers: bool,
    reads: bool,
    /// The status, or a failed primary.
    answers: Result<u16, ()>,
    /// Dropped after so many polls.
    cancelled_after: Option<usize>,
}

fn story() -> impl Strategy<Value = Story> {
    let answers = prop_oneof![4 => Just(Ok(200)), 1 => Just(Ok(500)), 1 => Just(Err(()))];
    (
        0..4_usize,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.8),
        answers,
        prop::option::weighted(0.2, 0..3_usize),
    )
        .prop_map(
            |(frames, fails, trailers, reads, answers, cancelled_after)| Story {
                frames,
                fails,
                trailers,
                reads,
                answers,
                cancelled_after,
            },
        )
}

/// Fails in turns by the length of the copy's body and the order of the calls.
struct Moody(std::sync::atomic::AtomicUsize);

impl Sink for Moody {
    fn send(&self, copy: ShadowCopy) -> Delivery<'_> {
        let turn = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + copy.body.len();
        Box::pin(async move {
            match turn % 8 {
                0 => Err(SinkError::Disconnected),
                1 => Err(SinkError::publish("no")),
                2 => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(())
                }
                3 => std::future::pending().await,
                _ => Ok(()),
            }
        })
    }

    fn concurrency(&self) -> NonZeroUsize {
        NonZeroUsize::new(2).expect("positive")
    }
}

async fn act(
    shadow: &mut (impl Service<http::Request<Frames>, Response = http::Response<()>, Error = ()> + Clone),
    story: &Story,
    n: usize,
) {
    let mut frames = Frames::of([]);
    frames.frames.extend(
        (0..story.frames).map(|_| Some(Ok(http_body::Frame::data(bytes::Bytes::from_static(b"abcd"))))),
    );
    if story.trailers {
        frames = frames.and_trailers("x-digest", "9");
    }
    if story.fails {
        frames = frames.and_error();
    }
    let mut request = traced(&format!("{:032x}", n + 1), frames);
    request.extensions_mut().insert(story.clone());
    let mut answer = Box::pin(shadow.call(request));
    match story.cancelled_after {
        None => drop(answer.await),
        Some(polls) => {
            for _ in 0..polls {
                if poll_once(answer.as_mut()).await.is_ready() {
                    break;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_books_balance(
        stories in prop::collection::vec(story(), 1..60),
        queue in 1..20_usize, bytes in 900..20_000_usize, share in 0.3..=1.0_f64, arrival: bool, abort: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let mut rule = arqon_shadow::RuleConfig::new("in.>", share).with_max_body_bytes(10);
            if arrival { rule = rule.at_arrival(); }
            let config = ShadowConfig::default().rule(rule).with_queue(queue, bytes).with_timeout_ms(10);
            let (layer, handle, drain) = with_sink(&config, Moody(Default::default()));
            let mut shadow = layer.layer(tower::service_fn(|request: http::Request<_>| async move {
                let story = request.extensions().get::<Story>().cloned().expect("story");
                tokio::task::yield_now().await;
                if story.reads { read(request.into_body()).await; }
                tokio::task::yield_now().await;
                story.answers.map(|code| http::Response::builder().status(code).body(()).expect("response"))
            }));
            for (n, story) in stories.iter().enumerate() {
                act(&mut shadow, story, n).await;
                let stats = handle.stats();
                assert_eq!(stats.sampled, stats.mirrored + stats.dropped_sum() + stats.in_flight);
                assert!(handle.state().queue_bytes <= bytes);
            }
            if abort { drain.abort(); }
            let stats = handle.shutdown(Duration::from_secs(60)).await;
            assert_eq!((stats.in_flight, handle.state().queue_bytes, handle.state().queue_messages), (0, 0, 0), "{stats:?}");
            assert_eq!(stats.sampled, stats.mirrored + stats.dropped_sum());
            assert!(stats.sampled <= stories.len() as u64);
            assert_eq!(stats.dropped.len(), Reason::ALL.len());
            let rules = &handle.state().rules[0];
            assert_eq!((rules.sampled, rules.mirrored), (stats.sampled, stats.mirrored));
        });
    }
}
