//! A nats-server in a container, by testcontainers.

use std::{env, net::Ipv4Addr, path::Path, time::Duration};

use testcontainers_modules::testcontainers::{
    ContainerAsync, ContainerRequest, GenericBuildableImage, GenericImage, ImageExt,
    core::{BuildImageOptions, IntoContainerPort, WaitFor},
    runners::{AsyncBuilder, AsyncRunner},
};
use tokio::{net::TcpStream, runtime, time::timeout};

use crate::{
    NatsError, Places, Version, binary::Binary, guardian::Guardian, places::Engine, port::free_port,
};

/// The official image; its tag is a promise to stay at that minor version.
const OFFICIAL: (&str, &str) = ("nats", "2.12");
/// What we build carries the `localhost` prefix, so no engine ever looks for it at a public registry.
const BUILT: &str = "localhost/arqon-nats-server";
const DOCKERFILE: &str =
    "FROM scratch\nCOPY nats-server /nats-server\nEXPOSE 4222\nENTRYPOINT [\"/nats-server\"]\n";
/// A registry that cannot be reached must not hold up every test.
const PULL_TIMEOUT: Duration = Duration::from_secs(30);
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a port that somebody else took meanwhile is replaced.
const PORT_TRIES: u32 = 3;
/// `tests/run.sh` names its run here and removes what carries the name at its end.
const LABEL: &str = "arqon-test-run";
const STOP_SECONDS: i32 = 10;

/// A container with a fixed host port, so that it has the same address after a restart.
#[derive(Debug)]
pub(crate) struct Container {
    // Dropped first: its work is done when we still can remove the container ourselves.
    guardian: Option<Guardian>,
    container: Option<ContainerAsync<GenericImage>>,
    image: String,
    url: String,
}

impl Drop for Container {
    fn drop(&mut self) {
        self.guardian = None;
        let Some(container) = self.container.take() else {
            return;
        };
        if runtime::Handle::try_current().is_ok() {
            return drop(container);
        }
        // testcontainers removes a container on the current runtime; a handle kept in a static has none.
        if let Ok(runtime) = runtime::Runtime::new() {
            let _entered = runtime.enter();
            drop(container);
        }
    }
}

impl Container {
    /// Starts one from the image the places name, else the official one, else one built from their binary.
    pub(crate) async fn start(engine: &Engine, places: &Places) -> Result<Self, NatsError> {
        if let Some(image) = &places.image {
            let (name, tag) = split(image);
            return Self::run(engine, name, tag).await;
        }
        let (name, tag) = OFFICIAL;
        let pulled = timeout(PULL_TIMEOUT, GenericImage::new(name, tag).pull_image()).await;
        let why = match pulled {
            Ok(Ok(_)) => return Self::run(engine, name, tag).await,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer from its registry within {} s", PULL_TIMEOUT.as_secs()),
        };
        let Some(program) = places.program() else {
            let why = format!("{why}; and there is no nats-server binary to build an image from");
            return Err(NatsError::Container {
                image: format!("{name}:{tag}"),
                why,
            });
        };
        let version = Binary::version(&program)?;
        Self::build(&program, version).await?;
        Self::run(engine, BUILT, &version.to_string()).await
    }

    /// Builds our image `FROM scratch`; the engine's cache makes every build after the first a matter of milliseconds.
    async fn build(program: &Path, version: Version) -> Result<(), NatsError> {
        let options = BuildImageOptions::new().with_skip_if_exists(true);
        let built = GenericBuildableImage::new(BUILT, version.to_string())
            .with_dockerfile_string(DOCKERFILE)
            .with_file(program, "nats-server")
            .build_image_with(options)
            .await;
        built.map(drop).map_err(|error| {
            let image = format!("{BUILT}:{version}");
            NatsError::Container {
                image,
                why: error.to_string(),
            }
        })
    }

