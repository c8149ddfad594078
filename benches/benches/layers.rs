//! The layers around a bare service, in one run: what a request pays for layers that have nothing to do.
//!
//! `cargo bench -p arqon-benches --bench layers` prints nanoseconds, differences to the bare service as medians of
//! paired rounds, and allocations; it fails when an idle layer allocates. `-- short` runs a tenth.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Instant,
};

use arqon::{
    BusLayer, OverseerLayer, RolloutLayer, SchemaLayer, Stack, SubjectLayer,
    edge::reserved::ReservedHeadersLayer,
    overseer::OverseerConfig,
    rollout::{Config, Executor},
    schema::RegistryConfig,
    shadow::{RecordingSink, ShadowConfig, ShadowLayer},
};
use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use http::{Request, Response};
use tower::{Layer, Service, ServiceBuilder, service_fn};

/// Requests of one round; each is made before the clock starts.
const ROUND: usize = 1_000;
/// What the four layers may add to the bare router, in nanoseconds.
const TARGET: f64 = 250.0;

fn request() -> Request<Body> {
    let mut request = Request::post("/orders").header("content-type", "application/x-protobuf");
    for name in ["host", "user-agent", "accept", "x-a", "x-b", "x-c", "x-d"] {
        request = request.header(name, "value");
    }
    request
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01",
        )
        .body(Body::from(Bytes::from_static(&[7; 256])))
        .expect("a request")
}

/// Polls once: nothing in here waits.
fn answered<F: Future>(call: F) -> F::Output {
    let mut call = pin!(call);
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the handler answers at once and no idle layer waits"),
    }
}

