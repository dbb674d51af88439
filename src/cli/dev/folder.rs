//! The folder of `inboxd dev`.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{Failure, note};
use crate::stack::private::{FolderProblem, check_folder};

/// Where the folder really is when the mail servers could not use the wanted place.
const ELSEWHERE: &str = "/var/lib";

/// Makes the folder, and returns where it really is.
///
/// Dovecot's and Postfix's users must be able to pass through all folders above, and names of UNIX sockets are short.
/// A clone below a private home folder, or deep down, cannot offer that: then the folder is made elsewhere, and a
/// symbolic link stands in the wanted place.
pub(super) fn prepare(wanted: &Path) -> Result<PathBuf, Failure> {
    if let Err(problem) = check_folder(wanted) {
        if matches!(problem, FolderProblem::Unreadable { .. }) || wanted.exists() {
            let told = format!(
                "{}: {problem}; choose another folder with INBOXD_DEV_DIR",
                wanted.display()
            );
            return Err(told.into());
        }
        let real = elsewhere(wanted)?;
        note(&format!(
            "inboxd: {problem}. The folder is made as {}; {} links to it.",
            real.display(),
            wanted.display()
        ));
        make(&real, 0o755)?;
        make_parents(wanted)?;
        symlink(&real, wanted)
            .map_err(|error| format!("link {} to {}: {error}", wanted.display(), real.display()))?;
        check_folder(wanted)?;
    }
    make_parents(wanted)?;
    make(wanted, 0o755)?;
    Ok(fs::canonicalize(wanted).map_err(|error| format!("look at {}: {error}", wanted.display()))?)
}

/// A place that is the same each time for the same wanted one.
fn elsewhere(wanted: &Path) -> Result<PathBuf, Failure> {
    let absolute =
        std::path::absolute(wanted).map_err(|error| format!("look at {}: {error}", wanted.display()))?;
    let hash = Sha256::digest(absolute.as_os_str().as_encoded_bytes());
    let short = hash[..4]
        .iter()
        .fold(0_u32, |number, &octet| number << 8 | u32::from(octet));
    Ok(Path::new(ELSEWHERE).join(format!("inboxd-dev-{short:08x}")))
}

fn make_parents(folder: &Path) -> Result<(), Failure> {
    match folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => {
            Ok(fs::create_dir_all(parent).map_err(|error| format!("make {}: {error}", parent.display()))?)
        }
        None => Ok(()),
    }
}

/// Makes a folder with a mode, if it is missing.
pub(super) fn make(folder: &Path, mode: u32) -> Result<(), Failure> {
    let told = |error: io::Error| format!("make {}: {error}", folder.display());
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(told(error).into()),
    }
    Ok(fs::set_permissions(folder, fs::Permissions::from_mode(mode)).map_err(told)?)
}
