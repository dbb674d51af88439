//! What a command writes for people and programs. A reader that has gone away, as behind `| head -1`, ends neither the
//! command nor what it was doing.

use std::io::{self, Write};

use super::Failure;

/// Writes to standard output. Fails if it cannot, unless its reader has gone.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    Ok(write(&mut io::stdout().lock(), text)?)
}

/// Writes a line about the command itself to standard error. Where that cannot be written, there is no other place to
/// say so, and the exit status says the rest.
pub fn note(line: &str) {
    drop(write(&mut io::stderr().lock(), &format!("{line}\n")));
}

fn write(output: &mut impl Write, text: &str) -> io::Result<()> {
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
