//! What the demo sends, and what has to come of it.

use std::{collections::BTreeMap, time::Duration};

use arqon::{
    Fraction, Sampler, SubjectPattern, TenantId,
    publish::Message,
    rollout::{
        Clock, Control, DownstreamMessage, EnforcementAction, KeyPair, Proposal, RolloutConfig, SystemClock,
    },
};
use futures_util::FutureExt;
use http::Method;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::{
    MIRRORED,
    client::{Answer, Fault, Http, Session},
    table::Table,
};
use crate::app::Gateway;

/// `user_id = "u1"`
const GOOD: &[u8] = b"\x0a\x02u1";
/// A length of nine with two bytes behind it.
const TRUNCATED: &[u8] = b"\x0a\x09u1";
/// Field 7, which the message does not have.
const UNKNOWN: &[u8] = b"\x0a\x02u1\x38\x01";
/// The required field is missing.
const MISSING: &[u8] = b"\x10\x05";
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");
const USERS: &str = "/v1/publish/users.created";

/// How long something that has to arrive may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long control messages of the demo hold, in microseconds.
const CONTROL_LIFE_US: u64 = 60_000_000;

pub(super) struct Scenes<'a> {
    gateway: &'a Gateway,
    table: &'a mut Table,
    public: Http,
    admin: Http,
    token: String,
    tenant: TenantId,
    /// What is published, primary and shadow, as a subscriber sees it.
    primary: mpsc::Receiver<Message>,
    shadow: mpsc::Receiver<Message>,
}

impl<'a> Scenes<'a> {
    pub(super) fn new(gateway: &'a Gateway, table: &'a mut Table, token: String) -> Result<Self, Fault> {
        let broker = gateway.broker().ok_or("the demo runs embedded")?;
        Ok(Self {
            gateway,
            table,
            public: Http::new(gateway.public()),
            admin: Http::new(gateway.admin()),
            token,
            tenant: TenantId::new("default")?,
            primary: broker.subscribe(SubjectPattern::parse("in.t.default.>")?)?,
            shadow: broker.subscribe(SubjectPattern::parse("shadow.in.t.default.>")?)?,
        })
    }

    async fn publish(&self, headers: &[(&str, &str)], body: &'static [u8]) -> Result<Answer, Fault> {
        self.public.send(Method::POST, USERS, headers, body).await
    }

    /// A message of one trace.
    async fn traced(&self, trace: &str) -> Result<Answer, Fault> {
        self.publish(&[PROTOBUF, ("traceparent", &traceparent(trace))], GOOD)
            .await
    }

    pub(super) async fn policy(&mut self) -> Result<(), Fault> {
        let answer = self.publish(&[PROTOBUF, ("X-Block-Me", "1")], GOOD).await?;
        let denied = answer.verdict() == "403 overseer.denied";
        let unpublished = self.primary.try_recv().is_err();
        self.table.row(
            [
                "HTTP with X-Block-Me",
                "deny (block_me.wat)",
                "-",
                "-",
                "-",
                &answer.verdict(),
            ],
            &[
                ("403 overseer.denied", denied),
                ("nothing is published", unpublished),
            ],
        );
        Ok(())
    }

