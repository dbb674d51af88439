//! One SMTP session, as Postfix tells of it: a message after the other, each signed at its end.

use std::{convert::Infallible, mem, sync::Arc};

use async_trait::async_trait;
use miltr_common::{
    ProtocolError,
    actions::{Action, Continue, Replycode},
    commands::{Body, Header, Macro, Mail, Recipient},
    modifications::{ModificationResponse, headers::InsertHeader, recipients::DeleteRecipient},
    optneg::{Capability, OptNeg, Protocol},
};
use miltr_server::{Error, Milter};

use super::{
    KeyError, Parts,
    author::{AuthorError, authors},
    message::{FormError, HEADER_MAX_OCTETS, Message, SignError, Whole},
    sessions::{OpenSessions, Place},
};
use crate::{
    clock::Timestamp,
    maps,
    milter::{self, recipients::Recipients, reserved_fields::ReservedFields},
    model::{
        address::{Address, DomainName},
        session_share::Share,
    },
    telemetry,
};

/// What Postfix tells the name of the login in.
const LOGIN_MACROS: [&[u8]; 2] = [b"auth_authen", b"{auth_authen}"];
/// The field that is added.
const SIGNATURE_FIELD: &str = "DKIM-Signature";

/// What is known of a session and of the message that is on its way.
pub(super) struct Session {
    parts: Arc<Parts>,
    open: Arc<OpenSessions>,
    /// From the first message on, one of the inbox's places.
    place: Option<Place>,
    /// Who has logged in.
    login: Option<String>,
    recipients: Recipients,
    reserved: ReservedFields,
    message: Message,
    /// Whether Postfix sends, and takes, values with the white space that follows the colon.
    has_leading_space: bool,
}

