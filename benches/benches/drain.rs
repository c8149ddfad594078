//! How fast the mirror's copies go to a local nats-server, as a ratio to async-nats' own publish loop in the same run
//! (issue 6). That loop is the ceiling: the same subject, headers and body, made once and cloned.
//!
//! `cargo bench -p arqon-benches --bench drain`. Best of several rounds. The server takes its share of the machine's cores.

use std::{convert::Infallible, time::Instant};

use arqon::{
    Subject,
    nats::sink::NatsSink,
    shadow::{RuleConfig, ShadowBody, ShadowConfig, ShadowLayer},
};
use arqon_test_support::NatsServer;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a queue of the default size holds, about: more would measure a cold memory.
const COPIES: usize = 4_000;
const ROUNDS: usize = 200;
const BODY: [u8; 256] = [7; 256];
const SUBJECT: &str = "in.t.default.orders";
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01";

/// Fills a queue off the clock, then drains it on the clock; copies a second.
async fn mirror(client: &Client) -> Result<f64, Error> {
    let config = ShadowConfig::default()
        .rule(RuleConfig::new("in.>", 1.0))
        .with_queue(4 * COPIES, 4 << 30);
    let (layer, handle, drain) = ShadowLayer::channel(&config, NatsSink::new(client.clone()))?;
    let service = layer.layer(tower::service_fn(
        async |request: Request<ShadowBody<Full<Bytes>>>| {
            request.into_body().collect().await.map(Response::new)
        },
    ));
    let subject = Subject::parse(SUBJECT)?;
    for _ in 0..COPIES {
        let mut request = Request::post("/v1/publish/orders")
            .header("content-type", "application/json")
            .header("traceparent", TRACE)
            .body(Full::new(Bytes::from_static(&BODY)))?;
        request.extensions_mut().insert(subject.clone());
        let _: Result<_, Infallible> = service.clone().oneshot(request).await;
    }
    drop(service);
    drop(layer);
    let begun = Instant::now();
    // Ends when the queue is empty, and flushes then.
    tokio::spawn(drain.run()).await?;
    let taken = begun.elapsed().as_secs_f64();
    let stats = handle.stats();
    assert_eq!(stats.mirrored, COPIES as u64, "{stats:?}");
    Ok(COPIES as f64 / taken)
}

/// What async-nats publishes by itself; messages a second.
async fn publish(client: &Client, headers: Option<HeaderMap>) -> Result<f64, Error> {
    let client = client.clone();
    let subject = async_nats::Subject::from(format!("shadow.{SUBJECT}"));
    let begun = Instant::now();
    tokio::spawn(async move {
        let body = Bytes::from_static(&BODY);
        for _ in 0..COPIES {
            match &headers {
                Some(headers) => {
                    client
                        .publish_with_headers(subject.clone(), headers.clone(), body.clone())
                        .await?;
                }
                None => client.publish(subject.clone(), body.clone()).await?,
            }
        }
        client.flush().await?;
        Ok::<_, Error>(())
    })
    .await??;
    Ok(COPIES as f64 / begun.elapsed().as_secs_f64())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let server = NatsServer::start().await.map_err(|error| error.to_string())?;
    let client = async_nats::connect(server.url()).await?;
    let mut headers = HeaderMap::new();
    headers.append("content-type", "application/json");
    headers.append("traceparent", TRACE);
    headers.append("x-arqon-shadow", "true");
    headers.append("x-arqon-shadow-of", "4bf92f3577b34da6a3ce929d0e0e4736");
    let mut best = [0_f64; 3];
    for _ in 0..ROUNDS {
        let round = [
            mirror(&client).await?,
            publish(&client, Some(headers.clone())).await?,
            publish(&client, None).await?,
        ];
        for (best, now) in best.iter_mut().zip(round) {
            *best = best.max(now);
        }
    }
    let names = [
        "mirror's drain",
        "publish loop, same headers",
        "publish loop, no headers",
    ];
    for (name, rate) in names.into_iter().zip(best) {
        println!(
            "{name:<28}{rate:>12.0} copies/s{:>8.2} of the loop",
            rate / best[1]
        );
    }
    Ok(())
}
