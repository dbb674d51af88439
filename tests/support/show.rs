//! Lines that are seen although the test passes.

use std::io::Write as _;

/// Writes a line to standard error. What `println!` and `eprintln!` print, the harness keeps when a test passes.
pub fn show(line: &str) {
    std::io::stderr()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
}
