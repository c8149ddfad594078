//! Several nats-servers that share one JetStream.

use std::time::Duration;

use async_nats::{Client, jetstream};
use tokio::time::{Instant, sleep};

use crate::{
    NatsError, Places,
    binary::Binary,
    port::{free_port, random},
    server::connect,
};

/// How long the servers may take to elect a leader.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Real nats-servers with a replicated JetStream, as processes of this machine: always of the binary, since containers
/// could not reach one another at the addresses they tell. They do not tell clients of one another, so that a test
/// decides which server a client speaks to.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<Binary>,
}

impl NatsCluster {
    /// `size` servers, once their JetStream has a leader.
    ///
    /// # Errors
    /// There is no binary, it is too old, or the servers do not find one another.
    pub async fn start(size: usize) -> Result<Self, NatsError> {
        let Some(program) = Places::from_env().program() else {
            let tried = vec!["no nats-server in TEST_NATS_SERVER, target/tools or PATH".to_owned()];
            return Err(NatsError::Nothing { tried });
        };
        Binary::version(&program)?;
        let failed = |error: std::io::Error| NatsError::Binary {
            program: program.clone(),
            why: error.to_string(),
        };
        let name = format!("c{:016x}", random());
        let routes: Vec<String> = (0..size)
            .map(|_| Ok(format!("nats://127.0.0.1:{}", free_port()?)))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let mut servers = Vec::new();
        for (at, route) in routes.iter().enumerate() {
            let arguments = [
                ("--server_name", format!("{name}-{at}")),
                ("--cluster_name", name.clone()),
                ("--cluster", route.clone()),
                ("--routes", routes.join(",")),
            ];
            let mut arguments: Vec<String> = arguments
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value])
                .collect();
            arguments.push("--no_advertise".to_owned());
            let mut server = Binary::prepare(program.clone(), arguments)?;
            server.start()?;
            servers.push(server);
        }
        let mut cluster = Self { servers };
        cluster.elects(size).await?;
        Ok(cluster)
    }

    /// Waits until a stream with as many copies as there are servers can be made.
    async fn elects(&mut self, replicas: usize) -> Result<(), NatsError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let why = match self.try_stream(replicas).await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if let Some(why) = self.servers.iter_mut().find_map(Binary::gone) {
                return Err(self.not_ready(why));
            }
            if Instant::now() > deadline {
                return Err(self.not_ready(why));
            }
            sleep(POLL).await;
        }
    }

    async fn try_stream(&self, replicas: usize) -> Result<(), String> {
        let client = connect(&self.url(0)).await?;
        let jetstream = jetstream::new(client);
        let config = jetstream::stream::Config {
            name: "READY".to_owned(),
            num_replicas: replicas,
            ..jetstream::stream::Config::default()
        };
        let made = jetstream.create_stream(config).await;
        made.map_err(|error| error.to_string())?;
        let deleted = jetstream.delete_stream("READY").await;
        deleted.map(drop).map_err(|error| error.to_string())
    }

    fn not_ready(&self, why: String) -> NatsError {
        NatsError::NotReady {
            url: self.url(0),
            seconds: READY_TIMEOUT.as_secs(),
            why,
        }
    }

    /// Where clients of one server connect.
    ///
    /// # Panics
    /// When there is no such server.
    pub fn url(&self, at: usize) -> String {
        self.servers[at].url()
    }

    /// A new connection to one server.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn client(&self, at: usize) -> Result<Client, NatsError> {
        connect(&self.url(at)).await.map_err(|why| self.not_ready(why))
    }

    /// Ends one server as a power cut would.
    pub fn kill(&mut self, at: usize) {
        self.servers[at].kill();
    }

    /// Starts a server that was killed again, with the same address and store.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_again(&mut self, at: usize) -> Result<(), NatsError> {
        self.servers[at].start()
    }
}
