//! SPF, DKIM, DMARC and ARC of one message, asked of DNS with limits.
//!
//! Each part has a time of its own, so that a sender whose DNS is slow has no verdict on his own records, and takes none
//! from those of the domain in whose name he writes.

mod away;
mod signatures;

use std::{collections::BTreeSet, str, sync::Arc as Shared, time::Duration};

use futures_util::future::join_all;
use mail_auth::{
    ArcOutput, AuthenticatedMessage, DkimOutput, DkimResult, DmarcResult, DnsError, Error,
    MessageAuthenticator, SpfOutput, SpfResult, Txt,
    common::{crypto::HashAlgorithm, parse::TxtRecordParser as _},
    dkim::Canonicalization,
    dmarc::{Dmarc as Record, Policy as RecordPolicy, verify::DmarcParameters},
};
use tokio::time::timeout;

use self::{away::Away, signatures::Checked};
use super::{
    answers::Answers,
    author::{Authors, domain_of_address},
    findings::{Arc, Dkim, Dmarc, Findings, Outcome, Own, Spf, Standing, Wish},
    message::Whole,
    report::Envelope,
};
use crate::{
    dns::{self, Txts, spf::Client},
    milter::authentication_results::AuthenticationResults,
    model::{
        address::DomainName,
        spf::{Qualifier, Verdict},
        suffix::organizational_domain,
    },
};

/// How long each of SPF, one signature, the chain of ARC and the policies of the authors may take.
const PART_LIMIT_MS: u64 = 8_000;
/// How long DMARC may take after them. A message takes no longer than both.
const ALIGNMENT_LIMIT_MS: u64 = 4_000;
/// Sets of ARC fields that are verified. RFC 8617, 4.2.1, allows 50; each is a key that is looked up.
const ARC_SETS_MAX: usize = 10;
/// Names at which the policy of one domain is looked up (RFC 9989, 4.10).
const DMARC_LABELS_MAX: usize = 8;

/// Judges messages.
pub(super) struct Judge {
    /// Or why there is none.
    authenticator: Result<MessageAuthenticator, String>,
    dns: dns::Lookup,
    trusted_sealers: Vec<DomainName>,
    away: Away,
}

/// One message, and what is known about it.
pub(super) struct Case<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) authors: &'a Authors,
    /// The domains of ours in whose name it speaks.
    pub(super) ours: &'a BTreeSet<DomainName>,
    pub(super) message: &'a Whole,
}

impl Case<'_> {
    /// The domain that SPF is about.
    fn spf_domain(&self) -> Option<DomainName> {
        let Envelope { helo, sender, .. } = self.envelope;
        if sender.is_empty() {
            DomainName::parse(helo).ok()
        } else {
            domain_of_address(sender)
        }
    }
}

impl Judge {
    pub(super) fn new(settings: &dns::Settings, trusted_sealers: Vec<DomainName>) -> Self {
        let dns = dns::Lookup::new(settings);
        if let Err(error) = dns.resolver() {
            tracing::warn!(
                error,
                "nothing can be asked of DNS; dns.servers names other servers"
            );
        }
        Self {
            authenticator: dns.resolver().map(MessageAuthenticator),
            away: Away::new(dns.clone()),
            dns,
            trusted_sealers,
        }
    }

