//! A gateway process and clients for it.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
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
/// A key set with one key.
const KEYS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
pub(crate) const BLOCK_ME: &str = include_str!("../../../policies/wat/block_me.wat");

pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arqon-gateway"));
    command.env_remove("RUST_LOG").env("RUST_LOG", "warn");
    command
}

/// A folder with a policy, a schema, a token, a key set and the given configuration.
pub(crate) fn folder(config: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    std::fs::create_dir(folder.path().join("schemas")).expect("made");
    write("schemas/v1.events.user_created.proto", SCHEMA);
    write("block_me.wat", BLOCK_ME);
    write("keys.json", KEYS);
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
    child: Mutex<Option<Child>>,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    folder: TempDir,
    arguments: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
    blocks: Option<u32>,
    logged: bool,
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
    pub(crate) fn start(config: &str, more: &[&str]) -> Self {
        Self::start_with(config, more, &[])
    }

    /// The same with variables in its environment.
    pub(crate) fn start_with(
        config: &str,
        more: &[&str],
        environment: &[(&'static str, &'static str)],
    ) -> Self {
        let folder = folder(config);
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (public, admin) = (loopback(free_port()), loopback(free_port()));
        let mut arguments = ["serve", "--config", "gateway.toml", "--listen"]
            .map(str::to_owned)
            .to_vec();
        arguments.extend([public.to_string(), "--admin-listen".to_owned(), admin.to_string()]);
        arguments.extend(more.iter().map(ToString::to_string));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut gateway = Self {
            child: Mutex::default(),
            public,
            admin,
            client,
            folder,
            arguments,
            environment: environment.to_vec(),
            blocks: None,
            logged: false,
        };
        gateway.start_again();
        gateway
    }

    /// Starts again with its log in the file `gateway.log` of its folder, and waits until it is ready.
    pub(crate) async fn logged(config: &str) -> Self {
        Self::logging(config, "warn").await
    }

    /// The same, and the log is filtered so.
    pub(crate) async fn logging(config: &str, filter: &'static str) -> Self {
        let gateway = Self::logging_unready(config, filter);
        gateway.becomes_ready(true).await;
        gateway
    }

    /// The same, and it is not waited for.
    pub(crate) fn logging_unready(config: &str, filter: &'static str) -> Self {
        let mut gateway = Self::start_with(config, &[], &[("RUST_LOG", filter)]);
        gateway.kill();
        gateway.logged = true;
        gateway.start_again();
        gateway
    }

    /// The lines of its log so far that are JSON.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("gateway.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Starts with a limit on the size of every file it writes, in blocks of 512 bytes, as if the disk were full then.
    #[cfg(unix)]
    pub(crate) async fn limited(config: &str, blocks: u32) -> Self {
        let mut gateway = Self::start(config, &[]);
        gateway.kill();
        gateway.blocks = Some(blocks);
        gateway.start_again();
        gateway.becomes_ready(true).await;
        gateway
    }

    /// Starts the process (again), with the same folder and addresses.
    pub(crate) fn start_again(&mut self) {
        let mut command = binary();
        if let Some(blocks) = self.blocks {
            command = Command::new("sh");
            // A write beyond the limit is an error then, and no signal.
            let script = r#"trap '' XFSZ; ulimit -f "$1"; shift; exec "$@""#;
            command.args([
                "-c",
                script,
                "sh",
                &blocks.to_string(),
                env!("CARGO_BIN_EXE_arqon-gateway"),
            ]);
            command.env("RUST_LOG", "warn");
        }
        let log = if self.logged {
            let log = std::fs::File::options()
                .create(true)
                .append(true)
                .open(self.path("gateway.log"));
            Stdio::from(log.expect("opened"))
        } else {
            Stdio::inherit()
        };
        let child = command
            .args(&self.arguments)
            .envs(self.environment.iter().copied())
            .current_dir(self.folder.path())
            .stderr(log)
            .spawn()
            .expect("the gateway starts");
        *self.child.get_mut().expect("no test panics with it") = Some(child);
    }

    /// Starts the process (again), which is to end by itself; yields why.
    pub(crate) fn refuses_to_start(&self) -> String {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let ended = run(self.folder.path(), &arguments);
        assert!(!ended.status.success(), "{ended:?}");
        String::from_utf8(ended.stderr).expect("text")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("no test panics with it")
    }

    /// Panics where the process has ended: nothing is to be waited for.
    fn must_run(&self) {
        let ended = self.child().as_mut().expect("it was started").try_wait();
        if let Some(status) = ended.expect("a child of ours") {
            panic!("the gateway has ended: {status}");
        }
    }

    /// Ends the process as a power cut would.
    pub(crate) fn kill(&mut self) {
        let child = self.child.get_mut().ok().and_then(Option::take);
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
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
            self.must_run();
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

    /// Puts another file in the place of one of its folder's, as an editor does.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        let beside = self.path(&format!("{name}.new"));
        std::fs::write(&beside, text).expect("written");
        std::fs::rename(beside, self.path(name)).expect("renamed");
    }

    /// Sends a signal, such as `HUP`.
    pub(crate) fn signal(&self, signal: &str) {
        let process = self.child().as_ref().expect("it runs").id();
        let sent = Command::new("kill")
            .args(["-s", signal, &process.to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn terminate(self) -> std::process::ExitStatus {
        let mut child = self.child().take().expect("it runs");
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
        self.kill();
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

/// A network between a gateway and a server, which can be cut, or lose what the server delivers of some subjects.
pub(crate) struct Proxy {
    address: SocketAddr,
    up: tokio::sync::watch::Sender<bool>,
    eaten: Arc<AtomicUsize>,
}

impl Proxy {
    /// Passes everything on to the server of `url`.
    pub(crate) async fn to(url: &str) -> Self {
        Self::eating(url, None).await
    }

    /// Passes everything on but the messages whose subject starts with `lost`, and heartbeats: both are eaten.
    pub(crate) async fn eating(url: &str, lost: Option<&str>) -> Self {
        let server: SocketAddr = url.trim_start_matches("nats://").parse().expect("an address");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let (up, is_up) = tokio::sync::watch::channel(true);
        let eaten = Arc::new(AtomicUsize::new(0));
        let (lost, counting) = (lost.map(str::to_owned), Arc::clone(&eaten));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut is_up, lost, eaten) = (is_up.clone(), lost.clone(), Arc::clone(&counting));
                tokio::spawn(async move {
                    // What is connected while the network is cut stands still, and is lost when it heals.
                    if is_up.wait_for(|up| *up).await.is_err() {
                        return;
                    }
                    let Ok(mut server) = tokio::net::TcpStream::connect(server).await else {
                        return;
                    };
                    let passing = async {
                        match lost {
                            None => drop(tokio::io::copy_bidirectional(&mut client, &mut server).await),
                            Some(lost) => drop(pass(&mut client, &mut server, &lost, &eaten).await),
                        }
                    };
                    tokio::select! {
                        () = passing => {}
                        _ = is_up.wait_for(|up| !up) => {}
                    }
                });
            }
        });
        Self { address, up, eaten }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub(crate) fn cut(&self) {
        self.up.send_replace(false);
    }

    pub(crate) fn heal(&self) {
        self.up.send_replace(true);
    }

    /// How many messages were eaten.
    pub(crate) fn eaten(&self) -> usize {
        self.eaten.load(Ordering::Relaxed)
    }
}

/// Passes on the bytes of a client, and the frames of a server but those that are lost.
async fn pass(
    client: &mut tokio::net::TcpStream,
    server: &mut tokio::net::TcpStream,
    lost: &str,
    eaten: &AtomicUsize,
) -> std::io::Result<()> {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};

    let ((mut from_client, mut to_client), (from_server, mut to_server)) = (client.split(), server.split());
    let up = copy(&mut from_client, &mut to_server);
    let down = async {
        let mut frames = BufReader::new(from_server);
        loop {
            let mut frame = Vec::new();
            if frames.read_until(b'\n', &mut frame).await? == 0 {
                return Ok(());
            }
            let line = String::from_utf8_lossy(&frame).into_owned();
            let words: Vec<_> = line.split_whitespace().collect();
            if let ["MSG" | "HMSG", subject, .., bytes] = words[..] {
                let start = frame.len();
                frame.resize(start + bytes.parse::<usize>().unwrap_or_default() + 2, 0);
                frames.read_exact(&mut frame[start..]).await?;
                let heartbeat = frame[start..].starts_with(b"NATS/1.0 100");
                if heartbeat || subject.starts_with(lost) {
                    eaten.fetch_add(usize::from(!heartbeat), Ordering::Relaxed);
                    continue;
                }
            }
            to_client.write_all(&frame).await?;
        }
    };
    tokio::select! {
        copied = up => copied.map(drop),
        ended = down => ended,
    }
}
