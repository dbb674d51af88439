//! Who may send from an address, as Postfix looks it up.

use super::{Error, Layout, Which};
use crate::model::address::Address;

/// The table of sender logins, opened for each look-up: what was published before it begins is found.
#[derive(Clone, Debug)]
pub struct SenderLogins {
    layout: Layout,
}

impl SenderLogins {
    /// The table in these maps.
    pub fn of(layout: &Layout) -> Self {
        Self {
            layout: layout.clone(),
        }
    }

    /// The login that may send from an address now. Blocks on files.
    pub fn of_address(&self, address: &Address) -> Result<Option<Address>, Error> {
        let value = self.layout.value(Which::SenderLogins, &address.to_string())?;
        // What is no address names no login.
        Ok(value.and_then(|login| Address::parse(&login).ok()))
    }
}
