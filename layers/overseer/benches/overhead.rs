//! What a policy costs a request: nanoseconds at the median and the best, and ratios to doing it natively and to wasmtime
//! used directly. One process, variants interleaved; `cargo bench -p arqon-overseer`.
//!
//! The request path is what is timed: building the request, refilling and dropping are not, but for the inline variants.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use arqon_message::MessageBody;
use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service};

const BLOCK_ME: &str = include_str!("../tests/fixtures/block_me.wat");
/// Requests between pauses: fewer than stand by.
const BATCH: usize = 16;
const ROUNDS: usize = 200;

type Inner = tower::util::ServiceFn<
    fn(Request<MessageBody<Empty<Bytes>>>) -> Ready<Result<Response<Empty<Bytes>>, Infallible>>,
>;

fn inner() -> Inner {
    tower::service_fn(|request| {
        black_box(&request);
        ready(Ok(Response::new(Empty::new())))
    })
}

fn request() -> Request<Empty<Bytes>> {
    let mut request = Request::post("/v1/publish/users");
    for (name, value) in [
        ("host", "localhost"),
        ("user-agent", "bench"),
        ("accept", "*/*"),
        ("content-type", "application/json"),
        ("x-request-id", "1"),
        ("authorization", "Bearer x"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("x-other", "1"),
    ] {
        request = request.header(name, value);
    }
    request.body(Empty::new()).unwrap()
}

fn service(config: OverseerConfig) -> impl FnMut(Request<Empty<Bytes>>) {
    let mut service = OverseerLayer::new(config).unwrap().layer(inner());
    move |request| {
        let mut task = tokio_test::task::spawn(service.call(request));
        let Poll::Ready(Ok(response)) = task.poll() else {
            panic!("not ready at once")
        };
        assert_eq!(response.status(), 200);
    }
}

/// The least a host can do with wasmtime itself: a pool, a prepared instance, fuel and epochs, one fresh instance a call.
fn direct() -> impl FnMut(Request<Empty<Bytes>>) {
    use wasmtime::{
        Caller, Config, Engine, InstanceAllocationStrategy, Linker, Memory, Module, PoolingAllocationConfig,
        Store,
    };
    struct State {
        headers: HeaderMap,
        memory: Option<Memory>,
    }
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(8)
        .total_memories(8)
        .total_tables(8)
        .max_memory_size(4 << 20)
        .linear_memory_keep_resident(128 << 10);
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config).unwrap();
    let module = Module::new(&engine, BLOCK_ME).unwrap();
    let mut linker = Linker::<State>::new(&engine);
    linker
        .func_wrap(
            "arqon_host_v1",
            "host_get_header",
            |mut caller: Caller<'_, State>, ptr: i32, len: i32, _: i32, _: i32| {
                let memory = caller.data().memory.unwrap();
                let (bytes, state) = memory.data_and_store_mut(&mut caller);
                let name = std::str::from_utf8(&bytes[ptr as usize..(ptr + len) as usize]).unwrap();
                state.headers.get(name).map_or(-1, |value| value.len() as i32)
            },
        )
        .unwrap();
    let pre = linker.instantiate_pre(&module).unwrap();
    let (memory, entry) = (
        module.get_export_index("memory").unwrap(),
        module.get_export_index("on_request").unwrap(),
    );
    move |request| {
        let headers = request.into_parts().0.headers;
        let mut store = Store::new(
            &engine,
            State {
                headers,
                memory: None,
            },
        );
        store.set_fuel(10_000_000).unwrap();
        store.set_epoch_deadline(6);
        let instance = pre.instantiate(&mut store).unwrap();
        let memory = instance
            .get_module_export(&mut store, &memory)
            .unwrap()
            .into_memory();
        store.data_mut().memory = memory;
        let entry = instance
            .get_module_export(&mut store, &entry)
            .unwrap()
            .into_func()
            .unwrap();
        assert_eq!(
            entry
                .typed::<(), i32>(&store)
                .unwrap()
                .call(&mut store, ())
                .unwrap(),
            0
        );
    }
}

/// A name, what is run, and what it took.
type Variant = (&'static str, Box<dyn FnMut(Request<Empty<Bytes>>)>, Vec<u128>);

fn main() {
    let policy = || [PolicyConfig::from_module("block_me", BLOCK_ME)];
    let with = |standby, shards| OverseerConfig {
        standby,
        shards,
        deadline: Some("1s".to_owned()),
        ..OverseerConfig::of(policy())
    };
    let mut bare = inner();
    let mut variants: Vec<Variant> = vec![
        (
            "native closure",
            Box::new(move |request| {
                assert!(!request.headers().contains_key("x-block-me"));
                let request = request.map(MessageBody::streaming);
                drop(black_box(tokio_test::task::spawn(bare.call(request)).poll()));
            }),
            Vec::new(),
        ),
        (
            "no policy",
            Box::new(service(OverseerConfig::default())),
            Vec::new(),
        ),
        ("standby ready", Box::new(service(with(2 * BATCH, 1))), Vec::new()),
        ("inline fresh", Box::new(service(with(0, 1))), Vec::new()),
        ("wasmtime directly", Box::new(direct()), Vec::new()),
    ];
    for round in 0..ROUNDS {
        for (_, run, nanos) in &mut variants {
            let requests: Vec<_> = (0..BATCH).map(|_| request()).collect();
            for request in requests {
                let begun = Instant::now();
                run(request);
                let took = begun.elapsed().as_nanos();
                if round >= ROUNDS / 6 {
                    nanos.push(took);
                }
            }
            // The queues fill up again.
            thread::sleep(Duration::from_millis(5));
        }
    }
    let median = |nanos: &mut Vec<u128>| {
        nanos.sort_unstable();
        nanos[nanos.len() / 2]
    };
    let medians: Vec<_> = variants.iter_mut().map(|(_, _, nanos)| median(nanos)).collect();
    let (native, directly) = (medians[0].max(1), medians[4].max(1));
    println!(
        "{:<20} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "variant", "best ns", "p50 ns", "p99 ns", "x native", "x wasmtime"
    );
    for ((name, _, nanos), median) in variants.iter().zip(medians) {
        println!(
            "{name:<20} {:>10} {median:>10} {:>10} {:>10.1} {:>12.2}",
            nanos[0],
            nanos[nanos.len() * 99 / 100],
            median as f64 / native as f64,
            median as f64 / directly as f64,
        );
    }
}
