//! Collects figures, prints them as they come, writes them as JSON.

use std::{collections::BTreeMap, fmt::Write as _, fs, sync::OnceLock, time::Instant};

#[derive(Default)]
pub struct Figures {
    values: BTreeMap<String, f64>,
    broken: Vec<String>,
}

impl Figures {
    pub fn put(&mut self, name: &str, value: f64) {
        println!("{name:<52} {value:>14.3}");
        self.values.insert(name.to_owned(), value);
    }

    /// A thing that must hold on every machine.
    pub fn must(&mut self, what: &str, holds: bool) {
        if !holds {
            println!("BROKEN {what}");
            self.broken.push(what.to_owned());
        }
    }

    pub fn write(&self, path: &str) {
        let mut text = String::from("{\n");
        for (i, (name, value)) in self.values.iter().enumerate() {
            let comma = if i + 1 == self.values.len() { "" } else { "," };
            writeln!(text, "  \"{name}\": {value:.6}{comma}").expect("a String takes all");
        }
        text.push_str("}\n");
        fs::write(path, text).expect("the JSON path is writable");
    }

    pub fn finish(self) {
        assert!(self.broken.is_empty(), "broken: {:?}", self.broken);
    }
}

/// The middle value.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value below which `share` of them lie.
pub fn percentile(sorted: &[u64], share: f64) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at] as f64
}

/// Wall time.
pub fn wall_seconds() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// CPU time of all threads, where the system tells it (Linux); else wall time.
pub fn cpu_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return wall_seconds();
    };
    let of = |path: std::path::PathBuf| -> Option<f64> {
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    let nanoseconds: f64 = threads.flatten().filter_map(|thread| of(thread.path())).sum();
    if nanoseconds > 0.0 {
        nanoseconds / 1e9
    } else {
        wall_seconds()
    }
}
