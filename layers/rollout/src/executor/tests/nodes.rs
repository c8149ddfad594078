//! Nodes that lag, lose the log and start again, against a model of what they latch: what a node has acknowledged is in force on
//! it until a resume, whatever the log makes of it, and all else is the log's.

use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;
use crate::{Appended, AuditConfig, Clock as _, ControlLog, LogError, LogFuture, MemoryLog, Phase};

/// The log as one node reaches it to write; it is given what it reads.
#[derive(Clone)]
struct Link {
    log: MemoryLog,
    up: Arc<AtomicBool>,
}

impl ControlLog for Link {
    fn append(&self, channel: Channel, envelope: Bytes) -> LogFuture<'_, Appended> {
        if self.up.load(Ordering::SeqCst) {
            return self.log.append(channel, envelope);
        }
        let away = LogError::Unavailable("the log is away".into());
        Box::pin(std::future::ready(Err(away)))
    }

    fn read(&self, _: u64) -> LogFuture<'_, Batch> {
        Box::pin(std::future::pending())
    }

    fn report(&self, _: Channel, _: UpstreamMessage) -> LogFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A stop or a pause that a node has acknowledged: the model.
#[derive(Debug, Clone)]
struct Held {
    order: Scope,
    brake: Brake,
    payload: Digest,
    /// The later ones that were asked for before the log had judged that, in their order.
    more: Vec<Digest>,
    /// Where the log refused it.
    floor: Option<u64>,
    /// When it was last asked for.
    last_us: u64,
    /// What was resumed of it since.
    freed: Vec<Scope>,
}

struct Node {
    executor: Executor,
    link: Link,
    folder: TempDir,
    /// How much of the log it has read.
    at: usize,
    held: Vec<Held>,
}

/// The log folded record by record: the state at each position, and what became of each record.
struct Truth {
    states: Vec<State>,
    verdicts: Vec<Result<Accepted, Refusal>>,
}

/// How often what.
#[derive(Debug, Default)]
struct Met {
    acknowledged: u32,
    alone: u32,
    later: u32,
    freed: u32,
    restarted_holding: u32,
}

fn start(link: &Link, folder: &TempDir, clock: &ManualClock) -> Executor {
    let path = folder.path().join("audit.jsonl");
    let config = Config {
        enabled: true,
        tenants: vec!["t".to_owned()],
        allow_unsigned: true,
        audit: Some(AuditConfig { path }),
        ..Config::default()
    };
    let catalog = br#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"}]}"#;
    Executor::builder(&config)
        .catalog(Catalog::parse(catalog).unwrap())
        .clock(clock.clone())
        .log(link.clone())
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .build()
        .unwrap()
}

impl Truth {
    /// Folds what has come to the log since.
    fn follow(&mut self, log: &MemoryLog) {
        for record in log.records().iter().skip(self.verdicts.len()) {
            let mut next = self.states.last().unwrap().clone();
            self.verdicts.push(next.fold(record));
            self.states.push(next);
        }
    }
}

impl Node {
    fn new(log: &MemoryLog, clock: &ManualClock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let link = Link {
            log: log.clone(),
            up: Arc::new(AtomicBool::new(true)),
        };
        Self {
            executor: start(&link, &folder, clock),
            link,
            folder,
            at: 0,
            held: Vec::new(),
        }
    }

