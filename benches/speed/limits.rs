//! What the machine can do at best, of the two things that a create cannot do without: a hash and a flush.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use inboxd::{clock::Machine, model::password::MailPassword};
use serde_json::{Value, json};

use super::report::Took;

/// What is appended before each flush: a page, as SQLite, LMDB and ext4 have them.
const BLOCK_OCTETS: usize = 4096;
/// Blocks of the file that is written to, over and over.
const BLOCKS: usize = 4096;

/// The limits of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Passwords hashed per second with the product's own function, on all cores.
    pub hashes_per_second: f64,
    /// Blocks per second that were written and are durable, one after another.
    pub flushes_per_second: f64,
    /// How long one such flush took: median and 99th percentile, in milliseconds.
    flush_ms: [f64; 2],
    cores: usize,
}

impl Limits {
    /// Measures each for so many seconds. Nothing else should run.
    pub fn measure(folder: &Path, seconds: u64) -> Self {
        let cores = thread::available_parallelism().unwrap().get();
        let flushes = flushes(folder, seconds);
        Self {
            hashes_per_second: hashes(cores, seconds),
            flushes_per_second: flushes.per_second(),
            flush_ms: [flushes.percentile_ms(50), flushes.percentile_ms(99)],
            cores,
        }
    }

    /// The limit that a create meets first.
    pub fn lower(&self) -> f64 {
        self.hashes_per_second.min(self.flushes_per_second)
    }

    pub fn json(&self) -> Value {
        json!({
            "sha512_crypt_per_second": self.hashes_per_second,
            "sha512_crypt_threads": self.cores,
            "durable_flushes_per_second": self.flushes_per_second,
            "flush_p50_ms": self.flush_ms[0],
            "flush_p99_ms": self.flush_ms[1],
        })
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99] = self.flush_ms;
        writeln!(
            f,
            "- raw SHA512-CRYPT: {:.0}/s on {} cores",
            self.hashes_per_second, self.cores
        )?;
        writeln!(
            f,
            "- raw durable flushes: {:.0}/s on one thread (p50 {p50:.2} ms, p99 {p99:.2} ms)",
            self.flushes_per_second
        )
    }
}

/// Passwords hashed per second on so many threads.
fn hashes(threads: usize, seconds: u64) -> f64 {
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(seconds);
    let hashing: Vec<_> = (0..threads)
        .map(|_| {
            thread::spawn(move || {
                let password = MailPassword::generate(&Machine);
                let mut hashed = 0_u32;
                while Instant::now() < deadline {
                    password.hash(&Machine).unwrap();
                    hashed += 1;
                }
                hashed
            })
        })
        .collect();
    let hashed: u32 = hashing.into_iter().map(|thread| thread.join().unwrap()).sum();
    f64::from(hashed) / begun.elapsed().as_secs_f64()
}

/// Writes one block after another into a file whose blocks are all there, and flushes each.
fn flushes(folder: &Path, seconds: u64) -> Took {
    let path = folder.join("flushes");
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&path)
        .unwrap();
    let block = |file: &mut File, byte: u8| file.write_all(&[byte; BLOCK_OCTETS]).unwrap();
    for _ in 0..BLOCKS {
        block(&mut file, 0);
    }
    file.sync_all().unwrap();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut took = Took::begin();
    'measured: loop {
        file.seek(SeekFrom::Start(0)).unwrap();
        for _ in 0..BLOCKS {
            let begun = Instant::now();
            if begun >= deadline {
                break 'measured;
            }
            block(&mut file, 1);
            file.sync_data().unwrap();
            took.add(begun.elapsed());
        }
    }
    took.end();
    std::fs::remove_file(path).unwrap();
    took
}
