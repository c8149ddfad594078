//! What was acknowledged is there, and what was changed is found.

use std::fs;

use arqon_rollout::{AuditEntry, AuditSink as _, Reason, Refusal};
use bytes::Bytes;

use super::*;

mod kills;
mod thousand;

fn entry(seq: u64) -> AuditEntry {
    let refused = || Refusal {
        reason: Reason::Busy,
        detail: "a \"quoted\"\nreason".to_owned(),
        last_counter: None,
        log_time_us: None,
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
    for (Recovered { record, verdict }, entry) in records.iter().zip(expected) {
        let then = entry
            .refusal
            .as_ref()
            .map_or(Ok(()), |refusal| Err(refusal.reason.to_string()));
        assert_eq!(verdict.as_ref(), Some(&then));
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
    for dropped in 0..6 {
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
fn whatever_byte_a_trail_ends_at_all_that_was_acknowledged_is_there_or_the_first_one_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (path, beside) = (
        folder.path().join("audit.jsonl"),
        folder.path().join("audit.jsonl.head"),
    );
    // What is on disk at the moment when so many entries have been acknowledged: the file's length, and the head beside it.
    let (log, _) = AuditLog::open(&path).unwrap();
    let mut acknowledged = vec![(0, fs::read(&beside).unwrap())];
    for seq in 0..=40 {
        log.writer.lock().unwrap().append(&entry(seq)).unwrap();
        acknowledged.push((fs::metadata(&path).unwrap().len(), fs::read(&beside).unwrap()));
    }
    drop(log);
    let good = fs::read(&path).unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let (mut kept, mut found) = (0, 0);
    for round in 0..1_000 {
        // So many were acknowledged, and the next one was on its way; then the power went, or somebody came.
        let count = below(41);
        let at = usize::try_from(count).unwrap();
        let ((end, head), (next, _)) = (&acknowledged[at], &acknowledged[at + 1]);
        let crash = round % 2 == 0 || *end == 0;
        let cut = if crash {
            end + below(next - end + 1)
        } else {
            below(*end)
        };
        fs::write(&path, &good[..usize::try_from(cut).unwrap()]).unwrap();
        fs::write(&beside, head).unwrap();
        let whole = acknowledged
            .iter()
            .filter(|(end, _)| *end > 0 && *end <= cut)
            .count() as u64;
        let told = format!("{count} acknowledged, cut at byte {cut}");
        if crash {
            assert!(verify(&path).is_ok(), "{told}");
            let (log, _) = AuditLog::open(&path).unwrap();
            let head = log.head();
            assert!((count..=count + 1).contains(&head.lines), "{told}: {head:?}");
            log.writer.lock().unwrap().append(&entry(head.lines)).unwrap();
            assert_eq!(verify(&path).unwrap().unwrap().head, log.head());
            kept += 1;
        } else {
            for broken in [verify(&path).unwrap_err(), AuditLog::open(&path).unwrap_err()] {
                match broken {
                    BrokenAudit::Entry { index, what, .. } => {
                        assert_eq!(index, whole, "{told}: {what}");
                        assert!(
                            what.contains("cut off") || what.contains("not what was written"),
                            "{told}: {what}"
                        );
                    }
                    other => panic!("{told}: {other}"),
                }
            }
            found += 1;
        }
    }
    assert!(kept > 400 && found > 400, "{kept} kept, {found} found");
}

#[test]
fn a_trail_without_its_head_is_not_continued_until_somebody_seals_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, beside) = (
        folder.path().join("audit.jsonl"),
        folder.path().join("audit.jsonl.head"),
    );
    write(&path, 3);
    let whole = fs::read(&path).unwrap();
    assert!(has_head(&path));

    // An older version's, or somebody took it away.
    fs::remove_file(&beside).unwrap();
    assert!(!has_head(&path) && verify(&path).is_ok());
    let refused = AuditLog::open(&path).unwrap_err();
    assert!(matches!(refused, BrokenAudit::Headless { .. }), "{refused:?}");
    assert!(
        refused.to_string().contains("audit.jsonl.head is missing")
            && refused.to_string().contains("audit seal")
    );
    assert_eq!(seal(&path).unwrap().lines, 3);
    assert_eq!(AuditLog::open(&path).unwrap().0.head().lines, 3);

    // Where the log is kept elsewhere, too, it goes on, and people are told.
    let cut = &whole[..whole.iter().rposition(|byte| *byte == b'{').unwrap()];
    fs::write(&path, cut).unwrap();
    let (log, records, lost) = AuditLog::open_beside_a_log(&path).unwrap();
    assert_eq!((log.head().lines, records.len()), (2, 2));
    assert!(lost.is_some_and(|lost| lost.contains("entry 2 was acknowledged and is missing")));
    drop(log);
    assert_eq!(AuditLog::open_beside_a_log(&path).unwrap().2, None, "told once");
    fs::write(&path, &whole).unwrap();
    assert!(AuditLog::open(&path).is_ok());

    // Emptied, replaced by another unbroken one, or rewritten to the same length.
    fs::write(&path, "").unwrap();
    assert!(matches!(verify(&path), Err(BrokenAudit::Entry { index: 0, .. })));
    assert!(AuditLog::open(&path).is_err());
    let other = folder.path().join("other");
    let (log, _) = AuditLog::open(&other).unwrap();
    for seq in [9, 8, 7, 5] {
        log.writer.lock().unwrap().append(&entry(seq)).unwrap();
    }
    fs::copy(&other, &path).unwrap();
    match verify(&path) {
        Err(BrokenAudit::Entry { index, what, .. }) => {
            assert_eq!((index, what), (2, "is not the one that was acknowledged"));
        }
        other => panic!("{other:?}"),
    }
    assert!(AuditLog::open(&path).is_err());

    // Its head is another trail's, or cannot be read.
    fs::write(&path, &whole).unwrap();
    fs::write(&beside, "x").unwrap();
    assert!(verify(&path).is_err() && AuditLog::open(&path).is_err());
    seal(&path).unwrap();
    let (log, _) = AuditLog::open(&path).unwrap();
    assert!(
        seal(&path)
            .unwrap_err()
            .to_string()
            .contains("another process writes"),
        "not of a trail in use"
    );
    log.writer.lock().unwrap().append(&entry(3)).unwrap();
    assert_eq!(verify(&path).unwrap().unwrap().head.lines, 4);
}

#[test]
fn an_entry_whose_head_cannot_be_kept_is_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    write(&path, 2);
    let (log, _) = AuditLog::open(&path).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    let mut writer = log.writer.lock().unwrap();
    let good = std::mem::replace(&mut writer.kept, Kept::read_only(&path));
    assert!(writer.append(&entry(2)).is_err());
    assert_eq!(
        (fs::metadata(&path).unwrap().len(), writer.head.lines),
        (length, 2),
        "taken back"
    );
    // The power goes now: what is left is what was acknowledged, and nothing is missed.
    assert_eq!(verify(&path).unwrap().unwrap().head.lines, 2);
    // It could not even be taken back: it is before the next one is written.
    fs::write(&path, [&fs::read(&path).unwrap()[..], b"{\"n\":2,"].concat()).unwrap();
    writer.littered = true;
    writer.kept = good;
    for seq in 2..5 {
        writer.append(&entry(seq)).unwrap();
    }
    assert_eq!(verify(&path).unwrap().unwrap().head.lines, 5);
    drop(writer);
    drop(log);
    assert_eq!(AuditLog::open(&path).unwrap().0.head().lines, 5);
}

