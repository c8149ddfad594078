//! The walkers against prost-reflect, static prost and a bare UTF-8 pass, in one process, interleaved, by thread time; the
//! nanoseconds per byte of adversarial payloads at 64 KiB and 1 MiB; what the layer adds to the walk.
//!
//! `cargo bench -p arqon-schema`

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    hint::black_box,
    pin::pin,
    task::{Context, Waker},
};

use arqon_message::{MessageBody, Subject};
use arqon_schema::{
    Descriptors, Level, MappingConfig, MemoryStore, RegistryConfig, Route, SchemaLayer, Validator, channel,
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use rustix::time::{ClockId, clock_gettime};
use tower::{Layer, Service, service_fn};

const SOURCE: &str = r#"
    syntax = "proto3"; package bench; import "buf/validate/validate.proto";
    message Ruled {
        string user_id = 1 [(buf.validate.field) = {required: true, string: {min_len: 2, max_len: 40}}];
        string email = 2 [(buf.validate.field).string.email = true];
        int32 age = 3 [(buf.validate.field).int32 = {gte: 18, lt: 150}]; bool active = 4;
        int64 created = 5 [(buf.validate.field).int64.gt = 0];
    }
    message UserCreated { string user_id = 1; string email = 2; int32 age = 3; bool active = 4; int64 created = 5; }
    message Item { string sku = 1; int32 count = 2; double price = 3; repeated string tags = 4; }
    message Address { string street = 1; string city = 2; string zip = 3; }
    message Order {
        string id = 1; UserCreated user = 2; repeated Item items = 3; map<string, string> labels = 4;
        map<int32, Item> stock = 5; repeated int64 history = 6; repeated double prices = 7; bytes signature = 8;
        Address address = 9; oneof payment { string card = 10; string iban = 11; } fixed64 sum = 12;
        optional int32 priority = 13; Status status = 14; repeated Order parts = 15; repeated string lines = 16;
    }
    enum Status { NEW = 0; PAID = 1; SENT = 2; }
"#;

struct Peer {
    ours: Validator,
    theirs: MessageDescriptor,
}

/// The same messages, compiled in: what an application parses into.
#[derive(Clone, PartialEq, Message)]
struct UserCreated {
    #[prost(string, tag = "1")]
    user_id: String,
    #[prost(string, tag = "2")]
    email: String,
    #[prost(int32, tag = "3")]
    age: i32,
    #[prost(bool, tag = "4")]
    active: bool,
    #[prost(int64, tag = "5")]
    created: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Item {
    #[prost(string, tag = "1")]
    sku: String,
    #[prost(int32, tag = "2")]
    count: i32,
    #[prost(double, tag = "3")]
    price: f64,
    #[prost(string, repeated, tag = "4")]
    tags: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Address {
    #[prost(string, tag = "1")]
    street: String,
    #[prost(string, tag = "2")]
    city: String,
    #[prost(string, tag = "3")]
    zip: String,
}

#[derive(Clone, PartialEq, Message)]
struct Order {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    user: Option<UserCreated>,
    #[prost(message, repeated, tag = "3")]
    items: Vec<Item>,
    #[prost(map = "string, string", tag = "4")]
    labels: HashMap<String, String>,
    #[prost(map = "int32, message", tag = "5")]
    stock: HashMap<i32, Item>,
    #[prost(int64, repeated, tag = "6")]
    history: Vec<i64>,
    #[prost(double, repeated, tag = "7")]
    prices: Vec<f64>,
    #[prost(bytes = "vec", tag = "8")]
    signature: Vec<u8>,
    #[prost(message, optional, tag = "9")]
    address: Option<Address>,
    #[prost(string, optional, tag = "10")]
    card: Option<String>,
    #[prost(string, optional, tag = "11")]
    iban: Option<String>,
    #[prost(fixed64, tag = "12")]
    sum: u64,
    #[prost(int32, optional, tag = "13")]
    priority: Option<i32>,
    #[prost(int32, tag = "14")]
    status: i32,
    #[prost(message, repeated, tag = "15")]
    parts: Vec<Order>,
    #[prost(string, repeated, tag = "16")]
    lines: Vec<String>,
}

fn peer(message: &str, level: Level) -> Peer {
    let mut compiler = protox::Compiler::with_file_resolver(Text);
    compiler
        .include_imports(true)
        .open_file("bench.proto")
        .expect("compiles");
    let set = compiler.encode_file_descriptor_set();
    let ours = Descriptors::decode(&set).and_then(|schema| schema.validator(Some(message), level, &[]));
    let theirs = DescriptorPool::decode(set.as_slice())
        .expect("loads")
        .get_message_by_name(message);
    Peer {
        ours: ours.expect("loads"),
        theirs: theirs.expect("is there"),
    }
}

struct Text;

impl protox::file::FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
        match name {
            "bench.proto" => protox::file::File::from_source(name, SOURCE),
            "buf/validate/validate.proto" => {
                protox::file::File::from_source(name, include_str!("../proto/buf/validate/validate.proto"))
            }
            google => protox::file::GoogleFileResolver::new().open_file(google),
        }
    }
}

/// Nanoseconds of this thread on a processor: what other programs do does not count.
fn clock() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    (now.tv_sec as f64).mul_add(1e9, now.tv_nsec as f64)
}

