//! A nats-server that asks who is there.

use std::{fs, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{NatsError, Places, binary::Binary};

const READY_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// A real nats-server with a configuration of its own (credentials, TLS), as a process of this machine: always of the
/// binary, since the files of a configuration would have to be in a container too.
#[derive(Debug)]
pub struct GuardedServer {
    binary: Binary,
    folder: TempDir,
}

impl GuardedServer {
    /// A server with this configuration, beside which these files stand; `DIR` in the configuration is their folder. It
    /// accepts connections, and whether it accepts a client is what the test is about.
    ///
    /// # Errors
    /// There is no binary, it is too old, or it does not start.
    pub async fn start(configuration: &str, files: &[(&str, &str)]) -> Result<Self, NatsError> {
        let Some(program) = Places::from_env().program() else {
            let tried = vec!["no nats-server in TEST_NATS_SERVER, target/tools or PATH".to_owned()];
            return Err(NatsError::Nothing { tried });
        };
        Binary::version(&program)?;
        let failed = |error: std::io::Error| NatsError::Binary {
            program: program.clone(),
            why: error.to_string(),
        };
        let folder = tempfile::tempdir().map_err(failed)?;
        for (name, text) in files {
            fs::write(folder.path().join(name), text).map_err(failed)?;
        }
        let file = folder.path().join("nats.conf");
        let shown = folder.path().display().to_string();
        fs::write(&file, configuration.replace("DIR", &shown)).map_err(failed)?;
        let arguments = vec!["-c".to_owned(), file.display().to_string()];
        let mut binary = Binary::prepare(program.clone(), arguments)?;
        binary.start()?;
        let mut server = Self { binary, folder };
        server.answers().await?;
        Ok(server)
    }

    async fn answers(&mut self) -> Result<(), NatsError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while !self.greets().await {
            let gone = self.binary.gone();
            if gone.is_some() || Instant::now() > deadline {
                return Err(NatsError::NotReady {
                    url: self.url(),
                    seconds: READY_TIMEOUT.as_secs(),
                    why: gone.unwrap_or_else(|| "it does not greet".to_owned()),
                });
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// A server speaks first, also one that wants TLS.
    async fn greets(&self) -> bool {
        let Ok(stream) = TcpStream::connect(self.address()).await else {
            return false;
        };
        let mut line = String::new();
        let read = BufReader::new(stream).read_line(&mut line).await;
        read.is_ok() && line.starts_with("INFO ")
    }

    fn address(&self) -> String {
        self.binary.url().trim_start_matches("nats://").to_owned()
    }

    /// The address clients connect to.
    pub fn url(&self) -> String {
        self.binary.url()
    }

    /// Where the files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