    /// Everything that is found out about a message.
    pub(super) async fn judge(&self, case: &Case<'_>) -> Findings {
        let message = authenticated(case.message);
        let checked = signatures::select(&message, &case.authors.domains);
        let (Ok(authenticator), false) = (&self.authenticator, self.away.is_away()) else {
            return unanswered(case, &message, &checked);
        };
        let answers = Answers::default();
        let limit = Duration::from_millis(PART_LIMIT_MS);
        let verified = join_all(
            checked
                .iter()
                .map(|checked| verify(authenticator, &answers, checked)),
        );
        let (spf, outputs, arc, ()) = tokio::join!(
            timeout(limit, self.spf(case)),
            verified,
            timeout(limit, arc(authenticator, &answers, &message)),
            self.policies(&answers, &case.authors.domains, limit),
        );
        let spf = SpfOutput::default().with_result(spf.unwrap_or(SpfResult::TempError));
        let arc =
            arc.unwrap_or_else(|_| ArcOutput::default().with_result(DkimResult::TempError(no_answer())));
        let authors = case.authors.domains.iter();
        let dmarc =
            authors.map(|author| dmarc_of(authenticator, &answers, case, author, &message, &outputs, &spf));
        let dmarc = join_all(dmarc).await;
        let findings = Findings {
            spf: Spf {
                outcome: spf_outcome(spf.result()),
                domain: case.spf_domain(),
            },
            dkim: checked
                .iter()
                .zip(&outputs)
                .map(|(checked, output)| checked.finding(output))
                .collect(),
            dmarc,
            arc: arc_finding(&arc, &self.trusted_sealers),
            own: Vec::new(),
        };
        let findings = with_own(findings, case);
        if findings.has_temporary_error() {
            self.away.ask();
        }
        findings
    }

    /// What the SPF record of the envelope sender's domain says of the client.
    async fn spf(&self, case: &Case<'_>) -> SpfResult {
        let (Some(domain), Some(client)) = (case.spf_domain(), case.envelope.client) else {
            return SpfResult::None;
        };
        let Envelope { helo, sender, .. } = case.envelope;
        let of_helo = format!("postmaster@{domain}");
        let client = Client {
            address: client,
            helo,
            sender: if sender.is_empty() { &of_helo } else { sender },
        };
        match self.dns.spf(&client, domain.as_str()).await {
            Verdict::Decided { qualifier, .. } => match qualifier {
                Qualifier::Pass => SpfResult::Pass,
                Qualifier::Fail => SpfResult::Fail,
                Qualifier::SoftFail => SpfResult::SoftFail,
                Qualifier::Neutral => SpfResult::Neutral,
            },
            Verdict::None => SpfResult::None,
            Verdict::TempError(_) => SpfResult::TempError,
            Verdict::PermError(_) => SpfResult::PermError,
        }
    }

    /// Looks up where the policies of the authors may be (RFC 9989, 4.10), all at once. Of several records at one name none
    /// counts, and the crate would take the first.
    async fn policies(&self, answers: &Answers, authors: &[DomainName], limit: Duration) {
        let names: BTreeSet<String> = authors.iter().flat_map(policy_names).collect();
        let look_ups = names.iter().map(async |name| {
            let answer = match timeout(limit, self.dns.txt(name)).await {
                Ok(Txts::Records(records)) => one_policy(&records),
                Ok(Txts::Nothing) => nothing(),
                // No organization is a top-level domain: that one whose servers fail hides no policy below it.
                Ok(Txts::Failed) | Err(_) if name.matches('.').count() == 1 => nothing(),
                Ok(Txts::Failed) | Err(_) => Txt::Error(no_answer()),
            };
            answers.note(&format!("{name}."), answer);
        });
        join_all(look_ups).await;
    }
}

/// The names of the records that may be the policy of a domain.
fn policy_names(domain: &DomainName) -> Vec<String> {
    let labels: Vec<&str> = domain.as_str().split('.').collect();
    let below = labels.len().saturating_sub(DMARC_LABELS_MAX - 1);
    let starts = std::iter::once(0).chain(below.max(1)..labels.len());
    starts
        .map(|start| format!("_dmarc.{}", labels[start..].join(".")))
        .collect()
}

fn one_policy(records: &[Vec<u8>]) -> Txt {
    let policies = records.iter().filter(|record| record.starts_with(b"v=DMARC1"));
    match policies.collect::<Vec<_>>()[..] {
        [policy] => Record::parse(policy)
            .map(Shared::new)
            .map_or_else(Txt::Error, Txt::Dmarc),
        _ => nothing(),
    }
}