/// Minimum and median nanoseconds of each, interleaved.
fn race(rounds: usize, work: &mut [&mut dyn FnMut()]) -> Vec<(f64, f64)> {
    let mut times = vec![Vec::with_capacity(rounds); work.len()];
    let batches: Vec<u32> = work
        .iter_mut()
        .map(|work| {
            // The first calls are not like the others, and reading the clock takes longer than a small walk: so the size
            // of a batch is taken from one that is nearly as large.
            (0..3).fold(10, |batch, _| {
                let started = clock();
                (0..batch).for_each(|_| work());
                let one = (clock() - started).max(1.0) / f64::from(batch);
                ((300_000.0 / one) as u32).clamp(1, 10_000)
            })
        })
        .collect();
    for _ in 0..rounds {
        for (at, work) in work.iter_mut().enumerate() {
            let started = clock();
            (0..batches[at]).for_each(|_| work());
            times[at].push((clock() - started) / f64::from(batches[at]));
        }
    }
    times
        .into_iter()
        .map(|mut times| {
            times.sort_by(f64::total_cmp);
            (times[0], times[times.len() / 2])
        })
        .collect()
}

fn order(items: usize) -> String {
    let item = |at: usize| {
        format!(
            r#"{{"sku":"sku-{at:05}","count":{},"price":{}.25,"tags":["new","eu"]}}"#,
            at % 50,
            at % 900
        )
    };
    let items: Vec<String> = (0..items).map(item).collect();
    let labels: Vec<String> = (0..4).map(|at| format!(r#""label-{at}":"value-{at}""#)).collect();
    format!(
        r#"{{"id":"order-1","user":{{"userId":"u-1","email":"a@example.org","age":41,"active":true,"created":"1700000000"}},
        "items":[{}],"labels":{{{}}},"stock":{{"7":{{"sku":"x","count":1}}}},"history":["1","2","300000","4"],
        "prices":[1.5,2.25],"signature":"AAECAwQF","address":{{"street":"Main 1","city":"Bonn","zip":"53111"}},
        "card":"4111","sum":"12345","priority":3,"status":"PAID"}}"#,
        items.join(","),
        labels.join(",")
    )
}

