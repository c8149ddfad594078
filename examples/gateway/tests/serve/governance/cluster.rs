//! Three gateways, each on its own server of a JetStream cluster of three.

use std::time::Duration;

use arqon_test_support::NatsCluster;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::site::{Site, becomes, cohort, scope, scope_of, variant};
use crate::process::{Gateway, eventually};

const USERS: usize = 60;

/// Where it is set, the figures of a quiet machine are checked as well: `tests/rollout_gates.py` sets it.
const GATES: &str = "TEST_ROLLOUT_GATES";
/// How long a stop may take to reach every gateway after it was published, 99 times of 100.
const STOP_P99: Duration = Duration::from_millis(50);

async fn three(site: &Site, cluster: &NatsCluster) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for (at, node) in ["gw-1", "gw-2", "gw-3"].iter().enumerate() {
        let url = cluster.url(at);
        let config = site.config(Some(&url), node, &site.catalog());
        let config = config.replacen("[nats]", "[nats]\nreplicas = 3", 1);
        gateways.push(Gateway::ready(&config, &[]).await);
    }
    gateways
}

/// The variants of the first users on all three at once.
async fn ask_all(gateways: &[Gateway]) -> Vec<Vec<bool>> {
    join_all(gateways.iter().map(|gateway| cohort(gateway, USERS))).await
}

fn gated() -> bool {
    std::env::var_os(GATES).is_some()
}

/// What three gateways served over a ramp of 100 % a minute from 5 %.
#[derive(Debug, Default)]
struct Ramp {
    /// The largest difference of two shares that were both stable while they were read.
    skew: f64,
    /// Users asked on all three while all served the same share, before and after.
    compared: usize,
    /// Those of them who were answered differently.
    differed: usize,
    /// Users asked while a share changed.
    in_between: usize,
    /// Shares that are not those of a quarter second.
    off_the_beat: Vec<f64>,
}

impl Ramp {
    async fn watch(gateways: &[Gateway]) -> Self {
        const STEP: f64 = 100.0 / 60.0 / 4.0;
        let mut ramp = Self::default();
        let (mut first, mut ended) = (None, false);
        while !ended {
            let before = shares(gateways).await;
            let mut answered = 0;
            for user in 0..5 {
                let answers = join_all(gateways.iter().map(|gateway| variant(gateway, user))).await;
                answered += usize::from(answers.iter().any(|answer| *answer != answers[0]));
            }
            let after = shares(gateways).await;
            ended = after
                .iter()
                .all(|(phase, percent)| phase == "holding" && *percent >= 25.0);
            for (phase, percent) in &after {
                // The first step is a part of a quarter second: the others count from where it led.
                if phase == "ramping" && *percent > 5.0 + 1e-9 {
                    let steps = (percent - *first.get_or_insert(*percent)) / STEP;
                    if (steps - steps.round()).abs() > 1e-6 {
                        ramp.off_the_beat.push(*percent);
                    }
                }
            }
            if before != after {
                ramp.in_between += 5;
                continue;
            }
            let all = after.iter().map(|(_, percent)| *percent);
            ramp.skew = ramp
                .skew
                .max(all.clone().fold(0.0, f64::max) - all.fold(100.0, f64::min));
            if after.iter().all(|share| *share == after[0]) {
                (ramp.compared, ramp.differed) = (ramp.compared + 5, ramp.differed + answered);
            }
        }
        ramp
    }
}

/// The state and the share of each, as it serves them: the gauge is what was published, `/v1/state` what is due.
async fn shares(gateways: &[Gateway]) -> Vec<(String, f64)> {
    let of = async |gateway: &Gateway| {
        let (scope, metrics) = tokio::join!(scope(gateway), gateway.get("/metrics"));
        let phase = scope["phase"].as_str().expect("a state").to_owned();
        let metrics = String::from_utf8(metrics.body.to_vec()).expect("text");
        let is = |line: &&str| {
            line.starts_with("shield_rollout_fraction{")
                && line.contains("tenant=\"default\"")
                && line.contains("scope=\"\"")
        };
        let line = metrics.lines().find(is).expect("the share");
        let fraction: f64 = line
            .rsplit(' ')
            .next()
            .and_then(|text| text.parse().ok())
            .expect("a number");
        (phase, fraction * 100.0)
    };
    join_all(gateways.iter().map(of)).await
}

