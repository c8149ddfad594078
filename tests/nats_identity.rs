//! Who we are to NATS: credentials file, nkey, token, TLS, each with a real server that asks for it.
#![cfg(feature = "nats")]

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use arqon::nats::{Identity, connect::ready, connect_as};
use arqon_test_support::GuardedServer;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

type Error = Box<dyn std::error::Error>;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a message goes round with this identity; `false` once the server has refused it.
async fn gets_in(url: &str, identity: &Identity) -> Result<bool, Error> {
    let client = connect_as(url, identity).await?;
    let start = Instant::now();
    let refusals = client.statistics();
    loop {
        assert!(start.elapsed() < PATIENCE, "neither in nor refused");
        if ready(&client).is_ok() {
            let mut messages = client.subscribe("x").await?;
            client.publish("x", "1".into()).await?;
            let came = timeout(PATIENCE, futures_util::StreamExt::next(&mut messages)).await?;
            return Ok(came.is_some());
        }
        // A connection that was made was refused afterwards; with TLS it is never made, so a few tries have to do.
        let tried = refusals.connects.load(std::sync::atomic::Ordering::Relaxed);
        if tried > 0 || start.elapsed() > Duration::from_secs(2) {
            return Ok(false);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn file(folder: &std::path::Path, name: &str, text: &str) -> Result<PathBuf, Error> {
    let path = folder.join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

fn identity(fill: impl FnOnce(&mut Identity)) -> Identity {
    let mut identity = Identity::default();
    fill(&mut identity);
    identity
}

#[tokio::test]
async fn a_token_file_opens_a_server_that_asks_for_a_token() -> Result<(), Error> {
    let server = GuardedServer::start("authorization { token: \"open-sesame\" }", &[]).await?;
    let right = file(server.folder(), "right", "open-sesame\n")?;
    let wrong = file(server.folder(), "wrong", "sesame\n")?;
    assert!(gets_in(&server.url(), &identity(|i| i.token_file = Some(right))).await?);
    assert!(!gets_in(&server.url(), &identity(|i| i.token_file = Some(wrong))).await?);
    assert!(!gets_in(&server.url(), &Identity::default()).await?);
    Ok(())
}

#[tokio::test]
async fn an_nkey_file_opens_a_server_that_knows_the_key() -> Result<(), Error> {
    let (known, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let config = format!("authorization {{ users: [{{ nkey: {} }}] }}", known.public_key());
    let server = GuardedServer::start(&config, &[]).await?;
    let right = file(server.folder(), "right.nk", &known.seed()?)?;
    let wrong = file(server.folder(), "wrong.nk", &stranger.seed()?)?;
    assert!(gets_in(&server.url(), &identity(|i| i.nkey_file = Some(right))).await?);
    assert!(!gets_in(&server.url(), &identity(|i| i.nkey_file = Some(wrong))).await?);
    Ok(())
}

#[tokio::test]
async fn user_and_password_or_a_token_may_stand_in_the_url() -> Result<(), Error> {
    let with =
        |server: &GuardedServer, user: &str| server.url().replace("nats://", &format!("nats://{user}@"));
    let server = GuardedServer::start("authorization { user: gw, password: \"p@ss word\" }", &[]).await?;
    assert!(gets_in(&with(&server, "gw:p%40ss%20word"), &Identity::default()).await?);
    assert!(!gets_in(&with(&server, "gw:other"), &Identity::default()).await?);
    assert!(!gets_in(&server.url(), &Identity::default()).await?);
    let server = GuardedServer::start("authorization { token: \"s3cret\" }", &[]).await?;
    assert!(gets_in(&with(&server, "s3cret"), &Identity::default()).await?);
    assert!(!gets_in(&with(&server, "other"), &Identity::default()).await?);
    Ok(())
}

/// A JWT as NATS has them (ADR-14): claims about `subject`, signed by `issuer`.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, nats: &Value) -> Result<String, Error> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as base64};
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"}).to_string();
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name, "sub": subject, "nats": nats,
    });
    let signed = format!("{}.{}", base64.encode(header), base64.encode(claims.to_string()));
    let signature = issuer.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", base64.encode(signature)))
}

#[tokio::test]
async fn a_creds_file_opens_a_server_with_an_operator() -> Result<(), Error> {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let operator_jwt = jwt(
        &operator,
        &operator.public_key(),
        "o",
        &json!({"type": "operator", "version": 2}),
    )?;
    let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1});
    let of_account = json!({"type": "account", "version": 2, "limits": limits});
    let account_jwt = jwt(&operator, &account.public_key(), "a", &of_account)?;
    // JetStream needs an account of the system's own.
    let system = KeyPair::new_account();
    let system_jwt = jwt(&operator, &system.public_key(), "s", &of_account)?;
    let config = format!(
        "operator: {operator_jwt}\nsystem_account: {1}\nresolver: MEMORY\n\
         resolver_preload: {{ {0}: {account_jwt}, {1}: {system_jwt} }}\n",
        account.public_key(),
        system.public_key()
    );
    let server = GuardedServer::start(&config, &[]).await?;
    let creds = |signer: &KeyPair, user: &KeyPair| -> Result<String, Error> {
        let of_user = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
        let user_jwt = jwt(signer, &user.public_key(), "u", &of_user)?;
        Ok(format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed()?
        ))
    };
    let user = KeyPair::new_user();
    let right = file(server.folder(), "right.creds", &creds(&account, &user)?)?;
    let wrong = file(
        server.folder(),
        "wrong.creds",
        &creds(&KeyPair::new_account(), &user)?,
    )?;
    assert!(gets_in(&server.url(), &identity(|i| i.creds_file = Some(right))).await?);
    assert!(!gets_in(&server.url(), &identity(|i| i.creds_file = Some(wrong))).await?);
    Ok(())
}

