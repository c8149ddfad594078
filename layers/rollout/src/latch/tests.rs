//! What a resume ends of a latch, and what it does not.

use super::*;
use crate::{
    Catalog, Channel, Control, DownstreamMessage, EnforcementAction, KeyPair, KeySet,
    record::Record,
    state::{Policy, State},
};

const NOW_US: u64 = 1_700_000_000_000_000;

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn part(number: usize) -> Scope {
    Scope::parse(Some(&format!("in.t.t.p{number}.>")), &tenant()).unwrap()
}

/// A latch of the whole tenant that the log has judged at position 3.
fn judged() -> Latch {
    Latch {
        payload: None,
        message: None,
        logged: true,
        waiting: Vec::new(),
        program: false,
        at_seq: 0,
        local: true,
        refused: None,
        freed: Vec::new(),
        floor: Some(3),
        since_us: NOW_US - 10,
        last_us: NOW_US - 10,
        reason: String::new(),
        by: Vec::new(),
        saved: true,
    }
}

/// What is left of it by a resume at position 9.
fn resumed(latch: Latch, scope: &Scope) -> Option<Latch> {
    let ops = KeyPair::from_seed("ops", [1; 32]);
    let keys = KeySet {
        epoch: 1,
        threshold: 1,
        keys: vec![ops.public()],
        stop_keys: Vec::new(),
        node_keys: Vec::new(),
    };
    let mut state = State::genesis(Policy::strict(tenant()), keys, Catalog::empty());
    let resume = DownstreamMessage::Enforce {
        action: EnforcementAction::ResumeAdaptation,
        reason: String::new(),
    };
    let mut control = Control::new("t", NOW_US, 60_000_000, resume);
    control.scope = Some(scope.to_string()).filter(|scope| !scope.is_empty());
    let record = Record {
        seq: 9,
        received_at_us: NOW_US,
        channel: Channel::Down(tenant()),
        envelope: control.sign(&[&ops]).unwrap().to_json().into_bytes().into(),
        catalog: None,
    };
    let verdict = state.fold(&record);
    let key = (tenant(), Scope::TENANT, Brake::Stop);
    let mut latches = Latches::from([(key.clone(), latch)]);
    settle(&mut latches, &record, verdict.as_ref());
    latches.remove(&key)
}

#[test]
fn a_resume_of_the_whole_ends_it_once_nothing_waits() {
    assert_eq!(resumed(judged(), &Scope::TENANT), None);
    let waiting = Waiting {
        payload: Digest::of_bytes(b"waits"),
        own: false,
        message: (Channel::Down(tenant()), Bytes::from_static(b"{}")),
        logged: true,
        since_us: NOW_US - 5,
    };
    let waits = Latch {
        waiting: vec![waiting],
        ..judged()
    };
    assert_eq!(
        resumed(waits.clone(), &Scope::TENANT),
        Some(waits.clone()),
        "one that the log has not judged holds it"
    );
    assert_eq!(
        resumed(waits.clone(), &part(1)),
        Some(waits),
        "nor is a part of it freed"
    );
}

#[test]
fn as_many_parts_are_freed_as_there_is_room_for_and_of_the_next_one_nothing() {
    let with = |freed: usize| Latch {
        freed: (0..freed).map(part).collect(),
        ..judged()
    };
    let last = resumed(with(MAX_FREED - 1), &part(900)).unwrap();
    assert_eq!(last.freed.len(), MAX_FREED);
    assert!(!last.holds(&Scope::TENANT, &part(900)));
    let full = resumed(with(MAX_FREED), &part(900)).unwrap();
    assert_eq!(full, with(MAX_FREED));
    assert!(full.holds(&Scope::TENANT, &part(900)));
    // One that is freed already takes no room.
    let again = resumed(with(1), &part(0)).unwrap();
    assert_eq!(again.freed.len(), 1);
}
