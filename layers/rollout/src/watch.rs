//! What is measured of the rollouts of a node, and what the guard makes of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arqon_message::TenantId;

use crate::{
    digest::Digest,
    guard::{GuardAction, GuardConfig, Judgement, judge},
    live::Live,
    state::Scope,
    stats::{Stats, Window},
    table::Phase,
    wire::{AlertSeverity, UpstreamMessage},
};

pub(crate) type Watches = BTreeMap<(TenantId, Scope), Watch>;

/// What is never exceeded again after a breach, of which rollout: kept beside the latches, for a restart.
pub(crate) type Caps = BTreeMap<(TenantId, Scope), (Digest, f64)>;

/// One rollout, watched from its start on this node to its end.
pub(crate) struct Watch {
    digest: Digest,
    pub(crate) baseline: Arc<Stats>,
    pub(crate) canary: Arc<Stats>,
    window: (Window, Window),
    window_started_us: u64,
    reported: (Window, Window),
    /// A breach: never above this again.
    cap: f64,
    /// No data: not above this until there is.
    hold: Option<f64>,
    /// The last window and what it said.
    judged: Option<Judged>,
}

/// A window that was judged.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    pub(crate) at_us: u64,
    pub(crate) verdict: &'static str,
    pub(crate) baseline: Window,
    pub(crate) canary: Window,
}

impl Watch {
    fn new(digest: Digest, now_us: u64, cap: f64) -> Self {
        Self {
            digest,
            baseline: Arc::default(),
            canary: Arc::default(),
            window: <(Window, Window)>::default(),
            window_started_us: now_us,
            reported: <(Window, Window)>::default(),
            cap,
            hold: None,
            judged: None,
        }
    }

    /// The last window and what it said.
    pub(crate) fn judged(&self) -> Option<&Judged> {
        self.judged.as_ref()
    }

    /// The most that is served.
    pub(crate) fn limit(&self) -> f64 {
        self.hold.map_or(self.cap, |hold| hold.min(self.cap))
    }

    /// Whether a breach has lowered what is served.
    pub(crate) fn breached(&self) -> bool {
        self.cap < 100.0
    }

    fn totals(&self) -> (Window, Window) {
        (self.baseline.totals(), self.canary.totals())
    }
}

impl Live {
    /// Starts watching the rollouts that have started, forgets those that have ended.
    pub(crate) fn sync_watches(&mut self, now_us: u64) {
        let mut before = std::mem::take(&mut self.watches);
        for (tenant, state) in &self.states {
            for (scope, lane) in state.lanes() {
                let Some(rollout) = lane.rollout() else { continue };
                let key = (tenant.clone(), scope.clone());
                let known = before.remove(&key).filter(|watch| watch.digest == rollout.digest);
                let capped = self.caps.get(&key).filter(|(of, _)| *of == rollout.digest);
                let cap = capped.map_or(100.0, |(_, cap)| *cap);
                let watch = known.unwrap_or_else(|| Watch::new(rollout.digest, now_us, cap));
                self.watches.insert(key, watch);
            }
        }
    }

    /// Judges every window that is over; yields what people should know.
    pub(crate) fn guard(&mut self, config: &GuardConfig, now_us: u64) -> Vec<(TenantId, UpstreamMessage)> {
        let mut alerts = Vec::new();
        let percents: Vec<_> = self
            .watches
            .keys()
            .map(|key| (key.clone(), self.share(key, now_us)))
            .collect();
        for (key, (phase, percent)) in percents {
            let Some(watch) = self.watches.get_mut(&key) else {
                continue;
            };
            let age = Duration::from_micros(now_us.saturating_sub(watch.window_started_us));
            if age < config.window() {
                continue;
            }
            let totals = watch.totals();
            let (baseline, canary) = (totals.0.since(&watch.window.0), totals.1.since(&watch.window.1));
            (watch.window, watch.window_started_us) = (totals, now_us);
            // With everyone in there is no baseline to compare with, with nobody no variant.
            if !matches!(phase, Phase::Ramping | Phase::Holding) || percent <= 0.0 || watch.breached() {
                continue;
            }
            let judgement = judge(config, &baseline, &canary);
            watch.judged = Some(Judged {
                at_us: now_us,
                verdict: judgement.as_str(),
                baseline,
                canary,
            });
            match judgement {
                Judgement::Healthy => watch.hold = None,
                Judgement::NoData => watch.hold = Some(watch.hold.unwrap_or(percent).min(percent)),
                Judgement::Breach { message, mut figures } => {
                    watch.cap = match config.action {
                        GuardAction::Freeze => percent,
                        GuardAction::Rollback => 0.0,
                    };
                    self.caps.insert(key.clone(), (watch.digest, watch.cap));
                    self.kept_moved = true;
                    figures.insert("percent".to_owned(), format!("{percent:.4}"));
                    figures.insert("cap".to_owned(), format!("{:.4}", watch.cap));
                    figures.insert("scope".to_owned(), key.1.to_string());
                    figures.insert("proposal_digest".to_owned(), watch.digest.to_string());
                    let alert = UpstreamMessage::Alert {
                        timestamp_us: now_us,
                        severity: AlertSeverity::Error,
                        message: format!("guard: {message}"),
                        context: figures,
                    };
                    alerts.push((key.0, alert));
                }
            }
        }
        alerts
    }

    /// What was measured since the last telemetry, by tenant.
    pub(crate) fn telemetry(&mut self, node: &str, now_us: u64) -> Vec<(TenantId, UpstreamMessage)> {
        let mut reports = Vec::new();
        for ((tenant, scope), watch) in &mut self.watches {
            let totals = watch.totals();
            let sides = [
                ("baseline", totals.0.since(&watch.reported.0)),
                ("canary", totals.1.since(&watch.reported.1)),
            ];
            watch.reported = totals;
            let prefix = scope
                .pattern()
                .map_or_else(String::new, |pattern| format!("{pattern}:"));
            let metrics = sides.iter().flat_map(|(side, window)| {
                #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
                let figures = [
                    ("requests", window.requests() as f64),
                    ("error_rate", window.error_rate()),
                    ("latency_p50", window.quantile(0.5)),
                    ("latency_p99", window.quantile(0.99)),
                ];
                let prefix = &prefix;
                figures.map(|(name, value)| (format!("{prefix}{side}_{name}"), value))
            });
            let message = UpstreamMessage::Telemetry {
                timestamp_us: now_us,
                node_id: node.to_owned(),
                metrics: metrics.collect(),
            };
            reports.push((tenant.clone(), message));
        }
        reports
    }

    /// The caps that count: those of rollouts that ended are forgotten, once the log has told which there are. While anything
    /// holds the shares this node may lack a rollout that the log has.
    pub(crate) fn caps_in_use(&mut self) -> Caps {
        if self.ended && self.held_because().is_none() {
            let watches = &self.watches;
            let is_used = |key: &(TenantId, Scope), digest: Digest| {
                watches.get(key).is_some_and(|watch| watch.digest == digest)
            };
            self.caps.retain(|key, (digest, _)| is_used(key, *digest));
        }
        self.caps.clone()
    }

    fn share(&self, (tenant, scope): &(TenantId, Scope), now_us: u64) -> (Phase, f64) {
        let lane = self.states.get(tenant).map(|state| state.lane(scope));
        lane.map_or((Phase::Idle, 0.0), |lane| {
            (
                self.phase(tenant, scope, &lane, now_us),
                self.percent(tenant, scope, &lane, now_us),
            )
        })
    }
}
