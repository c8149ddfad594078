//! Where messages are sent: gateways' admin listeners, or the control log itself.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use tokio::time::timeout;

use arqon_rollout::{Control, Envelope, Message, NodeId};

use super::{
    Usage,
    fold::{self, Question},
};
use crate::config;

/// Where a gateway listens for its operators, unless told otherwise.
const ADMIN: &str = "http://127.0.0.1:9901";
/// How long one target may take. A gateway waits up to 10 s for the log and itself.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Who is told.
#[derive(Debug, Args)]
pub(in crate::cli) struct Target {
    /// A gateway's admin listener; http://127.0.0.1:9901 when nothing is named. Several for a stop: each has to take it.
    #[arg(long, value_name = "URL")]
    pub(super) admin: Vec<String>,
    /// The file with the gateway's control token (`gateway.control_token_file`).
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Writes to the control log itself, which takes what nodes may refuse: give --config, too.
    #[arg(long, value_name = "URL")]
    pub(super) nats: Option<String>,
    /// With --nats: the gateway's configuration. Its keys and catalog judge here what the log has, as every node with it does.
    #[arg(long, value_name = "FILE", requires = "nats")]
    pub(super) config: Option<PathBuf>,
    /// A credentials file for --nats.
    #[arg(long, value_name = "FILE", requires = "nats")]
    pub(super) creds: Option<PathBuf>,
    /// Whose rollouts; `default` without it, and for `status` every tenant's.
    #[arg(long)]
    tenant: Option<String>,
}

/// What became of a message at one target.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) target: String,
    pub(super) outcome: Delivery,
}

#[derive(Debug)]
pub(super) enum Delivery {
    /// In force at this gateway: its answer.
    Taken(Value),
    /// In the log, and in force where it is folded with the configuration given.
    Folded {
        seq: u64,
        state: String,
        /// Other scopes that it holds.
        holds: Vec<String>,
    },
    /// In the log; nobody has judged it here, and why, if it was tried.
    Logged {
        seq: u64,
        why: Option<String>,
    },
    Refused {
        reason: String,
        detail: String,
        /// The counter that its issuer has come to, where that is why.
        last: Option<u64>,
        /// The log's time, where the signer's clock is why.
        log_time_us: Option<u64>,
    },
    Failed(String),
}

impl Target {
    /// Whether anybody was named.
    pub(super) fn is_named(&self) -> bool {
        !self.admin.is_empty() || self.nats.is_some()
    }

    /// Whose rollouts.
    pub(super) fn tenant(&self) -> &str {
        self.tenant.as_deref().unwrap_or("default")
    }

    /// Whose rollouts, if that was said.
    pub(super) fn chosen_tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The gateways that are asked; the local one if nobody was named.
    pub(super) fn admins(&self) -> Vec<String> {
        if self.is_named() {
            self.admin.clone()
        } else {
            vec![ADMIN.to_owned()]
        }
    }

    /// The token, if there is a file.
    fn token(&self) -> Result<Option<String>, Usage> {
        let Some(file) = &self.token_file else {
            return Ok(None);
        };
        config::control_token(file)
            .map(Some)
            .map_err(|error| anyhow::anyhow!("--token-file: {error}"))
    }

