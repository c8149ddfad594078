//! Which updates come in force: regressions, losses, incompatible ones, pins, floods.

use arqon_schema::{Compatibility, OnIncompatible, OnRegression, Pins, TENANT_SCHEMAS_MAX};

use super::*;

/// A descriptor set of a message with those fields.
fn set(fields: &str) -> Bytes {
    let source = format!("syntax = \"proto3\"; package events.v1; message UserCreated {{ {fields} }}");
    let file = protox::file::File::from_source("a.proto", &source).unwrap();
    let mut set = prost_types::FileDescriptorSet::default();
    set.file.push(file.file_descriptor_proto().clone());
    Bytes::from(prost::Message::encode_to_vec(&set))
}

const FIRST: &str = "string user_id = 1;";
const WIDER: &str = "string user_id = 1; int32 age = 2;";

type Told = Arc<Mutex<Vec<Event>>>;

fn told(config: RegistryConfig) -> (Registry, arqon_schema::RegistryWriter, Told) {
    let told = Told::default();
    let sink = Arc::clone(&told);
    let sink = Arc::new(move |event| sink.lock().unwrap().push(event));
    let (registry, writer) = channel_with(config, sink).unwrap();
    (registry, writer, told)
}

/// What was told since the last time.
fn news(told: &Told) -> Vec<Event> {
    std::mem::take(&mut *told.lock().unwrap())
}

fn put(revision: u64, fields: &str) -> Change {
    Change::Put(Entry::new(ID, revision, set(fields)))
}

fn listing(entries: Vec<Entry>) -> Change {
    Change::Listing {
        entries,
        gone: Vec::new(),
        unread: Vec::new(),
    }
}

fn revision(registry: &Registry) -> Option<u64> {
    registry.schemas().first().map(|info| info.revision)
}

#[test]
fn a_store_that_goes_back_changes_nothing_but_the_number_of_what_is_the_same() {
    let (registry, writer, events) = told(config());
    let _ = writer.apply(put(57, WIDER));
    news(&events);
    for change in [
        put(3, FIRST),
        put(57, FIRST),
        listing(vec![Entry::new(ID, 3, set(FIRST))]),
        Change::Delete {
            id: ID.to_owned(),
            revision: 4,
        },
    ] {
        assert_eq!(writer.apply(change).refused.len(), 1);
        assert_eq!(revision(&registry), Some(57));
    }
    let regressed = news(&events);
    assert!(
        regressed
            .iter()
            .all(|event| matches!(event, Event::RevisionRegressed { from: 57, .. })),
        "{regressed:?}"
    );
    assert_eq!(regressed.len(), 4, "each another one: {regressed:?}");
    assert!(registry.refused()[0].reason.contains("not above revision 57"));

    // The same contract under another number, as after a restore: the number is taken, and what follows it.
    assert_eq!(writer.apply(put(2, WIDER)).changed, 1);
    assert_eq!(revision(&registry), Some(2));
    assert!(registry.refused().is_empty());
    assert_eq!(
        writer
            .apply(put(3, "string user_id = 1; int32 age = 2; bool b = 3;"))
            .changed,
        1
    );

    let (registry, writer, _) = told(RegistryConfig {
        on_regression: OnRegression::Adopt,
        ..config()
    });
    let _ = writer.apply(put(57, WIDER));
    assert_eq!(writer.apply(put(3, FIRST)).changed, 1);
    assert_eq!(revision(&registry), Some(3));
}

#[test]
fn what_a_listing_lacks_without_a_deletion_stays_and_is_told_once() {
    let (registry, writer, events) = told(config());
    let other = || Entry::new("v1.other", 2, set(FIRST));
    let _ = writer.apply(listing(vec![Entry::new(ID, 1, set(FIRST)), other()]));
    news(&events);
    for _ in 0..3 {
        let applied = writer.apply(listing(vec![other()]));
        assert_eq!((applied.changed, applied.refused.len()), (0, 1));
    }
    assert_eq!(news(&events), [Event::StoreEmptied { kept: 1 }], "once");
    assert_eq!(
        (registry.schemas().len(), registry.lost()),
        (2, vec![ID.to_owned()])
    );
    let _ = writer.apply(listing(Vec::new()));
    assert_eq!((registry.schemas().len(), registry.lost().len()), (2, 2));
    let _ = writer.apply(listing(vec![Entry::new(ID, 1, set(FIRST)), other()]));
    assert_eq!(
        news(&events),
        [Event::StoreEmptied { kept: 2 }, Event::StoreMended]
    );
    // A deletion in the store unloads.
    let _ = writer.apply(Change::Listing {
        entries: vec![other()],
        gone: vec![(ID.to_owned(), 3)],
        unread: Vec::new(),
    });
    let deleted = Event::SchemaDeleted {
        id: ID.into(),
        revision: 3,
    };
    assert_eq!((news(&events), registry.lost().len()), (vec![deleted], 0));
    assert_eq!(registry.unavailable().len(), 1);
}

