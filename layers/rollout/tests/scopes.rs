//! Orders of scopes that contain each other, as a node obeys them: ahead of the log, by the log, over a restart.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use arqon_rollout::{Brake, EnforcementAction, Phase, Reach, Reason, Receipt};

use self::node::{Node, enforce};

const ALL: &str = "in.t.default.>";
const USERS: &str = "in.t.default.users.>";
const EU: &str = "in.t.default.users.eu.>";
const CROSSING: &str = "in.t.default.*.eu.>";

async fn roll_out(node: &Node, id: &str, scope: Option<&str>) -> Result<(), Reason> {
    let digest = node.propose(id, 42, scope).await;
    node.approve(id, &digest, (50.0, 0.0, 50.0)).await.map(drop)
}

async fn order(node: &Node, action: EnforcementAction, scope: &str) -> Receipt {
    let control = node.control(enforce(action)).with_scope(scope);
    node.submit(control, &node.ops).await.unwrap()
}

fn phases(node: &Node, scopes: &[&str]) -> Vec<Option<Phase>> {
    let status = node.handle.status();
    let of = |scope: &&str| status.scope("default", scope).map(|of| of.phase);
    scopes.iter().map(of).collect()
}

fn scopes(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_is_not_in_the_log_yet_reaches_as_far_as_one_that_is() {
    let mut node = Node::start();
    for (id, scope) in [("u", USERS), ("e", EU)] {
        roll_out(&node, id, Some(scope)).await.unwrap();
    }
    // Nobody folds the log: only the latch acts.
    node.run.abort();
    let receipt = order(&node, EnforcementAction::EmergencyStop, USERS).await;
    assert_eq!(
        receipt.reach,
        Some(Reach {
            scopes: scopes(&[USERS, EU]),
            within: None
        })
    );
    assert_eq!(
        phases(&node, &["", USERS, EU]),
        [Some(Phase::Idle), Some(Phase::Stopped), Some(Phase::Stopped)]
    );
    let status = node.handle.status();
    let eu = status.scope("default", EU).unwrap();
    assert!(eu.latched && eu.held_alone && eu.by == ["ops-1"], "{eu:?}");
    let [held] = &eu.held_by[..] else { panic!("{eu:?}") };
    assert_eq!(
        (held.brake, held.scope.as_str(), held.latched),
        (Brake::Stop, USERS, true)
    );
    assert!(node.cohort().await.is_empty());

    // The same by the log alone, and for who comes later.
    node.restart().await;
    let status = node.handle.status();
    let eu = status.scope("default", EU).unwrap();
    assert!(
        eu.phase == Phase::Stopped && !eu.latched && !eu.held_by[0].latched,
        "{eu:?}"
    );
    let resumed = node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert_eq!(resumed.held, [USERS], "one order, whatever it holds");
    let resumed = order(&node, EnforcementAction::ResumeAdaptation, EU).await;
    assert_eq!((resumed.state, resumed.held.len()), (Phase::Idle, 0));
    assert_eq!(
        phases(&node, &[USERS, EU]),
        [Some(Phase::Stopped), Some(Phase::Idle)],
        "its part alone"
    );
    roll_out(&node, "e2", Some(EU)).await.unwrap();
    assert_eq!(phases(&node, &[EU]), [Some(Phase::Holding)]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_what_its_scope_contains_and_crosses_and_the_answer_names_it() {
    let node = Node::start();
    for (id, scope) in [("t", None), ("u", Some(USERS)), ("e", Some(EU))] {
        roll_out(&node, id, scope).await.unwrap();
    }
    let paused = order(&node, EnforcementAction::PauseAdaptation, CROSSING).await;
    assert_eq!(
        paused.reach.unwrap().scopes,
        [USERS, EU],
        "what it crosses or contains"
    );
    assert_eq!(
        phases(&node, &["", USERS, EU, CROSSING]),
        [
            Some(Phase::Holding),
            Some(Phase::Paused),
            Some(Phase::Paused),
            Some(Phase::Paused)
        ]
    );
    // A resume that only crosses the order does not end it, and says what does; one of a part of it frees that part.
    let resumed = order(&node, EnforcementAction::ResumeAdaptation, USERS).await;
    assert_eq!(
        (resumed.state, resumed.held),
        (Phase::Paused, scopes(&[CROSSING]))
    );
    assert_eq!(phases(&node, &[EU, CROSSING]), [Some(Phase::Paused); 2]);
    let resumed = order(&node, EnforcementAction::ResumeAdaptation, EU).await;
    assert_eq!((resumed.state, resumed.held.len()), (Phase::Holding, 0));
    let resumed = order(&node, EnforcementAction::ResumeAdaptation, CROSSING).await;
    assert_eq!((resumed.state, resumed.held.len()), (Phase::Idle, 0));
    assert_eq!(phases(&node, &["", USERS, EU]), [Some(Phase::Holding); 3]);

    // All subjects are the tenant, with and without a subject.
    let stopped = order(&node, EnforcementAction::EmergencyStop, ALL).await;
    assert_eq!(stopped.reach.unwrap().scopes, scopes(&["", USERS, EU]));
    assert!(node.cohort().await.is_empty());
    assert_eq!(phases(&node, &["", USERS, EU]), [Some(Phase::Stopped); 3]);
    // Twice is not new; the answer says what it finds now.
    let again = order(&node, EnforcementAction::EmergencyStop, ALL).await;
    assert_eq!(again.reach, Some(Reach::default()));
    let resumed = node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert_eq!((resumed.state, resumed.held.len()), (Phase::Idle, 0));
}

/// The variant a subject gets.
fn served(node: &Node, subject: &str) -> String {
    let layer = arqon_rollout::RolloutLayer::new(&node.handle).with_key("header:x-user".parse().unwrap());
    let (mut headers, mut extensions) = (http::HeaderMap::new(), http::Extensions::new());
    headers.insert("x-user", "ada".parse().unwrap());
    extensions.insert(arqon_message::Subject::parse(subject).unwrap());
    layer.variant(&headers, &extensions).unwrap().name.to_string()
}

#[tokio::test(start_paused = true)]
async fn what_was_stopped_for_a_while_is_part_of_what_is_approved_around_it_afterwards() {
    let node = Node::start();
    let all = |id: &'static str| async {
        let digest = node.propose(id, 42, None).await;
        let mut control = node.control(node::approval(id, &digest, (100.0, 0.0, 100.0)));
        control.supersede = true;
        node.submit(control, &node.ops).await.unwrap();
    };
    let both = || ["in.t.default.users.x", "in.t.default.users.eu.x"].map(|subject| served(&node, subject));
    all("p1").await;
    assert_eq!(both(), ["fast", "fast"]);
    order(&node, EnforcementAction::EmergencyStop, EU).await;
    assert_eq!(both(), ["fast", "stable"]);
    order(&node, EnforcementAction::ResumeAdaptation, EU).await;
    assert_eq!(both(), ["fast", "stable"], "not by what was approved before");
    assert_eq!(node.handle.status().scope("default", EU).unwrap().joins, None);
    all("p2").await;
    assert_eq!(both(), ["fast", "fast"], "by a new approval");
    assert_eq!(
        node.handle
            .status()
            .scope("default", EU)
            .unwrap()
            .joins
            .as_deref(),
        Some("")
    );
    // Through scopes that have nothing themselves, and not while one of them is held.
    order(&node, EnforcementAction::PauseAdaptation, ALL).await;
    order(&node, EnforcementAction::ResumeAdaptation, ALL).await;
    order(&node, EnforcementAction::EmergencyStop, USERS).await;
    assert_eq!(both(), ["stable", "stable"]);
    all("p3").await;
    assert_eq!(both(), ["stable", "stable"], "it is stopped still");
    order(&node, EnforcementAction::ResumeAdaptation, USERS).await;
    assert_eq!(both(), ["stable", "stable"]);
    all("p4").await;
    assert_eq!(both(), ["fast", "fast"]);
    // A stop of all subjects does not leave the tenant's next rollout without any.
    order(&node, EnforcementAction::EmergencyStop, ALL).await;
    node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert_eq!(both(), ["stable", "stable"]);
    all("p5").await;
    assert_eq!(both(), ["fast", "fast"]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_inside_a_rollout_holds_its_subjects_where_they_are_until_it_ends() {
    let mut node = Node::start();
    let layer = |node: &Node| {
        arqon_rollout::RolloutLayer::new(&node.handle).with_key("header:x-user".parse().unwrap())
    };
    let fast = |node: &Node, subject: &str| {
        let (layer, subject) = (layer(node), arqon_message::Subject::parse(subject).unwrap());
        let gets = |user: &u32| {
            let (mut headers, mut extensions) = (http::HeaderMap::new(), http::Extensions::new());
            headers.insert("x-user", user.to_string().parse().unwrap());
            extensions.insert(subject.clone());
            layer.variant(&headers, &extensions).unwrap().name.to_string() == "fast"
        };
        (0..1_000).filter(gets).collect::<Vec<_>>()
    };
    let (inside, outside) = ("in.t.default.users.x", "in.t.default.orders.x");
    node.roll_out("p1", (10.0, 20.0, 100.0)).await;
    node.clock.advance(std::time::Duration::from_secs(60));
    node.settle().await;
    let before = fast(&node, inside);
    assert!((250..350).contains(&before.len()), "{}", before.len());
    let paused = order(&node, EnforcementAction::PauseAdaptation, USERS).await;
    assert_eq!(paused.reach.unwrap().within.as_deref(), Some(""));
    for _ in 0..2 {
        node.clock.advance(std::time::Duration::from_secs(60));
        node.settle().await;
        assert_eq!(fast(&node, inside), before, "held where it is");
        assert_eq!(fast(&node, "in.t.default.users.eu.x"), before);
        let status = node.handle.status();
        let users = status.scope("default", USERS).unwrap();
        assert_eq!((users.phase, users.joins.as_deref()), (Phase::Paused, Some("")));
        assert!((users.percent - 30.0).abs() < 0.5, "{}", users.percent);
        node.restart().await;
        node.settle().await;
    }
    assert!(fast(&node, outside).len() > 600, "the rest goes on");
    // A stop of the tenant is a stop of it, too.
    order(&node, EnforcementAction::ResumeAdaptation, USERS).await;
    assert_eq!(
        fast(&node, inside),
        fast(&node, outside),
        "it is part of it again"
    );
    // Nobody folds the log: the same by the latch alone.
    node.run.abort();
    let held = fast(&node, inside);
    order(&node, EnforcementAction::PauseAdaptation, USERS).await;
    assert_eq!(fast(&node, inside), held);
    node.enforce(EnforcementAction::EmergencyStop).await.unwrap();
    assert!(fast(&node, inside).is_empty() && fast(&node, outside).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_nobody_has_is_told_and_so_is_what_it_is_cut_out_of() {
    let node = Node::start();
    let slip = order(&node, EnforcementAction::EmergencyStop, "in.t.default.usres.>").await;
    assert_eq!(slip.reach, Some(Reach::default()), "nothing is there");
    roll_out(&node, "t", None).await.unwrap();
    let cut = order(&node, EnforcementAction::EmergencyStop, USERS).await;
    assert_eq!(
        cut.reach,
        Some(Reach {
            scopes: vec![],
            within: Some(String::new())
        })
    );
    // A narrower one is nothing new to the order; a rollout in it does not start.
    node.propose("x", 42, Some("in.t.default.orders.>")).await;
    let refused = node.approve("x", "sha256:00", (1.0, 0.0, 1.0)).await;
    assert_eq!(refused, Err(Reason::DigestMismatch));
    let proposal = arqon_rollout::Proposal {
        id: "e".to_owned(),
        variant_id: Some(42),
        confidence: 1.0,
        scope: Some(EU.to_owned()),
        ..Default::default()
    };
    let control = arqon_rollout::Control::new(
        "default",
        arqon_rollout::Clock::now_us(&node.clock),
        60_000_000,
        proposal,
    );
    assert_eq!(node.submit(control, &node.ops).await, Err(Reason::Stopped));
    assert_eq!(node.phase(), Phase::Holding, "around it the rollout goes on");
}