fn main() {
    // `-- layer`: that part only.
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let orders = peer("bench.Order", Level::Strict);
    let users = peer("bench.UserCreated", Level::Strict);
    let ruled = peer("bench.Ruled", Level::Rules);
    let text: String = format!(
        r#"{{"lines":[{}]}}"#,
        vec![format!("\"{}\"", "lorem ipsum ".repeat(340)); 16].join(",")
    );
    let packed = format!(
        r#"{{"history":[{}]}}"#,
        (0..16_000)
            .map(|at| (at * 37).to_string())
            .collect::<Vec<_>>()
            .join(",")
    );
    let user = r#"{"userId":"u-000000001","email":"someone@example.org","age":41,"active":true,"created":"17000000"}"#;
    println!("nanoseconds of thread time, the least of many rounds; ratios to ours");
    println!("payload        kind    bytes       ours   reflect          static           utf8 pass");
    for (name, peer, json) in [
        ("user", &users, user.to_owned()),
        ("user by rules", &ruled, user.to_owned()),
        ("order", &orders, order(20)),
        ("order 64 KiB", &orders, order(1_600)),
        ("text 64 KiB", &orders, text),
        ("packed", &orders, packed),
    ] {
        if wanted.as_deref().is_none_or(|wanted| wanted == name) {
            compare(name, peer, &json);
        }
    }
    if wanted.as_deref().is_none_or(|wanted| wanted == "adversarial") {
        adversarial();
    }
    if wanted.as_deref().is_none_or(|wanted| wanted == "layer") {
        layer(&users, user);
    }
}

fn compare(name: &str, peer: &Peer, json: &str) {
    let mut reader = serde_json::Deserializer::from_str(json);
    let message = DynamicMessage::deserialize(peer.theirs.clone(), &mut reader).expect("is valid");
    let wire = message.encode_to_vec();
    let users = peer.theirs.name() != "Order";
    let times = race(
        if json.len() < 1_000 { 400 } else { 60 },
        &mut [
            &mut || assert!(peer.ours.validate_wire(black_box(&wire)).is_ok()),
            &mut || {
                drop(black_box(DynamicMessage::decode(
                    peer.theirs.clone(),
                    black_box(wire.as_slice()),
                )))
            },
            &mut || {
                if users {
                    drop(black_box(UserCreated::decode(black_box(wire.as_slice()))));
                } else {
                    drop(black_box(Order::decode(black_box(wire.as_slice()))));
                }
            },
            &mut || {
                let _ = black_box(simdutf8::basic::from_utf8(black_box(&wire)).is_ok());
            },
            &mut || assert!(peer.ours.validate_json(black_box(json.as_bytes())).is_ok()),
            &mut || {
                let mut reader = serde_json::Deserializer::from_slice(black_box(json.as_bytes()));
                drop(black_box(DynamicMessage::deserialize(
                    peer.theirs.clone(),
                    &mut reader,
                )));
            },
            &mut || drop(black_box(peer.ours.transcode(black_box(json.as_bytes())))),
        ],
    );
    let least = |at: usize| times[at].0;
    println!(
        "{name:14} wire {:8} {:10.0} {:10.0} {:5.1}x {:10.0} {:5.1}x {:8.0} {:6.2}x",
        wire.len(),
        least(0),
        least(1),
        least(1) / least(0),
        least(2),
        least(2) / least(0),
        least(3),
        least(0) / least(3),
    );
    println!(
        "{name:14} json {:8} {:10.0} {:10.0} {:5.1}x    transcoded {:10.0} {:5.1}x",
        json.len(),
        least(4),
        least(5),
        least(5) / least(4),
        least(6),
        least(5) / least(6),
    );
}

