//! The three servers, each a process of its own on one core.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use tempfile::TempDir;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    cors::CorsLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    sensitive_headers::SetSensitiveRequestHeadersLayer,
    timeout::TimeoutLayer,
    trace::{DefaultMakeSpan, DefaultOnRequest, DefaultOnResponse, TraceLayer},
};
use tracing::Level;

use super::platform;

/// Where what runs.
pub(crate) const PLACES: &str = "on core 0, the client on core 1";
const PATIENCE: Duration = Duration::from_secs(30);

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bare,
    Usual,
    Gateway,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Bare, Self::Usual, Self::Gateway];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Bare => "bare axum",
            Self::Usual => "axum with the usual tower-http stack",
            Self::Gateway => "the gateway with everything on",
        }
    }
}

/// A running server; it is killed at the end.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [address, admin] = [free(), free()];
        let mut command = pinned(0);
        if kind == Kind::Gateway {
            platform::write(folder.path(), address, admin);
            let gateway =
                std::env::var("TEST_GATEWAY").unwrap_or(env!("CARGO_BIN_EXE_arqon-gateway").to_owned());
            command.arg(gateway).args(["serve", "--config"]);
            command.arg(folder.path().join("gateway.toml"));
        } else {
            let kind = if kind == Kind::Bare { "bare" } else { "usual" };
            let own = std::env::current_exe().expect("this program");
            command.arg(own).args(["--serve", &format!("{kind}@{address}")]);
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env_remove("RUST_LOG")
            .spawn()
            .expect("taskset and the program start");
        let server = Self {
            child,
            address,
            admin,
            _folder: folder,
        };
        server.wait(kind);
        if kind == Kind::Gateway {
            platform::roll_out(server._folder.path(), admin);
        }
        server
    }

    fn wait(&self, kind: Kind) {
        let until = Instant::now() + PATIENCE;
        let ready = || match kind {
            Kind::Gateway => {
                get(self.admin, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
            }
            _ => TcpStream::connect(self.address).is_ok(),
        };
        while !ready() {
            assert!(Instant::now() < until, "{} is not ready", kind.title());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The processor time that all its threads have taken.
    pub(crate) fn cpu(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id())).expect("it runs");
        let taken = threads.filter_map(|thread| {
            let stat = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(taken.sum())
    }

    /// What the gateway says it did, so that nothing was measured that did not happen.
    pub(crate) fn account(&self) -> String {
        let metrics = get(self.admin, "/metrics").expect("metrics");
        let sum = |name: &str, has: &str| -> f64 {
            let lines = metrics
                .lines()
                .filter(|line| line.starts_with(name) && line.contains(has));
            lines
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum()
        };
        let all = sum("shield_gateway_requests_total{", "2xx");
        let share = |part: f64| part / all;
        let (allowed, checked) = (
            share(sum("shield_overseer_decisions_total{", "allow")),
            share(sum("shield_schema_validation_duration_seconds_count", "")),
        );
        let (mirrored, varied) = (
            share(sum("shield_mirror_traffic_total{", "") + sum("shield_mirror_dropped_total{", "")),
            share(sum("shield_rollout_decisions_total{", "\"fast\"")),
        );
        let dropped = sum("shield_mirror_dropped_total{", "");
        assert!(
            allowed > 0.99
                && checked > 0.99
                && (0.08..0.12).contains(&mirrored)
                && (0.45..0.55).contains(&varied),
            "not everything was on: {allowed} {checked} {mirrored} {varied}\n{metrics}"
        );
        format!(
            "{all:.0} answered, {:.1} % allowed by the policy, {:.1} % held to the contract, {:.1} % chosen for the mirror \
             ({dropped:.0} copies dropped), {:.1} % given the variant",
            allowed * 100.0,
            checked * 100.0,
            mirrored * 100.0,
            varied * 100.0
        )
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound")
}

fn get(server: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(server).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn pinned(core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]);
    command
}

/// The client's core.
pub(crate) fn pin_myself() {
    let own = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["-pc", "1", &own])
        .stdout(Stdio::null())
        .status();
    assert!(
        pinned.is_ok_and(|status| status.success()),
        "taskset and two cores are needed"
    );
}

/// Serves until it is killed: `bare@ADDRESS` or `usual@ADDRESS`.
pub(crate) fn run(what: &str) -> ExitCode {
    let (kind, address) = what.split_once('@').expect("KIND@ADDRESS");
    let app = Router::new().route("/v1/publish/{suffix}", post(accept));
    let app = if kind == "bare" { app } else { usual(app) };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await?;
        axum::serve(
            axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true))),
            app,
        )
        .await
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What the gateway does at its very bottom: takes the body, and answers as it does.
async fn accept(body: Bytes) -> (StatusCode, [(&'static str, &'static str); 1], &'static str) {
    std::hint::black_box(body);
    (
        StatusCode::ACCEPTED,
        [("content-type", "application/json")],
        r#"{"subject":"in.t.default.users","stream":null,"sequence":null,"duplicate":false}"#,
    )
}

/// What a service usually has around it: a line of JSON a request, at no cost for writing it.
fn usual(app: Router) -> Router {
    tracing_subscriber::fmt().json().with_writer(std::io::sink).init();
    let trace = TraceLayer::new_for_http()
        .make_span_with(DefaultMakeSpan::new().level(Level::INFO))
        .on_request(DefaultOnRequest::new().level(Level::INFO))
        .on_response(DefaultOnResponse::new().level(Level::INFO));
    app.layer(
        ServiceBuilder::new()
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(SetSensitiveRequestHeadersLayer::new([
                http::header::AUTHORIZATION,
            ]))
            .layer(trace)
            .layer(PropagateRequestIdLayer::x_request_id())
            .layer(CorsLayer::permissive())
            .layer(CompressionLayer::new())
            .layer(CatchPanicLayer::new())
            .layer(TimeoutLayer::with_status_code(
                StatusCode::SERVICE_UNAVAILABLE,
                Duration::from_secs(60),
            )),
    )
}
