//! Says once where the servers come from.

use std::{
    collections::BTreeSet,
    env, fmt,
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use crate::Version;

/// Where a server came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A server named by `TEST_NATS_URL`.
    Url {
        /// Its address, without user and password.
        url: String,
        /// What it said it is.
        version: Version,
    },
    /// A container.
    Testcontainers {
        /// The image it was started from.
        image: String,
        /// What it said it is.
        version: Version,
    },
    /// A process.
    Binary {
        /// The program.
        program: PathBuf,
        /// What it said it is.
        version: Version,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, version } => write!(f, "TEST_NATS_URL ({url}, nats-server {version})"),
            Self::Testcontainers { image, version } => {
                write!(f, "testcontainers (image {image}, nats-server {version})")
            }
            Self::Binary { program, version } => {
                write!(f, "binary ({}, nats-server {version})", program.display())
            }
        }
    }
}

static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

impl Source {
    /// One line to stderr per process and source, past libtest's capture; one line per server to `TEST_NATS_SOURCES`.
    pub(crate) fn announce(&self) {
        let line = format!("nats: {self}\n");
        if let Some(path) = env::var_os("TEST_NATS_SOURCES") {
            // The line is shorter than a page and the file is opened to append: lines of several processes stay whole.
            let written = OpenOptions::new().create(true).append(true).open(path);
            let _ = written.and_then(|mut file| file.write_all(line.as_bytes()));
        }
        if SAID
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(line.clone())
        {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}
