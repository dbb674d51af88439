//! A mailbox as one line of a passwd-file (Dovecot's passwd-file passdb and userdb).

use std::path::PathBuf;

use crate::model::{
    address::Address,
    maps::{Login, Mailbox},
};

/// A password field that no password matches; the Lua passdb answers "disabled" for it.
const LOCKED: &str = "*";

/// Where mail lies and whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailHome {
    /// The folder that holds one folder an inbox, named by its id.
    pub root: PathBuf,
    /// Owner of the mail.
    pub uid: u32,
    /// Group of the mail.
    pub gid: u32,
}

/// `address:password:uid:gid:SASL name:home::extra fields`, with a line end. The SASL name has the place of the GECOS field,
/// which Dovecot does not use.
///
/// No field needs escaping: every value is of a type that excludes `:`, white space and control characters, and
/// the configuration refuses a mail root that holds them.
pub fn passwd_line(address: &Address, mailbox: &Mailbox, home: &MailHome) -> String {
    let password = match &mailbox.login {
        Login::Open(hash) => hash.as_str(),
        Login::Locked => LOCKED,
    };
    let (uid, gid, sasl_name) = (home.uid, home.gid, mailbox.sasl_name);
    let folder = home.root.join(mailbox.inbox().to_string());
    format!(
        "{address}:{password}:{uid}:{gid}:{sasl_name}:{}::\n",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{
        ids::InboxId,
        password::PasswordHash,
        sasl_name::{Generation, SaslName},
    };

    #[test]
    fn a_mailbox_is_one_line_of_a_passwd_file() {
        let address = Address::parse("scout@example.com").unwrap();
        let home = MailHome {
            root: "/var/vmail".into(),
            uid: 5000,
            gid: 5001,
        };
        let sasl_name = SaslName {
            inbox: InboxId(Uuid::from_u128(1)),
            generation: Generation::FIRST,
        };
        let open = Login::Open(PasswordHash::parse("{SHA512-CRYPT}$6$rounds=1000$salt$hash").unwrap());
        assert_eq!(
            passwd_line(
                &address,
                &Mailbox {
                    sasl_name,
                    login: open
                },
                &home
            ),
            "scout@example.com:{SHA512-CRYPT}$6$rounds=1000$salt$hash:5000:5001:\
             00000000-0000-0000-0000-000000000001.1:/var/vmail/00000000-0000-0000-0000-000000000001::\n"
        );
        assert_eq!(
            passwd_line(
                &address,
                &Mailbox {
                    sasl_name,
                    login: Login::Locked
                },
                &home
            ),
            "scout@example.com:*:5000:5001:00000000-0000-0000-0000-000000000001.1:\
             /var/vmail/00000000-0000-0000-0000-000000000001::\n"
        );
    }
}
