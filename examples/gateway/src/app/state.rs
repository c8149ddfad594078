//! What `/v1/state` says: everything an operator may want to see, as one JSON object. Its keys stand in `docs/console.md`.

use std::net::SocketAddr;

use arqon::config::Config;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Shared;

/// What does not change while the gateway runs.
pub(super) struct About {
    engine: &'static str,
    node: String,
    public: SocketAddr,
    admin: SocketAddr,
    issuers: Option<Vec<String>>,
    control: bool,
    bus_namespace: String,
}

impl About {
    pub(super) fn new(config: &Config, public: &TcpListener, admin: &TcpListener) -> Result<Self, String> {
        let address = |listener: &TcpListener| listener.local_addr().map_err(|error| error.to_string());
        let issuers = |auth: &arqon::config::AuthConfig| {
            let names = auth.issuers.iter().map(|issuer| issuer.issuer.clone());
            names.collect()
        };
        Ok(Self {
            engine: if config.nats.is_some() { "nats" } else { "embedded" },
            node: config.platform.rollout.node_id.clone(),
            public: address(public)?,
            admin: address(admin)?,
            issuers: config.auth.as_ref().map(issuers),
            control: config.gateway.control_token_file.is_some(),
            bus_namespace: config.bus.metrics_namespace.clone(),
        })
    }
}

impl Shared {
    /// Everything an operator may want to see, as one JSON object.
    pub(crate) fn state(&self) -> Value {
        let about = &self.about;
        let crashed = [self.platform.crashed(), self.tasks.crashed()].concat();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "engine": about.engine,
            "node": about.node,
            "listeners": { "public": about.public, "admin": about.admin },
            "auth": about.issuers.as_ref().map(|issuers| json!({ "issuers": issuers })),
            "control": about.control,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "ready": self.readiness.is_ready(),
            "checks": self.readiness.checks(),
            "config": self.config.status(),
            "crashed": crashed,
            "bus": {
                "namespace": about.bus_namespace,
                "capacity": self.bus.capacity(),
                "subscribers": self.bus.subscribers(),
                "dropped": self.bus.metrics().overflow_dropped_total(),
            },
            "overseer": { "policies": self.platform.overseer.policies() },
            "registry": self.platform.schema_state(),
            "rollout": self.platform.rollout.status(),
            "mirroring": self.mirroring(),
        })
    }

    /// The mirror's books, and what comparing answers found where it is asked for.
    fn mirroring(&self) -> Value {
        let mut state = json!(self.platform.shadow.state());
        if let Some(comparison) = &self.platform.comparison {
            state["comparison"] = json!(comparison.report());
        }
        state
    }

    /// The same with the latest hour, for the report page; null where nothing is compared.
    pub(crate) fn divergence(&self) -> Value {
        self.platform.comparison.as_ref().map_or(
            Value::Null,
            |comparison| json!({ "report": comparison.report(), "history": comparison.history() }),
        )
    }
}
