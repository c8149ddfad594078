//! The umbrella's facts, each seen by a subscriber found in a request and by readers of `/v1/events`.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use arqon::{RequestBus, TenantId, bus::Subscriber};
use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt};

use super::*;
use crate::observe;

const PATIENCE: Duration = Duration::from_secs(30);
const TOKEN: &str = "0123456789abcdef";
const CONFIG: &str = r#"
[gateway]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
control_token_file = "control.token"
"#;
const MIRRORING: &str = "[platform.mirroring]\nrules = [{ prefix = \"in.t.default.>\", percent = 0.25 }]\n";

/// An axum application at the bottom of the stack, whatever body the layers hand on.
#[derive(Clone)]
struct App(Router);

impl<B> Service<Request<B>> for App
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = axum::routing::future::RouteFuture<Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.call(request.map(Body::new))
    }
}

/// A reader of `/v1/events`.
struct Reader {
    body: Incoming,
    text: String,
}

impl Reader {
    async fn open(admin: SocketAddr, token: Option<&str>) -> Self {
        let mut request = Request::get(format!("http://{admin}/v1/events"));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = request.body(Empty::<Bytes>::new()).expect("valid");
        let answer = timeout(PATIENCE, client.request(request))
            .await
            .expect("in time")
            .expect("answered");
        assert_eq!(answer.status(), StatusCode::OK);
        Self {
            body: answer.into_body(),
            text: String::new(),
        }
    }

    /// The next event: its name and its data; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .unwrap_or_default()
                        .to_owned()
                };
                let (name, id, data) = (field("event: "), field("id: "), field("data: "));
                self.text = rest.to_owned();
                if name.is_empty() {
                    continue; // A comment that keeps the connection alive.
                }
                let data: Value = serde_json::from_str(&data).expect("JSON");
                assert_eq!((&data["event"], &data["corr_id"]), (&json!(name), &json!(id)));
                return Some((name, data));
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("in time")?;
            let bytes = frame.expect("no error").into_data().expect("data");
            self.text.push_str(std::str::from_utf8(&bytes).expect("text"));
        }
    }

    /// The next of one kind; `None` when the stream ends before.
    async fn kind(&mut self, kind: &str) -> Option<Value> {
        loop {
            let (name, data) = self.next().await?;
            if name == kind {
                return Some(data);
            }
        }
    }
}

/// Publishes through the platform's own stack to a handler that hands out a subscriber of the bus in its request.
async fn subscriber_found_in_a_request(gateway: &Gateway) -> Subscriber {
    let found = Arc::new(Mutex::new(None));
    let handler = {
        let found = Arc::clone(&found);
        move |RequestBus(bus): RequestBus| async move {
            *found.lock().expect("no panic") = Some(bus.observe("handler"));
        }
    };
    let app: Router = Router::new().route("/v1/publish/{*suffix}", post(handler));
    let tenant = TenantId::new("default").expect("a tenant");
    let stack = gateway.platform().stack(routes::subjects()).layer(App(app));
    let request = Request::post("/v1/publish/a").extension(tenant);
    let request = request.body(Body::empty()).expect("valid");
    let answer = stack.oneshot(request).await.expect("a router does not fail");
    assert_eq!(answer.status(), StatusCode::OK);
    found.lock().expect("no panic").take().expect("the handler ran")
}

async fn next_of(subscriber: &mut Subscriber, kind: &str) -> Event {
    loop {
        let notice = timeout(PATIENCE, subscriber.next())
            .await
            .expect("in time")
            .expect("the bus is open");
        if let arqon::bus::Notice::Event(event) = notice
            && event.kind() == kind
        {
            return event;
        }
    }
}

