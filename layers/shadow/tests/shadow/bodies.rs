//! M7: the primary sees every byte once, and only a whole body is ever mirrored.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arqon_shadow::{Reason, ShadowConfig, ShadowCopy};
use bytes::Bytes;
use http::HeaderValue;
use http_body_util::{Empty, Full};
use proptest::prelude::*;

use super::support::*;

fn capped(bytes: usize) -> ShadowConfig {
    ShadowConfig::default().rule(rule().with_max_body_bytes(bytes))
}

async fn mirrored(config: &ShadowConfig, body: Frames) -> (Seen, Result<Bytes, Reason>) {
    let rig = rig(config);
    let (tell, seen) = std::sync::mpsc::channel();
    send(&rig.layer, request(body), move |request| {
        let tell = tell.clone();
        async move {
            let seen = read(request.into_body()).await;
            tell.send(seen).expect("told");
            status(200)
        }
    })
    .await;
    let (stats, mut copies) = rig.settled().await;
    assert_eq!(stats.sampled, 1);
    let outcome = match copies.pop() {
        Some(copy) => Ok(copy.body),
        None => Err(*stats.dropped.iter().find(|(_, n)| **n == 1).expect("a reason").0),
    };
    (seen.recv().expect("seen"), outcome)
}

#[tokio::test]
async fn a_body_up_to_the_cap_is_mirrored_and_one_byte_more_is_not() {
    for eager in [false, true] {
        for (frames, outcome) in [
            (["", "", ""], Ok("")),
            (["ab", "cd", ""], Ok("abcd")),
            (["ab", "cdefgh", ""], Ok("abcdefgh")),
            (["abcdefgh", "", "i"], Err(Reason::BodyTooLarge)),
            (["abcdefghi", "", ""], Err(Reason::BodyTooLarge)),
            (
                ["abcdefgh", "abcdefgh", "abcdefghabcdefgh"],
                Err(Reason::BodyTooLarge),
            ),
        ] {
            let mut body = Frames::of(frames);
            body.eager = eager;
            let (seen, copied) = mirrored(&capped(8), body).await;
            assert_eq!(seen.body, frames.concat(), "the primary sees every byte once");
            assert_eq!(
                copied,
                outcome.map(Bytes::from_static_str),
                "{frames:?} eager {eager}"
            );
        }
    }
}

trait FromStaticStr {
    fn from_static_str(text: &'static str) -> Bytes;
}

impl FromStaticStr for Bytes {
    fn from_static_str(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }
}

/// A mirror, and where the body of each copy lies when the sink gets it, and where it would keep it.
fn bodies_seen(
    config: &ShadowConfig,
) -> (
    arqon_shadow::ShadowLayer,
    arqon_shadow::ShadowHandle,
    Arc<Mutex<Vec<[usize; 2]>>>,
) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let (layer, handle, _) = with_sink(config, move |copy: ShadowCopy| {
        let own = copy.own_body();
        assert_eq!(own, copy.body);
        let places = [&copy.body, &own].map(|body| body.as_ptr().addr());
        told.lock().expect("lock").push(places);
        std::future::ready(Ok(()))
    });
    (layer, handle, seen)
}

#[tokio::test]
async fn one_large_frame_is_a_reference_until_it_is_kept() {
    for (size, is_copied) in [(4_095, true), (4_096, false)] {
        let (layer, handle, seen) = bodies_seen(&all());
        let body = Bytes::from(vec![7_u8; size]);
        send(&layer, request(Full::new(body.clone())), echo).await;
        handle.shutdown(Duration::from_secs(30)).await;
        let seen = seen.lock().expect("lock").clone();
        assert_eq!(seen[0][0] != body.as_ptr().addr(), is_copied);
        assert_ne!(
            seen[0][1],
            body.as_ptr().addr(),
            "what is kept holds nothing of it"
        );
        // What was copied once is not copied again.
        assert_eq!(seen[0][0] == seen[0][1], is_copied);
    }
}

#[tokio::test]
async fn a_recording_holds_nothing_of_the_servers_buffer() {
    let rig = rig(&all());
    let buffer = read_buffer();
    send(&rig.layer, request(Full::new(buffer.slice(..5_000))), echo).await;
    rig.sink.recorded(1).await;
    assert!(buffer.is_unique());
    rig.settled().await;
}

/// What a server read in one go: a request's head and the first of its body, with a pipelined one before them.
fn read_buffer() -> Bytes {
    let head = b"/orders?x=1value";
    [&head[..], &vec![7; 417_792 - head.len()][..]].concat().into()
}