fn nothing() -> Txt {
    Txt::Error(Error::Dns(DnsError::InvalidRecordType))
}

fn no_answer() -> Error {
    Error::Dns(DnsError::Resolver("no answer in time".to_owned()))
}

/// A message as the crate has it. A body of its own is not in it: only the hashes.
fn authenticated(whole: &Whole) -> AuthenticatedMessage<'_> {
    let mut message = AuthenticatedMessage::parse_with_opts(&whole.header, None, true).unwrap_or_default();
    for (form, algorithm, _, hash) in &mut message.body_hashes {
        *hash = match (algorithm, form) {
            (HashAlgorithm::Sha256, Canonicalization::Simple) => whole.body.simple.clone(),
            (HashAlgorithm::Sha256, Canonicalization::Relaxed) => whole.body.relaxed.clone(),
            // RFC 8301, 3.1: SHA-1 verifies nothing.
            (HashAlgorithm::Sha1, _) => Vec::new(),
        };
    }
    message
}

/// Verifies one signature.
async fn verify<'a>(
    authenticator: &MessageAuthenticator,
    answers: &'a Answers,
    checked: &'a Checked<'_>,
) -> DkimOutput<'a> {
    let message = match checked {
        Checked::Verify(message) => message,
        Checked::Unusable { .. } => return DkimOutput::perm_err(Error::ParseError),
    };
    let verified = authenticator.verify_dkim(answers.with(&**message));
    let limit = Duration::from_millis(PART_LIMIT_MS);
    let Ok(mut outputs) = timeout(limit, verified).await else {
        let output = DkimOutput::temp_err(no_answer());
        return match message.dkim_headers.first() {
            Some(header) => output.with_signature(&header.header),
            None => output,
        };
    };
    outputs
        .pop()
        .unwrap_or_else(|| DkimOutput::perm_err(Error::ParseError))
}

async fn arc<'a>(
    authenticator: &MessageAuthenticator,
    answers: &'a Answers,
    message: &'a AuthenticatedMessage<'a>,
) -> ArcOutput<'a> {
    if message.ams_headers.len() > ARC_SETS_MAX {
        return ArcOutput::default().with_result(DkimResult::Fail(Error::ParseError));
    }
    // What the crate looks up by position must be there: RFC 8301, 3.1, again.
    let is_sha1 = |header: &mail_auth::common::headers::Header<'_, mail_auth::arc::Signature>| {
        HashAlgorithm::from(header.header.a) == HashAlgorithm::Sha1
    };
    if message.ams_headers.iter().any(is_sha1) {
        return ArcOutput::default().with_result(DkimResult::Fail(Error::ParseError));
    }
    authenticator.verify_arc(answers.with(message)).await
}

/// Whether an author's domain vouches for the message by SPF or a signature.
async fn dmarc_of<'a>(
    authenticator: &MessageAuthenticator,
    answers: &Answers,
    case: &Case<'_>,
    author: &DomainName,
    message: &AuthenticatedMessage<'_>,
    outputs: &'a [DkimOutput<'a>],
    spf: &SpfOutput,
) -> Dmarc {
    let message = AuthenticatedMessage {
        from: vec![format!("author@{author}")],
        ..message.clone()
    };
    // A signature covers one From field, and readers show another one.
    let outputs = if case.authors.fields == 1 { outputs } else { &[] };
    let spf_domain = case.spf_domain();
    let spf_domain = spf_domain.as_ref().map_or("", DomainName::as_str);
    let asked = DmarcParameters::new(&message, outputs, spf_domain, spf);
    let verified = authenticator.verify_dmarc(answers.with(asked));
    match timeout(Duration::from_millis(ALIGNMENT_LIMIT_MS), verified).await {
        Ok(output) => Dmarc {
            outcome: match output.result() {
                DmarcResult::Pass => Outcome::Pass,
                DmarcResult::Fail(_) => Outcome::Fail,
                DmarcResult::TempError(_) => Outcome::TempError,
                DmarcResult::PermError(_) => Outcome::PermError,
                DmarcResult::None => Outcome::None,
            },
            domain: author.clone(),
            wish: match output.policy() {
                RecordPolicy::Reject => Wish::Reject,
                RecordPolicy::Quarantine => Wish::Quarantine,
                RecordPolicy::None | RecordPolicy::Unspecified => Wish::None,
            },
        },
        Err(_) => Dmarc {
            outcome: Outcome::TempError,
            domain: author.clone(),
            wish: Wish::None,
        },
    }
}

