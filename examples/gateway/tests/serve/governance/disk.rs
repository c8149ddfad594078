//! A disk that is full: a real file system without a byte left, and a power cut while it is.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use arqon_test_support::NatsServer;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use super::site::{Site, cohort, scope};
use crate::process::{Gateway, eventually};

/// Somewhere that fills up.
enum Disk {
    /// A file system of its own, in memory, of 2 MiB.
    Mounted { folder: TempDir },
    /// The same in a mount namespace of a user's own, which takes no rights: seen through the process that holds it.
    Held { folder: TempDir, holder: Child },
    /// No file of the gateway may grow beyond so many blocks of 512 bytes: little more than the slots of the latch have.
    Limited { blocks: u32 },
}

impl Disk {
    fn mounted() -> Option<Self> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "arqon-test"])
            .arg(folder.path())
            .output();
        mount
            .is_ok_and(|mounted| mounted.status.success())
            .then_some(Self::Mounted { folder })
    }

    fn held() -> Option<Self> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let script = r#"mount -t tmpfs -o size=2m arqon-test "$1" && echo held && exec sleep 600"#;
        let mut holder = Command::new("unshare")
            .args(["-U", "-r", "-m", "sh", "-c", script, "sh"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut said = String::new();
        let read = BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut said);
        if read.is_ok() && said == "held\n" {
            return Some(Self::Held { folder, holder });
        }
        let _ = holder.wait();
        None
    }

    /// A real file system where one can be had. Where neither `mount` nor `unshare` works, files that may not grow stand for a
    /// full one, and the run says so.
    fn small() -> Self {
        Self::mounted().or_else(Self::held).unwrap_or_else(Self::stand_in)
    }

    fn stand_in() -> Self {
        let note =
            "no full disk: neither mount nor unshare works here, so files that may not grow stood for it\n";
        // Past what keeps the output of tests that pass, and to the last lines of tests/run.sh.
        let _ = std::io::stderr().write_all(note.as_bytes());
        if let Some(path) = std::env::var_os("TEST_NOTES") {
            let notes = OpenOptions::new().append(true).create(true).open(path);
            notes
                .and_then(|mut notes| notes.write_all(note.as_bytes()))
                .expect("TEST_NOTES can be written");
        }
        Self::limited()
    }

    fn limited() -> Self {
        Self::Limited { blocks: 1_100 }
    }

    fn folder(&self) -> PathBuf {
        match self {
            Self::Mounted { folder } => folder.path().to_path_buf(),
            Self::Held { folder, holder } => {
                let inside = folder.path().strip_prefix("/").expect("absolute");
                PathBuf::from(format!("/proc/{}/root", holder.id())).join(inside)
            }
            Self::Limited { .. } => PathBuf::new(),
        }
    }

    /// The trail's place.
    fn trail(&self) -> PathBuf {
        self.folder().join("audit.jsonl")
    }

    fn is_limited(&self) -> bool {
        matches!(self, Self::Limited { .. })
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        if self.is_limited() {
            return;
        }
        let rest = self.folder().join("rest");
        let mut file = File::create(&rest).expect("made");
        for size in [65_536, 4_096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        let more = OpenOptions::new()
            .append(true)
            .open(rest)
            .and_then(|mut rest| rest.write_all(b"x"));
        assert_eq!(
            more.expect_err("it is full").kind(),
            std::io::ErrorKind::StorageFull
        );
    }

    fn free(&self) {
        std::fs::remove_file(self.folder().join("rest")).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        match self {
            // Lazily: a gateway that is being killed may still hold the trail.
            Self::Mounted { folder } => drop(Command::new("umount").arg("-l").arg(folder.path()).status()),
            Self::Held { holder, .. } => drop(holder.kill().and_then(|()| holder.wait())),
            Self::Limited { .. } => {}
        }
    }
}

/// A gateway whose trail is on that disk.
async fn gateway(site: &Site, disk: &Disk, nats: Option<&str>) -> Gateway {
    let config = site.config(nats, "gw-1", &site.catalog()).replace(
        "path = \"audit.jsonl\"",
        &format!("path = \"{}\"", disk.trail().display()),
    );
    match disk {
        Disk::Limited { blocks } => Gateway::limited(&config, *blocks).await,
        Disk::Mounted { .. } | Disk::Held { .. } => Gateway::ready(&config, &[]).await,
    }
}