    /// Sends an envelope to the targets that are `wanted` by their place, all at a time: the gateways, then the log.
    pub(super) async fn send(
        &self,
        envelope: &Envelope,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<Vec<Sent>, Usage> {
        let token = self.token()?;
        let json = Bytes::from(envelope.to_json());
        let all = self.admins();
        let to_log = self.nats.as_ref().filter(|_| wanted(all.len()));
        let chosen = all.into_iter().enumerate().filter(|(at, _)| wanted(*at));
        let admins: Vec<String> = chosen.map(|(_, url)| url).collect();
        let requests = admins
            .iter()
            .map(|url| request(url, Method::POST, "/v1/control", token.as_deref(), json.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let posts = join_all(
            requests
                .into_iter()
                .map(|request| async { judged(post(request).await) }),
        );
        let logs = async {
            let url = to_log?;
            let outcome = append(url, self.creds.as_deref(), envelope).await;
            let outcome = outcome.unwrap_or_else(|error| Delivery::Failed(format!("{error:#}")));
            Some(Sent {
                target: url.clone(),
                outcome: self.judge(url, envelope, outcome).await,
            })
        };
        let (posted, logged) = tokio::join!(posts, logs);
        let posted = admins
            .into_iter()
            .zip(posted)
            .map(|(target, outcome)| Sent { target, outcome });
        Ok(posted.chain(logged).collect())
    }

    /// What is in the log, judged with the configuration given.
    async fn judge(&self, url: &str, envelope: &Envelope, outcome: Delivery) -> Delivery {
        let (Delivery::Logged { seq, .. }, Some(config)) = (&outcome, &self.config) else {
            return outcome;
        };
        let Ok(control) = envelope.control() else {
            return outcome;
        };
        fold::judge(Question {
            url,
            creds: self.creds.as_deref(),
            config,
            tenant: &control.tenant,
            scope: control.scope.as_deref().unwrap_or_default(),
            seq: *seq,
        })
        .await
    }

    /// `/v1/state` of the first gateway named.
    pub(super) async fn state(&self) -> Result<Value, Usage> {
        let admins = self.admins();
        state_of(admins.first().map_or(ADMIN, String::as_str)).await
    }

    /// `/v1/state` of every gateway named, asked at a time.
    pub(super) async fn states(&self) -> Vec<(String, Result<Value, Usage>)> {
        let asked = self.admins().into_iter().map(|url| async {
            let state = state_of(&url).await;
            (url, state)
        });
        join_all(asked).await
    }
}

async fn state_of(url: &str) -> Result<Value, Usage> {
    let request = request(url, Method::GET, "/v1/state", None, Bytes::new())?;
    let (status, body) = post(request).await.with_context(|| unreachable(url))?;
    anyhow::ensure!(
        status == StatusCode::OK,
        "{url} answered {status} to /v1/state: is it a gateway's admin listener?"
    );
    serde_json::from_slice(&body).with_context(|| format!("{url}: /v1/state is no JSON"))
}

fn unreachable(url: &str) -> String {
    format!("{url} cannot be reached: name the gateway's admin listener with --admin")
}

fn request(
    url: &str,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Usage> {
    let base = url.trim_end_matches('/');
    anyhow::ensure!(
        base.starts_with("http://"),
        "--admin {url}: write http://host:port (for TLS, a tunnel: the admin listener is for this machine)"
    );
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{base}{path}"))
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request
        .body(Full::new(body))
        .with_context(|| format!("--admin {url} is no URL: write http://host:port"))
}

async fn post(request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Usage> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = async {
        let (parts, body) = client.request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok::<_, Usage>((parts.status, body))
    };
    timeout(PATIENCE, answer)
        .await
        .with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))?
}

fn judged(answer: Result<(StatusCode, Bytes), Usage>) -> Delivery {
    let (status, body) = match answer {
        Ok(answer) => answer,
        Err(error) => {
            return Delivery::Failed(format!(
                "cannot be reached ({error:#}): name the gateway's admin listener with --admin"
            ));
        }
    };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    match status {
        StatusCode::OK if body.is_object() => Delivery::Taken(body),
        StatusCode::CONFLICT => Delivery::Refused {
            reason: text("reason"),
            detail: text("detail"),
            last: body["last_counter"].as_u64(),
            log_time_us: body["log_time_us"].as_u64(),
        },
        StatusCode::UNAUTHORIZED => Delivery::Failed(format!(
            "{}: give --token-file, the file of gateway.control_token_file",
            text("detail")
        )),
        StatusCode::NOT_FOUND => Delivery::Failed(
            "its control routes are off: set gateway.control_token_file, and name the admin listener"
                .to_owned(),
        ),
        status => Delivery::Failed(format!("{status}: {}", text("detail"))),
    }
}

/// Where a message belongs in the log.
#[cfg_attr(
    not(feature = "nats"),
    expect(dead_code, reason = "only NATS has a log to write to")
)]
fn channel(envelope: &Envelope) -> Result<arqon_rollout::Channel, Usage> {
    use arqon_message::TenantId;
    use arqon_rollout::Channel;

    let Control { tenant, message, .. } = envelope.control()?;
    let tenant = TenantId::new(&tenant)?;
    Ok(match message {
        Message::Upstream(_) => {
            let keyid = envelope
                .signatures()
                .first()
                .and_then(|signature| signature.keyid.clone());
            let name = keyid.unwrap_or_else(|| "operator".to_owned());
            Channel::Up(tenant, NodeId::new(&name).or_else(|_| NodeId::new("operator"))?)
        }
        Message::Downstream(_) | Message::Rotation(_) => Channel::Down(tenant),
    })
}

#[cfg(feature = "nats")]
async fn append(url: &str, creds: Option<&std::path::Path>, envelope: &Envelope) -> Result<Delivery, Usage> {
    use arqon_rollout::ControlLog;

    let channel = channel(envelope)?;
    let client = connect(url, creds).await?;
    let log = crate::nats::NatsControlLog::existing(client);
    let append = log.append(channel, envelope.to_json().into());
    let appended = timeout(PATIENCE, append)
        .await
        .with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))?;
    match appended {
        Ok(appended) => Ok(Delivery::Logged {
            seq: appended.seq,
            why: None,
        }),
        Err(error) => Ok(Delivery::Failed(error.to_string())),
    }
}

/// A client that is connected.
#[cfg(feature = "nats")]
pub(in crate::cli) async fn connect(
    url: &str,
    creds: Option<&std::path::Path>,
) -> Result<async_nats::Client, Usage> {
    use async_nats::connection::State;

    let client = crate::nats::connect(url, creds).await?;
    let connected = async {
        while client.connection_state() != State::Connected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), connected)
        .await
        .map_err(|_| anyhow::anyhow!("{url} does not answer: is nats-server running there?"))?;
    Ok(client)
}

#[cfg(not(feature = "nats"))]
async fn append(
    _url: &str,
    _creds: Option<&std::path::Path>,
    _envelope: &Envelope,
) -> Result<Delivery, Usage> {
    anyhow::bail!("this program was built without the feature `nats`")
}