#[tokio::test]
async fn a_small_copy_that_waits_holds_nothing_of_the_servers_buffer() {
    let rig = rig(&all());
    let buffer = read_buffer();
    // Nothing runs but this test until `settled`, so all of them wait.
    for _ in 0..80 {
        let value = HeaderValue::from_maybe_shared(buffer.slice(11..16)).expect("value");
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-trailer", value.clone());
        let mut body = Frames::of([""; 1]);
        body.frames = [
            http_body::Frame::data(buffer.slice(1_000..1_001)),
            http_body::Frame::trailers(trailers),
        ]
        .map(|frame| Some(Ok(frame)))
        .into();
        let mut request = request(body);
        *request.uri_mut() = http::Uri::from_maybe_shared(buffer.slice(..11)).expect("uri");
        request.headers_mut().insert("x-value", value);
        send(&rig.layer, request, echo).await;
    }
    assert_eq!(rig.handle.state().queue_messages, 80);
    assert!(buffer.is_unique());
    let (_, copies) = rig.settled().await;
    assert_eq!(copies.len(), 80);
    for copy in &copies {
        assert_eq!(
            (copy.uri.to_string().as_str(), &copy.body[..]),
            ("/orders?x=1", &[7][..])
        );
        assert_eq!(copy.headers()["x-value"], "value");
        assert_eq!(copy.trailers.as_ref().expect("trailers")["x-trailer"], "value");
    }
}

#[tokio::test]
async fn a_copy_that_holds_a_servers_buffer_is_counted_with_all_of_it() {
    let (layer, handle, seen) = bodies_seen(&all());
    let buffer = read_buffer();
    let body = buffer.slice(1_000..5_096);
    for _ in 0..80 {
        send(&layer, request(Full::new(body.clone())), echo).await;
    }
    // An eighth of 32 MiB has room for ten such buffers; the bodies of the others are copied.
    let held = handle.state().queue_bytes;
    let bodies = 80 * body.len();
    assert!(held > 10 * buffer.len() + bodies, "{held}");
    assert!(held < 11 * buffer.len() + bodies, "{held}");
    assert_eq!(handle.shutdown(Duration::from_secs(30)).await.mirrored, 80);
    let seen = seen.lock().expect("lock").clone();
    let pinning = seen.iter().filter(|[at, _]| *at == body.as_ptr().addr());
    assert_eq!(pinning.count(), 10);
    assert_eq!(handle.state().queue_bytes, 0);
}

#[tokio::test]
async fn leave_to_hold_a_buffer_is_given_back() {
    let (layer, handle, seen) = bodies_seen(&all());
    let body = Bytes::from(vec![7; 4_096]);
    for n in 1..=30 {
        send(&layer, request(Full::new(body.clone())), echo).await;
        while handle.stats().mirrored < n {
            tokio::task::yield_now().await;
        }
    }
    let seen = seen.lock().expect("lock").clone();
    assert!(seen.iter().all(|[at, _]| *at == body.as_ptr().addr()));
}

#[tokio::test]
async fn a_request_that_announces_too_much_is_skipped_at_once() {
    let rig = rig(&capped(8));
    // By the body's hint, and by the header alone.
    send(
        &rig.layer,
        request(Full::new(Bytes::from_static(b"123456789"))),
        |request| async move {
            assert!(format!("{:?}", request.body()).contains("mirrored: false"));
            echo(request).await
        },
    )
    .await;
    let mut lying = request(Frames::of(["1"]));
    lying
        .headers_mut()
        .insert("content-length", HeaderValue::from_static("9"));
    send(&rig.layer, lying, echo).await;
    // Just as much as may be.
    let mut fitting = request(Frames::of(["12345678"]));
    fitting
        .headers_mut()
        .insert("content-length", HeaderValue::from_static("8"));
    send(&rig.layer, fitting, echo).await;
    let (stats, _) = rig.settled().await;
    assert_eq!(
        (
            stats.sampled,
            stats.dropped_by(Reason::BodyTooLarge),
            stats.mirrored
        ),
        (3, 2, 1)
    );
}

#[tokio::test]
async fn trailers_reach_the_primary_and_the_copy() {
    let rig = rig(&all());
    let (tell, seen) = std::sync::mpsc::channel();
    let mut body = Frames::of(["a", "b"]).and_trailers("x-digest", "9");
    if let Some(Some(Ok(trailers))) = body.frames.back_mut() {
        let trailers = trailers.trailers_mut().expect("trailers");
        trailers.insert("x-arqon-shadow", HeaderValue::from_static("false"));
        trailers.insert("cookie", HeaderValue::from_static("secret"));
    }
    send(&rig.layer, request(body), move |request| {
        let tell = tell.clone();
        async move {
            tell.send(read(request.into_body()).await).expect("told");
            status(204)
        }
    })
    .await;
    let trailers = seen.recv().expect("seen").trailers.expect("trailers");
    assert_eq!(trailers.len(), 3, "the primary's are untouched");
    let (_, copies) = rig.settled().await;
    let copied = copies[0].trailers.as_ref().expect("trailers");
    assert_eq!(
        (copied.len(), &copied["x-digest"]),
        (1, &HeaderValue::from_static("9"))
    );
    assert_eq!(copies[0].body, "ab");
}

