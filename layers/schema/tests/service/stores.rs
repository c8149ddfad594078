//! What stores bring, and what of it is taken.

use super::*;

#[test]
fn a_bad_update_keeps_the_last_good_one() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let (registry, writer) =
        channel_with(config(), Arc::new(move |event| seen.lock().unwrap().push(event))).unwrap();
    let store = MemoryStore::new();
    store.load(&writer).unwrap();
    store.put_source(ID, SOURCE).unwrap();
    assert!(
        store.put_source(ID, &SOURCE.replace("user_id", "id")).is_err(),
        "the required path is gone"
    );
    assert!(
        store
            .put_source(ID, &SOURCE.replace("UserCreated", "Other"))
            .is_err(),
        "the message is gone"
    );
    assert!(store.put(ID, &b"\x1f\x8bgarbage"[..]).is_err());
    assert!(store.put(ID, &b"garbage"[..]).is_err());
    assert_eq!(registry.schemas()[0].revision, 1);
    assert_eq!(
        store.put_source(ID, &SOURCE.replace("int32", "int64")).unwrap(),
        2
    );
    let bytes = Bytes::from_static(b"");
    let lower = writer.apply(Change::Put(Entry::new(ID, 1, bytes.clone())));
    assert_eq!((lower.changed, lower.refused.len()), (0, 1));
    let emptied = writer.apply(Change::Reset { entries: Vec::new() });
    assert_eq!(
        (emptied.changed, emptied.refused.len(), registry.schemas().len()),
        (0, 1, 1)
    );
    let odd = writer.apply(Change::Put(Entry::new("t.x", 1, bytes)));
    assert!(
        odd.refused[0].to_string().contains("not a schema id"),
        "{:?}",
        odd.refused
    );
    let events = events.lock().unwrap();
    let changed = events
        .iter()
        .filter(|event| matches!(event, Event::SchemaChanged { .. }))
        .count();
    let refused = events
        .iter()
        .filter(|event| matches!(event, Event::SchemaRefused { .. }))
        .count();
    assert_eq!((changed, refused), (2, 5), "{events:?}");
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::RevisionRegressed { from: 2, to: 1, .. }))
    );
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::StoreEmptied { kept: 1 }))
    );
}

#[test]
fn a_listing_unloads_what_is_not_in_it() {
    let (registry, writer) = channel(config()).unwrap();
    let set = |source: &str| {
        let file = protox::file::File::from_source("a.proto", source).unwrap();
        let mut set = prost_types::FileDescriptorSet::default();
        set.file.push(file.file_descriptor_proto().clone());
        Bytes::from(prost::Message::encode_to_vec(&set))
    };
    let entry = |id: &str| Entry::new(id, 1, set(SOURCE));
    assert_eq!(
        writer
            .apply(Change::Reset {
                entries: vec![entry(ID), entry("v1.other")]
            })
            .changed,
        2
    );
    assert_eq!(
        writer
            .apply(Change::Reset {
                entries: vec![entry(ID)]
            })
            .changed,
        1
    );
    assert_eq!(
        writer
            .apply(Change::Reset {
                entries: vec![entry(ID)]
            })
            .changed,
        0
    );
    assert_eq!(registry.schemas().len(), 1);
    assert!(Descriptors::decode(&set(SOURCE)).is_ok());
}

#[tokio::test]
async fn a_folder_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{ID}.proto"));
    std::fs::write(&path, SOURCE).unwrap();
    std::fs::write(folder.path().join("README.md"), "not a schema").unwrap();
    let (changes, mut changed) = tokio::sync::mpsc::channel(64);
    let (registry, writer) = channel_with(
        RegistryConfig {
            cache_ttl_seconds: 3,
            ..config()
        },
        Arc::new(move |event| changes.try_send(event).unwrap()),
    )
    .unwrap();
    let store = arqon_schema::DirStore::new(folder.path());
    assert_eq!(store.load(&writer).unwrap(), 1);
    assert!(registry.is_ready());
    let task = tokio::spawn(arqon_schema::SchemaStore::run(store, writer));
    assert!(matches!(
        changed.recv().await,
        Some(Event::SchemaChanged { revision: 1, .. })
    ));
    std::fs::write(&path, SOURCE.replace("int32 age = 2;", "")).unwrap();
    let mut event = changed.recv().await.unwrap();
    // The watcher may see the file half written.
    while !matches!(event, Event::SchemaChanged { .. }) {
        event = changed.recv().await.unwrap();
    }
    assert_eq!(
        send(&registry, request(SUBJECT, b"\x0a\x02u1\x10\x05"))
            .await
            .0
            .status(),
        StatusCode::BAD_REQUEST
    );
    task.abort();
}

#[test]
fn a_folder_with_a_bad_file_says_which() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join(format!("{ID}.proto")),
        "syntax = \"proto3\"; message",
    )
    .unwrap();
    let (registry, writer) = channel(config()).unwrap();
    let error = arqon_schema::DirStore::new(folder.path())
        .load(&writer)
        .unwrap_err()
        .to_string();
    assert!(error.contains(ID), "{error}");
    assert_eq!(registry.unavailable().len(), 1);
    let missing = arqon_schema::DirStore::new(folder.path().join("nope"))
        .load(&writer)
        .unwrap_err();
    assert!(missing.to_string().contains("cannot read"), "{missing}");
}
