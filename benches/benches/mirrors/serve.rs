//! The primary: it reads a body and answers.

use std::{num::NonZeroUsize, sync::atomic::AtomicU64, sync::atomic::Ordering, time::Duration};

use arqon::{
    Fraction, Subject, SubjectLayer,
    nats::sink::NatsSink,
    shadow::{CopyBody, HttpSink, RuleConfig, ShadowConfig, ShadowHandle, ShadowLayer},
};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{get, post},
};
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use crate::{Error, Options};

pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let percent = options.get("percent", 0.1)?;
    let app = Router::new().route("/orders", post(order));
    let app = match options.text("kind")? {
        "bare" => app,
        "layer" => layered(app, options, percent).await?,
        "spawn" => app.layer(from_fn_with_state(Naive::new(options, percent)?, naive)),
        other => return Err(format!("--kind {other}: bare, layer or spawn").into()),
    };
    Ok(axum::serve(crate::listen(options).await?, app).await?)
}

const RULE: &str = "in.>";

/// Half a dozen microseconds of work, as a small handler has.
async fn order(body: Bytes) -> String {
    let sum = body.iter().fold(0_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(*byte))
    });
    format!("{{\"sum\":{sum}}}")
}

async fn layered(app: Router, options: &Options, percent: f64) -> Result<Router, Error> {
    let config = ShadowConfig::default().rule(RuleConfig::new(RULE, percent));
    let (layer, handle, drain) = if let Some(url) = options.find("nats") {
        let client = async_nats::connect(url).await?;
        ShadowLayer::channel(&config, NatsSink::new(client))?
    } else if let Some(url) = options.find("http") {
        let client: Client<HttpConnector, CopyBody> = Client::builder(TokioExecutor::new()).build_http();
        let sink = HttpSink::new(client, url.parse()?)?
            .methods([Method::POST])
            .in_flight(options.get("in-flight", NonZeroUsize::new(100).ok_or("zero")?)?);
        ShadowLayer::channel(&config, sink)?
    } else {
        return Err("--http or --nats is missing".into());
    };
    tokio::spawn(drain.run());
    let app = app
        .layer(layer)
        .layer(SubjectLayer::fixed(Subject::parse("in.t.default.orders")?));
    Ok(app
        .route("/state", get(state).with_state(handle.clone()))
        .route("/share/{share}", post(set_share).with_state(handle)))
}

async fn set_share(State(handle): State<ShadowHandle>, Path(share): Path<f64>) -> StatusCode {
    let set = Fraction::new(share).map(|share| handle.set_percent(RULE, share));
    if matches!(set, Ok(Ok(()))) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::BAD_REQUEST
    }
}

async fn state(State(handle): State<ShadowHandle>) -> String {
    let state = handle.state();
    let dropped: Vec<_> = state
        .stats
        .dropped
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("\"{reason}\":{count}"))
        .collect();
    format!(
        "{{\"sampled\":{},\"mirrored\":{},\"in_flight\":{},\"queue_bytes\":{},\"kept\":{},\"dropped\":{{{}}}}}",
        state.stats.sampled,
        state.stats.mirrored,
        state.stats.in_flight,
        state.queue_bytes,
        state.kept,
        dropped.join(",")
    )
}

/// What one writes first: any request in ten, copied by a task of its own.
#[derive(Clone)]
struct Naive {
    client: Client<HttpConnector, Full<Bytes>>,
    target: Uri,
    every: u64,
}

impl Naive {
    fn new(options: &Options, percent: f64) -> Result<Self, Error> {
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            target: format!("{}/orders", options.text("http")?).parse()?,
            every: (1.0 / percent) as u64,
        })
    }
}

async fn naive(State(mirror): State<Naive>, request: Request, next: Next) -> Response {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Spread by a multiplication, so that it does not run in step with the load.
    let draw = COUNT
        .fetch_add(1, Ordering::Relaxed)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        >> 32;
    if !draw.is_multiple_of(mirror.every) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Response::new(Body::from("broken")),
    };
    let mut copy = Request::builder()
        .method(parts.method.clone())
        .uri(mirror.target.clone());
    if let Some(headers) = copy.headers_mut() {
        headers.clone_from(&parts.headers);
        headers.remove("host");
    }
    if let Ok(copy) = copy.body(Full::new(body.clone())) {
        tokio::spawn(async move {
            // As most who write one do: a timeout, and no bound on how many wait for theirs.
            let answer = tokio::time::timeout(Duration::from_secs(10), mirror.client.request(copy)).await;
            if let Ok(Ok(answer)) = answer {
                let _ = answer.into_body().collect().await;
            }
        });
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}
