//! The folders that Postfix works in, made as `postfix check` makes them: postfix-files(5).

use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};

use super::files::{FileError, folder};

/// Why there is no queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A folder could not be made.
    #[error("make Postfix's folders")]
    File(#[from] FileError),
    /// A user or group of Debian's packages is missing.
    #[error("the system has no user or group {0:?}, which the package of Postfix makes")]
    NoUser(&'static str),
}

/// Makes what is missing of Postfix's `queue_directory` and `data_directory`, and gives all of it the owners and modes
/// that Postfix expects. The folders above must exist.
pub(super) fn prepare(queue_dir: &Path, data_dir: &Path) -> Result<(), QueueError> {
    let ours = (Uid::effective().as_raw(), Gid::effective().as_raw());
    let postfix = User::from_name("postfix")
        .ok()
        .flatten()
        .ok_or(QueueError::NoUser("postfix"))?;
    let postdrop = Group::from_name("postdrop")
        .ok()
        .flatten()
        .ok_or(QueueError::NoUser("postdrop"))?;
    let postfix_owns = (postfix.uid.as_raw(), ours.1);
    let postdrop_shares = (postfix.uid.as_raw(), postdrop.gid.as_raw());

    folder(data_dir, 0o700, postfix_owns)?;
    folder(queue_dir, 0o755, ours)?;
    folder(&queue_dir.join("pid"), 0o755, ours)?;
    for queue in [
        "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved",
        "trace",
    ] {
        folder(&queue_dir.join(queue), 0o700, postfix_owns)?;
    }
    folder(&queue_dir.join("maildrop"), 0o730, postdrop_shares)?;
    folder(&queue_dir.join("public"), 0o710, postdrop_shares)?;
    Ok(())
}
