use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{super::frames::LIST_BYTES, *};
use crate::buffers::{Buffers, Meter, Metered};

const TIME: Duration = Duration::from_secs(10);

/// A connection: what the client writes into, and what is read.
struct Connection {
    peer: DuplexStream,
    stream: Metered<DuplexStream>,
    meter: Arc<Meter>,
}

fn connect(heads: &Heads) -> Connection {
    let (peer, own) = duplex(1 << 20);
    let meter = Arc::new(Meter::of(heads));
    Connection {
        peer,
        stream: Metered::new(own, Arc::clone(&meter)),
        meter,
    }
}

impl Connection {
    /// Sends it, and reads it all.
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.peer.write_all(bytes).await?;
        self.stream.read_exact(&mut vec![0; bytes.len()]).await?;
        Ok(())
    }

    /// Reads as hyper does that waits for the rest of a head: whether it may.
    fn waits(&mut self) -> bool {
        let mut buffer = [0; 16];
        let mut reading = std::pin::pin!(self.stream.read(&mut buffer));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        reading.as_mut().poll(&mut cx).is_pending()
    }
}

fn held(heads: &Heads) -> usize {
    heads.0.held.load(Ordering::Relaxed)
}

#[test]
fn the_budget_is_a_quarter_of_what_bodies_may_have_and_room_for_sixteen_heads_at_least() {
    for (bodies, budget) in [
        (268_435_456, 67_108_864),
        (4 * BUDGET_BYTES_MIN + 4, BUDGET_BYTES_MIN + 1),
        (4 * BUDGET_BYTES_MIN, BUDGET_BYTES_MIN),
        (1, BUDGET_BYTES_MIN),
    ] {
        assert_eq!(Heads::new(bodies, TIME).0.max, budget);
    }
}

#[test]
fn the_budget_ends_at_its_border_and_what_each_has_free_is_never_refused() {
    let heads = Heads::new(0, TIME);
    let (large, small) = (Head::new(&heads), Head::new(&heads));
    assert!(large.hold(FREE_BYTES + BUDGET_BYTES_MIN) && !large.hold(FREE_BYTES + BUDGET_BYTES_MIN + 1));
    assert!(small.hold(FREE_BYTES) && !small.hold(FREE_BYTES + 1));
    assert_eq!(held(&heads), BUDGET_BYTES_MIN, "what is refused is not taken");
    assert!(large.hold(FREE_BYTES + BUDGET_BYTES_MIN - 1) && small.hold(FREE_BYTES + 1));
    drop(large);
    assert_eq!(held(&heads), 1);
    assert!(small.hold(0));
    assert_eq!(held(&heads), 0);
}

#[tokio::test]
async fn a_head_counts_until_it_is_whole_and_a_body_does_not() -> io::Result<()> {
    let heads = Heads::new(0, TIME);
    let mut one = connect(&heads);
    one.send(&vec![b'a'; FREE_BYTES]).await?;
    assert!(one.waits());
    assert_eq!(held(&heads), 0, "it has them free");
    one.send(b"a").await?;
    assert_eq!(held(&heads), 0, "it may be whole by now");
    assert!(one.waits());
    assert_eq!(held(&heads), 1);
    let meter = Arc::clone(&one.meter);
    let answering = meter.answer(Version::HTTP_11);
    assert_eq!(held(&heads), 0, "it is whole");
    one.send(&[b'a'; 100_000]).await?;
    assert!(one.waits());
    assert_eq!(held(&heads), 0, "a body");
    drop(answering);
    assert!(one.waits());
    one.send(&[b'a'; 20_000]).await?;
    assert!(one.waits());
    assert_eq!(held(&heads), 20_000 - FREE_BYTES, "the next head");
    one.send(&[b'a'; 200_000]).await?;
    assert!(one.waits());
    assert_eq!(held(&heads), HEAD_BYTES_MAX - FREE_BYTES, "no head is larger");
    drop((one, meter));
    assert_eq!(held(&heads), 0, "it is gone");
    Ok(())
}

