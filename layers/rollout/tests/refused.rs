//! What was refused stays refused, on every node; and what holds a scope is only ended by what was meant for it.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use std::time::Duration;

use arqon_rollout::{
    Clock as _, Config, Control, EnforcementAction, Executor, KeyPair, Phase, Reason, Receipt, SubmitError,
};

use self::node::{Node, approval, catalog, enforce, reason};

const USERS: &str = "in.t.default.users.>";
const ORDERS: &str = "in.t.default.orders.>";

/// A second node on the log of the first.
fn beside(first: &Node) -> Node {
    let config = Config {
        node_id: "gw-2".to_owned(),
        node_keys: vec![KeyPair::from_seed("node", [7; 32]).public().to_config()],
        ..first.config.clone()
    };
    let executor = Executor::builder(&config)
        .catalog(catalog())
        .clock(first.clock.clone())
        .log(first.log.clone())
        .silent()
        .build()
        .unwrap();
    first.beside(executor, config)
}

fn bytes(node: &Node, control: &Control) -> String {
    control.sign(&[&node.ops]).unwrap().to_json()
}

async fn send(node: &Node, envelope: &str) -> Result<Receipt, Reason> {
    node.handle.submit(envelope.as_bytes()).await.map_err(reason)
}

async fn catch_up(node: &Node) {
    let newest = node.log.records().last().map_or(0, |record| record.seq);
    node.handle.reached(newest).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_refused_by_one_node_is_refused_by_all_when_it_would_be_good() {
    let first = Node::start();
    let second = beside(&first);
    // The digest of a proposal that is on its way, approved too early.
    let proposal = first.propose("p1", 42, None).await;
    let stop = first.enforce(EnforcementAction::EmergencyStop).await;
    stop.unwrap();
    let early = first.control(approval("p1", &proposal, (50.0, 0.0, 50.0)));
    let early = bytes(&first, &early);
    assert_eq!(send(&first, &early).await, Err(Reason::Stopped));
    first.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    catch_up(&second).await;
    // Now it would be good: the proposal waits, nothing runs.
    assert_eq!(second.handle.status().tenants[0].pending.len(), 1);
    for node in [&first, &second, &first] {
        assert!(
            matches!(send(node, &early).await, Err(Reason::Stale)),
            "its issuer went on since"
        );
    }

    // The very last message of its issuer, again.
    let unknown = first.control(approval("p2", &proposal, (50.0, 0.0, 50.0)));
    let unknown = bytes(&first, &unknown);
    assert_eq!(send(&second, &unknown).await, Err(Reason::UnknownProposal));
    let records = first.log.records().len();
    first.propose("p2", 43, None).await;
    for node in [&first, &second, &first] {
        catch_up(node).await;
        assert_eq!(send(node, &unknown).await, Err(Reason::Spent));
    }
    assert_eq!(
        first.log.records().len(),
        records + 1,
        "only the proposal came to the log"
    );
    // And by the log itself, past every gate.
    let channel = arqon_rollout::Channel::Down(node::tenant("default"));
    let again = arqon_rollout::ControlLog::append(&first.log, channel, unknown.clone().into());
    first.handle.reached(again.await.unwrap().seq).await;
    assert_eq!(first.phase(), Phase::Idle);

    // Signed anew it is good.
    first.approve("p1", &proposal, (50.0, 0.0, 50.0)).await.unwrap();
    catch_up(&second).await;
    assert_eq!((first.phase(), second.phase()), (Phase::Holding, Phase::Holding));
}

#[tokio::test(start_paused = true)]
async fn the_same_bytes_through_two_nodes_at_once_are_taken_once() {
    let first = Node::start();
    let second = beside(&first);
    let control = first.control(enforce(EnforcementAction::SetVariant(43)));
    let envelope = bytes(&first, &control);
    let (one, two) = tokio::join!(send(&first, &envelope), send(&second, &envelope));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.state, two.state), (Phase::Forced, Phase::Forced));
    assert_eq!(usize::from(one.duplicate) + usize::from(two.duplicate), 1);
    assert_eq!(first.log.records().len(), 2, "both wrote it");
    // A refused one is refused to both.
    let control = first.control(enforce(EnforcementAction::SetVariant(7)));
    let envelope = bytes(&first, &control);
    let both = tokio::join!(send(&first, &envelope), send(&second, &envelope));
    assert_eq!(both, (Err(Reason::UnknownVariant), Err(Reason::Spent)));
}

