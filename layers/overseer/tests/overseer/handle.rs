//! Changing policies while requests run.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arqon_overseer::{
    CandidateStatus, Event, FailureConfig, HandleError, OverseerConfig, OverseerHandle, OverseerLayer,
    PolicyConfig,
};
use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode};
use tower::{Layer, ServiceExt};

use crate::guests::{BLOCK_ME, get, module, on_request, small};

type Events = Arc<Mutex<Vec<Event>>>;

fn channel(config: OverseerConfig) -> (OverseerLayer, OverseerHandle, Events) {
    let events: Events = Arc::default();
    let seen = Arc::clone(&events);
    let (layer, handle) =
        OverseerLayer::channel_with(config, Arc::new(move |event| seen.lock().unwrap().push(event))).unwrap();
    (layer, handle, events)
}

/// What is counted of the candidate, once every one of `calls` calls is accounted for. Trials end after the responses.
async fn tried(handle: &OverseerHandle, calls: u64) -> CandidateStatus {
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

async fn status(layer: &OverseerLayer) -> StatusCode {
    let inner = tower::service_fn(|_: Request<arqon_message::MessageBody<Body>>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    layer.layer(inner).oneshot(get("/")).await.unwrap().status()
}

fn allow() -> String {
    on_request("(i32.const 0)")
}

fn deny() -> String {
    on_request("(i32.const 1)")
}

#[tokio::test]
async fn a_refused_module_leaves_the_last_good_one_and_says_why() {
    let (layer, handle, events) = channel(small([PolicyConfig::from_module("p", allow())]));
    let before = handle.policies();
    let error = handle.replace("p", "(module)".into()).await.unwrap_err();
    let HandleError::Refused(report) = error else {
        panic!("{error}")
    };
    assert!(!report.ok);
    assert_eq!(handle.policies(), before);
    assert_eq!(status(&layer).await, StatusCode::OK);
    assert!(
        matches!(&events.lock().unwrap()[..], [Event::PolicyRefused { name, findings }] if name == "p" && findings.len() >= 3)
    );

    let error = handle.replace("q", allow().into()).await.unwrap_err();
    assert_eq!(error.to_string(), "no policy is called `q`; there are: p");
}

#[tokio::test]
async fn a_good_module_takes_over_and_can_be_taken_back() {
    let (layer, handle, events) = channel(small([PolicyConfig::from_module("p", allow())]));
    let report = handle.replace("p", deny().into()).await.unwrap();
    assert!(report.ok);
    assert_eq!(status(&layer).await, StatusCode::FORBIDDEN);
    let sha256 = handle.policies()[0].sha256.clone().unwrap();
    assert_eq!(
        events.lock().unwrap()[..],
        [Event::PolicyReloaded {
            name: "p".to_owned(),
            sha256
        }]
    );
    handle.rollback("p").unwrap();
    assert_eq!(status(&layer).await, StatusCode::OK);
    assert!(matches!(handle.promote("p"), Err(HandleError::Nothing { .. })));
}

#[tokio::test]
async fn a_file_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.wat");
    std::fs::write(&path, allow()).unwrap();
    let mut config = small([PolicyConfig::from_path("p", "p.wat")]);
    config.resolve_paths(folder.path());
    let (layer, handle, _) = channel(config);
    assert_eq!(status(&layer).await, StatusCode::OK);
    std::fs::write(&path, deny()).unwrap();
    handle.reload("p").await.unwrap();
    assert_eq!(status(&layer).await, StatusCode::FORBIDDEN);
    std::fs::remove_file(&path).unwrap();
    assert!(handle.reload("p").await.is_err());
    assert_eq!(status(&layer).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_new_configuration_replaces_the_chain_or_nothing() {
    let (layer, handle, events) = channel(OverseerConfig::default());
    assert_eq!(status(&layer).await, StatusCode::OK);
    handle
        .reconfigure(small([PolicyConfig::from_module("p", deny())]))
        .await
        .unwrap();
    assert_eq!(status(&layer).await, StatusCode::FORBIDDEN);
    let broken = small([PolicyConfig::from_module("q", "(module)")]);
    assert!(matches!(
        handle.reconfigure(broken).await,
        Err(HandleError::Build(_))
    ));
    assert_eq!(status(&layer).await, StatusCode::FORBIDDEN);
    handle.reconfigure(OverseerConfig::default()).await.unwrap();
    assert_eq!(status(&layer).await, StatusCode::OK);
    let events = events.lock().unwrap();
    assert!(matches!(
        &events[..],
        [Event::Reconfigured { .. }, Event::ReconfigureRefused { .. }, Event::Reconfigured { names }] if names.is_empty()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_policies_are_swapped() {
    let (layer, handle, _) = channel(small([PolicyConfig::from_module("p", BLOCK_ME)]));
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (layer, stop, done) = (layer.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(status(&layer).await, StatusCode::OK);
                    done.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for at in 0..10 {
        let module = if at % 2 == 0 { allow() } else { BLOCK_ME.to_owned() };
        handle.replace("p", module.into()).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(done.load(Ordering::Relaxed) > 0);
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
    handle.rollback("p").unwrap();
    assert_eq!(handle.policies()[0].candidate, None);

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
    assert!(matches!(
        events.lock().unwrap()[0],
        Event::CandidateInstalled { .. }
    ));
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
async fn a_candidate_that_looks_at_bodies_refuses_none() {
    let config = OverseerConfig {
        max_body_bytes: 4,
        ..small([PolicyConfig::from_module("p", allow())])
    };
    let (layer, handle, _) = channel(config);
    let empty_only = on_request("(i32.ne (call $host_payload_len) (i32.const 0))");
    handle.candidate("p", empty_only.into()).await.unwrap();
    let post = |body: &'static str| {
        let inner = tower::service_fn(|_: Request<arqon_message::MessageBody<Body>>| async {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        layer
            .layer(inner)
            .oneshot(Request::post("/").body(Body::from(body)).unwrap())
    };
    assert_eq!(post("over the cap").await.unwrap().status(), StatusCode::OK);
    let shown = tried(&handle, 1).await;
    assert_eq!((shown.not_asked, shown.divergences.len()), (1, 0));
    assert_eq!(post("fits").await.unwrap().status(), StatusCode::OK);
    assert_eq!(tried(&handle, 2).await.divergences.len(), 1);
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
