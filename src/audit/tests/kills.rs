//! Another process writes a trail and says what it has acknowledged; it is killed at a random moment, again and again.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::*;

/// Names the trail to the process that is to be killed.
const TRAIL: &str = "TEST_AUDIT_KILLS_TRAIL";
/// How often it is killed: 200 unless told otherwise; the long form is 1,000.
const KILLS: &str = "TEST_AUDIT_KILLS";
/// The lines of a file before it is put aside, so that the kills hit that, too.
const ROTATE: u64 = 8 * 1024;
/// How many kills one trail has to bear.
const PER_TRAIL: u64 = 25;

/// What the process that is killed does: writes, and acknowledges what is on disk.
fn write_until_killed(path: &Path) {
    let (log, records) = AuditLog::open(path).unwrap();
    log.writer.lock().unwrap().rotate_bytes = ROTATE;
    let mut at = log.head().lines;
    assert_eq!(
        records.len() as u64,
        (0..at).filter(|at| entry(*at).seq.is_some()).count() as u64
    );
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut out = io::stdout().lock();
    loop {
        // The very way of the executor: what is awaited here is what a control action waits for.
        runtime.block_on(log.append(entry(at))).unwrap();
        writeln!(out, "\nacknowledged {at} {}", log.head().to_hex()).unwrap();
        out.flush().unwrap();
        at += 1;
    }
}

/// Runs this test once more as that process and kills it after `time`; yields what it had acknowledged.
fn killed_after(time: Duration, from_the_start: bool, path: &Path) -> Vec<(u64, String)> {
    let name = thread::current().name().expect("tests are named").to_owned();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(TRAIL, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut said = Vec::new();
    let mut read = |said: &mut Vec<(u64, String)>| {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 {
            return false;
        }
        // One that was torn is not acknowledged: nobody has read it.
        if let Some((at, hash)) = line
            .strip_suffix('\n')
            .and_then(|line| line.strip_prefix("acknowledged ")?.split_once(' '))
        {
            said.push((at.parse().unwrap(), hash.to_owned()));
        }
        true
    };
    if !from_the_start {
        // From the first acknowledgement on: most kills are to hit the writing.
        while said.is_empty() {
            assert!(read(&mut said), "it ended by itself");
        }
    }
    let end = Instant::now() + time;
    while Instant::now() < end {
        thread::yield_now();
    }
    child.kill().unwrap();
    while read(&mut said) {}
    assert!(!child.wait().unwrap().success(), "it was killed");
    said
}

#[test]
fn what_another_process_had_acknowledged_is_there_whenever_it_is_killed() {
    if let Some(path) = std::env::var_os(TRAIL) {
        return write_until_killed(Path::new(&path));
    }
    let kills: u64 = std::env::var(KILLS).map_or(200, |kills| kills.parse().expect("a number"));
    let seed = std::process::id();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(seed);
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let (mut acknowledged, mut torn, mut rotated) = (0, 0, 0);
    let mut folder = tempfile::tempdir().unwrap();
    let mut told: Vec<(u64, String)> = Vec::new();
    for kill in 0..kills {
        if kill % PER_TRAIL == 0 {
            folder = tempfile::tempdir().unwrap();
            told.clear();
        }
        let path = folder.path().join("audit.jsonl");
        let from_the_start = below(8) == 0;
        let time = Duration::from_micros(below(if from_the_start { 30_000 } else { 12_000 }));
        let said = killed_after(time, from_the_start, &path);
        acknowledged += said.len();
        told.extend(said);
        if !path.exists() && told.is_empty() {
            continue;
        }
        torn += u64::from(verify(&path).unwrap().is_some_and(|found| found.torn_bytes > 0));
        // As a restart finds it.
        let (log, records) = AuditLog::open(&path).unwrap();
        let head = log.head();
        rotated = rotated.max(chain::aside(&path).unwrap().len());
        let context = format!("seed {seed}, kill {kill} after {time:?}");
        let mut heads = Vec::new();
        chain::walk_all(&path, |_, hash| heads.push(chain::hex(&hash))).unwrap();
        for (at, hash) in &told {
            let there = heads.get(usize::try_from(*at).unwrap());
            assert_eq!(there, Some(hash), "{context}: {at} was acknowledged");
        }
        // One more may be there: written, and killed before it was said.
        let last = told.last().map_or(0, |(at, _)| at + 1);
        assert!(
            (last..=last + 1).contains(&head.lines) || from_the_start,
            "{context}: {head:?} after {last}"
        );
        let written: Vec<_> = (0..head.lines)
            .map(entry)
            .filter(|entry| entry.seq.is_some())
            .collect();
        assert_eq!(records.len(), written.len(), "{context}");
        for (record, entry) in records.iter().zip(written) {
            assert_eq!(
                (Some(record.record.seq), &record.record.envelope),
                (entry.seq, &entry.envelope),
                "{context}"
            );
        }
    }
    assert!(acknowledged > 0 && rotated > 0);
    println!(
        "{kills} times killed (SIGKILL, seed {seed}): {acknowledged} acknowledged, 0 lost; {torn} writes torn, up to {rotated} files put aside"
    );
}
