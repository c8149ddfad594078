//! The demo's table: what was sent, what each layer decided, whether that was right.

use std::io::IsTerminal;

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

const COLUMNS: [&str; 7] = [
    "sent",
    "overseer",
    "schema",
    "rollout",
    "shadow",
    "answer",
    "as expected",
];

/// One row: the six texts and the verdict.
struct Row {
    cells: [String; 6],
    right: bool,
}

/// Collects rows and expectations.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
    wrong: Vec<String>,
}

impl Table {
    /// Adds a row; `expectations` are what has to hold for it, each with its name.
    pub(super) fn row(&mut self, cells: [&str; 6], expectations: &[(&str, bool)]) {
        let wrong = expectations
            .iter()
            .filter(|(_, holds)| !holds)
            .map(|(name, _)| *name);
        let before = self.wrong.len();
        self.wrong
            .extend(wrong.map(|name| format!("{}: {name}", cells[0])));
        let right = self.wrong.len() == before;
        self.rows.push(Row {
            cells: cells.map(str::to_owned),
            right,
        });
    }

    /// What did not hold.
    pub(super) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The table, with colour only on a terminal.
    pub(super) fn print(&self) {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let paint = |code: &str, text: &str| {
            if colour {
                format!("{code}{text}{RESET}")
            } else {
                text.to_owned()
            }
        };
        let widths: Vec<usize> = (0..6)
            .map(|at| {
                self.rows
                    .iter()
                    .map(|row| row.cells[at].chars().count())
                    .chain([COLUMNS[at].len()])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let padded = |at: usize, text: &str| format!("{text:<width$}", width = widths[at]);
        let heads: Vec<_> = (0..6).map(|at| padded(at, COLUMNS[at])).collect();
        println!(
            "{}",
            paint(BOLD, &format!("{}  {}", heads.join("  "), COLUMNS[6]))
        );
        println!(
            "{}",
            "-".repeat(widths.iter().sum::<usize>() + 2 * 6 + COLUMNS[6].len())
        );
        for row in &self.rows {
            let cells: Vec<_> = row
                .cells
                .iter()
                .enumerate()
                .map(|(at, text)| padded(at, text))
                .collect();
            let verdict = if row.right {
                paint(GREEN, "yes")
            } else {
                paint(RED, "NO")
            };
            println!("{}  {verdict}", cells.join("  "));
        }
    }
}
