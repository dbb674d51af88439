//! What was found out about a message, and what follows from it. Values only.

use std::fmt;

use crate::model::address::DomainName;

/// What is done with mail that fails the DMARC policy of its author's domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DmarcAction {
    /// It is delivered; its header says so.
    Report,
    /// It is filed to Junk, if the policy is `quarantine` or `reject`.
    #[default]
    Quarantine,
    /// It is refused if the policy is `reject`, and filed to Junk if that is `quarantine`.
    Reject,
}

/// What is done with mail that comes in the name of a domain that we serve and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OwnSenders {
    /// It is refused.
    #[default]
    Reject,
    /// It is filed to Junk.
    Quarantine,
    /// It is delivered, unless its domain's DMARC policy says otherwise.
    Accept,
}

/// What follows from the verdicts, as the operator has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// What is done with mail that fails DMARC.
    pub dmarc: DmarcAction,
    /// What is done with mail that only claims to be ours.
    pub own_senders: OwnSenders,
    /// Forwarders whose word about a message that they have changed is taken (RFC 8617).
    pub trusted_arc_sealers: Vec<DomainName>,
}

impl Policy {
    /// The policy for mail to postmaster and abuse alone: it is not refused, so that trouble with this host can
    /// be reported (RFC 5321, 4.5.1; RFC 2142).
    pub(super) fn for_postmaster(&self) -> Self {
        Self {
            dmarc: match self.dmarc {
                DmarcAction::Reject => DmarcAction::Quarantine,
                other => other,
            },
            own_senders: match self.own_senders {
                OwnSenders::Reject => OwnSenders::Quarantine,
                other => other,
            },
            trusted_arc_sealers: self.trusted_arc_sealers.clone(),
        }
    }
}

/// The result of a method (RFC 8601, 2.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Pass,
    Fail,
    SoftFail,
    Neutral,
    Policy,
    None,
    TempError,
    PermError,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::Neutral => "neutral",
            Self::Policy => "policy",
            Self::None => "none",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        })
    }
}

/// Whether the client may send for the domain of the envelope sender, or of HELO for the null sender (RFC 7208, 2.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Spf {
    pub(super) outcome: Outcome,
    /// Whose record it was.
    pub(super) domain: Option<DomainName>,
}

/// One signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dkim {
    pub(super) outcome: Outcome,
    pub(super) domain: String,
    pub(super) selector: String,
    /// How the signature begins, in base64: tells several apart (RFC 6008).
    pub(super) beginning: String,
    /// Why it is not `pass`.
    pub(super) reason: Option<String>,
}

/// What the domain of an author wishes to be done with mail that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    None,
    Quarantine,
    Reject,
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        })
    }
}

/// Whether the domain of an author vouches for the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dmarc {
    pub(super) outcome: Outcome,
    pub(super) domain: DomainName,
    pub(super) wish: Wish,
}

/// What forwarders say (RFC 8617).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Arc {
    pub(super) outcome: Outcome,
    /// The last one that sealed.
    pub(super) sealer: Option<String>,
    /// Domains of authors for which a trusted one saw DMARC pass.
    pub(super) vouched: Vec<DomainName>,
}

/// Whether a domain of ours vouches for a message that speaks in its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    Authenticated,
    /// DNS did not say.
    Unknown,
    Forged,
}

/// A domain of ours in whose name a message speaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Own {
    pub(super) domain: DomainName,
    pub(super) standing: Standing,
}

/// Everything that was found out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Findings {
    pub(super) spf: Spf,
    pub(super) dkim: Vec<Dkim>,
    pub(super) dmarc: Vec<Dmarc>,
    pub(super) arc: Arc,
    pub(super) own: Vec<Own>,
}

/// What is to be done with a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Deliver,
    /// With the reason.
    Junk(String),
    /// For ever, with the reason.
    Refuse(String),
    /// It is to be sent again later, with the reason.
    Defer(String),
}

