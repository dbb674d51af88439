//! The inbox.

use super::{
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