/// Nanoseconds per byte of payloads that are meant to hurt.
fn adversarial() {
    println!("\nadversarial        ns/byte at 64 KiB, at 1 MiB, ratio");
    let load = |level| {
        let schema = Descriptors::from_source("bench.proto", SOURCE).expect("loads");
        schema
            .validator(Some("bench.Order"), level, &[])
            .expect("is there")
    };
    let (wire, rules) = (load(Level::Wire), load(Level::Rules));
    let deep =
        |bytes: &[u8]| (0..99).fold(bytes.to_vec(), |inner, _| [&[0x3b], &inner[..], &[0x3c]].concat());
    let report = |name: &str, small: usize, large: usize, times: &[(f64, f64)]| {
        let (small, large) = (times[0].0 / small as f64, times[1].0 / large as f64);
        println!("{name:18} {small:8.2} {large:8.2} {:8.2}", large / small);
    };
    for (name, validator, piece) in [
        ("unknown fields", &wire, b"\x98\x06\x01".to_vec()),
        ("one-byte strings", &wire, b"\x0a\x01a".to_vec()),
        ("unknown groups", &wire, b"\xa3\x06\xa4\x06".to_vec()),
        (
            "deep groups",
            &wire,
            deep(b"")
                .iter()
                .map(|byte| if *byte == 0x3b { 0xa3 } else { 0xa4 })
                .flat_map(|byte| [byte, 6])
                .collect(),
        ),
        ("empty items", &wire, b"\x1a\x00".to_vec()),
        ("merged messages", &rules, b"\x12\x03\x0a\x01a".to_vec()),
    ] {
        let small = piece.repeat(65_536 / piece.len());
        let large = piece.repeat(1_048_576 / piece.len());
        let times = race(
            40,
            &mut [
                &mut || assert!(validator.validate_wire(black_box(&small)).is_ok()),
                &mut || assert!(validator.validate_wire(black_box(&large)).is_ok()),
            ],
        );
        report(name, small.len(), large.len(), &times);
    }
    for (name, open, piece, close) in [
        ("json empty items", "{\"items\":[", "{},", "{}]}"),
        ("json escapes", "{\"id\":\"", "\\n\\u00e4", "\"}"),
        ("json white space", "{", " \n\t", "}"),
        ("json numbers", "{\"prices\":[", "1.7976931348623157e308,", "0]}"),
    ] {
        let of = |size: usize| format!("{open}{}{close}", piece.repeat(size / piece.len()));
        let (small, large) = (of(65_536), of(1_048_576));
        let times = race(
            20,
            &mut [
                &mut || assert!(wire.validate_json(black_box(small.as_bytes())).is_ok()),
                &mut || assert!(wire.validate_json(black_box(large.as_bytes())).is_ok()),
            ],
        );
        report(name, small.len(), large.len(), &times);
    }
}

/// What the layer adds to the walk: a request through it, less the same request without it, less the walk.
fn layer(peer: &Peer, json: &str) {
    let wire = peer.ours.transcode(json.as_bytes()).expect("is valid");
    let wire = Bytes::from(wire);
    let mut config = RegistryConfig::default();
    config
        .mappings
        .push(MappingConfig::new("in.t.*.users.created", "v1.users").message("bench.UserCreated"));
    let (registry, writer) = channel(config).expect("is valid");
    let store = MemoryStore::new();
    store.load(&writer).expect("loads");
    store.put_source("v1.users", SOURCE).expect("loads");
    let reader = registry.clone();
    let mut layered = SchemaLayer::new(registry).layer(service_fn(answer::<MessageBody<Full<Bytes>>>));
    let mut bare = service_fn(answer::<Full<Bytes>>);
    let subject = Subject::parse("in.t.default.users.created").expect("is a subject");
    let request = || {
        let mut request = Request::post("/")
            .body(Full::from(wire.clone()))
            .expect("is a request");
        let kind = HeaderValue::from_static("application/x-protobuf");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        request.extensions_mut().insert(subject.clone());
        request
    };
    let mut context = Context::from_waker(Waker::noop());
    let times = race(
        300,
        &mut [
            &mut || {
                let call = pin!(layered.call(request()));
                assert!(call.poll(&mut context).is_ready());
            },
            &mut || {
                let call = pin!(bare.call(request()));
                assert!(call.poll(&mut Context::from_waker(Waker::noop())).is_ready());
            },
            &mut || assert!(peer.ours.validate_wire(black_box(&wire)).is_ok()),
            &mut || assert!(matches!(reader.route(black_box(&subject), None), Route::Bound(_))),
        ],
    );
    let [layered, bare, walk, lookup] = [times[0].0, times[1].0, times[2].0, times[3].0];
    println!(
        "\nlayer: {layered:.0} ns with it, {bare:.0} ns without, {walk:.0} ns the walk: it adds {:.0} ns, of which {lookup:.0} ns \
         find the contract; the rest collects the body, names the contract and puts the request together again",
        layered - bare - walk
    );
}

async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    black_box(&request);
    Ok(Response::new(Full::default()))
}
