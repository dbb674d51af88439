//! Faults of the system under a daemon: what `faults/shim.c`, preloaded into it, makes of its system calls.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::errno::Errno;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inboxd/faults/shim.c");

// Places in the control file: `struct control` in the source.
const KINDS_AT: u64 = 0;
const ACTION_AT: u64 = 4;
const LEFT_AT: u64 = 16;
const HIT_AT: u64 = 24;
const CLOCK_NS_AT: u64 = 32;
const FOLDER_AT: u64 = 40;
const FOLDER_MAX_OCTETS: usize = 255;
const WHERE_AT: u64 = 296;
const WHERE_OCTETS: usize = 512;

/// Kinds of steps, to be combined: see `enum kind` in the source.
pub const OPEN: u32 = 1;
pub const READ: u32 = 1 << 1;
pub const WRITE: u32 = 1 << 2;
pub const FLUSH: u32 = 1 << 3;
pub const NAME: u32 = 1 << 4;
pub const LOCK: u32 = 1 << 5;
pub const CONNECT: u32 = 1 << 6;

/// What happens at a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It fails with this error.
    Fail(Errno),
    /// Of a write, the first half is written, and the caller told so.
    Half,
    /// The process is killed before it.
    Kill,
    /// Of a write, the first half is written, and the process killed.
    Tear,
}

/// What is to happen, and at which step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The steps that count.
    pub kinds: u32,
    pub action: Action,
    /// Whether it happens again at every step behind, until disarmed.
    pub lasts: bool,
}

/// The shim of one daemon, whose folder it is made in.
#[derive(Debug)]
pub struct Shim {
    library: PathBuf,
    control_file: PathBuf,
    control: File,
}

impl Shim {
    /// Compiles it. Only what the daemon does with files beneath the folder, and with connections that it opens, counts
    /// as steps.
    pub fn new(folder: &Path) -> Self {
        let library = folder.join("shim.so");
        let compiled = Command::new("cc")
            .args([
                "-std=gnu17",
                "-O2",
                "-shared",
                "-fPIC",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-o",
            ])
            .args([&library, Path::new(SOURCE)])
            .output()
            .expect("apt-get install gcc libc6-dev");
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        let control_file = folder.join("shim.control");
        let control = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&control_file)
            .unwrap();
        control.set_len(WHERE_AT + WHERE_OCTETS as u64).unwrap();
        let mut counts = fs::canonicalize(folder).unwrap().as_os_str().as_bytes().to_vec();
        counts.push(b'/');
        assert!(counts.len() <= FOLDER_MAX_OCTETS, "the folder's name is too long");
        control.write_all_at(&counts, FOLDER_AT).unwrap();
        Self {
            library,
            control_file,
            control,
        }
    }

    /// What the daemon's environment has to hold.
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAULT_SHIM_CONTROL", self.control_file.clone().into()),
        ]
    }

    /// Lets the fault happen at the given step from now on, the next one being number 1.
    pub fn arm(&self, fault: Fault, at: u32) {
        self.write(KINDS_AT, 0);
        let (action, error) = match fault.action {
            Action::Fail(errno) => (1, errno as i32),
            Action::Half => (2, 0),
            Action::Kill => (3, 0),
            Action::Tear => (4, 0),
        };
        let numbers: [i32; 3] = [action, error, i32::from(fault.lasts)];
        self.control
            .write_all_at(&numbers.map(i32::to_ne_bytes).concat(), ACTION_AT)
            .unwrap();
        self.control
            .write_all_at(&i64::from(at).to_ne_bytes(), LEFT_AT)
            .unwrap();
        self.control.write_all_at(&0_u32.to_ne_bytes(), HIT_AT).unwrap();
        self.write(KINDS_AT, fault.kinds);
    }

    /// Where it has happened by now, if it has: a function and the file.
    pub fn hit(&self) -> Option<String> {
        let mut hit = [0; 4];
        self.control.read_exact_at(&mut hit, HIT_AT).unwrap();
        (hit != [0; 4]).then(|| {
            let mut text = vec![0; WHERE_OCTETS];
            self.control.read_exact_at(&mut text, WHERE_AT).unwrap();
            let end = text.iter().position(|&octet| octet == 0).unwrap_or(text.len());
            String::from_utf8_lossy(&text[..end]).into_owned()
        })
    }

    /// From now on everything passes.
    pub fn disarm(&self) {
        self.write(KINDS_AT, 0);
    }

    /// Sets how far the daemon's time of day is ahead of the machine's, or behind it when negative.
    pub fn set_clock_ahead_s(&self, seconds: i64) {
        let ns = seconds * i64::try_from(Duration::from_secs(1).as_nanos()).unwrap();
        self.control.write_all_at(&ns.to_ne_bytes(), CLOCK_NS_AT).unwrap();
    }

    fn write(&self, at: u64, number: u32) {
        self.control.write_all_at(&number.to_ne_bytes(), at).unwrap();
    }
}
