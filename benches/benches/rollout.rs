//! What a rollout costs a request, as ratios to the mirror's decision in the same run, with allocations (issue 7).
//!
//! `cargo bench -p arqon-benches --bench rollout`. Best of several rounds; the trace key was parsed once, by the edge, for
//! both layers. `-- --json FILE` writes what `tests/rollout_gates.py` checks.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use arqon::{
    RolloutLayer, ShadowLayer, Subject, TraceKey,
    rollout::{
        Catalog, Clock, Config, Control, DownstreamMessage, EnforcementAction, Executor, GuardConfig, Handle,
        MAX_ORDERS, MAX_SCOPES, Proposal, RolloutConfig, SystemClock,
    },
    shadow::{RuleConfig, ShadowConfig, ShadowCopy},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use tower::{Layer, Service, service_fn};

const BATCH: usize = 1_000;
const ROUNDS: usize = 400;
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01";

type Body = Full<Bytes>;

fn request() -> Request<Body> {
    let mut request = Request::post("/orders");
    for name in [
        "host",
        "user-agent",
        "accept",
        "content-type",
        "x-a",
        "x-b",
        "x-c",
        "x-d",
    ] {
        request = request.header(name, "value");
    }
    let mut request = request
        .header("traceparent", TRACE)
        .body(Full::new(Bytes::from_static(&[7; 256])))
        .expect("request");
    let key = TraceKey::of_trace(request.headers()).expect("a trace");
    request.extensions_mut().insert(key);
    request
        .extensions_mut()
        .insert(Subject::parse("in.t.default.orders").expect("subject"));
    request
}

/// What was asked, kept so that nothing is dropped on the clock.
type Answer<B> = Response<Request<B>>;

fn primary<B: 'static>() -> impl Service<
    Request<B>,
    Response = Answer<B>,
    Error = Infallible,
    Future = Ready<Result<Answer<B>, Infallible>>,
> + Clone {
    service_fn(|request: Request<B>| {
        let mut response = Response::new(request);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        ready(Ok(response))
    })
}

fn finish<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the primary answers at once"),
    }
}

struct Case<'a> {
    name: &'static str,
    round: Box<dyn FnMut() -> f64 + 'a>,
    best: f64,
    allocations: u64,
}

/// Calls of a service.
fn calls<'a, S, T>(name: &'static str, mut service: S) -> Case<'a>
where
    S: Service<Request<Body>, Response = Response<T>, Error = Infallible> + 'a,
{
    // The first call of a thread and the first clone of a name are counted by nobody.
    drop(finish(service.call(request())));
    let one = request();
    let mut answer = None;
    let allocations = allocation_counter::measure(|| answer = Some(finish(service.call(one)))).count_total;
    drop(answer);
    let round = move || {
        let requests: Vec<_> = (0..BATCH).map(|_| request()).collect();
        let mut answers = Vec::with_capacity(BATCH);
        let begun = Instant::now();
        for request in requests {
            answers.push(finish(service.call(request)));
        }
        let nanos = begun.elapsed().as_nanos() as f64 / BATCH as f64;
        drop(black_box(answers));
        nanos
    };
    Case {
        name,
        round: Box::new(round),
        best: f64::MAX,
        allocations,
    }
}

/// The decision alone, on one request: which variant; with it, if asked for, the variant itself.
fn decision<'a>(name: &'static str, layer: &'a RolloutLayer, whole: bool) -> Case<'a> {
    let one = request();
    let decide = move |one: &Request<Body>| {
        if whole {
            black_box(layer.variant(one.headers(), one.extensions()));
        } else {
            black_box(layer.variant_id(one.headers(), one.extensions()));
        }
    };
    decide(&one);
    let allocations = allocation_counter::measure(|| decide(&one)).count_total;
    let round = move || {
        let begun = Instant::now();
        for _ in 0..BATCH {
            decide(black_box(&one));
        }
        begun.elapsed().as_nanos() as f64 / BATCH as f64
    };
    Case {
        name,
        round: Box::new(round),
        best: f64::MAX,
        allocations,
    }
}

async fn rollout(percent: f64, guard: Option<GuardConfig>) -> (RolloutLayer, Handle) {
    let catalog = Catalog::parse(
        br#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"},{"id":42,"name":"fast"}]}"#,
    );
    let config = Config {
        enabled: true,
        allow_unsigned: true,
        guard,
        ..Config::default()
    };
    let executor = Executor::builder(&config)
        .catalog(catalog.expect("a catalog"))
        .build()
        .expect("valid");
    let handle = executor.handle();
    tokio::spawn(executor.run());
    approve(&handle, "p", None, percent).await;
    (RolloutLayer::new(&handle), handle)
}

async fn submit(handle: &Handle, message: DownstreamMessage, scope: Option<String>) {
    let mut control = Control::new("default", SystemClock::new().now_us(), 60_000_000, message);
    control.scope = scope;
    let envelope = control.sign(&[]).expect("finite").to_json();
    handle.submit(envelope.as_bytes()).await.expect("taken");
}

