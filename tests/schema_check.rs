//! `arqon schema check`, as somebody calls it who has a contract and payloads.

use std::{error::Error, fs, path::Path, process::Command};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

type Outcome = Result<(), Box<dyn Error>>;

const USER: &str = "syntax = \"proto3\"; package u; message User { string user_id = 1; int32 age = 2; }";

/// Exit code, what was printed, and what was said on standard error.
fn arqon(folder: &Path, arguments: &[&str]) -> Result<(Option<i32>, String, String), Box<dyn Error>> {
    let ended = Command::new(env!("CARGO_BIN_EXE_arqon"))
        .args(["schema", "check"])
        .args(arguments)
        .current_dir(folder)
        .output()?;
    Ok((
        ended.status.code(),
        String::from_utf8(ended.stdout)?,
        String::from_utf8(ended.stderr)?,
    ))
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Outcome {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().ok_or("a folder")?)?;
    Ok(fs::write(path, bytes)?)
}

#[test]
fn a_source_a_set_a_gzipped_set_and_a_folder_are_the_same_contract() -> Outcome {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    write(at, "user.proto", USER.as_bytes())?;
    write(
        at,
        "sources/common/id.proto",
        b"syntax = \"proto3\"; package c; message Id { string v = 1; }",
    )?;
    let importing = USER
        .replace("package u;", "package u; import \"common/id.proto\";")
        .replace("int32 age = 2;", "c.Id id = 2;");
    write(at, "sources/user.proto", importing.as_bytes())?;
    let set = arqon_schema::read_schema(&at.join("user.proto"))?;
    write(at, "user.binpb", &set)?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut gzip, &set)?;
    write(at, "user.binpb.gz", &gzip.finish()?)?;
    write(at, "good", b"\x0a\x02u1")?;
    write(at, "bad", b"\x0a")?;
    for contract in ["user.proto", "user.binpb", "user.binpb.gz", "sources"] {
        let with = |payload| arqon(at, &["--descriptors", contract, "--message", "u.User", payload]);
        assert_eq!(
            with("good")?,
            (Some(0), "accept\n".to_owned(), String::new()),
            "{contract}"
        );
        let (code, out, errors) = with("bad")?;
        assert_eq!((code, errors.as_str()), (Some(1), ""), "{contract}");
        assert!(
            out.starts_with("reject user_id wire.truncated: "),
            "{contract}: {out}"
        );
    }
    Ok(())
}

#[test]
fn a_folder_is_checked_file_by_file_with_a_line_at_its_end_and_progress_beside_it() -> Outcome {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    write(at, "user.proto", USER.as_bytes())?;
    for number in 0..50 {
        write(at, &format!("payloads/{number:02}.bin"), b"\x0a\x02u1")?;
    }
    write(at, "payloads/deep/er/missing.bin", b"\x10\x05")?;
    write(at, "payloads/mapped.json", br#"{"userId":"u1"}"#)?;
    write(at, "payloads/wrong.JSON", br#"{"userId":5}"#)?;
    write(at, "payloads/.hidden", b"no payload")?;
    let basic = [
        "--descriptors",
        "user.proto",
        "--message",
        "u.User",
        "--required",
        "user_id",
    ];
    let run = |more: &[&str]| arqon(at, &[&basic, more, &["payloads"]].concat());

    let (code, out, errors) = run(&[])?;
    assert_eq!(
        (code, errors.as_str()),
        (Some(1), ""),
        "no terminal, no progress: {out}"
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0],
        "deep/er/missing.bin: reject user_id required: field 'user_id' missing"
    );
    assert!(
        lines[1].starts_with("wrong.JSON: reject user_id json.type: "),
        "{out}"
    );
    assert_eq!(lines[2..], ["53 payloads: 51 accepted, 2 refused"]);

    let (_, same, errors) = run(&["--progress"])?;
    assert_eq!(same, out, "progress is not in what a pipe reads");
    let told: Vec<&str> = errors.lines().collect();
    assert_eq!(told.len(), 20, "{errors}");
    assert_eq!(told[19], "[53/53] 2 refused so far");

    let (code, out, _) = run(&["--json"])?;
    let told: Value = serde_json::from_str(&out)?;
    assert_eq!(
        (code, &told["accepted"], &told["refused"]),
        (Some(1), &json!(51), &json!(2))
    );
    let all = told["payloads"].as_array().ok_or("payloads")?;
    assert_eq!(all.len(), 53);
    let missing = all
        .iter()
        .find(|one| one["file"] == "deep/er/missing.bin")
        .ok_or("there")?;
    assert_eq!(missing["violations"][0]["message"], "field 'user_id' missing");
    // Every file is what is said of it, whatever it is called.
    let (code, out, _) = run(&["--encoding", "proto"])?;
    assert_eq!(code, Some(1));
    assert!(out.ends_with("53 payloads: 50 accepted, 3 refused\n"), "{out}");
    Ok(())
}

#[test]
fn what_cannot_be_used_is_said_in_words_and_ends_with_2() -> Outcome {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    write(at, "user.proto", USER.as_bytes())?;
    write(at, "broken.proto", b"no schema")?;
    write(at, "empty/.hidden", b"")?;
    write(at, "good", b"")?;
    for (contract, message, level, payload, said) in [
        (
            "absent.proto",
            "u.User",
            "strict",
            "good",
            "absent.proto cannot be loaded",
        ),
        ("broken.proto", "u.User", "strict", "good", "broken.proto"),
        ("good", "u.User", "strict", "good", "good cannot be loaded"),
        ("user.proto", "u.Other", "strict", "good", "u.User"),
        (
            "user.proto",
            "u.User",
            "strong",
            "good",
            "none of wire, strict, required, rules",
        ),
        (
            "user.proto",
            "u.User",
            "strict",
            "absent",
            "absent cannot be read",
        ),
        ("user.proto", "u.User", "strict", "empty", "empty has no payloads"),
    ] {
        let (code, out, errors) = arqon(
            at,
            &[
                "--descriptors",
                contract,
                "--message",
                message,
                "--level",
                level,
                payload,
            ],
        )?;
        assert_eq!(
            (code, out.as_str()),
            (Some(2), ""),
            "{contract} {message} {level} {payload}: {errors}"
        );
        assert!(
            errors.contains(said),
            "{contract} {message} {level} {payload}: {errors}"
        );
    }
    Ok(())
}
