//! Lines of a passwd-file as Dovecot reads it (doc.dovecot.org, "Passwd-file"), as far as they can be imported: the
//! address and the password hash.

use super::{Refused, address::Address, password::PasswordHash};

/// Octets of a line; nothing that can be imported needs more.
const LINE_MAX: usize = 4096;
/// Fields before the extra fields, which may hold colons themselves: user, password, uid, gid, gecos, home, shell.
const FIELDS_BEFORE_EXTRA: usize = 7;
/// Schemes that hide the password (doveadm-pw(1)) and that Dovecot 2.3 and 2.4 take as they are.
const SCHEMES: [&str; 19] = [
    "ARGON2I",
    "ARGON2ID",
    "BLF-CRYPT",
    "CRAM-MD5",
    "CRYPT",
    "DIGEST-MD5",
    "HMAC-MD5",
    "PBKDF2",
    "SCRAM-SHA-1",
    "SCRAM-SHA-256",
    "SHA",
    "SHA1",
    "SHA256",
    "SHA256-CRYPT",
    "SHA512",
    "SHA512-CRYPT",
    "SSHA",
    "SSHA256",
    "SSHA512",
];
/// Schemes that Dovecot 2.4 takes with `auth_allow_weak_schemes = yes` only.
const WEAK_SCHEMES: [&str; 7] = [
    "DES-CRYPT",
    "LDAP-MD5",
    "MD5",
    "MD5-CRYPT",
    "PLAIN-MD4",
    "PLAIN-MD5",
    "SMD5",
];
/// Schemes that are the password itself.
const CLEAR_SCHEMES: [&str; 4] = ["CLEAR", "CLEARTEXT", "PLAIN", "PLAIN-TRUNC"];
/// How the value is written may follow the scheme.
const ENCODINGS: [&str; 3] = [".B64", ".BASE64", ".HEX"];
/// Extra fields that keep somebody out. Nothing would keep him out of the inbox that is made of the line.
const RESTRICTIONS: [&str; 3] = ["allow_nets", "allow_real_nets", "nologin"];

/// A mailbox that another server knew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its address.
    pub address: Address,
    /// What its password is checked against.
    pub hash: PasswordHash,
    /// Whether Dovecot 2.4 takes such a hash only if it is told to.
    pub is_weak: bool,
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
    let is_weak = is_weak(hash.scheme())?;
    if let Some(extra) = fields.nth(FIELDS_BEFORE_EXTRA - 2)
        && let Some(restriction) = restriction_in(extra)
    {
        return Err(Refused::because(format!(
            "has the extra field {restriction}, which cannot be kept: leave the line out, or the field"
        )));
    }
    Ok(Some(Entry {
        address,
        hash,
        is_weak,
    }))
}

fn is_weak(scheme: &str) -> Result<bool, Refused> {
    let scheme = scheme.to_ascii_uppercase();
    let bare = ENCODINGS
        .iter()
        .find_map(|encoding| scheme.strip_suffix(encoding))
        .unwrap_or(&scheme);
    if SCHEMES.contains(&bare) {
        Ok(false)
    } else if WEAK_SCHEMES.contains(&bare) {
        Ok(true)
    } else if CLEAR_SCHEMES.contains(&bare) {
        Err(Refused::because(
            "password: must be hashed; `doveadm pw` makes a hash of it",
        ))
    } else {
        Err(Refused::because(
            "password: must have a scheme that Dovecot knows (doveadm pw -l)",
        ))
    }
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

    fn rule_of(line: &str) -> String {
        parse_line(line).expect_err(line).0
    }

    #[test]
    fn an_address_and_a_hash_are_taken_and_the_rest_is_not() {
        for line in [
            "scout@Example.com:{SHA512-CRYPT}$6$salt$hash",
            "scout@example.com:{SHA512-CRYPT}$6$salt$hash\r",
            "scout@example.com:{SHA512-CRYPT}$6$salt$hash:5000:5000::/home/scout::userdb_mail=maildir:~/Maildir",
        ] {
            let entry = parse_line(line).unwrap().unwrap();
            assert_eq!(entry.address.to_string(), "scout@example.com");
            assert_eq!(entry.hash.as_str(), "{SHA512-CRYPT}$6$salt$hash");
            assert!(!entry.is_weak);
        }
    }

    #[test]
    fn empty_lines_and_comments_are_passed_over() {
        for line in ["", "  ", "\r", "# scout@example.com:{SSHA}x"] {
            assert_eq!(parse_line(line), Ok(None));
        }
    }

    #[test]
    fn hashes_are_taken_in_any_scheme_that_hides_the_password() {
        for (scheme, is_weak) in [
            ("SSHA512", false),
            ("ssha256.hex", false),
            ("BLF-CRYPT", false),
            ("MD5-CRYPT", true),
            ("PLAIN-MD5.b64", true),
        ] {
            let entry = parse_line(&format!("a@example.com:{{{scheme}}}hash"))
                .unwrap()
                .unwrap();
            assert_eq!(entry.is_weak, is_weak, "{scheme}");
        }
        for scheme in ["PLAIN", "clear", "Cleartext.b64", "PLAIN-TRUNC"] {
            assert!(rule_of(&format!("a@example.com:{{{scheme}}}secret")).contains("hashed"));
        }
        assert!(rule_of("a@example.com:{SHA512CRYPT}$6$x").contains("doveadm pw -l"));
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
                "scout@example.com:{SSHA}x:::::: userdb_a=b allow_nets=10.0.0.0/8",
                "has the extra field allow_nets, which cannot be kept: leave the line out, or the field",
            ),
            (
                "scout@example.com:{SSHA}x::::::nologin",
                "has the extra field nologin, which cannot be kept: leave the line out, or the field",
            ),
        ] {
            assert_eq!(rule_of(line), rule, "{line}");
        }
        let long = format!("scout@example.com:{{SSHA}}{}", "x".repeat(LINE_MAX));
        assert_eq!(rule_of(&long), "must be at most 4096 octets");
    }
}
