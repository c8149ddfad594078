//! What a policy adds, as somebody else's NATS client sees it: the protocol by hand, no library of ours.

use arqon_test_support::NatsServer;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::process::{Gateway, PATIENCE};

const ADD_HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/wat/add_header.wat");

/// A connection that subscribed, read line by line.
struct Foreign(BufReader<TcpStream>);

impl Foreign {
    async fn subscribe(server: &NatsServer, subjects: &[&str]) -> Self {
        let address = server.url().trim_start_matches("nats://").to_owned();
        let stream = TcpStream::connect(address).await.expect("connected");
        let mut this = Self(BufReader::new(stream));
        let mut hello =
            "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":false,\
                         \"lang\":\"hand\",\"version\":\"1\"}\r\n"
                .to_owned();
        for (at, subject) in subjects.iter().enumerate() {
            hello.push_str(&format!("SUB {subject} {at}\r\n"));
        }
        hello.push_str("PING\r\n");
        this.0.get_mut().write_all(hello.as_bytes()).await.expect("sent");
        while this.line().await != "PONG" {}
        this
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut line)).await;
        assert!(read.expect("in time").expect("open") > 0, "closed");
        line.trim_end().to_owned()
    }

    /// The next message with headers: its subject, and the header lines as they stand.
    async fn message(&mut self) -> (String, Vec<String>) {
        loop {
            let line = self.line().await;
            if line == "PING" {
                self.0.get_mut().write_all(b"PONG\r\n").await.expect("sent");
            }
            let Some(head) = line.strip_prefix("HMSG ") else {
                continue;
            };
            let words: Vec<_> = head.split(' ').collect();
            let number = |at: usize| words[words.len() - at].parse::<usize>().expect("a number");
            let (headers, total) = (number(2), number(1));
            let mut bytes = vec![0; total + 2];
            timeout(PATIENCE, self.0.read_exact(&mut bytes))
                .await
                .expect("in time")
                .expect("whole");
            let text = String::from_utf8_lossy(&bytes[..headers]).into_owned();
            let lines = text.lines().skip(1).filter(|line| !line.is_empty());
            return (words[0].to_owned(), lines.map(str::to_owned).collect());
        }
    }
}

#[tokio::test]
async fn a_header_added_by_a_policy_is_on_the_primary_and_the_shadow_and_cannot_be_pre_set() {
    let server = NatsServer::start().await.expect("a nats-server");
    let unique = server.unique().to_owned();
    let config = format!(
        r#"
[nats]
url = "{}"
stream = "ARQON_IN"

[platform.overseer]
[[platform.overseer.policies]]
name = "edge"
path = "{ADD_HEADER}"

[platform.mirroring]
rules = [{{ prefix = "in.t.default.{unique}.>", percent = "100%" }}]
"#,
        server.url()
    );
    let subject = format!("in.t.default.{unique}.free");
    let shadow = format!("shadow.{subject}");
    let mut foreign = Foreign::subscribe(&server, &[&subject, &shadow]).await;
    let gateway = Gateway::ready(&config, &[]).await;
    for pre_set in [
        &[][..],
        &[("X-Edge", "forged")],
        &[("x-edge", "forged"), ("x-edge", "twice")],
    ] {
        let answer = gateway.publish(&format!("{unique}.free"), pre_set, "x").await;
        assert_eq!(answer.status, 202, "{:?}", answer.json());
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (subject, headers) = foreign.message().await;
            let edge: Vec<_> = headers
                .iter()
                .filter(|line| line.to_ascii_lowercase().starts_with("x-edge:"))
                .map(|line| {
                    line.split_once(':')
                        .map_or("", |(_, value)| value.trim())
                        .to_owned()
                })
                .collect();
            assert_eq!(edge, ["arqon"], "{subject}: {headers:?}");
            seen.push(subject);
        }
        seen.sort();
        assert_eq!(seen, [subject.clone(), shadow.clone()]);
    }
}
