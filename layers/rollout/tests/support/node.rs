//! One node with its operator, in memory.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use arqon_message::TenantId;
use arqon_rollout::{
    AuditSink, Catalog, Clock, Config, Control, DownstreamMessage, EnforcementAction, Executor, Handle,
    KeyPair, ManualClock, MemoryLog, Phase, Proposal, Reason, Receipt, RolloutConfig, RolloutLayer,
    SubmitError, Variant,
};
use http::{Request, Response};
use tokio::task::JoinHandle;
use tower::{Layer, Service, ServiceExt, service_fn};

pub(crate) const START_US: u64 = 1_700_000_000_000_000;

/// One node with its operator.
pub(crate) struct Node {
    pub(crate) handle: Handle,
    pub(crate) clock: ManualClock,
    pub(crate) log: MemoryLog,
    pub(crate) ops: KeyPair,
    pub(crate) sre: KeyPair,
    pub(crate) config: Config,
    pub(crate) run: JoinHandle<()>,
}

pub(crate) fn catalog() -> Catalog {
    Catalog::parse(
        br#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"},{"id":42,"name":"fast",
            "params":{"alpha":{"default":0.5,"min":0,"max":1}}},{"id":43,"name":"faster"}]}"#,
    )
    .unwrap()
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

impl Node {
    pub(crate) fn start() -> Self {
        let (ops, sre) = (
            KeyPair::generate("ops-1").unwrap(),
            KeyPair::generate("sre-1").unwrap(),
        );
        let config = Config {
            enabled: true,
            tenants: vec!["default".to_owned(), "other".to_owned()],
            keys: vec![ops.public().to_config()],
            stop_keys: vec![sre.public().to_config()],
            ..Config::default()
        };
        let clock = ManualClock::new(START_US);
        let log = MemoryLog::with_clock(clock.clone());
        let executor = Self::executor(&config, &clock, &log);
        let handle = executor.handle();
        Self {
            handle,
            clock,
            log,
            ops,
            sre,
            config,
            run: tokio::spawn(executor.run()),
        }
    }

    /// Another one of the same operator, clock and log.
    pub(crate) fn beside(&self, executor: Executor, config: Config) -> Self {
        Self {
            handle: executor.handle(),
            run: tokio::spawn(executor.run()),
            clock: self.clock.clone(),
            log: self.log.clone(),
            ops: self.ops.clone(),
            sre: self.sre.clone(),
            config,
        }
    }

    /// One whose every decision goes to that trail.
    pub(crate) fn audited(trail: impl AuditSink) -> Self {
        let source = Self::start();
        let log = MemoryLog::with_clock(source.clock.clone());
        let executor = Executor::builder(&source.config)
            .catalog(catalog())
            .clock(source.clock.clone())
            .log(log.clone())
            .audit(trail)
            .build()
            .unwrap();
        Self {
            handle: executor.handle(),
            run: tokio::spawn(executor.run()),
            log,
            ..source
        }
    }

    pub(crate) fn executor(config: &Config, clock: &ManualClock, log: &MemoryLog) -> Executor {
        let key = KeyPair::from_seed("node", [7; 32]);
        let builder = Executor::builder(config)
            .catalog(catalog())
            .clock(clock.clone())
            .log(log.clone());
        builder.node_key(key).build().unwrap()
    }

    pub(crate) async fn restart(&mut self) {
        self.run.abort();
        let executor = Self::executor(&self.config, &self.clock, &self.log);
        self.handle = executor.handle();
        self.run = tokio::spawn(executor.run());
        let newest = self.log.records().last().map_or(0, |record| record.seq);
        self.handle.reached(newest).await;
    }

    pub(crate) fn control(&self, message: DownstreamMessage) -> Control {
        // Each message of a test is later than the one before.
        self.clock.advance(Duration::from_micros(1));
        Control::new("default", self.clock.now_us(), 60_000_000, message)
    }

    pub(crate) async fn submit(&self, control: Control, key: &KeyPair) -> Result<Receipt, Reason> {
        let envelope = control.sign(&[key]).unwrap().to_json();
        self.handle.submit(envelope.as_bytes()).await.map_err(reason)
    }

