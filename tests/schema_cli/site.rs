//! A place to call `arqon schema` in.

use std::{error::Error, fs, path::Path, process::Stdio};

use arqon_test_support::NatsServer;
use async_nats::jetstream::{self, kv::Store};
use serde_json::Value;
use tokio::process::Command;

use crate::Outcome;

/// A server, a folder, and a bucket of this test's own.
pub(crate) struct Site {
    pub(crate) server: NatsServer,
    folder: tempfile::TempDir,
    pub(crate) bucket: String,
}

/// What a command ended with.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) errors: String,
}

impl Ended {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Site {
    pub(crate) async fn new() -> Result<Self, Box<dyn Error>> {
        let server = NatsServer::start().await?;
        Ok(Self {
            bucket: format!("SCHEMAS_{}", server.unique()),
            server,
            folder: tempfile::tempdir()?,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, fields: &str) -> Outcome {
        let source = format!("syntax = \"proto3\"; package u; message User {{ {fields} }}");
        Ok(fs::write(self.path().join(name), source)?)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arqon"));
        command
            .arg("schema")
            .args(arguments)
            .args(["--nats", self.server.url(), "--bucket", &self.bucket])
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Ended, Box<dyn Error>> {
        let output = self.command(arguments).output().await?;
        Ok(Ended {
            code: output.status.code(),
            out: String::from_utf8(output.stdout)?,
            errors: String::from_utf8(output.stderr)?,
        })
    }

    pub(crate) async fn store(&self) -> Result<Store, Box<dyn Error>> {
        let client = self.server.client().await?;
        Ok(jetstream::new(client).get_key_value(&self.bucket).await?)
    }
}
