//! An operator's desk: keys, a catalog, configurations, and the command line.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Gateway, eventually};

/// What a command printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) errors: String,
}

pub(crate) const CATALOG: &str = r#"{"version": 1, "baseline": 1, "variants": [
    {"id": 1, "name": "stable"},
    {"id": 42, "name": "fast", "params": {"alpha": {"default": 0.5, "min": 0, "max": 1}}}]}"#;

/// The folder with everything an operator has.
pub(crate) struct Site {
    folder: TempDir,
    lines: Vec<(String, String)>,
}

impl Site {
    /// Makes `ops-1`, `ops-2`, `sre-1` and the keys of three nodes, with the command line.
    pub(crate) async fn new() -> Self {
        let mut site = Self {
            folder: tempfile::tempdir().expect("temporary folder"),
            lines: Vec::new(),
        };
        for keyid in ["ops-1", "ops-2", "sre-1", "gw-1", "gw-2", "gw-3"] {
            let made = site.arqon(&["gov", "keygen", "--key", &site.key(keyid)]).await;
            assert_eq!(made.code, 0, "{}", made.errors);
            site.lines.push((keyid.to_owned(), made.out.trim().to_owned()));
        }
        std::fs::write(site.path("catalog.json"), CATALOG).expect("written");
        std::fs::write(site.path("control.token"), "0123456789abcdef\n").expect("written");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn key(&self, keyid: &str) -> String {
        self.file(&format!("{keyid}.key"))
    }

    /// The line of a key for a configuration.
    pub(crate) fn public(&self, keyid: &str) -> String {
        self.line(keyid).to_owned()
    }

    fn line(&self, keyid: &str) -> &str {
        let found = self.lines.iter().find(|(name, _)| name == keyid);
        found.map_or("", |(_, line)| line)
    }

    /// A node's configuration; `more` goes into `[platform.rollout]`.
    pub(crate) fn config(&self, nats: Option<&str>, node: &str, more: &str) -> String {
        let nats = nats.map_or_else(String::new, |url| format!("[nats]\nurl = \"{url}\"\n"));
        format!(
            r#"{nats}
[gateway]
control_token_file = "control.token"

[platform.rollout]
enabled = true
tenants = ["default", "other"]
node_id = "{node}"
node_key = "{node_key}"
keys = [{ops}]
stop_keys = [{sre}]
node_keys = [{gw1}, {gw2}, {gw3}]
audit = {{ path = "audit.jsonl" }}
key = "header:x-user"
{more}
"#,
            node_key = self.key(node),
            ops = self.line("ops-1"),
            sre = self.line("sre-1"),
            gw1 = self.line("gw-1"),
            gw2 = self.line("gw-2"),
            gw3 = self.line("gw-3"),
        )
    }

    /// The usual catalog's key.
    pub(crate) fn catalog(&self) -> String {
        format!("catalog = {{ path = \"{}\" }}", self.file("catalog.json"))
    }

    /// Runs `arqon` with these words.
    pub(crate) async fn arqon(&self, words: &[&str]) -> Printed {
        let words: Vec<std::ffi::OsString> = std::iter::once("arqon")
            .chain(words.iter().copied())
            .map(Into::into)
            .collect();
        // It starts a runtime of its own.
        tokio::task::spawn_blocking(move || {
            let (mut out, mut errors) = (Vec::new(), Vec::new());
            let code = arqon::cli::run_from(words, &mut out, &mut errors);
            Printed {
                code,
                out: String::from_utf8(out).expect("text"),
                errors: String::from_utf8(errors).expect("text"),
            }
        })
        .await
        .expect("no panic")
    }

    /// Runs `arqon gov` against a gateway, signed by `keyid`, and expects it to be taken.
    pub(crate) async fn gov(&self, gateway: &Gateway, keyid: &str, words: &[&str]) -> Value {
        let taken = async || {
            let printed = self.try_gov(gateway, keyid, words).await;
            // On a machine that stands still for a while the connection to NATS may be made anew.
            (!printed.out.contains("the control log is away")).then_some(printed)
        };
        let printed = eventually(taken).await;
        assert_eq!(printed.code, 0, "{words:?}: {printed:?}");
        serde_json::from_str(&printed.out).expect("JSON")
    }

    pub(crate) async fn try_gov(&self, gateway: &Gateway, keyid: &str, words: &[&str]) -> Printed {
        let (admin, token, key) = (
            format!("http://{}", gateway.admin),
            self.file("control.token"),
            self.key(keyid),
        );
        let mut all = vec!["--json", "gov"];
        all.extend(words);
        all.extend(["--admin", &admin, "--token-file", &token, "--key", &key]);
        self.arqon(&all).await
    }

    /// Proposes and approves variant 42.
    pub(crate) async fn roll_out(&self, gateway: &Gateway, id: &str, ramp: [&str; 3]) {
        let file = self.path(&format!("{id}.json"));
        let timestamp_us = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_micros();
        let proposal = format!(
            r#"{{"id":"{id}","timestamp_us":{timestamp_us},"variant_id":42,"reason":"faster","confidence":0.9}}"#
        );
        std::fs::write(&file, proposal).expect("written");
        let file = file.display().to_string();
        self.gov(gateway, "ops-1", &["propose", &file]).await;
        let [initial, increment, max] = ramp;
        let ramp = ["--initial", initial, "--increment", increment, "--max", max];
        self.gov(
            gateway,
            "ops-1",
            &[&["approve", id, "--proposal", &file][..], &ramp].concat(),
        )
        .await;
    }
}

/// The whole-tenant scope of tenant `default` as `/v1/state` shows it.
pub(crate) async fn scope(gateway: &Gateway) -> Value {
    scope_of(gateway, "default").await
}

pub(crate) async fn scope_of(gateway: &Gateway, tenant: &str) -> Value {
    let state = gateway.get("/v1/state").await.json();
    let tenants = state["rollout"]["tenants"].as_array().expect("tenants").clone();
    let of = tenants
        .into_iter()
        .find(|of| of["tenant"] == tenant)
        .expect("the tenant");
    of["scopes"][0].clone()
}

/// Waits until the scope is in a state.
pub(crate) async fn becomes(gateway: &Gateway, phase: &str) -> Value {
    eventually(async || {
        let scope = scope(gateway).await;
        (scope["phase"] == phase).then_some(scope)
    })
    .await
}

/// The variant a user gets now.
pub(crate) async fn variant(gateway: &Gateway, user: usize) -> String {
    let user = format!("user-{user}");
    let answer = gateway.publish("x", &[("x-user", &user)], "{}").await;
    let variant = answer.headers.get("x-arqon-variant").expect("a variant");
    variant.to_str().expect("text").to_owned()
}

/// Which of the first `users` get the variant.
pub(crate) async fn cohort(gateway: &Gateway, users: usize) -> Vec<bool> {
    let mut cohort = Vec::new();
    for user in 0..users {
        cohort.push(variant(gateway, user).await == "fast");
    }
    cohort
}