fn spf_outcome(result: SpfResult) -> Outcome {
    match result {
        SpfResult::Pass => Outcome::Pass,
        SpfResult::Fail => Outcome::Fail,
        SpfResult::SoftFail => Outcome::SoftFail,
        SpfResult::Neutral => Outcome::Neutral,
        SpfResult::TempError => Outcome::TempError,
        SpfResult::PermError => Outcome::PermError,
        SpfResult::None => Outcome::None,
    }
}

/// What a chain says, and for whom a trusted sealer saw DMARC pass: one at its end, and before it as far as all are trusted.
fn arc_finding(output: &ArcOutput<'_>, trusted: &[DomainName]) -> Arc {
    let outcome = match output.result() {
        DkimResult::Pass => Outcome::Pass,
        DkimResult::None => Outcome::None,
        DkimResult::TempError(_) => Outcome::TempError,
        DkimResult::Neutral(_) | DkimResult::Fail(_) | DkimResult::PermError(_) => Outcome::Fail,
    };
    let sets = output.sets();
    let mut vouched = Vec::new();
    if outcome == Outcome::Pass {
        for set in sets.iter().rev() {
            let sealer = DomainName::parse(&set.seal.header.d).ok();
            if !sealer.is_some_and(|sealer| trusted.contains(&sealer)) {
                break;
            }
            vouched.extend(seen_to_pass(set.results.value));
        }
    }
    Arc {
        outcome,
        sealer: sets.last().map(|set| set.seal.header.d.clone()),
        vouched,
    }
}

/// The domains of authors for which ARC-Authentication-Results say that DMARC passed.
fn seen_to_pass(value: &[u8]) -> Vec<DomainName> {
    // `i=1; mx.example.org; dmarc=pass header.from=example.com`
    let Some(instance) = value.iter().position(|&octet| octet == b';') else {
        return Vec::new();
    };
    let results = AuthenticationResults::parse(&value[instance + 1..]);
    let statements = results.map(|results| results.statements).unwrap_or_default();
    statements
        .iter()
        .filter(|statement| statement.method == "dmarc" && statement.result == "pass")
        .filter_map(|statement| DomainName::parse(statement.property("header.from")?).ok())
        .collect()
}

