use std::{cell::Cell, fs};

use wasmtime::{Engine, Module};

use super::{
    ModuleCache, name,
    staging::{Staging, next},
    store::{ENTRIES_MAX, Entry, Store},
};

const WASM: &[u8] = b"\0asm\x01\0\0\0";

#[test]
fn an_entry_has_the_name_that_wasmtime_gives_it_and_wasmtime_finds_it_there() {
    let folder = tempfile::tempdir().unwrap();
    let hits = || {
        let cache = ModuleCache::open(folder.path()).unwrap();
        let engine = Engine::new(&cache.enable(wasmtime::Config::new())).unwrap();
        cache.load(&engine, WASM, || Module::new(&engine, WASM)).unwrap();
        assert!(folder.path().join(name(&engine, WASM)).is_file());
        assert_eq!(cache.inner.staging.take(&name(&engine, WASM)), None);
        (cache.inner.cache.cache_hits(), cache.inner.cache.cache_misses())
    };
    assert_eq!(hits(), (0, 1));
    assert_eq!(hits(), (1, 0));
}

#[test]
fn wasmtime_sees_nothing_that_lies_in_its_folder_from_before() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ModuleCache::open(folder.path()).unwrap();
    let engine = Engine::new(&cache.enable(wasmtime::Config::new())).unwrap();
    let name = name(&engine, WASM);
    let stale = Entry {
        folder: "wasmtime-1".into(),
        bytes: b"stale".to_vec(),
    };
    cache.inner.staging.place(&name, Some(&stale));
    let seen = Cell::new(true);
    cache
        .load(&engine, WASM, || {
            let path = cache
                .inner
                .staging
                .folder()
                .join("modules/wasmtime-1")
                .join(&name);
            seen.set(path.exists());
            Ok(())
        })
        .unwrap();
    assert!(!seen.get());
}

#[test]
fn what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let abandoned = |parent: &std::path::Path, name: &str| {
        let left = parent.join(name);
        fs::create_dir(&left).unwrap();
        fs::write(left.join("lock"), "").unwrap();
        left
    };
    let left = abandoned(folder.path(), "staging-1-0");
    // Half removed: its lock went first.
    let half = folder.path().join("staging-2-0");
    fs::create_dir_all(half.join("modules/wasmtime-1")).unwrap();
    let here = || -> Vec<String> {
        let found = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = found
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let first = Staging::open(folder.path()).unwrap();
    assert!(!left.exists() && !half.exists());
    let second = Staging::open(folder.path()).unwrap();
    assert_eq!(here().len(), 2, "{:?}", here());
    assert!(first.folder().exists() && second.folder().exists());
    let gone = first.folder().to_owned();
    drop(first);
    assert!(!gone.exists() && second.folder().exists());
    assert_eq!(here().len(), 1, "{:?}", here());
    // The same in memory, if it is there.
    let memory = std::path::Path::new("/dev/shm");
    if second.folder().starts_with(memory) {
        let left = abandoned(memory, &format!("arqon-overseer-0-{}", std::process::id()));
        let third = Staging::open(folder.path()).unwrap();
        assert!(!left.exists() && second.folder().exists() && third.folder().exists());
    }
    let gone = second.folder().to_owned();
    drop(second);
    assert!(!gone.exists());
    assert_eq!(here().len(), 0, "{:?}", here());
}

#[cfg(unix)]
#[test]
fn nobody_else_looks_into_what_wasmtime_works_in() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let staging = Staging::open(folder.path()).unwrap();
    let mode = fs::metadata(staging.folder()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

#[test]
fn what_was_used_longest_ago_goes_when_there_is_too_much() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let entry = Entry {
        folder: "wasmtime-1".into(),
        bytes: vec![7; 100],
    };
    let names: Vec<String> = (0..4).map(|at| at.to_string().repeat(43)).collect();
    for (at, name) in names.iter().enumerate() {
        store
            .write(name, &entry, &folder.path().join("temporary"))
            .unwrap();
        let age = std::time::Duration::from_secs(1_000 - at as u64);
        let file = fs::File::open(folder.path().join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - age).unwrap();
    }
    assert_eq!(store.read(&names[0]), Some(entry));
    store.prune(3, u64::MAX).unwrap();
    let there = || -> Vec<bool> {
        names
            .iter()
            .map(|name| folder.path().join(name).exists())
            .collect()
    };
    assert_eq!(there(), [true, false, true, true]);
    store.prune(ENTRIES_MAX, 250).unwrap();
    assert_eq!(there(), [true, false, false, false]);
}

#[test]
fn a_process_of_the_same_number_that_was_killed_or_lives_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let from = next();
    let mut held = Vec::new();
    for at in from..from + 20 {
        for suffix in ["", ".new"] {
            let left = folder
                .path()
                .join(format!("staging-{}-{at}{suffix}", std::process::id()));
            fs::create_dir(&left).unwrap();
            let lock = fs::File::create(left.join("lock")).unwrap();
            // Every other one is of a process that lives, in another container.
            if at % 2 == 0 {
                lock.lock().unwrap();
                held.push((left, lock));
            }
        }
    }
    let staging = Staging::open(folder.path()).unwrap();
    assert!(held.iter().all(|(left, _)| left.join("lock").exists()));
    assert!(staging.folder().exists());
}

#[cfg(unix)]
#[test]
fn an_entry_that_somebody_else_may_have_written_is_not_taken() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let folder = tempfile::tempdir().unwrap();
    let hit = || {
        let cache = ModuleCache::open(folder.path()).unwrap();
        let engine = Engine::new(&cache.enable(wasmtime::Config::new())).unwrap();
        cache.load(&engine, WASM, || Module::new(&engine, WASM)).unwrap();
        let entry = folder.path().join(name(&engine, WASM));
        (cache.inner.cache.cache_hits() == 1, entry)
    };
    let (_, entry) = hit();
    assert_eq!(fs::metadata(&entry).unwrap().mode() & 0o777, 0o600);
    assert!(hit().0);
    for mode in [0o620, 0o602] {
        fs::set_permissions(&entry, fs::Permissions::from_mode(mode)).unwrap();
        assert!(!hit().0, "{mode:o}");
        assert!(hit().0, "it was written anew");
    }
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(hit().0, "others may read it");
    // Only root gives files away.
    if chown(&entry, Some(65_534), None).is_ok() {
        assert!(!hit().0, "another user's");
        assert!(hit().0, "it was written anew");
    }
}