#[test]
fn an_empty_store_that_was_read_is_ready_and_an_unread_one_is_not() {
    let (registry, writer, _) = told(config());
    assert!(!registry.is_ready());
    let _ = writer.apply(Change::Merge {
        entries: Vec::new(),
        gone: Vec::new(),
    });
    assert!(!registry.is_ready(), "one change is not all of it");
    let _ = writer.apply(listing(Vec::new()));
    assert!(registry.is_ready() && registry.unavailable().len() == 1);
}

/// A registry fed from a bucket compares every update.
fn of_bucket() -> RegistryConfig {
    RegistryConfig {
        kv_bucket: Some("ARQON_SCHEMAS".to_owned()),
        ..config()
    }
}

#[test]
fn an_incompatible_update_is_refused_unless_it_is_meant_or_the_configuration_accepts_it() {
    const ELSE: &str = "string user_id = 1; string age = 2;";
    let (registry, writer, events) = told(of_bucket());
    let _ = writer.apply(put(1, WIDER));
    news(&events);
    let refused = writer.apply(put(2, ELSE)).refused;
    assert!(
        refused[0].to_string().contains("FIELD_"),
        "the rules are named: {refused:?}"
    );
    assert!(matches!(
        news(&events)[..],
        [Event::SchemaRefused { revision: 2, .. }]
    ));
    assert_eq!(revision(&registry), Some(1));
    // The same refusal again is not told again.
    assert_eq!(writer.apply(put(2, ELSE)).refused.len(), 1);
    assert!(news(&events).is_empty());
    // What is in force comes back: mended.
    let _ = writer.apply(put(1, WIDER));
    assert!(matches!(
        news(&events)[..],
        [Event::SchemaMended { revision: 1, .. }]
    ));

    let meant = Entry::new(ID, 3, set(ELSE)).breaking(true);
    assert_eq!(writer.apply(Change::Put(meant)).changed, 1);
    assert!(matches!(
        news(&events)[..],
        [
            Event::ContractBroken { revision: 3, .. },
            Event::SchemaChanged { revision: 3, .. }
        ]
    ));
    assert_eq!(revision(&registry), Some(3));

    let (registry, writer, events) = told(RegistryConfig {
        on_incompatible: OnIncompatible::Accept,
        ..of_bucket()
    });
    let _ = writer.apply(put(1, WIDER));
    assert_eq!(writer.apply(put(2, ELSE)).changed, 1);
    assert_eq!(revision(&registry), Some(2));
    assert!(
        news(&events)
            .iter()
            .any(|event| matches!(event, Event::ContractBroken { .. }))
    );

    // A folder is edited by hand: nothing is compared unless that is said.
    let (_, writer, _) = told(config());
    let _ = writer.apply(put(1, WIDER));
    assert_eq!(writer.apply(put(2, ELSE)).changed, 1);
    let (_, writer, _) = told(RegistryConfig {
        compatibility: Some(Compatibility::Full),
        ..config()
    });
    let _ = writer.apply(put(1, WIDER));
    assert_eq!(writer.apply(put(2, ELSE)).changed, 0);
}

#[test]
fn a_transitive_mode_remembers_what_was_in_force_two_revisions_ago() {
    for (mode, taken) in [
        (Compatibility::Backward, 1),
        (Compatibility::BackwardTransitive, 0),
    ] {
        let (_, writer, _) = told(RegistryConfig {
            compatibility: Some(mode),
            ..of_bucket()
        });
        let _ = writer.apply(put(1, WIDER));
        // Number and name stay reserved once, and then are given to something else.
        let reserved = "string user_id = 1; reserved 2; reserved \"age\";";
        assert_eq!(writer.apply(put(2, reserved)).changed, 1, "{mode}");
        let reused = "string user_id = 1; string years = 2; reserved \"age\";";
        let reused = Entry::new(ID, 3, set(reused));
        let applied = writer.apply(Change::Put(reused));
        // A reserved range that is gone is a break of its own for the last revision.
        let by_last = applied
            .refused
            .iter()
            .map(ToString::to_string)
            .collect::<String>();
        if taken == 1 {
            assert!(!by_last.contains("UserCreated.age "), "{by_last}");
        } else {
            assert!(by_last.contains("age"), "{by_last}");
        }
    }
}

