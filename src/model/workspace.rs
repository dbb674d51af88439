//! The workspace: the isolation container that owns inboxes and domains.

use super::{
    ids::{TenantId, WorkspaceId},
    names::{Label, Slug},
};
use crate::clock::Timestamp;

/// A workspace as the store holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Its name.
    pub name: Label,
    /// Its short name, unique within the tenant.
    pub slug: Slug,
    /// Whether it was made with the tenant; that one cannot be deleted.
    pub is_default: bool,
    /// Live inboxes in it.
    pub inbox_count: u32,
    /// Custom domains in it.
    pub domain_count: u32,
    /// When it was made.
    pub created_at: Timestamp,
}
