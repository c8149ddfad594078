//! What a consumer owes that the client cannot read: found by the JetStream API, whose answers it can read, and
//! terminated.
//!
//! The API gives a stored message as JSON, its headers as base64. Which ones the consumer has delivered and nobody has
//! acknowledged it does not tell: they are among those above its acknowledgement floor, up to the last one delivered.
//! To terminate one needs no more than its sequence: a server looks at nothing else of an acknowledgement's subject.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        Context, ContextBuilder,
        consumer::{AckPolicy, Info, PullConsumer},
        response::Response,
        stream::RawMessage,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{super::stored::stored, unreadable};

/// What one look may take: messages read, bytes of them, and time. The next look begins where one ended early.
const MESSAGES_MAX: usize = 1_024;
const BYTES_MAX: usize = 32 << 20;
const TIME_MAX: Duration = Duration::from_secs(5);
/// How long the API may take for one answer, and how long it is left alone when it gave none: it may not be permitted.
const API_TIMEOUT: Duration = Duration::from_secs(2);
const API_PAUSE: Duration = Duration::from_secs(30);
/// How many of the terminated ones are known, so that one that is still above the floor is not terminated twice.
const KNOWN_MAX: usize = 1_024;

/// What is left of one look.
#[derive(Debug)]
struct Budget {
    messages: usize,
    bytes: usize,
    deadline: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            messages: MESSAGES_MAX,
            bytes: BYTES_MAX,
            deadline: now + TIME_MAX,
        }
    }

    fn spend(&mut self, bytes: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn is_spent(&self, now: Instant) -> bool {
        self.messages == 0 || self.bytes == 0 || now >= self.deadline
    }
}

/// One that was terminated.
#[derive(Debug)]
pub(super) struct Terminated {
    pub(super) subject: String,
    pub(super) sequence: u64,
    pub(super) why: &'static str,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Nothing was owed that the client cannot read; false also where the API gave no answer.
    pub(super) is_clean: bool,
    pub(super) terminated: Vec<Terminated>,
}

/// What is owed by one consumer.
#[derive(Debug)]
pub(super) struct Owed {
    context: Context,
    /// As it was when it was given to us: its name, its stream and its filters.
    info: Info,
    filters: Vec<String>,
    /// Where the last look ended, if it ended early.
    resume: Option<u64>,
    known: BTreeSet<u64>,
    not_before: Option<Instant>,
}

/// Why there is no answer of the API.
type NoAnswer = &'static str;

impl Owed {
    pub(super) fn of(client: &Client, context: Option<Context>, consumer: &PullConsumer) -> Self {
        let mut context = context.unwrap_or_else(|| ContextBuilder::new().build(client.clone()));
        context.set_timeout(API_TIMEOUT);
        let info = consumer.cached_info().clone();
        let mut filters = info.config.filter_subjects.clone();
        filters.push(info.config.filter_subject.clone());
        filters.retain(|filter| !filter.is_empty());
        Self {
            context,
            info,
            filters,
            resume: None,
            known: BTreeSet::new(),
            not_before: None,
        }
    }

    /// Terminates what cannot be read of what is owed; behind `received`, the last one that could be, it looks first.
    pub(super) async fn look(&mut self, received: u64) -> Looked {
        let mut looked = Looked::default();
        // Where one acknowledgement is for all before it, or there is none, a single one cannot be terminated.
        if self.info.config.ack_policy != AckPolicy::Explicit
            || self.not_before.is_some_and(|time| Instant::now() < time)
        {
            return looked;
        }
        self.not_before = None;
        if let Err(why) = self.look_through(received, &mut looked).await {
            tracing::warn!(
                component = "nats",
                consumer = self.info.name,
                "what the consumer owes cannot be looked at: {why}"
            );
            self.not_before = Some(Instant::now() + API_PAUSE);
        }
        looked
    }

    async fn look_through(&mut self, received: u64, looked: &mut Looked) -> Result<(), NoAnswer> {
        let info = self.current().await?;
        let (floor, last) = (info.ack_floor.stream_sequence, info.delivered.stream_sequence);
        self.known.retain(|sequence| *sequence > floor);
        if info.num_ack_pending == 0 || last <= floor {
            (looked.is_clean, self.resume) = (true, None);
            return Ok(());
        }
        let mut budget = Budget::new(Instant::now());
        let mut before = Vec::new();
        let from = self.resume.unwrap_or(received.saturating_add(1));
        let from = from.clamp(floor + 1, last + 1);
        for (mut next, end) in [(from, last), (floor + 1, from - 1)] {
            while next <= end {
                if budget.is_spent(Instant::now()) {
                    self.resume = Some(next);
                    return Ok(());
                }
                let Some(message) = self.stored(next, self.pattern()).await? else {
                    break;
                };
                if message.sequence > end {
                    break;
                }
                next = message.sequence + 1;
                budget.spend(message.payload.len());
                let Some(why) = self.unreadable(&message).await? else {
                    continue;
                };
                let found = Terminated {
                    subject: message.subject,
                    sequence: message.sequence,
                    why,
                };
                if self.known.contains(&found.sequence) {
                    before.push(found);
                } else {
                    self.terminate(found, looked).await?;
                }
            }
        }
        // Only known ones, and yet the connection was cut: the server may have forgotten that they are settled.
        if looked.terminated.is_empty() {
            for found in before {
                self.terminate(found, looked).await?;
            }
        }
        (looked.is_clean, self.resume) = (looked.terminated.is_empty(), None);
        Ok(())
    }

