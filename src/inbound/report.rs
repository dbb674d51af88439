//! The header fields that say what was found out: Authentication-Results (RFC 8601) and Received-SPF (RFC 7208, 9.1).

use std::{fmt::Write as _, net::IpAddr};

use super::findings::{Findings, Outcome};

/// Characters of one value that are shown: a local part and a domain.
const VALUE_MAX_CHARS: usize = 320;

/// Where a message comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Envelope {
    /// None for a client that has no IP address.
    pub(super) client: Option<IpAddr>,
    /// What it called itself.
    pub(super) helo: String,
    /// Without angle brackets; empty for the null sender.
    pub(super) sender: String,
}

/// The value of Authentication-Results, folded as Postfix has it, with the space that it begins with.
pub(super) fn results(host: &str, envelope: &Envelope, findings: &Findings) -> String {
    let mut text = format!(" {host}");
    let identity = if envelope.sender.is_empty() {
        format!("smtp.helo={}", value(&envelope.helo))
    } else {
        format!("smtp.mailfrom={}", value(&envelope.sender))
    };
    push(&mut text, &format!("spf={} {identity}", findings.spf.outcome));
    for dkim in &findings.dkim {
        let reason = reason(dkim.reason.as_deref());
        let mut line = format!("dkim={}{reason}", dkim.outcome);
        for (property, text) in [("d", &dkim.domain), ("s", &dkim.selector), ("b", &dkim.beginning)] {
            if !text.is_empty() {
                let _ = write!(line, " header.{property}={}", value(text));
            }
        }
        push(&mut text, &line);
    }
    if findings.dkim.is_empty() {
        push(&mut text, "dkim=none");
    }
    for dmarc in &findings.dmarc {
        let wish = match dmarc.outcome {
            Outcome::None => String::new(),
            _ => format!(" (p={})", dmarc.wish),
        };
        let line = format!("dmarc={}{wish} header.from={}", dmarc.outcome, dmarc.domain);
        push(&mut text, &line);
    }
    if findings.dmarc.is_empty() {
        push(&mut text, "dmarc=none");
    }
    if findings.arc.outcome != Outcome::None {
        let sealer = findings.arc.sealer.as_deref();
        let sealer = sealer.map_or_else(String::new, |domain| format!(" (sealed by {})", comment(domain)));
        push(&mut text, &format!("arc={}{sealer}", findings.arc.outcome));
    }
    text
}

/// The value of Received-SPF, with the space that it begins with.
pub(super) fn received_spf(host: &str, envelope: &Envelope, findings: &Findings) -> String {
    let identity = if envelope.sender.is_empty() {
        "helo"
    } else {
        "mailfrom"
    };
    let mut text = format!(" {} identity={identity};", findings.spf.outcome);
    if let Some(client) = envelope.client {
        let _ = write!(text, " client-ip={client};");
    }
    let _ = write!(
        text,
        "\n\thelo={};\n\tenvelope-from={};\n\treceiver={host}",
        value(&envelope.helo),
        quoted(&envelope.sender)
    );
    text
}

fn push(text: &mut String, line: &str) {
    let _ = write!(text, ";\n\t{line}");
}

/// A value as it is (a token or an address), or else in quotes.
fn value(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._+@/:!#$%&*~^|".contains(c);
    if !text.is_empty() && text.len() <= VALUE_MAX_CHARS && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// A quoted string of printable ASCII.
fn quoted(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for c in text.chars().take(VALUE_MAX_CHARS) {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}

fn reason(text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!(" ({})", comment(text)))
}

/// What can stand in a comment.
fn comment(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || " -._,:'=".contains(c) {
            c
        } else {
            '?'
        }
    };
    text.chars().take(VALUE_MAX_CHARS).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inbound::findings::{Arc, Dkim, Dmarc, Spf, Wish},
        milter::authentication_results::AuthenticationResults,
        model::address::DomainName,
    };

    fn findings() -> Findings {
        Findings {
            spf: Spf {
                outcome: Outcome::SoftFail,
                domain: None,
            },
            dkim: vec![Dkim {
                outcome: Outcome::Fail,
                domain: "example.org".to_owned(),
                selector: "s1".to_owned(),
                beginning: "ab+/cd==".to_owned(),
                reason: Some("the body (all of it) was changed;\r\nX: y".to_owned()),
            }],
            dmarc: vec![Dmarc {
                outcome: Outcome::Fail,
                domain: DomainName::parse("example.org").unwrap(),
                wish: Wish::Reject,
            }],
            arc: Arc {
                outcome: Outcome::Pass,
                sealer: Some("list.test".to_owned()),
                vouched: Vec::new(),
            },
            own: Vec::new(),
        }
    }

    #[test]
    fn the_verdicts_are_said_in_the_form_of_rfc_8601() {
        let envelope = Envelope {
            client: Some("192.0.2.1".parse().unwrap()),
            helo: "mx.example.org".to_owned(),
            sender: "a+b@example.org".to_owned(),
        };
        assert_eq!(
            results("mail.t.test", &envelope, &findings()),
            " mail.t.test;\n\tspf=softfail smtp.mailfrom=a+b@example.org;\n\t\
             dkim=fail (the body ?all of it? was changed???X: y) header.d=example.org header.s=s1 \
             header.b=\"ab+/cd==\";\n\tdmarc=fail (p=reject) header.from=example.org;\n\tarc=pass (sealed by list.test)"
        );
        assert_eq!(
            received_spf("mail.t.test", &envelope, &findings()),
            " softfail identity=mailfrom; client-ip=192.0.2.1;\n\thelo=mx.example.org;\n\t\
             envelope-from=\"a+b@example.org\";\n\treceiver=mail.t.test"
        );
    }

    #[test]
    fn nothing_that_a_client_says_breaks_the_fields() {
        for hostile in [
            "x; dmarc=pass header.from=bank.test",
            "x\r\nX-Inboxd-Junk: no",
            "x\" ; spf=pass",
            "x\\",
            "(",
            "j\u{f6}rg@\u{202e}",
            &"x".repeat(100_000),
        ] {
            let envelope = Envelope {
                client: None,
                helo: hostile.to_owned(),
                sender: hostile.to_owned(),
            };
            let mut findings = findings();
            findings.dkim[0].domain = hostile.to_owned();
            findings.dkim[0].selector = hostile.to_owned();
            findings.arc.sealer = Some(hostile.to_owned());
            let text = results("mail.t.test", &envelope, &findings);
            let parsed = AuthenticationResults::parse(text.as_bytes()).unwrap();
            let said: Vec<(&str, &str)> = parsed
                .statements
                .iter()
                .map(|statement| (statement.method.as_str(), statement.result.as_str()))
                .collect();
            let expected = [
                ("spf", "softfail"),
                ("dkim", "fail"),
                ("dmarc", "fail"),
                ("arc", "pass"),
            ];
            assert_eq!(said, expected, "{hostile:?}");
            assert!(text.len() < 4_000 && text.is_ascii() && !text.contains('\r'));
            let spf = received_spf("mail.t.test", &envelope, &findings);
            assert!(spf.len() < 2_000 && spf.is_ascii() && spf.matches('\n').count() == 3);
        }
    }
}
