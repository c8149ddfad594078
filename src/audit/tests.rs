//! What was acknowledged is there, and what was changed is found.

use std::fs;

use arqon_rollout::{AuditEntry, AuditSink as _, Reason, Refusal};
use bytes::Bytes;

use super::*;

mod kills;

fn entry(seq: u64) -> AuditEntry {
    let refused = || Refusal {
        reason: Reason::Busy,
        detail: "a \"quoted\"\nreason".to_owned(),
    };
    AuditEntry {
        seq: (seq % 7 != 6).then_some(seq),
        received_at_us: 1_000 + seq,
        channel: "gov.t.default.down".to_owned(),
        envelope: match seq % 5 {
            4 => Bytes::from_static(&[0xff, 0x00, b'\n']),
            _ => Bytes::from(format!("{{\"payload\":\"{seq}\"}}")),
        },
        catalog: seq.is_multiple_of(3).then(|| Bytes::from_static(b"{}")),
        refusal: (seq % 4 == 3).then(refused),
    }
}

/// A trail of `count` entries and the file's length after each.
fn write(path: &Path, count: u64) -> Vec<u64> {
    let (log, _) = AuditLog::open(path).unwrap();
    let append = |seq| {
        log.writer.lock().unwrap().append(&entry(seq)).unwrap();
        fs::metadata(path).unwrap().len()
    };
    (0..count).map(append).collect()
}

#[test]
fn what_was_written_is_read_back_verbatim() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    write(&path, 20);
    let (log, records) = AuditLog::open(&path).unwrap();
    assert_eq!(log.head().lines, 20);
    let expected: Vec<_> = (0..20).map(entry).filter(|entry| entry.seq.is_some()).collect();
    assert_eq!(records.len(), expected.len());
    for (record, entry) in records.iter().zip(expected) {
        assert_eq!(
            (Some(record.seq), record.received_at_us),
            (entry.seq, entry.received_at_us)
        );
        assert_eq!(
            (&record.envelope, &record.catalog),
            (&entry.envelope, &entry.catalog)
        );
        assert_eq!(record.channel.to_string(), entry.channel);
    }
}

#[test]
fn every_flipped_byte_and_every_dropped_line_is_found_with_its_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let ends = write(&path, 6);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        let index = ends.iter().position(|end| (at as u64) < *end).unwrap() as u64;
        match verify(&path) {
            Err(BrokenAudit::Entry { index: found, .. }) => assert_eq!(found, index, "byte {at}"),
            other => panic!("byte {at}: {other:?}"),
        }
    }
    let lines: Vec<&[u8]> = good.split_inclusive(|byte| *byte == b'\n').collect();
    for dropped in 0..5 {
        let kept: Vec<u8> = lines
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != dropped)
            .flat_map(|(_, line)| line.to_vec())
            .collect();
        fs::write(&path, kept).unwrap();
        match verify(&path) {
            Err(BrokenAudit::Entry { index, .. }) => assert_eq!(index, dropped as u64),
            // A trail may start later, after one put aside; its first number tells.
            Ok(Some(verified)) => assert_eq!((dropped, verified.first), (0, 1)),
            other => panic!("{dropped}: {other:?}"),
        }
    }
    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    fs::write(&path, swapped.concat()).unwrap();
    assert!(matches!(verify(&path), Err(BrokenAudit::Entry { index: 2, .. })));
}

#[test]
fn a_write_torn_at_any_byte_is_cut_off_and_the_trail_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let ends = write(&path, 40);
    let good = fs::read(&path).unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..1_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let cut = usize::try_from(random % (good.len() as u64 + 1)).unwrap();
        fs::write(&path, &good[..cut]).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut as u64).count() as u64;
        let (log, _) = AuditLog::open(&path).unwrap();
        assert_eq!(log.head().lines, whole, "cut at byte {cut}");
        log.writer.lock().unwrap().append(&entry(whole)).unwrap();
        assert_eq!(verify(&path).unwrap().unwrap().head.lines, whole + 1);
    }
}

#[test]
fn rotation_carries_the_head() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (log, _) = AuditLog::open(&path).unwrap();
    log.writer.lock().unwrap().rotate_bytes = 1_000;
    for seq in 0..30 {
        log.writer.lock().unwrap().append(&entry(seq)).unwrap();
    }
    let head = log.head();
    drop(log);
    assert!(chain::aside(&path).unwrap().len() > 3);
    let (log, records) = AuditLog::open(&path).unwrap();
    assert_eq!((log.head(), records.len()), (head, 26));
    // A crash right after the rename, before and after the new file is made: it is empty and goes on with the head.
    log.writer.lock().unwrap().rotate().unwrap();
    drop(log);
    fs::remove_file(&path).unwrap();
    assert!(is_there(&path) && !is_there(folder.path().join("other")));
    assert_eq!(verify(&path).unwrap().unwrap().head, head);
    let (log, _) = AuditLog::open(&path).unwrap();
    assert_eq!(log.head(), head);
    log.writer.lock().unwrap().append(&entry(30)).unwrap();
    let verified = verify(&path).unwrap().unwrap();
    assert_eq!(
        (verified.first, verified.head.lines),
        (0, 31),
        "the whole trail, file after file"
    );

    // The head of any time is known again, another one is not.
    assert!(log.holds(head.lines, &head.to_hex()) && log.holds(31, &log.head().to_hex()));
    assert!(!log.holds(32, &head.to_hex()) && !log.holds(30, &log.head().to_hex()));
    drop(log);

    // A file put aside is part of the trail: without it nothing goes on.
    let files = chain::aside(&path).unwrap();
    let (number, second) = &files[1];
    fs::rename(second, folder.path().join("elsewhere")).unwrap();
    match verify(&path) {
        Err(BrokenAudit::Entry { index, .. }) => assert_eq!(index, *number),
        other => panic!("{other:?}"),
    }
    fs::rename(folder.path().join("elsewhere"), second).unwrap();
    fs::remove_file(&files[0].1).unwrap();
    assert!(
        verify(&path).unwrap().unwrap().first > 0,
        "the older part is not here"
    );
    assert!(
        AuditLog::open(&path).is_err(),
        "and the state cannot be made without it"
    );
}

#[test]
fn a_trail_has_one_writer_also_after_it_was_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (log, _) = AuditLog::open(&path).unwrap();
    for seq in 0..2 {
        let refused = AuditLog::open(&path).unwrap_err().to_string();
        assert!(refused.contains("another process writes this trail"), "{refused}");
        log.writer.lock().unwrap().append(&entry(seq)).unwrap();
        log.writer.lock().unwrap().rotate().unwrap();
    }
    assert!(verify(&path).unwrap().is_some(), "reading is free");
    drop(log);
    assert_eq!(AuditLog::open(&path).unwrap().0.head().lines, 2);
}

#[tokio::test]
async fn a_failed_write_is_told_and_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (log, _) = AuditLog::open(&path).unwrap();
    log.append(entry(0)).await.unwrap();
    let before = log.head();
    let writable = std::mem::replace(&mut log.writer.lock().unwrap().file, File::open(&path).unwrap());
    assert!(log.append(entry(1)).await.is_err());
    assert_eq!(log.head(), before);
    log.writer.lock().unwrap().file = writable;
    log.append(entry(1)).await.unwrap();
    assert_eq!(verify(&path).unwrap().unwrap().head.lines, 2);
}
