//! Lines of a passwd-file as Dovecot reads it (doc.dovecot.org, "Passwd-file"), as far as they can be imported: the
//! address and the password hash.

use super::{
    Refused,
    address::Address,
    password::PasswordHash,
    password_scheme::{self, Verification},
};

/// Octets of a line; nothing that can be imported needs more.
const LINE_MAX: usize = 4096;
/// Fields before the extra fields, which may hold colons themselves: user, password, uid, gid, gecos, home, shell.
const FIELDS_BEFORE_EXTRA: usize = 7;
/// Extra fields that keep somebody out. Nothing would keep him out of the inbox that is made of the line.
const RESTRICTIONS: [&str; 3] = ["allow_nets", "allow_real_nets", "nologin"];

/// A mailbox that another server knew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its address.
    pub address: Address,
    /// What its password is checked against.
    pub hash: PasswordHash,
    /// What the hash is, and what verifying a password against it costs.
    pub verification: Verification,
}

impl Entry {
    /// Fails for a hash that no password can have, or whose scheme Dovecot does not know.
    pub fn new(address: Address, hash: PasswordHash) -> Result<Self, Refused> {
        let verification = password_scheme::parse(hash.scheme(), hash.value())?;
        Ok(Self {
            address,
            hash,
            verification,
        })
    }
}

/// Parses one line: `address:{SCHEME}hash`, and whatever follows behind another colon. None for an empty line and for
/// a comment.
pub fn parse_line(line: &str) -> Result<Option<Entry>, Refused> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.len() > LINE_MAX {
        return Err(Refused::because(format!("must be at most {LINE_MAX} octets")));
    }
    let mut fields = line.splitn(FIELDS_BEFORE_EXTRA + 1, ':');
    let (Some(user), Some(password)) = (fields.next(), fields.next()) else {
        return Err(Refused::because("must be address:{SCHEME}hash"));
    };
    let address = Address::parse(user).map_err(|rule| Refused(format!("address: {rule}")))?;
    let hash = PasswordHash::parse(password).map_err(|rule| Refused(format!("password: {rule}")))?;
    let entry = Entry::new(address, hash)?;
    if let Some(extra) = fields.nth(FIELDS_BEFORE_EXTRA - 2)
        && let Some(restriction) = restriction_in(extra)
    {
        return Err(Refused::because(format!(
            "has the extra field {restriction}, which cannot be kept: leave the line out, or the field"
        )));
    }
    Ok(Some(entry))
}

/// The first of these `name=value` that keeps somebody out.
fn restriction_in(extra: &str) -> Option<&'static str> {
    extra.split_ascii_whitespace().find_map(|field| {
        let name = field.split('=').next()?;
        RESTRICTIONS
            .into_iter()
            .find(|restriction| name.eq_ignore_ascii_case(restriction))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::password_scheme::Cost;

    /// `doveadm pw -s SHA512-CRYPT -r 1000 -p secret`
    const HASH: &str = "{SHA512-CRYPT}$6$rounds=1000$LiU9L8qhroxaEySa$4XNFtUplpmpDptlMm/vxIY5zWp0b8vy89cfh1F7p.d0lHqrd9Z4THQhJQQZDGWiwnokMvQHqkY9PxteTsTGyC1";
    /// `doveadm pw -s SSHA -p secret`
    const SALTED: &str = "{SSHA}RGpkeqo0noabQWQWeDIjcnsbax8owzci";

    fn rule_of(line: &str) -> String {
        parse_line(line).expect_err(line).0
    }

    #[test]
    fn an_address_and_a_hash_are_taken_and_the_rest_is_not() {
        for line in [
            format!("scout@Example.com:{HASH}"),
            format!("scout@example.com:{HASH}\r"),
            format!("scout@example.com:{HASH}:5000:5000::/home/scout::userdb_mail=maildir:~/Maildir"),
        ] {
            let entry = parse_line(&line).unwrap().unwrap();
            assert_eq!(entry.address.to_string(), "scout@example.com");
            assert_eq!(entry.hash.as_str(), HASH);
            let Verification { cost, is_weak } = entry.verification;
            assert_eq!((cost, is_weak), (Some(Cost::Rounds(1000)), false));
        }
    }

    #[test]
    fn empty_lines_and_comments_are_passed_over() {
        for line in ["", "  ", "\r", "# scout@example.com:{SSHA}x"] {
            assert_eq!(parse_line(line), Ok(None));
        }
    }

    #[test]
    fn what_cannot_be_imported_is_refused() {
        for (line, rule) in [
            ("scout@example.com", "must be address:{SCHEME}hash"),
            ("scout:{SSHA}x", "address: must be local-part@domain"),
            (
                "scout@example.com:$6$salt$hash",
                "password: must be {SCHEME}value without ':' or white space",
            ),
            (
                "scout@example.com:",
                "password: must be {SCHEME}value without ':' or white space",
            ),
            (
                &format!("scout@example.com:{SALTED}:::::: userdb_a=b allow_nets=10.0.0.0/8"),
                "has the extra field allow_nets, which cannot be kept: leave the line out, or the field",
            ),
            (
                &format!("scout@example.com:{SALTED}::::::nologin"),
                "has the extra field nologin, which cannot be kept: leave the line out, or the field",
            ),
        ] {
            assert_eq!(rule_of(line), rule, "{line}");
        }
        let long = format!("scout@example.com:{{SSHA}}{}", "x".repeat(LINE_MAX));
        assert_eq!(rule_of(&long), "must be at most 4096 octets");
    }
}
