//! `mail::verify` and the readiness probes against a real Dovecot and Postfix, started for each test.

use std::error::Error as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use inboxd::mail::verify::{Cause, Credentials, Event, Failure, Limits, Step, Target, Token, verify};
use inboxd::mail::wire::Endpoint;
use inboxd::mail::{imap, smtp, tls};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

const ADDRESS: &str = "ada@example.test";
const PASSWORD: &str = "a \"quoted\" password";
const START_TIMEOUT_MS: u64 = 20_000;
/// `nobody`: mail is stored under it.
const MAIL_UID: u32 = 65_534;

/// Whether the private Postfix has somewhere to deliver to.
#[derive(Clone, Copy, PartialEq)]
enum Delivery {
    Runs,
    Stopped,
}

/// A Dovecot and a Postfix with one user. They end with it.
struct Stack {
    folder: tempfile::TempDir,
    dovecot: Child,
    imap_port: u16,
    smtp_port: u16,
}

impl Stack {
    async fn start(delivery: Delivery) -> Self {
        assert!(
            Uid::effective().is_root(),
            "Postfix starts as root only: run the tests with `make test`"
        );
        for program in ["/usr/sbin/dovecot", "/usr/sbin/postfix", "/usr/lib/dovecot/lmtp"] {
            assert!(
                Path::new(program).exists(),
                "{program} is missing: run scripts/install-deps test"
            );
        }
        let folder = tempfile::Builder::new()
            .prefix("inboxd-verify-")
            .tempdir()
            .unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (imap_port, smtp_port) = (free_port(), free_port());
        certificates(folder.path());
        let dovecot = start_dovecot(folder.path(), imap_port);
        // From here on, a panic stops what runs.
        let stack = Self {
            folder,
            dovecot,
            imap_port,
            smtp_port,
        };
        start_postfix(stack.folder.path(), smtp_port, delivery);
        stack.ready().await;
        stack
    }

