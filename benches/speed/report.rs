//! The figures: how long things took, a table for people, and a file for programs.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use super::{limits::Limits, machine::Machine};

/// How long each of several things took, and all of them together.
pub struct Took {
    each: Vec<Duration>,
    begun: Instant,
    all: Option<Duration>,
}

impl Took {
    /// From now on.
    pub fn begin() -> Self {
        Self {
            each: Vec::new(),
            begun: Instant::now(),
            all: None,
        }
    }

    /// Until now.
    pub fn end(&mut self) {
        self.all = Some(self.begun.elapsed());
    }

    pub fn add(&mut self, one: Duration) {
        self.each.push(one);
    }

    pub fn count(&self) -> usize {
        self.each.len()
    }

    pub fn seconds(&self) -> f64 {
        self.all.expect("it has ended").as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "a count is far below 2^52")]
    pub fn per_second(&self) -> f64 {
        self.count() as f64 / self.seconds()
    }

    /// What so many per cent of the things did not exceed (nearest rank), in milliseconds.
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.each.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted
            .get(rank - 1)
            .map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
    }

    /// `p50 / p99 / max`
    pub fn shown_ms(&self) -> String {
        let [p50, p99, max] = [50, 99, 100].map(|percent| self.percentile_ms(percent));
        format!("{p50:.2} / {p99:.2} / {max:.2}")
    }

    pub fn json(&self) -> Value {
        json!({
            "n": self.count(),
            "seconds": self.seconds(),
            "p50_ms": self.percentile_ms(50),
            "p99_ms": self.percentile_ms(99),
            "max_ms": self.percentile_ms(100),
        })
    }
}

/// Everything that was measured at one number of inboxes.
pub struct Column {
    size: usize,
    cells: Vec<(String, String)>,
    figures: Map<String, Value>,
}

impl Column {
    pub fn of(size: usize) -> Self {
        Self {
            size,
            cells: Vec::new(),
            figures: Map::new(),
        }
    }

    /// A line of the table; at every size the same.
    pub fn show(&mut self, line: &str, text: String) {
        println!("{:>9} inboxes: {line}: {text}", self.size);
        self.cells.push((line.to_owned(), text));
    }

    /// A figure of the file. Names end in their unit and do not change.
    pub fn keep(&mut self, name: &str, figure: Value) {
        self.figures.insert(name.to_owned(), figure);
    }
}

/// All of it.
pub struct Report {
    machine: Machine,
    limits: Limits,
    columns: Vec<Column>,
}

impl Report {
    pub fn new(machine: Machine, limits: Limits) -> Self {
        Self {
            machine,
            limits,
            columns: Vec::new(),
        }
    }

    pub fn add(&mut self, column: Column) {
        self.columns.push(column);
    }

    /// Prints the table, as Markdown, and writes the file beside what was built.
    pub fn print_and_write(&self) {
        println!("\n{}{}\n{}", self.machine, self.limits, self.table());
        let sizes: Map<String, Value> = self
            .columns
            .iter()
            .map(|column| (column.size.to_string(), Value::Object(column.figures.clone())))
            .collect();
        let json = json!({
            "machine": self.machine.json(),
            "limits": self.limits.json(),
            "sizes": sizes,
        });
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench.json");
        fs::write(&file, format!("{json:#}\n")).unwrap();
        println!("The same for programs: {}", file.display());
    }

    fn table(&self) -> String {
        let mut rows = vec![vec!["inboxes".to_owned()]];
        rows[0].extend(self.columns.iter().map(|column| column.size.to_string()));
        rows.push(vec!["---".to_owned(); self.columns.len() + 1]);
        let Some(first) = self.columns.first() else {
            return String::new();
        };
        for (index, (line, _)) in first.cells.iter().enumerate() {
            let mut row = vec![line.clone()];
            for column in &self.columns {
                let (same, text) = &column.cells[index];
                assert_eq!(same, line, "every size is measured alike");
                row.push(text.clone());
            }
            rows.push(row);
        }
        let lines = rows.into_iter().map(|row| format!("| {} |\n", row.join(" | ")));
        lines.collect()
    }
}