    /// The consumer as it is now.
    async fn current(&self) -> Result<Info, NoAnswer> {
        let subject = format!("CONSUMER.INFO.{}.{}", self.info.stream_name, self.info.name);
        match self.context.request(subject, &json!({})).await {
            // Another one of this name, or of another domain, has sequences of another stream.
            Ok(Response::<Info>::Ok(info)) if info.created == self.info.created => Ok(info),
            Ok(Response::Ok(_)) => Err("it is another consumer of the same name"),
            Ok(Response::Err { .. }) => Err("it has no such consumer"),
            Err(_) => Err("no answer; CONSUMER.INFO may not be permitted"),
        }
    }

    /// What to ask for: its only filter. One that has several is asked for all, and each found is compared with them.
    fn pattern(&self) -> &str {
        match &self.filters[..] {
            [only] => only,
            _ => ">",
        }
    }

    /// The first message at `sequence` or behind it with a subject like `pattern`.
    async fn stored(&self, sequence: u64, pattern: &str) -> Result<Option<RawMessage>, NoAnswer> {
        let wanted = json!({"seq": sequence, "next_by_subj": pattern});
        match stored(&self.context, &self.info.stream_name, wanted).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(_)) => Err("a stored message is refused"),
            Err(_) => Err("no answer; STREAM.MSG.GET may not be permitted"),
        }
    }

    async fn unreadable(&self, message: &RawMessage) -> Result<Option<&'static str>, NoAnswer> {
        let headers = message.headers.as_ref().map(|text| STANDARD.decode(text));
        let Ok(headers) = headers.transpose() else {
            return Ok(None);
        };
        let mut why = unreadable::why(&message.subject, headers.as_deref());
        // JSON has no form for a subject that is not UTF-8: it has another one then.
        if why.is_none()
            && message.subject.contains(char::REPLACEMENT_CHARACTER)
            && !self.is_like(message, &message.subject).await?
        {
            why = Some("its subject is not UTF-8");
        }
        if why.is_some() && self.filters.len() > 1 {
            for filter in &self.filters {
                if self.is_like(message, filter).await? {
                    return Ok(why);
                }
            }
            return Ok(None);
        }
        Ok(why)
    }

    async fn is_like(&self, message: &RawMessage, pattern: &str) -> Result<bool, NoAnswer> {
        let found = self.stored(message.sequence, pattern).await?;
        Ok(found.is_some_and(|found| found.sequence == message.sequence))
    }

    async fn terminate(&mut self, found: Terminated, looked: &mut Looked) -> Result<(), NoAnswer> {
        let Info {
            stream_name, name, ..
        } = &self.info;
        let subject = format!("$JS.ACK.{stream_name}.{name}.1.{}.0.0.0", found.sequence);
        let client = self.context.client();
        // With a reply subject a server says that it has taken it.
        let asking = client.request(subject, "+TERM".into());
        match timeout(API_TIMEOUT, asking).await {
            Ok(Ok(_)) => {}
            _ => return Err("a message that cannot be read could not be terminated"),
        }
        self.known.insert(found.sequence);
        if self.known.len() > KNOWN_MAX {
            self.known.pop_first();
        }
        looked.terminated.push(found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_ends_at_its_limits_and_not_before() {
        let now = Instant::now();
        let spent = |count: usize, bytes: usize| {
            let mut budget = Budget::new(now);
            (0..count).for_each(|_| budget.spend(bytes));
            budget.is_spent(now)
        };
        assert_eq!((spent(1_023, 0), spent(1_024, 0)), (false, true));
        assert_eq!((spent(1, BYTES_MAX - 1), spent(1, BYTES_MAX)), (false, true));
        assert!(spent(2, BYTES_MAX), "more than there was");
        let budget = Budget::new(now);
        assert!(!budget.is_spent(now + TIME_MAX - Duration::from_nanos(1)));
        assert!(budget.is_spent(now + TIME_MAX));
    }
}
