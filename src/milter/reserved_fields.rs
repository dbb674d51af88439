//! Header fields that only this host writes: what a stranger or a login wrote into one of them is removed.

use std::collections::BTreeMap;

use miltr_common::modifications::headers::ChangeHeader;

use super::authentication_results::may_be_ours;

/// The verdicts on a message (RFC 8601).
pub const RESULTS_FIELD: &str = "Authentication-Results";
/// The verdict on its envelope sender (RFC 7208, 9.1).
pub const RECEIVED_SPF_FIELD: &str = "Received-SPF";
/// What has Sieve file a message to Junk.
pub const JUNK_FIELD: &str = "X-Inboxd-Junk";

/// The fields of one message that are to be removed.
#[derive(Debug)]
pub struct ReservedFields {
    host: String,
    /// How many fields of each of our names have come.
    seen: BTreeMap<&'static str, u32>,
    /// Name and number of those to be removed, in the order in which they came.
    found: Vec<(&'static str, u32)>,
}

impl ReservedFields {
    /// For a message that has no fields yet, at the host of this name (the authserv-id of RFC 8601, 2.5).
    pub fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            seen: BTreeMap::new(),
            found: Vec::new(),
        }
    }

    /// Forgets the message, for the next one.
    pub fn clear(&mut self) {
        self.seen.clear();
        self.found.clear();
    }

    /// Takes the next field of the message.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        let ours = [RESULTS_FIELD, RECEIVED_SPF_FIELD, JUNK_FIELD];
        let name = name.trim_ascii();
        let Some(name) = ours
            .into_iter()
            .find(|ours| name.eq_ignore_ascii_case(ours.as_bytes()))
        else {
            return;
        };
        let number = self.seen.entry(name).or_default();
        *number += 1;
        if name != RESULTS_FIELD || may_be_ours(value, &self.host) {
            self.found.push((name, *number));
        }
    }

    /// What removes them. The last ones first, because some servers count what is left, and others what there was.
    pub fn removals(&self) -> impl Iterator<Item = ChangeHeader> {
        let removal = |(name, number): &(&str, u32)| ChangeHeader::new(*number, name.as_bytes(), b"");
        self.found.iter().rev().map(removal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_by_name_and_removed_from_the_end() {
        let mut fields = ReservedFields::new("mail.t.test");
        for (name, value) in [
            ("Received", "from x"),
            ("authentication-results", "mx.example.org; spf=pass"),
            ("Authentication-Results ", "(c) mail.t.test; spf=pass"),
            ("received-spf", "pass"),
            ("X-INBOXD-JUNK", "no"),
            ("Authentication-Results", "mail.t.test; none"),
            ("ARC-Authentication-Results", "i=1; mail.t.test; none"),
            ("Subject", "mail.t.test"),
        ] {
            fields.field(name.as_bytes(), value.as_bytes());
        }
        let removed: Vec<(String, u32)> = fields
            .removals()
            .map(|change| (change.name().into_owned(), change.index()))
            .collect();
        let expected = [
            (RESULTS_FIELD, 3),
            (JUNK_FIELD, 1),
            (RECEIVED_SPF_FIELD, 1),
            (RESULTS_FIELD, 2),
        ];
        assert_eq!(removed, expected.map(|(name, number)| (name.to_owned(), number)));
        fields.clear();
        assert_eq!(fields.removals().count(), 0);
    }
}