    /// Somebody sends it a message; what it acknowledges of stops and pauses it holds.
    async fn submit(&mut self, control: &Control, now_us: u64, met: &mut Met) {
        let envelope = control.sign(&[]).unwrap();
        let answer = self.executor.handle().submit(envelope.to_json().as_bytes()).await;
        let (Some((brake, _)), Ok(receipt)) = (Brake::of(control), answer) else {
            return;
        };
        let order = Scope::of_order(control.scope.as_deref(), &tenant()).unwrap();
        if receipt.duplicate {
            let phase = self.phase(&order);
            let holds = phase == Phase::Stopped || (brake, phase) == (Brake::Pause, Phase::Paused);
            assert!(holds, "it says that {order:?} is held already: {phase}");
            return;
        }
        met.acknowledged += 1;
        let known = |held: &Held| (&held.order, held.brake) == (&order, brake);
        // The first one holds until the log has judged it.
        let first = self
            .held
            .iter_mut()
            .find(|held| known(held) && held.floor.is_none());
        if let Some(first) = first {
            first.last_us = now_us;
            first.more.push(envelope.payload_digest());
        } else {
            self.held.retain(|held| !known(held));
            self.held.push(Held {
                payload: envelope.payload_digest(),
                more: Vec::new(),
                floor: None,
                last_us: now_us,
                freed: Vec::new(),
                order,
                brake,
            });
        }
    }

    /// Reads some of the log at once.
    async fn read(&mut self, count: usize, truth: &Truth, met: &mut Met) {
        let records = self.link.log.records();
        let end = records.len().min(self.at.saturating_add(count));
        let batch = Batch {
            records: records[self.at..end].to_vec(),
            more: end < records.len(),
            ..Batch::default()
        };
        self.executor.take(batch).await;
        for (record, verdict) in records.iter().zip(&truth.verdicts).take(end).skip(self.at) {
            self.settle(record, verdict, met);
        }
        self.at = end;
    }

    /// The prose: what the log takes is the log's, but for what was asked for again since; what it refuses holds here until a resume that comes after it and was
    /// signed after it was asked for, of all of it or of a part.
    fn settle(&mut self, record: &Record, verdict: &Result<Accepted, Refusal>, met: &mut Met) {
        let payload = Envelope::parse(&record.envelope).unwrap().payload_digest();
        let taken = match verdict {
            Ok(_) => true,
            Err(refusal) => refusal.reason == Reason::Duplicate,
        };
        for held in &mut self.held {
            held.more.retain(|more| *more != payload);
        }
        // The next one holds on by itself.
        for held in self
            .held
            .iter_mut()
            .filter(|held| held.payload == payload && !held.more.is_empty())
        {
            (held.payload, held.floor) = (held.more.remove(0), None);
            met.later += 1;
        }
        if taken {
            self.held.retain(|held| held.payload != payload);
        }
        for held in self.held.iter_mut().filter(|held| held.payload == payload) {
            held.floor = Some(record.seq);
            met.alone += 1;
        }
        let Ok(Accepted { control, .. }) = verdict else {
            return;
        };
        if Brake::of(control).is_some() {
            return;
        }
        let resumed = Scope::of_order(control.scope.as_deref(), &tenant()).unwrap();
        let ends = |held: &Held| {
            let later = held.floor.is_some_and(|floor| floor < record.seq);
            later && control.issued_at_us > held.last_us && held.order.contains(&resumed)
        };
        self.held
            .retain(|held| !(ends(held) && resumed.contains(&held.order)));
        for held in self.held.iter_mut().filter(|held| ends(held)) {
            held.freed.push(resumed.clone());
            met.freed += 1;
        }
    }

    /// The process is killed and started again: it has its trail, and the slots of what it latched.
    fn restart(&mut self, clock: &ManualClock, met: &mut Met) {
        met.restarted_holding += u32::from(!self.held.is_empty());
        let executor = start(&self.link, &self.folder, clock);
        executor.recover(self.link.log.records().into_iter().take(self.at));
        self.executor = executor;
    }

    fn phase(&self, scope: &Scope) -> Phase {
        self.executor.shared.phase(&tenant(), scope)
    }

