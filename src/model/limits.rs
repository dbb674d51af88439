//! What a tenant may have: plan limits.

/// Caps of one tenant; `None` is no cap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Live inboxes at one time, over all workspaces.
    pub inboxes: Option<u32>,
    /// Registered custom domains.
    pub domains: Option<u32>,
    /// Workspaces, the default one included.
    pub workspaces: Option<u32>,
}

/// Which cap was hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limited {
    /// [`Limits::inboxes`].
    Inboxes,
    /// [`Limits::domains`].
    Domains,
    /// Addresses of one inbox, the canonical one included.
    Addresses,
    /// [`Limits::workspaces`].
    Workspaces,
    /// Keys in force of one tenant, or of one workspace.
    Keys,
}

impl Limited {
    /// The name of the cap in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inboxes => "inboxes",
            Self::Domains => "domains",
            Self::Addresses => "addresses",
            Self::Workspaces => "workspaces",
            Self::Keys => "keys",
        }
    }
}
