//! Shares of the sessions with the mail servers: what one inbox, and all inboxes of one tenant, may have at a time.

/// The largest shares, in sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareLimits {
    /// Of one inbox, wherever its sessions come from.
    pub inbox: u32,
    /// Of all inboxes of a tenant.
    pub tenant: u32,
}

/// Whose share a session would be beyond.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// That of the inbox.
    Inbox,
    /// That of the tenant.
    Tenant,
}

impl Share {
    /// As metrics and logs name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Tenant => "tenant",
        }
    }

    /// What the client reads whose session is refused.
    pub const fn refusal(self) -> &'static str {
        match self {
            Self::Inbox => "this inbox has as many sessions as it may have; end one of them first",
            Self::Tenant => {
                "the inboxes of this customer have as many sessions as they may have together; end one of them first"
            }
        }
    }
}
