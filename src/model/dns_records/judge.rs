//! Answers of DNS held against what is wanted: whether a record does its work, and why not, in the words of whoever has
//! to mend it.

use super::{
    super::{address::DomainName, dkim::PublicKey, domain::RecordStatus},
    parse::{DkimRecord, DmarcRecord, spf_terms},
};

/// Characters of somebody's record that are shown.
const SHOWN_MAX_CHARS: usize = 60;

/// What DNS answers when it is asked for records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer<T> {
    /// These; at least one.
    Records(Vec<T>),
    /// There are none of this type, or there is no such name.
    Nothing,
    /// It did not say: why.
    Failed(String),
}

/// An MX record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mx {
    /// The lower, the sooner it is tried.
    pub preference: u16,
    /// The host, lower case, without the last dot; empty: a null MX (RFC 7505).
    pub exchange: String,
    /// Whether the host has all of our host's addresses and no other, whatever its name.
    pub is_ours_by_address: bool,
}

/// What evaluating a domain's SPF record says of our hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SpfVerdict {
    /// All of them may send.
    Pass,
    /// This one may not: its address, and the result in RFC 7208's words.
    Refused {
        /// The address.
        address: String,
        /// `fail`, `softfail`, `neutral`, `none` or `permerror`.
        result: String,
    },
    /// We have no address that could be looked for.
    NoAddress,
    /// DNS did not say all that it takes.
    Failed(String),
}

/// Whether a record does its work, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// Whether.
    pub status: RecordStatus,
    /// Why.
    pub reason: String,
}

fn judged(status: RecordStatus, reason: impl Into<String>) -> Judgement {
    Judgement {
        status,
        reason: reason.into(),
    }
}

fn unknown(why: &str) -> Judgement {
    judged(RecordStatus::Unknown, format!("DNS did not answer: {why}"))
}

/// Somebody's text, short and without anything that a terminal would take for more.
fn shown(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(SHOWN_MAX_CHARS)
        .collect();
    let more = if text.chars().count() > SHOWN_MAX_CHARS {
        "..."
    } else {
        ""
    };
    format!("\"{plain}{more}\"")
}

/// The TXT record that proves who owns a domain.
pub fn ownership(value: &str, answer: &Answer<String>) -> Judgement {
    match answer {
        Answer::Failed(why) => unknown(why),
        Answer::Nothing => judged(RecordStatus::Missing, "there is no TXT record with this name yet"),
        Answer::Records(texts) if texts.iter().any(|text| text.trim() == value) => {
            judged(RecordStatus::Verified, "the challenge is published")
        }
        Answer::Records(texts) => {
            let found = shown(&texts[0]);
            if texts.iter().any(|text| text.trim().starts_with("inboxd-verify=")) {
                judged(
                    RecordStatus::Wrong,
                    format!("there is another challenge, {found}: perhaps that of an earlier registration"),
                )
            } else {
                judged(
                    RecordStatus::Missing,
                    format!(
                        "the name answers with {found}, perhaps from a wildcard record; add one of this name"
                    ),
                )
            }
        }
    }
}

/// The MX records of a domain.
pub fn mx(host: &str, answer: &Answer<Mx>) -> Judgement {
    let records = match answer {
        Answer::Failed(why) => return unknown(why),
        Answer::Nothing => return judged(RecordStatus::Missing, "the domain has no MX record"),
        Answer::Records(records) => records,
    };
    if records.iter().any(|mx| mx.exchange.is_empty()) {
        return judged(
            RecordStatus::Wrong,
            "there is a null MX (\"0 .\"), which says that the domain takes no mail; remove it",
        );
    }
    let is_ours = |mx: &&Mx| mx.exchange == host || mx.is_ours_by_address;
    let best = records.iter().map(|mx| mx.preference).min().unwrap_or_default();
    let Some(ours) = records.iter().filter(is_ours).min_by_key(|mx| mx.preference) else {
        let found: Vec<String> = records.iter().take(3).map(|mx| shown(&mx.exchange)).collect();
        return judged(
            RecordStatus::Wrong,
            format!("mail goes to {} and not to {host}", found.join(", ")),
        );
    };
    if ours.preference > best {
        let first = records.iter().find(|mx| mx.preference == best);
        let first = first.map_or_else(String::new, |mx| shown(&mx.exchange));
        return judged(
            RecordStatus::Wrong,
            format!("{first} is preferred, so mail goes there first; give {host} the lowest number"),
        );
    }
    let others = records.iter().filter(|mx| !is_ours(mx)).count();
    if others > 0 {
        judged(
            RecordStatus::Verified,
            format!("mail comes here; {others} other host(s) stand beside or behind {host}"),
        )
    } else {
        judged(RecordStatus::Verified, "mail comes here")
    }
}

