//! The gateway's platform with everything on: one policy, one contract, a rollout of half, a mirror of a tenth.

use std::{fs, net::SocketAddr, path::Path};

const POLICY: &str = include_str!("../../../policies/wat/block_me.wat");
const TOKEN: &str = "0123456789abcdef";
const SCHEMA: &str = r#"syntax = "proto3";
package bench.v1;
message UserCreated {
  message Address { string street = 1; string city = 2; string country = 3; }
  string user_id = 1;
  int64 created_us = 2;
  string name = 3;
  repeated Address addresses = 4;
  repeated int32 groups = 5;
  map<string, string> labels = 6;
  bytes avatar = 7;
}
"#;
const CATALOG: &str =
    r#"{"version": 1, "baseline": 1, "variants": [{"id": 1, "name": "stable"}, {"id": 42, "name": "fast"}]}"#;

/// 1 KiB that holds to the contract.
pub(crate) fn payload() -> Vec<u8> {
    let mut message = Vec::new();
    field(&mut message, 1, b"user-4711");
    message.extend([2 << 3, 0xc0, 0x84, 0x3d]);
    field(&mut message, 3, "Grace Brewster Murray Hopper".as_bytes());
    for n in 0..6_u8 {
        let mut address = Vec::new();
        field(
            &mut address,
            1,
            format!("{n}00 Long Avenue of the Republic").as_bytes(),
        );
        field(&mut address, 2, "Springfield".as_bytes());
        field(&mut address, 3, "NL".as_bytes());
        field(&mut message, 4, &address);
    }
    field(&mut message, 5, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    for n in 0..8_u8 {
        let mut label = Vec::new();
        field(&mut label, 1, format!("label-{n}").as_bytes());
        field(&mut label, 2, format!("value number {n}").as_bytes());
        field(&mut message, 6, &label);
    }
    let rest = 1_024 - message.len() - 3;
    field(&mut message, 7, &vec![0xa5; rest]);
    assert_eq!(message.len(), 1_024);
    message
}

fn field(message: &mut Vec<u8>, number: u8, data: &[u8]) {
    message.push(number << 3 | 2);
    match u8::try_from(data.len()) {
        Ok(short @ 0..128) => message.push(short),
        _ => message.extend([(data.len() & 127) as u8 | 128, (data.len() >> 7) as u8]),
    }
    message.extend_from_slice(data);
}

/// Writes configuration, keys and all that it names.
pub(crate) fn write(folder: &Path, public: SocketAddr, admin: SocketAddr) {
    let keys = ["ops-1", "gw-1"].map(|keyid| {
        let made = arqon(&["gov", "keygen", "--key", &path(folder, &format!("{keyid}.key"))]);
        made.trim().to_owned()
    });
    fs::create_dir(folder.join("schemas")).expect("a folder");
    fs::write(folder.join("schemas/v1.bench.user_created.proto"), SCHEMA).expect("written");
    fs::write(folder.join("block_me.wat"), POLICY).expect("written");
    fs::write(folder.join("catalog.json"), CATALOG).expect("written");
    fs::write(folder.join("control.token"), format!("{TOKEN}\n")).expect("written");
    let config = format!(
        r#"
[gateway]
listen = "{public}"
admin_listen = "{admin}"
control_token_file = "control.token"

[platform.overseer]
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"

[platform.registry]
dir = "schemas"
mappings = [{{ subject = "in.t.default.users", schema_id = "v1.bench.user_created", message = "bench.v1.UserCreated", level = "strict", required = ["user_id"] }}]

[platform.rollout]
enabled = true
tenants = ["default"]
node_id = "gw-1"
node_key = "gw-1.key"
keys = [{}]
node_keys = [{}]
catalog = {{ path = "catalog.json" }}
key = "trace"

[platform.mirroring]
rules = [{{ prefix = "in.t.default.>", percent = 0.10 }}]
"#,
        keys[0], keys[1]
    );
    fs::write(folder.join("gateway.toml"), config).expect("written");
}

/// Proposes and approves a variant for half of the traces, as an operator does.
pub(crate) fn roll_out(folder: &Path, admin: SocketAddr) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let proposal = format!(
        r#"{{"id":"bench","timestamp_us":{},"variant_id":42,"reason":"faster","confidence":0.9}}"#,
        now.expect("after 1970").as_micros()
    );
    fs::write(folder.join("bench.json"), proposal).expect("written");
    let (admin, token, key, file) = (
        format!("http://{admin}"),
        path(folder, "control.token"),
        path(folder, "ops-1.key"),
        path(folder, "bench.json"),
    );
    let signed = ["--admin", &admin, "--token-file", &token, "--key", &key];
    arqon(&[&["gov", "propose", &file][..], &signed].concat());
    let ramp = ["--initial", "50", "--increment", "0", "--max", "50"];
    arqon(
        &[
            &["gov", "approve", "bench", "--proposal", &file][..],
            &ramp,
            &signed,
        ]
        .concat(),
    );
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// Runs the operator's command line, and expects it to succeed.
fn arqon(words: &[&str]) -> String {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let all = std::iter::once("arqon")
        .chain(words.iter().copied())
        .map(Into::into);
    let code = arqon::cli::run_from(all, &mut out, &mut errors);
    assert_eq!(code, 0, "{words:?}: {}", String::from_utf8_lossy(&errors));
    String::from_utf8(out).expect("text")
}
