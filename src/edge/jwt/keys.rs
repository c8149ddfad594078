//! The keys of each issuer: where they come from, what is in force, and the task that keeps them fresh.

use std::{
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use http::Uri;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{
    cache::Cache,
    fetch,
    key::{Key, Origin, SET_BYTES_MAX, read_set},
    token::{IssuerKeys, Limits, Refused, Unverified, Verified},
};
use crate::{
    config::{AuthConfig, Finding, InvalidConfig, IssuerConfig},
    files,
};

/// How often the task looks whether anything is to do.
const TICK: Duration = Duration::from_secs(1);
/// However many tokens name an unknown key: the least time between two fetches from one issuer.
const FETCH_PAUSE: Duration = Duration::from_secs(10);
/// The longest time between two attempts while fetching fails.
const RETRY_MAX: Duration = Duration::from_secs(30);

const TOKENS: &str = "shield_auth_total";
const REFRESHES: &str = "shield_auth_refresh_total";
const KEYS: &str = "shield_auth_keys";

/// Puts at 0 what does not go by an issuer's name.
pub(super) fn register_metrics() {
    describe_counter!(TOKENS, "requests by what came of their token");
    describe_counter!(REFRESHES, "fetches of key sets");
    let known = ["verified", "remembered"].into_iter();
    for result in known.chain(Refused::ALL.map(Refused::as_str)) {
        counter!(TOKENS, "result" => result).increment(0);
    }
    for result in ["done", "failed"] {
        counter!(REFRESHES, "result" => result).increment(0);
    }
}

/// Where generations come from: no two sets of issuers have the same.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

/// Everything that a token is judged by. The request path reads it, [`KeyRefresh`] writes it.
pub(super) struct Issuers {
    limits: Limits,
    issuers: Vec<Issuer>,
    cache: Cache,
    /// Grows after each change of keys: what was remembered under an older one does not count any more.
    generation: AtomicU64,
    verified: Counter,
    remembered: Counter,
    refused: [Counter; Refused::ALL.len()],
}

pub(super) struct Issuer {
    config: IssuerConfig,
    source: Option<(Uri, TlsConnector)>,
    keys: ArcSwap<Vec<Key>>,
    /// The file as it was read.
    seen: Option<FileMark>,
    /// A token named a key that is not there.
    asked: AtomicBool,
    count: Gauge,
}

/// What tells one state of a file from another.
type FileMark = (Option<SystemTime>, u64);

impl Issuers {
    pub(super) fn new(config: &AuthConfig) -> Result<Self, InvalidConfig> {
        let mut findings = config.validate();
        let mut issuers = Vec::new();
        for (at, config) in config.issuers.iter().enumerate() {
            let mut refuse = |key: &str, message: String| {
                let key = format!("auth.issuers[{at}].{key}");
                if !findings.iter().any(|found| found.key == key) {
                    findings.push(Finding::new(key, message));
                }
            };
            match Issuer::new(config) {
                Ok(issuer) => issuers.push(issuer),
                Err((key, message)) => refuse(key, message),
            }
        }
        if !findings.is_empty() {
            return Err(InvalidConfig(findings));
        }
        register_metrics();
        let result = |label: &'static str| counter!(TOKENS, "result" => label);
        Ok(Self {
            limits: Limits {
                token_bytes_max: config.token_bytes_max,
                claims_bytes_max: config.claims_bytes_max,
                leeway: config.leeway_seconds,
            },
            issuers,
            cache: Cache::new(config.cache_entries),
            generation: AtomicU64::new(next_generation()),
            verified: result("verified"),
            remembered: result("remembered"),
            refused: Refused::ALL.map(|refused| result(refused.as_str())),
        })
    }

    /// Judges a token at `now`, in seconds since 1970.
    pub(super) fn judge(&self, token: &str, now: u64) -> Result<Verified, Refused> {
        if token.len() > self.limits.token_bytes_max {
            return Err(Refused::TooLarge);
        }
        let generation = self.generation.load(Ordering::Acquire);
        let digest = self.cache.digest(token);
        if let Some(verified) = digest.and_then(|digest| self.cache.get(&digest, generation)) {
            if now >= verified.ends() {
                return Err(Refused::Expired);
            }
            if verified.holds_at(now) {
                self.remembered.increment(1);
                return Ok(verified);
            }
        }
        let token = Unverified::read(token, self.limits)?;
        let issuer = self
            .issuers
            .iter()
            .find(|issuer| Some(issuer.config.issuer.as_str()) == token.issuer())
            .ok_or(Refused::Issuer)?;
        let keys = issuer.keys.load();
        let rules = IssuerKeys {
            audience: &issuer.config.audience,
            require: &issuer.config.require,
            keys: &keys,
            generation,
        };
        let judged = token.verify(&rules, self.limits, now);
        if matches!(judged, Err(Refused::Key)) {
            issuer.asked.store(true, Ordering::Relaxed);
        }
        let verified = judged?;
        self.verified.increment(1);
        if let Some(digest) = digest {
            self.cache.put(digest, generation, verified.clone());
        }
        Ok(verified)
    }

    /// Whether the key that a token was verified with is still one of its issuer's. No lock, and while no keys change one
    /// comparison.
    pub(super) fn has_key_of(&self, verified: &Verified) -> bool {
        let generation = self.generation.load(Ordering::Acquire);
        if verified.is_of(generation) {
            return true;
        }
        let name = verified.claims().get("iss").and_then(Value::as_str);
        let issuer = self
            .issuers
            .iter()
            .find(|issuer| Some(issuer.config.issuer.as_str()) == name);
        let is_there =
            issuer.is_some_and(|issuer| issuer.keys.load().iter().any(|key| key.print == *verified.key()));
        if is_there {
            verified.seen_in(generation);
        }
        is_there
    }

    pub(super) fn count(&self, refused: Refused) {
        if let Some(at) = Refused::ALL.iter().position(|other| *other == refused) {
            self.refused[at].increment(1);
        }
    }

    pub(super) fn without_keys(&self) -> Option<&str> {
        let empty = self.issuers.iter().find(|issuer| issuer.keys.load().is_empty());
        empty.map(|issuer| issuer.config.issuer.as_str())
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.cache.len()
    }

    #[cfg(test)]
    pub(super) fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// Puts other keys in force; what was verified with the old ones counts no more.
    pub(super) fn swap(&self, issuer: &Issuer, keys: Vec<Key>) {
        issuer.count.set(keys.len() as f64);
        issuer.keys.store(Arc::new(keys));
        self.generation.fetch_max(next_generation(), Ordering::AcqRel);
    }
}

fn next_generation() -> u64 {
    GENERATIONS.fetch_add(1, Ordering::AcqRel)
}

impl Issuer {
    fn new(config: &IssuerConfig) -> Result<Self, (&'static str, String)> {
        let mut keys = Vec::new();
        let mut seen = None;
        if let Some(jwks) = &config.jwks {
            keys = own(&config.issuer, jwks.as_bytes()).map_err(|error| ("jwks", error))?;
        } else if let Some(path) = &config.jwks_file {
            let named = |error: String| ("jwks_file", format!("{} {error}", path.display()));
            seen = mark(path);
            let json = files::read(path, SET_BYTES_MAX as u64)
                .map_err(|error| named(format!("cannot be read: {error}")))?;
            keys = own(&config.issuer, &json).map_err(named)?;
        }
        let source = match &config.jwks_url {
            Some(url) => {
                let url = url
                    .parse()
                    .map_err(|error: http::uri::InvalidUri| ("jwks_url", error.to_string()))?;
                let tls = crate::outbound::connector(config.ca_file.as_deref())
                    .map_err(|error| ("ca_file", error))?;
                Some((url, tls))
            }
            None => None,
        };
        describe_gauge!(KEYS, "usable keys, by issuer");
        let count = gauge!(KEYS, "issuer" => config.issuer.clone());
        count.set(keys.len() as f64);
        Ok(Self {
            config: config.clone(),
            source,
            keys: ArcSwap::from_pointee(keys),
            seen,
            asked: AtomicBool::new(false),
            count,
        })
    }
}

/// Reads an operator's own set; what is in it for others is told once.
fn own(issuer: &str, json: &[u8]) -> Result<Vec<Key>, String> {
    let (keys, left_out) = read_set(json, Origin::Own)?;
    if !left_out.is_empty() {
        let left_out = left_out.join("; ");
        tracing::warn!(
            component = "auth",
            issuer,
            left_out,
            "keys of the set are not used"
        );
    }
    Ok(keys)
}

fn mark(path: &Path) -> Option<FileMark> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len()))
}

