//! Bodies that only candidates look at: handed on as they come, and kept beside for the trials.
//!
//! The request waits for nothing. A body that breaks off, or that nobody reads to its end, is the handler's affair; its
//! candidates count as not asked.

use std::sync::mpsc::SyncSender;

use arqon_message::BodyTap;
use bytes::{Bytes, BytesMut};

use crate::trial::{Trial, Trials, send};

/// Trials that begin when the body was handed on to its end.
#[derive(Debug, Default)]
pub(crate) struct Awaiting {
    queue: Option<SyncSender<Box<Trial>>>,
    trials: Vec<Trial>,
    body: Data,
    /// Bytes that were announced, and that there is room for.
    bytes_max: usize,
}

#[derive(Debug, Default)]
enum Data {
    #[default]
    Nothing,
    /// One frame, as it came.
    Frame(Bytes),
    /// More than one, copied: a frame may hold on to more than its own bytes.
    Joined(BytesMut),
}

/// A copy of an exchange is what its trials look at: it has none itself.
impl Clone for Awaiting {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Awaiting {
    pub(crate) fn new(trials: &Trials, bytes_max: usize) -> Self {
        Self {
            queue: trials.queue(),
            trials: Vec::new(),
            body: Data::Nothing,
            bytes_max,
        }
    }

    pub(crate) fn push(&mut self, trial: Trial) {
        self.trials.push(trial);
    }

    fn given_up(&mut self) {
        self.trials.drain(..).for_each(|trial| trial.not_asked());
        self.body = Data::Nothing;
    }
}

impl BodyTap for Awaiting {
    fn data(&mut self, data: &Bytes) {
        let (so_far, whole) = match std::mem::take(&mut self.body) {
            Data::Nothing => (0, Data::Frame(data.clone())),
            Data::Frame(first) => {
                let mut joined = BytesMut::with_capacity(first.len() + data.len());
                joined.extend_from_slice(&first);
                joined.extend_from_slice(data);
                (first.len(), Data::Joined(joined))
            }
            Data::Joined(mut joined) => {
                let so_far = joined.len();
                joined.extend_from_slice(data);
                (so_far, Data::Joined(joined))
            }
        };
        self.body = whole;
        if so_far + data.len() > self.bytes_max {
            // More than its own length said.
            self.given_up();
        }
    }

    fn end(mut self: Box<Self>) {
        let body = match std::mem::take(&mut self.body) {
            Data::Nothing => Bytes::new(),
            Data::Frame(data) => data,
            Data::Joined(data) => data.freeze(),
        };
        for trial in std::mem::take(&mut self.trials) {
            send(self.queue.as_ref(), Box::new(trial.with_body(&body)));
        }
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.given_up();
    }
}
