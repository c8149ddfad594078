//! The client: as little of it as will do, since it must not be what is measured. It never sleeps: whoever writes to a sleeping
//! reader pays for waking it, so that a slow server would pay for the client's rest too.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::platform;

/// Where a request's trace id stands is found by these characters.
const TRACE_MARK: &str = "traceparent: 00-";
const ANSWER_BYTES_MAX: usize = 4_096;

/// Sends requests to one server.
pub(crate) struct Client {
    server: SocketAddr,
    request: Vec<u8>,
    trace: usize,
}

impl Client {
    pub(crate) fn new(server: SocketAddr) -> Self {
        let body = platform::payload();
        let head = format!(
            "POST /v1/publish/users HTTP/1.1\r\nhost: {server}\r\nuser-agent: bench\r\naccept: */*\r\n\
             content-type: application/x-protobuf\r\n{TRACE_MARK}{}-b7ad6b7169203331-01\r\ncontent-length: {}\r\n\r\n",
            "0".repeat(32),
            body.len()
        );
        let trace = head.find(TRACE_MARK).expect("it is in there") + TRACE_MARK.len();
        let mut request = head.into_bytes();
        request.extend_from_slice(&body);
        Self {
            server,
            request,
            trace,
        }
    }

    /// How many requests were answered in `time`, on so many connections at once.
    pub(crate) fn busy(&self, connections: usize, time: Duration) -> usize {
        let mut open: Vec<_> = (0..connections)
            .map(|n| Connection::open(self, n as u64))
            .collect();
        let started = Instant::now();
        open.iter_mut().for_each(Connection::send);
        let mut count = 0;
        while started.elapsed() < time {
            for connection in &mut open {
                if connection.is_answered() {
                    count += 1;
                    connection.send();
                }
            }
        }
        count
    }

    /// The median of one request after the other on one connection, in microseconds.
    pub(crate) fn alone(&self, time: Duration) -> f64 {
        let mut connection = Connection::open(self, 4_711);
        let mut took = Vec::new();
        let started = Instant::now();
        while started.elapsed() < time {
            let sent = Instant::now();
            connection.send();
            while !connection.is_answered() {}
            took.push(sent.elapsed().as_nanos() as f64 / 1e3);
        }
        super::median(&took)
    }
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    trace: usize,
    traces: Traces,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    fn open(client: &Client, seed: u64) -> Self {
        let stream = TcpStream::connect(client.server).expect("connected");
        stream.set_nodelay(true).expect("a socket");
        stream.set_nonblocking(true).expect("a socket");
        Self {
            stream,
            request: client.request.clone(),
            trace: client.trace,
            traces: Traces(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed + 1)),
            buffer: vec![0; ANSWER_BYTES_MAX],
            filled: 0,
        }
    }

    fn send(&mut self) {
        self.traces.write(&mut self.request[self.trace..self.trace + 32]);
        // One small request on a connection that is waited for: the socket's buffer has room for all of it.
        let sent = self.stream.write(&self.request).expect("sent");
        assert_eq!(sent, self.request.len());
        self.filled = 0;
    }

    fn is_answered(&mut self) -> bool {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => panic!("closed: {}", String::from_utf8_lossy(&self.buffer[..self.filled])),
            Ok(more) => self.filled += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error}"),
        }
        is_whole(&self.buffer[..self.filled])
    }
}

/// Trace ids, one after the other (splitmix64).
struct Traces(u64);

impl Traces {
    fn write(&mut self, place: &mut [u8]) {
        for half in place.chunks_exact_mut(16) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = self.0;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^= bits >> 31;
            for digit in half {
                *digit = b"0123456789abcdef"[(bits & 15) as usize];
                bits >>= 4;
            }
        }
    }
}

/// Whether all of an answer is there; one that is no 202 ends the run.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    assert!(
        answer.starts_with(b"HTTP/1.1 202"),
        "not accepted: {}",
        String::from_utf8_lossy(answer)
    );
    const LENGTH: &[u8] = b"content-length: ";
    let head = &answer[..end];
    let at = head
        .windows(LENGTH.len())
        .position(|name| name.eq_ignore_ascii_case(LENGTH));
    let digits = head[at.expect("an answer has a length") + LENGTH.len()..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    answer.len() >= end + 4 + length
}
