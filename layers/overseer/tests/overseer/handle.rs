//! Changing policies while requests run.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use arqon_overseer::{Event, HandleError, OverseerConfig, OverseerHandle, OverseerLayer, PolicyConfig};
use axum::body::Body;
use http::{Request, Response, StatusCode};
use tower::{Layer, ServiceExt};

use crate::guests::{BLOCK_ME, get, on_request, small};

pub(crate) type Events = Arc<Mutex<Vec<Event>>>;

pub(crate) fn channel(config: OverseerConfig) -> (OverseerLayer, OverseerHandle, Events) {
    let events: Events = Arc::default();
    let seen = Arc::clone(&events);
    let (layer, handle) =
        OverseerLayer::channel_with(config, Arc::new(move |event| seen.lock().unwrap().push(event))).unwrap();
    (layer, handle, events)
}

pub(crate) async fn status(layer: &OverseerLayer) -> StatusCode {
    let inner = tower::service_fn(|_: Request<arqon_message::MessageBody<Body>>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    layer.layer(inner).oneshot(get("/")).await.unwrap().status()
}

pub(crate) fn allow() -> String {
    on_request("(i32.const 0)")
}

pub(crate) fn deny() -> String {
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
