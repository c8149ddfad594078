use tokio::time::advance;

use super::*;

const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
    let [_, a, b, c] = (payload as u32).to_be_bytes();
    let mut bytes = vec![a, b, c, kind, flags, 0, 0, 0, 1];
    bytes.resize(bytes.len() + payload, 0x82);
    bytes
}

#[tokio::test(start_paused = true)]
async fn what_is_no_body_is_unfinished_until_it_is_whole_however_it_is_cut() {
    for size in [1, 2, 8, 9, 10, 1_000, usize::MAX] {
        let mut frames = Frames::new();
        let mut read = |bytes: &[u8]| {
            for part in bytes.chunks(size.min(bytes.len())) {
                frames.read(part).expect("no flood");
            }
            frames.unfinished()
        };
        assert_eq!(read(&frame(HEADERS, 0, 100)[..59]), 50, "{size}");
        assert_eq!(read(&frame(HEADERS, 0, 100)[59..]), LIST_BYTES, "it goes on");
        assert_eq!(read(&frame(CONTINUATION, 0, 100)), LIST_BYTES);
        assert_eq!(read(&frame(CONTINUATION, 0, 0)), LIST_BYTES, "nothing in it");
        let last = frame(CONTINUATION, END_HEADERS, 16_000);
        assert_eq!(read(&last[..last.len() - 1]), LIST_BYTES + 15_999);
        assert_eq!(read(&last[last.len() - 1..]), 0, "whole");
        assert_eq!(read(&frame(DATA, 0, 16_000)[..9_000]), 0, "a body");
        assert_eq!(read(&frame(DATA, 0, 16_000)[9_000..]), 0);
        assert_eq!(read(&frame(PING, 0, 8)[..16]), 7);
        assert_eq!(read(&frame(PING, 0, 8)[16..]), 0);
        // END_STREAM and padding are no END_HEADERS.
        assert_eq!(read(&frame(HEADERS, 1 | 8, 1)), LIST_BYTES);
        assert_eq!(read(&frame(CONTINUATION, END_HEADERS, 1)), 0);
    }
}

fn row(frames: &mut Frames, kind: u8, count: u32) -> Result<(), Flood> {
    let one = frame(kind, 0, 4);
    (0..count).try_for_each(|_| frames.read(&one))
}

#[tokio::test(start_paused = true)]
async fn a_row_of_frames_that_ask_for_nothing_ends() {
    for kind in [2, 3, 4, PING, WINDOW_UPDATE, 200] {
        let mut frames = Frames::new();
        assert_eq!(row(&mut frames, kind, ROW_MAX), Ok(()), "{kind}");
        assert_eq!(row(&mut frames, kind, 1), Err(Flood), "{kind}: one more");
    }
    let mut frames = Frames::new();
    let empty = frame(DATA, 0, 0);
    let read = (0..ROW_MAX).try_for_each(|_| frames.read(&empty));
    assert_eq!(
        (read, frames.read(&empty)),
        (Ok(()), Err(Flood)),
        "nothing in them"
    );
}

#[tokio::test(start_paused = true)]
async fn a_row_that_a_request_or_its_body_parts_does_not_end() {
    for (kind, flags) in [(HEADERS, END_HEADERS), (DATA, 0)] {
        let mut frames = Frames::new();
        for _ in 0..3 {
            row(&mut frames, PING, ROW_MAX).expect("no flood");
            frames.read(&frame(kind, flags, 1)).expect("no flood");
        }
        row(&mut frames, PING, ROW_MAX).expect("no flood");
        assert_eq!(row(&mut frames, PING, 1), Err(Flood));
    }
}

#[tokio::test(start_paused = true)]
async fn pings_of_hours_are_no_flood_and_those_of_a_moment_are() {
    let mut frames = Frames::new();
    for _ in 0..20_000 {
        row(&mut frames, PING, 1).expect("one in a second");
        advance(Duration::from_secs(1)).await;
    }
    // Whatever is left of a row that took its time, and one whole.
    assert_eq!(row(&mut frames, PING, 2 * ROW_MAX), Err(Flood));
    for (wait, outcome) in [
        (ROW_TIME, Ok(())),
        (ROW_TIME - Duration::from_millis(1), Err(Flood)),
    ] {
        let mut frames = Frames::new();
        row(&mut frames, PING, ROW_MAX).expect("no flood");
        advance(wait).await;
        assert_eq!(row(&mut frames, PING, 1), outcome, "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn windows_are_opened_for_what_is_sent() {
    let mut frames = Frames::new();
    for _ in 0..10 * ROW_MAX {
        // An event of a stream, and a window for the stream and one for the connection.
        frames.wrote(2 * EXCUSE_BYTES);
        row(&mut frames, WINDOW_UPDATE, 2).expect("no flood");
    }
    // Pings are answered with 17 bytes, SETTINGS with 9.
    for answer in [17, 9] {
        let mut frames = Frames::new();
        let flood = (0..=ROW_MAX).try_for_each(|_| {
            frames.wrote(answer);
            row(&mut frames, PING, 1)
        });
        assert_eq!(flood, Err(Flood));
    }
    for (written, outcome) in [(32_000, Ok(())), (31_999, Err(Flood))] {
        let mut frames = Frames::new();
        row(&mut frames, PING, ROW_MAX).expect("no flood");
        frames.wrote(written);
        assert_eq!(row(&mut frames, PING, 1), outcome, "{written}");
    }
}