/// Fills the disk, and lets garbage that has to be audited find out.
async fn fill(gateway: &Gateway, disk: &Disk) {
    disk.fill();
    let token = [("authorization", "Bearer 0123456789abcdef")];
    let trail = gateway.path(&disk.trail().display().to_string());
    let written = || std::fs::metadata(&trail).expect("there").len();
    let mut length = 60_000;
    for _ in 0..1_000 {
        let (garbage, before) = ("x".repeat(length), written());
        let refused = gateway
            .try_send(gateway.admin, http::Method::POST, "/v1/control", &token, garbage)
            .await;
        assert_eq!(refused.expect("answered").status, 409);
        if written() > before {
            continue;
        }
        if length == 1 {
            return;
        }
        // What is left is smaller than that: a page that has begun takes a few lines more.
        length = (length / 8).max(1);
    }
    panic!("the trail was never full");
}

async fn state(gateway: &Gateway) -> Value {
    eventually(async || {
        let answer = gateway
            .try_send(gateway.admin, http::Method::GET, "/v1/state", &[], "")
            .await?;
        Some(answer.json())
    })
    .await
}

fn whole(state: &Value) -> Value {
    state["rollout"]["tenants"][0]["scopes"][0].clone()
}

/// Whether the trail takes nothing is a check that people see and that takes no request elsewhere.
async fn is_shown(site: &Site, gateway: &Gateway) {
    let ready = eventually(async || {
        let ready = gateway.get("/readyz").await;
        let checks = ready.json()["checks"].as_array()?.clone();
        let audit = checks.into_iter().find(|check| check["name"] == "audit")?;
        (audit["ok"] == false).then_some((ready.status, audit))
    })
    .await;
    assert_eq!(
        (ready.0.as_u16(), &ready.1["advisory"]),
        (200, &true.into()),
        "{ready:?}"
    );
    assert!(
        ready.1["reason"]
            .as_str()
            .is_some_and(|why| why.contains("audit trail")),
        "{ready:?}"
    );
    let admin = format!("http://{}", gateway.admin);
    let status = site.arqon(&["gov", "status", "--admin", &admin]).await;
    assert!(
        status.out.contains("held: ") && status.out.contains("nothing is loosened"),
        "{}",
        status.out
    );
}

async fn full(disk: Disk) {
    let kind = disk.folder();
    let site = Site::new().await;
    let mut gateway = gateway(&site, &disk, None).await;
    site.roll_out(&gateway, "p1", ["50", "0", "50"]).await;
    let before = cohort(&gateway, 50).await;
    fill(&gateway, &disk).await;
    is_shown(&site, &gateway).await;
    let loosening = site
        .try_gov(
            &gateway,
            "ops-1",
            &["propose", "--id", "later", "--variant", "42"],
        )
        .await;
    assert!(
        loosening.code == 1 && loosening.out.contains("\"reason\":\"audit\""),
        "{loosening:?}"
    );
    assert_eq!(cohort(&gateway, 50).await, before, "what is served stays");

    // A pause acts at once, a stop too, and both are on the disk that has no room.
    let start = Instant::now();
    let pause = site
        .gov(&gateway, "sre-1", &["pause", "--reason", "look first"])
        .await;
    println!(
        "{kind:?}: paused within {:?} of the command: {pause}",
        start.elapsed()
    );
    let of = &pause["targets"][0];
    assert_eq!(
        (&of["state"], &of["durable"]),
        (&"paused".into(), &true.into()),
        "{pause}"
    );
    assert_eq!(scope(&gateway).await["phase"], "paused");
    gateway.kill();
    gateway.start_again();
    assert_eq!(
        whole(&state(&gateway).await)["phase"],
        "paused",
        "after kill -9, still full"
    );
    let after = cohort(&gateway, 50).await;
    assert!(
        after.iter().zip(&before).all(|(now, then)| *then || !*now),
        "nobody came in"
    );

    let start = Instant::now();
    let stop = site.gov(&gateway, "sre-1", &["stop", "--reason", "fire"]).await;
    println!(
        "{kind:?}: stopped within {:?} of the command: {stop}",
        start.elapsed()
    );
    let of = &stop["targets"][0];
    assert_eq!(
        (&of["state"], &of["durable"]),
        (&"stopped".into(), &true.into()),
        "{stop}"
    );
    for _ in 0..2 {
        gateway.kill();
        gateway.start_again();
        let stopped = whole(&state(&gateway).await);
        assert_eq!(
            (&stopped["phase"], &stopped["reason"]),
            (&"stopped".into(), &"fire".into()),
            "{stopped}"
        );
        assert!(!cohort(&gateway, 50).await.contains(&true));
        // The gateway finds out again by itself.
        is_shown(&site, &gateway).await;
    }
    let resume = site.try_gov(&gateway, "ops-1", &["resume"]).await;
    assert!(
        resume.code == 1 && resume.out.contains("\"reason\":\"audit\""),
        "{resume:?}"
    );

    if disk.is_limited() {
        return;
    }
    // With room again all of it is recorded, and only then does a resume end it.
    disk.free();
    eventually(async || {
        let ready = gateway.get("/readyz").await.json().to_string();
        (!ready.contains("audit trail")).then_some(())
    })
    .await;
    let stopped = eventually(async || {
        let of = scope(&gateway).await;
        (of["latched"] == false).then_some(of)
    })
    .await;
    assert_eq!(
        (&stopped["phase"], &stopped["by"]),
        (&"stopped".into(), &serde_json::json!(["sre-1"]))
    );
    site.gov(&gateway, "ops-1", &["resume"]).await;
    assert_eq!(scope(&gateway).await["phase"], "idle");
    verified(&site, &disk.trail()).await;
}

