//! Who may say what: thresholds, stop keys, rotation, catalogs.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use arqon_rollout::{
    CatalogFuture, CatalogSource, CatalogWanted, Channel, Control, Digest, DownstreamMessage,
    EnforcementAction, Envelope, Executor, FetchError, KeyPair, KeySet, MemoryLog, Phase, Policy, Proposal,
    PublicKey, Reason, Record, Refusal, RolloutConfig, Rotation, State, apply,
};
use bytes::Bytes;

use self::node::{Node, START_US, catalog, enforce, tenant};

/// A state with real keys: two of three operators, one stop key, one node.
struct Court {
    state: State,
    ops: Vec<KeyPair>,
    sre: KeyPair,
    node: KeyPair,
    counter: u64,
}

impl Court {
    fn new() -> Self {
        let key = |keyid: &str, seed| KeyPair::from_seed(keyid, [seed; 32]);
        let ops = vec![key("ops-1", 1), key("ops-2", 2), key("ops-3", 3)];
        let (sre, node) = (key("sre-1", 4), key("gw-1", 5));
        let keys = KeySet {
            epoch: 1,
            threshold: 2,
            keys: ops.iter().map(KeyPair::public).collect(),
            stop_keys: vec![sre.public()],
            node_keys: vec![node.public()],
        };
        let state = State::genesis(Policy::strict(tenant("default")), keys, catalog());
        Self {
            state,
            ops,
            sre,
            node,
            counter: 0,
        }
    }

    fn record(&self, channel: Channel, envelope: &Envelope) -> Record {
        let envelope = Bytes::from(envelope.to_json());
        Record {
            seq: self.state.seq() + 1,
            received_at_us: START_US,
            channel,
            envelope,
            catalog: None,
        }
    }

    /// A fresh counter on every call, so that nothing is stale.
    fn control(&mut self, message: impl Into<arqon_rollout::Message>) -> Control {
        self.counter += 1;
        Control::new("default", START_US, 60_000_000, message).with_counter(self.counter)
    }

    fn down(&mut self, envelope: &Envelope) -> Result<(), Reason> {
        self.judge(Channel::Down(tenant("default")), envelope)
    }

    fn judge(&mut self, channel: Channel, envelope: &Envelope) -> Result<(), Reason> {
        let record = self.record(channel, envelope);
        let applied = apply(&self.state, &record);
        let folded = self.state.fold(&record).map(drop);
        assert_eq!(applied.map(drop), folded, "apply and fold agree");
        folded.map_err(|refusal: Refusal| refusal.reason)
    }

    fn stop(&mut self) -> Control {
        self.control(enforce(EnforcementAction::EmergencyStop))
    }
}

#[test]
fn it_takes_t_different_keys() {
    let mut court = Court::new();
    let (first, second, third) = (court.ops[0].clone(), court.ops[1].clone(), court.ops[2].clone());
    let stop = court.stop();
    assert_eq!(court.down(&stop.sign(&[&first]).unwrap()), Err(Reason::Threshold));
    // The same key twice is one key (TUF), under another name it is altered.
    assert_eq!(
        court.down(&stop.sign(&[&first, &first]).unwrap()),
        Err(Reason::Threshold)
    );
    let renamed = KeyPair::from_seed("ops-2", [1; 32]);
    assert_eq!(
        court.down(&stop.sign(&[&first, &renamed]).unwrap()),
        Err(Reason::BadSignature)
    );
    let stranger = KeyPair::generate("eve").unwrap();
    assert_eq!(
        court.down(&stop.sign(&[&first, &second, &stranger]).unwrap()),
        Err(Reason::UnknownKey)
    );
    assert_eq!(court.down(&stop.sign(&[]).unwrap()), Err(Reason::Unsigned));
    assert_eq!(
        court.state.lanes()[&arqon_rollout::Scope::TENANT].phase(START_US),
        Phase::Idle
    );
    // Signed in two places and joined.
    let joined = stop
        .sign(&[&third])
        .unwrap()
        .join(stop.sign(&[&first]).unwrap())
        .unwrap();
    assert_eq!(court.down(&joined), Ok(()));
    assert_eq!(
        court.state.lanes()[&arqon_rollout::Scope::TENANT].cause().by,
        ["ops-1", "ops-3"]
    );
}