#[tokio::test]
async fn a_failed_or_cancelled_upload_leaves_no_copy() {
    let (seen, copied) = mirrored(&all(), Frames::of(["ab"]).and_error()).await;
    assert!(seen.failed, "the primary gets the error untouched");
    assert_eq!(copied, Err(Reason::Cancelled));

    // The client goes away in the middle: the server drops the response future and the body with it.
    let rig = rig(&all());
    let stuck = request(Frames::of(["ab"]).and_nothing_more());
    {
        let mut sent = Box::pin(send(&rig.layer, stuck, echo));
        assert!(poll_once(sent.as_mut()).await.is_pending());
        assert_eq!(rig.handle.stats().in_flight, 1);
    }
    let (stats, _) = rig.settled().await;
    assert_eq!(stats.dropped_by(Reason::Cancelled), 1);
}

#[tokio::test]
async fn a_primary_that_answers_without_reading_the_body_leaves_no_copy_unless_there_was_none() {
    let rig = rig(&all());
    send(&rig.layer, request(Frames::of(["ab", "cd"])), |_| async {
        status(200)
    })
    .await;
    assert_eq!(rig.handle.stats().dropped_by(Reason::Cancelled), 1);
    send(&rig.layer, request(Empty::new()), |_| async { status(200) }).await;
    let (stats, copies) = rig.settled().await;
    assert_eq!((stats.sampled, copies.len(), copies[0].body.len()), (2, 1, 0));
}

#[tokio::test]
async fn a_reader_that_stops_at_the_last_byte_has_read_the_whole_body() {
    let rig = rig(&all());
    send(
        &rig.layer,
        request(Frames::of(["ab"]).eager()),
        |request| async move {
            use http_body_util::BodyExt;
            let mut body = request.into_body();
            assert!(body.frame().await.expect("frame").is_ok());
            status(200)
        },
    )
    .await;
    let (_, copies) = rig.settled().await;
    assert_eq!(copies[0].body, "ab");
}

#[tokio::test]
async fn a_body_that_is_read_after_the_answer_is_mirrored_when_it_ends() {
    let rig = rig(&all());
    let (hand, taken) = std::sync::mpsc::channel();
    send(&rig.layer, request(Frames::of(["ab", "cd"])), move |request| {
        hand.send(request.into_body()).expect("handed");
        async { status(200) }
    })
    .await;
    assert_eq!((rig.handle.stats().in_flight, rig.sink.total()), (1, 0));
    assert_eq!(read(taken.recv().expect("body")).await.body, "abcd");
    let (_, copies) = rig.settled().await;
    assert_eq!(copies[0].body, "abcd");
}

#[tokio::test]
async fn a_request_that_is_not_chosen_has_no_tee() {
    let rig = rig(&ShadowConfig::default().rule(arqon_shadow::RuleConfig::new("in.>", 0.85)));
    // Hash 0.8513 of the range.
    send(&rig.layer, request(Frames::of(["ab"])), |request| async move {
        assert!(format!("{:?}", request.body()).contains("mirrored: false"));
        echo(request).await
    })
    .await;
    assert_eq!(rig.settled().await.0.sampled, 0);
}

proptest! {
    #[test]
    fn whatever_the_frames_the_primary_sees_what_it_sees_without_the_layer(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        cap in 1_usize..120, trailers: bool, eager: bool, fails: bool,
    ) {
        let build = || {
            let mut body = Frames::of([]);
            body.eager = eager;
            let data = frames.iter().cloned().map(|data| Some(Ok(http_body::Frame::data(Bytes::from(data)))));
            body.frames.extend(data);
            if trailers { body = body.and_trailers("x-t", "1"); }
            if fails { body = body.and_error(); }
            body
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
        let (alone, (behind, copied)) =
            runtime.block_on(async { (read(build()).await, mirrored(&capped(cap), build()).await) });
        prop_assert_eq!(&alone, &behind);
        let whole: Vec<u8> = frames.concat();
        let expected = match (whole.len() > cap, fails) {
            (true, _) => Err(Reason::BodyTooLarge),
            (false, true) => Err(Reason::Cancelled),
            (false, false) => Ok(Bytes::from(whole)),
        };
        prop_assert_eq!(copied, expected);
    }
}
