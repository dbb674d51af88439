//! The inbox.

use super::{
    Refused,
    address::{Address, LocalPart},
    api_key::Scope,
    ids::{InboxId, TenantId, WorkspaceId},
    metadata::Metadata,
    names::DisplayName,
};
use crate::clock::Timestamp;

/// A live inbox as the store holds it, without its secrets.
#[derive(Clone, PartialEq, Debug)]
pub struct Inbox {
    /// Its id; its mail lies under it.
    pub id: InboxId,
    /// The tenant that owns the workspace.
    pub tenant: TenantId,
    /// The workspace that owns it.
    pub workspace: WorkspaceId,
    /// The canonical address: the login of IMAP and submission, fixed for ever.
    pub canonical: Address,
    /// The username that was asked for, which a numbered fallback differs from; none if none was asked for.
    pub requested: Option<LocalPart>,
    /// The name shown beside the address.
    pub display_name: Option<DisplayName>,
    /// The caller's own data.
    pub metadata: Metadata,
    /// Every address that it accepts mail for.
    pub addresses: Vec<InboxAddress>,
    /// When its name was allocated.
    pub created_at: Timestamp,
    /// When a 201 was sent for it; none while its creation is unfinished.
    pub acknowledged_at: Option<Timestamp>,
}

/// One address of an inbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InboxAddress {
    /// The address.
    pub address: Address,
    /// Whether it is the one that the inbox sends from. Exactly one of an inbox's addresses is.
    pub is_primary: bool,
}

impl Inbox {
    /// What its own key reaches.
    pub fn scope(&self) -> Scope {
        Scope::Inbox {
            tenant: self.tenant,
            workspace: self.workspace,
            inbox: self.id,
        }
    }

    /// The primary address: the one that the inbox sends from now.
    pub fn primary(&self) -> &Address {
        self.addresses
            .iter()
            .find(|entry| entry.is_primary)
            .map_or(&self.canonical, |entry| &entry.address)
    }
}

/// A part of a name to look for: 1 to 100 characters, without control characters. Case of `a-z` makes no difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SearchText(String);

/// Longest text to look for, in characters.
const SEARCH_TEXT_MAX_CHARS: usize = 100;

impl SearchText {
    /// What a caller is told when a text is refused.
    pub const RULE: &'static str = "must be 1 to 100 characters without control characters";

    /// Parses a text.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let fits = (1..=SEARCH_TEXT_MAX_CHARS).contains(&text.chars().count())
            && !text.chars().any(char::is_control);
        if fits {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(Refused::because(Self::RULE))
        }
    }

    /// Whether a name holds the text.
    pub fn is_in(&self, name: &str) -> bool {
        name.to_ascii_lowercase().contains(&self.0)
    }

    /// A pattern for SQL's `LIKE ... ESCAPE '!'` that matches what [`SearchText::is_in`] does, in names in lower case.
    pub fn like_pattern(&self) -> String {
        let mut pattern = "%".to_owned();
        for c in self.0.chars() {
            if matches!(c, '%' | '_' | '!') {
                pattern.push('!');
            }
            pattern.push(c);
        }
        pattern + "%"
    }
}
