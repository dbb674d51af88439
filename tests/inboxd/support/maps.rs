//! Maps of a test: opened, published into, and compared with the store by reading every file.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use heed::{EnvFlags, EnvOpenOptions, types::Bytes};
use inboxd::{
    maps::{Layout, MailHome, Maps, Which, passwd_line},
    model::maps::{AddressState, DomainState, Login},
    publish::{self, Barrier, Parts, Publisher, SessionEnder},
    store::Db,
};
use nix::unistd::Group;
use tokio::task::JoinHandle;

use super::{Folder, daemon::DEFAULT_DOMAIN, inbox::Inbox, store::domain, wait::until};

pub const TABLES: [&str; 4] = ["domains", "recipients", "aliases", "sender_logins"];
const LOCK_FILE: &str = ".writer.lock";
/// The folder through which Dovecot's workers hand verified passwords over, among the password entries.
pub const VERIFIED_PASSWORDS: &str = ".verified-passwords";

/// Everything that the maps say: path beneath the root, or table and key, to what is there.
pub type Said = BTreeMap<String, Vec<u8>>;

/// A publisher and its maps, as the daemon has them.
pub struct Running {
    pub maps: Arc<Maps>,
    pub publisher: Publisher,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn start(db: &Db, layout: &Layout) -> Self {
        Self::try_start(db, layout, None).await.unwrap()
    }

    pub async fn try_start(
        db: &Db,
        layout: &Layout,
        sessions: Option<Arc<dyn SessionEnder>>,
    ) -> Result<Self, publish::Error> {
        Self::with_barrier(db, layout, sessions, None).await
    }

    pub async fn with_barrier(
        db: &Db,
        layout: &Layout,
        sessions: Option<Arc<dyn SessionEnder>>,
        barrier: Option<Barrier>,
    ) -> Result<Self, publish::Error> {
        let opening = layout.clone();
        let maps = Arc::new(
            tokio::task::spawn_blocking(move || Maps::open(&opening))
                .await
                .unwrap()
                .unwrap(),
        );
        let (publisher, task) = publish::start(Parts {
            db: db.clone(),
            maps: Arc::clone(&maps),
            default_domain: domain(DEFAULT_DOMAIN),
            sessions,
            barrier,
        })
        .await?;
        Ok(Self {
            maps,
            publisher,
            task,
        })
    }

    /// Stops it, everything that was asked done.
    pub async fn stop(self) {
        drop(self.publisher);
        self.task.await.unwrap();
    }
}

pub fn layout(folder: &Folder) -> Layout {
    let gid = |name: &str| {
        let group = Group::from_name(name).unwrap();
        group.expect("apt-get install dovecot-core postfix").gid.as_raw()
    };
    Layout {
        root: folder.join("maps"),
        passdb_gid: gid("dovecot"),
        postfix_gid: gid("postfix"),
        home: MailHome {
            root: "/var/vmail".into(),
            uid: 5000,
            gid: 5000,
        },
    }
}

