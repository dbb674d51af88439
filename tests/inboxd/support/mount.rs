//! File systems of a test's own: a small one, to be filled up or made read-only, and one whose power can be cut. Need
//! root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{Folder, processes_of, wait::until};

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

/// `FS_IOC_SHUTDOWN` of the Linux kernel (`_IOR('X', 125, __u32)`) with `FS_SHUTDOWN_FLAGS_NOLOGFLUSH`, 2: from now on
/// nothing reaches the disk, and what is not there yet, in the journal or at its place, never will.
const CUT: &str = "\
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))
";

/// An ext4 file system in a file, on a loop device, whose power can be cut. To be dropped last.
#[derive(Debug)]
pub struct PowerDisk {
    folder: Folder,
}

impl PowerDisk {
    /// Makes one of this size and mounts it.
    pub fn new(octets: u64) -> Self {
        let disk = Self {
            folder: Folder::new(),
        };
        fs::File::create(disk.image()).unwrap().set_len(octets).unwrap();
        run("mkfs.ext4", &["-q", "-F"], &disk.image());
        fs::create_dir(disk.mounted()).unwrap();
        disk.mount();
        disk
    }

    /// Where it is mounted.
    pub fn mounted(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// A path that is not on it, and goes with it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes everything durable that was written so far.
    pub fn flush(&self) {
        run("sync", &["--file-system"], &self.mounted());
    }

    /// Cuts the power: every call from now on fails with EIO. Nothing is flushed.
    pub fn cut(&self) {
        run("python3", &["-c", CUT], &self.mounted());
    }

    /// Lets the kernel think that the disk fails: the file system is read-only from now on, also for who has files open, and
    /// what is in its journal and not at its place yet is lost.
    pub fn fail(&self) {
        run("mount", &["-o", "remount,abort"], &self.mounted());
    }

    /// Power is back: mounts what was on the disk. Whoever used it must have ended or be ending.
    pub async fn come_back(&self) {
        until("nobody uses the disk that has no power", || async {
            try_run("umount", &[], &self.mounted())
                .status
                .success()
                .then_some(())
        })
        .await;
        self.mount();
    }

    fn image(&self) -> PathBuf {
        self.beside("ext4")
    }

    fn mount(&self) {
        let (image, mounted) = (self.image(), self.mounted());
        // The loop device is made for this mount, and goes with it.
        let output = try_run(
            "mount",
            &["-t", "ext4", "-o", "loop", &image.display().to_string()],
            &mounted,
        );
        assert!(
            output.status.success(),
            "power cuts need root, loop devices and ext4 in the kernel, as on a machine of one's own and not in a \
             container without privileges: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("on the disk: {:#?}", processes_of(&self.mounted()));
        }
        // Lazily: what used it may be ending just now.
        let _ = Command::new("umount").arg("-l").arg(self.mounted()).status();
    }
}

fn try_run(program: &str, arguments: &[&str], path: &Path) -> Output {
    let output = Command::new(program).args(arguments).arg(path).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}: run scripts/install-deps test"))
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let output = try_run(program, arguments, path);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