async fn approve(handle: &Handle, id: &str, scope: Option<String>, percent: f64) {
    let tenant = arqon::TenantId::new("default").expect("a tenant");
    let proposal = Proposal {
        id: id.to_owned(),
        variant_id: Some(42),
        confidence: 1.0,
        scope,
        ..Proposal::default()
    };
    handle.client(&tenant).send(proposal).await.expect("proposed");
    let approval = DownstreamMessage::Approval {
        proposal_id: id.to_owned(),
        proposal_digest: handle.status().tenants[0].pending[0].digest.clone(),
        rollout: Some(RolloutConfig {
            initial_percent: percent,
            increment_per_minute: 0.0,
            max_percent: percent,
        }),
    };
    submit(handle, approval, None).await;
}

/// With as many scopes as there may be, each with a rollout: milliseconds from a stop of one to its answer, the median and the worst
/// of as many as there may be, and to show all of it to an operator.
async fn crowded() -> (f64, f64, f64) {
    let (_, handle) = rollout(10.0, None).await;
    let scope = |at: usize| Some(format!("in.t.default.s{at}.>"));
    for at in 1..MAX_SCOPES {
        approve(&handle, &format!("p{at}"), scope(at), 10.0).await;
    }
    let mut took = Vec::new();
    for at in 1..=MAX_ORDERS {
        let begun = Instant::now();
        let stop = DownstreamMessage::Enforce {
            action: EnforcementAction::EmergencyStop,
            reason: "a drill".to_owned(),
        };
        submit(&handle, stop, scope(at)).await;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    let begun = Instant::now();
    black_box(handle.status());
    let status = begun.elapsed().as_secs_f64() * 1e3;
    (took[MAX_ORDERS / 2], took[MAX_ORDERS - 1], status)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let sink = |copy: ShadowCopy| {
        black_box(copy);
        ready(Ok(()))
    };
    // The trace is at 42.1 % of the mirror's range: not chosen at 10 %.
    let mirroring = ShadowConfig::default().rule(RuleConfig::new("in.t.*.>", 0.10));
    let (shadow, _mirror, drain) = ShadowLayer::channel(&mirroring, sink).expect("config");
    let _drain = runtime.spawn(drain.run());
    let (some, _) = runtime.block_on(rollout(10.0, None));
    let (all, _) = runtime.block_on(rollout(100.0, None));
    let (guarded, _) = runtime.block_on(rollout(10.0, Some(GuardConfig::default())));

    let mut cases = [
        calls("bare primary", primary::<Body>()),
        calls("mirror, not chosen at 10 %", shadow.layer(primary())),
        decision("rollout, the decision at 10 %", &some, false),
        decision("rollout, the decision at 100 %", &all, false),
        calls("rollout, layer at 10 %", some.layer(primary::<Body>())),
        calls("rollout, layer at 100 %", all.layer(primary::<Body>())),
        calls("rollout, layer with a guard", guarded.layer(primary::<Body>())),
        calls(
            "rollout, disabled",
            RolloutLayer::disabled().layer(primary::<Body>()),
        ),
        decision("rollout, the decision, with a Variant", &some, true),
    ];
    for _ in 0..ROUNDS {
        for case in &mut cases {
            case.best = case.best.min((case.round)());
        }
    }
    let (bare, floor) = (cases[0].best, cases[0].allocations);
    let mirror = cases[1].best - bare;
    println!(
        "{:<40}{:>10}{:>12}{:>12}{:>13}",
        "", "ns/call", "over bare", "x mirror", "allocations"
    );
    for Case {
        name,
        best,
        allocations,
        ..
    } in &cases
    {
        // A decision alone has no primary under it.
        let alone = name.contains("the decision");
        let over = if alone { *best } else { best - bare };
        let own = if alone { *allocations } else { allocations - floor };
        println!(
            "{name:<40}{best:>10.1}{over:>12.1}{:>12.2}{own:>13}",
            over / mirror
        );
    }
    println!(
        "decision to the mirror's: {:.2} (bound: 1.2)",
        cases[2].best.max(cases[3].best) / mirror
    );
    let (stop_ms, worst_ms, status_ms) = runtime.block_on(crowded());
    println!(
        "among {MAX_SCOPES} scopes: a stop {stop_ms:.1} ms, the worst of {MAX_ORDERS} {worst_ms:.1} ms; the status \
         {status_ms:.1} ms"
    );
    let mut arguments = std::env::args().skip_while(|word| word != "--json");
    if let (Some(_), Some(file)) = (arguments.next(), arguments.next()) {
        let own = |case: usize| (cases[case].allocations - floor) as f64;
        let figures = [
            ("decision_over_mirror.10", cases[2].best / mirror),
            ("decision_over_mirror.100", cases[3].best / mirror),
            ("allocations.decision.10", cases[2].allocations as f64),
            ("allocations.decision.100", cases[3].allocations as f64),
            ("allocations.layer.10", own(4)),
            ("allocations.layer.100", own(5)),
            ("allocations.layer.guard", own(6)),
            ("allocations.disabled", own(7)),
            ("stop_among_scopes_ms", stop_ms),
        ];
        let figures = figures.map(|(name, figure)| format!("\"{name}\": {figure}"));
        let figures = format!("{{{}}}\n", figures.join(", "));
        std::fs::write(file, figures).expect("the file can be written");
    }
}
