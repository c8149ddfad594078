//! The places a server may come from, as data: tests make up their own.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// An engine that does not answer its ping within this time is not used.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const PING: &[u8] = b"GET /_ping HTTP/1.1\r\nhost: docker\r\nconnection: close\r\n\r\n";

/// Where a Docker engine may listen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// A socket file.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl Engine {
    /// Reads a `DOCKER_HOST`; `None` for a scheme testcontainers has no transport for here.
    fn parse(host: &str) -> Option<Self> {
        if let Some(path) = host.strip_prefix("unix://") {
            return Some(Self::Unix(path.into()));
        }
        let address = host
            .strip_prefix("tcp://")
            .or_else(|| host.strip_prefix("http://"))?;
        Some(Self::Tcp(address.trim_end_matches('/').to_owned()))
    }

    /// Whether an engine answers `GET /_ping`. A socket that is not there costs well under a millisecond.
    pub async fn answers(&self) -> bool {
        let asked = async {
            match self {
                Self::Unix(path) => ping(UnixStream::connect(path).await?).await,
                Self::Tcp(address) => ping(TcpStream::connect(address).await?).await,
            }
        };
        matches!(tokio::time::timeout(PING_TIMEOUT, asked).await, Ok(Ok(true)))
    }

    /// Whether containers' ports appear on this machine.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

async fn ping(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<bool> {
    stream.write_all(PING).await?;
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.") && answer.ends_with(b" 200 OK"))
}

/// Every place looked at, in order of preference.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// `TEST_NATS_URL`: a server that runs already.
    pub url: Option<String>,
    /// Engines to ask, the first that answers is used.
    pub engines: Vec<Engine>,
    /// `TEST_NATS_IMAGE`: the image to start there.
    pub image: Option<String>,
    /// `TEST_NATS_SERVER`: a nats-server program.
    pub server: Option<PathBuf>,
    /// Folders to look for `nats-server` in: the project's tools, then `PATH`.
    pub folders: Vec<PathBuf>,
}

impl Places {
    /// The places of this process' environment.
    pub fn from_env() -> Self {
        let value = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let engines = match value("DOCKER_HOST") {
            Some(host) => Engine::parse(&host).into_iter().collect(),
            None => usual_sockets(env::var_os("XDG_RUNTIME_DIR"), env::var_os("HOME")),
        };
        let mut folders = vec![tools()];
        folders.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
        Self {
            url: value("TEST_NATS_URL"),
            engines,
            image: value("TEST_NATS_IMAGE"),
            server: value("TEST_NATS_SERVER").map(PathBuf::from),
            folders,
        }
    }

    /// The same places without a server that runs already: for tests that stop theirs.
    #[must_use]
    pub fn without_url(mut self) -> Self {
        self.url = None;
        self
    }

    /// The same places without Docker.
    #[must_use]
    pub fn without_engines(mut self) -> Self {
        self.engines.clear();
        self
    }

    /// The first engine that answers.
    pub(crate) async fn engine(&self) -> Option<&Engine> {
        for engine in &self.engines {
            if engine.answers().await {
                return Some(engine);
            }
        }
        None
    }

    /// The first program found: the named one even if it is missing, so that the error names it.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        self.server.clone().or_else(|| {
            let programs = self.folders.iter().map(|folder| folder.join("nats-server"));
            programs.into_iter().find(|program| program.is_file())
        })
    }
}

/// Where `tests/run.sh` installs what the tests need.
fn tools() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.ancestors().nth(2).unwrap_or(package);
    root.join("target/tools/venv/bin")
}

/// The places testcontainers looks at, in its order.
fn usual_sockets(runtime: Option<OsString>, home: Option<OsString>) -> Vec<Engine> {
    let mut sockets = vec![PathBuf::from("/var/run/docker.sock")];
    if let Some(runtime) = runtime {
        sockets.push(PathBuf::from(runtime).join(".docker/run/docker.sock"));
    }
    if let Some(home) = home.map(PathBuf::from) {
        sockets.push(home.join(".docker/run/docker.sock"));
        sockets.push(home.join(".docker/desktop/docker.sock"));
    }
    sockets.into_iter().map(Engine::Unix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_host_is_a_socket_or_an_address() {
        assert_eq!(
            Engine::parse("unix:///run/x.sock"),
            Some(Engine::Unix("/run/x.sock".into()))
        );
        assert_eq!(
            Engine::parse("tcp://127.0.0.1:2375"),
            Some(Engine::Tcp("127.0.0.1:2375".into()))
        );
        assert_eq!(Engine::parse("ssh://host"), None);
    }

    #[test]
    fn a_named_program_wins_and_folders_are_tried_in_order() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(second.path().join("nats-server"), "").unwrap();
        let folders = vec![first.path().to_owned(), second.path().to_owned()];
        let mut places = Places {
            folders,
            ..Places::default()
        };
        assert_eq!(places.program(), Some(second.path().join("nats-server")));
        std::fs::write(first.path().join("nats-server"), "").unwrap();
        assert_eq!(places.program(), Some(first.path().join("nats-server")));
        places.server = Some("named".into());
        assert_eq!(places.program(), Some("named".into()));
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_or_not_an_engine_does_not_answer() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!Engine::Unix(folder.path().join("none")).answers().await);
        let path = folder.path().join("other.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let other = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").await.unwrap();
        });
        assert!(!Engine::Unix(path).answers().await);
        other.await.unwrap();
    }
}
