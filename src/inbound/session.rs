//! One SMTP session on port 25, as Postfix reports it: a message after the other, each judged at its end.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    mem,
    net::IpAddr,
    sync::{Arc, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use miltr_common::{
    ProtocolError,
    actions::{Action, Continue, Replycode},
    commands::{Body, Connect, Header, Helo, Macro, Mail, Recipient},
    modifications::{ModificationResponse, headers::InsertHeader, recipients::DeleteRecipient},
    optneg::{Capability, OptNeg, Protocol},
};
use miltr_server::{Error, Milter};

use super::{
    Shared,
    author::{AUTHORS_MAX, Authors, DOMAINS_MAX, domain_of_address, mentioned},
    findings::{Findings, Verdict},
    flood::Flood,
    judge::Case,
    message::{FIELDS_MAX, HEADER_MAX_OCTETS, Message, Whole},
    report::{self, Envelope},
};
use crate::{
    maps,
    milter::{
        self,
        recipients::Recipients,
        reserved_fields::{JUNK_FIELD, RECEIVED_SPF_FIELD, RESULTS_FIELD, ReservedFields},
    },
    model::address::{Address, DomainName},
    telemetry,
};

/// What Postfix puts before an IPv6 address.
const IPV6_PREFIX: &str = "IPv6:";

/// Where Postfix says how it understands the envelope sender.
const SENDER_MACROS: [&[u8]; 2] = [b"mail_addr", b"{mail_addr}"];

/// What is known of a session and of the message that is on its way.
pub(super) struct Session {
    shared: Arc<Shared>,
    envelope: Envelope,
    /// The envelope sender as the client spelled it.
    path: String,
    /// The same as Postfix understands it, which comes before the command.
    mail_address: Option<String>,
    recipients: Recipients,
    reserved: ReservedFields,
    message: Message,
    /// Octets of the message so far, without line ends of its header.
    octets: u64,
}

/// Why a message is not judged. What is the sender's to mend is refused; the rest is to be tried again.
#[derive(Debug, thiserror::Error)]
enum Unjudged {
    #[error("more than {HEADER_MAX_OCTETS} octets or {FIELDS_MAX} fields of headers")]
    TooLarge,
    #[error(
        "the From field names more than {AUTHORS_MAX} domains, or it or the sender shows more than {DOMAINS_MAX}"
    )]
    Authors,
    #[error("{0} got more mail in an hour than inbound.octets_per_inbox_per_hour_max allows")]
    Flood(Address),
    #[error("look up recipients and domains")]
    Maps(#[from] maps::Error),
    #[error("the task that looks up recipients failed")]
    Task(#[from] tokio::task::JoinError),
}

/// What the maps say about a message.
struct LookedUp {
    ours: BTreeSet<DomainName>,
    repeated: Vec<DeleteRecipient>,
    mailboxes: BTreeSet<Address>,
}

/// What came of a message.
struct Outcome {
    findings: Findings,
    repeated: Vec<DeleteRecipient>,
    /// For which it was counted.
    mailboxes: BTreeSet<Address>,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            envelope: Envelope::default(),
            path: String::new(),
            mail_address: None,
            recipients: Recipients::default(),
            reserved: ReservedFields::new(&shared.host),
            message: Message::new(),
            octets: 0,
            shared,
        }
    }

    /// Forgets the message, and not the client.
    fn clear(&mut self) {
        self.envelope.sender.clear();
        self.path.clear();
        self.recipients.clear();
        self.reserved.clear();
        self.message = Message::new();
        self.octets = 0;
    }

    /// The counters of all mailboxes. Nothing panics while they are held.
    fn flood(&self) -> MutexGuard<'_, Flood> {
        self.shared.flood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn judge(&mut self) -> Result<Outcome, Unjudged> {
        let message = mem::replace(&mut self.message, Message::new());
        if message.is_too_large() {
            return Err(Unjudged::TooLarge);
        }
        let message = message.end();
        let authors = Authors::read(&message.authors).ok_or(Unjudged::Authors)?;
        let LookedUp {
            ours,
            repeated,
            mailboxes,
        } = self.look_up(&authors).await?;
        let now = self.shared.clock.now();
        let taken = self
            .flood()
            .take(&mailboxes, self.octets, now)
            .map_err(Address::clone);
        taken.map_err(Unjudged::Flood)?;
        let case = Case {
            envelope: &self.envelope,
            authors: &authors,
            ours: &ours,
            message: &message,
        };
        let findings = self.shared.judge.judge(&case).await;
        self.log(&findings, &message);
        Ok(Outcome {
            findings,
            repeated,
            mailboxes,
        })
    }

    async fn look_up(&self, authors: &Authors) -> Result<LookedUp, Unjudged> {
        let mut named = authors.mentioned.clone();
        named.extend(authors.domains.iter().cloned());
        named.extend(mentioned(&self.path).ok_or(Unjudged::Authors)?);
        let Envelope { sender, .. } = &self.envelope;
        named.extend(domain_of_address(sender));
        // Postfix completes a name alone with that of the host.
        if !sender.is_empty() && !sender.contains('@') {
            named.extend(DomainName::parse(&self.shared.host).ok());
        }
        let (shared, recipients) = (Arc::clone(&self.shared), self.recipients.clone());
        let looked_up = tokio::task::spawn_blocking(move || {
            let mut ours = BTreeSet::new();
            for domain in named {
                if shared.maps.is_ours(&domain)? {
                    ours.insert(domain);
                }
            }
            Ok::<_, maps::Error>(LookedUp {
                ours,
                repeated: recipients.repeated(&shared.maps)?,
                mailboxes: recipients.mailboxes(&shared.maps)?,
            })
        });
        Ok(looked_up.await??)
    }

    fn log(&self, findings: &Findings, message: &Whole) {
        let dkim: Vec<String> = findings
            .dkim
            .iter()
            .map(|dkim| format!("{} {}", dkim.outcome, dkim.domain))
            .collect();
        let dmarc: Vec<String> = findings
            .dmarc
            .iter()
            .map(|dmarc| format!("{} {}", dmarc.outcome, dmarc.domain))
            .collect();
        tracing::debug!(
            client = ?self.envelope.client,
            sender = self.envelope.sender,
            spf = %findings.spf.outcome,
            dkim = dkim.join(", "),
            dmarc = dmarc.join(", "),
            header_octets = message.header.len(),
            "judged a message"
        );
    }

    /// What Postfix is answered, and the client after it.
    fn answer(&self, outcome: Outcome) -> ModificationResponse {
        let Outcome {
            findings,
            repeated,
            mailboxes,
        } = outcome;
        let findings = &findings;
        let Shared { host, policy, .. } = &*self.shared;
        let mut answer = ModificationResponse::builder();
        let verdict = if self.recipients.are_postmasters() {
            findings.verdict(&policy.for_postmaster())
        } else {
            findings.verdict(policy)
        };
        if verdict != Verdict::Deliver {
            let Envelope { client, sender, .. } = &self.envelope;
            tracing::info!(?client, sender, ?verdict, "judged a message");
        }
        if matches!(verdict, Verdict::Refuse(_) | Verdict::Defer(_)) {
            let now = self.shared.clock.now();
            self.flood().give_back(&mailboxes, self.octets, now);
        }
        let junk = match verdict {
            Verdict::Refuse(reason) => return answer.build(Replycode::new([5, 5, 0], [5, 7, 1], &reason)),
            Verdict::Defer(reason) => return answer.build(Replycode::new([4, 5, 1], [4, 7, 1], &reason)),
            Verdict::Junk(reason) => Some(reason),
            Verdict::Deliver => None,
        };
        for removal in self.reserved.removals() {
            answer.push(removal);
        }
        for recipient in repeated {
            answer.push(recipient);
        }
        let mut insert = |name: &str, value: &str| {
            answer.push(InsertHeader::new(0, name.as_bytes(), value.as_bytes()));
        };
        // The last one that is inserted stands first.
        if let Some(reason) = junk {
            insert(JUNK_FIELD, &format!(" yes ({reason})"));
        }
        let envelope = &self.envelope;
        insert(
            RECEIVED_SPF_FIELD,
            &report::received_spf(host, envelope, findings),
        );
        insert(RESULTS_FIELD, &report::results(host, envelope, findings));
        answer.contin()
    }
}

