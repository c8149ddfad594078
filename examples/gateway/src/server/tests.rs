//! The accept loop on real sockets, with applications that no configuration makes.

use arqon::config::Config;
use arqon::{bus::Bus, supervise::Supervisor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, service_fn};

use super::*;
use crate::{guard::GuardLayer, readiness::Readiness};

const LIMITS: Limits = Limits {
    listener: "public",
    max_connections: 16,
    max_streams: 16,
    header_timeout: Duration::from_secs(10),
    body: Times {
        idle: Duration::from_secs(10),
        whole: Duration::from_secs(60),
    },
    drain_bytes: 1_000,
    h2_idle: Duration::from_millis(400),
    drain_timeout: Duration::from_secs(10),
};

/// A running server and its end.
struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

async fn start<A: App + Sync>(app: A) -> Running {
    start_with(&Config::default(), app).await
}

async fn start_with<A: App + Sync>(config: &Config, app: A) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let stop = CancellationToken::new();
    let tasks = Supervisor::new(Bus::new(16).expect("capacity"));
    let edge = Edge::new(config, &Readiness::default(), &tasks, &stop).expect("an edge");
    let ended = tokio::spawn(Door::new(listener, app, LIMITS, Some(edge), stop.clone()).serve());
    Running { address, stop, ended }
}

async fn connect(server: &Running) -> TcpStream {
    TcpStream::connect(server.address).await.expect("connected")
}

/// Asks on a connection that lives, and returns the status and whether the server closes it.
async fn ask(stream: &mut TcpStream, path: &str) -> (u16, bool) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"!") {
        let mut more = [0; 4_096];
        let count = stream.read(&mut more).await.expect("read");
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&more[..count]);
        if answer.starts_with(b"HTTP/1.1 500") && answer.ends_with(b"}") {
            break;
        }
    }
    let text = String::from_utf8(answer).expect("text");
    let status = text[9..12].parse().expect("a status");
    (status, text.contains("connection: close"))
}

async fn handler(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    match request.uri().path() {
        "/panic" => panic!("a handler's own"),
        "/slow" => sleep(Duration::from_millis(1_500)).await,
        _ => {}
    }
    Ok(Response::new(Body::from("fine!")))
}

fn guarded() -> impl App + Sync {
    let timeout = Duration::from_secs(60);
    tower::util::BoxCloneSyncService::new(GuardLayer { timeout }.layer(service_fn(handler)))
}

#[tokio::test]
async fn a_handlers_panic_is_a_500_and_its_connection_and_the_others_live() {
    let server = start(guarded()).await;
    let (mut one, mut other) = (connect(&server).await, connect(&server).await);
    assert_eq!(ask(&mut other, "/").await, (200, false));
    for _ in 0..3 {
        assert_eq!(ask(&mut one, "/panic").await, (500, false));
        assert_eq!(ask(&mut one, "/").await, (200, false), "the same connection");
        assert_eq!(ask(&mut other, "/").await, (200, false), "another");
    }
    server.stop.cancel();
}

#[tokio::test]
async fn a_drain_answers_what_is_under_way_and_whoever_comes_meanwhile_and_closes_behind_it() {
    let server = start(guarded()).await;
    let mut slow = connect(&server).await;
    let mut kept = connect(&server).await;
    assert_eq!(ask(&mut kept, "/").await, (200, false));
    let under_way = tokio::spawn(async move { ask(&mut slow, "/slow").await });
    // It is under way once the server has read it: a request behind it on the same core is answered.
    assert_eq!(ask(&mut kept, "/").await, (200, false));
    server.stop.cancel();
    let mut late = connect(&server).await;
    assert_eq!(
        ask(&mut late, "/").await,
        (200, true),
        "who comes in the grace is served, and sent away"
    );
    assert_eq!(ask(&mut kept, "/").await, (200, true), "who was there too");
    assert_eq!(under_way.await.expect("no panic").0, 200);
    server.ended.await.expect("no panic");
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "nobody listens"
    );
}

/// An application whose next clone, which is made for a connection, panics once.
struct Fragile<A> {
    app: A,
    panics: Arc<AtomicBool>,
}

impl<A: Clone> Clone for Fragile<A> {
    fn clone(&self) -> Self {
        assert!(
            !self.panics.swap(false, Ordering::SeqCst),
            "in the listener's task"
        );
        Self {
            app: self.app.clone(),
            panics: Arc::clone(&self.panics),
        }
    }
}

impl<A: App> Service<Request<Body>> for Fragile<A> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = A::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        self.app.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.app.call(request)
    }
}

