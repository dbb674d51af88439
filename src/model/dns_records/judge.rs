//! Answers of DNS held against what is wanted: whether a record does its work, and why not, in the words of whoever has
//! to mend it.

pub mod spf;

use super::{
    super::{address::DomainName, dkim::PublicKey, domain::RecordStatus, shown},
    parse::{DkimRecord, DmarcRecord},
};

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

/// What is said where DNS did not answer.
pub fn unknown(why: &str) -> Judgement {
    judged(RecordStatus::Unknown, format!("DNS did not answer: {why}"))
}

/// Why a text does not count that would without the quotes and backslashes in it: people copy them out of a zone file into
/// a form that keeps them. `None`: that is not what is wrong with it.
fn kept_signs(text: &str, counts: impl Fn(&str) -> bool) -> Option<String> {
    let signs = match (text.contains('"'), text.contains('\\')) {
        (true, true) => "quotes and backslashes",
        (true, false) => "quotes",
        (false, true) => "backslashes",
        (false, false) => return None,
    };
    // `"one string" "and the next"`
    let joined = text.replace("\" \"", "").replace(['"', '\\'], "");
    counts(joined.trim()).then(|| {
        format!(
            "the TXT record holds {signs} as a part of its text, {}: they belong to zone files, and the form has kept them; \
             enter the value without them",
            shown(text)
        )
    })
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
            if let Some(reason) = texts
                .iter()
                .find_map(|text| kept_signs(text, |text| text == value))
            {
                judged(RecordStatus::Missing, reason)
            } else if texts.iter().any(|text| text.trim().starts_with("inboxd-verify=")) {
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
    let record = match &texts[..] {
        [text] => match DkimRecord::parse(text) {
            Some(Ok(record)) => record,
            Some(Err(rule)) => {
                let reason = kept_signs(text, |text| is_key(text, key));
                return judged(
                    RecordStatus::Wrong,
                    reason.unwrap_or_else(|| format!("the record cannot be read: {rule}")),
                );
            }
            None => return no_key(texts),
        },
        _ => return several_at_key(key, texts),
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

/// Whether a text is the record of a key.
fn is_key(text: &str, key: &PublicKey) -> bool {
    matches!(
        DkimRecord::parse(text),
        Some(Ok(record)) if record.key_type == key.algorithm.key_type() && record.public == key.octets
    )
}

/// Where no TXT record at the name of a key is a DKIM record.
fn no_key(texts: &[String]) -> Judgement {
    let is_record = |text: &str| DkimRecord::parse(text).is_some();
    let kept = texts.iter().find_map(|text| kept_signs(text, is_record));
    let reason = kept.unwrap_or_else(|| {
        format!(
            "the name answers with {}, perhaps from a wildcard record, and not with a DKIM key",
            shown(&texts[0])
        )
    });
    judged(RecordStatus::Missing, reason)
}

/// Where there are several TXT records at the name of a key. What others make of that is undefined (RFC 6376, 3.6.2.2): some
/// take the first, some refuse all.
fn several_at_key(key: &PublicKey, texts: &[String]) -> Judgement {
    let (keys, others): (Vec<&String>, Vec<&String>) =
        texts.iter().partition(|text| DkimRecord::parse(text).is_some());
    let is_cut = |one: &String, other: &String| {
        !is_key(one, key) && !is_key(other, key) && is_key(&format!("{one}{other}"), key)
    };
    let reason = match (&keys[..], &others[..]) {
        ([], _) => return no_key(texts),
        _ if matches!(texts, [one, other] if is_cut(one, other) || is_cut(other, one)) => {
            "the value is spread over two TXT records; it has to be one record, of several strings".to_owned()
        }
        ([_], [other, ..]) => format!(
            "beside the DKIM record stands another TXT record with this name, {}: which of them others take is undefined (RFC 6376, \
             3.6.2.2); leave the DKIM record alone there",
            shown(other)
        ),
        _ => format!(
            "there are {} DKIM records with this name, of which others may take any, or none (RFC 6376, 3.6.2.2); leave one",
            keys.len()
        ),
    };
    judged(RecordStatus::Wrong, reason)
}

/// The DMARC record of a domain, or of the domain above it that speaks for it (RFC 9989, 4.10.1).
pub fn dmarc(answer: &Answer<String>, above: Option<(&DomainName, &Answer<String>)>) -> Judgement {
    let own = match dmarc_of(answer) {
        Ok(Some(record)) => {
            let policy = policy_of(&record, record.policy.as_deref());
            return judged(RecordStatus::Verified, format!("the policy is {policy}"));
        }
        Ok(None) => no_dmarc(answer),
        Err(judgement) => return judgement,
    };
    let Some((name, answer)) = above else {
        return own;
    };
    match dmarc_of(answer) {
        Ok(Some(record)) => {
            let subdomains = record.subdomain_policy.as_deref();
            // Without a "p=", the whole record counts as one of "p=none".
            let policy = record
                .policy
                .as_deref()
                .map(|policy| subdomains.unwrap_or(policy));
            let policy = policy_of(&record, policy);
            judged(
                RecordStatus::Verified,
                format!("the record of {name} speaks for this domain: the policy is {policy}"),
            )
        }
        Ok(None) | Err(_) => judged(
            RecordStatus::Missing,
            format!("{}, and {name} has none that speaks for this domain", own.reason),
        ),
    }
}

fn policy_of(record: &DmarcRecord, policy: Option<&str>) -> String {
    match policy {
        None => "\"none\", because there is no \"p=\"; add it".to_owned(),
        Some(policy) if record.is_testing && policy != "none" => {
            format!("\"{policy}\", but \"t=y\" asks others to go one step below")
        }
        Some(policy) => format!("\"{policy}\""),
    }
}

/// Where no TXT record is a DMARC record: one may have been meant to be.
fn no_dmarc(answer: &Answer<String>) -> Judgement {
    let texts: &[String] = match answer {
        Answer::Records(texts) => texts,
        Answer::Nothing | Answer::Failed(_) => &[],
    };
    let is_record = |text: &str| DmarcRecord::parse(text).is_some();
    let kept = texts.iter().find_map(|text| kept_signs(text, is_record));
    let is_meant = |text: &&String| text.to_ascii_lowercase().contains("dmarc1");
    let reason = match (kept, texts.iter().find(is_meant)) {
        (Some(kept), _) => kept,
        (None, Some(text)) => format!(
            "{} is no DMARC record: it has to begin with \"v=DMARC1;\", in upper case (RFC 9989, 4.7)",
            shown(text)
        ),
        (None, None) => "there is no DMARC record".to_owned(),
    };
    judged(RecordStatus::Missing, reason)
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
            format!("the record cannot be used: {rule}"),
        )),
        (Some(_), more) => Err(judged(
            RecordStatus::Wrong,
            format!(
                "there are {} DMARC records, which others take for none (RFC 9989, 4.10); leave one",
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
        dns_records::dkim_value,
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
            (texts(&["\"inboxd-verify=abc\""]), Missing),
            (texts(&["v=spf1 -all"]), Missing),
            (Answer::Nothing, Missing),
            (Answer::Failed("timed out".into()), Unknown),
        ] {
            assert_eq!(ownership(value, &answer).status, status, "{answer:?}");
        }
        let quoted = ownership(value, &texts(&["x", "\"inboxd-verify=abc\""])).reason;
        assert!(quoted.contains("holds quotes"), "{quoted}");
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
    fn the_record_of_a_key_must_hold_that_key() {
        let (value, mut other) = (dkim_value(&key()), key());
        other.octets[9] = 8;
        for (found, status) in [
            (texts(&[&value]), Verified),
            (texts(&[&format!("{value};t=y")]), Verified),
            (texts(&["v=spf1 -all", &value]), Wrong),
            (texts(&[&value, "AQAB7mPqQIDAQAB"]), Wrong),
            (texts(&["AQAB7mPqQIDAQAB", &value]), Wrong),
            (texts(&[&value[..100], &value[100..]]), Wrong),
            (texts(&[&value[100..], &value[..100]]), Wrong),
            (texts(&["v=spf1 -all"]), Missing),
            (texts(&["v=spf1 -all", "hello"]), Missing),
            (texts(&[&format!("\"{value}\"")]), Missing),
            (texts(&[&value.replace(';', "\\;")]), Missing),
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
    fn the_reason_says_what_stands_in_the_way_of_a_key() {
        let value = dkim_value(&key());
        for (found, says) in [
            (
                texts(&[&value, "AQAB7mPqQIDAQAB"]),
                "another TXT record with this name, \"AQAB7mPqQIDAQAB\"",
            ),
            (texts(&["v=spf1 -all", &value]), "\"v=spf1 -all\""),
            (
                texts(&[&value[100..], &value[..100]]),
                "spread over two TXT records",
            ),
            (texts(&[&value, &value]), "2 DKIM records"),
            (texts(&["hello"]), "wildcard"),
            (texts(&["say \"hello\""]), "wildcard"),
            (
                texts(&[&format!("\"{value}\"")]),
                "holds quotes as a part of its text",
            ),
            (
                texts(&[&format!("\"{}\" \"{}\"", &value[..100], &value[100..])]),
                "holds quotes as",
            ),
            (texts(&[&value.replace(';', "\\;")]), "holds backslashes as"),
            (
                texts(&[&format!("\"{}\"", value.replace(';', "\\;"))]),
                "holds quotes and backslashes as",
            ),
            (texts(&[&value.replace("p=", "p=\"")]), "holds quotes as"),
        ] {
            let reason = dkim(&key(), &found).reason;
            assert!(reason.contains(says), "{found:?}: {reason}");
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
    fn policies_are_judged_as_others_take_them() {
        let above = DomainName::parse("example.com").unwrap();
        for (text, status, says) in [
            (
                "v=DMARC1; rua=mailto:x@example.com",
                Verified,
                "because there is no \"p=\"",
            ),
            ("v=DMARC1", Wrong, "there is no \"p=\""),
            (
                "v=DMARC1; x=1; rua=mailto:x@example.com; p=reject",
                Verified,
                "\"reject\"",
            ),
            ("v=DMARC1; p=reject; t=y", Verified, "one step below"),
            ("v=DMARC1; p=none; t=y", Verified, "the policy is \"none\""),
            ("v=DMARC1; p=reject; p=none", Wrong, "\"p\" is there twice"),
            ("v=DMARC1; p=reject; sp=all", Wrong, "\"sp=\" must be"),
            ("p=reject; v=DMARC1", Missing, "begin with \"v=DMARC1;\""),
            ("v=dmarc1; p=reject", Missing, "in upper case"),
            ("v=DMARC1 p=reject", Missing, "begin with \"v=DMARC1;\""),
            ("\"v=DMARC1; p=reject\"", Missing, "holds quotes"),
            ("v=DMARC1\\; p=reject", Missing, "holds backslashes"),
            ("hello", Missing, "there is no DMARC record"),
        ] {
            let found = dmarc(&texts(&[text]), None);
            assert!(
                found.status == status && found.reason.contains(says),
                "{text}: {found:?}"
            );
        }
        let inherited = |text: &str| dmarc(&Answer::Nothing, Some((&above, &texts(&[text]))));
        let of_none = inherited("v=DMARC1; sp=reject; rua=mailto:x@example.com");
        assert!(of_none.reason.contains("because there is no"), "{of_none:?}");
        assert_eq!(inherited("v=DMARC1; p=reject; sp=x").status, Missing);
    }

    #[test]
    fn what_somebody_published_is_shown_short_and_plain() {
        let reason = ownership("x", &texts(&[&format!("\u{1b}[31m{}", "a".repeat(500))])).reason;
        assert!(!reason.contains('\u{1b}') && reason.len() < 300, "{reason}");
    }
}
