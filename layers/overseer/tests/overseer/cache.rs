//! Compiled modules on disk.

use std::{fs, path::Path};

use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig, PolicyEngine, RecordedRequest};

use crate::guests::{BLOCK_ME, small};

fn load(folder: &Path) -> f64 {
    let config = OverseerConfig {
        cache_dir: Some(folder.to_owned()),
        ..OverseerConfig::default()
    };
    let engine = PolicyEngine::with_limits(&config).unwrap();
    let policy = engine.load(&PolicyConfig::from_module("p", BLOCK_ME)).unwrap();
    assert!(
        engine
            .validate_with_context(&policy, &RecordedRequest::default())
            .unwrap()
            .allows()
    );
    policy.report().facts.as_ref().unwrap().compile_ms.unwrap()
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(entries(&path))
        } else {
            found.push(path)
        }
    }
    found.retain(|path| path.extension().is_none());
    found
}

#[test]
fn a_module_is_kept_compiled_and_a_damaged_entry_compiled_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cold = load(folder.path());
    let kept = entries(folder.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    let warm = load(folder.path());
    println!("compiled in {cold:.2} ms, found compiled in {warm:.2} ms");
    assert_eq!(entries(folder.path()), kept);
    for damage in [&b""[..], b"no such format", &fs::read(&kept[0]).unwrap()[..100]] {
        fs::write(&kept[0], damage).unwrap();
        load(folder.path());
        assert!(
            fs::read(&kept[0]).unwrap().len() > 100,
            "the entry is whole again"
        );
    }
}

#[test]
fn shards_share_an_entry_and_all_of_them_get_over_a_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let layer = |shards| {
        let config = OverseerConfig {
            cache_dir: Some(folder.path().to_owned()),
            shards,
            ..small([PolicyConfig::from_module("p", BLOCK_ME)])
        };
        OverseerLayer::new(config).unwrap()
    };
    drop(layer(1));
    let kept = entries(folder.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    for shards in [2, 3, 8] {
        drop(layer(shards));
        fs::write(&kept[0], "no such format").unwrap();
        drop(layer(shards));
        assert_eq!(entries(folder.path()), kept, "{shards} shards");
        assert!(
            fs::read(&kept[0]).unwrap().len() > 100,
            "the entry is whole again"
        );
    }
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = OverseerConfig {
        cache_dir: Some(file.path().join("below")),
        ..OverseerConfig::default()
    };
    let error = PolicyEngine::with_limits(&config).unwrap_err().to_string();
    assert!(error.contains("cache_dir") && error.contains("below"), "{error}");
}
