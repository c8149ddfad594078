//! A variant that is worse than the baseline, in real traffic: the guard lowers it and says why.

use arqon_test_support::NatsServer;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::site::{Site, becomes, scope};
use crate::process::{Gateway, PATIENCE, eventually};

/// A variant whose messages go [`astray`]: every publish of it fails, of the baseline none.
const CATALOG: &str = r#"{"version": 1, "baseline": 1, "variants": [{"id": 1, "name": "stable"},
    {"id": 42, "name": "goes-astray"}]}"#;

/// The URL of a way to the server of `url`, on which messages that name the variant go where no stream takes them.
async fn astray(url: &str) -> String {
    let server = url.trim_start_matches("nats://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let way = format!("nats://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.expect("a server");
            tokio::spawn(pass(client, server));
        }
    });
    way
}

async fn pass(mut client: TcpStream, mut server: TcpStream) -> std::io::Result<()> {
    let ((from_client, mut to_client), (mut from_server, mut to_server)) = (client.split(), server.split());
    let up = async {
        let mut frames = BufReader::new(from_client);
        loop {
            let mut frame = Vec::new();
            if frames.read_until(b'\n', &mut frame).await? == 0 {
                return Ok(0);
            }
            let line = String::from_utf8_lossy(&frame).into_owned();
            let words: Vec<_> = line.split_whitespace().collect();
            if let [verb @ ("PUB" | "HPUB"), subject, .., bytes] = words[..] {
                let start = frame.len();
                frame.resize(start + bytes.parse::<usize>().unwrap_or_default() + 2, 0);
                frames.read_exact(&mut frame[start..]).await?;
                let names_it = frame[start..].windows(11).any(|text| text == b"goes-astray");
                if names_it && subject.starts_with("in.t.") {
                    let at = verb.len() + 1;
                    frame[at..at + 2].copy_from_slice(b"no");
                }
            }
            to_server.write_all(&frame).await?;
        }
    };
    let down = copy(&mut from_server, &mut to_client);
    tokio::select! {
        ended = up => ended.map(drop),
        ended = down => ended.map(drop),
    }
}

/// One message of each of the first users: how many were accepted, and how many were not.
async fn traffic(gateway: &Gateway) -> (usize, usize) {
    let (mut good, mut bad) = (0, 0);
    for user in 0..80 {
        let user = format!("user-{user}");
        let answer = gateway.publish("x", &[("x-user", &user)], "{}").await;
        let variant = answer.headers["x-arqon-variant"].to_str().expect("text");
        match answer.status.as_u16() {
            202 => good += 1,
            503 => bad += 1,
            other => panic!("{other}"),
        }
        assert_eq!(answer.status == 202, variant == "stable", "{variant}");
    }
    (good, bad)
}

async fn breach(action: &str) {
    let site = Site::new().await;
    let server = NatsServer::start_own().await.expect("a nats-server");
    let client = server.client().await.expect("connected");
    let mut reports = client
        .subscribe("gov.t.default.tel.gw-1")
        .await
        .expect("subscribed");
    client.flush().await.expect("flushed");
    std::fs::write(site.path("catalog.json"), CATALOG).expect("written");
    let more = format!(
        "{}\nguard = {{ window_seconds = 1, min_samples = 20, latency_factor = 1000.0, action = \"{action}\" }}",
        site.catalog()
    );
    let way = astray(server.url()).await;
    let gateway = Gateway::ready(&site.config(Some(&way), "gw-1", &more), &[]).await;

    assert_eq!(traffic(&gateway).await, (80, 0));

    site.roll_out(&gateway, "p1", ["40", "60", "100"]).await;
    becomes(&gateway, "ramping").await;
    let alert = async {
        loop {
            let report = reports.next().await.expect("open");
            let report: Value = serde_json::from_slice(&report.payload).expect("JSON");
            if report["message"]
                .as_str()
                .is_some_and(|text| text.contains("error rate"))
            {
                return report;
            }
        }
    };
    let guarded = eventually(async || {
        let (_, bad) = traffic(&gateway).await;
        let of = scope(&gateway).await;
        assert!(bad > 0 || of["guarded"] == true, "{of}");
        (of["guarded"] == true).then_some(of)
    })
    .await;
    let alert = timeout(PATIENCE, alert).await.expect("in time");
    println!("{action}: {alert}");
    assert_eq!(
        (&alert["type"], &alert["severity"]),
        (&"alert".into(), &"error".into())
    );
    let figure = |name: &str| -> f64 {
        let text = alert["context"][name].as_str().expect("a figure");
        text.parse().expect("a number")
    };
    assert!(
        (figure("canary_error_rate") - 1.0).abs() < 1e-9 && figure("baseline_error_rate") <= 0.0,
        "{alert}"
    );
    assert!(
        figure("canary_requests") >= 20.0 && figure("baseline_requests") >= 20.0,
        "{alert}"
    );
    assert_eq!(guarded["guard"]["verdict"], "breach");
    assert_eq!(guarded["guard"]["canary"]["error_rate"], 1.0);

    // The log goes on, this node does not; only another rollout begins anew.
    let lowered = guarded["percent"].as_f64().expect("a number");
    let higher = eventually(async || {
        let of = scope(&gateway).await;
        (of["log_percent"].as_f64() > Some(lowered + 2.0)).then_some(of)
    })
    .await;
    assert_eq!(higher["percent"], guarded["percent"], "{higher}");
    let (_, bad) = traffic(&gateway).await;
    match action {
        "freeze" => assert!(lowered > 40.0 && bad > 0, "{lowered} {bad}"),
        _ => assert!(lowered <= 0.0 && bad == 0, "{lowered} {bad}"),
    }
    let admin = format!("http://{}", gateway.admin);
    let status = site.arqon(&["gov", "status", "--admin", &admin]).await;
    assert!(status.out.contains("lowered by the guard"), "{}", status.out);
    assert!(status.out.contains("breach"), "{}", status.out);
}

#[tokio::test]
async fn a_failing_variant_is_frozen_where_it_is_and_people_are_told_the_figures() {
    breach("freeze").await;
}

#[tokio::test]
async fn a_failing_variant_is_rolled_back_and_people_are_told_the_figures() {
    breach("rollback").await;
}
