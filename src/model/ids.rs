//! Identifiers, one type each, so that a workspace's cannot be passed for an inbox's.

use std::fmt;

use uuid::Uuid;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

identifier! {
    /// A tenant: the root that owns workspaces and carries limits.
    TenantId
}
identifier! {
    /// A workspace: the isolation container that owns inboxes.
    WorkspaceId
}
identifier! {
    /// An inbox. Its mail lies under this id, so a re-created address never shows old mail.
    InboxId
}
identifier! {
    /// A workspace's registration of a custom domain.
    DomainId
}
identifier! {
    /// A pair of keys that a domain's mail is signed with.
    DkimKeyId
}
identifier! {
    /// An API key.
    KeyId
}
