//! `inboxd bootstrap`.

use std::{fs, io};

use super::{Failure, Source, print};

/// Prints the file that the daemon's first start has written.
pub(super) fn bootstrap(source: &Source) -> Result<(), Failure> {
    let config = source.load()?;
    let file = config.bootstrap_file.ok_or(
        "bootstrap.file is not set: name a file and start the daemon again, which writes it before it is ready; or \
         make a key with: inboxd keys create --super-admin",
    )?;
    let path = file.display();
    match fs::read_to_string(&file) {
        Ok(text) => print(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
            "{path} is not there (bootstrap.file): the daemon writes it before it is ready; start it, or look at its \
             log"
        )
        .into()),
        Err(error) => Err(format!("read {path}, which is for the daemon's user alone: {error}").into()),
    }
}