/// One request, as a server does it: the connection's service is made ready, then called.
fn serve<S, B>(service: &mut S, request: Request<Body>) -> S::Response
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    assert!(ready.is_ready());
    match answered(service.call(request)) {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Something to time: takes a round of requests and says nanoseconds per request; or counts one request's allocations.
struct Subject {
    name: &'static str,
    round: Box<dyn FnMut(Vec<Request<Body>>) -> f64>,
    allocations: u64,
}

impl Subject {
    fn new<S, B: 'static>(name: &'static str, mut service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + 'static,
    {
        // What is allocated once per service.
        for _ in 0..3 {
            serve(&mut service, request());
        }
        let next = request();
        let counted = allocation_counter::measure(|| drop(serve(&mut service, next)));
        let round = move |requests: Vec<Request<Body>>| {
            let count = requests.len();
            let start = Instant::now();
            for request in requests {
                drop(std::hint::black_box(serve(&mut service, request)));
            }
            start.elapsed().as_nanos() as f64 / count as f64
        };
        Self {
            name,
            round: Box::new(round),
            allocations: counted.count_total,
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Times all in turn, round by round, and prints each beside the first.
fn compare(title: &str, subjects: &mut [Subject], rounds: usize) -> Vec<f64> {
    let mut times = vec![Vec::new(); subjects.len()];
    for round in 0..rounds {
        for at in 0..subjects.len() {
            // Each is first in its turn: what the one before left in the caches helps none of them always.
            let at = (at + round) % subjects.len();
            let requests = (0..ROUND).map(|_| request()).collect();
            times[at].push((subjects[at].round)(requests));
        }
    }
    println!(
        "\n{title}\n{:<44} {:>9} {:>10} {:>8} {:>12}",
        "", "ns", "added ns", "ratio", "allocations"
    );
    let mut added = Vec::new();
    for (subject, own) in subjects.iter().zip(&times) {
        let differences = own.iter().zip(&times[0]).map(|(own, bare)| own - bare).collect();
        let ratios = own.iter().zip(&times[0]).map(|(own, bare)| own / bare).collect();
        let more = median(differences);
        println!(
            "{:<44} {:>9.0} {:>10.0} {:>8.2} {:>12}",
            subject.name,
            median(own.clone()),
            more,
            median(ratios),
            subject.allocations
        );
        added.push(more);
    }
    added
}

/// No policy, no mapping, no rollout, no rule.
fn idle() -> Stack {
    let (registry, _) = arqon::schema::channel(RegistryConfig::default()).expect("no mapping is valid");
    let executor = Executor::builder(&Config::default())
        .build()
        .expect("off is valid");
    let (shadow, _, _) =
        ShadowLayer::channel(&ShadowConfig::default(), RecordingSink::new(1)).expect("no rule is valid");
    Stack {
        reserved: ReservedHeadersLayer::new(),
        auth: None,
        limit: Default::default(),
        subject: SubjectLayer::from_path("/"),
        bus: BusLayer::new(arqon::bus::Bus::new(16).expect("capacity")),
        overseer: OverseerLayer::new(OverseerConfig::default()).expect("no policy is valid"),
        schema: SchemaLayer::new(registry),
        rollout: RolloutLayer::new(&executor.handle()),
        shadow,
    }
}

/// A body that axum does not know.
struct Foreign(Body);

impl http_body::Body for Foreign {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

type Answer = Ready<Result<Response<()>, Infallible>>;

/// A handler that is generic over what the layers make of the body.
fn handler<B>(request: Request<B>) -> Answer {
    drop(request);
    ready(Ok(Response::new(())))
}

fn services() -> Vec<Subject> {
    let stack = idle();
    let four = |stack: Stack| {
        ServiceBuilder::new()
            .layer(stack.overseer)
            .layer(stack.schema)
            .layer(stack.rollout)
            .layer(stack.shadow)
    };
    vec![
        Subject::new("a bare service", service_fn(handler::<Body>)),
        Subject::new("OverseerLayer", stack.overseer.layer(service_fn(handler))),
        Subject::new("SchemaLayer", stack.schema.layer(service_fn(handler))),
        Subject::new("RolloutLayer", stack.rollout.layer(service_fn(handler))),
        Subject::new("ShadowLayer", stack.shadow.layer(service_fn(handler))),
        Subject::new("the four", four(stack.clone()).service(service_fn(handler))),
        Subject::new("the whole Stack", stack.layer(service_fn(handler))),
    ]
}

fn routers() -> Vec<Subject> {
    let stack = idle();
    let app = || Router::new().route("/{*path}", post(async || ()));
    // As `axum::serve` does before it takes the first connection: without it every request builds the route anew.
    let ready = |app: Router| app.with_state::<()>(());
    let four = ServiceBuilder::new()
        .layer(stack.overseer.clone())
        .layer(stack.schema.clone())
        .layer(stack.rollout.clone())
        .layer(stack.shadow.clone());
    let around = four.clone();
    // What axum itself takes for a `.layer` whose bodies are not its own: a box for the request's, one for the answer's.
    let bodies = ServiceBuilder::new()
        .map_request(|request: Request<Body>| request.map(Foreign))
        .map_response(|response: Response<Body>| response.map(Foreign));
    vec![
        Subject::new("a bare axum Router", ready(app())),
        Subject::new(
            ".layer(foreign bodies), axum's own price",
            ready(app().layer(bodies)),
        ),
        Subject::new(
            ".layer(OverseerLayer)",
            ready(app().layer(stack.overseer.clone())),
        ),
        Subject::new(".layer(SchemaLayer)", ready(app().layer(stack.schema.clone()))),
        Subject::new(".layer(RolloutLayer)", ready(app().layer(stack.rollout.clone()))),
        Subject::new(".layer(ShadowLayer)", ready(app().layer(stack.shadow.clone()))),
        Subject::new(".layer(the four in one ServiceBuilder)", ready(app().layer(four))),
        Subject::new(
            "the four in one ServiceBuilder around it",
            around.service(ready(app())),
        ),
        Subject::new(".layer(the whole Stack)", ready(app().layer(stack))),
    ]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("0 passed, 0 failed: this is no test; `cargo bench` runs it");
        return;
    }
    let rounds = if args.iter().any(|arg| arg == "short") {
        100
    } else {
        1_000
    };

    let mut plain = services();
    compare("Idle layers around a service, one request", &mut plain, rounds);
    let mut apps = routers();
    let added = compare("Idle layers on an axum Router, one request", &mut apps, rounds);

    for subject in &plain[..6] {
        assert_eq!(subject.allocations, 0, "{} allocates", subject.name);
    }
    let (own, axum) = (apps[6].allocations, apps[1].allocations);
    println!(
        "\nthe four around a Router: {:.0} ns over the bare router (target {TARGET:.0}); by `.layer`: {:.0} ns, of which \
         axum's own price for any `.layer` whose bodies are not its own is {:.0} ns; {} allocations beside axum's own",
        added[7],
        added[6],
        added[1],
        own.saturating_sub(axum)
    );
    assert!(
        own <= axum,
        "{own} allocations with the four, {axum} with an empty layer"
    );
}