#[test]
fn one_record_of_a_clock_that_was_ahead_does_not_make_those_after_it_late() {
    let mut court = Court::new();
    let (first, second, sre) = (court.ops[0].clone(), court.ops[1].clone(), court.sre.clone());
    let day = 86_400_000_000;
    let mut pause = court.control(enforce(EnforcementAction::PauseAdaptation));
    pause.expires_at_us += 2 * day;
    let mut ahead = court.record(
        Channel::Down(tenant("default")),
        &pause.sign(&[&first, &second]).unwrap(),
    );
    ahead.received_at_us += day;
    court.state.fold(&ahead).unwrap();
    // Stored a minute later, by a clock that is right again: a stop acts, and its resume too.
    let stop = court.stop();
    assert_eq!(court.down(&stop.sign(&[&sre]).unwrap()), Ok(()));
    let tenant_wide = |court: &Court| court.state.lanes()[&arqon_rollout::Scope::TENANT].phase(START_US);
    assert_eq!(tenant_wide(&court), Phase::Stopped);
    // What is late by its own record is late.
    let mut late = court.stop();
    late.expires_at_us = START_US;
    assert_eq!(court.down(&late.sign(&[&sre]).unwrap()), Err(Reason::Expired));
}

#[test]
fn a_missing_keyid_is_no_exemption_and_no_obstacle() {
    let mut court = Court::new();
    let strip = |envelope: &Envelope| {
        let mut json: serde_json::Value = serde_json::from_str(&envelope.to_json()).unwrap();
        for signature in json["signatures"].as_array_mut().unwrap() {
            signature.as_object_mut().unwrap().remove("keyid");
        }
        Envelope::parse(json.to_string().as_bytes()).unwrap()
    };
    let stranger = KeyPair::generate("ops-1").unwrap();
    let (first, second) = (court.ops[0].clone(), court.ops[1].clone());
    let stop = court.stop();
    assert_eq!(
        court.down(&strip(&stop.sign(&[&first, &stranger]).unwrap())),
        Err(Reason::UnknownKey)
    );
    assert_eq!(
        court.down(&strip(&stop.sign(&[&first, &second]).unwrap())),
        Ok(())
    );
}

#[test]
fn a_stop_key_stops_and_pauses_alone_whatever_the_epoch_and_nothing_else() {
    let mut court = Court::new();
    let sre = court.sre.clone();
    for action in [
        EnforcementAction::PauseAdaptation,
        EnforcementAction::EmergencyStop,
    ] {
        let control = court.control(enforce(action)).with_epoch(99);
        assert_eq!(court.down(&control.sign(&[&sre]).unwrap()), Ok(()));
    }
    for action in [
        EnforcementAction::ResumeAdaptation,
        EnforcementAction::SetVariant(42),
    ] {
        let control = court.control(enforce(action));
        assert_eq!(court.down(&control.sign(&[&sre]).unwrap()), Err(Reason::Role));
    }
    let mut old = court.stop();
    old.counter = 1;
    // In force already, whatever its counter; nothing has changed by it.
    assert_eq!(court.down(&old.sign(&[&sre]).unwrap()), Err(Reason::Duplicate));
}

#[test]
fn a_brake_is_taken_whatever_its_counter_unless_it_was_resumed_since() {
    let mut court = Court::new();
    let (sre, first, second) = (court.sre.clone(), court.ops[0].clone(), court.ops[1].clone());
    let enforced = |action, counter, later_us| {
        Control::new("default", START_US + later_us, 60_000_000, enforce(action)).with_counter(counter)
    };
    let (stop, pause, resume) = (
        EnforcementAction::EmergencyStop,
        EnforcementAction::PauseAdaptation,
        EnforcementAction::ResumeAdaptation,
    );
    for brake in [pause, stop] {
        // Others were faster, or their clock is ahead.
        let far = enforced(EnforcementAction::PauseAdaptation, START_US + 20_000_000, 5);
        assert_eq!(court.down(&far.sign(&[&sre]).unwrap()), Ok(()));
        let overtaken = enforced(brake.clone(), 7, 6).sign(&[&sre]).unwrap();
        assert_eq!(court.down(&overtaken), Ok(()), "{brake:?}");
        let again = Err(Reason::Duplicate);
        assert_eq!(court.down(&overtaken), again, "in force already: {brake:?}");
        let counter = court.state.issuer_counter("sre-1");
        assert_eq!(counter, START_US + 20_000_000, "nobody's counter goes back");
        court = Court::new();
    }
    // What a resume ended does not come back, nor what was signed before it.
    let old = enforced(EnforcementAction::EmergencyStop, 7, 6)
        .sign(&[&sre])
        .unwrap();
    let newest = enforced(EnforcementAction::EmergencyStop, 90, 9)
        .sign(&[&sre])
        .unwrap();
    assert_eq!(court.down(&newest), Ok(()));
    let resumed = enforced(resume, 100, 8);
    assert_eq!(court.down(&resumed.sign(&[&first, &second]).unwrap()), Ok(()));
    for late in [
        &old,
        &enforced(EnforcementAction::EmergencyStop, 8, 9)
            .sign(&[&sre])
            .unwrap(),
    ] {
        assert_eq!(court.down(late), Err(Reason::Stale));
    }
    let now = enforced(EnforcementAction::EmergencyStop, 9, 10)
        .sign(&[&sre])
        .unwrap();
    assert_eq!(court.down(&now), Ok(()), "signed after it");
}