/// Which text of a domain's TXT records is its SPF record; a judgement where that says enough.
pub fn spf_record(answer: &Answer<String>) -> Result<Vec<String>, Judgement> {
    let texts = match answer {
        Answer::Failed(why) => return Err(unknown(why)),
        Answer::Nothing => return Err(judged(RecordStatus::Missing, "the domain has no SPF record")),
        Answer::Records(texts) => texts,
    };
    let mut found = texts.iter().filter_map(|text| spf_terms(text));
    match (found.next(), found.count()) {
        (None, _) => Err(judged(
            RecordStatus::Missing,
            "the domain has TXT records, but no SPF record (\"v=spf1 ...\") among them",
        )),
        (Some(terms), 0) => Ok(terms),
        (Some(_), more) => Err(judged(
            RecordStatus::Wrong,
            format!(
                "there are {} SPF records, which others take for none (RFC 7208, 4.5); make one of them",
                more + 1
            ),
        )),
    }
}

/// The SPF record of a domain, of which the terms are known.
pub fn spf(wanted: &super::SpfTerms, terms: &[String], verdict: &SpfVerdict) -> Judgement {
    let allows_all = terms.iter().any(|term| matches!(term.as_str(), "all" | "+all"));
    if allows_all {
        return judged(
            RecordStatus::Wrong,
            "the record ends in \"+all\", which lets everybody send mail of the domain; use \"~all\" or \"-all\"",
        );
    }
    if let Some(term) = terms.iter().find(|term| !is_spf_term(term)) {
        return judged(
            RecordStatus::Wrong,
            format!(
                "the SPF record holds {}, which is no mechanism, so that others take it for none (RFC 7208, 4.6)",
                shown(term)
            ),
        );
    }
    match verdict {
        SpfVerdict::Pass => judged(RecordStatus::Verified, "the SPF record lets this server send"),
        SpfVerdict::Failed(why) => unknown(why),
        SpfVerdict::Refused { address, result } => judged(
            RecordStatus::Wrong,
            format!(
                "the SPF record says {result} for this server's address {address}; add \"{}\" before \"all\"",
                wanted.as_str()
            ),
        ),
        SpfVerdict::NoAddress => {
            let missing = wanted
                .as_str()
                .split(' ')
                .find(|term| !terms.iter().any(|have| have.trim_start_matches('+') == *term));
            match missing {
                None => judged(RecordStatus::Verified, "the SPF record has what it should have"),
                Some(term) => judged(
                    RecordStatus::Wrong,
                    format!("the SPF record lacks \"{term}\"; add it before \"all\""),
                ),
            }
        }
    }
}

/// Whether a term is a mechanism or a modifier (RFC 7208, 4.6.1). Modifiers that nobody knows are ignored.
fn is_spf_term(term: &str) -> bool {
    const MECHANISMS: [&str; 8] = ["all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"];
    let end = term.find([':', '/', '=']).unwrap_or(term.len());
    let name = term[..end].trim_start_matches(['+', '-', '?', '~']);
    term[end..].starts_with('=') || MECHANISMS.contains(&name)
}