    fn check(&self, truth: &Truth, shown: &str) {
        let state = &truth.states[self.at];
        assert_eq!(self.executor.state(&tenant()).as_ref(), Some(state), "{shown}");
        for text in SCOPES {
            let scope = Scope::of_order((!text.is_empty()).then_some(text), &tenant()).unwrap();
            let held = |brake| {
                self.held.iter().any(|held| {
                    let free = held.freed.iter().any(|part| part.contains(&scope));
                    held.brake == brake && held.order.reaches(&scope) && !free
                })
            };
            let expected = match state.lane(&scope).phase(state.clock_us()) {
                _ if held(Brake::Stop) => Phase::Stopped,
                Phase::Stopped => Phase::Stopped,
                _ if held(Brake::Pause) => Phase::Paused,
                phase => phase,
            };
            assert_eq!(self.phase(&scope), expected, "`{text}`, {:?}\n{shown}", self.held);
        }
        let alone = self.held.iter().filter(|held| held.floor.is_some()).count();
        assert_eq!(self.executor.handle().status().tenants[0].alone, alone, "{shown}");
    }
}

/// One story of three nodes.
async fn story(seed: u64, met: &mut Met) {
    let coin = CoinFlip::seeded(seed);
    let below = |limit: u64| coin.flip() % limit;
    let clock = ManualClock::new(START_US);
    let log = MemoryLog::with_clock(clock.clone());
    let mut nodes = [(); 3].map(|()| Node::new(&log, &clock));
    let mut truth = Truth {
        states: vec![nodes[0].executor.state(&tenant()).unwrap()],
        verdicts: Vec::new(),
    };
    let mut trace = Vec::new();
    for step in 0..60 {
        clock.advance(Duration::from_secs(1 + below(8)));
        let (at, what) = (below(3) as usize, below(16));
        let scope = SCOPES[below(SCOPES.len() as u64) as usize];
        let node = &mut nodes[at];
        trace.push((at, what, scope));
        match what {
            0..=7 => {
                let action = match what {
                    0..=2 => EnforcementAction::EmergencyStop,
                    3 | 4 => EnforcementAction::PauseAdaptation,
                    _ => EnforcementAction::ResumeAdaptation,
                };
                // A brake may have been on its way for a while.
                let behind_us = if what < 5 { below(40) * SECOND_US + step } else { 0 };
                let reason = String::new();
                let enforce = DownstreamMessage::Enforce { action, reason };
                let mut control = Control::new("t", clock.now_us() - behind_us, 3_600 * SECOND_US, enforce);
                control.scope = (!scope.is_empty()).then(|| scope.to_owned());
                node.submit(&control, clock.now_us(), met).await;
            }
            8..=11 => {
                let count = 1 + below(6) as usize;
                node.read(count, &truth, met).await;
            }
            12 | 13 => {
                node.link.up.fetch_not(Ordering::SeqCst);
            }
            14 => node.executor.log_latches().await,
            _ => node.restart(&clock, met),
        }
        truth.follow(&log);
        for node in &nodes {
            node.check(&truth, &format!("seed {seed}, step {step}: {trace:?}"));
        }
    }
    // Everybody has the log again, and nothing else comes.
    clock.advance(Duration::from_secs(10));
    for node in &mut nodes {
        node.link.up.store(true, Ordering::SeqCst);
        node.executor.log_latches().await;
    }
    truth.follow(&log);
    for node in &mut nodes {
        node.read(usize::MAX, &truth, met).await;
        node.check(&truth, &format!("seed {seed}, the end: {trace:?}"));
        let waits = node.held.iter().find(|held| held.floor.is_none());
        assert!(waits.is_none(), "seed {seed}: never got to the log: {waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_node_acknowledged_holds_on_it_until_a_resume_and_all_else_is_the_log_s() {
    let mut met = Met::default();
    let stories = std::env::var("TEST_NODE_STORIES").map_or(12, |count| count.parse().unwrap());
    for seed in 0..stories {
        story(seed, &mut met).await;
    }
    println!("{met:?}");
    let Met {
        acknowledged,
        alone,
        later,
        freed,
        restarted_holding,
    } = met;
    assert!(
        acknowledged > 100 && alone > 10 && later > 5 && freed > 2 && restarted_holding > 10,
        "{met:?}"
    );
}