/// What is found out without DNS: whether there was anything to ask.
fn unanswered(case: &Case<'_>, message: &AuthenticatedMessage<'_>, checked: &[Checked<'_>]) -> Findings {
    let some = |is_there: bool| {
        if is_there {
            Outcome::TempError
        } else {
            Outcome::None
        }
    };
    let spf_domain = case.spf_domain();
    let outputs: Vec<DkimOutput<'_>> = checked
        .iter()
        .map(|checked| match checked {
            Checked::Verify(_) => DkimOutput::temp_err(no_answer()),
            Checked::Unusable { .. } => DkimOutput::perm_err(Error::ParseError),
        })
        .collect();
    let findings = Findings {
        spf: Spf {
            outcome: some(spf_domain.is_some() && case.envelope.client.is_some()),
            domain: spf_domain,
        },
        dkim: checked
            .iter()
            .zip(&outputs)
            .map(|(checked, output)| checked.finding(output))
            .collect(),
        dmarc: case
            .authors
            .domains
            .iter()
            .map(|author| Dmarc {
                outcome: Outcome::TempError,
                domain: author.clone(),
                wish: Wish::None,
            })
            .collect(),
        arc: Arc {
            outcome: some(!message.ams_headers.is_empty()),
            sealer: None,
            vouched: Vec::new(),
        },
        own: Vec::new(),
    };
    with_own(findings, case)
}

/// Adds what each of our domains in whose name the message speaks says to it.
fn with_own(mut findings: Findings, case: &Case<'_>) -> Findings {
    findings.own = case
        .ours
        .iter()
        .map(|domain| Own {
            domain: domain.clone(),
            standing: standing(domain, &findings, case),
        })
        .collect();
    findings
}

/// Whether one of our domains vouches for the message, by its DMARC policy or, if it has none, in the relaxed way that one
/// has by default.
fn standing(domain: &DomainName, findings: &Findings, case: &Case<'_>) -> Standing {
    if findings.arc.vouched.contains(domain) {
        return Standing::Authenticated;
    }
    let policy = findings.dmarc.iter().find(|dmarc| dmarc.domain == *domain);
    match policy.map(|dmarc| dmarc.outcome) {
        Some(Outcome::Pass) => return Standing::Authenticated,
        Some(Outcome::Fail) => return Standing::Forged,
        _ => {}
    }
    let signatures = findings.dkim.iter().filter(|dkim| {
        case.authors.fields == 1
            && DomainName::parse(&dkim.domain).is_ok_and(|signer| is_aligned(&signer, domain))
    });
    let spf = findings
        .spf
        .domain
        .iter()
        .filter(|sender| is_aligned(sender, domain));
    let mut outcomes = signatures
        .map(|dkim| dkim.outcome)
        .chain(spf.map(|_| findings.spf.outcome))
        .collect::<Vec<_>>();
    outcomes.retain(|outcome| matches!(outcome, Outcome::Pass | Outcome::TempError));
    if outcomes.contains(&Outcome::Pass) {
        Standing::Authenticated
    } else if outcomes.is_empty() {
        Standing::Forged
    } else {
        Standing::Unknown
    }
}

/// Relaxed alignment (RFC 7489, 3.1): both are of one organization.
fn is_aligned(one: &DomainName, other: &DomainName) -> bool {
    let organization = organizational_domain(one);
    one == other || (organization.is_some() && organization == organizational_domain(other))
}

impl Findings {
    /// Whether DNS left a question open.
    fn has_temporary_error(&self) -> bool {
        let outcomes = [self.spf.outcome, self.arc.outcome].into_iter();
        outcomes
            .chain(self.dkim.iter().map(|dkim| dkim.outcome))
            .chain(self.dmarc.iter().map(|dmarc| dmarc.outcome))
            .any(|outcome| outcome == Outcome::TempError)
    }
}

impl Checked<'_> {
    /// The verdict on it.
    fn finding(&self, output: &DkimOutput<'_>) -> Dkim {
        let (signature, refused) = match self {
            Checked::Verify(message) => (message.dkim_headers.first().map(|header| &header.header), None),
            Checked::Unusable {
                signature,
                outcome,
                reason,
            } => (*signature, Some((*outcome, *reason))),
        };
        let (outcome, reason) = match (refused, output.result()) {
            (Some((outcome, reason)), _) => (outcome, Some(reason.to_owned())),
            (None, DkimResult::Pass) => (Outcome::Pass, None),
            (None, DkimResult::None) => (Outcome::None, None),
            (None, DkimResult::TempError(error)) => (Outcome::TempError, Some(error.to_string())),
            (None, DkimResult::PermError(error)) => (Outcome::PermError, Some(error.to_string())),
            // The signature could be read, and does not hold.
            (None, DkimResult::Fail(error) | DkimResult::Neutral(error)) => {
                (Outcome::Fail, Some(error.to_string()))
            }
        };
        Dkim {
            outcome,
            domain: signature.map_or_else(String::new, |signature| signature.d.clone()),
            selector: signature.map_or_else(String::new, |signature| signature.s.clone()),
            beginning: signature.map_or_else(String::new, signatures::beginning),
            reason,
        }
    }
}
