//! The SPF record of a domain, held against RFC 7208 and against the hosts that send its mail.

use std::net::IpAddr;

use super::{
    super::{SpfTerms, Wanted},
    Answer, Judgement, RecordStatus, judged, kept_signs, shown, unknown,
};
use crate::model::spf::{
    Directive, Fault, FaultKind, LOOKUPS_MAX, MX_HOSTS_MAX, Mechanism, Record, VOID_LOOKUPS_MAX, Verdict,
    is_record,
};

/// Names that a reason lists.
const NAMES_SHOWN_MAX: usize = 3;

/// Which of a domain's TXT records is its SPF record; a judgement where that says enough.
pub fn record(answer: &Answer<String>) -> Result<Record, Judgement> {
    let texts = match answer {
        Answer::Failed(why) => return Err(unknown(why)),
        Answer::Nothing => return Err(judged(RecordStatus::Missing, "the domain has no SPF record")),
        Answer::Records(texts) => texts,
    };
    let found: Vec<&String> = texts.iter().filter(|text| is_record(text.as_bytes())).collect();
    let text = match found[..] {
        [] => {
            let kept = texts
                .iter()
                .find_map(|text| kept_signs(text, |text| is_record(text.as_bytes())));
            let reason = kept.unwrap_or_else(|| {
                "the domain has TXT records, but no SPF record (\"v=spf1 ...\") among them".to_owned()
            });
            return Err(judged(RecordStatus::Missing, reason));
        }
        [text] => text,
        _ => {
            return Err(judged(
                RecordStatus::Wrong,
                format!(
                    "there are {} SPF records, which others take for an error (RFC 7208, 4.5); make one of them",
                    found.len()
                ),
            ));
        }
    };
    let record = Record::parse(text.as_bytes()).map_err(|error| {
        judged(
            RecordStatus::Wrong,
            format!("in the SPF record, {error}; others take the whole record for an error (RFC 7208, 4.6)"),
        )
    })?;
    if record.passes_all_hosts() {
        return Err(judged(
            RecordStatus::Wrong,
            "the record ends in \"+all\", which lets everybody send mail of the domain; use \"~all\" or \"-all\"",
        ));
    }
    Ok(record)
}

/// Where every address of ours may send.
pub fn passed() -> Judgement {
    judged(RecordStatus::Verified, "the SPF record lets this server send")
}

/// Where our host has no address in DNS for which a record could be evaluated: it must hold the terms themselves.
pub fn without_address(wanted: &SpfTerms, record: &Record) -> Judgement {
    let reached = before(record, |directive| directive.mechanism == Mechanism::All);
    let missing = wanted
        .directives()
        .iter()
        .find(|wanted| !reached.iter().any(|have| is_same(have, wanted)));
    match missing {
        None => judged(RecordStatus::Verified, "the SPF record has what it should have"),
        Some(term) => judged(
            RecordStatus::Wrong,
            format!("the SPF record lacks \"{}\"; add it before \"all\"", term.text),
        ),
    }
}

/// A record with the wanted terms in front of the one that decided. `None`: that would not help, because the record
/// cannot be evaluated, or DNS did not answer.
pub fn amended(record: &Record, wanted: &SpfTerms, verdict: &Verdict) -> Option<Record> {
    let Verdict::Decided { by, .. } = verdict else {
        return None;
    };
    let at = deciding(record, by.as_deref());
    let mut amended = record.clone();
    amended
        .directives
        .splice(at..at, wanted.directives().iter().cloned());
    Some(amended)
}

/// Where one of our addresses may not send. `after` is what the [`amended`] record says of that; none: it lets us send.
pub fn refused(
    wanted: &Wanted,
    record: &Record,
    address: IpAddr,
    verdict: &Verdict,
    after: Option<&Verdict>,
) -> Judgement {
    let reason = match verdict {
        Verdict::TempError(why) => return unknown(why),
        Verdict::PermError(fault) => explained(fault, wanted.domain.as_str()),
        Verdict::None => "the domain has no SPF record".to_owned(),
        Verdict::Decided { qualifier, by } => {
            let by = by.as_deref();
            let because = by.map_or_else(
                || "no term matches".to_owned(),
                |term| format!("by {}", shown(term)),
            );
            let result = qualifier.as_str();
            let advice = advice(wanted, record, by, after);
            format!("the SPF record says {result} for this server's address {address} ({because}); {advice}")
        }
    };
    judged(RecordStatus::Wrong, reason)
}

