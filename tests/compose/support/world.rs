//! The one stack of containers that all tests share.

use std::{
    fs,
    panic::{AssertUnwindSafe, resume_unwind},
    process::Output,
};

use futures_util::FutureExt as _;
use inboxd::{
    clock::{Entropy as _, Machine},
    stack::private::Ports,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{OnceCell, RwLock};

use super::{
    api::Api,
    compose::{Compose, told},
    inbox::{Inbox, StoredMessage, deferrals},
    mail::{Mail, Servers},
    wait::until,
};

/// User and group that own all mail in the containers.
const MAIL_OWNER: (u32, u32) = (5000, 5000);
/// Where the containers have the mail.
const MAIL_ROOT: &str = "/var/vmail";

/// Many tests use the stack as it is, or one does with it what it likes.
static STACK: RwLock<()> = RwLock::const_new(());

/// The stack, and clients of it.
pub struct World {
    pub mail: Mail,
    pub compose: Compose,
    facts: Facts,
    /// Ends every name of this test.
    suffix: String,
    /// With the certificate authority's certificate.
    _folder: TempDir,
}

/// What a stack says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// `inboxd bootstrap`.
    pub bootstrap: Value,
    /// Certificates of the authorities that certificates come from, PEM.
    pub ca: String,
}

impl Facts {
    /// Asks the container of the daemon.
    pub async fn of(compose: &Compose) -> Self {
        let asked = compose
            .output(&["exec", "--no-TTY", "inboxd", "inboxd", "bootstrap"])
            .await;
        assert!(
            asked.status.success(),
            "ask the stack where it is: {}\nDoes it run? `make test-compose` starts it.",
            told(&asked)
        );
        let bootstrap: Value = serde_json::from_slice(&asked.stdout).unwrap();
        let ca = compose
            .exec("inboxd", &["cat", text(&bootstrap, "/caFile")])
            .await;
        Self { bootstrap, ca }
    }

    fn text(&self, pointer: &str) -> &str {
        text(&self.bootstrap, pointer)
    }

    fn port(&self, pointer: &str) -> u16 {
        let port = self.bootstrap.pointer(pointer).and_then(Value::as_u64);
        port.and_then(|port| u16::try_from(port).ok())
            .unwrap_or_else(|| panic!("no {pointer} in {self:?}"))
    }
}

fn text<'a>(bootstrap: &'a Value, pointer: &str) -> &'a str {
    bootstrap
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no {pointer} in {bootstrap}"))
}

impl World {
    /// Runs a test that leaves the stack as it is, beside others.
    pub async fn run(test: impl AsyncFnOnce(&mut Self)) {
        static FACTS: OnceCell<Facts> = OnceCell::const_new();
        let _shared = STACK.read().await;
        let compose = Compose::under_test();
        let facts = FACTS.get_or_init(|| Facts::of(&compose)).await;
        let mut world = Self::of(compose.clone(), facts.clone()).await;
        world.watch(test).await;
    }

    /// Runs a test that has the stack to itself, and finds all of it up.
    pub async fn run_alone(test: impl AsyncFnOnce(&mut Self)) {
        let _alone = STACK.write().await;
        let compose = Compose::under_test();
        // Whatever an earlier test left.
        compose.up().await;
        Self::started(compose).await.watch(test).await;
    }

    /// Runs a test on another stack, which is made for it and removed, beside the one that it leaves alone.
    pub async fn run_beside(compose: Compose, test: impl AsyncFnOnce(&mut Self)) {
        // Two stacks are enough work for one machine.
        let _alone = STACK.write().await;
        let running = async {
            compose.up().await;
            Self::started(compose.clone()).await.watch(test).await;
        };
        let outcome = AssertUnwindSafe(Box::pin(running)).catch_unwind().await;
        compose.run(&["down", "--volumes", "--rmi", "local"]).await;
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    }

    /// Of a stack that has just been started.
    pub async fn started(compose: Compose) -> Self {
        let facts = Facts::of(&compose).await;
        Self::of(compose, facts).await
    }

