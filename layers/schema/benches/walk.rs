//! The walkers against prost-reflect in one process, interleaved: minimum and median of many rounds, the ratio, and the
//! nanoseconds per byte of adversarial payloads at 64 KiB and 1 MiB.
//!
//! `cargo bench -p arqon-schema`

use std::{hint::black_box, time::Instant};

use arqon_schema::{Descriptors, Level, Validator};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

const SOURCE: &str = r#"
    syntax = "proto3"; package bench;
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

fn peer(message: &str) -> Peer {
    let mut compiler = protox::Compiler::with_file_resolver(Text);
    compiler
        .include_imports(true)
        .open_file("bench.proto")
        .expect("compiles");
    let set = compiler.encode_file_descriptor_set();
    let ours =
        Descriptors::decode(&set).and_then(|schema| schema.validator(Some(message), Level::Strict, &[]));
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
        protox::file::File::from_source(name, SOURCE)
    }
}

/// Minimum and median nanoseconds of each, interleaved.
fn race(rounds: usize, work: &mut [&mut dyn FnMut()]) -> Vec<(f64, f64)> {
    let mut times = vec![Vec::with_capacity(rounds); work.len()];
    let batches: Vec<u32> = work
        .iter_mut()
        .map(|work| {
            let started = Instant::now();
            work();
            u32::try_from(300_000 / started.elapsed().as_nanos().max(1))
                .unwrap_or(1)
                .clamp(1, 10_000)
        })
        .collect();
    for _ in 0..rounds {
        for (at, work) in work.iter_mut().enumerate() {
            let started = Instant::now();
            (0..batches[at]).for_each(|_| work());
            times[at].push(started.elapsed().as_nanos() as f64 / f64::from(batches[at]));
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
    let peer_order = peer("bench.Order");
    let peer_user = peer("bench.UserCreated");
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
    println!(
        "payload               bytes      ours min/median ns   prost-reflect min/median ns   ratio (min)"
    );
    for (name, peer, json) in [
        ("user", &peer_user, user.to_owned()),
        ("order", &peer_order, order(20)),
        ("order 64 KiB", &peer_order, order(1_600)),
        ("text 64 KiB", &peer_order, text),
        ("packed", &peer_order, packed),
    ] {
        let mut reader = serde_json::Deserializer::from_str(&json);
        let message = DynamicMessage::deserialize(peer.theirs.clone(), &mut reader).expect("is valid");
        let wire = message.encode_to_vec();
        let times = race(
            60,
            &mut [
                &mut || assert!(peer.ours.validate_wire(black_box(&wire)).is_ok()),
                &mut || {
                    drop(black_box(DynamicMessage::decode(
                        peer.theirs.clone(),
                        black_box(wire.as_slice()),
                    )))
                },
                &mut || assert!(peer.ours.validate_json(black_box(json.as_bytes())).is_ok()),
                &mut || {
                    let mut reader = serde_json::Deserializer::from_slice(black_box(json.as_bytes()));
                    drop(black_box(DynamicMessage::deserialize(
                        peer.theirs.clone(),
                        &mut reader,
                    )));
                },
            ],
        );
        for (kind, length, ours, theirs) in [
            ("wire", wire.len(), times[0], times[1]),
            ("json", json.len(), times[2], times[3]),
        ] {
            println!(
                "{name:14} {kind} {length:8} {:12.0} {:10.0} {:16.0} {:12.0} {:12.1}x",
                ours.0,
                ours.1,
                theirs.0,
                theirs.1,
                theirs.0 / ours.0
            );
        }
    }
    println!("\nadversarial        ns/byte at 64 KiB, at 1 MiB, ratio");
    let wire_level = Descriptors::from_source("bench.proto", SOURCE)
        .and_then(|schema| schema.validator(Some("bench.Order"), Level::Wire, &[]))
        .expect("loads");
    let deep =
        |bytes: &[u8]| (0..99).fold(bytes.to_vec(), |inner, _| [&[0x3b], &inner[..], &[0x3c]].concat());
    for (name, piece) in [
        ("unknown fields", b"\x98\x06\x01".to_vec()),
        ("one-byte strings", b"\x0a\x01a".to_vec()),
        ("unknown groups", b"\xa3\x06\xa4\x06".to_vec()),
        (
            "deep groups",
            deep(b"")
                .iter()
                .map(|byte| if *byte == 0x3b { 0xa3 } else { 0xa4 })
                .flat_map(|byte| [byte, 6])
                .collect(),
        ),
        ("empty items", b"\x1a\x00".to_vec()),
    ] {
        let small = piece.repeat(65_536 / piece.len());
        let large = piece.repeat(1_048_576 / piece.len());
        let times = race(
            100,
            &mut [
                &mut || assert!(wire_level.validate_wire(black_box(&small)).is_ok()),
                &mut || assert!(wire_level.validate_wire(black_box(&large)).is_ok()),
            ],
        );
        let (small, large) = (times[0].0 / small.len() as f64, times[1].0 / large.len() as f64);
        println!("{name:18} {small:8.2} {large:8.2} {:8.2}", large / small);
    }
}
