//! The handle a live test holds.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, jetstream};
use tokio::time::{Instant, sleep, timeout};

use crate::{NatsError, Places, Source, Version, binary::Binary, docker::Container, port::random};

/// How long a server may take from its start to its first answer.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);
/// How often a port that somebody else took meanwhile is replaced.
const PORT_TRIES: u32 = 3;

/// A real nats-server with JetStream, killed and removed when the handle is dropped.
#[derive(Debug)]
pub struct NatsServer {
    kind: Kind,
    url: String,
    source: Source,
    unique: String,
}

#[derive(Debug)]
enum Kind {
    Url,
    Container(Box<Container>),
    Binary(Binary),
}

impl NatsServer {
    /// A server from the first source that has one (the crate's documentation has the order).
    ///
    /// # Errors
    /// No source has a server, or the one found is too old or does not start; the sentence says how to mend it.
    pub async fn start() -> Result<Self, NatsError> {
        let server = Self::start_from(&Places::from_env()).await?;
        server.source.announce();
        Ok(server)
    }

    /// A server nobody else uses, even when `TEST_NATS_URL` is set: for tests that stop, kill or pause it.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn start_own() -> Result<Self, NatsError> {
        let server = Self::start_from(&Places::from_env().without_url()).await?;
        server.source.announce();
        Ok(server)
    }

    /// A server from the first of these places that has one. It is not announced.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn start_from(places: &Places) -> Result<Self, NatsError> {
        if let Some(url) = &places.url {
            return Self::at(url).await;
        }
        let mut tried = vec!["TEST_NATS_URL is not set".to_owned()];
        match places.engine().await {
            Some(engine) => match Container::start(engine, places).await {
                Ok(container) => return Self::contained(container).await,
                Err(error @ NatsError::TooOld { .. }) => return Err(error),
                Err(error) => {
                    eprintln!("nats: a Docker engine answers at {engine}, but: {error}");
                    tried.push(error.to_string());
                }
            },
            None => tried.push("no Docker engine answers".to_owned()),
        }
        let Some(program) = places.program() else {
            tried.push("no nats-server in TEST_NATS_SERVER, target/tools or PATH".to_owned());
            return Err(NatsError::Nothing { tried });
        };
        let version = Binary::version(&program)?;
        for last in (0..PORT_TRIES).rev() {
            let mut binary = Binary::spawn(program.clone())?;
            let url = binary.url();
            match ready(&url, || binary.gone()).await {
                Ok(_) => {
                    return Ok(Self::new(
                        Kind::Binary(binary),
                        url,
                        Source::Binary { program, version },
                    ));
                }
                Err(_) if last > 0 && binary.lost_its_port() => {}
                Err(why) => return Err(NatsError::Binary { program, why }),
            }
        }
        unreachable!("the last try returns")
    }

    /// The server at `url`, which must be good enough.
    async fn at(url: &str) -> Result<Self, NatsError> {
        let shown = without_secrets(url);
        let refused = |why: String| NatsError::Url {
            url: shown.clone(),
            why,
        };
        let client = connect(url).await.map_err(refused)?;
        let version = good_enough(&client, format!("TEST_NATS_URL={shown}")).await?;
        Ok(Self::new(
            Kind::Url,
            url.to_owned(),
            Source::Url { url: shown, version },
        ))
    }

    async fn contained(container: Container) -> Result<Self, NatsError> {
        let url = container.url();
        let client = ready(&url, || None).await.map_err(|why| not_ready(&url, why))?;
        let image = container.image().to_owned();
        let version = good_enough(&client, format!("image {image}")).await?;
        Ok(Self::new(
            Kind::Container(Box::new(container)),
            url,
            Source::Testcontainers { image, version },
        ))
    }

    fn new(kind: Kind, url: String, source: Source) -> Self {
        Self {
            kind,
            url,
            source,
            unique: format!("t{:016x}", random()),
        }
    }

    /// The address clients connect to; the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the server came from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// A name of this handle alone, `[a-z0-9]{17}`: good as a tenant, and as part of a stream or bucket name.
    pub fn unique(&self) -> &str {
        &self.unique
    }

    /// A new connection.
    ///
    /// # Errors
    /// The server does not answer: it is stopped or paused.
    pub async fn client(&self) -> Result<Client, NatsError> {
        connect(&self.url).await.map_err(|why| not_ready(&self.url, why))
    }

    /// Ends the server in order and waits until it is gone.
    ///
    /// # Errors
    /// It is not ours to stop, or does not run.
    pub async fn stop(&mut self) -> Result<(), NatsError> {
        match &mut self.kind {
            Kind::Url => Err(NatsError::NotOurs { action: "stop" }),
            Kind::Container(container) => container.stop().await,
            Kind::Binary(binary) => binary.stop().await,
        }
    }

    /// Ends the server as a power cut would, and waits until it is gone.
    ///
    /// # Errors
    /// It is not ours to kill.
    pub async fn kill(&mut self) -> Result<(), NatsError> {
        match &mut self.kind {
            Kind::Url => Err(NatsError::NotOurs { action: "kill" }),
            Kind::Container(container) => container.kill().await,
            Kind::Binary(binary) => {
                binary.kill();
                Ok(())
            }
        }
    }

    /// Starts a stopped or killed server again, with the same address and store, and waits until it answers.
    ///
    /// # Errors
    /// It is not ours to start, or does not become ready.
    pub async fn start_again(&mut self) -> Result<(), NatsError> {
        let url = self.url.clone();
        let answered = match &mut self.kind {
            Kind::Url => return Err(NatsError::NotOurs { action: "start" }),
            Kind::Container(container) => {
                container.start_again().await?;
                ready(&url, || None).await
            }
            Kind::Binary(binary) => {
                binary.start()?;
                ready(&url, || binary.gone()).await
            }
        };
        answered.map(drop).map_err(|why| not_ready(&url, why))
    }

    /// Stops the server in order and starts it again.
    ///
    /// # Errors
    /// As [`NatsServer::stop`] and [`NatsServer::start_again`].
    pub async fn restart(&mut self) -> Result<(), NatsError> {
        self.stop().await?;
        self.start_again().await
    }

    /// Freezes the server: its connections stay open and nothing answers.
    ///
    /// # Errors
    /// It is not ours to pause, or does not run.
    pub async fn pause(&mut self) -> Result<(), NatsError> {
        match &self.kind {
            Kind::Url => Err(NatsError::NotOurs { action: "pause" }),
            Kind::Container(container) => container.pause().await,
            Kind::Binary(binary) => binary.pause().await,
        }
    }

    /// Undoes a pause.
    ///
    /// # Errors
    /// It is not ours to resume, or does not run.
    pub async fn resume(&mut self) -> Result<(), NatsError> {
        match &self.kind {
            Kind::Url => Err(NatsError::NotOurs { action: "resume" }),
            Kind::Container(container) => container.resume().await,
            Kind::Binary(binary) => binary.resume().await,
        }
    }
}