#[test]
fn a_node_proposes_on_its_own_channel_only() {
    let mut court = Court::new();
    let (node, sre) = (court.node.clone(), court.sre.clone());
    let proposal = Proposal {
        id: "p".to_owned(),
        variant_id: Some(42),
        confidence: 1.0,
        ..Default::default()
    };
    let up = |name: &str| Channel::Up(tenant("default"), arqon_rollout::NodeId::new(name).unwrap());
    let control = court.control(proposal);
    assert_eq!(
        court.judge(up("gw-2"), &control.sign(&[&node]).unwrap()),
        Err(Reason::Channel)
    );
    assert_eq!(court.down(&control.sign(&[&node]).unwrap()), Err(Reason::Channel));
    assert_eq!(
        court.judge(up("gw-1"), &control.sign(&[&sre]).unwrap()),
        Err(Reason::Role)
    );
    assert_eq!(court.judge(up("gw-1"), &control.sign(&[&node]).unwrap()), Ok(()));
    let stop = court.stop();
    assert_eq!(court.down(&stop.sign(&[&node]).unwrap()), Err(Reason::Role));
    assert_eq!(
        court.judge(up("gw-1"), &stop.sign(&[&sre]).unwrap()),
        Err(Reason::Channel)
    );
}

#[test]
fn a_rotation_needs_both_sets_and_raises_the_epoch() {
    let mut court = Court::new();
    let (first, second) = (court.ops[0].clone(), court.ops[1].clone());
    let (new, spare) = (
        KeyPair::from_seed("new-1", [11; 32]),
        KeyPair::from_seed("new-2", [12; 32]),
    );
    let text = |key: &KeyPair| (key.keyid().to_owned(), key.public().to_config().ed25519);
    let rotation = |threshold| Rotation {
        threshold,
        keys: [text(&new), text(&spare)].into(),
        stop_keys: [].into(),
        node_keys: [].into(),
    };
    let control = court.control(rotation(2));
    for (keys, reason) in [
        (vec![&first, &second], Reason::Threshold),
        (vec![&first, &second, &new], Reason::Threshold),
        (vec![&first, &second, &new, &new], Reason::Threshold),
        (vec![&new, &spare], Reason::Role),
        (vec![&first, &new, &spare], Reason::Threshold),
    ] {
        assert_eq!(court.down(&control.sign(&keys).unwrap()), Err(reason), "{keys:?}");
    }
    let unreachable = court.control(rotation(3));
    assert_eq!(
        court.down(&unreachable.sign(&[&first, &second, &new, &spare]).unwrap()),
        Err(Reason::InvalidKeys)
    );
    assert_eq!(
        court.down(&control.sign(&[&first, &second, &new, &spare]).unwrap()),
        Ok(())
    );
    assert_eq!((court.state.keys().epoch, court.state.keys().keys.len()), (2, 2));
    let stop = court.stop();
    assert_eq!(
        court.down(&stop.sign(&[&first, &second]).unwrap()),
        Err(Reason::UnknownKey)
    );
    assert_eq!(
        court.down(&stop.sign(&[&new, &spare]).unwrap()),
        Err(Reason::Epoch)
    );
    assert_eq!(
        court.down(&stop.with_epoch(2).sign(&[&new, &spare]).unwrap()),
        Ok(())
    );
}