async fn verified(site: &Site, trail: &Path) {
    let verified = site
        .arqon(&["audit", "verify", trail.to_str().expect("UTF-8")])
        .await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let written = std::fs::read_to_string(trail).expect("there");
    for action in ["emergency_stop", "pause_adaptation"] {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let held = written.lines().any(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let envelope: Value =
                serde_json::from_str(line["envelope"].as_str().expect("text")).unwrap_or_default();
            let payload = BASE64_STANDARD.decode(envelope["payload"].as_str().unwrap_or_default());
            line["verdict"] == "accepted"
                && String::from_utf8_lossy(&payload.unwrap_or_default()).contains(action)
        });
        assert!(held, "{action} is in the trail");
    }
}

#[tokio::test]
async fn on_a_full_file_system_a_stop_and_a_pause_act_are_seen_and_outlive_the_process() {
    full(Disk::small()).await;
}

#[tokio::test]
async fn without_the_right_to_mount_a_stop_and_a_pause_act_are_seen_and_outlive_the_process() {
    full(Disk::held().unwrap_or_else(Disk::stand_in)).await;
}

#[tokio::test]
async fn where_no_file_may_grow_a_stop_and_a_pause_act_are_seen_and_outlive_the_process() {
    full(Disk::limited()).await;
}

#[tokio::test]
async fn a_stop_acts_with_a_full_disk_and_a_nats_that_stands_still() {
    let site = Site::new().await;
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let disk = Disk::small();
    let mut gateway = gateway(&site, &disk, Some(server.url())).await;
    site.roll_out(&gateway, "p1", ["50", "0", "50"]).await;
    fill(&gateway, &disk).await;
    assert!(cohort(&gateway, 50).await.contains(&true), "what is served stays");
    server.pause().await.expect("paused");
    let start = Instant::now();
    let stop = site.gov(&gateway, "sre-1", &["stop", "--reason", "fire"]).await;
    println!("stopped within {:?} of the command: {stop}", start.elapsed());
    let of = &stop["targets"][0];
    assert_eq!(
        (&of["state"], &of["durable"]),
        (&"stopped".into(), &true.into()),
        "{stop}"
    );
    assert_eq!(scope(&gateway).await["percent"], 0.0);
    gateway.kill();
    gateway.start_again();
    assert_eq!(whole(&state(&gateway).await)["phase"], "stopped");
    server.resume().await.expect("resumed");
    // The others read it in the log, although this node cannot write what it is to acknowledge.
    let other = Gateway::ready(&site.config(Some(server.url()), "gw-2", &site.catalog()), &[]).await;
    super::site::becomes(&other, "stopped").await;
}
