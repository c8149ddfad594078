//! Stored messages by the JetStream API, as JSON with the headers as base64: what a subscription cannot hear, this can read.

use async_nats::jetstream::{Context, Error, context::RequestError, response::Response, stream::RawMessage};
use serde::Deserialize;

#[derive(Deserialize)]
struct Stored {
    message: RawMessage,
}

/// The message of `stream` that `wanted` names: `{"seq": ..}`, `{"last_by_subj": ..}`, `{"seq": .., "next_by_subj": ..}`.
/// None if there is none; the inner error is what the server said instead.
pub(super) async fn stored(
    context: &Context,
    stream: &str,
    wanted: serde_json::Value,
) -> Result<Result<Option<RawMessage>, Error>, RequestError> {
    let subject = format!("STREAM.MSG.GET.{stream}");
    match context.request(subject, &wanted).await? {
        Response::Ok(Stored { message }) => Ok(Ok(Some(message))),
        Response::Err { error } if error.code() == 404 => Ok(Ok(None)),
        Response::Err { error } => Ok(Err(error)),
    }
}
