//! M7: the primary sees every byte once, and only a whole body is ever mirrored.

use arqon_shadow::{Reason, ShadowConfig};
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

#[tokio::test]
async fn one_frame_is_counted_by_reference_and_not_copied() {
    let rig = rig(&all());
    let body = Bytes::from(vec![7_u8; 4_096]);
    send(&rig.layer, request(Full::new(body.clone())), echo).await;
    let (_, copies) = rig.settled().await;
    assert_eq!(copies[0].body.as_ptr(), body.as_ptr());
}

#[tokio::test]
async fn copies_that_have_to_wait_let_go_of_the_servers_buffers() {
    let rig = rig(&all());
    // A frame of one byte of a large buffer. Nothing runs but this test until `settled`, so all of them wait.
    let buffer = Bytes::from(vec![7_u8; 400_000]);
    for _ in 0..80 {
        let body = Full::new(buffer.slice(1_000..1_001));
        send(&rig.layer, request(body), echo).await;
    }
    let (stats, copies) = rig.settled().await;
    assert_eq!(stats.mirrored, 80);
    let pinning = copies
        .iter()
        .filter(|copy| copy.body.as_ptr() == buffer[1_000..].as_ptr());
    assert_eq!(pinning.count(), 64);
    assert!(copies.iter().all(|copy| copy.body == buffer[1_000..1_001]));
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
    let (stats, _) = rig.settled().await;
    assert_eq!((stats.sampled, stats.dropped_by(Reason::BodyTooLarge)), (2, 2));
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
