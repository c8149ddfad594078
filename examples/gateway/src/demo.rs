//! `arqon-gateway demo`: the main job, end to end, on free loopback ports.
//!
//! Everything is real: the gateway runs as `serve` runs it, from a configuration file with a policy, a schema, a catalog
//! and keys made for the occasion; clients talk HTTP and WebSocket to its sockets; an approval and an emergency stop go
//! through the signed control route. Each expectation is checked against what came out at the other side.

mod client;
mod scenes;
mod table;

use std::{path::Path, process::ExitCode};

use arqon::{
    config::{Config, LogFormat, TelemetryConfig},
    rollout::KeyPair,
};

use self::{client::Fault, scenes::Scenes, table::Table};
use crate::{app::Gateway, log, observe};

const POLICY: &str = include_str!("../../policies/wat/block_me.wat");
const SCHEMA: &str = r#"syntax = "proto3";
package events.v1;
message UserCreated {
  string user_id = 1;
  int32 age = 2;
}
"#;
const CATALOG: &str = r#"{
  "version": 1,
  "baseline": 1,
  "variants": [{ "id": 1, "name": "stable" }, { "id": 42, "name": "fast" }]
}
"#;

/// The share of traces that the demo mirrors.
const MIRRORED: f64 = 0.25;

/// Runs the demo.
pub(crate) async fn run() -> ExitCode {
    // Log lines would tear the table; `RUST_LOG` brings them back.
    if std::env::var_os("RUST_LOG").is_some() {
        log::start(&TelemetryConfig {
            log: LogFormat::Text,
            ..TelemetryConfig::default()
        });
    }
    let mut table = Table::default();
    let metrics = match play(&mut table).await {
        Ok(metrics) => metrics,
        Err(fault) => {
            table.print();
            eprintln!("\nthe demo could not go on: {fault}");
            return ExitCode::FAILURE;
        }
    };
    table.print();
    println!("\nmetrics (from /metrics of the admin listener):");
    let shown = metrics
        .lines()
        .filter(|line| line.starts_with("shield_") || line.starts_with("bus_"));
    for line in shown.filter(|line| !line.contains("_bucket{") && !line.ends_with(" 0")) {
        println!("  {line}");
    }
    if table.wrong().is_empty() {
        println!("\nall {} rows are as expected", table.len());
        println!(
            "\nto look around: `arqon-gateway serve --config examples/gateway/gateway.toml`, then open http://127.0.0.1:9901/"
        );
        ExitCode::SUCCESS
    } else {
        println!("\nnot as expected:");
        for wrong in table.wrong() {
            println!("  {wrong}");
        }
        ExitCode::FAILURE
    }
}

async fn play(table: &mut Table) -> Result<String, Fault> {
    let folder = tempfile::tempdir()?;
    let operator = KeyPair::generate("ops-1")?;
    let on_call = KeyPair::generate("sre-1")?;
    write_files(folder.path(), &operator, &on_call)?;
    // Nothing of the environment: the demo is the same everywhere.
    let config = Config::from_toml(
        &std::fs::read_to_string(folder.path().join("gateway.toml"))?,
        folder.path(),
    )?;
    let token = arqon::config::control_token(&folder.path().join("control.token"))?;
    let metrics = observe::metrics()?;
    let gateway = Gateway::start(config, metrics).await?;
    println!(
        "gateway on http://{}, operators on http://{}\n",
        gateway.public(),
        gateway.admin()
    );

    let mut scenes = Scenes::new(&gateway, table, token)?;
    scenes.policy().await?;
    scenes.contract().await?;
    scenes.mirror().await?;
    scenes.rollout(&operator).await?;
    scenes.emergency_stop(&on_call).await?;
    scenes.websocket().await?;
    let metrics = scenes.metrics().await?;
    gateway.drain().await;
    Ok(metrics)
}

fn write_files(folder: &Path, operator: &KeyPair, on_call: &KeyPair) -> Result<(), Fault> {
    let public = |key: &KeyPair| {
        let key = key.public().to_config();
        format!("{{ keyid = {:?}, ed25519 = {:?} }}", key.keyid, key.ed25519)
    };
    let config = format!(
        r#"
[gateway]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
control_token_file = "control.token"

[platform.overseer]
enabled = true
deadline = "1s" # wall clock: this has to hold on a busy machine too
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"

[platform.registry]
enabled = true
dir = "schemas"
mappings = [{{ subject = "in.t.default.users.*", schema_id = "v1.events.user_created", message = "events.v1.UserCreated", level = "strict", required = ["user_id"] }}]

[platform.rollout]
enabled = true
tenants = ["default"]
node_id = "demo"
threshold = 1
keys = [{}]
stop_keys = [{}]
catalog = {{ path = "catalog.json" }}
key = "trace"

[platform.mirroring]
enabled = true
rules = [{{ prefix = "in.t.default.>", percent = {MIRRORED} }}]
"#,
        public(operator),
        public(on_call),
    );
    std::fs::create_dir(folder.join("schemas"))?;
    std::fs::write(folder.join("schemas/v1.events.user_created.proto"), SCHEMA)?;
    std::fs::write(folder.join("block_me.wat"), POLICY)?;
    std::fs::write(folder.join("catalog.json"), CATALOG)?;
    std::fs::write(
        folder.join("control.token"),
        format!("{}\n", arqon::ConnectionId::mint()),
    )?;
    std::fs::write(folder.join("gateway.toml"), config)?;
    Ok(())
}