/// Why a message is not signed. What is the client's to mend is refused; the rest is to be tried again.
#[derive(Debug, thiserror::Error)]
enum Unsigned {
    #[error("nobody has logged in")]
    NoLogin,
    #[error("header fields of more than {HEADER_MAX_OCTETS} octets")]
    TooLarge,
    #[error(transparent)]
    Form(#[from] FormError),
    #[error(transparent)]
    Author(#[from] AuthorError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("look up the recipients")]
    Recipients(#[from] maps::Error),
    #[error("the task that signs failed")]
    Task(#[from] tokio::task::JoinError),
}

impl Session {
    pub(super) fn new(parts: Arc<Parts>, open: Arc<OpenSessions>) -> Self {
        Self {
            reserved: ReservedFields::new(&parts.host),
            parts,
            open,
            place: None,
            login: None,
            recipients: Recipients::default(),
            message: Message::new(),
            has_leading_space: false,
        }
    }

    /// Takes a place, if the session has none, or says whose share that would be beyond. Without a login there is nothing to
    /// count: no message is taken.
    async fn take_place(&mut self) -> Result<(), Share> {
        let Some(login) = &self.login else {
            return Ok(());
        };
        if !self.place.as_ref().is_some_and(|place| place.is_of(login)) {
            // The place of another login is given back first.
            self.place = None;
            self.place = Some(self.open.take(login).await?);
        }
        Ok(())
    }

    /// The values of the fields that are to be added, and the recipients that are one too many.
    async fn sign(&mut self) -> Result<(Vec<String>, Vec<DeleteRecipient>), Unsigned> {
        let message = mem::replace(&mut self.message, Message::new());
        if message.is_too_large() {
            return Err(Unsigned::TooLarge);
        }
        let login = self.login.clone().ok_or(Unsigned::NoLogin)?;
        let now = self.parts.clock.now();
        let (parts, recipients) = (Arc::clone(&self.parts), self.recipients.clone());
        tokio::task::spawn_blocking(move || {
            let signatures = parts.sign(&login, &message.end(), now)?;
            Ok((signatures, recipients.repeated(&parts.maps)?))
        })
        .await?
    }
}

impl Parts {
    /// Whether a login may send from an address now. Blocks on files.
    fn owns(&self, login: &str, address: &Address) -> Result<bool, KeyError> {
        let owner = self.login_of(address)?;
        Ok(owner.is_some_and(|owner| owner.to_string() == login))
    }

    /// Signs a message of this login. Blocks on files.
    fn sign(&self, login: &str, message: &Whole, now: Timestamp) -> Result<Vec<String>, Unsigned> {
        let authors = authors(message.fields(), |address| {
            Ok::<_, Unsigned>(self.owns(login, address)?)
        })?;
        message.check_form()?;
        // Of several authors, a signature of each domain.
        let mut domains: Vec<DomainName> = authors.into_iter().map(|author| author.domain).collect();
        domains.sort_unstable();
        domains.dedup();
        let mut signatures = Vec::new();
        for domain in domains {
            for key in self.keys_of(&domain)? {
                signatures.push(message.signature(&domain, &key, now)?);
            }
        }
        Ok(signatures)
    }
}

impl Unsigned {
    /// What the client is told (RFC 5321, 4.2; RFC 3463).
    fn reply(&self) -> Replycode {
        match self {
            Self::NoLogin => Replycode::new([5, 3, 0], [5, 7, 0], "Authentication required"),
            Self::TooLarge => Replycode::new([5, 5, 2], [5, 3, 4], &self.to_string()),
            Self::Form(_) => Replycode::new([5, 5, 0], [5, 6, 0], &self.to_string()),
            Self::Author(_) => Replycode::new([5, 5, 0], [5, 7, 1], &self.to_string()),
            Self::Key(_) | Self::Sign(_) | Self::Recipients(_) | Self::Task(_) => Replycode::new(
                [4, 5, 1],
                [4, 7, 5],
                "this message cannot be signed now; try again later",
            ),
        }
    }

    fn log(&self, login: Option<&str>) {
        let reason = telemetry::chain(self);
        match self {
            Self::NoLogin | Self::TooLarge | Self::Form(_) | Self::Author(_) => {
                tracing::info!(login, reason, "refused a message");
            }
            Self::Key(_) | Self::Sign(_) | Self::Recipients(_) | Self::Task(_) => {
                tracing::error!(login, reason, "cannot sign a message; it has to wait");
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
            protocol: Protocol::NO_CONNECT
                | Protocol::NO_HELO
                | Protocol::NO_UNKNOWN
                | Protocol::NO_DATA
                | Protocol::NO_END_OF_HEADER
                | Protocol::SMFIP_HDR_LEADSPC,
            ..OptNeg::default()
        };
        let agreed = ours.merge_compatible(&theirs);
        let agreed = agreed.map_err(ProtocolError::CompatibilityError)?;
        self.has_leading_space = agreed.protocol.contains(Protocol::SMFIP_HDR_LEADSPC);
        Ok(agreed)
    }

    async fn macro_(&mut self, told: Macro) -> Result<(), Infallible> {
        for (name, value) in told.macros() {
            if LOGIN_MACROS.contains(&name) {
                self.login =
                    Some(String::from_utf8_lossy(value).into_owned()).filter(|login| !login.is_empty());
            }
        }
        Ok(())
    }

    async fn mail(&mut self, _: Mail) -> Result<Action, Infallible> {
        self.message = Message::new();
        self.recipients.clear();
        self.reserved.clear();
        let Err(share) = self.take_place().await else {
            return Ok(Continue.into());
        };
        tracing::info!(
            login = self.login,
            share = share.name(),
            "refused a session beyond a share"
        );
        // Postfix closes the connection after a 421.
        Ok(Replycode::new([4, 2, 1], [4, 7, 0], share.refusal()).into())
    }

    async fn rcpt(&mut self, recipient: Recipient) -> Result<Action, Infallible> {
        self.recipients.add(&recipient.recipient());
        Ok(Continue.into())
    }

    async fn header(&mut self, header: Header) -> Result<Action, Infallible> {
        if let Some((name, value)) = milter::name_and_value(&header) {
            self.message.field(&name, &value);
            if !self.message.is_too_large() {
                self.reserved.field(&name, &value);
            }
        }
        Ok(Continue.into())
    }

    async fn body(&mut self, body: Body) -> Result<Action, Infallible> {
        self.message.body(body.as_bytes());
        Ok(Continue.into())
    }

    async fn end_of_body(&mut self) -> Result<ModificationResponse, Infallible> {
        let signed = self.sign().await;
        let mut answer = ModificationResponse::builder();
        Ok(match signed {
            Ok((signatures, repeated)) => {
                for removal in self.reserved.removals() {
                    answer.push(removal);
                }
                for recipient in repeated {
                    answer.push(recipient);
                }
                let space = if self.has_leading_space { " " } else { "" };
                for signature in signatures.iter().rev() {
                    let value = format!("{space}{signature}");
                    answer.push(InsertHeader::new(0, SIGNATURE_FIELD.as_bytes(), value.as_bytes()));
                }
                answer.contin()
            }
            Err(unsigned) => {
                unsigned.log(self.login.as_deref());
                answer.build(unsigned.reply())
            }
        })
    }

    async fn abort(&mut self) -> Result<(), Infallible> {
        self.message = Message::new();
        Ok(())
    }
}