/// The record of a key.
pub fn dkim(key: &PublicKey, answer: &Answer<String>) -> Judgement {
    let texts = match answer {
        Answer::Failed(why) => return unknown(why),
        Answer::Nothing => {
            return judged(
                RecordStatus::Missing,
                "there is no TXT record with this name yet, nor a CNAME that leads to one",
            );
        }
        Answer::Records(texts) => texts,
    };
    let mut found = texts.iter().filter_map(|text| DkimRecord::parse(text));
    let (record, more) = (found.next(), found.count());
    let record = match record {
        None => {
            return judged(
                RecordStatus::Missing,
                format!(
                    "the name answers with {}, perhaps from a wildcard record, and not with a DKIM key",
                    shown(&texts[0])
                ),
            );
        }
        Some(_) if more > 0 => {
            return judged(
                RecordStatus::Wrong,
                format!(
                    "there are {} DKIM records with this name, of which others may take any; leave one",
                    more + 1
                ),
            );
        }
        Some(Err(rule)) => {
            return judged(RecordStatus::Wrong, format!("the record cannot be read: {rule}"));
        }
        Some(Ok(record)) => record,
    };
    if record.public.is_empty() {
        return judged(
            RecordStatus::Wrong,
            "the record revokes the key (\"p=\" is empty): signatures are refused",
        );
    }
    if record.key_type != key.algorithm.key_type() || record.public != key.octets {
        return judged(
            RecordStatus::Wrong,
            "the record holds another key; copy the whole value, and mind that the form does not cut it off",
        );
    }
    if record.is_testing {
        judged(
            RecordStatus::Verified,
            "the key is published, but \"t=y\" asks others to take signatures for tests",
        )
    } else {
        judged(RecordStatus::Verified, "the key is published")
    }
}

/// The DMARC record of a domain, or of the domain above it that speaks for it (RFC 7489, 6.6.3).
pub fn dmarc(answer: &Answer<String>, above: Option<(&DomainName, &Answer<String>)>) -> Judgement {
    match (dmarc_of(answer), above) {
        (Ok(Some(record)), _) => judged(
            RecordStatus::Verified,
            format!("the policy is \"{}\"", record.policy),
        ),
        (Err(judgement), _) => judgement,
        (Ok(None), None) => judged(RecordStatus::Missing, "there is no DMARC record"),
        (Ok(None), Some((name, answer))) => match dmarc_of(answer) {
            Ok(Some(record)) => {
                let policy = record.subdomain_policy.unwrap_or(record.policy);
                judged(
                    RecordStatus::Verified,
                    format!("the record of {name} speaks for this domain: the policy is \"{policy}\""),
                )
            }
            Ok(None) | Err(_) => judged(
                RecordStatus::Missing,
                format!("there is no DMARC record, and {name} has none that speaks for this domain"),
            ),
        },
    }
}

