//! Keys, digests, and the small texts of the options.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use arqon_rollout::{Digest, KeyError, KeyPair, MAX_ENVELOPE_BYTES, NodeId};
use serde_json::json;

use super::{Keygen, Outcome, Signing, Usage};

/// A secret key's file and name.
#[derive(Clone, Debug)]
pub(in crate::cli) struct NamedKey {
    pub(super) keyid: String,
    pub(super) file: PathBuf,
}

/// `ops-1=keys/a.key`, or `keys/ops-1.key`.
pub(super) fn named(text: &str) -> Result<NamedKey, String> {
    let (keyid, file) = match text.split_once('=') {
        Some((keyid, file)) => (keyid.to_owned(), PathBuf::from(file)),
        None => (stem(Path::new(text)), PathBuf::from(text)),
    };
    if keyid.is_empty() || file.as_os_str().is_empty() {
        return Err(format!("`{text}` is no key: write FILE or KEYID=FILE"));
    }
    Ok(NamedKey { keyid, file })
}

fn stem(file: &Path) -> String {
    file.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// `30s`, `5m`, `2h`, `1d` in microseconds.
pub(super) fn duration_us(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no time: write 30s, 5m, 2h or 1d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number = &text[..text.len() - unit.len_utf8()];
    let micros = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds)?.checked_mul(1_000_000));
    micros.filter(|micros| *micros > 0).ok_or_else(wrong)
}

/// `alpha=0.5`.
pub(super) fn param(text: &str) -> Result<(String, f64), String> {
    let wrong = || format!("`{text}` is no parameter: write name=value, the value a finite number");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    match value.parse::<f64>() {
        Ok(value) if value.is_finite() && !name.is_empty() => Ok((name.to_owned(), value)),
        _ => Err(wrong()),
    }
}

impl Signing {
    /// The keys, read.
    pub(super) fn pairs(&self) -> Result<Vec<KeyPair>, Usage> {
        let load = |key: &NamedKey| {
            KeyPair::load(&key.keyid, &key.file).map_err(|error| match error {
                KeyError::Read(error) => anyhow::anyhow!(
                    "--key {}: cannot be read: {error}: `arqon gov keygen` makes one",
                    key.file.display()
                ),
                other => anyhow::anyhow!(
                    "--key {}: {other}: give the file that `arqon gov keygen` wrote",
                    key.file.display()
                ),
            })
        };
        self.keys.iter().map(load).collect()
    }
}

/// A file, or standard input for `-`.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, Usage> {
    let mut bytes = Vec::new();
    let most = MAX_ENVELOPE_BYTES as u64;
    if file == Path::new("-") {
        io::stdin().lock().take(most + 1).read_to_end(&mut bytes)?;
    } else {
        let opened = fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
        opened.take(most + 1).read_to_end(&mut bytes)?;
    }
    anyhow::ensure!(
        bytes.len() as u64 <= most,
        "{} has more than {most} bytes, which no message has",
        file.display()
    );
    Ok(bytes)
}

pub(super) fn keygen(keygen: &Keygen, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let keyid = match (&keygen.keyid, &keygen.key) {
        (Some(keyid), _) => keyid.clone(),
        (None, Some(file)) => stem(file),
        (None, None) => "ops-1".to_owned(),
    };
    NodeId::new(&keyid).map_err(|_| {
        anyhow::anyhow!("keyid `{keyid}` is not 1 to 64 of A-Z a-z 0-9 _ -: name another one with --keyid")
    })?;
    let file = keygen
        .key
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{keyid}.key")));
    let pair = KeyPair::generate(&keyid)?;
    write_secret(&file, &pair)?;
    let public = pair.public().to_config();
    if json {
        let made = json!({ "keyid": public.keyid, "ed25519": public.ed25519, "file": file });
        writeln!(out, "{made}")?;
    } else {
        writeln!(
            out,
            "{{ keyid = \"{}\", ed25519 = \"{}\" }}",
            public.keyid, public.ed25519
        )?;
        let _ = writeln!(
            io::stderr(),
            "the secret is in {}; put the line above into `keys` (or `stop_keys`, `node_keys`, `pin_keys`) of [platform.rollout]",
            file.display()
        );
    }
    Ok(Outcome::Ok)
}

/// A file that only its owner reads, and that was not there before.
fn write_secret(file: &Path, pair: &KeyPair) -> Result<(), Usage> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut opened = options.open(file).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow::anyhow!(
            "{} is there already and is not overwritten: name another file with --key",
            file.display()
        ),
        _ => anyhow::anyhow!("{} cannot be written: {error}", file.display()),
    })?;
    writeln!(opened, "{}", pair.to_seed_text())?;
    opened.sync_all()?;
    Ok(())
}

pub(super) fn digest(file: &Path, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let digest = digest_of(file)?;
    if json {
        writeln!(out, "{}", json!({ "digest": digest.to_string() }))?;
    } else {
        writeln!(out, "{digest}")?;
    }
    Ok(Outcome::Ok)
}

/// The digest of a proposal's file.
pub(super) fn digest_of(file: &Path) -> Result<Digest, Usage> {
    Digest::of_proposal_json(&read(file)?).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_or_named_with_the_fix() {
        assert_eq!(duration_us("90s"), Ok(90_000_000));
        assert_eq!(duration_us("1d"), Ok(86_400_000_000));
        for text in ["", "5", "m", "5x", "-1s", "0s", "1.5h", "99999999999999d", "5µ"] {
            let error = duration_us(text).expect_err(text);
            assert!(error.contains("30s, 5m") && error.contains(text), "{error}");
        }
        assert_eq!(param("a=0.5"), Ok(("a".to_owned(), 0.5)));
        for text in ["a", "=1", "a=", "a=x", "a=NaN", "a=inf"] {
            assert!(param(text).expect_err(text).contains(text));
        }
        let key = named("x=keys/a.key").expect("named");
        assert_eq!(
            (key.keyid.as_str(), key.file.as_path()),
            ("x", Path::new("keys/a.key"))
        );
        assert_eq!(named("keys/ops-1.key").expect("named").keyid, "ops-1");
        assert!(named("x=").is_err() && named("").is_err());
    }

    #[test]
    fn a_key_is_never_overwritten_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().expect("folder");
        let keygen = Keygen {
            key: Some(folder.path().join("sre-1.key")),
            keyid: None,
        };
        let mut out = Vec::new();
        super::keygen(&keygen, false, &mut out).expect("made");
        let line = String::from_utf8(out).expect("text");
        assert!(line.starts_with("{ keyid = \"sre-1\", ed25519 = \""), "{line}");
        let file = folder.path().join("sre-1.key");
        let pair = KeyPair::load("sre-1", &file).expect("a key");
        assert!(line.contains(&pair.public().to_config().ed25519));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(
                fs::metadata(&file).expect("there").permissions().mode() & 0o777,
                0o600
            );
        }
        let error = super::keygen(&keygen, false, &mut Vec::new()).expect_err("there");
        assert!(error.to_string().contains("not overwritten"), "{error}");
        assert_eq!(
            KeyPair::load("sre-1", &file).expect("a key").public(),
            pair.public()
        );
    }
}
