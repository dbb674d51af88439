//! A small file system of a test's own, to be filled up or made read-only. Needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A mounted tmpfs in a test's folder. To be dropped last: it is unmounted then, and the folder removed.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of this size at a folder, which is made.
    pub fn at(folder: &Path, size: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=755"),
                "inboxd-test",
            ],
            folder,
        );
        Self(folder.to_owned())
    }

    /// Fills it to the last octet.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut filler = fs::File::create(self.filler()).unwrap();
        let block = [0_u8; 4096];
        while filler.write_all(&block).is_ok() {}
    }

    /// Gives the space back.
    pub fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// Makes it read-only, or writable again.
    pub fn read_only(&self, read_only: bool) {
        run(
            "mount",
            &["-o", if read_only { "remount,ro" } else { "remount,rw" }],
            &self.0,
        );
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon that uses it may be ending just now.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        // What is left of the test's folder, which could not be removed while this was mounted in it.
        let is_folder = |path: &&Path| path.parent() == Some(&std::env::temp_dir());
        if let Some(folder) = self.0.ancestors().find(is_folder) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program)
        .args(arguments)
        .arg(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
