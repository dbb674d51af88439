//! What is signed must be from the same authors for every reader: thousands of author fields, held against the mail readers
//! that people have, and a sample of them through submission.

mod generator;
mod readers;

use std::collections::{BTreeMap, HashSet};

use futures_util::TryStreamExt as _;
use inboxd::{
    model::address::{Address, DomainName},
    signer::author::{AuthorError, authors},
};
use serde_json::json;

use self::{
    generator::{Case, Generator},
    readers::{Readers, Shown, envelope},
};
use crate::support::{mail::Submitting, wait::until, world::World};

const SEED: u64 = 13;
/// Different cases.
const GENERATED: usize = 20_000;
/// What must come out of them at the least, so that this does not become a test of nothing.
const REFUSED_MIN: usize = 5_000;
const SIGNED_MIN: usize = 4_000;
/// Refused cases that every reader judges, too: it shows that readers disagree where the grammar says that they do.
const CONTROLS: usize = 2_000;
/// Controls of which a reader shows another author than the login's.
const DECEIVING_MIN: usize = 1_200;
/// Each must show an author in this share of the signed messages: Python's readers fail on some, or show nothing.
const READ_MIN_PERCENT: usize = 60;
const READERS: [&str; 10] = [
    "Dovecot",
    "imapflow",
    "mail-parser",
    "mail-parser, older",
    "mail-parser of Rust",
    "mailparser",
    "mailparser-older",
    "email.policy.default",
    "email.policy.compat32",
    "email, decoded first",
];

/// What a login of these tests owns.
const OWN: [&str; 3] = [
    "scout@inboxd.test",
    "desk@inboxd.test",
    "ada@xn--bcher-kva.example",
];
/// Of both verdicts, how many are submitted.
const SUBMITTED: usize = 150;
/// Fewer than `smtpd_soft_error_limit`, from which on Postfix answers slowly.
const REFUSED_IN_A_SESSION: usize = 8;
/// Of the refused ones, how many Postfix may have brought into a form that is not.
const REWRITTEN_MAX: usize = 10;

/// What the grammar says to a login with these addresses.
fn verdict(case: &Case, own: &[&str]) -> Result<(), AuthorError> {
    let owns = |address: &Address| Ok::<_, AuthorError>(own.contains(&address.to_string().as_str()));
    authors(case.fields(), owns).map(drop)
}

/// Whether what a reader shows is no address of somebody else: in any case, with any detail, its domain in either form. A
/// name without a domain is no address.
fn is_own(shown: &str) -> bool {
    let Some((local_part, domain)) = shown.rsplit_once('@') else {
        return true;
    };
    let without_detail = local_part
        .split_once('+')
        .map_or(local_part, |(before, _)| before);
    DomainName::parse(domain).is_ok_and(|domain| {
        let address = format!("{}@{domain}", without_detail.to_lowercase());
        OWN.contains(&address.as_str())
    })
}

/// Cases, each of them once.
fn cases(own: &[&str], count: usize) -> Vec<Case> {
    let mut generator = Generator::new(SEED, own);
    let mut seen = HashSet::new();
    let mut cases = Vec::new();
    while cases.len() < count {
        let case = generator.case();
        if seen.insert(case.clone()) {
            cases.push(case);
        }
    }
    cases
}

fn messages(cases: &[Case]) -> Vec<Vec<u8>> {
    let numbered = cases.iter().enumerate();
    let of_one = |(number, case): (usize, &Case)| case.message(&format!("case-{number}"));
    numbered.map(of_one).collect()
}

/// What every reader shows of these messages.
async fn readers(world: &World, username: &str, messages: &[Vec<u8>]) -> BTreeMap<String, Shown> {
    let mut readers = Readers::of(messages);
    let inbox = world.inbox(username).await;
    readers
        .0
        .extend(Readers::of_imap(world, &inbox, messages).await.0);
    let names: HashSet<&str> = readers.0.keys().map(String::as_str).collect();
    assert_eq!(names, HashSet::from(READERS));
    for (name, shown) in &readers.0 {
        assert_eq!(shown.len(), messages.len(), "{name}");
    }
    readers.0
}

/// The cases of which a reader shows a foreign author: their numbers, and what it shows.
fn foreign(shown: &Shown) -> Vec<(usize, &[String])> {
    let numbered = shown.iter().enumerate();
    let shown = numbered.filter_map(|(number, addresses)| Some((number, addresses.as_deref()?)));
    shown
        .filter(|(_, addresses)| !addresses.iter().all(|address| is_own(address)))
        .collect()
}

