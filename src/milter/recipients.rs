//! One copy a mailbox: of several recipients of one transaction that are names of one mailbox, the first one stays.

use std::collections::{BTreeMap, BTreeSet};

use miltr_common::modifications::recipients::DeleteRecipient;

use crate::{
    maps::{self, LookUps},
    model::address::Address,
};

/// What stands between an address and its detail: `recipient_delimiter` of our Postfix.
const DETAIL_DELIMITER: char = '+';
/// Names that must reach a person at every domain (RFC 5321, 4.5.1; RFC 2142).
const POSTMASTERS: [&str; 2] = ["postmaster", "abuse"];

/// The recipients of one transaction, as the client has given them.
#[derive(Clone, Debug, Default)]
pub struct Recipients(Vec<String>);

impl Recipients {
    /// Takes the next one: what stands behind `RCPT TO:`, with its angle brackets.
    pub fn add(&mut self, path: &str) {
        self.0.push(path.to_owned());
    }

    /// Forgets them, for the next transaction.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether all of them are postmaster or abuse, at whatever domain.
    pub fn are_postmasters(&self) -> bool {
        self.0.iter().all(|path| {
            let address = without_detail(&normal(path));
            let name = address.rsplit_once('@').map_or(&*address, |(name, _)| name);
            POSTMASTERS.contains(&name)
        })
    }

    /// The mailboxes that they are names of. Blocks on files.
    pub fn mailboxes(&self, maps: &LookUps) -> Result<BTreeSet<Address>, maps::Error> {
        let mut mailboxes = BTreeSet::new();
        for path in &self.0 {
            mailboxes.extend(maps.mailbox_of(&without_detail(&normal(path)))?);
        }
        Ok(mailboxes)
    }

    /// What deletes all but the first recipient of each mailbox. Blocks on files.
    pub fn repeated(&self, maps: &LookUps) -> Result<Vec<DeleteRecipient>, maps::Error> {
        if self.0.len() < 2 {
            return Ok(Vec::new());
        }
        let mut kept: BTreeMap<Address, String> = BTreeMap::new();
        let mut repeated = Vec::new();
        for path in &self.0 {
            let address = normal(path);
            let Some(mailbox) = maps.mailbox_of(&without_detail(&address))? else {
                continue;
            };
            match kept.get(&mailbox) {
                None => {
                    kept.insert(mailbox, address);
                }
                // Postfix deletes by what the text means, which would be both; it delivers one of them anyway.
                Some(first) if *first == address => {}
                Some(_) => repeated.push(DeleteRecipient::new(path.as_bytes())),
            }
        }
        Ok(repeated)
    }
}

/// The address of a path as Postfix understands it: without brackets and quotes, in lower case.
fn normal(path: &str) -> String {
    let bare = path.trim().trim_start_matches('<').trim_end_matches('>');
    let address = bare.to_ascii_lowercase();
    match address.rsplit_once('@') {
        Some((local, domain)) => format!("{}@{}", unquoted(local), domain.trim_end_matches('.')),
        None => address,
    }
}

/// An address as the tables hold it.
fn without_detail(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((local, domain)) => {
            let (name, _) = local.split_once(DETAIL_DELIMITER).unwrap_or((local, ""));
            format!("{name}@{domain}")
        }
        None => address.to_owned(),
    }
}

/// What a local part in quotes stands for (RFC 5321, 4.1.2).
fn unquoted(local: &str) -> String {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return local.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_case_and_detail_make_no_other_address() {
        for path in [
            "<scout@a.test>",
            "scout@a.test",
            "<Scout+x+y@A.test>",
            " <scout+@a.test> ",
            "<\"scout\"@a.test.>",
            "<\"s\\cout+x\"@a.test>",
        ] {
            assert_eq!(without_detail(&normal(path)), "scout@a.test", "{path:?}");
        }
        assert_eq!(without_detail(&normal("<Postmaster>")), "postmaster");
    }

    #[test]
    fn postmasters_are_known_by_name() {
        let given = |paths: &[&str]| Recipients(paths.iter().map(|path| (*path).to_owned()).collect());
        assert!(given(&["<Postmaster>"]).are_postmasters());
        assert!(given(&["<postmaster@a.test>", "<ABUSE+x@b.test>"]).are_postmasters());
        for others in [&["<scout@a.test>"][..], &["<abuse@a.test>", "<scout@a.test>"]] {
            assert!(!given(others).are_postmasters());
        }
    }
}
