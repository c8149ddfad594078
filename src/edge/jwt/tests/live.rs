//! What is remembered, the layer as a service, and keys that change while it runs.

use std::{convert::Infallible, time::Duration};

use arqon_message::{Claims, Code, Rejection, TenantId};
use http::{
    Request, Response,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

use super::*;

#[test]
fn a_remembered_token_ends_in_time_and_the_memory_is_bounded() {
    let layer = layer_with(AuthConfig {
        issuers: vec![issuer(json!([secret("a", SECRET)]))],
        cache_entries: 100,
        ..AuthConfig::default()
    });
    let first = token(&claims());
    assert!(layer.0.judge(&first, NOW).is_ok());
    assert!(layer.0.judge(&first, NOW + 69).is_ok());
    assert_eq!(layer.0.judge(&first, NOW + 70).err(), Some(Refused::Expired));
    for n in 0..1_000 {
        let mut claims = claims();
        claims["sub"] = json!(n);
        assert!(layer.0.judge(&token(&claims), NOW).is_ok());
        assert!(layer.0.remembered() <= 100, "{}", layer.0.remembered());
    }
    // What does not hold is not remembered.
    let before = layer.0.remembered();
    assert!(layer.0.judge(&format!("{first}x"), NOW).is_err());
    assert_eq!(layer.0.remembered(), before);
}

#[test]
fn bad_keys_and_settings_are_findings_with_their_key() {
    let keys_of = |issuer| {
        let error = JwtLayer::new(&AuthConfig {
            issuers: vec![issuer],
            ..AuthConfig::default()
        })
        .expect_err("refused");
        error.0.into_iter().map(|finding| finding.key).collect::<Vec<_>>()
    };
    assert_eq!(
        keys_of(IssuerConfig::of(ISSUER, "arqon", "not json")),
        ["auth.issuers[0].jwks"]
    );
    assert_eq!(
        keys_of(IssuerConfig::of(ISSUER, "arqon", r#"{"keys":[]}"#)),
        ["auth.issuers[0].jwks"]
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "{}").expect("written");
    let from_file = IssuerConfig {
        jwks: None,
        jwks_file: Some(file.path().into()),
        ..IssuerConfig::of(ISSUER, "arqon", "")
    };
    assert_eq!(keys_of(from_file), ["auth.issuers[0].jwks_file"]);
    let ca = IssuerConfig {
        jwks: None,
        jwks_url: Some("https://id.example/keys".to_owned()),
        ca_file: Some(file.path().into()),
        ..IssuerConfig::of(ISSUER, "arqon", "")
    };
    assert_eq!(keys_of(ca), ["auth.issuers[0].ca_file"]);
}

/// What the client gets, and what the inner service saw.
async fn ask(layer: &JwtLayer, request: Request<()>) -> Response<String> {
    let inner = service_fn(|request: Request<()>| async move {
        let extensions = request.extensions();
        let tenant = extensions.get::<TenantId>().map(ToString::to_string);
        assert!(extensions.get::<Claims>().is_some() && extensions.get::<Verified>().is_some());
        Ok::<_, Infallible>(Response::new(http_body_util::Full::<bytes::Bytes>::from(
            tenant.unwrap_or_default(),
        )))
    });
    let response = layer.layer(inner).oneshot(request).await.expect("answered");
    let (parts, body) = response.into_parts();
    let body = arqon_message::collect(body, 10_000).await.expect("whole").bytes;
    Response::from_parts(parts, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

fn live_token(exp_from_now: i64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let mut claims = claims();
    claims["exp"] = json!(now.as_secs() as i64 + exp_from_now);
    token(&claims)
}

#[tokio::test]
async fn the_answers_are_401_and_403_in_words_that_tell_a_forger_nothing() {
    let layer = layer();
    let request = |value: &str| {
        Request::builder()
            .header(AUTHORIZATION, value)
            .body(())
            .expect("valid")
    };
    let good = live_token(60);
    for value in [
        format!("Bearer {good}"),
        format!("bearer {good}"),
        format!("BEARER   {good}"),
    ] {
        assert_eq!(ask(&layer, request(&value)).await.body(), "acme", "{value}");
    }
    let missing = ask(&layer, Request::new(())).await;
    assert_eq!(
        (missing.status().as_u16(), &missing.headers()[WWW_AUTHENTICATE]),
        (401, &"Bearer".parse().expect("value"))
    );
    assert!(missing.body().contains("auth.missing"));
    assert!(
        ask(&layer, request("Basic dTpw"))
            .await
            .body()
            .contains("auth.missing")
    );

    let mut bodies = Vec::new();
    let mut forged = good.clone();
    forged.truncate(good.len() - 2);
    let unknown_kid = signed(r#"{"alg":"HS256","kid":"zz"}"#, &claims().to_string(), SECRET);
    let none = signed(r#"{"alg":"none","kid":"a"}"#, &claims().to_string(), SECRET);
    for value in [
        "Bearer",
        "Bearer ",
        "Bearer x",
        &format!("Bearer {forged}"),
        &format!("Bearer {unknown_kid}"),
        &format!("Bearer {none}"),
    ] {
        let answer = ask(&layer, request(value)).await;
        assert_eq!(answer.status(), 401, "{value}");
        assert_eq!(
            answer.headers()[WWW_AUTHENTICATE],
            "Bearer error=\"invalid_token\""
        );
        bodies.push(answer.into_body());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert!(bodies[0].contains("auth.invalid"));

    let expired = ask(&layer, request(&format!("Bearer {}", live_token(-60)))).await;
    assert!(expired.body().contains("expired") && expired.status() == 401);
    let mut nobody = claims();
    nobody["tenant_id"] = json!("a.b");
    nobody["exp"] = json!(9_000_000_000_u64);
    let answer = ask(&layer, request(&format!("Bearer {}", token(&nobody)))).await;
    assert_eq!(
        (answer.status().as_u16(), answer.body().contains("tenant.invalid")),
        (403, true)
    );

    let twice = Request::builder()
        .header(AUTHORIZATION, format!("Bearer {good}"))
        .header(AUTHORIZATION, "Bearer x");
    let twice = ask(&layer, twice.body(()).expect("valid")).await;
    assert!(twice.body().contains("auth.invalid"));
}

#[tokio::test]
async fn a_session_is_held_to_its_tokens_time_and_needs_no_second_token() {
    let layer = layer();
    let verified = judge(&token(&claims())).expect("held at that time");
    let frame = |verified: Verified| Request::builder().extension(verified).body(()).expect("valid");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    // NOW is in the year 2027: then the session is over or not, by the clock of this machine.
    let answer = ask(&layer, frame(verified.clone())).await;
    assert_eq!(answer.status() == 200, verified.holds_at(now));

    let over = layer.0.judge(&live_token(1), now).expect("holds now");
    assert_eq!(ask(&layer, frame(over)).await.body(), "acme");
    let mut past = claims();
    past["exp"] = json!(1_000);
    let past = layer.0.judge(&token(&past), 1_000).expect("held in 1970");
    let answer = ask(&layer, frame(past)).await;
    let rejection = answer.extensions().get::<Rejection>().expect("typed");
    assert_eq!(
        (rejection.problem().code, rejection.closes_session()),
        (Code::AuthInvalid, true)
    );
}

#[test]
fn a_session_ends_with_its_key_and_with_no_other() {
    let layer = layer();
    let verified = layer.0.judge(&token(&claims()), NOW).expect("holds");
    let keys = |keys: Value| {
        let set = json!({ "keys": keys }).to_string();
        key::read_set(set.as_bytes(), key::Origin::Own).expect("a set").0
    };
    let issuer = &layer.0.issuers()[0];
    assert!(layer.has_key_of(&verified));
    layer
        .0
        .swap(issuer, keys(json!([secret("more", OTHER), secret("a", SECRET)])));
    assert!(
        layer.has_key_of(&verified) && layer.has_key_of(&verified),
        "another came"
    );
    layer
        .0
        .swap(issuer, keys(json!([secret("a", OTHER), secret("b", SECRET)])));
    assert!(
        !layer.has_key_of(&verified),
        "its name and its secret are those of two others"
    );
    layer.0.swap(issuer, keys(json!([secret("a", SECRET)])));
    assert!(layer.has_key_of(&verified), "it is back");
    let other = layer_with(AuthConfig {
        issuers: vec![super::issuer(json!([secret("a", OTHER)]))],
        ..AuthConfig::default()
    });
    assert!(!other.has_key_of(&verified), "another layer has keys of its own");
}

#[tokio::test]
async fn a_frame_whose_key_was_withdrawn_ends_its_session() {
    let layer = layer();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let verified = layer.0.judge(&live_token(60), now.as_secs()).expect("holds now");
    let frame = || {
        Request::builder()
            .extension(verified.clone())
            .body(())
            .expect("valid")
    };
    assert_eq!(ask(&layer, frame()).await.body(), "acme");
    layer.0.swap(&layer.0.issuers()[0], Vec::new());
    let answer = ask(&layer, frame()).await;
    let rejection = answer.extensions().get::<Rejection>().expect("typed");
    assert_eq!(
        (rejection.problem().code, rejection.closes_session()),
        (Code::AuthInvalid, true)
    );
}

/// Looks until it holds: keys are replaced without a word that could be waited for.
async fn until(holds: &(dyn Fn() -> bool + Sync)) {
    let looked = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looked)
        .await
        .expect("in time");
}

#[tokio::test]
async fn a_changed_key_file_is_taken_over_and_a_broken_one_is_not() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let write =
        |keys: Value| std::fs::write(file.path(), json!({ "keys": keys }).to_string()).expect("written");
    write(json!([secret("a", SECRET)]));
    let layer = layer_with(AuthConfig {
        issuers: vec![IssuerConfig {
            jwks: None,
            jwks_file: Some(file.path().into()),
            ..issuer(json!([]))
        }],
        ..AuthConfig::default()
    });
    let (old, new) = (
        token(&claims()),
        signed(r#"{"alg":"HS256","kid":"new"}"#, &claims().to_string(), OTHER),
    );
    assert!(layer.0.judge(&old, NOW).is_ok() && layer.0.judge(&new, NOW).is_err());
    let stop = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(layer.refresh().run(stop.clone()));
    std::fs::write(file.path(), "{").expect("written");
    // A broken file first: when the good one behind it is in force, the broken one was passed over or seen, and the old
    // keys have held throughout.
    assert!(layer.0.judge(&old, NOW).is_ok());
    write(json!([secret("new", OTHER), secret("more", SECRET)]));
    until(&|| layer.0.judge(&new, NOW).is_ok()).await;
    assert_eq!(
        layer.0.judge(&old, NOW).err(),
        Some(Refused::Key),
        "remembered tokens go with their keys"
    );
    stop.cancel();
    assert_eq!(task.await.expect("ended"), Ok(()));
}

/// Answers each connection with what `answer` says now, and counts them.
async fn key_server(answer: Arc<std::sync::Mutex<String>>) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("bound"));
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head).await;
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let text = answer.lock().expect("whole").clone();
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    (url, asked)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn fetched_keys_come_before_readiness_and_bad_answers_change_nothing() {
    let random = SystemRandom::new();
    let pair = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
    let pair = Ed25519KeyPair::from_pkcs8(pair.as_ref()).expect("a key");
    let set = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "kid": "1", "x": b64(pair.public_key().as_ref()) },
        secret("public-secret", SECRET),
    ] });
    let signed_by = |kid: &str| {
        let text = format!(
            "{}.{}",
            b64(json!({ "alg": "EdDSA", "kid": kid }).to_string()),
            b64(claims().to_string())
        );
        let signature = pair.sign(text.as_bytes());
        format!("{text}.{}", b64(signature.as_ref()))
    };
    let answer = Arc::new(std::sync::Mutex::new(
        "HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ));
    let (url, asked) = key_server(Arc::clone(&answer)).await;
    let layer = layer_with(AuthConfig {
        issuers: vec![IssuerConfig {
            jwks: None,
            jwks_url: Some(url),
            ..issuer(json!([]))
        }],
        ..AuthConfig::default()
    });
    assert_eq!(
        layer.ready(),
        Err(format!("the keys of {ISSUER} are not there yet"))
    );
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(layer.refresh().run(stop.clone()));
    until(&|| asked.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    assert!(layer.ready().is_err());
    // A redirect is not followed, and no set is taken from what is not 200.
    *answer.lock().expect("whole") = format!(
        "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: {}\r\n\r\n{set}",
        set.to_string().len()
    );
    let before = asked.load(std::sync::atomic::Ordering::SeqCst);
    until(&|| asked.load(std::sync::atomic::Ordering::SeqCst) > before).await;
    assert!(layer.ready().is_err());
    *answer.lock().expect("whole") = ok(&set.to_string());
    until(&|| layer.ready().is_ok()).await;
    assert!(layer.0.judge(&signed_by("1"), NOW).is_ok());
    // A secret that everybody can read is no key.
    let forged = signed(
        r#"{"alg":"HS256","kid":"public-secret"}"#,
        &claims().to_string(),
        SECRET,
    );
    assert_eq!(layer.0.judge(&forged, NOW).err(), Some(Refused::Key));

    // A flood of unknown keys asks once in ten seconds at most; a bad answer then leaves the last good keys.
    *answer.lock().expect("whole") = ok("{\"keys\":[]}");
    let before = asked.load(std::sync::atomic::Ordering::SeqCst);
    for n in 0..10_000 {
        assert_eq!(
            layer.0.judge(&signed_by(&format!("unknown-{n}")), NOW).err(),
            Some(Refused::Key)
        );
    }
    until(&|| asked.load(std::sync::atomic::Ordering::SeqCst) > before).await;
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), before + 1);
    assert!(layer.ready().is_ok() && layer.0.judge(&signed_by("1"), NOW).is_ok());
    stop.cancel();
}