    pub(crate) async fn propose(&self, id: &str, variant: u32, scope: Option<&str>) -> String {
        let proposal = Proposal {
            id: id.to_owned(),
            variant_id: Some(variant),
            reason: "faster".to_owned(),
            confidence: 0.9,
            scope: scope.map(str::to_owned),
            ..Default::default()
        };
        self.clock.advance(Duration::from_micros(1));
        self.handle
            .client(&tenant("default"))
            .send(proposal)
            .await
            .unwrap();
        let status = self.handle.status();
        let pending = &status.tenants[0].pending;
        pending
            .iter()
            .find(|pending| pending.id == id)
            .unwrap()
            .digest
            .clone()
    }

    pub(crate) async fn approve(
        &self,
        id: &str,
        digest: &str,
        ramp: (f64, f64, f64),
    ) -> Result<Receipt, Reason> {
        let control = self.control(approval(id, digest, ramp));
        self.submit(control, &self.ops).await
    }

    pub(crate) async fn enforce(&self, action: EnforcementAction) -> Result<Receipt, Reason> {
        let control = self.control(enforce(action));
        self.submit(control, &self.ops).await
    }

    /// Proposes 42 and approves it at `ramp`.
    pub(crate) async fn roll_out(&self, id: &str, ramp: (f64, f64, f64)) -> Receipt {
        let digest = self.propose(id, 42, None).await;
        self.approve(id, &digest, ramp).await.unwrap()
    }

    /// Proposes 42 and approves it in place of what runs.
    pub(crate) async fn approve_anew(&self, id: &str, ramp: (f64, f64, f64)) {
        let digest = self.propose(id, 42, None).await;
        let mut control = self.control(approval(id, &digest, ramp));
        control.supersede = true;
        self.submit(control, &self.ops).await.unwrap();
    }

    pub(crate) fn phase(&self) -> Phase {
        self.handle.status().scope("default", "").unwrap().phase
    }

    /// Which of 1,000 users get something else than the baseline.
    pub(crate) async fn cohort(&self) -> Vec<u32> {
        let layer = RolloutLayer::new(&self.handle).with_key("header:x-user".parse().unwrap());
        let mut service = layer.layer(service_fn(|request: Request<()>| async move {
            let variant = request.extensions().get::<Variant>().unwrap().clone();
            assert_eq!(request.headers()["x-arqon-variant"], *variant.name);
            Ok::<_, std::convert::Infallible>(Response::new(variant))
        }));
        let mut cohort = Vec::new();
        for user in 0..1_000 {
            let mut request = Request::new(());
            request
                .headers_mut()
                .insert("x-user", user.to_string().parse().unwrap());
            request.extensions_mut().insert(tenant("default"));
            let response = service.ready().await.unwrap().call(request).await.unwrap();
            assert_eq!(response.headers()["x-arqon-variant"], *response.body().name);
            if !response.body().baseline {
                cohort.push(user);
            }
        }
        cohort
    }

    /// Waits for the executor to publish the shares of now: the log's next heartbeat.
    pub(crate) async fn settle(&self) {
        tokio::time::advance(Duration::from_secs(2)).await;
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) fn reason(error: SubmitError) -> Reason {
    match error {
        SubmitError::Refused(refusal) => refusal.reason,
        other => panic!("{other}"),
    }
}

pub(crate) fn approval(
    id: &str,
    digest: &str,
    (initial, increment, max): (f64, f64, f64),
) -> DownstreamMessage {
    DownstreamMessage::Approval {
        proposal_id: id.to_owned(),
        proposal_digest: digest.to_owned(),
        rollout: Some(RolloutConfig {
            initial_percent: initial,
            increment_per_minute: increment,
            max_percent: max,
        }),
    }
}

pub(crate) fn enforce(action: EnforcementAction) -> DownstreamMessage {
    DownstreamMessage::Enforce {
        action,
        reason: "drill".to_owned(),
    }
}
