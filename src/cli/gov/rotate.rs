//! `arqon gov rotate`: the next key set, for several to sign.

use std::{collections::BTreeMap, io::Write};

use arqon_rollout::{KeyConfig, KeySet, PublicKey, Rotation};
use figment::{
    Figment,
    providers::{Format as _, Toml},
};
use serde::Deserialize;

use super::{
    Outcome, Rotate, Usage,
    compose::{control, signed},
    deliver::{Letter, deliver},
    keys::read,
};

/// How long a rotation may be on its way, unless told otherwise: a day, for all to sign.
const EXPIRES_US: u64 = 24 * 3_600 * 1_000_000;

/// The keys of `[platform.rollout]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Next {
    #[serde(default = "one")]
    threshold: usize,
    keys: Vec<KeyConfig>,
    #[serde(default)]
    stop_keys: Vec<KeyConfig>,
    #[serde(default)]
    node_keys: Vec<KeyConfig>,
}

fn one() -> usize {
    1
}

pub(super) fn rotate(rotate: &Rotate, json: bool, out: &mut impl Write) -> Result<Outcome, Usage> {
    let rotation = next(&String::from_utf8(read(&rotate.next)?)?)
        .map_err(|error| anyhow::anyhow!("{}: {error:#}", rotate.next.display()))?;
    let control = control(&rotate.signing, &rotate.target, rotation, EXPIRES_US);
    let letter = signed(control, &rotate.signing)?;
    if rotate.target.is_named() {
        // Nobody signs another key set anew than the others have.
        return deliver(
            Letter {
                draft: None,
                ..letter
            },
            &rotate.target,
            json,
            out,
        );
    }
    writeln!(out, "{}", letter.envelope.to_json())?;
    Ok(Outcome::Ok)
}

/// The rotation that a file of keys asks for.
fn next(text: &str) -> Result<Rotation, Usage> {
    let Next {
        threshold,
        keys,
        stop_keys,
        node_keys,
    } = Figment::from(Toml::string(text)).extract()?;
    let parse = |keys: &[KeyConfig]| -> Result<Vec<PublicKey>, Usage> {
        let parse =
            |key| PublicKey::parse(key).map_err(|error| anyhow::anyhow!("key `{}`: {error}", key.keyid));
        keys.iter().map(parse).collect()
    };
    // What no gateway would take nobody has to sign.
    let set = KeySet {
        epoch: 2,
        threshold,
        keys: parse(&keys)?,
        stop_keys: parse(&stop_keys)?,
        node_keys: parse(&node_keys)?,
    };
    set.check()?;
    let named = |keys: Vec<KeyConfig>| -> BTreeMap<String, String> {
        keys.into_iter().map(|key| (key.keyid, key.ed25519)).collect()
    };
    Ok(Rotation {
        threshold,
        keys: named(keys),
        stop_keys: named(stop_keys),
        node_keys: named(node_keys),
    })
}

#[cfg(test)]
mod tests {
    use arqon_rollout::KeyPair;

    use super::*;

    fn line(keyid: &str, seed: u8) -> String {
        let key = KeyPair::from_seed(keyid, [seed; 32]).public().to_config();
        format!("{{ keyid = \"{keyid}\", ed25519 = \"{}\" }}", key.ed25519)
    }

    #[test]
    fn a_set_is_read_as_the_configuration_has_it_and_one_that_no_gateway_takes_is_named() {
        let (one, two, stop) = (line("ops-1", 1), line("ops-2", 2), line("sre-1", 3));
        let rotation = next(&format!(
            "threshold = 2\nkeys = [{one}, {two}]\nstop_keys = [{stop}]"
        ))
        .expect("a set");
        let names: Vec<_> = rotation.keys.keys().map(String::as_str).collect();
        assert_eq!((rotation.threshold, names), (2, vec!["ops-1", "ops-2"]));
        assert_eq!((rotation.stop_keys.len(), rotation.node_keys.len()), (1, 0));
        let rotation = next(&format!("keys = [{one}]\nnode_keys = [{two}]")).expect("a set");
        assert_eq!((rotation.threshold, rotation.node_keys.len()), (1, 1));
        for (text, said) in [
            (format!("threshold = 2\nkeys = [{one}]"), "threshold 2 of 1 keys"),
            (format!("keys = [{one}, {one}]"), "are the same"),
            (format!("keys = [{one}]\nstop_keys = [{one}]"), "are the same"),
            (format!("keys = [{one}]\nkey = 1"), "`key`"),
            (
                "keys = [{ keyid = \"a\", ed25519 = \"x\" }]".to_owned(),
                "key `a`",
            ),
            ("stop_keys = []".to_owned(), "`keys`"),
        ] {
            let error = format!("{:#}", next(&text).expect_err(&text));
            assert!(error.contains(said), "{error}");
        }
    }
}