    pub(super) async fn contract(&mut self) -> Result<(), Fault> {
        let answer = self.publish(&[PROTOBUF], GOOD).await?;
        let message = timeout(PATIENCE, self.primary.recv())
            .await?
            .ok_or("no subscription")?;
        let schema = header(&message, "x-arqon-schema");
        let variant = header(&message, "x-arqon-variant");
        self.table.row(
            [
                "HTTP, good Protobuf",
                "allow",
                &format!("valid ({schema})"),
                &variant_name(&variant),
                "by connection",
                &answer.verdict(),
            ],
            &[
                ("202", answer.status == 202),
                (
                    "the subject is named",
                    answer.json()["subject"] == "in.t.default.users.created",
                ),
                ("the payload arrives", message.payload == GOOD),
                (
                    "the message carries its schema",
                    schema.starts_with("v1.events.user_created@"),
                ),
            ],
        );
        let rejects = [
            ("HTTP, truncated Protobuf", PROTOBUF, TRUNCATED, "user_id"),
            ("HTTP, unknown field 7", PROTOBUF, UNKNOWN, "7"),
            ("HTTP, user_id missing", PROTOBUF, MISSING, "user_id"),
            (
                "HTTP, JSON with an unknown field",
                JSON,
                &br#"{"userId":"u1","nick":"x"}"#[..],
                "nick",
            ),
            (
                "HTTP, JSON of the wrong type",
                JSON,
                &br#"{"userId":7}"#[..],
                "user_id",
            ),
        ];
        for (sent, media_type, payload, path) in rejects {
            let answer = self.publish(&[media_type], payload).await?;
            let problem = answer.json();
            let violation = &problem["violations"][0];
            let why = format!(
                "reject ({}: {})",
                text(&violation["path"]),
                text(&violation["rule"])
            );
            let named = violation["path"] == path || (path == "user_id" && violation["path"] == "userId");
            self.table.row(
                [sent, "allow", &why, "-", "-", &answer.verdict()],
                &[
                    ("400 schema.violation", answer.verdict() == "400 schema.violation"),
                    ("the field's path is named", named),
                    ("nothing is published", self.primary.try_recv().is_err()),
                ],
            );
        }
        let answer = self.publish(&[JSON], br#"{"userId":"u1","age":7}"#).await?;
        let arrived = timeout(PATIENCE, self.primary.recv()).await?.is_some();
        self.table.row(
            [
                "HTTP, good JSON",
                "allow",
                "valid",
                "-",
                "by connection",
                &answer.verdict(),
            ],
            &[("202", answer.status == 202), ("the payload arrives", arrived)],
        );
        Ok(())
    }

    /// The next copy of a trace. Whether those without one are mirrored hangs on their connection's random id.
    async fn copy(&mut self) -> Result<Message, Fault> {
        loop {
            let copy = self.shadow.recv().await.ok_or("no subscription")?;
            if !header(&copy, "x-arqon-shadow-of").starts_with("c:") {
                return Ok(copy);
            }
        }
    }

    /// 100 requests of ten traces: each trace is mirrored whole or not at all, and which is known beforehand.
    pub(super) async fn mirror(&mut self) -> Result<(), Fault> {
        let traces: Vec<String> = (0..10_u128)
            .map(|n| format!("{:032x}", n * 0x1_0000_0001 + 0xa11c_e000))
            .collect();
        let threshold = Fraction::new(MIRRORED)?.threshold();
        let predicted: Vec<bool> = traces
            .iter()
            .map(|trace| Sampler::new(0).sample(trace.as_bytes(), threshold))
            .collect();
        let mut accepted = 0;
        for _ in 0..10 {
            for trace in &traces {
                accepted += u32::from(self.traced(trace).await?.status == 202);
            }
        }
        let expected = 10 * predicted.iter().filter(|mirrored| **mirrored).count();
        let mut copies: BTreeMap<String, u32> = BTreeMap::new();
        let mut marked = true;
        for _ in 0..expected {
            let copy = timeout(PATIENCE, self.copy()).await;
            let copy = copy.map_err(|_| "a copy is missing")??;
            marked &= header(&copy, "x-arqon-shadow") == "true"
                && copy.headers.get_all("x-arqon-shadow").iter().count() == 1
                && copy.subject.as_str() == "shadow.in.t.default.users.created"
                && copy.payload == GOOD;
            *copies.entry(header(&copy, "x-arqon-shadow-of")).or_default() += 1;
        }
        let whole = traces.iter().zip(&predicted).all(|(trace, mirrored)| {
            copies.get(trace).copied().unwrap_or_default() == if *mirrored { 10 } else { 0 }
        });
        let some = predicted.iter().any(|mirrored| *mirrored) && predicted.iter().any(|mirrored| !mirrored);
        let no_more = self.copy().now_or_never().is_none();
        let shadow = format!("{} of 10 traces, whole", copies.len());
        self.table.row(
            [
                "HTTP, 100 of 10 traces",
                "allow",
                "valid",
                "-",
                &shadow,
                &format!("202 x {accepted}"),
            ],
            &[
                ("all are published", accepted == 100),
                ("each trace is mirrored whole or not at all, as predicted", whole),
                ("some traces are mirrored and some are not", some),
                ("no copy more", no_more),
                ("copies are marked once, under shadow.", marked),
            ],
        );
        while self.primary.try_recv().is_ok() {}
        Ok(())
    }

    /// Signs a control message and posts it as an operator would.
    async fn control(&self, message: DownstreamMessage, key: &KeyPair) -> Result<Answer, Fault> {
        let control = Control::new(
            self.tenant.as_str(),
            SystemClock::new().now_us(),
            CONTROL_LIFE_US,
            message,
        );
        let envelope = control.sign(&[key])?.to_json();
        let bearer = format!("Bearer {}", self.token);
        self.admin
            .send(
                Method::POST,
                "/v1/control",
                &[("authorization", &bearer)],
                envelope.into_bytes(),
            )
            .await
    }

    pub(super) async fn rollout(&mut self, operator: &KeyPair) -> Result<(), Fault> {
        let client = self.gateway.platform().rollout.client(&self.tenant);
        let proposal = Proposal {
            id: "prop_001".to_owned(),
            timestamp_us: SystemClock::new().now_us(),
            variant_id: Some(42),
            reason: "Latency regression detected".to_owned(),
            confidence: 0.92,
            ..Proposal::default()
        };
        client.send(proposal).await?;
        let status = self.gateway.platform().rollout.status();
        let digest = status.tenants[0]
            .pending
            .first()
            .ok_or("the proposal is not pending")?
            .digest
            .clone();

        let approve = |digest: String| DownstreamMessage::Approval {
            proposal_id: "prop_001".to_owned(),
            proposal_digest: digest,
            rollout: Some(RolloutConfig {
                initial_percent: 50.0,
                increment_per_minute: 0.0,
                max_percent: 50.0,
            }),
        };
        let forged = self
            .control(approve(format!("sha256:{}", "0".repeat(64))), operator)
            .await?;
        let reason = text(&forged.json()["reason"]);
        self.table.row(
            [
                "approval of another digest",
                "-",
                "-",
                &format!("refused ({reason})"),
                "-",
                &forged.verdict(),
            ],
            &[("409 control.refused", forged.verdict() == "409 control.refused")],
        );
        let stranger = KeyPair::generate("ops-1")?;
        let unsigned = self.control(approve(digest.clone()), &stranger).await?;
        let reason = text(&unsigned.json()["reason"]);
        self.table.row(
            [
                "approval signed by a stranger",
                "-",
                "-",
                &format!("refused ({reason})"),
                "-",
                &unsigned.verdict(),
            ],
            &[("409 control.refused", unsigned.verdict() == "409 control.refused")],
        );
        let approved = self.control(approve(digest), operator).await?;
        self.table.row(
            [
                "approval at 50 %, signed",
                "-",
                "-",
                &text(&approved.json()["state"]),
                "-",
                &approved.verdict(),
            ],
            &[(
                "accepted",
                approved.status == 200 && approved.json()["accepted"] == true,
            )],
        );
        let first = self.variants().await?;
        let second = self.variants().await?;
        let fast = first.values().filter(|variant| *variant == "fast").count();
        self.table.row(
            [
                "HTTP, 100 traces, twice",
                "allow",
                "valid",
                &format!("fast for {fast}, sticky"),
                "seen above",
                "202 x 200",
            ],
            &[
                ("the same trace gets the same variant", first == second),
                (
                    "about half get the new one (25 to 75 of 100)",
                    (25..=75).contains(&fast),
                ),
            ],
        );
        Ok(())
    }

    /// The variant that each of a hundred traces gets.
    async fn variants(&mut self) -> Result<BTreeMap<String, String>, Fault> {
        let mut variants = BTreeMap::new();
        for n in 1..=100_u128 {
            let trace = format!("{:032x}", n * 0x9e37_79b9_7f4a_7c15);
            let answer = self.traced(&trace).await?;
            if answer.status != 202 {
                return Err(format!("a good message was answered {}", answer.verdict()).into());
            }
            let message = timeout(PATIENCE, self.primary.recv())
                .await?
                .ok_or("no subscription")?;
            variants.insert(trace, header(&message, "x-arqon-variant"));
        }
        Ok(variants)
    }

    pub(super) async fn emergency_stop(&mut self, on_call: &KeyPair) -> Result<(), Fault> {
        let stop = DownstreamMessage::Enforce {
            action: EnforcementAction::EmergencyStop,
            reason: "drill".to_owned(),
        };
        let stopped = self.control(stop, on_call).await?;
        let baseline = self.variants().await?.values().all(|variant| variant == "stable");
        self.table.row(
            [
                "emergency stop, then 100 traces",
                "allow",
                "valid",
                "baseline for all",
                "seen above",
                &stopped.verdict(),
            ],
            &[
                ("the stop is accepted", stopped.status == 200),
                ("everyone gets the baseline", baseline),
            ],
        );
        Ok(())
    }

    pub(super) async fn websocket(&mut self) -> Result<(), Fault> {
        let mut session = Session::open(self.gateway.public(), "arqon.v1.json").await?;
        let base64 =
            |payload: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, payload);
        let good = json!({ "id": "1", "subject": "users.created", "payload": base64(GOOD) });
        let reply = session.ask(&good).await?;
        let arrived = timeout(PATIENCE, self.primary.recv())
            .await?
            .is_some_and(|message| message.payload == GOOD);
        self.table.row(
            [
                "WebSocket, good Protobuf",
                "allow",
                "valid",
                "baseline",
                "not looked at",
                "ack",
            ],
            &[
                (
                    "ack with the subject",
                    reply["ack"]["subject"] == "in.t.default.users.created",
                ),
                ("the answer names the frame", reply["id"] == "1"),
                ("the payload arrives", arrived),
            ],
        );
        let over_http = self.publish(&[PROTOBUF], TRUNCATED).await?.json()["code"].clone();
        let frames = [
            (
                "WebSocket, truncated Protobuf",
                json!({ "id": "2", "subject": "users.created", "payload": base64(TRUNCATED) }),
                over_http,
            ),
            (
                "WebSocket, JSON with an unknown field",
                json!({ "id": "3", "subject": "users.created", "json": { "nick": "x", "userId": "u" } }),
                json!("schema.violation"),
            ),
            (
                "WebSocket with X-Block-Me",
                json!({ "id": "4", "subject": "users.created", "headers": { "X-Block-Me": "1" }, "payload": base64(GOOD) }),
                json!("overseer.denied"),
            ),
        ];
        for (sent, frame, code) in frames {
            let reply = session.ask(&frame).await?;
            let nack = &reply["nack"];
            let by_policy = code == "overseer.denied";
            let why = format!("reject ({})", text(&nack["violations"][0]["path"]));
            self.table.row(
                [
                    sent,
                    if by_policy { "deny (block_me.wat)" } else { "allow" },
                    if by_policy { "-" } else { &why },
                    "-",
                    "-",
                    &format!("nack {}", text(&nack["code"])),
                ],
                &[
                    ("nack with the same code as over HTTP", nack["code"] == code),
                    ("the answer names the frame", reply["id"] == frame["id"]),
                    ("nothing is published", self.primary.try_recv().is_err()),
                ],
            );
        }
        session.close().await
    }

    pub(super) async fn metrics(&self) -> Result<String, Fault> {
        let answer = self.admin.send(Method::GET, "/metrics", &[], "").await?;
        Ok(String::from_utf8(answer.body.to_vec())?)
    }
}

/// Only the trace id decides; the span is any.
fn traceparent(trace: &str) -> String {
    format!("00-{trace}-00f067aa0ba902b7-01")
}

fn header(message: &Message, name: &str) -> String {
    message
        .headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}

fn variant_name(id: &str) -> String {
    if id.is_empty() {
        "none".to_owned()
    } else {
        format!("variant {id}")
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}