/// A certificate and its key, signed by a new authority: `(authority, certificate, key)`, PEM.
fn certificate() -> Result<(String, String, String), Error> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let authority_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key)?;
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate()?;
    let signed = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?
        .signed_by(&key, &issuer)?;
    Ok((authority.pem(), signed.pem(), key.serialize_pem()))
}

#[tokio::test]
async fn tls_is_asked_for_with_an_authority_and_a_client_certificate_opens_what_asks_for_one()
-> Result<(), Error> {
    let (authority, cert, key) = certificate()?;
    let (other, stranger_cert, stranger_key) = certificate()?;
    let config = "tls { cert_file: \"DIR/cert.pem\", key_file: \"DIR/key.pem\", ca_file: \"DIR/ca.pem\", verify: true, timeout: 5 }";
    let files = [
        ("cert.pem", cert.as_str()),
        ("key.pem", &key),
        ("ca.pem", &authority),
    ];
    let server = GuardedServer::start(config, &files).await?;
    let path = |name: &str| server.folder().join(name);
    for (name, text) in [
        ("other.pem", &other),
        ("s.pem", &stranger_cert),
        ("s.key", &stranger_key),
    ] {
        file(server.folder(), name, text)?;
    }
    let ours = Some((path("cert.pem"), path("key.pem")));
    let right = identity(|i| (i.ca_file, i.client_cert) = (Some(path("ca.pem")), ours.clone()));
    assert!(gets_in(&server.url(), &right).await?);
    let other_authority = identity(|i| (i.ca_file, i.client_cert) = (Some(path("other.pem")), ours));
    assert!(
        !gets_in(&server.url(), &other_authority).await?,
        "a server that the authority did not sign"
    );
    let stranger = identity(|i| {
        (i.ca_file, i.client_cert) = (Some(path("ca.pem")), Some((path("s.pem"), path("s.key"))));
    });
    assert!(
        !gets_in(&server.url(), &stranger).await?,
        "a client that the server's authority did not sign"
    );
    let none = identity(|i| i.ca_file = Some(path("ca.pem")));
    assert!(
        !gets_in(&server.url(), &none).await?,
        "no certificate where one is asked for"
    );
    Ok(())
}

/// Lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_says_what_is_wrong_with_a_servers_certificate_and_shows_no_secret() -> Result<(), Error> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone());
    let _default = tracing::subscriber::set_default(subscriber.finish());
    let ((authority, cert, key), (other, ..)) = (certificate()?, certificate()?);
    let files = [
        ("cert.pem", cert.as_str()),
        ("key.pem", &key),
        ("ca.pem", &authority),
    ];
    let config = "tls { cert_file: \"DIR/cert.pem\", key_file: \"DIR/key.pem\", timeout: 5 }";
    let server = GuardedServer::start(config, &files).await?;
    let ca = file(server.folder(), "other.pem", &other)?;
    let url = server.url().replace("nats://", "nats://gw:open-sesame@");
    let _client = connect_as(&url, &identity(|i| i.ca_file = Some(ca))).await?;
    let start = Instant::now();
    while !lines.text().contains("invalid peer certificate") {
        assert!(start.elapsed() < PATIENCE, "{}", lines.text());
        sleep(Duration::from_millis(10)).await;
    }
    // More tries end in the same way, and are not told again.
    sleep(Duration::from_millis(500)).await;
    let said = lines.text();
    assert_eq!(said.matches("invalid peer certificate").count(), 1, "{said}");
    assert!(said.contains("127.0.0.1") && !said.contains("sesame"), "{said}");
    Ok(())
}

#[tokio::test]
async fn with_an_authority_a_server_without_tls_is_not_spoken_to() -> Result<(), Error> {
    let server = GuardedServer::start("", &[]).await?;
    let (authority, ..) = certificate()?;
    let ca = file(server.folder(), "ca.pem", &authority)?;
    assert!(gets_in(&server.url(), &Identity::default()).await?);
    assert!(!gets_in(&server.url(), &identity(|i| i.ca_file = Some(ca))).await?);
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_not_there_names_its_key() {
    for (named, key) in [
        (identity(|i| i.creds_file = Some("no/such".into())), "creds_file"),
        (identity(|i| i.nkey_file = Some("no/such".into())), "nkey_file"),
        (identity(|i| i.token_file = Some("no/such".into())), "token_file"),
    ] {
        let error = connect_as("nats://127.0.0.1:1", &named)
            .await
            .expect_err("refused");
        assert_eq!(
            error.to_string(),
            format!("nats.{key} \"no/such\" cannot be read")
        );
    }
}