/// What to do about a record of which another term, or none, decided.
fn advice(wanted: &Wanted, record: &Record, by: Option<&str>, after: Option<&Verdict>) -> String {
    let terms = shown(wanted.spf.as_str());
    let has_all = |directives: &[Directive]| {
        let wanted = wanted.spf.directives();
        wanted
            .iter()
            .all(|wanted| directives.iter().any(|have| is_same(have, wanted)))
    };
    let (reached, behind) = record.directives.split_at(deciding(record, by));
    let place = by.map_or_else(
        || "at its end".to_owned(),
        |term| format!("before {}", shown(term)),
    );
    match after {
        Some(Verdict::PermError(fault)) => format!(
            "adding {terms} would not help: then {}",
            explained(fault, wanted.domain.as_str())
        ),
        Some(Verdict::Decided { .. }) => {
            let is_mx = |directive: &Directive| matches!(directive.mechanism, Mechanism::Mx(None, _));
            let who = if wanted.spf.directives().iter().any(is_mx) {
                format!("the domain's MX record has to name {} first", wanted.mx_host)
            } else {
                "what it names has to have this server's address first".to_owned()
            };
            if has_all(reached) {
                format!("{terms} is in it, but does not stand for this address: {who}")
            } else {
                format!(
                    "adding {terms} would not help yet, because it does not stand for this address: {who}"
                )
            }
        }
        _ if has_all(behind) => format!("{terms} stands where it is never reached: move it {place}"),
        _ => format!("add {terms} {place}"),
    }
}

/// Where the term stands that decided; the end, if it is no mechanism of the record.
fn deciding(record: &Record, by: Option<&str>) -> usize {
    let found = record
        .directives
        .iter()
        .position(|directive| Some(directive.text.as_str()) == by);
    found.unwrap_or(record.directives.len())
}

fn before(record: &Record, is_last: impl Fn(&Directive) -> bool) -> &[Directive] {
    let end = record.directives.iter().position(is_last);
    &record.directives[..end.unwrap_or(record.directives.len())]
}

/// Whether two directives mean the same, however they are written.
fn is_same(one: &Directive, other: &Directive) -> bool {
    one.mechanism == other.mechanism && one.qualifier == other.qualifier
}

/// Why others take a record for an error, and what to do.
fn explained(fault: &Fault, domain: &str) -> String {
    let whose = if fault.domain.eq_ignore_ascii_case(domain) {
        "the SPF record".to_owned()
    } else {
        format!(
            "the SPF record of {}, to which this one leads,",
            shown(&fault.domain)
        )
    };
    match &fault.kind {
        FaultKind::Syntax(error) => format!("{whose} is an error for others (RFC 7208, 4.6): {error}"),
        FaultKind::SeveralRecords(count) => {
            format!("{whose} is one of {count}, which others take for an error (RFC 7208, 4.5)")
        }
        FaultKind::Lookups { term } => format!(
            "evaluating the SPF record takes more than ten look-ups, which others take for an error (RFC 7208, 4.6.4; the limit is \
             {LOOKUPS_MAX}, and {} in the record of {} is beyond it): take includes out, or put addresses in their place",
            shown(term),
            shown(&fault.domain)
        ),
        FaultKind::VoidLookups(names) => {
            let names: Vec<String> = names
                .iter()
                .take(NAMES_SHOWN_MAX)
                .map(|name| shown(name))
                .collect();
            format!(
                "more than {VOID_LOOKUPS_MAX} look-ups of the SPF record find nothing, which others take for an error (RFC 7208, \
                 4.6.4): take out the terms that lead to {}",
                names.join(", ")
            )
        }
        FaultKind::MxHosts { term } => format!(
            "{} in {whose} stands for more than {MX_HOSTS_MAX} hosts, which others take for an error (RFC 7208, 4.6.4)",
            shown(term)
        ),
        FaultKind::NoRecord { term } => format!(
            "{} in {whose} leads to a domain without an SPF record, which others take for an error (RFC 7208, 5.2 and 6.1): take it out",
            shown(term)
        ),
    }
}
