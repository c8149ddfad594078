//! Policies whose file changes while requests run.

use std::{
    convert::Infallible,
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    sync::Arc,
    time::Duration,
};

use arqon_overseer::{Event, OverseerConfig, OverseerHandle, OverseerLayer, PolicyConfig};
use axum::body::Body;
use http::{Request, Response};
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt};

use crate::guests::{get, on_request, small};

const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(30);

async fn status(layer: &OverseerLayer) -> u16 {
    let inner = tower::service_fn(|_: Request<arqon_message::MessageBody<Body>>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    layer
        .layer(inner)
        .oneshot(get("/"))
        .await
        .unwrap()
        .status()
        .as_u16()
}

/// The policies `p` and, behind it, `sign`, of files in a folder; and what is told of them.
fn signed(folder: &Path) -> (OverseerLayer, OverseerHandle, mpsc::Receiver<Event>) {
    let mut config = small([
        PolicyConfig::from_path("p", "p.wat"),
        PolicyConfig::from_path("sign", "sign.wat"),
    ]);
    config.resolve_paths(folder);
    let (events, told) = mpsc::channel(64);
    let events = Arc::new(move |event| events.try_send(event).unwrap());
    let (layer, handle) = OverseerLayer::channel_with(config, events).unwrap();
    (layer, handle, told)
}

fn answers(code: u16) -> String {
    on_request(&format!(
        "(call $host_reject (i32.const {code}) (i32.const 0) (i32.const 0)) (i32.const 0)"
    ))
}

/// Puts a file in the place of another, whole from the beginning, as careful editors and volumes of Kubernetes do: one that is
/// written in place may be looked at before.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_changed_file_takes_over_and_one_that_does_not_load_leaves_the_last_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.wat");
    fs::write(&path, answers(410)).unwrap();
    // Behind it stands one that allows: when it is loaded anew, the one before has been looked at too.
    fs::write(folder.path().join("sign.wat"), on_request("(i32.const 0)")).unwrap();
    let (layer, handle, mut told) = signed(folder.path());
    let watching = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.watch(EVERY).await })
    };
    let mut next = async || {
        tokio::time::timeout(PATIENCE, told.recv())
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(status(&layer).await, 410);

    put(&path, &answers(411));
    assert!(matches!(next().await, Event::PolicyReloaded { name, .. } if name == "p"));
    assert_eq!(status(&layer).await, 411);

    put(&path, "(module");
    assert!(
        matches!(next().await, Event::PolicyRefused { name, findings } if name == "p" && findings[0].contains("module.text"))
    );
    assert_eq!(status(&layer).await, 411);

    fs::remove_file(&path).unwrap();
    assert!(
        matches!(next().await, Event::PolicyRefused { findings, .. } if findings[0].contains("module.read"))
    );
    assert_eq!(status(&layer).await, 411);

    put(&path, &answers(413));
    assert!(matches!(next().await, Event::PolicyReloaded { .. }));
    assert_eq!(status(&layer).await, 413);

    // What an operator uploads stays while the file is what it was, and the file wins when it changes.
    handle.replace("p", answers(414).into()).await.unwrap();
    assert!(matches!(next().await, Event::PolicyReloaded { .. }));
    put(&path, &answers(413));
    put(
        &folder.path().join("sign.wat"),
        &on_request("(i32.const 0) (; changed ;)"),
    );
    assert!(
        matches!(next().await, Event::PolicyReloaded { name, .. } if name == "sign"),
        "the file of `p` was written, and holds what it held"
    );
    assert_eq!(status(&layer).await, 414);
    put(&path, &answers(415));
    assert!(matches!(next().await, Event::PolicyReloaded { .. }));
    assert_eq!(status(&layer).await, 415);

    // A chain of another configuration is watched from then on.
    fs::write(folder.path().join("q.wat"), answers(416)).unwrap();
    let mut config = small([PolicyConfig::from_path("p", "q.wat")]);
    config.resolve_paths(folder.path());
    handle.reconfigure(config).await.unwrap();
    assert!(matches!(next().await, Event::Reconfigured { .. }));
    assert_eq!(status(&layer).await, 416);
    put(&folder.path().join("q.wat"), &answers(417));
    assert!(matches!(next().await, Event::PolicyReloaded { .. }));
    assert_eq!(status(&layer).await, 417);
    watching.abort();
}

#[tokio::test]
async fn a_file_that_is_written_in_place_bit_by_bit_runs_once_it_is_whole_and_the_last_good_one_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.wat");
    fs::write(&path, answers(410)).unwrap();
    let mut config = small([PolicyConfig::from_path("p", "p.wat")]);
    config.resolve_paths(folder.path());
    let (events, mut told) = mpsc::channel(64);
    let events = Arc::new(move |event| events.try_send(event).unwrap());
    let (layer, handle) = OverseerLayer::channel_with(config, events).unwrap();
    let watching = tokio::spawn(async move { handle.watch(EVERY).await });

    let whole = answers(411);
    let (begin, rest) = whole.split_at(whole.len() / 2);
    let mut file = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    file.write_all(begin.as_bytes()).unwrap();
    // Whoever writes takes so long that it is looked at: empty, or half of it.
    let next = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap();
    assert!(matches!(next, Some(Event::PolicyRefused { name, .. }) if name == "p"));
    assert_eq!(status(&layer).await, 410);

    for bit in rest.as_bytes().chunks(8) {
        file.write_all(bit).unwrap();
        tokio::task::yield_now().await;
    }
    drop(file);
    loop {
        match tokio::time::timeout(PATIENCE, told.recv()).await.unwrap() {
            // It was looked at once more on the way.
            Some(Event::PolicyRefused { .. }) => {}
            told => {
                assert!(matches!(told, Some(Event::PolicyReloaded { name, .. }) if name == "p"));
                break;
            }
        }
    }
    assert_eq!(status(&layer).await, 411);
    watching.abort();
}

#[tokio::test]
async fn an_upload_stays_when_watching_begins_after_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.wat"), answers(410)).unwrap();
    fs::write(folder.path().join("sign.wat"), on_request("(i32.const 0)")).unwrap();
    let (layer, handle, mut told) = signed(folder.path());
    handle.replace("p", answers(411).into()).await.unwrap();
    assert!(matches!(told.recv().await, Some(Event::PolicyReloaded { name, .. }) if name == "p"));
    // Looked at after the first: once it is loaded anew, so would the other be.
    let changed = on_request("(i32.const 0) (; changed ;)");
    put(&folder.path().join("sign.wat"), &changed);
    let watching = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.watch(EVERY).await })
    };
    let next = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap();
    assert!(matches!(next, Some(Event::PolicyReloaded { name, .. }) if name == "sign"));
    assert_eq!(status(&layer).await, 411);
    watching.abort();
}

#[test]
fn the_interval_is_configured_and_can_be_switched_off() {
    let every = |text: &str| {
        OverseerConfig {
            watch_interval: text.to_owned(),
            ..OverseerConfig::default()
        }
        .watch_every()
    };
    assert_eq!(
        OverseerConfig::default().watch_every(),
        Some(Duration::from_millis(500))
    );
    assert_eq!(every("2s"), Some(Duration::from_secs(2)));
    assert_eq!(every("0s"), None);
}