#[tokio::test]
async fn who_goes_beyond_the_budget_reads_no_more_and_the_others_do() -> io::Result<()> {
    let heads = Heads::new(0, TIME);
    let full = Head::new(&heads);
    assert!(full.hold(FREE_BYTES + BUDGET_BYTES_MIN));
    let (mut greedy, mut modest) = (connect(&heads), connect(&heads));
    greedy.send(&vec![b'a'; FREE_BYTES + 1]).await?;
    let refused = greedy.send(b"a").await.expect_err("no room");
    assert!(
        refused.to_string().contains("gateway.max_requests_bytes"),
        "{refused}"
    );
    for _ in 0..3 {
        modest.send(&vec![b'a'; FREE_BYTES]).await?;
        assert!(modest.waits());
        drop(modest.meter.answer(Version::HTTP_11));
    }
    // In one piece, it is whole before more is read.
    let mut whole = connect(&heads);
    whole.send(&[b'a'; 12_000]).await?;
    drop(whole.meter.answer(Version::HTTP_10));
    assert!(whole.waits());
    drop(full);
    greedy.stream.read_exact(&mut [0]).await?;
    assert!(greedy.waits(), "there is room again");
    Ok(())
}

#[tokio::test]
async fn a_handshake_counts_as_a_head_until_it_is_done() -> io::Result<()> {
    let heads = Heads::new(0, TIME);
    let mut one = connect(&heads);
    let (mut peer, own) = duplex(1 << 20);
    one.stream = Metered::handshake(own, Arc::clone(&one.meter));
    std::mem::swap(&mut one.peer, &mut peer);
    // The preface of HTTP/2 says nothing here.
    one.send(&PREFACE.repeat(1_000)).await?;
    assert!(one.waits());
    assert_eq!(held(&heads), 24_000 - FREE_BYTES);
    one.stream.done();
    assert_eq!(held(&heads), 0);
    one.send(&[b'a'; 100_000]).await?;
    assert!(one.waits());
    assert_eq!(held(&heads), 0, "it is counted above");
    Ok(())
}

#[test]
fn a_list_of_more_headers_than_http1_may_have_is_counted() {
    let (at, over) = (HEADERS_MAX, HEADERS_MAX + 1);
    for (headers, bytes) in [
        (0, 0),
        (at, 0),
        (over, over * HEADER_BYTES),
        (5_000, 5_000 * HEADER_BYTES),
    ] {
        assert_eq!(listed(headers, 3 * headers.min(100)), bytes, "{headers}");
    }
}

#[test]
fn a_whole_head_larger_than_a_connections_buffer_is_counted() {
    for (bytes, counted) in [
        (FREE_BYTES, 0),
        (FREE_BYTES + 1, 1),
        (60_003, 60_003 - FREE_BYTES),
    ] {
        assert_eq!(listed(1, bytes), counted, "{bytes}");
    }
}

