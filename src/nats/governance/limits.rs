//! What the control log's stream may not have.

use arqon_message::BoxError;
use async_nats::jetstream::stream;

use super::STREAM;

/// A log that forgets would let a stop lapse: a stream somebody made with limits is not used.
pub(super) fn keeps_everything(config: &stream::Config) -> Result<(), BoxError> {
    let limits = [
        ("max_age", !config.max_age.is_zero()),
        ("max_msgs", config.max_messages > 0),
        ("max_msgs_per_subject", config.max_messages_per_subject > 0),
        ("max_bytes", config.max_bytes > 0),
        ("retention", config.retention != stream::RetentionPolicy::Limits),
    ];
    match limits.iter().find(|(_, limited)| *limited) {
        None => Ok(()),
        Some((limit, _)) => Err(format!(
            "stream {STREAM} has `{limit}` set and would forget what was decided: `nats stream edit {STREAM}` without it"
        )
        .into()),
    }
}
