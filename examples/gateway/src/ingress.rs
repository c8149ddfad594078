//! Requests over NATS (`nats.serve`): the third edge, beside HTTP and WebSocket.

use std::time::Duration;

use arqon::{
    Protocol,
    config::NatsServeConfig,
    nats::{self, Connection, serve::Source},
    observe::ObserveLayer,
};
use axum::body::Body;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::routes::MessageService;

/// Serves `<prefix>.in.t.*.>` with the message stack until `stop`, and then what was taken, within the drain's time. What hears
/// may be cut by whoever sends; replies go by the connection that publishes, which holds.
pub(crate) async fn run(
    (heard, replies): (Connection, Connection),
    config: NatsServeConfig,
    (observe, service): (ObserveLayer, MessageService),
    (max_body_bytes, drain_timeout): (usize, Duration),
    stop: CancellationToken,
) -> Result<(), String> {
    let source = Source::requests(&heard, config.pattern()?)
        .replies_through(&replies)
        .queue_group(config.queue_group)
        .strip_prefix(config.prefix)
        .reply_prefixes(config.reply_prefixes);
    let served = nats::serve(
        source,
        service.map_request(|request: http::Request<_>| request.map(Body::new)),
    )
    // What no layer sees is counted and told all the same.
    .refuse_with(move |request, problem| observe.refused(Protocol::Nats, request, problem))
    .in_flight_max(config.in_flight_max)
    .max_body_bytes(max_body_bytes)
    .drain_timeout(drain_timeout)
    .run(stop)
    .await
    .map_err(|error| error.to_string())?;
    tracing::info!(
        component = "nats",
        ok = served.ok,
        refused = served.refused,
        failed = served.failed,
        poison = served.poison,
        "no more requests over NATS"
    );
    Ok(())
}
