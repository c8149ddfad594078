//! Compiled modules on disk.

use std::{fs, path::Path};

use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig, PolicyEngine, RecordedRequest};

use crate::guests::{BLOCK_ME, small};

fn policies(folder: &Path) -> PolicyEngine {
    let config = OverseerConfig {
        cache_dir: Some(folder.to_owned()),
        ..OverseerConfig::default()
    };
    PolicyEngine::with_limits(&config).unwrap()
}

fn load(folder: &Path) -> f64 {
    let engine = policies(folder);
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
    found.retain(|path| path.extension().is_none() && !path.ends_with("lock"));
    found
}

fn verdicts(engine: &PolicyEngine) -> [bool; 2] {
    let policy = engine.load(&PolicyConfig::from_module("p", BLOCK_ME)).unwrap();
    ["{}", r#"{"headers": {"x-block-me": "1"}}"#].map(|request| {
        let request: RecordedRequest = serde_json::from_str(request).unwrap();
        let verdict = engine.validate_with_context(&policy, &request).unwrap();
        verdict.allows()
    })
}

/// Machine code is run as it is found: without a digest some of these end the process, and some allow what is denied.
#[test]
fn an_entry_with_a_flipped_bit_is_never_run() {
    let folder = tempfile::tempdir().unwrap();
    let engine = policies(folder.path());
    assert_eq!(verdicts(&engine), [true, false]);
    let [kept] = &entries(folder.path())[..] else {
        panic!("one entry");
    };
    let whole = fs::read(kept).unwrap();
    for at in (0..whole.len())
        .step_by(whole.len() / 50)
        .chain([whole.len() - 1])
    {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(kept, damaged).unwrap();
        assert_eq!(verdicts(&engine), [true, false], "byte {at}");
        assert_eq!(fs::read(kept).unwrap().len(), whole.len(), "byte {at}");
        assert_eq!(entries(folder.path()).len(), 1);
    }
}

#[test]
fn an_entry_under_the_name_of_another_module_is_never_run() {
    let folder = tempfile::tempdir().unwrap();
    let engine = policies(folder.path());
    let other = r#"(module (memory (export "memory") 1) (global (export "arqon_abi_v1") i32 (i32.const 1))
        (func (export "on_request") (result i32) i32.const 0))"#;
    engine.load(&PolicyConfig::from_module("other", other)).unwrap();
    let [of_other] = &entries(folder.path())[..] else {
        panic!("one entry");
    };
    let bytes = fs::read(of_other).unwrap();
    assert_eq!(verdicts(&engine), [true, false]);
    for path in entries(folder.path()) {
        fs::write(path, &bytes).unwrap();
    }
    assert_eq!(verdicts(&engine), [true, false]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_others_may_write_to_is_refused_and_one_that_is_made_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("made");
    load(&folder);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for open in [0o777, 0o1777, 0o770, 0o720, 0o702] {
        fs::set_permissions(&folder, fs::Permissions::from_mode(open)).unwrap();
        let config = OverseerConfig {
            cache_dir: Some(folder.clone()),
            ..OverseerConfig::default()
        };
        let error = PolicyEngine::with_limits(&config).unwrap_err().to_string();
        assert!(error.contains(&format!("mode is {open:o}")), "{error}");
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    load(&folder);
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