fn dmarc_of(answer: &Answer<String>) -> Result<Option<DmarcRecord>, Judgement> {
    let texts = match answer {
        Answer::Failed(why) => return Err(unknown(why)),
        Answer::Nothing => return Ok(None),
        Answer::Records(texts) => texts,
    };
    let mut found = texts.iter().filter_map(|text| DmarcRecord::parse(text));
    match (found.next(), found.count()) {
        (None, _) => Ok(None),
        (Some(Ok(record)), 0) => Ok(Some(record)),
        (Some(Err(rule)), 0) => Err(judged(
            RecordStatus::Wrong,
            format!("the record cannot be read: {rule}"),
        )),
        (Some(_), more) => Err(judged(
            RecordStatus::Wrong,
            format!(
                "there are {} DMARC records, which others take for none (RFC 7489, 6.6.3); leave one",
                more + 1
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{RecordStatus::*, *};
    use crate::model::{
        dkim::{Algorithm, Selector},
        dns_records::{SpfTerms, dkim_value},
    };

    fn texts(texts: &[&str]) -> Answer<String> {
        Answer::Records(texts.iter().map(|&text| text.to_owned()).collect())
    }

    fn key() -> PublicKey {
        PublicKey {
            selector: Selector::parse("s1").unwrap(),
            algorithm: Algorithm::RsaSha256,
            octets: vec![7; 300],
        }
    }

    #[test]
    fn the_challenge_may_stand_beside_others() {
        let value = "inboxd-verify=abc";
        for (answer, status) in [
            (texts(&["x", "inboxd-verify=abc"]), Verified),
            (texts(&["inboxd-verify=abc "]), Verified),
            (texts(&["inboxd-verify=old"]), Wrong),
            (texts(&["v=spf1 -all"]), Missing),
            (Answer::Nothing, Missing),
            (Answer::Failed("timed out".into()), Unknown),
        ] {
            assert_eq!(ownership(value, &answer).status, status, "{answer:?}");
        }
    }

    #[test]
    fn mail_must_come_here_first() {
        let at = |preference, exchange: &str| Mx {
            preference,
            exchange: exchange.to_owned(),
            is_ours_by_address: exchange == "alias.example",
        };
        for (records, status) in [
            (vec![at(10, "mx.example")], Verified),
            (vec![at(10, "alias.example")], Verified),
            (vec![at(10, "mx.example"), at(20, "backup.example")], Verified),
            (vec![at(10, "mx.example"), at(10, "other.example")], Verified),
            (vec![at(5, "other.example"), at(10, "mx.example")], Wrong),
            (vec![at(10, "other.example")], Wrong),
            (vec![at(0, "")], Wrong),
        ] {
            let judgement = mx("mx.example", &Answer::Records(records.clone()));
            assert_eq!(judgement.status, status, "{records:?}");
        }
        assert_eq!(mx("mx.example", &Answer::Nothing).status, Missing);
        assert_eq!(mx("mx.example", &Answer::Failed(String::new())).status, Unknown);
    }

    #[test]
    fn one_spf_record_must_let_us_send() {
        let wanted = SpfTerms::parse("mx a:mail.example").unwrap();
        let refused = |found: &Answer<String>| spf_record(found).unwrap_err().status;
        assert_eq!(refused(&texts(&["v=spf1 mx -all", "v=spf1 a -all"])), Wrong);
        assert_eq!(refused(&texts(&["hello"])), Missing);
        assert_eq!(refused(&Answer::Nothing), Missing);
        let terms = spf_record(&texts(&["hello", "v=spf1 +mx A:mail.example -all"])).unwrap();
        let refusal = SpfVerdict::Refused {
            address: "192.0.2.1".into(),
            result: "softfail".into(),
        };
        for (verdict, status) in [
            (SpfVerdict::Pass, Verified),
            (SpfVerdict::NoAddress, Verified),
            (refusal, Wrong),
            (SpfVerdict::Failed("x".into()), Unknown),
        ] {
            assert_eq!(spf(&wanted, &terms, &verdict).status, status, "{verdict:?}");
        }
        let other = spf_record(&texts(&["v=spf1 mx ?all"])).unwrap();
        assert_eq!(spf(&wanted, &other, &SpfVerdict::NoAddress).status, Wrong);
        let open = spf_record(&texts(&["v=spf1 mx +all"])).unwrap();
        assert_eq!(spf(&wanted, &open, &SpfVerdict::Pass).status, Wrong);
    }

    #[test]
    fn the_record_of_a_key_must_hold_that_key() {
        let (value, mut other) = (dkim_value(&key()), key());
        other.octets[9] = 8;
        for (found, status) in [
            (texts(&[&value]), Verified),
            (texts(&[&format!("{value};t=y")]), Verified),
            (texts(&["v=spf1 -all", &value]), Verified),
            (texts(&["v=spf1 -all"]), Missing),
            (texts(&[&value, &value]), Wrong),
            (texts(&[&dkim_value(&other)]), Wrong),
            (texts(&[&value[..200]]), Wrong),
            (texts(&["v=DKIM1; p="]), Wrong),
            (texts(&[&value.replace("k=rsa", "k=ed25519")]), Wrong),
            (Answer::Nothing, Missing),
            (Answer::Failed(String::new()), Unknown),
        ] {
            assert_eq!(dkim(&key(), &found).status, status, "{found:?}");
        }
    }

    #[test]
    fn a_domain_above_may_speak_for_one_below() {
        let above = DomainName::parse("example.com").unwrap();
        let policy = texts(&["v=DMARC1; p=reject; sp=quarantine"]);
        assert_eq!(dmarc(&texts(&["v=DMARC1; p=none"]), None).status, Verified);
        let inherited = dmarc(&Answer::Nothing, Some((&above, &policy)));
        assert_eq!(inherited.status, Verified);
        assert!(inherited.reason.contains("quarantine"), "{inherited:?}");
        assert_eq!(dmarc(&Answer::Nothing, None).status, Missing);
        assert_eq!(
            dmarc(&Answer::Nothing, Some((&above, &Answer::Nothing))).status,
            Missing
        );
        let two = texts(&["v=DMARC1; p=none", "v=DMARC1; p=reject"]);
        assert_eq!(dmarc(&two, Some((&above, &policy))).status, Wrong);
        assert_eq!(dmarc(&texts(&["v=DMARC1; p=x"]), None).status, Wrong);
    }

    #[test]
    fn what_somebody_published_is_shown_short_and_plain() {
        let reason = ownership("x", &texts(&[&format!("\u{1b}[31m{}", "a".repeat(500))])).reason;
        assert!(!reason.contains('\u{1b}') && reason.len() < 300, "{reason}");
    }
}
