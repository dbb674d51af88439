//! The tenant: the root that owns workspaces and carries limits.

use super::{
    ids::{TenantId, WorkspaceId},
    limits::Limits,
    names::Label,
};
use crate::clock::Timestamp;

/// A tenant as the store holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name; the base of usernames when a request names none.
    pub name: Label,
    /// The workspace that was made with it.
    pub default_workspace: WorkspaceId,
    /// Its caps.
    pub limits: Limits,
    /// Live inboxes over all its workspaces.
    pub inbox_count: u32,
    /// Its workspaces, the default one included.
    pub workspace_count: u32,
    /// Since when it is suspended: its keys are refused, logins to its inboxes too, deliveries go on.
    pub suspended_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}
