//! Power cuts: what was acknowledged is on disk.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arqon::rollout::{Control, DownstreamMessage, EnforcementAction, KeyPair};
use serde_json::Value;

use super::site::{Site, scope};
use crate::process::{Gateway, eventually};

/// How often the process is killed.
const KILLS: u64 = 12;

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_micros()).expect("before the year 500,000")
}

#[tokio::test]
async fn what_a_killed_gateway_had_acknowledged_is_in_its_trail() {
    let site = Site::new().await;
    let mut gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    let ops = KeyPair::load("ops-1", &site.path("ops-1.key")).expect("a key");
    let token = [("authorization", "Bearer 0123456789abcdef")];
    let (mut acknowledged, mut last) = (Vec::new(), 0.0);
    for round in 0..KILLS {
        // Somewhere between two writes, or in one.
        let until = tokio::time::Instant::now() + Duration::from_micros(20_000 + (round * 37_717) % 60_000);
        while tokio::time::Instant::now() < until {
            let alpha = f64::from(u32::try_from(acknowledged.len() % 1_000).expect("small")) / 1_000.0;
            let action = EnforcementAction::SetParams(HashMap::from([("alpha".to_owned(), alpha)]));
            let reason = format!("{alpha}");
            let action = if acknowledged.is_empty() {
                EnforcementAction::SetVariant(42)
            } else {
                action
            };
            let message = DownstreamMessage::Enforce { action, reason };
            let control = Control::new("default", now_us(), 60_000_000, message);
            let envelope = control.sign(&[&ops]).expect("finite").to_json();
            let sent = gateway.try_send(gateway.admin, http::Method::POST, "/v1/control", &token, envelope);
            let cut = tokio::time::sleep_until(until);
            tokio::select! {
                // The process is killed with this one on its way.
                () = cut => break,
                answer = sent => {
                    let answer = answer.expect("answered");
                    assert_eq!(answer.status, 200, "{:?}", answer.json());
                    acknowledged.push(answer.json()["seq"].as_u64().expect("a position"));
                    last = alpha;
                }
            }
        }
        gateway.kill();
        gateway.start_again();
        eventually(async || {
            gateway
                .try_send(gateway.admin, http::Method::GET, "/healthz", &[], "")
                .await
        })
        .await;
        let trail = std::fs::read_to_string(gateway.path("audit.jsonl")).expect("there");
        let written: Vec<u64> = trail
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["seq"].as_u64())
            .collect();
        let lost: Vec<_> = acknowledged.iter().filter(|seq| !written.contains(seq)).collect();
        assert!(
            lost.is_empty(),
            "killed {round}: {lost:?} of {} are lost",
            acknowledged.len()
        );
    }
    // The one that was on its way may have come, too.
    let reason = scope(&gateway).await["reason"]
        .as_str()
        .expect("a reason")
        .to_owned();
    let reason: f64 = reason.parse().expect("a number");
    assert!((0.0..=0.0015).contains(&(reason - last)), "{reason} after {last}");
    let verified = site
        .arqon(&[
            "audit",
            "verify",
            gateway.path("audit.jsonl").to_str().expect("UTF-8"),
        ])
        .await;
    assert_eq!(verified.code, 0, "{verified:?}");
    println!(
        "{} acknowledged over {KILLS} kills, none lost",
        acknowledged.len()
    );
}