#[tokio::test]
async fn what_frames_hold_is_counted_by_themselves() -> io::Result<()> {
    let heads = Heads::new(0, TIME);
    let mut one = connect(&heads);
    // The preface in two pieces.
    one.send(&PREFACE[..20]).await?;
    one.send(&PREFACE[20..]).await?;
    // HEADERS that go on, with 100 bytes.
    let mut headers = b"\0\0\x64\x01\0\0\0\0\x01".to_vec();
    headers.resize(109, 0x82);
    one.send(&headers).await?;
    assert!(one.waits());
    assert_eq!(held(&heads), LIST_BYTES - FREE_BYTES);
    assert!(one.meter.answer(Version::HTTP_2).is_none());
    assert_eq!(held(&heads), LIST_BYTES - FREE_BYTES, "another stream's");
    // CONTINUATION with END_HEADERS, and DATA of 100,000 bytes.
    one.send(b"\0\0\0\x09\x04\0\0\0\x01").await?;
    let mut data = b"\x01\x86\xa0\0\0\0\0\0\x01".to_vec();
    data.resize(50_000, 0);
    one.send(&data).await?;
    assert!(one.waits());
    assert_eq!(held(&heads), 0);
    // What begins like the preface and is none is HTTP/1.
    let mut other = connect(&heads);
    other.send(&PREFACE[..23]).await?;
    other.send(&[b'a'; 20_000]).await?;
    assert!(other.waits());
    assert_eq!(held(&heads), 20_023 - FREE_BYTES);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_head_by_frames_has_its_time_and_no_more_whatever_comes_of_it() -> io::Result<()> {
    const PART: &[u8] = b"\0\0\x04\x01\0\0\0\0\x01abcd";
    const MORE: &[u8] = b"\0\0\0\x09\0\0\0\0\x01";
    const LAST: &[u8] = b"\0\0\0\x09\x04\0\0\0\x01";
    let heads = Heads::new(0, TIME);
    // A list that goes on, a frame that is not whole, and one of which only the head came.
    for part in [PART, &PART[..12], &PART[..9]] {
        for drips in [false, true] {
            let mut one = connect(&heads);
            one.send(PREFACE).await?;
            tokio::time::advance(TIME * 2).await;
            assert!(one.waits(), "nothing has begun");
            // The heads before had their own time.
            for _ in 0..3 {
                one.send(PART).await?;
                assert!(one.waits());
                tokio::time::advance(TIME - Duration::from_millis(2)).await;
                assert!(one.waits());
                one.send(LAST).await?;
                assert!(one.waits());
            }
            tokio::time::advance(TIME * 2).await;
            assert!(one.waits(), "they are whole");
            one.send(part).await?;
            assert!(one.waits());
            tokio::time::advance(TIME - Duration::from_millis(2)).await;
            assert!(one.waits(), "it has its time");
            tokio::time::advance(Duration::from_millis(2)).await;
            let ended = match drips && part == PART {
                true => one.send(MORE).await,
                false => one.stream.read_exact(&mut [0]).await.map(drop),
            };
            assert_eq!(ended.expect_err("late").to_string(), crate::buffers::LATE);
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_head_is_woken_at_its_end() -> io::Result<()> {
    let mut one = connect(&Heads::new(0, TIME));
    one.send(PREFACE).await?;
    one.send(b"\0\0\x04\x01\0\0\0\0\x01abcd").await?;
    let started = Instant::now();
    let ended = one.stream.read_exact(&mut [0]).await.expect_err("late");
    assert_eq!(ended.to_string(), crate::buffers::LATE);
    assert_eq!(started.elapsed().as_secs(), TIME.as_secs());
    Ok(())
}

#[tokio::test]
async fn a_flood_of_frames_ends_the_connection() -> io::Result<()> {
    let mut one = connect(&Heads::new(0, TIME));
    one.send(PREFACE).await?;
    let ping = b"\0\0\x08\x06\0\0\0\0\0aaaaaaaa";
    let flood = ping.repeat(super::super::frames::ROW_MAX as usize);
    one.send(&flood).await?;
    one.send(ping).await.expect_err("one more");
    Ok(())
}

#[tokio::test]
async fn little_is_read_at_once_before_a_head_is_known_and_a_sessions_reads_are_its_own() -> io::Result<()> {
    let heads = Heads::new(0, TIME);
    let mut buffer = vec![0; 100_000];
    let mut one = connect(&heads);
    one.peer.write_all(&[b'a'; 100_000]).await?;
    for _ in 0..2 {
        assert_eq!(one.stream.read(&mut buffer).await?, READ_BYTES_MAX as usize);
    }
    let tenant = arqon::TenantId::new("a").expect("a tenant");
    drop(one.meter.answer(Version::HTTP_11));
    one.meter.begin(&Buffers::new(1 << 20, 1 << 20).share(&tenant));
    assert_eq!(
        one.stream.read(&mut buffer).await?,
        100_000 - 2 * READ_BYTES_MAX as usize
    );
    assert!(one.waits());
    assert_eq!(held(&heads), 0);
    let mut two = connect(&heads);
    two.send(PREFACE).await?;
    let mut data = b"\x01\x86\xa0\0\0\0\0\0\x01".to_vec();
    data.resize(100_000, 0);
    two.peer.write_all(&data).await?;
    assert_eq!(two.stream.read(&mut buffer).await?, 100_000);
    Ok(())
}
