//! Reload of the configuration on SIGHUP and when its file changes: the whole file or nothing.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arqon::{
    bus::Event,
    config::{Config, Override},
    files,
};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{Shared, effective},
    control::ControlToken,
};

/// How long a changed file has to be still before it is read: whoever writes it in place is not done at once.
const SETTLE: Duration = Duration::from_millis(200);
/// How long a read may take before it is told.
const READ_PATIENCE: Duration = Duration::from_secs(10);
/// How often the file is looked at where the system tells no changes, such as on a network's file system.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where the configuration came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    pub(crate) file: Option<PathBuf>,
    pub(crate) flags: Vec<Override>,
}

/// What `/v1/state` says of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Status {
    /// Counts from 1, and grows with each reload; `ConfigUpdated` tells it.
    pub(crate) version: u64,
    /// Why the last reload was refused, if it was.
    pub(crate) refused: Option<String>,
}

/// The [`Status`] of a running gateway.
pub(crate) struct Running(Mutex<Status>);

impl Default for Running {
    fn default() -> Self {
        Self(Mutex::new(Status {
            version: 1,
            refused: None,
        }))
    }
}

impl Running {
    pub(crate) fn status(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn accept(&self) -> u64 {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        status.version += 1;
        status.refused = None;
        status.version
    }

    /// Whether a refusal was in force; it no longer is.
    fn forgive(&self) -> bool {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        status.refused.take().is_some()
    }

    /// Whether no refusal was in force before.
    fn refuse(&self, why: String) -> bool {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        status.refused.replace(why).is_none()
    }
}

/// What asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// SIGHUP: policies are read anew, even where the file says what it said.
    Signal,
    /// The file has other bytes.
    File,
}

/// Whether a line is of the picture that a parser draws of a file's text.
pub(crate) fn is_picture(line: &str) -> bool {
    let behind_number = line.trim_start_matches(|letter: char| letter.is_ascii_digit());
    behind_number.trim_start().starts_with('|')
}

/// Findings on one line; the picture that a parser draws of the file's text is left out.
fn on_one_line(findings: &str) -> String {
    let lines = findings.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !is_picture(line))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Reloads a running gateway.
pub(crate) struct Reloader {
    shared: Arc<Shared>,
    source: Source,
    running: Config,
    /// Whether what was refused last was not what the file says, but what it names.
    refused_beside: bool,
}

impl Reloader {
    /// `running` is what the gateway was started with, read from `source`.
    pub(crate) fn new(shared: Arc<Shared>, source: Source, running: Config) -> Self {
        Self {
            shared,
            source,
            running,
            refused_beside: false,
        }
    }

    /// Reloads on each of `signals` and on each change of the file, until `stop`.
    pub(crate) async fn run(
        mut self,
        mut signals: mpsc::Receiver<()>,
        stop: CancellationToken,
    ) -> Result<(), String> {
        let mut watch = self.source.file.as_deref().map(FileWatch::new);
        let mut signalled = true;
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let asked = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                signal = signals.recv(), if signalled => {
                    if signal.is_none() {
                        signalled = false;
                        continue;
                    }
                    Asked::Signal
                }
                () = changed => Asked::File,
            };
            self.reload(asked).await;
        }
    }

    async fn reload(&mut self, asked: Asked) {
        match self.swap(asked).await {
            // What was mended says what runs already.
            Ok(false) if self.refused_beside => {}
            Ok(false) => self.mended(),
            Ok(true) => {
                self.mended();
                let version = self.shared.config.accept();
                tracing::info!(component = "config", version, "configuration reloaded");
                metrics::counter!("shield_gateway_reloads_total", "result" => "ok").increment(1);
                // Nobody has to listen.
                let _ = self.shared.bus.publish(Event::ConfigUpdated { version });
            }
            Err(why) => self.refuse(&on_one_line(&why)),
        }
    }

    fn refuse(&self, findings: &str) {
        tracing::error!(
            component = "config",
            findings,
            "the new configuration is refused, the running one stays"
        );
        metrics::counter!("shield_gateway_reloads_total", "result" => "refused").increment(1);
        if self.shared.config.refuse(findings.to_owned()) {
            self.tell_health(false);
        }
    }

    /// The last file that was refused is no longer what the source says.
    fn mended(&self) {
        if self.shared.config.forgive() {
            tracing::info!(component = "config", "the configuration was mended");
            self.tell_health(true);
        }
    }

    fn tell_health(&self, ok: bool) {
        let service = "config".to_owned();
        // Nobody has to listen.
        let _ = self.shared.bus.publish(Event::Health { service, ok });
    }

    /// Whether anything was taken over.
    async fn swap(&mut self, asked: Asked) -> Result<bool, String> {
        let source = self.source.clone();
        let mut reading = tokio::task::spawn_blocking(move || read(&source));
        let read = match timeout(READ_PATIENCE, &mut reading).await {
            Ok(read) => read,
            Err(_) => {
                self.refuse("the file's disk does not answer: it is still being read");
                reading.await
            }
        };
        let next = effective(read.map_err(|died| died.to_string())??);
        let keys = self.running.restart_keys(&next);
        if !keys.is_empty() {
            let verb = if keys.len() == 1 { "needs" } else { "need" };
            return Err(format!(
                "{} {verb} a restart, so nothing of the file is taken over",
                keys.join(", ")
            ));
        }
        if asked == Asked::File && self.running.says_the_same(&next) {
            return Ok(false);
        }
        // Read by now and found to hold; a writer who is at it meanwhile is told.
        let control = self.shared.control.as_ref();
        let token = control.map(ControlToken::read_again).transpose()?;
        let keep_policies = asked == Asked::File && self.running.platform.overseer == next.platform.overseer;
        let reloaded = self.shared.platform.reload(&next.platform, keep_policies).await;
        self.refused_beside = reloaded.is_err();
        reloaded.map_err(|findings| findings.to_string())?;
        // Nothing can be refused any more.
        if let Some((control, token)) = control.zip(token) {
            control.take(token);
        }
        let policies = |config: &Config| config.platform.overseer.policies.len();
        if policies(&self.running) > 0 && policies(&next) == 0 {
            // What a writer leaves that was stopped between two tables looks so.
            tracing::warn!(
                component = "config",
                "no policy is left: every request is allowed"
            );
        }
        self.running = next;
        Ok(true)
    }
}