    async fn run(engine: &Engine, name: &str, tag: &str) -> Result<Self, NatsError> {
        let image = format!("{name}:{tag}");
        let failed = |why: String| NatsError::Container {
            image: image.clone(),
            why,
        };
        let mut tries = 0;
        let mut loopback = engine.is_local();
        let (container, url) = loop {
            tries += 1;
            let port = free_port().map_err(|error| failed(error.to_string()))?;
            let container = match request(name, tag, port, loopback).start().await {
                Ok(container) => container,
                Err(error) if tries < PORT_TRIES && is_port_taken(&error.to_string()) => continue,
                Err(error) => return Err(failed(error.to_string())),
            };
            if !loopback {
                let host = container
                    .get_host()
                    .await
                    .map_err(|error| failed(error.to_string()))?;
                break (container, format!("nats://{host}:{port}"));
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
                break (container, format!("nats://127.0.0.1:{port}"));
            }
            // We are in a container ourselves, with the socket of an engine outside: its loopback is not ours.
            loopback = false;
        };
        let guardian = Guardian::of_container(container.id()).map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            guardian: Some(guardian),
            container: Some(container),
            image,
            url,
        })
    }

    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Starts the stopped container again, with its store.
    pub(crate) async fn start_again(&self) -> Result<(), NatsError> {
        self.container()
            .start()
            .await
            .map_err(|error| control("start", error))
    }

    /// Asks the server to end and waits for it.
    pub(crate) async fn stop(&self) -> Result<(), NatsError> {
        let stopped = self.container().stop_with_timeout(Some(STOP_SECONDS)).await;
        stopped.map_err(|error| control("stop", error))
    }

    /// Ends the server as a power cut would.
    pub(crate) async fn kill(&self) -> Result<(), NatsError> {
        self.container()
            .stop_with_timeout(Some(0))
            .await
            .map_err(|error| control("kill", error))
    }

    /// Freezes the server while its connections stay open.
    pub(crate) async fn pause(&self) -> Result<(), NatsError> {
        self.container()
            .pause()
            .await
            .map_err(|error| control("pause", error))
    }

    /// Undoes a pause.
    pub(crate) async fn resume(&self) -> Result<(), NatsError> {
        self.container()
            .unpause()
            .await
            .map_err(|error| control("resume", error))
    }

    fn container(&self) -> &ContainerAsync<GenericImage> {
        self.container.as_ref().expect("it is taken in drop only")
    }
}

/// The container to start: JetStream on; its port is bound to every address, or to loopback alone.
fn request(name: &str, tag: &str, port: u16, loopback: bool) -> ContainerRequest<GenericImage> {
    let run = env::var("TEST_RUN_ID").unwrap_or_else(|_| "none".to_owned());
    let request = GenericImage::new(name, tag)
        .with_wait_for(WaitFor::message_on_stderr("Server is ready"))
        .with_cmd(["-js", "-sd", "/data"])
        .with_mapped_port(port, 4222.tcp())
        .with_label(LABEL, run)
        .with_startup_timeout(START_TIMEOUT);
    if !loopback {
        return request;
    }
    request.with_host_config_modifier(|config| {
        let ports = config
            .port_bindings
            .iter_mut()
            .flat_map(|ports| ports.values_mut());
        for binding in ports.flatten().flatten() {
            binding.host_ip = Some("127.0.0.1".to_owned());
        }
    })
}

/// `name:tag`, where a name may hold a registry's port.
fn split(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

fn is_port_taken(error: &str) -> bool {
    error.contains("port is already allocated") || error.contains("address already in use")
}

fn control(action: &'static str, error: impl std::fmt::Display) -> NatsError {
    NatsError::Control {
        action,
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_split_at_its_tag_not_at_a_port() {
        assert_eq!(split("nats:2.12"), ("nats", "2.12"));
        assert_eq!(
            split("localhost/arqon-nats-server:2.15.1"),
            ("localhost/arqon-nats-server", "2.15.1")
        );
        assert_eq!(split("localhost:5000/nats"), ("localhost:5000/nats", "latest"));
    }
}