#[test]
fn a_rotation_that_failed_half_way_goes_on_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    write(&path, 3);
    let (log, _) = AuditLog::open(&path).unwrap();
    let mut writer = log.writer.lock().unwrap();
    writer.rotate_bytes = 1;
    // The old file is put aside, and no new one can be made.
    let aside = chain::numbered(&path, 0);
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    for _ in 0..2 {
        assert!(writer.append(&entry(3)).is_err());
        assert_eq!(writer.head.lines, 3, "not acknowledged");
    }
    fs::remove_dir(&path).unwrap();
    let before = fs::read(&aside).unwrap();
    writer.append(&entry(3)).unwrap();
    writer.rotate_bytes = ROTATE_BYTES;
    // The new file is made, and its name could not be written to disk: it is before the next line is acknowledged.
    writer.unnamed = true;
    writer.append(&entry(4)).unwrap();
    assert!(!writer.unnamed);
    assert_eq!(fs::read(&aside).unwrap(), before);
    assert_eq!(verify(&path).unwrap().unwrap().head.lines, 5);
    // Somebody's file has the name: it stays, and so does the trail.
    let next = chain::numbered(&path, 3);
    fs::write(&next, "mine").unwrap();
    writer.rotate_bytes = 1;
    let refused = writer.append(&entry(5)).unwrap_err().to_string();
    assert!(refused.contains("in the way"), "{refused}");
    assert_eq!(fs::read(&next).unwrap(), b"mine");
    fs::remove_file(&next).unwrap();
    writer.append(&entry(5)).unwrap();
    drop(writer);
    drop(log);
    assert_eq!(AuditLog::open(&path).unwrap().0.head().lines, 6);
}

#[test]
fn a_trail_that_is_gone_is_missed_by_its_head() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    write(&path, 3);
    fs::remove_file(&path).unwrap();
    match verify(&path) {
        Err(BrokenAudit::Entry { index: 0, what, .. }) => assert!(what.contains("is gone"), "{what}"),
        other => panic!("{other:?}"),
    }
    // One that never had a line is just not there.
    let other = folder.path().join("other.jsonl");
    drop(AuditLog::open(&other).unwrap());
    fs::remove_file(&other).unwrap();
    assert!(matches!(verify(&other), Err(BrokenAudit::Io { .. })));
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
