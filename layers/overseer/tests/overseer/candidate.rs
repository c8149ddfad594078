//! Modules tried beside the active one: compared, counted, never obeyed and never waited for.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use arqon_overseer::{
    CandidateStatus, Event, FailureConfig, OverseerConfig, OverseerHandle, OverseerLayer, PolicyConfig,
};
use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode};
use tower::{Layer, ServiceExt};

use crate::{
    guests::{BLOCK_ME, get, module, on_request, small},
    handle::{allow, channel, deny, status},
};

/// What is counted of the candidate, once every one of `calls` calls is accounted for. Trials end after the responses.
pub(crate) async fn tried(handle: &OverseerHandle, calls: u64) -> CandidateStatus {
    let begun = Instant::now();
    loop {
        let shown = handle.policies().remove(0).candidate.unwrap();
        if shown.same + shown.differs + shown.not_asked + shown.skipped == calls {
            return shown;
        }
        assert!(begun.elapsed().as_secs() < 60, "{calls} calls, {shown:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn short(event: &Event) -> &'static str {
    match event {
        Event::CandidateInstalled { .. } => "candidate",
        Event::CandidateDropped { .. } => "dropped",
        Event::PolicyReloaded { .. } => "reloaded",
        _ => "else",
    }
}

#[tokio::test]
async fn a_candidate_is_compared_and_never_obeyed_until_it_is_promoted() {
    let (layer, handle, events) = channel(small([PolicyConfig::from_module("p", allow())]));
    handle.candidate("p", BLOCK_ME.into()).await.unwrap();
    assert_eq!(status(&layer).await, StatusCode::OK);
    assert_eq!(tried(&handle, 1).await.same, 1, "both allow");
    assert_eq!(handle.divergences("p"), []);

    handle.candidate("p", deny().into()).await.unwrap();
    for asked in 1..=40 {
        assert_eq!(status(&layer).await, StatusCode::OK);
        assert_eq!(tried(&handle, asked).await.differs, asked);
    }
    let divergences = handle.divergences("p");
    assert_eq!(divergences.len(), arqon_overseer::DIVERGENCES_MAX);
    assert_eq!(
        (
            divergences[0].active.as_str(),
            divergences[0].candidate.as_str(),
            divergences[0].path.as_str()
        ),
        ("allow", "reject 403", "/")
    );
    // Whatever a candidate does wrong is its own affair.
    handle
        .candidate("p", on_request("unreachable").into())
        .await
        .unwrap();
    assert_eq!(status(&layer).await, StatusCode::OK);
    let shown = tried(&handle, 1).await;
    assert_eq!((shown.same, shown.differs, shown.failed), (0, 1, 1));
    assert_eq!(handle.divergences("p")[0].candidate, "trap");
    assert_eq!(shown.divergences, handle.divergences("p"));
    let before = handle.policies().remove(0);
    handle.rollback("p").unwrap();
    let after = handle.policies().remove(0);
    assert_eq!(after.candidate, None);
    assert_eq!(after.sha256, before.sha256, "the active module is what it was");
    let dropped = before.candidate.unwrap().sha256;
    assert!(
        matches!(events.lock().unwrap().last(), Some(Event::CandidateDropped { name, sha256 }) if name == "p" && *sha256 == dropped)
    );

    handle.candidate("p", deny().into()).await.unwrap();
    handle.promote("p").unwrap();
    assert_eq!(status(&layer).await, StatusCode::FORBIDDEN);
    let promoted = handle.policies().remove(0);
    assert_eq!(
        promoted.report.facts.unwrap().sha256,
        promoted.sha256.unwrap(),
        "the report is the active module's own"
    );
    handle.rollback("p").unwrap();
    assert_eq!(status(&layer).await, StatusCode::OK);
    let told: Vec<_> = events.lock().unwrap().iter().map(short).collect();
    let installed = ["candidate"; 3];
    assert_eq!(told[..3], installed);
    assert_eq!(told[3..], ["dropped", "candidate", "reloaded", "reloaded"]);
}

#[tokio::test]
async fn a_candidate_beside_a_module_that_did_not_load_is_tried() {
    let missing = PolicyConfig {
        failure: FailureConfig::ByCause([("load".to_owned(), "open".to_owned())].into()),
        ..PolicyConfig::from_module("p", "(module)")
    };
    let (layer, handle, _) = channel(small([missing]));
    handle.candidate("p", deny().into()).await.unwrap();
    assert_eq!(status(&layer).await, StatusCode::OK);
    assert_eq!(tried(&handle, 1).await.differs, 1);
    let divergence = handle.divergences("p").remove(0);
    assert_eq!(
        (divergence.active.as_str(), divergence.candidate.as_str()),
        ("load", "reject 403")
    );
}

#[tokio::test]
async fn no_request_waits_for_a_candidate_and_what_there_is_no_room_for_is_skipped() {
    // It runs to its deadline, long after the last of these requests was answered.
    let config = OverseerConfig {
        fuel_limit: Some(u64::MAX / 4),
        deadline: Some("10s".to_owned()),
        ..small([PolicyConfig::from_module("p", allow())])
    };
    let (layer, handle, _) = channel(config);
    // A dry run of one that loops would take the deadline too: it loops on what the dry run does not have.
    let loops = module(
        r#"(data (i32.const 0) "x-loop")
           (func (export "on_request") (result i32)
             (if (i32.ge_s (call $host_get_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 0)) (i32.const 0))
               (then (loop $again (br $again))))
             (i32.const 0))"#,
    );
    handle.candidate("p", loops.into()).await.unwrap();
    let ask = || {
        let inner = tower::service_fn(|_: Request<arqon_message::MessageBody<Body>>| async {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let mut request = get("/");
        request
            .headers_mut()
            .insert("x-loop", HeaderValue::from_static("1"));
        layer.layer(inner).oneshot(request)
    };
    let begun = Instant::now();
    for _ in 0..40 {
        assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
    }
    let shown = handle.policies().remove(0).candidate.unwrap();
    // A machine that stood still for all of its deadline proves nothing.
    if begun.elapsed() < Duration::from_secs(10) {
        assert_eq!(
            (shown.same, shown.differs, shown.skipped),
            (0, 0, 40 - 32),
            "one is looked at, and 31 wait for that"
        );
    }
}

#[tokio::test]
async fn candidates_are_tried_on_responses_too() {
    let amends = |name: &str| {
        module(&format!(
            r#"(data (i32.const 0) "{name}")
               (func (export "on_response") (result i32)
                 (call $host_add_header (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 1)))"#
        ))
    };
    let refuses = module(r#"(func (export "on_response") (result i32) (i32.const 1))"#);
    let said = |shown: &CandidateStatus| {
        let first = &shown.divergences[0];
        (
            first.phase.clone(),
            first.active.clone(),
            first.candidate.clone(),
            first.amended_differently,
        )
    };
    let differs = |active: &str, candidate: &str, amended| {
        (
            "response".to_owned(),
            active.to_owned(),
            candidate.to_owned(),
            amended,
        )
    };
    let (layer, handle, _) = channel(small([PolicyConfig::from_module("p", amends("x-a"))]));
    handle.candidate("p", amends("x-a").into()).await.unwrap();
    assert_eq!(status(&layer).await, StatusCode::OK);
    assert_eq!(tried(&handle, 1).await.same, 1);
    for (candidate, expected) in [
        (amends("x-b"), differs("allow", "allow", true)),
        (refuses.clone(), differs("allow", "reject 403", true)),
    ] {
        handle.candidate("p", candidate.into()).await.unwrap();
        assert_eq!(status(&layer).await, StatusCode::OK);
        assert_eq!(said(&tried(&handle, 1).await), expected);
    }
    // One that only looks at requests lets responses pass as they are, and was asked about the request besides.
    handle.candidate("p", allow().into()).await.unwrap();
    assert_eq!(status(&layer).await, StatusCode::OK);
    let shown = tried(&handle, 2).await;
    assert_eq!((shown.same, said(&shown)), (1, differs("allow", "allow", true)));

    // And where the active module does not look at responses at all.
    let (layer, handle, _) = channel(small([PolicyConfig::from_module("p", allow())]));
    handle.candidate("p", refuses.into()).await.unwrap();
    assert_eq!(status(&layer).await, StatusCode::OK);
    let shown = tried(&handle, 2).await;
    assert_eq!(
        (shown.same, said(&shown)),
        (1, differs("allow", "reject 403", false))
    );
}

#[tokio::test]
async fn a_candidate_beside_a_policy_that_only_monitors_is_compared_with_what_that_would_amend() {
    let amends = |name: &str| {
        module(&format!(
            r#"(data (i32.const 0) "{name}")
               (func (export "on_request") (result i32)
                 (call $host_add_header (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 1)))"#
        ))
    };
    let watches = PolicyConfig {
        mode: "monitor".to_owned(),
        ..PolicyConfig::from_module("p", amends("x-a"))
    };
    let (layer, handle, _) = channel(small([watches]));
    for (candidate, same) in [("x-a", 1), ("x-b", 0)] {
        handle.candidate("p", amends(candidate).into()).await.unwrap();
        assert_eq!(status(&layer).await, StatusCode::OK);
        assert_eq!(tried(&handle, 1).await.same, same, "{candidate}");
    }
}

#[tokio::test]
async fn after_a_long_trial_there_is_as_long_a_rest() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    let config = OverseerConfig {
        fuel_limit: Some(u64::MAX / 4),
        deadline: Some("20ms".to_owned()),
        ..small([PolicyConfig::from_module("p", allow())])
    };
    let (layer, handle) = metrics::with_local_recorder(&recorder, || OverseerLayer::channel(config).unwrap());
    handle.candidate("p", crate::guests::busy().into()).await.unwrap();
    let begun = Instant::now();
    for _ in 0..6 {
        assert_eq!(status(&layer).await, StatusCode::OK);
    }
    tried(&handle, 6).await;
    let took: f64 = rendered
        .render()
        .lines()
        .find_map(|line| line.strip_prefix("shield_overseer_candidate_duration_seconds_sum{module=\"p\"} "))
        .unwrap()
        .parse()
        .unwrap();
    // Six calls ran and five rests were over before the sixth. The clocks are two, and a call of less than a
    // millisecond (the machine stood still) has no rest.
    let least = took.mul_add(10.0 / 6.0, -0.005).max(0.0);
    assert!(
        begun.elapsed().as_secs_f64() > least,
        "{took} s in calls, {:?}",
        begun.elapsed()
    );
}