#[test]
fn a_pin_holds_against_updates_and_deletions_and_goes_back_on_purpose() {
    let (registry, writer, events) = told(of_bucket());
    let _ = writer.apply(put(1, FIRST));
    let _ = writer.apply(put(2, WIDER));
    let repinned = writer.repinned();
    writer.pin(Pins::from([(ID.to_owned(), 1)]));
    assert!(repinned.has_changed().unwrap());
    assert_eq!(revision(&registry), Some(2), "until the store brings it");
    news(&events);
    // An older revision, and an incompatible one: as pinned.
    assert_eq!(writer.apply(put(1, FIRST)).changed, 1);
    assert_eq!(writer.apply(put(3, "string user_id = 1; bool c = 3;")).changed, 0);
    let gone = Change::Delete {
        id: ID.to_owned(),
        revision: 4,
    };
    assert_eq!(writer.apply(gone).changed, 0);
    let info = registry.schemas().remove(0);
    assert_eq!((info.revision, info.pinned, info.held_back), (1, true, Some(3)));
    assert!(matches!(
        news(&events)[..],
        [
            Event::SchemaChanged { revision: 1, .. },
            Event::SchemaHeldBack { revision: 3, .. }
        ]
    ));
    writer.pin(Pins::new());
    assert_eq!(writer.apply(put(5, WIDER)).changed, 1);
    let info = registry.schemas().remove(0);
    assert_eq!((info.revision, info.pinned, info.held_back), (5, false, None));
}

#[test]
fn one_tenants_flood_leaves_room_for_the_others() {
    let (registry, writer, _) = told(config());
    let flood = (0..TENANT_SCHEMAS_MAX + 10).map(|at| Entry::new(format!("t.loud.v1.s{at}"), 1, set(FIRST)));
    let applied = writer.apply(Change::Merge {
        entries: flood.collect(),
        gone: Vec::new(),
    });
    assert_eq!((applied.changed, applied.refused.len()), (TENANT_SCHEMAS_MAX, 10));
    let quiet = Entry::new(format!("t.quiet.{ID}"), 1, set(FIRST));
    assert_eq!(writer.apply(Change::Put(quiet)).changed, 1);
    assert_eq!(registry.schemas().len(), TENANT_SCHEMAS_MAX + 1);
}

#[test]
fn a_garbage_file_in_the_folder_is_told_once_keeps_the_last_good_one_and_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{ID}.proto"));
    std::fs::write(&path, SOURCE).unwrap();
    let (registry, writer, events) = told(config());
    let store = arqon_schema::DirStore::new(folder.path());
    store.load(&writer).unwrap();
    news(&events);
    std::fs::write(&path, "this is no schema").unwrap();
    std::fs::write(folder.path().join("v1.new.proto"), "nor is this").unwrap();
    for _ in 0..3 {
        assert!(store.load(&writer).is_err());
    }
    let mut refused = news(&events);
    refused.sort_by_key(|event| format!("{event:?}"));
    assert!(
        matches!(
            &refused[..],
            [Event::SchemaRefused { id: a, .. }, Event::SchemaRefused { id: b, .. }]
                if &**a == ID && &**b == "v1.new"
        ),
        "{refused:?}"
    );
    assert_eq!((revision(&registry), registry.refused().len()), (Some(1), 2));
    assert!(registry.lost().is_empty(), "it is there, only not readable");
    std::fs::write(&path, SOURCE).unwrap();
    std::fs::remove_file(folder.path().join("v1.new.proto")).unwrap();
    store.load(&writer).unwrap();
    assert!(registry.refused().is_empty());
    let mended = news(&events);
    assert!(
        mended
            .iter()
            .any(|event| matches!(event, Event::SchemaMended { revision: 1, .. })),
        "{mended:?}"
    );
    assert_eq!(registry.schemas().len(), 1);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(folder.path().join("v1.other.proto"), SOURCE).unwrap();
    store.load(&writer).unwrap();
    assert_eq!(
        registry.unavailable().len(),
        1,
        "a file that is gone is a schema that is gone"
    );
}

#[test]
fn a_folder_compiles_to_one_set_whatever_its_depth() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("common")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "common/id.proto",
        "syntax = \"proto3\"; package c; message Id { string v = 1; }",
    );
    let order = "syntax = \"proto3\"; package o; import \"common/id.proto\"; message Order { c.Id id = 1; }";
    write("order.proto", order);
    write("README.md", "no schema");
    let set = arqon_schema::compile_folder(folder.path()).unwrap();
    let schema = Descriptors::decode(&set).unwrap();
    let mut messages: Vec<_> = schema.messages().collect();
    messages.sort_unstable();
    assert_eq!(messages, ["c.Id", "o.Order"]);
    write("bad.proto", "syntax");
    assert!(
        arqon_schema::compile_folder(folder.path())
            .unwrap_err()
            .to_string()
            .contains("bad.proto")
    );
    let empty = tempfile::tempdir().unwrap();
    assert!(
        arqon_schema::compile_folder(empty.path())
            .unwrap_err()
            .to_string()
            .contains("no .proto")
    );
}
