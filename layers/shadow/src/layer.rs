//! The layer.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use arqon_message::Sampler;
use tokio::sync::{mpsc, watch};
use tower_layer::Layer;

use crate::{
    DrainTask, InvalidConfig, OnEvent, Shadow, ShadowConfig, ShadowHandle, Sink,
    gate::Gate,
    ledger::Ledger,
    limits::Limits,
    mirror::{Core, Mirror},
    rules::Rules,
    shed::{Shedder, TICK},
};

/// Mirrors a coherent sample of requests: see the [crate docs](crate).
#[derive(Clone)]
pub struct ShadowLayer {
    mirror: Arc<Mirror>,
}

impl ShadowLayer {
    /// A mirror, in three parts: the layer for the request path, the handle for operators, and the task to spawn.
    ///
    /// # Errors
    /// Everything that is wrong with the config, at once.
    pub fn channel(
        config: &ShadowConfig,
        sink: impl Sink,
    ) -> Result<(Self, ShadowHandle, DrainTask), InvalidConfig> {
        Self::build(config, Arc::new(sink), None)
    }

    /// As [`channel`](Self::channel), telling `on_event` what changes (such as
    /// [`ShadowEvent::Degraded`](crate::ShadowEvent::Degraded)).
    ///
    /// # Errors
    /// Everything that is wrong with the config, at once.
    pub fn channel_with_events(
        config: &ShadowConfig,
        sink: impl Sink,
        on_event: OnEvent,
    ) -> Result<(Self, ShadowHandle, DrainTask), InvalidConfig> {
        Self::build(config, Arc::new(sink), Some(on_event))
    }

    fn build(
        config: &ShadowConfig,
        sink: Arc<dyn Sink>,
        on_event: Option<OnEvent>,
    ) -> Result<(Self, ShadowHandle, DrainTask), InvalidConfig> {
        let compiled = config.compile()?;
        let recover_ticks = config.recover_seconds * 1_000 / TICK.as_millis() as u64;
        let sampler = Sampler::new(config.seed);
        let core = Arc::new(Core {
            rules: ArcSwap::from_pointee(Rules::new(false, sampler, Vec::new())),
            gate: Gate::default(),
            ledger: Arc::new(Ledger::new(config.queue_bytes)),
            shed: Shedder::new(compiled.high_water.get(), recover_ticks),
            limits: Limits::of(&sink),
        });
        let rules = core
            .rules
            .load()
            .replaced(config.enabled, sampler, compiled.terms);
        rules.tell_effective(1.0);
        core.replace(rules);
        let (sender, queue) = mpsc::channel(config.queue_messages);
        let (orders, ordered) = watch::channel(None);
        let handle = ShadowHandle::new(Arc::clone(&core), sender.downgrade(), orders, on_event.clone());
        let limit = Duration::from_millis(config.timeout_ms);
        let drain = DrainTask::new(queue, Arc::clone(&core), sink, limit, ordered, on_event);
        Ok((
            Self {
                mirror: Arc::new(Mirror { core, queue: sender }),
            },
            handle,
            drain,
        ))
    }
}

impl<S> Layer<S> for ShadowLayer {
    type Service = Shadow<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Shadow::new(inner, Arc::clone(&self.mirror))
    }
}

impl fmt::Debug for ShadowLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowLayer")
            .field("rules", &self.mirror.core.rules.load().list)
            .finish_non_exhaustive()
    }
}
