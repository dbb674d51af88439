//! The figures: how long things took, a table for people, and a file for programs.

use std::{
    fmt, fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use super::{limits::Limits, machine::Machine};

/// How long several things took, all of them together, and each where each was timed.
pub struct Took {
    each: Vec<Duration>,
    count: usize,
    begun: Instant,
    all: Option<Duration>,
}

impl Took {
    /// From now on.
    pub fn begin() -> Self {
        Self {
            each: Vec::new(),
            count: 0,
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
        self.count += 1;
    }

    /// So many things, none of which was timed by itself.
    pub fn of(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    pub fn count(&self) -> usize {
        self.count
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
    limits_at_the_end: Option<Limits>,
    columns: Vec<Column>,
}

impl Report {
    pub fn new(machine: Machine, limits: Limits) -> Self {
        Self {
            machine,
            limits,
            limits_at_the_end: None,
            columns: Vec::new(),
        }
    }

    /// The limits when everything else has been measured.
    pub fn end(&mut self, limits: Limits) {
        self.limits_at_the_end = Some(limits);
    }

    pub fn add(&mut self, column: Column) {
        self.columns.push(column);
    }

    /// Prints the table, as Markdown, and writes the file beside what was built.
    pub fn print_and_write(&self) {
        let growth = self.growth();
        let again = self
            .limits_at_the_end
            .map_or_else(String::new, |limits| format!("\nAfter all of it:\n\n{limits}"));
        println!(
            "\n{}{}\n{}\n{growth}{again}",
            self.machine,
            self.limits,
            self.table()
        );
        let sizes: Map<String, Value> = self
            .columns
            .iter()
            .map(|column| (column.size.to_string(), Value::Object(column.figures.clone())))
            .collect();
        let json = json!({
            "machine": self.machine.json(),
            "limits": self.limits.json(),
            "limits_at_the_end": self.limits_at_the_end.map(|limits| limits.json()),
            "sizes": sizes,
            "largest_over_smallest": growth.json(),
        });
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench.json");
        fs::write(&file, format!("{json:#}\n")).unwrap();
        println!("The same for programs: {}", file.display());
    }

    /// What a create costs at the largest size, over what it costs at the smallest.
    fn growth(&self) -> Growth {
        let over = |load: &str, figure: &str| {
            let at = |column: Option<&Column>| column?.figures.get(load)?.get(figure)?.as_f64();
            Some((at(self.columns.first())?, at(self.columns.last())?))
        };
        Growth {
            latency: over("creates_1_client", "p50_ms").map_or(f64::NAN, |(first, last)| last / first),
            throughput: over("creates_64_clients", "per_second")
                .map_or(f64::NAN, |(first, last)| first / last),
        }
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

/// How much more a create costs at the largest size.
struct Growth {
    /// Median with one client, largest over smallest.
    latency: f64,
    /// Time for a create with 64 clients, largest over smallest.
    throughput: f64,
}

impl Growth {
    fn json(&self) -> Value {
        json!({
            "p50_1_client": self.latency,
            "seconds_per_create_64_clients": self.throughput,
        })
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { latency, throughput } = self;
        writeln!(
            f,
            "A create at the largest size costs {latency:.2} times what it costs at the smallest (p50, 1 client), \
             and {throughput:.2} times (time for each of many, 64 clients)."
        )
    }
}
