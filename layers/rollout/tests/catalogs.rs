//! A catalog that one node does not have: its tenant waits there, and is what the others are once it is there.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;
#[path = "support/site.rs"]
mod site;

use std::collections::BTreeMap;

use arqon_rollout::{
    Control, Digest, DownstreamMessage, EnforcementAction, KeyPair, Phase, Reason, Rotation,
};

use self::{
    node::{Node, enforce},
    site::{Site, percent, with, without},
};

#[tokio::test(start_paused = true)]
async fn a_missed_catalog_is_waited_for_and_a_newer_one_does_not_stand_for_what_it_did() {
    let mut site = Site::start().await;
    site.shelf.put(3, &with(3));
    let at = percent(&site.second);
    let seq = site.update(2, None).await;
    assert_eq!(site.first.phase(), Phase::Paused, "it lacks the variant");
    site.update(3, None).await;
    for again in [false, true] {
        if again {
            site.restart().await;
        }
        site.pass(20).await;
        assert!(site.percents().1 <= at, "{:?}", site.percents());
        assert!(site.hold().contains("catalog 2"), "{}", site.hold());
        assert_eq!(site.second.handle.status().seq, seq - 1, "it waits");
    }
    site.shelf.put(2, &without(2));
    site.pass(40).await;
    site.are_alike();
    assert_eq!(site.second.phase(), Phase::Paused);
    // And what was parked is parked here, too.
    assert_eq!(
        site.second.handle.status().tenants[0].parked_catalog_version,
        Some(3)
    );
    site.first
        .enforce(EnforcementAction::ResumeAdaptation)
        .await
        .unwrap();
    site.pass(60).await;
    site.are_alike();
    assert!(site.percents().1 > at + 5.0);
    site.restart().await;
    site.pass(10).await;
    site.are_alike();
}