#[tokio::test]
async fn a_listener_whose_task_died_is_started_again_and_its_connections_go_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (bus, stop) = (Bus::new(16).expect("capacity"), CancellationToken::new());
    let mut facts = bus.subscribe();
    let tasks = Supervisor::new(bus);
    let edge = Edge::new(&Config::default(), &Readiness::default(), &tasks, &stop).expect("an edge");
    let panics = Arc::new(AtomicBool::new(false));
    let app = Fragile {
        app: guarded(),
        panics: Arc::clone(&panics),
    };
    let door = Door::new(listener, app, LIMITS, Some(edge), stop.clone());
    let ended = door.keep("edge", &tasks);

    let connect = async || TcpStream::connect(address).await.expect("connected");
    let mut kept = connect().await;
    assert_eq!(ask(&mut kept, "/").await, (200, false));
    panics.store(true, Ordering::SeqCst);
    let mut broken = connect().await;
    let got = broken.read(&mut [0; 16]).await;
    assert!(matches!(got, Ok(0) | Err(_)), "it went with the task: {got:?}");
    let told = facts.recv().await.expect("open");
    assert!(
        matches!(&told, arqon::bus::Event::ServiceCrashed { service, .. } if service == "edge"),
        "{told:?}"
    );
    assert!(tasks.alive(&["edge"]).is_err());
    // Who comes meanwhile waits, and is served.
    let mut next = connect().await;
    assert_eq!(ask(&mut kept, "/").await, (200, false));
    assert_eq!(ask(&mut next, "/").await, (200, false));
    assert_eq!(tasks.alive(&["edge"]), Ok(()));
    assert!(!ended.is_cancelled());
    stop.cancel();
    assert_eq!(ask(&mut kept, "/").await, (200, true), "it hears of the drain");
    drop((kept, next));
    ended.cancelled().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    tasks.stop().await;
}

#[tokio::test]
async fn an_answered_request_whose_body_is_still_read_takes_no_place() {
    let mut config = Config::default();
    config.gateway.max_requests = 1;
    let (called, mut calls) = tokio::sync::mpsc::channel(8);
    // It answers at once and looks at no body, as whatever refuses a token does.
    let app = tower::util::BoxCloneSyncService::new(service_fn(move |request: Request<Body>| {
        let shed = request.extensions().get::<Refused>().is_some();
        let told = called.try_send(()).is_ok();
        async move {
            assert!(told, "somebody counts");
            let status = if shed { 503 } else { 200 };
            let answer = Response::builder().status(status).body(Body::from("fine!"));
            Ok::<_, Infallible>(answer.expect("valid"))
        }
    }));
    let server = start_with(&config, app).await;
    let mut dripping = connect(&server).await;
    let head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
    dripping.write_all(head).await.expect("sent");
    calls.recv().await.expect("called");
    // In the same turn the answer was there; what is still to come is the rest of its body, for seconds.
    assert_eq!(ask(&mut connect(&server).await, "/").await.0, 200);
    server.stop.cancel();
}

#[tokio::test]
async fn an_http2_connection_that_asks_for_nothing_any_more_is_closed_and_one_that_asks_is_not() {
    let server = start(guarded()).await;
    let stream = hyper_util::rt::TokioIo::new(connect(&server).await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(hyper_util::rt::TokioExecutor::new(), stream)
            .await
            .expect("HTTP/2");
    let mut connection = tokio::spawn(connection);
    let ask = |path: &str| {
        let uri = format!("http://x{path}");
        Request::get(uri).body(Body::empty()).expect("a request")
    };
    // Longer under way than a connection may be idle.
    let answer = client.send_request(ask("/slow")).await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert!(!connection.is_finished());
    let ended = timeout(Duration::from_secs(30), &mut connection).await;
    ended
        .expect("closed in time")
        .expect("no panic")
        .expect("in peace");
    assert!(client.send_request(ask("/")).await.is_err());
    server.stop.cancel();
    server.ended.await.expect("no panic");
}

#[tokio::test]
async fn a_drain_waits_for_no_http2_connection_that_does_not_answer() {
    let server = start(guarded()).await;
    let mut stream = connect(&server).await;
    // The preface, SETTINGS, and HEADERS with :method GET, :scheme http, :path / and :authority x; then never another byte.
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    said.extend_from_slice(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01x");
    stream.write_all(&said).await.expect("sent");
    let mut seen = Vec::new();
    while !seen.ends_with(b"fine!") && !seen.windows(5).any(|part| part == b"fine!") {
        let mut more = [0; 4_096];
        let count = stream.read(&mut more).await.expect("read");
        assert!(count > 0, "closed before the answer");
        seen.extend_from_slice(&more[..count]);
    }
    let began = std::time::Instant::now();
    server.stop.cancel();
    server.ended.await.expect("no panic");
    // The drain's own time is 10 s.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

#[test]
fn what_a_head_says_is_checked_as_if_each_name_were_looked_up() {
    let lines: [(&str, &[u8]); 14] = [
        ("host", b"x"),
        ("host", b"y:80"),
        ("host", b"a b"),
        ("transfer-encoding", b"chunked"),
        ("transfer-encoding", b"gzip"),
        ("nats-msg-id", b"1"),
        ("nats-msg-id", b"a b"),
        ("x-request-id", b"1"),
        ("x-request-id", b"2"),
        ("content-type", b"a/b"),
        ("content-type", b"a/c"),
        ("x-own", b"1"),
        ("x-own", b"2"),
        ("content-length", b"3"),
    ];
    let mut refused = 0;
    for chosen in 0..1_u32 << lines.len() {
        let mut headers = HeaderMap::new();
        let lines = lines.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1);
        for (_, (name, value)) in lines {
            let value = HeaderValue::from_bytes(value).expect("a value");
            headers
                .try_append(http::HeaderName::from_static(name), value)
                .expect("room");
        }
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            let told = Told::of(&headers);
            let bytes = headers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len());
            assert_eq!(told.bytes, bytes.sum::<usize>());
            let told = told.check(version, &headers);
            let looked_up = framing::check(version, &headers).and_then(|()| single::check(&headers));
            assert_eq!(told, looked_up, "{version:?} {headers:?}");
            refused += usize::from(told.is_err());
        }
    }
    assert!((1..3 << lines.len()).contains(&refused));
}