#[tokio::test(start_paused = true)]
async fn a_message_of_tomorrow_or_of_the_next_key_set_does_not_come_true_later() {
    let first = Node::start();
    let second = beside(&first);
    let mut tomorrow = first.control(enforce(EnforcementAction::SetVariant(43)));
    (tomorrow.issued_at_us, tomorrow.expires_at_us) = (
        tomorrow.issued_at_us + 60_000_000,
        tomorrow.issued_at_us + 600_000_000,
    );
    let tomorrow = bytes(&first, &tomorrow);
    assert_eq!(send(&first, &tomorrow).await, Err(Reason::NotYetValid));
    first.clock.advance(Duration::from_secs(61));
    catch_up(&second).await;
    for node in [&first, &second] {
        assert_eq!(send(node, &tomorrow).await, Err(Reason::Spent));
        assert_eq!(node.phase(), Phase::Idle);
    }
    let next = first
        .control(enforce(EnforcementAction::SetVariant(43)))
        .with_epoch(2);
    assert_eq!(send(&second, &bytes(&first, &next)).await, Err(Reason::Epoch));
    catch_up(&first).await;
    assert_eq!(send(&first, &bytes(&first, &next)).await, Err(Reason::Spent));
    // The operators' counter was not touched by either: what is signed now is good.
    first.enforce(EnforcementAction::SetVariant(43)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_refused_messages_does_not_grow_the_log() {
    let node = Node::start();
    let mut refusals = Vec::new();
    let mut last = String::new();
    for _ in 0..200 {
        let control = node.control(approval("none", "sha256:00", (1.0, 0.0, 1.0)));
        last = bytes(&node, &control);
        refusals.push(send(&node, &last).await.unwrap_err());
    }
    let spent = refusals
        .iter()
        .filter(|of| **of == Reason::UnknownProposal)
        .count();
    assert_eq!((spent, node.log.records().len()), (16, 16));
    assert!(
        refusals[16..].iter().all(|of| *of == Reason::Rate),
        "{refusals:?}"
    );
    assert_eq!(
        send(&node, &last).await,
        Err(Reason::Spent),
        "this node at least never takes it"
    );
    // What would be good is never held up by that.
    node.enforce(EnforcementAction::SetVariant(43)).await.unwrap();
    assert_eq!(node.log.records().len(), 17);
    node.clock.advance(Duration::from_secs(10));
    for _ in 0..3 {
        let control = node.control(approval("none", "sha256:00", (1.0, 0.0, 1.0)));
        send(&node, &bytes(&node, &control)).await.unwrap_err();
    }
    assert_eq!(node.log.records().len(), 18, "one more in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn stops_in_a_loop_are_taken_and_do_not_grow_the_log() {
    let node = Node::start();
    node.roll_out("p1", (50.0, 0.0, 50.0)).await;
    for round in 0..200 {
        let control = node.control(enforce(EnforcementAction::EmergencyStop));
        let receipt = node.submit(control, &node.sre).await.unwrap();
        assert_eq!(receipt.state, Phase::Stopped);
        assert_eq!(receipt.duplicate, round > 16, "{round}");
    }
    assert_eq!(
        node.log.records().len(),
        2 + 17,
        "the stop, and the first that asked again"
    );
    // A stop that does something is never one too many, whoever is limited.
    node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    let control = node.control(enforce(EnforcementAction::EmergencyStop));
    let receipt = node.submit(control, &node.sre).await.unwrap();
    assert!(!receipt.duplicate);
    assert_eq!(node.phase(), Phase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn stops_in_a_loop_at_a_node_that_does_not_read_the_log_do_not_grow_it_either() {
    let node = Node::start();
    node.settle().await;
    node.run.abort();
    // It cannot say that the log has one already.
    node.clock.advance(Duration::from_secs(4));
    for _ in 0..40 {
        let stop = node.control(enforce(EnforcementAction::EmergencyStop));
        let taken = node.submit(stop, &node.sre).await.unwrap();
        assert_eq!(taken.state, Phase::Stopped);
    }
    assert_eq!(
        node.log.records().len(),
        1 + 16,
        "the first acts, a burst of others is written at once, and the rest waits"
    );
}

async fn scoped(node: &Node, action: EnforcementAction, scope: &str) -> Receipt {
    let control = node.control(enforce(action)).with_scope(scope);
    node.submit(control, &node.ops).await.unwrap()
}

fn phases(node: &Node) -> [Phase; 3] {
    let status = node.handle.status();
    ["", USERS, ORDERS].map(|scope| status.scope("default", scope).unwrap().phase)
}

#[tokio::test(start_paused = true)]
async fn a_resume_of_the_whole_tenant_leaves_what_a_scope_s_own_stop_holds_and_says_so() {
    use EnforcementAction::{EmergencyStop, PauseAdaptation, ResumeAdaptation};
    // The own stop before the tenant's, and after it.
    for own_first in [true, false] {
        let mut node = Node::start();
        let digest = node.propose("o", 42, Some(ORDERS)).await;
        node.approve("o", &digest, (60.0, 0.0, 60.0)).await.unwrap();
        let orders = || [USERS.to_owned()];
        if own_first {
            scoped(&node, EmergencyStop, USERS).await;
        }
        node.enforce(EmergencyStop).await.unwrap();
        if !own_first {
            scoped(&node, EmergencyStop, USERS).await;
        }
        assert_eq!(phases(&node), [Phase::Stopped; 3]);
        let resumed = node.enforce(ResumeAdaptation).await.unwrap();
        assert_eq!(
            (resumed.state, resumed.held.as_slice()),
            (Phase::Idle, &orders()[..])
        );
        assert_eq!(phases(&node), [Phase::Idle, Phase::Stopped, Phase::Idle]);
        assert!(node.handle.status().scope("default", USERS).unwrap().held_alone);
        node.restart().await;
        assert_eq!(
            phases(&node),
            [Phase::Idle, Phase::Stopped, Phase::Idle],
            "by the log alone"
        );
        let resumed = scoped(&node, ResumeAdaptation, USERS).await;
        assert_eq!((resumed.state, resumed.held.len()), (Phase::Idle, 0));
        assert_eq!(phases(&node), [Phase::Idle; 3]);
    }

    // A pause likewise, also through a stop of the whole tenant.
    let node = Node::start();
    for scope in [USERS, ORDERS] {
        let digest = node.propose(scope, 42, Some(scope)).await;
        node.approve(scope, &digest, (60.0, 0.0, 60.0)).await.unwrap();
    }
    scoped(&node, PauseAdaptation, USERS).await;
    node.enforce(PauseAdaptation).await.unwrap();
    assert_eq!(phases(&node), [Phase::Paused; 3]);
    let resumed = node.enforce(ResumeAdaptation).await.unwrap();
    assert_eq!(resumed.held, [USERS]);
    assert_eq!(phases(&node), [Phase::Idle, Phase::Paused, Phase::Holding]);
    node.enforce(EmergencyStop).await.unwrap();
    node.enforce(ResumeAdaptation).await.unwrap();
    assert_eq!(phases(&node), [Phase::Idle, Phase::Paused, Phase::Idle]);
    // A scope's own resume is meant for it, whoever stopped it.
    node.enforce(EmergencyStop).await.unwrap();
    assert_eq!(scoped(&node, ResumeAdaptation, USERS).await.state, Phase::Idle);
    assert_eq!(phases(&node), [Phase::Stopped, Phase::Idle, Phase::Stopped]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_never_in_contact_says_so_and_not_an_age_since_1970() {
    let node = Node::start();
    let executor = Executor::builder(&node.config)
        .catalog(catalog())
        .silent()
        .build()
        .unwrap();
    assert_eq!(executor.handle().status().contact_age_us, None);
    for _ in 0..2 {
        node.settle().await;
    }
    assert!(
        node.handle
            .status()
            .contact_age_us
            .is_some_and(|age| age < 10_000_000)
    );
    assert!(node.clock.now_us() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_submit_error_is_no_refusal_when_the_log_takes_nothing() {
    let node = Node::start();
    for _ in 0..arqon_rollout::MAX_MEMORY_RECORDS {
        let channel = arqon_rollout::Channel::Down(node::tenant("other"));
        arqon_rollout::ControlLog::append(&node.log, channel, "x".into())
            .await
            .unwrap();
    }
    let control = node.control(enforce(EnforcementAction::SetVariant(43)));
    let full = node.handle.submit(bytes(&node, &control).as_bytes()).await;
    assert!(matches!(full, Err(SubmitError::Log(_))), "{full:?}");
    // A refused one is refused all the same, and spent here.
    let control = node.control(enforce(EnforcementAction::SetVariant(7)));
    let envelope = bytes(&node, &control);
    assert_eq!(send(&node, &envelope).await, Err(Reason::UnknownVariant));
    assert_eq!(send(&node, &envelope).await, Err(Reason::Spent));
    // And a stop is in force.
    let receipt = node.enforce(EnforcementAction::EmergencyStop).await.unwrap();
    assert_eq!(
        (receipt.seq, receipt.durable, node.phase()),
        (None, false, Phase::Stopped)
    );
}