#[tokio::test]
async fn no_reader_shows_an_author_that_the_login_does_not_own() {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let (mut signed, mut refused) = (Vec::new(), Vec::new());
    for case in cases(&OWN, GENERATED) {
        let Err(error) = verdict(&case, &OWN) else {
            signed.push(case);
            continue;
        };
        let reason = match error {
            AuthorError::NotOwned { .. } => "NotOwned".to_owned(),
            AuthorError::Field { fault, .. } => format!("{fault:?}"),
            other => format!("{other:?}"),
        };
        *reasons.entry(reason).or_default() += 1;
        refused.push(case);
    }
    println!(
        "generated {GENERATED}, refused {}, signed {}",
        refused.len(),
        signed.len()
    );
    println!("refused because of: {reasons:?}");
    assert!(refused.len() >= REFUSED_MIN && signed.len() >= SIGNED_MIN);
    // What IMAP can be given: no NUL, and UTF-8 for the client of this test.
    refused.retain(|case| {
        let message = case.message("");
        !message.contains(&0) && str::from_utf8(&message).is_ok()
    });
    refused.truncate(CONTROLS);
    assert_eq!(refused.len(), CONTROLS);

    World::run(async |world| {
        let shown = readers(world, "signed", &messages(&signed)).await;
        let mut faults = Vec::new();
        for (name, shown) in &shown {
            let has_author = |addresses: &&Vec<String>| addresses.iter().any(|address| address.contains('@'));
            let read = shown.iter().flatten().filter(has_author).count();
            println!("signed: {name} shows an author in {read} of {}", shown.len());
            assert!(read * 100 >= shown.len() * READ_MIN_PERCENT, "{name}");
            for (number, addresses) in foreign(shown) {
                faults.push(format!(
                    "{name} shows {addresses:?} of {:?}",
                    signed[number].shown()
                ));
            }
        }
        assert!(
            faults.is_empty(),
            "{} faults:\n{}",
            faults.len(),
            faults.join("\n")
        );

        let shown = readers(world, "refused", &messages(&refused)).await;
        let mut deceiving = HashSet::new();
        for (name, shown) in &shown {
            let of_reader = foreign(shown);
            println!(
                "refused: {name} shows a foreign author in {} of {CONTROLS}",
                of_reader.len()
            );
            assert!(!of_reader.is_empty(), "{name}");
            deceiving.extend(of_reader.into_iter().map(|(number, _)| number));
        }
        println!("refused: a foreign author in {} of {CONTROLS}", deceiving.len());
        assert!(deceiving.len() >= DECEIVING_MIN);
    })
    .await;
}

/// Submits a message with these fields; the answer.
async fn submit(submission: &mut Submitting, sender: &str, case: &Case) -> String {
    submission.expect(&format!("MAIL FROM:<{sender}>"), "250").await;
    submission.expect(&format!("RCPT TO:<{sender}>"), "250").await;
    submission.expect("DATA", "354").await;
    let message = String::from_utf8(case.message("submitted")).unwrap();
    submission.say(&format!("{message}.")).await
}

/// Whether a message with this passes Postfix as it is: it replaces control characters before the signer reads a field.
fn is_text(case: &Case) -> bool {
    case.fields.iter().all(|(_, value)| {
        str::from_utf8(value).is_ok_and(|text| {
            let unfolded = text.replace("\r\n ", " ").replace("\r\n\t", "\t");
            !unfolded.chars().any(|c| c.is_control() && c != '\t')
        })
    })
}

#[tokio::test]
async fn submission_answers_as_the_grammar_says() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let scout = world.create(&tenant, "scout").await;
        let path = format!("/v1/inboxes/{}/addresses", scout.id);
        let added = tenant.post(&path, &json!({"email": OWN[1]})).await;
        assert_eq!(added.status, 201, "{added:?}");
        let own = &OWN[..2];
        let all = cases(own, GENERATED);
        let (signed, refused): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter(is_text)
            .partition(|case| verdict(case, own).is_ok());
        let mut submission = world.mail.submission_of(&scout).await;
        for case in signed.iter().take(SUBMITTED) {
            let answer = submit(&mut submission, &scout.email, case).await;
            assert!(answer.starts_with("250 2.0.0"), "{:?}: {answer}", case.shown());
        }
        // Postfix brings addresses of clients on its own host into its own form (local_header_rewrite_clients) before the
        // signer reads them, such as "scout"@inboxd.test.
        let mut rewritten = 0;
        for together in refused[..SUBMITTED].chunks(REFUSED_IN_A_SESSION) {
            let mut submission = world.mail.submission_of(&scout).await;
            for case in together {
                let answer = submit(&mut submission, &scout.email, case).await;
                let is_refused =
                    answer.starts_with("550 5.7.1 the ") || answer.starts_with("550 5.7.1 a message ");
                rewritten += usize::from(answer.starts_with("250 2.0.0"));
                assert!(
                    is_refused || answer.starts_with("250 2.0.0"),
                    "{:?}: {answer}",
                    case.shown()
                );
            }
        }
        println!(
            "submitted {SUBMITTED} of each verdict; Postfix rewrote {rewritten} that are refused otherwise"
        );
        assert!(rewritten <= REWRITTEN_MAX);
        let accepted = SUBMITTED + rewritten;
        // What arrived, after Postfix had it.
        let arrived = until("what was accepted arrives", || async {
            let mut imap = world.mail.log_in(&scout).await;
            let exists = imap.select("INBOX").await.unwrap().exists;
            (usize::try_from(exists).unwrap() == accepted).then_some(imap)
        });
        let mut imap = arrived.await;
        let fetched: Vec<_> = imap
            .fetch("1:*", "ENVELOPE")
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        assert_eq!(fetched.len(), accepted);
        for fetch in &fetched {
            let shown = envelope(fetch);
            assert!(
                !shown.is_empty() && shown.iter().all(|address| is_own(address)),
                "{shown:?}"
            );
        }
    })
    .await;
}
