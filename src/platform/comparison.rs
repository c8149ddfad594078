//! `[platform.mirroring.compare]` made into a sink: copies that are compared go to the candidate, the others where all went.

use std::{future::Future, num::NonZeroUsize, path::Path, pin::Pin, time::Duration};

use arqon_schema::DESCRIPTOR_BYTES_MAX;
use arqon_shadow::{
    CompareConfig, CopyBody, Delivery, HttpSink, ShadowCopy, Sink, SinkError,
    compare::{CompareSink, Comparison, Differ},
};
use http::{Method, Uri};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost_reflect::DescriptorPool;

use crate::{config::Finding, files};

type Http = Client<HttpConnector, CopyBody>;

/// Sends each copy to one of two sinks.
pub(super) struct Split<K> {
    compared: CompareSink<Http>,
    concurrency: NonZeroUsize,
    others: K,
}

impl<K: Sink> Sink for Split<K> {
    fn offer(&self, copy: &ShadowCopy) -> Option<Result<(), SinkError>> {
        if copy.is_compared() {
            return None;
        }
        self.others.offer(copy)
    }

    fn send(&self, copy: ShadowCopy) -> Delivery<'_> {
        if copy.is_compared() {
            self.compared.send(copy)
        } else {
            self.others.send(copy)
        }
    }

    fn flush(&self) -> Delivery<'_> {
        self.others.flush()
    }

    fn copy_bytes_max(&self) -> usize {
        self.others.copy_bytes_max()
    }

    fn compared_bytes_max(&self) -> usize {
        self.compared.copy_bytes_max()
    }

    fn header_bytes(&self, name: &str, value: &[u8]) -> usize {
        self.others.header_bytes(name, value)
    }

    fn is_down(&self) -> bool {
        self.others.is_down()
    }

    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.others.ready()
    }

    fn grace(&self) -> Duration {
        self.others.grace()
    }

    fn concurrency(&self) -> NonZeroUsize {
        self.concurrency.max(self.others.concurrency())
    }

    fn plain_concurrency(&self) -> NonZeroUsize {
        self.others.concurrency()
    }
}

/// The sink, and what it counts.
pub(super) fn split<K: Sink>(
    config: &CompareConfig,
    timeout: Duration,
    others: K,
) -> Result<(Split<K>, Comparison), Vec<Finding>> {
    let key = |name: &str| format!("platform.mirroring.compare.{name}");
    let mut findings = Vec::new();
    let target = |name: &str, given: &str, findings: &mut Vec<Finding>| {
        let client: Http = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let methods: Vec<_> = config
            .methods
            .iter()
            .filter_map(|method| Method::from_bytes(method.as_bytes()).ok())
            .collect();
        let sink = given
            .parse::<Uri>()
            .map_err(|error| error.to_string())
            .and_then(|uri| HttpSink::new(client, uri).map_err(|error| error.to_string()));
        match sink {
            Ok(sink) => Some(sink.methods(methods)),
            Err(error) => {
                findings.push(Finding::new(key(name), error));
                None
            }
        }
    };
    let candidate = target("candidate", &config.candidate, &mut findings);
    let control = config
        .control
        .as_deref()
        .and_then(|control| target("control", control, &mut findings));
    let differ = differ(config).map_err(|error| findings.push(Finding::new(key("descriptors"), error)));
    // Zero is refused with the rest of the table.
    let concurrency = NonZeroUsize::new(config.in_flight).unwrap_or(NonZeroUsize::MIN);
    let (Some(candidate), Ok(differ), true) = (candidate, differ, findings.is_empty()) else {
        return Err(findings);
    };
    let comparison = Comparison::new(differ);
    let mut compared = CompareSink::new(candidate.in_flight(concurrency), comparison.clone())
        // So that a control that hangs leaves the candidate's answer its time.
        .control_timeout(timeout / 2);
    if let Some(control) = control {
        compared = compared.control(control);
    }
    let split = Split {
        compared,
        concurrency,
        others,
    };
    Ok((split, comparison))
}

fn differ(config: &CompareConfig) -> Result<Differ, String> {
    let mut differ = Differ::new().tolerance(config.tolerance);
    for path in &config.ignore {
        differ = differ.ignore(path);
    }
    for path in &config.unordered {
        differ = differ.unordered(path);
    }
    if let (Some(file), Some(name)) = (&config.descriptors, &config.message) {
        let set = files::read(Path::new(file), DESCRIPTOR_BYTES_MAX as u64)
            .map_err(|error| format!("{file} cannot be read: {error}"))?;
        let pool = DescriptorPool::decode(set.as_slice())
            .map_err(|error| format!("{file} is no descriptor set: {error}"))?;
        let message = pool.get_message_by_name(name);
        differ = differ.protobuf(message.ok_or_else(|| format!("{file} has no message {name}"))?);
    }
    Ok(differ)
}

/// Either way in one type.
pub(super) enum Mirrored<K> {
    Plain(K),
    Compared(Box<Split<K>>),
}

impl<K: Sink> Mirrored<K> {
    fn sink(&self) -> &dyn Sink {
        match self {
            Self::Plain(sink) => sink,
            Self::Compared(split) => &**split,
        }
    }
}

impl<K: Sink> Sink for Mirrored<K> {
    fn offer(&self, copy: &ShadowCopy) -> Option<Result<(), SinkError>> {
        self.sink().offer(copy)
    }

    fn send(&self, copy: ShadowCopy) -> Delivery<'_> {
        self.sink().send(copy)
    }

    fn flush(&self) -> Delivery<'_> {
        self.sink().flush()
    }

    fn copy_bytes_max(&self) -> usize {
        self.sink().copy_bytes_max()
    }

    fn compared_bytes_max(&self) -> usize {
        self.sink().compared_bytes_max()
    }

    fn header_bytes(&self, name: &str, value: &[u8]) -> usize {
        self.sink().header_bytes(name, value)
    }

    fn is_down(&self) -> bool {
        self.sink().is_down()
    }

    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.sink().ready()
    }

    fn grace(&self) -> Duration {
        self.sink().grace()
    }

    fn concurrency(&self) -> NonZeroUsize {
        self.sink().concurrency()
    }

    fn plain_concurrency(&self) -> NonZeroUsize {
        self.sink().plain_concurrency()
    }
}

/// A sink, and what comparing finds if it compares.
type Made<K> = (Mirrored<K>, Option<Comparison>);

/// What the mirror's copies go through, and the comparison if the configuration asks for one.
pub(super) fn sink<K: Sink>(
    config: Option<&CompareConfig>,
    timeout: Duration,
    sink: K,
) -> Result<Made<K>, Vec<Finding>> {
    match config {
        None => Ok((Mirrored::Plain(sink), None)),
        Some(config) => {
            let (split, comparison) = split(config, timeout, sink)?;
            Ok((Mirrored::Compared(Box::new(split)), Some(comparison)))
        }
    }
}
