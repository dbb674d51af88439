//! What is true about tenants, inboxes and mail: types that cannot hold a wrong value, and pure decisions.
//!
//! No I/O, no async, no SQL. A value of one of these types has been checked; nothing downstream checks again.

pub mod address;
pub mod allocation;
pub mod api_key;
pub mod dkim;
pub mod dns_records;
pub mod domain;
pub mod ids;
pub mod inbox;
pub mod limits;
pub mod made;
pub mod maps;
pub mod metadata;
pub mod name_map;
pub mod names;
pub mod passwd_file;
pub mod password;
pub mod password_scheme;
pub mod sasl_name;
pub mod sealing;
pub mod session_share;
pub mod spf;
pub mod suffix;
pub mod tenant;
pub mod text_encoding;
pub mod verified_password;
pub mod workspace;

/// Why a value was refused: a sentence that says what is allowed, for the person who sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl Refused {
    pub(crate) fn because(rule: impl Into<String>) -> Self {
        Self(rule.into())
    }
}

/// Characters of a text from outside that a message shows.
const SHOWN_MAX_CHARS: usize = 60;

/// A text from outside in quotes: short, and without anything that a terminal would take for more.
fn shown(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(SHOWN_MAX_CHARS)
        .collect();
    let is_cut = text.chars().nth(SHOWN_MAX_CHARS).is_some();
    format!("\"{plain}{}\"", if is_cut { "..." } else { "" })
}
