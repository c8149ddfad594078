//! The last known good schemas on disk.

use std::time::{Duration, SystemTime};

use arqon_schema::{Copies, Origin};

use super::*;

const OTHER: &str = "v1.events.other";

/// A file of copies with two schemas.
fn saved(folder: &std::path::Path) -> Copies {
    let copies = Copies::new(folder.join("schemas.lkg"), "BUCKET");
    let (_, writer) = channel(config()).unwrap();
    assert_eq!(
        copies.restore(&writer).unwrap().applied.changed,
        0,
        "no file restores nothing"
    );
    let store = MemoryStore::new();
    store.load(&writer).unwrap();
    store.put_source(ID, SOURCE).unwrap();
    store.put_source(OTHER, SOURCE).unwrap();
    copies.save(&writer).unwrap();
    copies
}

#[tokio::test]
async fn copies_bridge_a_start_without_the_store_and_carry_their_age() {
    let folder = tempfile::tempdir().unwrap();
    let copies = saved(folder.path());
    let (registry, writer) = channel(config()).unwrap();
    assert_eq!(registry.origin(), Origin::Nowhere);
    let restored = copies.restore(&writer).unwrap();
    assert_eq!((restored.applied.changed, restored.damaged.len()), (2, 0));
    assert_eq!(registry.origin(), Origin::Copy);
    assert!(
        !registry.is_ready(),
        "only the store can say that nothing is missing"
    );
    assert_eq!(
        send(&registry, request(SUBJECT, b"\x0a\x02u1")).await.0.status(),
        StatusCode::ACCEPTED
    );

    // Older than the time to live: refused; touched by a store that was heard of: fresh again.
    let file = std::fs::File::options().append(true).open(copies.path()).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(301))
        .unwrap();
    let (registry, writer) = channel(config()).unwrap();
    let restored = copies.restore(&writer).unwrap();
    assert!(restored.age.unwrap() >= Duration::from_secs(301) && registry.is_stale());
    assert_eq!(
        send(&registry, request(SUBJECT, b"\x0a\x02u1")).await.0.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    copies.touch().unwrap();
    let (registry, writer) = channel(config()).unwrap();
    let _ = copies.restore(&writer).unwrap();
    assert!(!registry.is_stale());
}

#[test]
fn whatever_bit_is_flipped_a_damaged_copy_restores_less_and_never_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let copies = saved(folder.path());
    let whole = std::fs::read(copies.path()).unwrap();
    let (registry, writer) = channel(config()).unwrap();
    let _ = copies.restore(&writer).unwrap();
    let good: Vec<_> = writer
        .entries()
        .into_iter()
        .map(|of| (of.id, of.revision, of.bytes))
        .collect();
    assert_eq!(registry.schemas().len(), 2);

    let (mut refused, mut partial) = (0, 0);
    for at in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        std::fs::write(copies.path(), &bytes).unwrap();
        let (_, writer) = channel(config()).unwrap();
        match copies.restore(&writer) {
            Err(_) => refused += 1,
            Ok(_) => partial += 1,
        }
        for entry in writer.entries() {
            let restored = (entry.id, entry.revision, entry.bytes);
            assert!(good.contains(&restored), "bit {at}: {restored:?}");
        }
    }
    assert!(refused > 0 && partial > 0, "{refused} {partial}");
    for length in 0..whole.len() {
        std::fs::write(copies.path(), &whole[..length]).unwrap();
        let (_, writer) = channel(config()).unwrap();
        let _ = copies.restore(&writer);
        assert!(writer.entries().len() < 2, "cut at {length}");
    }
}

#[test]
fn copies_of_another_store_are_not_used_and_a_folder_that_is_gone_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let copies = saved(folder.path());
    let (registry, writer) = channel(config()).unwrap();
    let other = Copies::new(copies.path(), "OTHER_BUCKET");
    let error = other.restore(&writer).unwrap_err().to_string();
    assert!(
        error.contains("BUCKET") && error.contains("OTHER_BUCKET"),
        "{error}"
    );
    assert!(registry.schemas().is_empty());
    assert_eq!(registry.origin(), Origin::Nowhere);
    let nowhere = Copies::new(folder.path().join("gone").join("schemas.lkg"), "BUCKET");
    assert!(nowhere.save(&writer).unwrap_err().to_string().contains("gone"));
    assert!(nowhere.touch().is_err());
}