impl Unjudged {
    /// The reply to the client (RFC 5321, 4.2; RFC 3463).
    fn reply(&self) -> Replycode {
        match self {
            Self::TooLarge => Replycode::new([5, 5, 2], [5, 3, 4], &self.to_string()),
            Self::Authors => Replycode::new([5, 5, 0], [5, 7, 1], &self.to_string()),
            Self::Flood(_) => Replycode::new(
                [4, 5, 2],
                [4, 2, 2],
                "a recipient gets more mail than it may in an hour; try again later",
            ),
            Self::Maps(_) | Self::Task(_) => Replycode::new(
                [4, 5, 1],
                [4, 3, 0],
                "this message cannot be judged now; try again later",
            ),
        }
    }

    fn log(&self, envelope: &Envelope) {
        let Envelope { client, sender, .. } = envelope;
        let reason = telemetry::chain(self);
        match self {
            Self::Flood(_) => tracing::warn!(?client, sender, reason, "put a message off"),
            Self::TooLarge | Self::Authors => tracing::info!(?client, sender, reason, "refused a message"),
            Self::Maps(_) | Self::Task(_) => {
                tracing::error!(?client, sender, reason, "cannot judge a message; it has to wait");
            }
        }
    }
}

#[async_trait]
impl Milter for Session {
    type Error = Infallible;

