//! A gateway process and clients for it.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const SCHEMA: &str =
    r#"syntax = "proto3"; package events.v1; message UserCreated { string user_id = 1; int32 age = 2; }"#;
pub(crate) const BLOCK_ME: &str = include_str!("../../../policies/wat/block_me.wat");

pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arqon-gateway"));
    command.env_remove("RUST_LOG").env("RUST_LOG", "warn");
    command
}

/// A folder with a policy, a schema, a token and the given configuration.
pub(crate) fn folder(config: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    std::fs::create_dir(folder.path().join("schemas")).expect("made");
    write("schemas/v1.events.user_created.proto", SCHEMA);
    write("block_me.wat", BLOCK_ME);
    write("control.token", "0123456789abcdef\n");
    write("gateway.toml", config);
    folder
}

/// Runs the gateway until it ends by itself.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    binary()
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("the gateway starts")
}

pub(crate) struct Gateway {
    child: Option<Child>,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    folder: TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound")
        .port()
}

impl Gateway {
    /// Starts `serve` with a configuration; does not wait until it is ready.
    pub(crate) fn start(config: &str, arguments: &[&str]) -> Self {
        let folder = folder(config);
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (public, admin) = (loopback(free_port()), loopback(free_port()));
        let child = binary()
            .args([
                "serve",
                "--config",
                "gateway.toml",
                "--listen",
                &public.to_string(),
            ])
            .args(["--admin-listen", &admin.to_string()])
            .args(arguments)
            .current_dir(folder.path())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the gateway starts");
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            child: Some(child),
            public,
            admin,
            client,
            folder,
        }
    }

    /// Starts, and waits until `/readyz` says yes.
    pub(crate) async fn ready(config: &str, arguments: &[&str]) -> Self {
        let gateway = Self::start(config, arguments);
        gateway.becomes_ready(true).await;
        gateway
    }

    pub(crate) async fn becomes_ready(&self, ready: bool) -> Value {
        let wanted = if ready { 200 } else { 503 };
        eventually(async || {
            let answer = self.try_send(self.admin, Method::GET, "/readyz", &[], "").await?;
            (answer.status == wanted).then(|| answer.json())
        })
        .await
    }

    pub(crate) async fn try_send(
        &self,
        to: SocketAddr,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{to}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("valid");
        let (parts, body) = timeout(PATIENCE, self.client.request(request))
            .await
            .expect("in time")
            .ok()?
            .into_parts();
        let body = timeout(PATIENCE, body.collect())
            .await
            .expect("in time")
            .ok()?
            .to_bytes();
        Some(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    pub(crate) async fn publish(
        &self,
        suffix: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let path = format!("/v1/publish/{suffix}");
        self.try_send(self.public, Method::POST, &path, headers, body)
            .await
            .expect("answered")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.try_send(self.admin, Method::GET, path, &[], "")
            .await
            .expect("answered")
    }

    /// A file of its folder.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn terminate(mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let killed = Command::new("kill")
            .arg(child.id().to_string())
            .status()
            .expect("kill runs");
        assert!(killed.success());
        tokio::task::spawn_blocking(move || child.wait().expect("it ends"))
            .await
            .expect("no panic")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks until there is an answer; there is no event to wait for across processes.
pub(crate) async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "nothing within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}