/// As an editor does it: another file in its place.
fn replace(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).expect("written");
    std::fs::rename(beside, file).expect("renamed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_flip_death_and_drain_are_told_in_requests_and_on_the_event_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    std::fs::write(folder.path().join("control.token"), TOKEN).expect("written");
    std::fs::write(&file, CONFIG).expect("written");
    let config = Config::load(Some(&file), &[]).expect("valid");
    let mut gateway = Gateway::start(config, observe::metrics().expect("the only recorder here"))
        .await
        .expect("started");
    let (_signals, wishes) = mpsc::channel(1);
    let source = Source {
        file: Some(file.clone()),
        flags: Vec::new(),
    };
    gateway.reload_from(source, wishes);
    let mut inside = subscriber_found_in_a_request(&gateway).await;
    let mut admin = Reader::open(gateway.admin(), Some(TOKEN)).await;
    let mut observer = Reader::open(gateway.admin(), None).await;

    // Reload.
    replace(&file, &format!("{CONFIG}{MIRRORING}"));
    assert_eq!(
        next_of(&mut inside, "config_updated").await,
        Event::ConfigUpdated { version: 2 }
    );
    let told = admin.kind("config_updated").await.expect("open");
    assert_eq!(told["version"], 2);
    assert_eq!(
        observer.kind("config_updated").await,
        Some(told),
        "the same fact has the same corr_id"
    );
    assert_eq!(gateway.platform().shadow.state().rules.len(), 1, "it is in force");
    assert_eq!(
        gateway.shared.state()["config"],
        json!({ "version": 2, "refused": null })
    );

    // A file that does not hold, and one that needs a restart, change nothing; the state says why.
    for (text, why) in [
        (
            format!("{CONFIG}[platform.mirroring]\nrules = [{{ prefix = \"in.t.x.>\", percent = 10 }}]"),
            "percent",
        ),
        (
            format!("{CONFIG}[bus]\ncapacity = 8"),
            "bus.capacity needs a restart",
        ),
        (String::new(), "is empty"),
    ] {
        replace(&file, &text);
        let refused = async {
            loop {
                let status = gateway.shared.config.status();
                if status.refused.as_ref().is_some_and(|said| said.contains(why)) {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(timeout(PATIENCE, refused).await.expect("in time").version, 2);
        assert_eq!(gateway.platform().shadow.state().rules.len(), 1);
    }
    // Mended, it says what runs already: no reload, and no refusal any more.
    replace(&file, &format!("{CONFIG}{MIRRORING}"));
    let mended = async {
        while gateway.shared.config.status().refused.is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, mended).await.expect("in time");
    assert_eq!(gateway.shared.config.status().version, 2);
    for ok in [false, true] {
        let told = Event::Health {
            service: "config".to_owned(),
            ok,
        };
        while next_of(&mut inside, "health").await != told {}
    }

    // Readiness.
    let healthy = Arc::new(AtomicBool::new(true));
    let probe = Arc::clone(&healthy);
    gateway.shared.readiness.add("probe", move || {
        if probe.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("down".to_owned())
        }
    });
    for ok in [false, true] {
        healthy.store(ok, Ordering::Relaxed);
        let expected = Event::Health {
            service: "gateway".to_owned(),
            ok,
        };
        // The start's own flip to ready may come first.
        while next_of(&mut inside, "health").await != expected {}
        for reader in [&mut admin, &mut observer] {
            while reader.kind("health").await.expect("open")["ok"] != ok {}
        }
    }

    // A task that dies.
    gateway
        .shared
        .tasks
        .run("probe", async { panic!("login with password: hunter2") });
    let expected = Event::ServiceCrashed {
        service: "probe".to_owned(),
        reason: "panicked: login with [redacted]".to_owned(),
    };
    assert_eq!(next_of(&mut inside, "service_crashed").await, expected);
    for reader in [&mut admin, &mut observer] {
        let told = reader.kind("service_crashed").await.expect("open");
        assert_eq!(
            (&told["service"], &told["reason"]),
            (&json!("probe"), &json!("panicked: login with [redacted]"))
        );
    }
    assert_eq!(
        gateway.shared.state()["crashed"][0]["service"],
        "probe",
        "who missed it reads the state"
    );

    // One without which the gateway must not take traffic: it is not ready any more.
    let died = async { Err("the accept loop ended".to_owned()) };
    gateway.shared.tasks.run("edge", died);
    assert_eq!(
        next_of(&mut inside, "service_crashed").await.kind(),
        "service_crashed"
    );
    for reader in [&mut admin, &mut observer] {
        assert_eq!(
            reader.kind("service_crashed").await.expect("open")["service"],
            "edge"
        );
        assert_eq!(reader.kind("health").await.expect("open")["ok"], false);
    }
    let checks = gateway.shared.readiness.checks();
    let tasks = checks
        .iter()
        .find(|check| check.name == "tasks")
        .expect("a check");
    assert_eq!(tasks.reason.as_deref(), Some("edge died: the accept loop ended"));

    // Drain: the shutdown for admins, and the streams end.
    gateway.drain().await;
    assert_eq!(next_of(&mut inside, "shutdown").await, Event::Shutdown);
    assert_eq!(
        admin.next().await.map(|(name, _)| name).as_deref(),
        Some("shutdown")
    );
    assert_eq!(admin.next().await, None);
    assert_eq!(observer.next().await, None, "a shutdown is for admins");
}