/// The task that keeps keys fresh: it reads changed files and fetches from URLs. What cannot be read or fetched, or holds
/// no usable key, changes nothing: the last good keys stay in force.
pub struct KeyRefresh {
    issuers: Arc<Issuers>,
    states: Vec<State>,
    done: Counter,
    failed: Counter,
}

struct State {
    due: Instant,
    fetched: Option<Instant>,
    failures: u32,
    seen: Option<FileMark>,
}

impl std::fmt::Debug for KeyRefresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRefresh")
            .field("issuers", &self.states.len())
            .finish()
    }
}

impl KeyRefresh {
    pub(super) fn new(issuers: Arc<Issuers>) -> Self {
        let now = Instant::now();
        let states = issuers.issuers.iter().map(|issuer| State {
            due: now,
            fetched: None,
            failures: 0,
            seen: issuer.seen,
        });
        let result = |label: &'static str| counter!(REFRESHES, "result" => label);
        Self {
            states: states.collect(),
            issuers,
            done: result("done"),
            failed: result("failed"),
        }
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// Never: the form is that of a supervised task.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            for at in 0..self.states.len() {
                self.look_at_file(at).await;
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = self.look_at_url(at) => {}
                }
            }
        }
    }

    async fn look_at_file(&mut self, at: usize) {
        let issuer = &self.issuers.issuers[at];
        let state = &mut self.states[at];
        // Once fetched, the URL is the truth.
        let Some(path) = issuer
            .config
            .jwks_file
            .clone()
            .filter(|_| state.fetched.is_none())
        else {
            return;
        };
        let seen = state.seen;
        let read = tokio::task::spawn_blocking(move || {
            let now = mark(&path);
            (now.is_some() && now != seen).then(|| (now, files::read(&path, SET_BYTES_MAX as u64)))
        });
        let Ok(Some((now, json))) = read.await else { return };
        state.seen = now;
        let name = issuer.config.issuer.as_str();
        match json
            .map_err(|error| error.to_string())
            .and_then(|json| own(name, &json))
        {
            Ok(keys) => {
                tracing::info!(
                    component = "auth",
                    issuer = name,
                    keys = keys.len(),
                    "the key file was read again"
                );
                self.issuers.swap(issuer, keys);
                self.done.increment(1);
            }
            Err(error) => {
                tracing::warn!(
                    component = "auth",
                    issuer = name,
                    error,
                    "the key file does not hold, the last keys stay"
                );
                self.failed.increment(1);
            }
        }
    }

    async fn look_at_url(&mut self, at: usize) {
        let issuer = &self.issuers.issuers[at];
        let state = &mut self.states[at];
        let Some((url, tls)) = &issuer.source else { return };
        let now = Instant::now();
        let rested = state.fetched.is_none_or(|fetched| now >= fetched + FETCH_PAUSE);
        let asked = rested && state.failures == 0 && issuer.asked.load(Ordering::Relaxed);
        if now < state.due && !asked {
            return;
        }
        let fetched = fetch::get(url, tls).await;
        issuer.asked.store(false, Ordering::Relaxed);
        let name = issuer.config.issuer.as_str();
        match fetched.and_then(|json| read_set(&json, Origin::Fetched)) {
            Ok((keys, left_out)) => {
                let left_out = left_out.len();
                tracing::debug!(
                    component = "auth",
                    issuer = name,
                    keys = keys.len(),
                    left_out,
                    "keys fetched"
                );
                self.issuers.swap(issuer, keys);
                self.done.increment(1);
                state.failures = 0;
                state.fetched = Some(now);
                state.due = now + Duration::from_secs(issuer.config.refresh_seconds);
            }
            Err(error) => {
                let pause = pause(state.failures);
                tracing::warn!(
                    component = "auth",
                    issuer = name,
                    error,
                    "keys cannot be fetched, the last ones stay"
                );
                self.failed.increment(1);
                state.failures = state.failures.saturating_add(1);
                state.due = Instant::now() + pause;
            }
        }
    }
}

/// 1, 2, 4 .. 30 seconds, less up to a half, so that many gateways do not come at once.
fn pause(failures: u32) -> Duration {
    let whole = RETRY_MAX.min(Duration::from_secs(1 << failures.min(5)));
    let random = RandomState::new().hash_one(failures) % 512;
    whole - whole * random as u32 / 1_024
}