#[tokio::test]
async fn three_gateways_ramp_as_one_stop_as_one_and_stay_stopped() {
    let site = Site::new().await;
    let mut cluster = NatsCluster::start(3).await.expect("three nats-servers");
    let mut gateways = three(&site, &cluster).await;

    // 1. The same users at every moment of a ramp: 100 % a minute, as steep as one may be.
    site.roll_out(&gateways[0], "ramp", ["5", "100", "25"]).await;
    for gateway in &gateways {
        becomes(gateway, "ramping").await;
    }
    let ramp = Ramp::watch(&gateways).await;
    println!("over a ramp of 100 % a minute: {ramp:?}");
    // Who is asked while all three serve one share gets one answer.
    assert!(ramp.compared >= 100, "{ramp:?}");
    assert_eq!(ramp.differed, 0, "{ramp:?}");
    // Shares follow the quarter seconds of the clock: nodes differ by whole steps while one is late, and else not at all.
    assert!(ramp.off_the_beat.is_empty(), "{ramp:?}");
    if gated() {
        assert!(ramp.skew <= f64::EPSILON, "{ramp:?}");
    }
    let cohorts = ask_all(&gateways).await;
    assert!(cohorts.iter().all(|cohort| *cohort == cohorts[0]), "{cohorts:?}");
    assert!(cohorts[0].contains(&true) && cohorts[0].contains(&false));

    // 2. Stops, published to the log: how long until all three serve the baseline.
    site.gov(&gateways[0], "ops-1", &["stop"]).await;
    let mut took = Vec::new();
    for round in 0..if gated() { 40 } else { 12 } {
        for gateway in &gateways {
            becomes(gateway, "stopped").await;
        }
        let starter = &gateways[round % 3];
        site.gov(starter, "ops-1", &["resume"]).await;
        site.roll_out(starter, &format!("r{round}"), ["90", "0", "90"])
            .await;
        for gateway in &gateways {
            becomes(gateway, "holding").await;
        }
        took.extend(stop_by_the_log(&site, &cluster, &gateways, round % 3).await);
    }
    took.sort();
    let at = |share: f64| took[((took.len() as f64 * share).ceil() as usize).max(1) - 1];
    println!(
        "a stop reached each of three gateways after publish: p50 {:?}, p99 {:?} ({} seen)",
        at(0.5),
        at(0.99),
        took.len()
    );
    if gated() {
        assert!(at(0.99) <= STOP_P99, "{took:?}");
    }

    // 3. It holds over `kill -9` of any of them, with a server gone besides.
    cluster.kill(2);
    for gateway in &mut gateways {
        gateway.kill();
        gateway.start_again();
        eventually(async || {
            gateway
                .try_send(gateway.admin, http::Method::GET, "/healthz", &[], "")
                .await
        })
        .await;
        assert_eq!(scope(gateway).await["phase"], "stopped");
        assert_eq!(variant(gateway, 1).await, "stable");
    }
    cluster.start_again(2).expect("started");
    for gateway in &gateways {
        gateway.becomes_ready(true).await;
        assert_eq!(scope(gateway).await["phase"], "stopped");
    }
    // Another tenant was never touched.
    assert_eq!(scope_of(&gateways[1], "other").await["phase"], "idle");
}

/// Publishes a stop through one server, and yields when each gateway has it after that.
async fn stop_by_the_log(
    site: &Site,
    cluster: &NatsCluster,
    gateways: &[Gateway],
    through: usize,
) -> Vec<Duration> {
    let message = site.file("stop.json");
    let text = r#"{"type":"enforce","action":{"kind":"emergency_stop"},"reason":"drill"}"#;
    std::fs::write(&message, text).expect("written");
    let signed = site
        .arqon(&["gov", "sign", &message, "--key", &site.key("sre-1")])
        .await;
    let client = cluster.client(through).await.expect("connected");
    let jetstream = async_nats::jetstream::new(client);
    let published = Instant::now();
    let acked = jetstream
        .publish("gov.t.default.down", signed.out.into())
        .await
        .expect("sent");
    let seen = join_all(gateways.iter().map(async |gateway| {
        loop {
            if variant(gateway, 1).await == "stable" && scope(gateway).await["phase"] == "stopped" {
                return published.elapsed();
            }
            assert!(published.elapsed() < crate::process::PATIENCE, "never stopped");
            sleep(Duration::from_millis(1)).await;
        }
    }));
    let (seen, acked) = tokio::join!(seen, acked.into_future());
    acked.expect("stored");
    seen
}

#[tokio::test]
async fn scopes_and_tenants_ramp_on_their_own() {
    let site = Site::new().await;
    let gateway = Gateway::ready(&site.config(None, "gw-1", &site.catalog()), &[]).await;
    let propose = async |id: &str, tenant: &str, scope: &str| {
        let file = site.file(&format!("{id}.json"));
        let text = format!(
            r#"{{"id":"{id}","timestamp_us":1,"variant_id":42,"reason":"","confidence":1,"scope":"{scope}"}}"#
        );
        std::fs::write(&file, text).expect("written");
        site.gov(&gateway, "ops-1", &["propose", &file, "--tenant", tenant])
            .await;
        let ramp = [
            "--proposal",
            &file,
            "--initial",
            "100",
            "--increment",
            "0",
            "--max",
            "100",
        ];
        site.gov(
            &gateway,
            "ops-1",
            &[&["approve", id, "--tenant", tenant][..], &ramp].concat(),
        )
        .await;
    };
    propose("a", "default", "in.t.default.a.>").await;
    propose("o", "other", "in.t.other.>").await;
    let on = async |suffix: &str| {
        let answer = gateway.publish(suffix, &[("x-user", "ada")], "{}").await;
        answer.headers["x-arqon-variant"]
            .to_str()
            .expect("text")
            .to_owned()
    };
    assert_eq!(
        (on("a.x").await, on("b.x").await),
        ("fast".to_owned(), "stable".to_owned())
    );
    propose("b", "default", "in.t.default.b.>").await;
    assert_eq!(
        (on("a.x").await, on("b.x").await),
        ("fast".to_owned(), "fast".to_owned())
    );
    site.gov(&gateway, "sre-1", &["stop", "--scope", "in.t.default.a.>"])
        .await;
    assert_eq!(
        (on("a.x").await, on("b.x").await),
        ("stable".to_owned(), "fast".to_owned())
    );
    site.gov(&gateway, "sre-1", &["stop"]).await;
    assert_eq!(
        (on("a.x").await, on("b.x").await),
        ("stable".to_owned(), "stable".to_owned())
    );
    let other = gateway.get("/v1/state").await.json();
    let other = other["rollout"]["tenants"]
        .as_array()
        .expect("tenants")
        .iter()
        .find(|of| of["tenant"] == "other")
        .cloned();
    let other = other.expect("there");
    let scoped = other["scopes"]
        .as_array()
        .expect("scopes")
        .iter()
        .find(|of| of["scope"] == "in.t.other.>")
        .cloned();
    assert_eq!(
        scoped.expect("there")["phase"],
        "complete",
        "stopping one tenant leaves the other"
    );
}
