//! A nats-server that runs as a process of this machine.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{NatsError, Version, guardian::Guardian, port::free_port};

/// How long a server may take to end after a polite signal.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// How much of a server's log goes into an error.
const LOG_LINES: usize = 12;

/// One program, one port and one store; a process while it runs.
#[derive(Debug)]
pub(crate) struct Binary {
    running: Option<Running>,
    program: PathBuf,
    port: u16,
    store: TempDir,
    arguments: Vec<String>,
}

#[derive(Debug)]
struct Running {
    // Dropped first: a guardian that outlived its server could meet another process under the same number.
    guardian: Option<Guardian>,
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.guardian = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Binary {
    /// What `program --version` says; an old one is refused.
    pub(crate) fn version(program: &Path) -> Result<Version, NatsError> {
        let failed = |why: String| NatsError::Binary {
            program: program.to_owned(),
            why,
        };
        let output = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let version = Version::parse(&said)
            .ok_or_else(|| failed(format!("`--version` printed {:?}, not a version", said.trim())))?;
        if !version.is_new_enough() {
            return Err(NatsError::TooOld {
                version,
                origin: program.display().to_string(),
            });
        }
        Ok(version)
    }

    /// Starts the program on a free loopback port with an empty store. It may not listen yet.
    pub(crate) fn spawn(program: PathBuf) -> Result<Self, NatsError> {
        let mut server = Self::prepare(program, Vec::new())?;
        server.start()?;
        Ok(server)
    }

    /// A free loopback port and an empty store for the program, which gets these arguments besides.
    pub(crate) fn prepare(program: PathBuf, arguments: Vec<String>) -> Result<Self, NatsError> {
        let failed = |error: io::Error| NatsError::Binary {
            program: program.clone(),
            why: error.to_string(),
        };
        let store = tempfile::Builder::new()
            .prefix("arqon-nats-")
            .tempdir()
            .map_err(failed)?;
        let port = free_port().map_err(failed)?;
        Ok(Self {
            running: None,
            program,
            port,
            store,
            arguments,
        })
    }

    /// Starts the process (again), on the same port and store.
    pub(crate) fn start(&mut self) -> Result<(), NatsError> {
        let failed = |error: io::Error| NatsError::Binary {
            program: self.program.clone(),
            why: error.to_string(),
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(failed)?;
        let child = Command::new(&self.program)
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-js", "-sd"])
            .arg(self.store.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let mut running = Running {
            guardian: None,
            child,
        };
        let guardian = Guardian::of_process(running.child.id(), self.store.path().as_os_str());
        running.guardian = Some(guardian.map_err(failed)?);
        self.running = Some(running);
        Ok(())
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Why the process is gone, with the end of its log; `None` while it runs.
    pub(crate) fn gone(&mut self) -> Option<String> {
        let status = match self.running.as_mut() {
            Some(running) => running.child.try_wait().ok()??.to_string(),
            None => "stopped".to_owned(),
        };
        Some(format!("it ended ({status})\n{}", self.log_tail()))
    }

    /// Whether somebody else took the port between the look and the start.
    pub(crate) fn lost_its_port(&self) -> bool {
        self.log_tail().contains("address already in use")
    }

    /// Asks the process to end (SIGTERM) and waits for it: JetStream's files are closed in order.
    pub(crate) async fn stop(&mut self) -> Result<(), NatsError> {
        self.signal("TERM", "stop").await?;
        let Some(mut running) = self.running.take() else {
            return Ok(());
        };
        let deadline = Instant::now() + STOP_TIMEOUT;
        while running.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                let why = format!("it still runs {} s after SIGTERM", STOP_TIMEOUT.as_secs());
                return Err(NatsError::Control { action: "stop", why });
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Ends the process as a power cut would (SIGKILL).
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Stops the process from running while its connections stay open (SIGSTOP), and waits until every thread stands.
    pub(crate) async fn pause(&self) -> Result<(), NatsError> {
        self.signal("STOP", "pause").await?;
        let id = self.running.as_ref().map_or(0, |running| running.child.id());
        let deadline = Instant::now() + STOP_TIMEOUT;
        while some_thread_runs(id) {
            if Instant::now() > deadline {
                let why = format!("it still runs {} s after SIGSTOP", STOP_TIMEOUT.as_secs());
                return Err(NatsError::Control { action: "pause", why });
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Undoes a pause (SIGCONT).
    pub(crate) async fn resume(&self) -> Result<(), NatsError> {
        self.signal("CONT", "resume").await
    }

    async fn signal(&self, signal: &str, action: &'static str) -> Result<(), NatsError> {
        let failed = |why: String| NatsError::Control { action, why };
        let running = self
            .running
            .as_ref()
            .ok_or_else(|| failed("it does not run".to_owned()))?;
        let output = tokio::process::Command::new("sh")
            .args([
                "-c",
                r#"kill "-$1" "$2""#,
                "sh",
                signal,
                &running.child.id().to_string(),
            ])
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    fn log_path(&self) -> PathBuf {
        self.store.path().join("nats-server.log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// A signal is sent at once but taken by each thread when it is scheduled next. Without `/proc` this says no.
fn some_thread_runs(id: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else {
        return false;
    };
    threads.flatten().any(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // `pid (name) state ..`, where a name may hold anything but ends at the last bracket.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('T'))
    })
}
