//! The load: as many requests as come back, each of a trace of twenty. Two hundred traces are under way at any time, so
//! that twenty requests of one are spread over four thousand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{Error, Options, TRACE_REQUESTS};

/// Traces under way at once.
const OPEN: u64 = 200;
/// A request that takes longer counts as failed, and as that long.
const PATIENCE: Duration = Duration::from_secs(1);
const BODY: [u8; 1_024] = [b'x'; 1_024];

pub(crate) struct Plan {
    next: AtomicU64,
    /// Of the last block of traces, once the time is over.
    end: AtomicU64,
    /// `None`: the caller ends it.
    until: Option<Instant>,
    first: u64,
}

impl Plan {
    fn new(until: Option<Instant>, first: u64) -> Self {
        Self {
            next: AtomicU64::new(0),
            end: AtomicU64::new(u64::MAX),
            until,
            first: first << 32,
        }
    }

    /// A plan that never ends; `first` makes its traces others than those of other plans.
    pub(crate) fn endless(first: u64) -> Self {
        Self::new(None, first)
    }

    /// The number of the next request; a block of traces that was begun is finished.
    pub(crate) fn take(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(until) = self.until else {
            return Some(number);
        };
        if Instant::now() >= until + 2 * PATIENCE {
            return None;
        }
        if Instant::now() >= until {
            let block = OPEN * TRACE_REQUESTS;
            let end = number.div_ceil(block) * block;
            let _ = self
                .end
                .compare_exchange(u64::MAX, end, Ordering::Relaxed, Ordering::Relaxed);
        }
        (number < self.end.load(Ordering::Relaxed)).then_some(number)
    }

    pub(crate) fn request(&self, number: u64, target: &str) -> http::Result<Request<Full<Bytes>>> {
        Request::post("/orders")
            .header("host", target)
            .header("content-type", "application/json")
            .header("traceparent", self.traceparent(number))
            .body(Full::new(Bytes::from_static(&BODY)))
    }

    fn traceparent(&self, number: u64) -> String {
        let block = number / (OPEN * TRACE_REQUESTS);
        let trace = self.first + block * OPEN + number % OPEN;
        format!(
            "00-{:016x}{:016x}-{:016x}-01",
            mix(trace),
            mix(!trace),
            number + 1
        )
    }
}

/// Steele's splitmix64.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let target = options.text("target")?.to_owned();
    let seconds = options.get("seconds", 5.0)?;
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(seconds);
    let first = options.get("first", u64::from(std::process::id()))?;
    let plan = Arc::new(Plan::new(Some(until), first));
    let workers: Vec<_> = (0..options.get("connections", 32)?)
        .map(|_| tokio::spawn(work(target.clone(), Arc::clone(&plan))))
        .collect();
    let (mut taken, mut failed) = (Vec::new(), 0_u64);
    for worker in workers {
        let (nanos, errors) = worker.await??;
        taken.extend(nanos);
        failed += errors;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    taken.sort_unstable();
    let at = |share: f64| {
        let place = ((taken.len() as f64 * share) as usize).min(taken.len().saturating_sub(1));
        taken.get(place).map_or(0.0, |nanos| *nanos as f64 / 1e3)
    };
    println!(
        "{{\"requests\":{},\"seconds\":{elapsed:.2},\"failed\":{failed},\"per_second\":{:.1},\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1}}}",
        taken.len(),
        (taken.len() as u64 - failed) as f64 / elapsed,
        at(0.50),
        at(0.99),
        at(0.999)
    );
    Ok(())
}

/// One connection after the other: the time of each request, and how many were not answered with 2xx.
async fn work(target: String, plan: Arc<Plan>) -> Result<(Vec<u64>, u64), Error> {
    let (mut nanos, mut failed) = (Vec::new(), 0);
    let mut client = Client::new(target);
    while let Some(number) = plan.take() {
        let request = plan.request(number, client.target())?;
        let begun = Instant::now();
        failed += u64::from(!client.exchange(request).await?);
        nanos.push(begun.elapsed().as_nanos() as u64);
    }
    Ok((nanos, failed))
}

/// One connection after the other, to one server.
pub(crate) struct Client {
    target: String,
    open: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Client {
    pub(crate) fn new(target: String) -> Self {
        Self { target, open: None }
    }

    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// Sends a request and reads its answer: whether it came in time, and is a 2xx.
    pub(crate) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<bool, Error> {
        let sender = match &mut self.open {
            Some(sender) => sender,
            None => self.open.insert(connect(&self.target).await?),
        };
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let good = answer.status().is_success();
            answer.into_body().collect().await?;
            Ok::<_, hyper::Error>(good)
        };
        let outcome = tokio::time::timeout(PATIENCE, exchange).await;
        // A server that is about to close says so before it does.
        if !matches!(outcome, Ok(Ok(_))) || self.open.as_ref().is_some_and(http1::SendRequest::is_closed) {
            self.open = None;
        }
        if let Some(sender) = &mut self.open
            && sender.ready().await.is_err()
        {
            self.open = None;
        }
        Ok(matches!(outcome, Ok(Ok(true))))
    }
}

async fn connect(target: &str) -> Result<http1::SendRequest<Full<Bytes>>, Error> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