#[tokio::test(start_paused = true)]
async fn other_bytes_than_those_announced_are_not_there() {
    for named in [false, true] {
        let mut site = Site::start().await;
        let at = percent(&site.second);
        let digest = named.then(|| Digest::of_bytes(without(2).as_bytes()).to_string());
        // An older file; with a digest one of the same version is told apart, too.
        let other = if named { with(2) } else { with(1) };
        site.shelf.put(2, &other);
        let seq = site.update(2, digest).await;
        site.pass(60).await;
        assert_eq!(site.first.phase(), Phase::Paused);
        assert!(site.percents().1 <= at, "{:?}", site.percents());
        assert!(site.hold().contains("announced"), "{}", site.hold());
        assert_eq!(site.second.handle.status().seq, seq - 1, "it waits");
        site.restart().await;
        assert!(site.percents().1 <= at, "{:?}", site.percents());
        site.shelf.put(2, &without(2));
        site.pass(40).await;
        site.are_alike();
        // Once it is folded its place does not matter any more.
        site.shelf.put(2, &other);
        site.restart().await;
        site.pass(10).await;
        site.are_alike();
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_goes_on_from_a_newer_catalog_serves_baselines_until_it_has_the_missed_one() {
    let mut site = Site::start().await;
    site.shelf.put(5, &with(5));
    let seq = site.update(2, None).await;
    site.update(5, None).await;
    site.pass(100).await;
    assert_eq!(site.second.handle.status().tenants[0].catalog_version, 5);
    for again in [false, true] {
        if again {
            site.restart().await;
            site.pass(100).await;
        }
        assert!(
            site.hold().contains(&format!("position {seq} never came")),
            "{}",
            site.hold()
        );
        assert_eq!(site.percents().1.to_bits(), 0.0_f64.to_bits());
        assert!(site.second.cohort().await.is_empty(), "baselines alone");
        // An enforced variant is none, either.
        site.first
            .enforce(EnforcementAction::SetVariant(1))
            .await
            .unwrap();
        site.pass(1).await;
        assert!(site.second.cohort().await.is_empty());
    }
    let lines = site.trail.0.lock().unwrap().len();
    site.restart().await;
    assert_eq!(
        site.trail.0.lock().unwrap().len(),
        lines,
        "what the trail has is not written again"
    );
    site.shelf.put(2, &without(2));
    site.pass(40).await;
    site.are_alike();
    site.restart().await;
    site.pass(10).await;
    site.are_alike();
}

#[tokio::test(start_paused = true)]
async fn neither_a_stop_nor_a_resume_makes_up_for_a_catalog_that_was_missed() {
    let mut site = Site::start().await;
    site.shelf.put(5, &with(5));
    site.update(2, None).await;
    site.update(5, None).await;
    site.pass(100).await;
    let stop = site.first.control(enforce(EnforcementAction::EmergencyStop));
    site.first.submit(stop, &site.first.sre).await.unwrap();
    site.pass(1).await;
    site.first
        .enforce(EnforcementAction::ResumeAdaptation)
        .await
        .unwrap();
    site.first.roll_out("p2", (20.0, 10.0, 100.0)).await;
    site.pass(60).await;
    assert!(site.hold().contains("baselines"), "{}", site.hold());
    assert!(site.second.cohort().await.is_empty(), "baselines alone");
    site.shelf.put(2, &without(2));
    site.restart().await;
    site.pass(40).await;
    site.are_alike();
    assert!(site.percents().1 > 20.0);
}

#[tokio::test(start_paused = true)]
async fn other_tenants_go_on_and_stops_act_while_one_waits() {
    let mut site = Site::start_with(true).await;
    site.shelf.is_away(2);
    let before = percent(&site.second);
    let seq = site.update(2, None).await;
    // A source that does not answer is waited for, however long.
    site.shelf.put(3, &with(3));
    site.update(3, None).await;
    site.pass(400).await;
    assert!(site.percents().1 <= before, "{:?}", site.percents());
    assert_eq!(site.second.handle.status().seq, seq - 1);
    let other = |action: EnforcementAction| {
        let mut control = site.first.control(enforce(action));
        control.tenant = "other".to_owned();
        control
    };
    site.first
        .submit(other(EnforcementAction::SetVariant(42)), &site.first.ops)
        .await
        .unwrap();
    site.pass(1).await;
    let phase = |node: &Node| node.handle.status().scope("other", "").unwrap().phase;
    site.until(|site| phase(&site.second) == Phase::Forced).await;
    let shown = site.second.handle.status();
    assert_eq!(shown.scope("other", "").unwrap().baseline, 42);
    let stop = site.first.control(enforce(EnforcementAction::EmergencyStop));
    site.first.submit(stop, &site.first.sre).await.unwrap();
    site.pass(1).await;
    let whole = |site: &Site| site.second.handle.status().scope("default", "").unwrap().clone();
    let saved = |site: &Site| whole(site).phase == Phase::Stopped && whole(site).durable == Some(true);
    site.until(saved).await;
    // A restart forgets neither: the stop is on disk, and the log is read again from where the trail has a hole.
    site.restart().await;
    assert_eq!(
        (site.second.phase(), phase(&site.second)),
        (Phase::Stopped, Phase::Forced)
    );
    assert_eq!(site.second.handle.status().seq, seq - 1);
    site.shelf.put(2, &without(2));
    site.until(|site| site.second.handle.status().seq >= seq + 3)
        .await;
    site.are_alike();
    assert_eq!(site.second.phase(), Phase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_waits_serves_baselines_once_keys_are_replaced_behind_the_catalog() {
    let site = Site::start().await;
    site.update(2, None).await;
    assert!(site.percents().1 > 0.0, "held, and no more");
    let named = |key: &KeyPair| {
        let of = (key.keyid().to_owned(), key.public().to_config().ed25519);
        BTreeMap::from([of])
    };
    let stop_key = KeyPair::from_seed("sre-2", [21; 32]);
    let rotation = Rotation {
        threshold: 1,
        keys: named(&site.first.ops),
        stop_keys: named(&stop_key),
        node_keys: BTreeMap::new(),
    };
    let at_us = site
        .first
        .control(enforce(EnforcementAction::EmergencyStop))
        .issued_at_us;
    let rotation = Control::new("default", at_us, 60_000_000, rotation);
    site.first.submit(rotation, &site.first.ops).await.unwrap();
    site.pass(1).await;
    // What the new key stops on the others cannot be read here.
    assert!(site.hold().contains("keys are replaced"), "{}", site.hold());
    assert_eq!(site.percents().1.to_bits(), 0.0_f64.to_bits());
    assert!(site.second.cohort().await.is_empty());
    site.shelf.put(2, &without(2));
    site.pass(40).await;
    site.are_alike();
}

#[tokio::test(start_paused = true)]
async fn a_gateway_lets_no_update_into_the_log_that_it_cannot_read() {
    let site = Site::start().await;
    let before = site.first.log.records().len();
    let wrong = Digest::of_bytes(b"something else").to_string();
    for (version, digest) in [(2, None), (3, None), (3, Some(wrong.clone()))] {
        site.shelf.put(3, &with(1));
        let update = site.second.control(DownstreamMessage::CatalogUpdate {
            version,
            source_uri: format!("kv://c/{version}"),
            digest,
        });
        let refused = site.second.submit(update, &site.second.ops).await.unwrap_err();
        assert_eq!(refused, Reason::Catalog);
    }
    assert_eq!(site.first.log.records().len(), before);
    site.pass(10).await;
    site.are_alike();
}

#[tokio::test(start_paused = true)]
async fn an_update_gets_into_the_log_with_a_digest_and_with_its_bytes_kept_or_not_at_all() {
    let site = Site::start().await;
    site.shelf.put(2, &without(2));
    let before = site.first.log.records().len();
    let update = async |digest: Option<String>| {
        let update = site.second.control(DownstreamMessage::CatalogUpdate {
            version: 2,
            source_uri: "kv://c/2".to_owned(),
            digest,
        });
        site.second.submit(update, &site.second.ops).await
    };
    let digest = Some(Digest::of_bytes(without(2).as_bytes()).to_string());
    assert_eq!(update(None).await.unwrap_err(), Reason::Catalog, "it names none");
    site.shelf.keeps(false);
    assert_eq!(update(digest.clone()).await.unwrap_err(), Reason::Catalog);
    assert_eq!(site.first.log.records().len(), before, "neither is in the log");
    site.shelf.keeps(true);
    update(digest).await.unwrap();
    site.pass(10).await;
    site.are_alike();
    assert_eq!(site.second.handle.status().tenants[0].catalog_version, 2);
}