#[test]
fn a_bit_flipped_envelope_never_passes_the_fold() {
    let court = Court::new();
    let control = Control::new(
        "default",
        START_US,
        60_000_000,
        enforce(EnforcementAction::EmergencyStop),
    );
    let envelope = control.sign(&[&court.ops[0], &court.ops[1]]).unwrap();
    let good = court.record(Channel::Down(tenant("default")), &envelope);
    assert!(apply(&court.state, &good).is_ok());
    for bit in 0..good.envelope.len() * 8 {
        let mut bytes = good.envelope.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let flipped = Record {
            envelope: bytes.into(),
            ..good.clone()
        };
        assert!(apply(&court.state, &flipped).is_err(), "bit {bit}");
    }
}

/// Catalogs by name.
struct Shelf;

impl CatalogSource for Shelf {
    fn fetch(&self, wanted: CatalogWanted<'_>) -> CatalogFuture<'_> {
        let bytes = match wanted.uri {
            "kv://c/2" => Ok(r#"{"version":2,"baseline":1,"variants":[{"id":1,"name":"stable"}]}"#.into()),
            "kv://c/3" => Ok(catalog()
                .to_json()
                .replace("\"version\":1", "\"version\":3")
                .into()),
            uri => Err(FetchError::Refused(uri.to_owned())),
        };
        Box::pin(std::future::ready(bytes))
    }
}

#[tokio::test(start_paused = true)]
async fn a_catalog_is_newer_authentic_and_never_routes_to_nothing() {
    let source = Node::start();
    let executor = Executor::builder(&source.config)
        .catalog(catalog())
        .catalogs(Shelf)
        .clock(source.clock.clone())
        .log(MemoryLog::with_clock(source.clock.clone()))
        .build()
        .unwrap();
    let node = Node {
        handle: executor.handle(),
        run: tokio::spawn(executor.run()),
        ..source
    };
    node.roll_out("p1", (50.0, 0.0, 50.0)).await;
    let cohort = node.cohort().await;
    let update = |version, uri: &str, digest: Option<&str>| {
        node.control(DownstreamMessage::CatalogUpdate {
            version,
            source_uri: uri.to_owned(),
            digest: digest.map(str::to_owned),
        })
    };
    for (version, uri, digest, reason) in [
        (2, "http://169.254.169.254/", None, Reason::Catalog),
        (2, "kv://c/2", Some("sha256:00"), Reason::Catalog),
        (4, "kv://c/2", None, Reason::Catalog),
        (1, "kv://c/2", None, Reason::CatalogVersion),
    ] {
        assert_eq!(
            node.submit(update(version, uri, digest), &node.ops).await,
            Err(reason),
            "{uri}"
        );
    }
    let bytes = br#"{"version":2,"baseline":1,"variants":[{"id":1,"name":"stable"}]}"#;
    let digest = Digest::of_bytes(bytes).to_string();
    // Version 2 lacks variant 42: the scope goes on with what it has, and is paused.
    node.submit(update(2, "kv://c/2", Some(&digest)), &node.ops)
        .await
        .unwrap();
    assert_eq!(node.phase(), Phase::Paused);
    assert_eq!(node.cohort().await, cohort);
    assert_eq!(
        node.submit(update(2, "kv://c/2", None), &node.ops).await,
        Err(Reason::CatalogVersion)
    );
    // While paused the next one waits for the resume.
    node.submit(update(3, "kv://c/3", None), &node.ops).await.unwrap();
    assert_eq!(node.handle.status().tenants[0].parked_catalog_version, Some(3));
    node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert_eq!(node.handle.status().tenants[0].catalog_version, 3);
    assert_eq!(node.phase(), Phase::Holding);
}

/// An audit trail that can be broken.
#[test]
fn public_keys_and_ramps_are_checked_before_anything_else() {
    let bad = arqon_rollout::KeyConfig {
        keyid: "k".to_owned(),
        ed25519: "AAAA".to_owned(),
    };
    assert!(PublicKey::parse(&bad).is_err());
    let config = RolloutConfig {
        initial_percent: 60.0,
        increment_per_minute: 0.0,
        max_percent: 50.0,
    };
    assert!(config.validate().is_err());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_refused_in_words(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..512),
        payload in "[\\[\\]{}\":,a-z0-9.eE+-]{0,200}",
    ) {
        let court = Court::new();
        for envelope in [bytes, Envelope::sign(payload.into_bytes(), &[]).to_json().into_bytes()] {
            let record = Record {
                seq: 1,
                received_at_us: START_US,
                channel: Channel::Down(tenant("default")),
                envelope: envelope.into(),
                catalog: None,
            };
            proptest::prop_assert!(apply(&court.state, &record).is_err());
        }
    }
}
