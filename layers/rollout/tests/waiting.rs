//! How much waits for a catalog that is not there, and what is said to whom sends more.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;
#[path = "support/site.rs"]
mod site;

use arqon_rollout::{
    Channel, Control, ControlLog as _, EnforcementAction, MAX_WAITING_RECORDS, Phase, Reason,
};
use bytes::Bytes;

use self::{
    node::{approval, enforce, tenant},
    site::{Site, percent, with, without},
};

/// What no node takes.
async fn junk(site: &Site, count: usize) {
    for _ in 0..count {
        let log = &site.first.log;
        let junk = log.append(Channel::Down(tenant("default")), Bytes::from_static(b"{\"x\":1}"));
        junk.await.unwrap();
    }
    site.pass(1).await;
}

/// Sends an order for the other tenant.
async fn other(site: &Site, action: EnforcementAction) {
    let mut control: Control = site.first.control(enforce(action));
    control.tenant = "other".to_owned();
    site.first.submit(control, &site.first.ops).await.unwrap();
    site.pass(1).await;
}

fn forced(site: &Site) -> u32 {
    site.second.handle.status().scope("other", "").unwrap().baseline
}

/// The second node has come to the end of the log with all of it.
fn has_caught_up(site: &Site) -> bool {
    let (first, second) = (site.first.handle.status(), site.second.handle.status());
    second.hold.is_none() && second.seq == first.seq
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_a_tenant_s_share_is_held_and_one_more_leaves_it_baselines_and_other_tenants_go_on() {
    let mut site = Site::start().await;
    let seq = site.update(2, None).await;
    junk(&site, MAX_WAITING_RECORDS - 1).await;
    assert!(site.percents().1 > 0.0, "at the limit it is held");
    assert!(site.hold().contains("its shares are held"), "{}", site.hold());
    junk(&site, 1).await;
    assert!(
        site.hold().contains("more came behind it than is kept"),
        "{}",
        site.hold()
    );
    assert_eq!(site.percents().1.to_bits(), 0.0_f64.to_bits());
    assert!(site.second.cohort().await.is_empty(), "baselines alone");
    // The log is read on for the others.
    for variant in [42, 43] {
        other(&site, EnforcementAction::SetVariant(variant)).await;
        assert_eq!(forced(&site), variant);
    }
    // What comes behind it is not lost, with a restart in between: a newer catalog, and a rollout of it.
    site.update(3, None).await;
    site.first
        .enforce(EnforcementAction::ResumeAdaptation)
        .await
        .unwrap();
    site.first.approve_anew("p2", (30.0, 0.0, 30.0)).await;
    site.restart().await;
    site.pass(10).await;
    let status = site.second.handle.status();
    assert_eq!((status.seq, forced(&site)), (seq - 1, 43));
    site.shelf.put(3, &with(3));
    site.shelf.put(2, &without(2));
    site.until(has_caught_up).await;
    site.pass(10).await;
    site.are_alike();
    assert_eq!((site.second.phase(), forced(&site)), (site.first.phase(), 43));
}

#[tokio::test(start_paused = true)]
async fn what_began_in_what_is_read_once_more_is_not_served_before_its_end() {
    let site = Site::start().await;
    site.update(2, None).await;
    junk(&site, MAX_WAITING_RECORDS).await;
    // Stopped here as there, at once.
    let stop = site.first.control(enforce(EnforcementAction::EmergencyStop));
    site.first.submit(stop, &site.first.sre).await.unwrap();
    site.pass(1).await;
    assert_eq!(
        site.second.phase(),
        Phase::Stopped,
        "it acts, wherever its turn is"
    );
    junk(&site, MAX_WAITING_RECORDS).await;
    site.shelf.put(2, &without(2));
    site.until(|site| {
        assert_eq!(percent(&site.second).to_bits(), 0.0_f64.to_bits());
        has_caught_up(site)
    })
    .await;
    site.are_alike();
}

#[tokio::test(start_paused = true)]
async fn the_queue_that_a_trail_makes_holds_no_other_tenant() {
    for more in [0, 1] {
        let mut site = Site::start().await;
        site.shelf.put(5, &with(5));
        site.update(2, None).await;
        site.update(5, None).await;
        // It gives 2 up after a minute, and all that follows gets into its trail.
        site.pass(100).await;
        assert!(site.hold().contains("never came"), "{}", site.hold());
        let known = 2;
        junk(&site, MAX_WAITING_RECORDS - known - 1 + more).await;
        site.until(|site| site.second.handle.status().seq == site.first.handle.status().seq)
            .await;
        site.restart().await;
        assert!(site.hold().contains("not here yet"), "{}", site.hold());
        // One for which there is room, at the limit none.
        junk(&site, 1).await;
        assert_eq!(site.hold().contains("more came"), more == 1, "{}", site.hold());
        assert!(site.second.cohort().await.is_empty(), "baselines alone");
        for variant in [42, 43] {
            other(&site, EnforcementAction::SetVariant(variant)).await;
            assert_eq!(forced(&site), variant);
        }
        site.shelf.put(2, &without(2));
        site.until(has_caught_up).await;
        site.pass(10).await;
        site.are_alike();
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_a_node_for_more_than_it_knows_is_told_so_and_a_stop_is_not() {
    let site = Site::start().await;
    site.shelf.put(5, &with(5));
    let seq = site.update(2, None).await;
    site.update(5, None).await;
    // While it waits it is not asked to know: the log takes it, and it says that it has not judged it.
    site.pass(100).await;
    let before = site.first.log.records().len();
    let digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let second = &site.second;
    for control in [
        second.control(approval("p2", digest, (60.0, 0.0, 60.0))),
        second.control(enforce(EnforcementAction::SetVariant(42))),
    ] {
        assert_eq!(second.submit(control, &second.ops).await, Err(Reason::Held));
    }
    assert_eq!(
        site.first.log.records().len(),
        before,
        "nothing is in the log by that"
    );
    let status = second.handle.status();
    assert_eq!(status.hold_of.as_deref(), Some("default"), "{status:?}");
    let of = |tenant: &str| {
        status
            .tenants
            .iter()
            .find(|of| of.tenant == tenant)
            .unwrap()
            .clone()
    };
    assert!(of("default").hold.is_some() && of("other").hold.is_none());
    assert!(seq > 0 && of("other").seq == status.seq);
    // Another tenant of it goes on, and what holds back is taken.
    other(&site, EnforcementAction::SetVariant(42)).await;
    let mut control = second.control(enforce(EnforcementAction::SetVariant(43)));
    control.tenant = "other".to_owned();
    second.submit(control, &second.ops).await.unwrap();
    let stop = second.control(enforce(EnforcementAction::EmergencyStop));
    let stopped = second.submit(stop, &second.sre).await.unwrap();
    assert!(stopped.judged && stopped.state == Phase::Stopped);
    second.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_waits_for_its_turn_is_in_force_and_not_judged() {
    let site = Site::start().await;
    let seq = site.update(2, None).await;
    assert_eq!(site.second.handle.status().tenants[0].seq, seq - 1);
    let stop = site.second.control(enforce(EnforcementAction::EmergencyStop));
    let stopped = site.second.submit(stop, &site.second.sre).await.unwrap();
    assert_eq!((stopped.state, stopped.judged), (Phase::Stopped, false));
    assert!(stopped.seq > Some(seq));
    assert!(site.second.cohort().await.is_empty());
}