    async fn ready(&self) {
        let deadline = Instant::now() + Duration::from_millis(START_TIMEOUT_MS);
        let patience = Duration::from_secs(1);
        let target = self.target();
        let config = tls::client_config(target.ca_file.as_deref()).await.unwrap();
        loop {
            let imap = imap::greeting(&endpoint(self.imap_port), config.clone(), patience).await;
            let smtp = smtp::banner(&endpoint(self.smtp_port), patience).await;
            match (imap, smtp) {
                (Ok(_), Ok(_)) => return,
                (imap, smtp) if Instant::now() > deadline => {
                    panic!("the servers did not start: {imap:?}, {smtp:?}\n{}", self.logs())
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn stop_dovecot(&mut self) {
        let running = matches!(self.dovecot.try_wait(), Ok(None));
        if let (true, Ok(pid)) = (running, i32::try_from(self.dovecot.id())) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let _ = self.dovecot.wait();
        }
    }

    fn target(&self) -> Target {
        Target {
            imap_host: "localhost".to_owned(),
            imap_port: self.imap_port,
            smtp_host: "localhost".to_owned(),
            smtp_port: self.smtp_port,
            ca_file: Some(self.folder.path().join("ca.pem")),
        }
    }

    fn logs(&self) -> String {
        ["dovecot.log", "postfix.log"]
            .map(|name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default())
            .join("\n")
    }

    fn mails(&self) -> Vec<PathBuf> {
        let home = self.folder.path().join("mail/ada/Maildir");
        ["new", "cur"]
            .iter()
            .filter_map(|part| fs::read_dir(home.join(part)).ok())
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = postfix(self.folder.path(), "stop");
        self.stop_dovecot();
    }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        host: "localhost".to_owned(),
        port,
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn authority() -> rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
}

fn certificates(folder: &Path) {
    let authority = authority();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    fs::set_permissions(folder.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn start_dovecot(folder: &Path, imap_port: u16) -> Child {
    let t = folder.display();
    let home = folder.join("mail/ada");
    fs::create_dir_all(&home).unwrap();
    for path in [&folder.join("mail"), &home] {
        chown(path, Some(MAIL_UID), Some(MAIL_UID)).unwrap();
    }
    fs::write(
        folder.join("users"),
        format!("{ADDRESS}:{{PLAIN}}{PASSWORD}:{MAIL_UID}:{MAIL_UID}::{t}/mail/ada::\n"),
    )
    .unwrap();
    let config = format!(
        "base_dir = {t}/run
         state_dir = {t}/state
         log_path = {t}/dovecot.log
         protocols = imap lmtp
         listen = 127.0.0.1
         ssl = required
         ssl_cert = <{t}/cert.pem
         ssl_key = <{t}/key.pem
         mail_location = maildir:~/Maildir
         auth_mechanisms = plain login
         auth_failure_delay = 0
         passdb {{
           driver = passwd-file
           args = {t}/users
         }}
         userdb {{
           driver = passwd-file
           args = {t}/users
         }}
         namespace inbox {{
           inbox = yes
           mailbox Junk {{
             auto = create
             special_use = \\Junk
           }}
         }}
         service imap-login {{
           inet_listener imap {{
             port = 0
           }}
           inet_listener imaps {{
             port = {imap_port}
             ssl = yes
           }}
         }}
         service auth {{
           unix_listener {t}/auth {{
             mode = 0666
           }}
         }}
         service lmtp {{
           unix_listener {t}/lmtp {{
             mode = 0666
           }}
         }}
         service anvil {{
           unix_listener anvil-auth-penalty {{
             mode = 0
           }}
         }}
        "
    );
    fs::write(folder.join("dovecot.conf"), config).unwrap();
    Command::new("/usr/sbin/dovecot")
        .arg("-F")
        .arg("-c")
        .arg(folder.join("dovecot.conf"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn start_postfix(folder: &Path, smtp_port: u16, delivery: Delivery) {
    let t = folder.display();
    let socket = if delivery == Delivery::Runs {
        "lmtp"
    } else {
        "nobody-listens"
    };
    for name in ["postfix", "queue", "data"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let owner = nix::unistd::User::from_name("postfix")
        .unwrap()
        .expect("the user `postfix` of the package");
    chown(folder.join("data"), Some(owner.uid.as_raw()), None).unwrap();
    let main = format!(
        "compatibility_level = 3.6
queue_directory = {t}/queue
data_directory = {t}/data
maillog_file = {t}/postfix.log
maillog_file_prefixes = {t}
myhostname = localhost
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
alias_maps =
local_recipient_maps =
virtual_mailbox_domains = example.test
virtual_mailbox_maps = inline:{{ {ADDRESS}=1 }}
virtual_transport = lmtp:unix:{t}/{socket}
smtpd_tls_cert_file = {t}/cert.pem
smtpd_tls_key_file = {t}/key.pem
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {t}/auth
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
"
    );
    let master = format!(
        "127.0.0.1:{smtp_port} inet n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
lmtp      unix  - - n - - lmtp
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"
    );
    fs::write(folder.join("postfix/main.cf"), main).unwrap();
    fs::write(folder.join("postfix/master.cf"), master).unwrap();
    let output = postfix(folder, "start");
    assert!(
        output.status.success(),
        "postfix did not start: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn postfix(folder: &Path, command: &str) -> std::process::Output {
    // Postfix keeps what it inherits open, so a pipe would stay open until it ends: its words go to a file.
    let path = folder.join(format!("postfix-{command}.out"));
    let file = fs::File::create(&path).unwrap();
    let status = Command::new("/usr/sbin/postfix")
        .arg("-c")
        .arg(folder.join("postfix"))
        .arg(command)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .status()
        .unwrap();
    std::process::Output {
        status,
        stdout: Vec::new(),
        stderr: fs::read(path).unwrap(),
    }
}

/// Runs the probe and returns the steps that passed with its result.
async fn probe(target: &Target, password: &str, limits: &Limits) -> (Vec<Step>, Result<Duration, Failure>) {
    let credentials = Credentials {
        address: ADDRESS.parse().unwrap(),
        login: ADDRESS.to_owned(),
        password: password.into(),
    };
    let mut passed = Vec::new();
    let mut report = |event: Event<'_>| {
        if let Event::Passed { step, took, .. } = event {
            println!("{step:20} {} ms", took.as_millis());
            passed.push(step);
        }
    };
    let token = Token::from_bytes([7; 16]);
    let now = jiff::Timestamp::UNIX_EPOCH;
    let outcome = verify(target, &credentials, token, now, limits, &mut report).await;
    if let Err(failure) = &outcome {
        println!(
            "{failure}: {}: {:?}\n{}",
            failure.cause,
            failure.cause.source(),
            failure.hint()
        );
    }
    (passed, outcome)
}

#[tokio::test]
async fn every_step_passes_and_nothing_is_left_behind() {
    let stack = Stack::start(Delivery::Runs).await;
    let (passed, outcome) = probe(&stack.target(), PASSWORD, &Limits::default()).await;
    assert!(outcome.is_ok(), "{outcome:?}\n{}", stack.logs());
    assert_eq!(passed, Step::ALL);
    assert_eq!(stack.mails(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_wrong_password_fails_at_auth_and_points_at_the_password_entry() {
    let stack = Stack::start(Delivery::Runs).await;
    let (passed, outcome) = probe(&stack.target(), "wrong", &Limits::default()).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.step, Step::Auth);
    assert_eq!(failure.server, endpoint(stack.smtp_port));
    assert_eq!(passed, [Step::ConnectSubmission, Step::StartTls]);
    assert!(
        failure.cause.source().unwrap().to_string().contains("535 5.7.8"),
        "{failure:?}"
    );
    assert!(failure.hint().contains("inboxd maps check"));
    assert!(!format!("{failure:?}").contains("wrong"));

    // The same at the IMAP server, which the probe did not get to.
    let config = tls::client_config(stack.target().ca_file.as_deref())
        .await
        .unwrap();
    let limit = Duration::from_secs(10);
    let connection = imap::Connection::open(&endpoint(stack.imap_port), config, limit)
        .await
        .unwrap();
    let error = connection
        .login(ADDRESS, &"wrong".into(), limit)
        .await
        .unwrap_err();
    assert_eq!(error.stage, imap::Stage::Login);
    assert!(
        error.fault.to_string().contains("Authentication failed."),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_unknown_ca_fails_at_starttls_and_points_at_the_ca_file() {
    let stack = Stack::start(Delivery::Runs).await;
    // The stranger has the same name as the right one, like a CA that was made anew.
    let stranger = stack.folder.path().join("stranger.pem");
    fs::write(&stranger, authority().pem()).unwrap();
    let target = Target {
        ca_file: Some(stranger.clone()),
        ..stack.target()
    };
    let (passed, outcome) = probe(&target, PASSWORD, &Limits::default()).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.step, Step::StartTls);
    assert_eq!(passed, [Step::ConnectSubmission]);
    assert!(failure.hint().contains("tls.ca_file"), "{failure:?}");

    let config = tls::client_config(Some(&stranger)).await.unwrap();
    let error = imap::greeting(&endpoint(stack.imap_port), config, Duration::from_secs(10))
        .await
        .unwrap_err();
    assert!(
        error.fault.to_string().contains("certificate was refused"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_message_that_does_not_arrive_points_at_the_queue() {
    let stack = Stack::start(Delivery::Stopped).await;
    let limits = Limits {
        visible: Duration::from_millis(1500),
        ..Limits::default()
    };
    let (passed, outcome) = probe(&stack.target(), PASSWORD, &limits).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.step, Step::Visible);
    assert_eq!(passed, Step::ALL[..6]);
    assert!(matches!(&failure.cause, Cause::NotDelivered { accepted, .. } if accepted.contains("queued as")));
    assert!(failure.hint().contains("postqueue -p"));
}

#[tokio::test]
async fn a_server_that_is_down_fails_at_connect() {
    let port = free_port();
    let target = Target {
        imap_host: "localhost".to_owned(),
        imap_port: port,
        smtp_host: "localhost".to_owned(),
        smtp_port: port,
        ca_file: None,
    };
    let (passed, outcome) = probe(&target, PASSWORD, &Limits::default()).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.step, Step::ConnectSubmission);
    assert!(passed.is_empty());
    assert!(failure.hint().contains("postfix status"));

    let limit = Duration::from_secs(5);
    assert!(smtp::banner(&endpoint(port), limit).await.is_err());
}

#[tokio::test]
async fn without_dovecot_the_hint_names_its_auth_service() {
    let mut stack = Stack::start(Delivery::Runs).await;
    stack.stop_dovecot();
    let (_, outcome) = probe(&stack.target(), PASSWORD, &Limits::default()).await;
    let failure = outcome.unwrap_err();
    assert!(
        failure.hint().contains("smtpd_sasl_path"),
        "{failure:?}\n{}",
        stack.logs()
    );
}