impl Findings {
    /// What the operator's policy makes of them.
    pub(super) fn verdict(&self, policy: &Policy) -> Verdict {
        let mut junk = None;
        for Own { domain, standing } in &self.own {
            match (standing, policy.own_senders) {
                (Standing::Forged, OwnSenders::Reject) => {
                    return Verdict::Refuse(format!(
                        "mail from {domain} is accepted after a login only, or with a valid signature of that domain"
                    ));
                }
                (Standing::Forged, OwnSenders::Quarantine) => {
                    junk.get_or_insert_with(|| format!("not authenticated as {domain}"));
                }
                (Standing::Unknown, OwnSenders::Reject) => {
                    return Verdict::Defer(format!(
                        "that this mail is from {domain} cannot be verified now; try again later"
                    ));
                }
                _ => {}
            }
        }
        let failed =
            |dmarc: &&Dmarc| dmarc.outcome == Outcome::Fail && !self.arc.vouched.contains(&dmarc.domain);
        for Dmarc { domain, wish, .. } in self.dmarc.iter().filter(failed) {
            match (policy.dmarc, wish) {
                (DmarcAction::Reject, Wish::Reject) => {
                    return Verdict::Refuse(format!(
                        "this mail fails DMARC, and {domain} asks to have such mail rejected"
                    ));
                }
                (DmarcAction::Reject | DmarcAction::Quarantine, Wish::Quarantine | Wish::Reject) => {
                    junk.get_or_insert_with(|| format!("DMARC of {domain} failed, whose policy is {wish}"));
                }
                (DmarcAction::Report, _) | (_, Wish::None) => {}
            }
        }
        junk.map_or(Verdict::Deliver, Verdict::Junk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    fn findings(outcome: Outcome, wish: Wish) -> Findings {
        Findings {
            spf: Spf {
                outcome: Outcome::None,
                domain: None,
            },
            dkim: Vec::new(),
            dmarc: vec![Dmarc {
                outcome,
                domain: domain("bank.test"),
                wish,
            }],
            arc: Arc {
                outcome: Outcome::None,
                sealer: None,
                vouched: Vec::new(),
            },
            own: Vec::new(),
        }
    }

    fn policy(dmarc: DmarcAction, own_senders: OwnSenders) -> Policy {
        Policy {
            dmarc,
            own_senders,
            trusted_arc_sealers: Vec::new(),
        }
    }

    /// The kind of a verdict.
    fn kind(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Deliver => "deliver",
            Verdict::Junk(_) => "junk",
            Verdict::Refuse(_) => "refuse",
            Verdict::Defer(_) => "defer",
        }
    }

    #[test]
    fn what_follows_from_dmarc_is_the_stricter_of_nothing_and_the_milder_of_two() {
        use DmarcAction::{Quarantine, Reject, Report};
        for (action, wish, expected) in [
            (Report, Wish::None, "deliver"),
            (Report, Wish::Quarantine, "deliver"),
            (Report, Wish::Reject, "deliver"),
            (Quarantine, Wish::None, "deliver"),
            (Quarantine, Wish::Quarantine, "junk"),
            (Quarantine, Wish::Reject, "junk"),
            (Reject, Wish::None, "deliver"),
            (Reject, Wish::Quarantine, "junk"),
            (Reject, Wish::Reject, "refuse"),
        ] {
            let policy = policy(action, OwnSenders::Reject);
            let verdict = findings(Outcome::Fail, wish).verdict(&policy);
            assert_eq!(kind(&verdict), expected, "{action:?} {wish}");
            for other in [
                Outcome::Pass,
                Outcome::None,
                Outcome::TempError,
                Outcome::PermError,
            ] {
                assert_eq!(
                    findings(other, wish).verdict(&policy),
                    Verdict::Deliver,
                    "{other}"
                );
            }
        }
    }

    #[test]
    fn mail_to_the_postmaster_is_not_refused() {
        let strict = policy(DmarcAction::Reject, OwnSenders::Reject);
        let mut forged = findings(Outcome::Fail, Wish::Reject);
        assert_eq!(kind(&forged.verdict(&strict.for_postmaster())), "junk");
        for (standing, expected) in [(Standing::Forged, "junk"), (Standing::Unknown, "deliver")] {
            forged.dmarc.clear();
            forged.own = vec![Own {
                domain: domain("ours.test"),
                standing,
            }];
            assert_eq!(kind(&forged.verdict(&strict.for_postmaster())), expected);
        }
        let mild = policy(DmarcAction::Report, OwnSenders::Accept);
        assert_eq!(mild.for_postmaster(), mild);
    }

    #[test]
    fn a_trusted_forwarder_vouches_for_the_domain_that_it_names() {
        let policy = policy(DmarcAction::Reject, OwnSenders::Reject);
        let mut findings = findings(Outcome::Fail, Wish::Reject);
        findings.arc.vouched = vec![domain("other.test")];
        assert_eq!(kind(&findings.verdict(&policy)), "refuse");
        findings.arc.vouched = vec![domain("bank.test")];
        assert_eq!(kind(&findings.verdict(&policy)), "deliver");
    }

    #[test]
    fn any_domain_of_ours_that_proves_nothing_counts() {
        use OwnSenders::{Accept, Quarantine, Reject};
        use Standing::{Authenticated, Forged, Unknown};
        for (own_senders, standings, expected) in [
            (Reject, vec![], "deliver"),
            (Reject, vec![Authenticated], "deliver"),
            (Reject, vec![Authenticated, Forged], "refuse"),
            (Reject, vec![Unknown], "defer"),
            (Quarantine, vec![Authenticated, Forged], "junk"),
            (Quarantine, vec![Unknown], "deliver"),
            (Accept, vec![Forged, Unknown], "deliver"),
        ] {
            let mut findings = findings(Outcome::None, Wish::None);
            findings.own = standings
                .iter()
                .map(|&standing| Own {
                    domain: domain("ours.test"),
                    standing,
                })
                .collect();
            let verdict = findings.verdict(&policy(DmarcAction::Reject, own_senders));
            assert_eq!(kind(&verdict), expected, "{own_senders:?} {standings:?}");
        }
    }
}
