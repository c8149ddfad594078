//! `arqon sample`

use std::io::{BufRead, Write};

use arqon_message::{Fraction, Sampler};
use serde_json::json;

use super::{Outcome, Usage};

pub(super) fn sample(
    percent: Fraction,
    seed: u64,
    json: bool,
    mut keys: impl BufRead,
    out: &mut impl Write,
) -> Result<Outcome, Usage> {
    let (sampler, threshold) = (Sampler::new(seed), percent.threshold());
    let mut line = Vec::new();
    let mut rows = Vec::new();
    loop {
        line.clear();
        if keys.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let key = line.strip_suffix(b"\n").unwrap_or(&line);
        let hash = sampler.hash(key);
        let verdict = if threshold.contains(hash) { "in" } else { "out" };
        if json {
            rows.push(json!({ "key": String::from_utf8_lossy(key), "verdict": verdict, "hash": format!("{hash:016x}") }));
        } else {
            out.write_all(key)?;
            writeln!(out, "\t{verdict}\t{hash:016x}")?;
        }
    }
    if json {
        writeln!(
            out,
            "{}",
            json!({ "percent": percent.get(), "seed": seed, "keys": rows })
        )?;
    }
    Ok(Outcome::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_hashed_as_given() {
        let mut out = Vec::new();
        let half = Fraction::new(0.5).expect("share");
        sample(half, 0, false, &b"a\n\n b"[..], &mut out).expect("written");
        assert_eq!(
            String::from_utf8(out).expect("text").lines().collect::<Vec<_>>(),
            [
                "a\tout\te6c632b61e964e1f",
                "\tin\t2d06800538d394c2",
                &format!(" b\tin\t{:016x}", Sampler::new(0).hash(b" b"))
            ]
        );
    }
}
