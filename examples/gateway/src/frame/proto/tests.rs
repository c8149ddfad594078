//! Against the vectors that PyPI's protobuf made, and against the text of the contract.

use std::path::PathBuf;

use arqon::{Code, Problem, Subject, SubjectPattern, Violation};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue};
use prost::Message as _;
use serde_json::{Value, json};

use super::*;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn vectors(side: &str) -> Vec<(String, Value, Vec<u8>)> {
    let text =
        std::fs::read_to_string(root().join("tests/vectors/gateway/frames.json")).expect("the vectors");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let side = all[side].as_array().expect("a list").iter();
    side.map(|vector| {
        let hex = vector["hex"].as_str().expect("hex");
        let bytes = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"));
        (
            vector["name"].to_string(),
            vector["frame"].clone(),
            bytes.collect(),
        )
    })
    .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn tenant() -> TenantId {
    TenantId::new("acme").expect("a tenant")
}

/// `TEST_WRITE_VECTORS` is for whoever changes the contract.
#[test]
fn the_checked_in_descriptor_is_the_contracts() {
    let compiled =
        protox::compile(["arqon/gateway/v1/gateway.proto"], [root().join("proto")]).expect("compiles");
    let mut compiled = compiled;
    for file in &mut compiled.file {
        file.source_code_info = None;
    }
    let bytes = compiled.encode_to_vec();
    let path = root().join("tests/vectors/gateway/gateway.binpb");
    if std::env::var_os("TEST_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &bytes).expect("written");
    }
    assert!(
        std::fs::read(&path).expect("checked in") == bytes,
        "run this test with TEST_WRITE_VECTORS=1"
    );
}

#[test]
fn a_client_frame_is_read_as_another_writer_meant_it() {
    let vectors = vectors("client");
    assert!(vectors.len() > 5);
    for (name, meant, bytes) in vectors {
        assert_eq!(
            ClientFrame::decode(&bytes[..]).expect(&name).encode_to_vec(),
            bytes,
            "{name}"
        );
        match read(&bytes.into(), &tenant()) {
            Ok(Frame::Publish {
                id,
                subject,
                headers,
                payload,
            }) => {
                let publish = &meant["publish"];
                assert_eq!(id.into_text(), Some(text(&meant["id"])), "{name}");
                assert_eq!(subject.suffix(), publish["subject"].as_str(), "{name}");
                assert_eq!(STANDARD.encode(&payload), text(&publish["payload"]), "{name}");
                let written: Vec<_> = publish["headers"].as_array().cloned().unwrap_or_default();
                assert_eq!(headers.len(), written.len(), "{name}");
                for header in written {
                    let values = headers.get_all(text(&header["name"])).iter();
                    assert!(
                        values
                            .into_iter()
                            .any(|value| value.as_bytes() == text(&header["value"]).as_bytes()),
                        "{name}"
                    );
                }
            }
            Ok(Frame::Subscribe { id, pattern }) => {
                assert_eq!(id.into_text(), Some(text(&meant["id"])), "{name}");
                assert_eq!(
                    pattern.as_str(),
                    format!("in.t.acme.{}", text(&meant["subscribe"]["pattern"])),
                    "{name}"
                );
            }
            Err(refused) => panic!("{name}: {refused:?}"),
        }
    }
}

#[test]
fn a_server_frame_is_written_as_another_writer_would() {
    let vectors = vectors("server");
    assert!(vectors.len() > 5);
    for (name, meant, bytes) in vectors {
        let id = meant
            .get("id")
            .map_or(FrameId::None, |id| FrameId::Text(text(id)));
        let answer = if let Some(ack) = meant.get("ack") {
            let sequence = ack
                .get("sequence")
                .map(|sequence| text(sequence).parse::<u64>().expect("a number"));
            let body = json!({
                "subject": text(&ack["subject"]), "stream": ack.get("stream"), "sequence": sequence,
                "duplicate": ack["duplicate"].as_bool().unwrap_or_default(),
            });
            Answer::Ack {
                id,
                body: body.to_string().into_bytes().into(),
            }
        } else if let Some(nack) = meant.get("nack") {
            let code = Code::ALL
                .iter()
                .find(|code| nack["code"] == code.as_str())
                .expect("a code");
            let violations = nack["violations"].as_array().cloned().unwrap_or_default();
            let violations = violations.iter().map(|violation| Violation {
                path: text(&violation["path"]),
                rule: text(&violation["rule"]).into(),
                message: text(&violation["message"]),
            });
            let mut problem =
                Problem::new(*code, text(&nack["detail"])).with_violations(violations.collect());
            problem.instance = nack.get("instance").map(text);
            problem.trace_id = nack.get("traceId").map(text);
            Answer::Nack { id, problem }
        } else if let Some(subscribed) = meant.get("subscribed") {
            let pattern = SubjectPattern::parse(text(&subscribed["pattern"])).expect("a pattern");
            Answer::Subscribed { id, pattern }
        } else {
            let delivery = &meant["delivery"];
            let mut headers = HeaderMap::new();
            for header in delivery["headers"].as_array().cloned().unwrap_or_default() {
                let name: HeaderName = text(&header["name"]).parse().expect("a name");
                let value = HeaderValue::from_str(&text(&header["value"])).expect("a value");
                headers.try_append(name, value).expect("room");
            }
            Answer::Delivery(Message {
                subject: Subject::for_tenant(&tenant(), text(&delivery["subject"])).expect("a subject"),
                headers,
                payload: STANDARD
                    .decode(text(&delivery["payload"]))
                    .expect("base64")
                    .into(),
            })
        };
        assert_eq!(write(&answer), bytes, "{name}");
    }
}

#[test]
fn what_cannot_be_read_has_no_id_and_what_is_wrong_keeps_its_own() {
    let refused = |bytes: Vec<u8>| *read(&bytes.into(), &tenant()).expect_err("refused");
    for bytes in [
        vec![0xff],
        vec![0x0a, 5, b'x'],
        vec![0x12, 1, 0xff],
        vec![0x0a, 1, 0xff],
    ] {
        let (id, problem) = refused(bytes);
        assert_eq!((id.into_text(), problem.code), (None, Code::FrameInvalid));
    }
    let publish = |subject: &str, headers: usize| {
        let headers = (0..headers).map(|n| Header {
            name: format!("h{n}"),
            value: "1".to_owned(),
        });
        ClientFrame {
            id: "7".to_owned(),
            kind: Some(ClientKind::Publish(Carried {
                subject: subject.to_owned(),
                headers: headers.collect(),
                payload: Bytes::new(),
            })),
        }
        .encode_to_vec()
    };
    let subscribe = |pattern: &str| ClientFrame {
        id: "7".to_owned(),
        kind: Some(ClientKind::Subscribe(Pattern {
            pattern: pattern.to_owned(),
        })),
    };
    assert!(read(&publish("a", 64).into(), &tenant()).is_ok());
    for (bytes, code) in [
        (publish("a", 65), Code::FrameInvalid),
        (publish("a.*", 0), Code::SubjectInvalid),
        (publish("", 0), Code::SubjectInvalid),
        (publish("a\r\nPUB b 0", 0), Code::SubjectInvalid),
        (subscribe("a..b").encode_to_vec(), Code::SubjectInvalid),
        (subscribe("").encode_to_vec(), Code::SubjectInvalid),
        (
            ClientFrame {
                id: "7".to_owned(),
                kind: None,
            }
            .encode_to_vec(),
            Code::FrameInvalid,
        ),
    ] {
        let (id, problem) = refused(bytes);
        assert_eq!(
            (id.into_text().as_deref(), problem.code),
            (Some("7"), code),
            "{problem:?}"
        );
    }
}

#[test]
fn a_subscription_stays_within_the_tenant() {
    for wanted in [">", "*", "*.>", "in.t.other.>"] {
        let frame = ClientFrame {
            id: String::new(),
            kind: Some(ClientKind::Subscribe(Pattern {
                pattern: wanted.to_owned(),
            })),
        };
        let Ok(Frame::Subscribe { pattern, .. }) = read(&frame.encode_to_vec().into(), &tenant()) else {
            panic!("{wanted}");
        };
        assert_eq!(pattern.as_str(), format!("in.t.acme.{wanted}"));
    }
}