pub(crate) async fn connect(url: &str) -> Result<Client, String> {
    let connecting = ConnectOptions::new()
        .connection_timeout(CONNECT_TIMEOUT)
        .connect(url);
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

/// Connects as soon as the server answers, or says why it never will.
async fn ready(url: &str, mut gone: impl FnMut() -> Option<String>) -> Result<Client, String> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let why = match connect(url).await {
            Ok(client) => return Ok(client),
            Err(why) => why,
        };
        if let Some(why) = gone() {
            return Err(why);
        }
        if Instant::now() > deadline {
            return Err(why);
        }
        sleep(POLL).await;
    }
}

/// Refuses an old server, and one without JetStream.
async fn good_enough(client: &Client, origin: String) -> Result<Version, NatsError> {
    let said = client.server_info().version;
    let unusable = |why: String| NatsError::Url {
        url: origin.clone(),
        why,
    };
    let version =
        Version::parse(&said).ok_or_else(|| unusable(format!("its version {said:?} is not one")))?;
    if !version.is_new_enough() {
        return Err(NatsError::TooOld { version, origin });
    }
    let account = jetstream::new(client.clone()).query_account().await;
    account
        .map(|_| version)
        .map_err(|error| unusable(format!("JetStream is off or not allowed ({error})")))
}

fn not_ready(url: &str, why: String) -> NatsError {
    NatsError::NotReady {
        url: without_secrets(url),
        seconds: READY_TIMEOUT.as_secs(),
        why,
    }
}

/// The address without what stands before an `@`.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    format!(
        "{scheme}://{}",
        rest.rsplit_once('@').map_or(rest, |(_, host)| host)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_user_and_password() {
        assert_eq!(
            without_secrets("nats://user:p%40ss@127.0.0.1:4222"),
            "nats://127.0.0.1:4222"
        );
        assert_eq!(without_secrets("127.0.0.1:4222"), "nats://127.0.0.1:4222");
    }
}
