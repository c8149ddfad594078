//! Keys that change by the log: every node of it goes on with the new ones, whatever its configuration had first.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use arqon_rollout::{
    Channel, Control, Envelope, Executor, Handle, KeyPair, NodeId, Phase, Proposal, Reason, Rotation,
};

use self::node::{Node, catalog, enforce, reason, tenant};

/// A node of the log; its own key is not in the configuration of any.
fn join(node: &Node, config: &arqon_rollout::Config) -> Node {
    let executor = Executor::builder(config)
        .catalog(catalog())
        .clock(node.clock.clone())
        .log(node.log.clone())
        .silent()
        .build()
        .unwrap();
    node.beside(executor, config.clone())
}

fn named(keys: &[&KeyPair]) -> std::collections::BTreeMap<String, String> {
    let text = |key: &&KeyPair| (key.keyid().to_owned(), key.public().to_config().ed25519);
    keys.iter().map(text).collect()
}

async fn give(node: &Node, control: &Control, keys: &[&KeyPair]) -> Result<u64, Reason> {
    let envelope = control.sign(keys).unwrap().to_json();
    let taken = node.handle.submit(envelope.as_bytes()).await.map_err(reason)?;
    Ok(taken.seq.unwrap())
}

async fn proposed_by(node: &Node, id: &str, epoch: u64, key: &KeyPair) -> Result<(), Reason> {
    let proposal = Proposal {
        id: id.to_owned(),
        variant_id: Some(42),
        confidence: 0.9,
        ..Default::default()
    };
    let now_us = arqon_rollout::Clock::now_us(&node.clock);
    let control = Control::new("default", now_us, 60_000_000, proposal).with_epoch(epoch);
    let envelope = control.sign(&[key]).unwrap().to_json();
    let channel = Channel::Up(tenant("default"), NodeId::new(key.keyid()).unwrap());
    let stored = arqon_rollout::ControlLog::append(&node.log, channel, envelope.into())
        .await
        .unwrap();
    node.handle.reached(stored.seq).await;
    node.handle
        .verdict(stored.seq)
        .unwrap()
        .map_err(|refusal| refusal.reason)
}

fn of(handle: &Handle) -> (u64, Phase, String) {
    let status = handle.status();
    let whole = status.scope("default", "").unwrap().phase;
    (status.tenants[0].epoch, whole, status.first_keys)
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_several_have_signed_is_in_force_on_every_node_of_the_log_and_on_a_new_one() {
    let source = Node::start();
    source.run.abort();
    let key = |keyid: &str, seed| KeyPair::from_seed(keyid, [seed; 32]);
    let (next, spare, stop) = (key("new-1", 11), key("new-2", 12), key("sre-2", 13));
    let (old_node, new_node) = (key("gw-1", 14), key("gw-9", 15));
    let mut config = source.config.clone();
    config.node_keys = vec![old_node.public().to_config()];
    let (first, second) = (join(&source, &config), join(&source, &config));
    assert_eq!(proposed_by(&first, "p1", 1, &old_node).await, Ok(()));
    assert_eq!(
        proposed_by(&first, "p2", 1, &new_node).await,
        Err(Reason::UnknownKey)
    );

    let rotation = Rotation {
        threshold: 2,
        keys: named(&[&next, &spare]),
        stop_keys: named(&[&stop]),
        node_keys: named(&[&new_node]),
    };
    // One after another, as `gov sign` does.
    let control = first.control(enforce(arqon_rollout::EnforcementAction::EmergencyStop));
    let control = Control::new("default", control.issued_at_us, 60_000_000, rotation);
    let one = control.sign(&[&first.ops]).unwrap();
    let two = one
        .clone()
        .join(Envelope::sign(one.payload().to_vec(), &[&next]))
        .unwrap();
    let missing = first
        .handle
        .submit(two.to_json().as_bytes())
        .await
        .map_err(reason);
    assert_eq!(missing.unwrap_err(), Reason::Threshold);
    let all = two
        .clone()
        .join(Envelope::sign(two.payload().to_vec(), &[&spare]))
        .unwrap();
    let taken = first
        .handle
        .submit(all.to_json().as_bytes())
        .await
        .map_err(reason)
        .unwrap();
    second.handle.reached(taken.seq.unwrap()).await;
    assert_eq!(of(&first.handle), of(&second.handle));
    assert_eq!(of(&second.handle).0, 2);

    // On the node that it was not sent to.
    let stop_now = || second.control(enforce(arqon_rollout::EnforcementAction::EmergencyStop));
    assert_eq!(
        give(&second, &stop_now(), &[&second.sre]).await,
        Err(Reason::UnknownKey)
    );
    assert_eq!(
        give(&second, &stop_now(), &[&second.ops]).await,
        Err(Reason::UnknownKey)
    );
    let seq = give(&second, &stop_now(), &[&stop]).await.unwrap();
    first.handle.reached(seq).await;
    assert_eq!((first.phase(), second.phase()), (Phase::Stopped, Phase::Stopped));
    assert_eq!(
        proposed_by(&second, "p3", 2, &old_node).await,
        Err(Reason::UnknownKey)
    );
    let resume = || second.control(enforce(arqon_rollout::EnforcementAction::ResumeAdaptation));
    assert_eq!(
        give(&second, &resume(), &[&next, &spare]).await,
        Err(Reason::Epoch)
    );
    let seq = give(&second, &resume().with_epoch(2), &[&next, &spare])
        .await
        .unwrap();
    assert_eq!(proposed_by(&second, "p4", 2, &new_node).await, Ok(()));

    // A new one begins with the first set, and comes to the same; one that begins with the next set does not, and shows it.
    let third = join(&source, &config);
    third.handle.reached(seq).await;
    assert_eq!(of(&third.handle), of(&second.handle));
    let mut other = config.clone();
    other.keys = [&next, &spare].map(|key| key.public().to_config()).into();
    other.threshold = 2;
    let fourth = join(&source, &other);
    fourth.handle.reached(seq).await;
    assert_ne!(of(&fourth.handle).2, of(&second.handle).2);
    assert_eq!(of(&fourth.handle).0, 1, "to it nobody has signed the rotation");
    // The order of a list says nothing.
    other.keys.reverse();
    assert_eq!(of(&join(&source, &other).handle).2, of(&fourth.handle).2);
}
