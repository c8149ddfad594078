//! What counts the copies, by trace. It is stopped with a signal, or slowed down with a delay, from outside.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    routing::{get, post},
};
use http::HeaderMap;

use crate::{Error, Options, TRACE_REQUESTS};

#[derive(Clone, Default)]
struct Counted {
    copies: Arc<Mutex<HashMap<String, u64>>>,
    delay: Duration,
}

impl Counted {
    fn count(&self, traceparent: &str) {
        if let Some(trace) = traceparent.get(3..35) {
            let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
            *copies.entry(trace.to_owned()).or_default() += 1;
        }
    }
}

pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let counted = Counted {
        delay: Duration::from_micros((options.get("delay-ms", 0.0)? * 1_000.0) as u64),
        ..Counted::default()
    };
    if let Some(url) = options.find("nats") {
        let client = async_nats::connect(url).await?;
        let mut copies = client.subscribe("shadow.>").await?;
        client.flush().await?;
        let counted = counted.clone();
        tokio::spawn(async move {
            while let Some(copy) = futures_util::StreamExt::next(&mut copies).await {
                let headers = copy.headers.unwrap_or_default();
                counted.count(headers.get("traceparent").map_or("", |value| value.as_str()));
            }
        });
    }
    let app = Router::new()
        .route("/orders", post(order))
        .route("/report", get(report).delete(forget))
        .with_state(counted);
    Ok(axum::serve(crate::listen(options).await?, app).await?)
}

async fn order(State(counted): State<Counted>, headers: HeaderMap, _: Bytes) -> &'static str {
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    counted.count(parent.unwrap_or_default());
    if !counted.delay.is_zero() {
        tokio::time::sleep(counted.delay).await;
    }
    "taken"
}

async fn report(State(counted): State<Counted>) -> String {
    let copies = counted.copies.lock().unwrap_or_else(PoisonError::into_inner);
    let whole = copies.values().filter(|count| **count == TRACE_REQUESTS).count();
    let sum: u64 = copies.values().sum();
    format!(
        "{{\"copies\":{sum},\"traces\":{},\"whole\":{whole}}}",
        copies.len()
    )
}

async fn forget(State(counted): State<Counted>) {
    counted
        .copies
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
}
