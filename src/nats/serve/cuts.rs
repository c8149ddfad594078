//! When the connection of a consumer was cut, and how its messages are asked for then.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{
    Client,
    jetstream::{Context, consumer::PullConsumer},
};
use tokio::time::Instant;

use super::{
    Server,
    answer::Outcome,
    owed::{Looked, Owed},
};

/// How much longer than an ack wait messages are asked for one by one, and at most how long.
const ALONE_MORE: Duration = Duration::from_secs(1);
const ALONE_MAX: Duration = Duration::from_secs(300);

/// What is known of a consumer's connections.
pub(super) struct Cuts {
    client: Client,
    owed: Owed,
    /// The connection that was looked at last, counted from 1.
    looked_at: u64,
    /// The highest sequence that came.
    received: u64,
    alone_for: Duration,
    alone_until: Option<Instant>,
}

impl Cuts {
    pub(super) fn of(client: &Client, context: Option<Context>, consumer: &PullConsumer) -> Self {
        let config = &consumer.cached_info().config;
        let ack_wait = config
            .backoff
            .iter()
            .copied()
            .fold(config.ack_wait, Duration::max);
        Self {
            client: client.clone(),
            owed: Owed::of(client, context, consumer),
            looked_at: 0,
            received: 0,
            alone_for: alone_for(ack_wait),
            alone_until: None,
        }
    }

    pub(super) fn came(&mut self, sequence: u64) {
        self.received = self.received.max(sequence);
    }

    /// Whether there is a connection that was not looked at.
    pub(super) fn is_due(&self) -> bool {
        self.connects() != self.looked_at
    }

    /// How much longer messages are asked for one by one; None if they are not.
    pub(super) fn alone(&self) -> Option<Duration> {
        let left = self.alone_until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Terminates what cut the connection, or is going to cut this one. What is not known yet is asked for alone from
    /// now on, and so is what was lost with it: it comes again within an ack wait, and is not lost once more.
    pub(super) async fn look<S>(&mut self, server: &Server<S>) {
        let (connects, was_cut) = (self.connects(), self.looked_at > 0);
        let Looked { is_clean, terminated } = self.owed.look(self.received).await;
        self.looked_at = connects;
        for found in &terminated {
            server.count(Outcome::Poison);
            tracing::error!(
                component = "nats",
                subject = %found.subject.escape_debug(),
                sequence = found.sequence,
                answer = found.why,
                "a poison message is terminated"
            );
        }
        if !terminated.is_empty() || was_cut && !is_clean {
            self.alone_until = Some(Instant::now() + self.alone_for);
            tracing::warn!(
                component = "nats",
                seconds = self.alone_for.as_secs(),
                "messages are asked for one by one for a while: one that cannot be read ends the connection"
            );
        }
    }

    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }
}

/// As long as what was lost may take to come again.
fn alone_for(ack_wait: Duration) -> Duration {
    ack_wait.saturating_add(ALONE_MORE).min(ALONE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_alone_for_an_ack_wait_and_at_most_five_minutes() {
        for (ack_wait, expected) in [
            (0, 1),
            (30, 31),
            (298, 299),
            (299, 300),
            (300, 300),
            (u64::MAX, 300),
        ] {
            assert_eq!(alone_for(Duration::from_secs(ack_wait)).as_secs(), expected);
        }
    }
}
