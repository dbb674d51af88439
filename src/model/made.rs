//! What a kept answer says that may not hold later.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Refused,
    address::Address,
    api_key::ApiKey,
    ids::{DomainId, InboxId, KeyId, TenantId, WorkspaceId},
    maps::MapKey,
    password::PasswordHash,
};

/// What an answer is about: an object, and the credentials that the answer shows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Made {
    /// The object.
    pub object: Object,
    /// SHA-256 of the API key that the answer shows.
    pub key: Option<[u8; 32]>,
    /// SHA-256 of the hash of the mailbox password that the answer shows.
    pub password: Option<[u8; 32]>,
    /// Whether the answer acknowledges that the inbox was created.
    pub acknowledges: bool,
}

/// An object that a call made or changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Object {
    /// An inbox.
    Inbox(Uuid),
    /// An address of an inbox.
    Address {
        /// The inbox.
        inbox: Uuid,
        /// The address.
        address: String,
    },
    /// A domain.
    Domain(Uuid),
    /// A workspace.
    Workspace {
        /// Its tenant.
        tenant: Uuid,
        /// The workspace.
        workspace: Uuid,
    },
    /// A tenant.
    Tenant(Uuid),
    /// A key, which is in the answer itself.
    Key(Uuid),
}

/// What of a kept answer does not hold any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stale {
    /// The object is gone.
    Deleted,
    /// The mailbox password was rotated.
    Password,
    /// The API key was rotated or revoked.
    Key,
}

impl Stale {
    /// The word that answers use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Password => "password",
            Self::Key => "key",
        }
    }
}

impl Made {
    fn of(object: Object) -> Self {
        Self {
            object,
            key: None,
            password: None,
            acknowledges: false,
        }
    }

    /// An inbox.
    pub fn inbox(id: InboxId) -> Self {
        Self::of(Object::Inbox(id.0))
    }

    /// An address of an inbox.
    pub fn address(inbox: InboxId, address: &Address) -> Self {
        Self::of(Object::Address {
            inbox: inbox.0,
            address: address.to_string(),
        })
    }

    /// A domain.
    pub fn domain(id: DomainId) -> Self {
        Self::of(Object::Domain(id.0))
    }

    /// A workspace.
    pub fn workspace(tenant: TenantId, workspace: WorkspaceId) -> Self {
        Self::of(Object::Workspace {
            tenant: tenant.0,
            workspace: workspace.0,
        })
    }

    /// A tenant.
    pub fn tenant(id: TenantId) -> Self {
        Self::of(Object::Tenant(id.0))
    }

    /// A key.
    pub fn key(id: KeyId, key: &ApiKey) -> Self {
        Self::of(Object::Key(id.0)).showing_key(key)
    }

    /// The same, where the answer shows an API key.
    #[must_use]
    pub fn showing_key(mut self, key: &ApiKey) -> Self {
        self.key = Some(key.hash());
        self
    }

    /// The same, where the answer shows a mailbox password.
    #[must_use]
    pub fn showing_password(mut self, hash: &PasswordHash) -> Self {
        self.password = Some(digest_of(hash));
        self
    }

    /// The same, where the answer acknowledges the creation of the inbox.
    #[must_use]
    pub fn acknowledging(mut self) -> Self {
        self.acknowledges = true;
        self
    }

    /// JSON, for the store.
    pub fn to_json(&self) -> Result<String, Refused> {
        serde_json::to_string(self).map_err(|_| Refused::because("cannot be written as JSON"))
    }

    /// From the text that [`Made::to_json`] writes.
    pub fn from_json(text: &str) -> Result<Self, Refused> {
        serde_json::from_str(text).map_err(|_| Refused::because("must say what an answer is about"))
    }

    /// What the maps must show before the answer is given again. It is committed before it is published, so the first
    /// request may have ended in between. Answers about inboxes are kept only when all is published.
    pub fn to_publish(&self) -> Option<MapKey> {
        match &self.object {
            Object::Address { address, .. } => Address::parse(address).ok().map(MapKey::Address),
            _ => None,
        }
    }

    /// The inbox whose creation the answer acknowledges.
    pub fn acknowledged(&self) -> Option<InboxId> {
        match self.object {
            Object::Inbox(id) if self.acknowledges => Some(InboxId(id)),
            _ => None,
        }
    }
}

/// Tells whether a password is still the one that was shown, without keeping another copy of its hash.
pub fn digest_of(hash: &PasswordHash) -> [u8; 32] {
    Sha256::digest(hash.as_str()).into()
}
