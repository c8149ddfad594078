//! The parts of `benches/mirrors.py`, which compares mirrors: a primary (bare, behind `ShadowLayer`, behind a naive
//! `tokio::spawn` mirror), what counts the copies, and the load. One program, because all of them have to be quick.
//!
//! ```text
//! mirrors serve  --listen 127.0.0.1:8000 --kind bare|layer|spawn [--http URL | --nats URL] [--in-flight N] [--percent P]
//! mirrors sink   --listen 127.0.0.1:8001 [--delay-ms N] [--nats URL]
//! mirrors load   --target 127.0.0.1:8000 --seconds N [--connections N]
//! mirrors rounds --target 127.0.0.1:8000 --percent P --pid N [--blocks N] [--seconds N] [--connections N]
//! ```

#[path = "mirrors/load.rs"]
mod load;
#[path = "mirrors/rounds.rs"]
mod rounds;
#[path = "mirrors/serve.rs"]
mod serve;
#[path = "mirrors/sink.rs"]
mod sink;

use std::{collections::HashMap, net::SocketAddr, str::FromStr};

use axum::serve::{Listener, ListenerExt};
use tokio::net::TcpListener;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Requests of one trace.
const TRACE_REQUESTS: u64 = 20;

/// What stands on the command line behind the role.
struct Options(HashMap<String, String>);

impl Options {
    fn of(arguments: &[String]) -> Self {
        let pairs = arguments.chunks_exact(2);
        Self(
            pairs
                .map(|pair| (pair[0].trim_start_matches('-').to_owned(), pair[1].clone()))
                .collect(),
        )
    }

    fn text(&self, name: &str) -> Result<&str, Error> {
        let value = self.0.get(name).map(String::as_str);
        value.ok_or_else(|| format!("--{name} is missing").into())
    }

    fn get<T: FromStr>(&self, name: &str, default: T) -> Result<T, Error> {
        match self.0.get(name) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| format!("--{name} {value}").into()),
        }
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

async fn listen(options: &Options) -> Result<impl Listener<Addr = SocketAddr>, Error> {
    let listener = TcpListener::bind(options.text("listen")?).await?;
    Ok(listener.tap_io(|stream| {
        // Without it an answer may wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
    }))
}

fn main() -> Result<(), Error> {
    let mut arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|given| given != "--bench")
        .collect();
    if arguments.is_empty() {
        println!("the parts of benches/mirrors.py, which is what to run");
        return Ok(());
    }
    let role = arguments.remove(0);
    let options = Options::of(&arguments);
    // One thread for each part, as an nginx worker has: whoever wants more runs more.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match role.as_str() {
        "serve" => runtime.block_on(serve::run(&options)),
        "sink" => runtime.block_on(sink::run(&options)),
        "load" => runtime.block_on(load::run(&options)),
        "rounds" => runtime.block_on(rounds::run(&options)),
        other => Err(format!("{other}: serve, sink, load or rounds").into()),
    }
}
