//! The reference gateway: HTTP and WebSocket in, NATS JetStream (or memory) out, all four Arqon layers between.
//!
//! `arqon-gateway demo` shows everything at work on free loopback ports; `arqon-gateway serve` is the server.

mod admin;
mod app;
mod body;
mod brake;
mod buffers;
mod bus;
mod console;
mod control;
mod demo;
mod divergence;
mod edge;
mod engine;
mod feed;
mod frame;
mod guard;
mod head_timer;
mod hearing;
mod hub;
mod ingress;
mod log;
mod observe;
mod panics;
mod readiness;
mod recorder;
mod reload;
mod request_id;
mod routes;
mod server;
mod tls;
mod ws;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use arqon::{
    config::{Config, ConfigFlags},
    platform::Platform,
};
use clap::{Args, Parser, Subcommand};

use self::reload::Source;

/// The system's allocator took a tenth of a request's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The reference gateway of Arqon.
#[derive(Debug, Parser)]
#[command(
    name = "arqon-gateway",
    version,
    about,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts everything embedded on free loopback ports, sends real traffic through all four layers, prints what each
    /// decided, and ends with 0 only if every expectation held.
    Demo,
    /// Serves until SIGTERM or Ctrl-C (the default).
    Serve(Serve),
    /// Reads a configuration, prints every finding and ends with 0 or 2.
    Check {
        /// The file.
        #[arg(long)]
        config: PathBuf,
        #[command(flatten)]
        flags: ConfigFlags,
    },
}

#[derive(Clone, Debug, Default, Args)]
struct Serve {
    /// The configuration file. Without one: embedded, no rules, 127.0.0.1:8080.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: ConfigFlags,
}

impl Serve {
    /// Where the configuration comes from, for a reload.
    fn source(&self) -> Source {
        Source {
            file: self.config.clone(),
            flags: self.flags.overrides(),
        }
    }
}

/// What was given cannot be used: said before anything listens.
const EXIT_USAGE: u8 = 2;

/// How long reads that hang may hold up the end: a disk that is gone answers nobody.
const LAST_READS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return refuse("not started", &format!("the system gives no threads: {error}")),
    };
    let ended = runtime.block_on(async {
        match arguments.command {
            Some(Command::Demo) => demo::run().await,
            Some(Command::Check { config, flags }) => check(&config, &flags).await,
            Some(Command::Serve(serve)) => run(&serve).await,
            None => run(&arguments.serve).await,
        }
    });
    runtime.shutdown_timeout(LAST_READS);
    ended
}

/// What `serve` would say of the file before it listens: values, and what they name.
async fn check(file: &Path, flags: &ConfigFlags) -> ExitCode {
    let checked = match Config::load(Some(file), &flags.overrides()) {
        Ok(config) => match edge::check(&config) {
            Ok(()) => Platform::check(&app::effective(config.clone()).platform)
                .await
                .map(|()| config),
            Err(findings) => Err(findings),
        },
        Err(findings) => Err(findings),
    };
    match checked {
        Ok(config) => {
            for warning in config.warnings() {
                eprintln!("warning: {warning}");
            }
            println!("{}: ok", file.display());
            ExitCode::SUCCESS
        }
        Err(findings) => refuse(
            &format!("{} does not hold", file.display()),
            &findings.to_string(),
        ),
    }
}

async fn run(serve: &Serve) -> ExitCode {
    let config = match Config::load(serve.config.as_deref(), &serve.flags.overrides()) {
        Ok(config) => config,
        Err(findings) => return refuse("not started", &findings.to_string()),
    };
    log::start(&config.telemetry);
    panics::tell();
    for warning in config.warnings() {
        tracing::warn!(component = "config", key = warning.key, "{}", warning.message);
    }
    let metrics = match observe::metrics() {
        Ok(metrics) => metrics,
        Err(error) => return refuse("not started", &error),
    };
    // Before the start: a SIGHUP must not end a process that is about to serve, and a SIGTERM not one that serves already.
    let reloads = observe::reload_signals();
    let stop = observe::stop_signal();
    let mut gateway = match app::Gateway::start(config, metrics).await {
        Ok(gateway) => gateway,
        Err(findings) => return refuse("not started", &findings),
    };
    eprintln!(
        "arqon-gateway: publish on http://{}, console on http://{}/",
        gateway.public(),
        gateway.admin()
    );
    gateway.reload_from(serve.source(), reloads);
    let signal = stop.await;
    tracing::info!(component = "gateway", signal, "draining");
    gateway.drain().await;
    tracing::info!(component = "gateway", "drained");
    ExitCode::SUCCESS
}

/// A line each, but for a report on a policy, whose heading and facts are no findings, and for a file that a parser gave up:
/// what it draws of it and says below is all one.
fn count(findings: &str) -> usize {
    let lines: Vec<_> = findings
        .lines()
        .take_while(|line| !reload::is_picture(line))
        .collect();
    let is_finding = |at: usize| {
        let inner = |line: &&str| line.starts_with("  ");
        if inner(&lines[at]) {
            !["  facts:", "  dry run of", "  warning "]
                .iter()
                .any(|start| lines[at].starts_with(start))
        } else {
            !lines.get(at + 1).is_some_and(inner)
        }
    };
    (0..lines.len()).filter(|at| is_finding(*at)).count()
}

fn refuse(what: &str, findings: &str) -> ExitCode {
    // One finding is one sentence; more are a line each.
    match (findings.lines().count(), count(findings)) {
        (1, _) => eprintln!("arqon-gateway: {what}: {findings}"),
        (_, 1) => eprintln!("arqon-gateway: {what}, 1 finding:\n{findings}"),
        (_, count) => eprintln!("arqon-gateway: {what}, {count} findings:\n{findings}"),
    }
    ExitCode::from(EXIT_USAGE)
}