/// What the maps should say, by the store.
pub async fn expected(db: &Db, layout: &Layout) -> Said {
    let mut said = Said::new();
    let mut say = |table: &str, key: &str, value: &str| {
        said.insert(format!("{table}:{key}\0"), format!("{value}\0").into());
    };
    let mut entries = Vec::new();
    let mut tx = db.read().await.unwrap();
    for (name, state) in tx.all_domain_states(&domain(DEFAULT_DOMAIN)).await.unwrap() {
        let DomainState::Served { catch_all, keys } = state else {
            panic!("{name} is listed and absent");
        };
        say("domains", name.as_str(), "1");
        if let Some(canonical) = catch_all {
            say("aliases", &format!("@{name}"), &canonical.to_string());
        }
        if !keys.is_empty() {
            let words = keys.iter().map(|key| {
                let sealed = STANDARD.encode(&key.sealed);
                format!(
                    "{} {} {} {sealed}",
                    key.selector,
                    key.algorithm.as_str(),
                    key.id.0
                )
            });
            say(
                "signing_keys",
                name.as_str(),
                &words.collect::<Vec<_>>().join(" "),
            );
        }
    }
    for (address, state) in tx.address_states_after(None, 100_000).await.unwrap() {
        let name = address.to_string();
        match state {
            AddressState::Absent => panic!("{name} is listed and absent"),
            AddressState::Alias { canonical, sender } => {
                say("aliases", &name, &canonical.to_string());
                if let Some(login) = sender {
                    say("sender_logins", &name, &login.to_string());
                }
            }
            AddressState::Mailbox(mailbox) => {
                let (inbox, local_part, domain) = (mailbox.inbox(), &address.local_part, &address.domain);
                say(
                    "recipients",
                    &name,
                    &format!("{inbox}={local_part}={domain}@inboxd.invalid"),
                );
                // Nobody may send from a locked mailbox, not even a session that was logged in before.
                if mailbox.login != Login::Locked {
                    say("sender_logins", &name, &mailbox.sasl_name.to_string());
                }
                let path = format!("passdb/{}/{}", address.domain, address.local_part);
                entries.push((path, passwd_line(&address, &mailbox, &layout.home)));
            }
        }
    }
    said.extend(entries.into_iter().map(|(path, line)| (path, line.into())));
    said
}

/// What the maps say: every file and every entry of every table, junk included. Checks owner, group and mode of all.
pub fn said(layout: &Layout) -> Said {
    let mut said = Said::new();
    must_be(&layout.root, None, 0o755);
    for (folder, readers) in [
        (layout.passdb(), Some(layout.passdb_gid)),
        (layout.postfix(), Some(layout.postfix_gid)),
        (layout.signer(), None),
    ] {
        read_tree(&layout.root, &folder, readers, &mut said);
    }
    for entry in fs::read_dir(&layout.root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            ["passdb", "postfix", "signer", LOCK_FILE].contains(&name.as_str())
                || layout.root.join(&name) == layout.control_socket(),
            "{name}"
        );
    }
    for which in Which::ALL {
        for (key, value) in entries(&layout.table(which)) {
            said.insert(
                format!("{}:{}", which.name(), String::from_utf8_lossy(&key)),
                value,
            );
        }
    }
    said
}

/// `readers`: the group that may read; none: nobody but the owner.
fn read_tree(root: &Path, folder: &Path, readers: Option<u32>, said: &mut Said) {
    let (folder_mode, file_mode) = if readers.is_some() {
        (0o750, 0o640)
    } else {
        (0o700, 0o600)
    };
    must_be(folder, readers, folder_mode);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with(VERIFIED_PASSWORDS) {
            // Of the daemon, where one runs, and for no group.
            must_be(&path, None, 0o700);
            continue;
        }
        let file_type = fs::symlink_metadata(&path).unwrap().file_type();
        if file_type.is_dir() {
            read_tree(root, &path, readers, said);
            continue;
        }
        if file_type.is_socket() {
            // Of the daemon, where one runs or was killed, and for no group.
            assert!(path.starts_with(root.join("signer")), "{}", path.display());
            if path.extension().is_none() {
                must_be(&path, None, 0o600);
            }
            continue;
        }
        if path.extension().is_some_and(|extension| extension == "damaged") {
            continue;
        }
        must_be(&path, readers, file_mode);
        if path.extension().is_none_or(|extension| extension != "lmdb") {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            said.insert(name, fs::read(&path).unwrap());
        }
    }
}

fn must_be(path: &Path, gid: Option<u32>, mode: u32) {
    let found = fs::symlink_metadata(path).unwrap();
    assert_eq!(
        (found.uid(), found.mode() & 0o7777),
        (0, mode),
        "{}",
        path.display()
    );
    if let Some(gid) = gid {
        assert_eq!(found.gid(), gid, "{}", path.display());
    }
}