    async fn option_negotiation(&mut self, theirs: OptNeg) -> Result<OptNeg, Error<Infallible>> {
        let ours = OptNeg {
            // The crate asks for the second where only the first is needed.
            capabilities: Capability::SMFIF_ADDHDRS | Capability::SMFIF_CHGHDRS | Capability::SMFIF_DELRCPT,
            // With the white space before values: a signature may cover it (RFC 6376, 3.4.1).
            protocol: Protocol::NO_UNKNOWN
                | Protocol::NO_DATA
                | Protocol::NO_END_OF_HEADER
                | Protocol::SMFIP_HDR_LEADSPC,
            ..OptNeg::default()
        };
        let agreed = ours.merge_compatible(&theirs);
        Ok(agreed.map_err(ProtocolError::CompatibilityError)?)
    }

    async fn macro_(&mut self, macros: Macro) -> Result<(), Infallible> {
        for (name, value) in macros.macros() {
            if SENDER_MACROS.contains(&name) {
                self.mail_address = Some(String::from_utf8_lossy(value).into_owned());
            }
        }
        Ok(())
    }

    async fn connect(&mut self, connect: Connect) -> Result<Action, Infallible> {
        let address = connect.address();
        let address = address.strip_prefix(IPV6_PREFIX).unwrap_or(&address);
        self.envelope.client = address.parse().ok().map(|address: IpAddr| address.to_canonical());
        Ok(Continue.into())
    }

    async fn helo(&mut self, helo: Helo) -> Result<Action, Infallible> {
        self.envelope.helo = helo.helo().into_owned();
        Ok(Continue.into())
    }

    async fn mail(&mut self, mail: Mail) -> Result<Action, Infallible> {
        self.clear();
        self.path = mail.sender().into_owned();
        let bare = self.path.trim().trim_start_matches('<').trim_end_matches('>');
        self.envelope.sender = self.mail_address.take().unwrap_or_else(|| bare.to_owned());
        Ok(Continue.into())
    }

    async fn rcpt(&mut self, recipient: Recipient) -> Result<Action, Infallible> {
        self.recipients.add(&recipient.recipient());
        Ok(Continue.into())
    }

    async fn header(&mut self, header: Header) -> Result<Action, Infallible> {
        if let Some((name, value)) = milter::name_and_value(&header) {
            self.octets += u64::try_from(name.len() + value.len()).unwrap_or(u64::MAX);
            self.message.field(&name, &value);
            if !self.message.is_too_large() {
                self.reserved.field(&name, &value);
            }
        }
        Ok(Continue.into())
    }

    async fn body(&mut self, body: Body) -> Result<Action, Infallible> {
        self.message.body(body.as_bytes());
        self.octets += u64::try_from(body.as_bytes().len()).unwrap_or(u64::MAX);
        Ok(Continue.into())
    }

    async fn end_of_body(&mut self) -> Result<ModificationResponse, Infallible> {
        Ok(match self.judge().await {
            Ok(outcome) => self.answer(outcome),
            Err(unjudged) => {
                unjudged.log(&self.envelope);
                ModificationResponse::builder().build(unjudged.reply())
            }
        })
    }

    async fn abort(&mut self) -> Result<(), Infallible> {
        self.clear();
        Ok(())
    }
}