    async fn of(compose: Compose, facts: Facts) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        fs::write(&ca_file, &facts.ca).unwrap();
        let mut random = [0; 4];
        Machine.fill(&mut random);
        let servers = Servers {
            host: facts.text("/imap/host").to_owned(),
            hostname: facts.text("/mx/host").to_owned(),
            ports: Ports {
                imaps: facts.port("/imap/port"),
                submission: facts.port("/smtp/port"),
                inbound: facts.port("/mx/port"),
            },
            ca_file,
        };
        Self {
            mail: Mail::new(servers).await,
            compose,
            suffix: format!("{:08x}", u32::from_be_bytes(random)),
            facts,
            _folder: folder,
        }
    }

    /// Runs a test, and shows what the containers logged if it fails.
    pub async fn watch(&mut self, test: impl AsyncFnOnce(&mut Self)) {
        let outcome = AssertUnwindSafe(Box::pin(test(self))).catch_unwind().await;
        if let Err(panic) = outcome {
            eprintln!("--- ends of the logs ---\n{}", self.compose.logs().await);
            resume_unwind(panic);
        }
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// A name in this world: no other test makes the same.
    pub fn name(&self, name: &str) -> String {
        format!("{name}-{}", self.suffix)
    }

    /// The domain of inboxes that name none.
    pub fn domain(&self) -> &str {
        self.facts.text("/defaultDomain")
    }

    /// A caller with a super admin's key.
    pub fn operator(&self) -> Api {
        Api::new(self.facts.text("/api"), self.facts.text("/superAdminKey"))
    }

    /// `inboxd verify`, as an operator runs it.
    pub async fn verify(&self, arguments: &[&str]) -> Output {
        let verify = ["exec", "--no-TTY", "inboxd", "inboxd", "verify"];
        self.compose.output(&[&verify, arguments].concat()).await
    }

    /// Whether anybody is logged in to an inbox over IMAP. Asked of Dovecot, which counts a session until it is gone.
    pub async fn has_session(&self, inbox: &Inbox) -> bool {
        let who = ["doveadm", "-f", "flow", "who", &inbox.email];
        let told = self.compose.exec("dovecot", &who).await;
        told.contains(&inbox.email)
    }

    /// Waits until every part of the stack is ready.
    pub async fn until_ready(&self) {
        let anybody = self.operator().with_key("");
        until("every part is ready", || async {
            let answer = anybody.get("/readyz").await;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// What Postfix has accepted and not delivered: a line each.
    pub async fn queue(&self) -> String {
        self.compose.exec("postfix", &["postqueue", "-j"]).await
    }

    /// Deliveries to an inbox that Postfix put off.
    pub async fn deferrals(&self, inbox: &Inbox) -> Vec<String> {
        let log = self.compose.run(&["logs", "--no-color", "postfix"]).await;
        deferrals(&log, inbox)
    }

    /// The owner of all mail: user and group.
    #[expect(clippy::unused_self, reason = "in another world it depends on the stack")]
    pub fn mail_owner(&self) -> (u32, u32) {
        MAIL_OWNER
    }

    /// The files of the messages in an inbox.
    pub async fn messages(&self, inbox: &Inbox) -> Vec<StoredMessage> {
        let maildir = format!("{MAIL_ROOT}/{}/Maildir", inbox.id);
        let files = ["-path", "*/new/*", "-o", "-path", "*/cur/*"];
        let find = [
            &["find", &maildir, "-maxdepth", "2", "-type", "f", "("][..],
            &files,
            &[")", "-printf", r"%U %G %p\n"],
        ];
        let found = self.compose.exec("dovecot", &find.concat()).await;
        found.lines().map(stored_message).collect()
    }
}

/// A line of `find`.
fn stored_message(line: &str) -> StoredMessage {
    let mut fields = line.splitn(3, ' ');
    let mut field = || fields.next().unwrap_or_else(|| panic!("{line:?}"));
    StoredMessage {
        uid: field().parse().unwrap(),
        gid: field().parse().unwrap(),
        path: field().to_owned(),
    }
}