/// Whether the password entry of an inbox is there and takes its password.
pub fn opens(layout: &Layout, inbox: &Inbox) -> bool {
    let (local_part, domain) = inbox.email.split_once('@').unwrap();
    let line = fs::read_to_string(layout.passdb().join(domain).join(local_part)).unwrap_or_default();
    let Some(hash) = line.split(':').nth(1) else {
        return false;
    };
    let checked = Command::new("doveadm")
        .args(["-c", "/dev/null", "pw", "-t", hash, "-p", &inbox.password])
        .output()
        .expect("apt-get install dovecot-core");
    String::from_utf8_lossy(&checked.stdout).contains("(verified)")
}

/// Every key and value of a table, octet by octet, read from a copy.
pub fn entries(table: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let folder = Folder::new();
    let copy = folder.join("copy.lmdb");
    fs::copy(table, &copy).unwrap();
    edit(&copy, |_, _| ());
    let mut found = BTreeMap::new();
    edit(&copy, |database, txn| {
        for entry in database.iter(txn).unwrap() {
            let (key, value) = entry.unwrap();
            found.insert(key.to_vec(), value.to_vec());
        }
    });
    found
}

/// Opens a table as somebody who is not inboxd.
pub fn edit(table: &Path, change: impl FnOnce(heed::Database<Bytes, Bytes>, &mut heed::RwTxn<'_>)) {
    let mut options = EnvOpenOptions::new();
    #[expect(
        unsafe_code,
        reason = "nobody else has the file open while a test looks into it"
    )]
    let env = unsafe {
        options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK);
        options.map_size(64 << 20).open(table)
    }
    .unwrap();
    let mut txn = env.write_txn().unwrap();
    let database = env.create_database(&mut txn, None).unwrap();
    change(database, &mut txn);
    txn.commit().unwrap();
    drop(env.prepare_for_closing());
}

/// Fails unless the maps say exactly what the store says.
pub async fn assert_equal(db: &Db, layout: &Layout) {
    let (expected, said) = (expected(db, layout).await, said(layout));
    let text = |said: &Said| -> Vec<String> {
        said.iter()
            .map(|(name, value)| format!("{name:?} = {:?}", String::from_utf8_lossy(value)))
            .collect()
    };
    assert_eq!(text(&said), text(&expected), "left: the maps; right: the store");
}

/// Waits until nothing is marked as unpublished.
pub async fn until_published(db: &Db) {
    until("everything is published", || async {
        let marked = db.read().await.unwrap().unpublished(None, 1).await.unwrap();
        marked.is_empty().then_some(())
    })
    .await;
}

/// What Postfix's own program finds in a table.
#[derive(Debug)]
pub struct Postmap(PathBuf);

impl Postmap {
    pub fn new(folder: &Folder) -> Self {
        let config = folder.join("postmap");
        fs::create_dir(&config).unwrap();
        fs::write(
            config.join("main.cf"),
            "compatibility_level = 3.6\nmeta_directory = /etc/postfix\n",
        )
        .unwrap();
        Self(config)
    }

    /// `postmap -q`: the value of a key.
    pub fn query(&self, layout: &Layout, table: &str, key: &str) -> Option<String> {
        let found = self.run(layout, table, &["-q", key]);
        (!found.is_empty()).then(|| found.trim_end_matches('\n').to_owned())
    }

    /// `postmap -s`: everything.
    pub fn list(&self, layout: &Layout, table: &str) -> Vec<String> {
        let mut lines: Vec<_> = self
            .run(layout, table, &["-s"])
            .lines()
            .map(ToOwned::to_owned)
            .collect();
        lines.sort();
        lines
    }

    fn run(&self, layout: &Layout, table: &str, arguments: &[&str]) -> String {
        let output = Command::new("postmap")
            .arg("-c")
            .arg(&self.0)
            .args(arguments)
            .arg(format!("lmdb:{}", layout.postfix().join(table).display()))
            .output()
            .expect("apt-get install postfix postfix-lmdb");
        // 1: there is no such key. Whatever it does not like, it says on stderr.
        assert!(
            output.stderr.is_empty() && output.status.code().is_some_and(|code| code <= 1),
            "{output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    }
}