fn read(source: &Source) -> Result<Config, String> {
    if let Some(file) = &source.file
        && files::read_text(file, files::CONFIG_BYTES_MAX).is_ok_and(|text| text.trim().is_empty())
    {
        // What a writer leaves that was stopped half way; as a configuration it would switch every layer off.
        return Err(format!("{}: is empty", file.display()));
    }
    Config::load(source.file.as_deref(), &source.flags).map_err(|findings| findings.to_string())
}

/// Tells when a file has other bytes than before.
struct FileWatch {
    file: PathBuf,
    seen: Option<u64>,
    signs: mpsc::Receiver<()>,
    looks: tokio::time::Interval,
    _watcher: Option<RecommendedWatcher>,
}

impl FileWatch {
    fn new(file: &Path) -> Self {
        // One place is enough: a sign that is already there covers the next.
        let (sign, signs) = mpsc::channel(1);
        // The folder, not the file: editors and Kubernetes put another file, or another link, in its place.
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = sign.try_send(());
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(folder.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(component = "config", %error, "cannot watch the file's folder, reading it every 5 s");
        }
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            // Unknown, so that a change between the start and now is seen; that which says the same changes nothing.
            seen: None,
            file: file.to_owned(),
            signs,
            looks,
            _watcher: watcher.ok(),
        }
    }

    /// # Cancellation
    /// Dropping this future loses no change; it may be told 5 s later.
    async fn changed(&mut self) {
        loop {
            tokio::select! {
                Some(()) = self.signs.recv() => {}
                _ = self.looks.tick() => {}
            }
            let mut now = digest(&self.file).await;
            while now != self.seen {
                sleep(SETTLE).await;
                let later = digest(&self.file).await;
                if later == now {
                    self.seen = now;
                    return;
                }
                now = later;
            }
        }
    }
}

/// Tells one text from another; `None` where there is no file that can be read.
async fn digest(file: &Path) -> Option<u64> {
    let file = file.to_owned();
    let read = tokio::task::spawn_blocking(move || files::read(&file, files::CONFIG_BYTES_MAX));
    let bytes = read.await.ok()?.ok()?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_one_line_without_pictures() {
        let drawn = "gateway.toml: TOML parse error at line 1, column 9\n  |\n1 | nothing of it\n  |         ^\nexpected `.`, `=`\n";
        assert_eq!(
            on_one_line(drawn),
            "gateway.toml: TOML parse error at line 1, column 9; expected `.`, `=`"
        );
        assert_eq!(
            on_one_line("a: no\nb: 3 | 4 is no number"),
            "a: no; b: 3 | 4 is no number"
        );
    }
}
