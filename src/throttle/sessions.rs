//! How many IMAP sessions each login and each tenant has: counted by Dovecot now and then, and by the logins since.

use std::collections::{HashMap, VecDeque};

use crate::{
    clock::Timestamp,
    model::{
        ids::TenantId,
        session_share::{Share, ShareLimits},
    },
};

/// A login that was let in may take this long to become a session that Dovecot counts.
const BEGINS_WITHIN_S: i64 = 2;
/// Logins let in before Dovecot is asked again, so that those that have ended meanwhile take no memory.
const LET_IN_MAX: usize = 20_000;
/// After so long, whose a login is is looked up again: an address can go to another tenant.
const TENANTS_KEPT_S: i64 = 600;

/// What the counts say of one more session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is within all shares.
    Within,
    /// It is beyond a share, if no session has ended since Dovecot counted.
    Beyond(Share),
    /// Dovecot has to count, or the store has to say whose a login is, before this is known.
    Unknown,
}

/// What is known of the sessions. Numbers are never too low, as long as a login becomes a session within
/// [`BEGINS_WITHIN_S`]; they are too high by the sessions that have ended since Dovecot counted.
#[derive(Debug)]
pub(super) struct Sessions {
    limits: ShareLimits,
    /// By login. Some are of no inbox any more.
    of_login: HashMap<Box<str>, u32>,
    of_tenant: HashMap<TenantId, u32>,
    all: u32,
    /// Whose the logins are; none of a login that the store does not know.
    tenants: HashMap<Box<str>, Option<TenantId>>,
    tenants_since: Timestamp,
    /// Sessions of logins that are not in `tenants`.
    of_unknown_tenants: u32,
    /// Logins let in, the oldest first, since Dovecot counted or within [`BEGINS_WITHIN_S`] before.
    let_in: VecDeque<(Timestamp, Box<str>)>,
    is_counted: bool,
}

impl Sessions {
    pub(super) fn new(limits: ShareLimits, now: Timestamp) -> Self {
        Self {
            limits,
            of_login: HashMap::new(),
            of_tenant: HashMap::new(),
            all: 0,
            tenants: HashMap::new(),
            tenants_since: now,
            of_unknown_tenants: 0,
            let_in: VecDeque::new(),
            is_counted: false,
        }
    }

    /// Whether one more session of this login is within all shares.
    ///
    /// Whose a login is does not matter while all sessions together are fewer than a tenant may have, so a small
    /// installation never asks its store.
    pub(super) fn judge(&self, login: &str) -> Verdict {
        if !self.is_counted || self.let_in.len() >= LET_IN_MAX {
            return Verdict::Unknown;
        }
        if self
            .of_login
            .get(login)
            .is_some_and(|&sessions| sessions >= self.limits.inbox)
        {
            return Verdict::Beyond(Share::Inbox);
        }
        if self.all < self.limits.tenant {
            return Verdict::Within;
        }
        match self.tenants.get(login) {
            _ if self.of_unknown_tenants > 0 => Verdict::Unknown,
            None => Verdict::Unknown,
            Some(Some(tenant)) if self.of(*tenant) >= self.limits.tenant => Verdict::Beyond(Share::Tenant),
            Some(_) => Verdict::Within,
        }
    }

    fn of(&self, tenant: TenantId) -> u32 {
        self.of_tenant.get(&tenant).copied().unwrap_or(0)
    }

    /// One more session of this login begins.
    pub(super) fn let_in(&mut self, login: &str, now: Timestamp) {
        let login: Box<str> = login.into();
        match self.tenants.get(&login) {
            Some(Some(tenant)) => *self.of_tenant.entry(*tenant).or_default() += 1,
            Some(None) => {}
            None => self.of_unknown_tenants += 1,
        }
        self.all += 1;
        *self.of_login.entry(login.clone()).or_default() += 1;
        self.let_in.push_back((now, login));
    }

    /// Takes what Dovecot counted, having been asked at this time.
    ///
    /// It counts sessions that have begun. A login that was let in just before may be one of them, or begin later: there are
    /// at most as many sessions as Dovecot counted and logins were let in lately, and at most as many as were known before.
    pub(super) fn counted(&mut self, by_dovecot: HashMap<Box<str>, u32>, asked: Timestamp) {
        let begins_after = asked.plus_seconds(-BEGINS_WITHIN_S);
        self.let_in.retain(|(time, _)| *time >= begins_after);
        let mut lately: HashMap<&str, u32> = HashMap::new();
        for (_, login) in &self.let_in {
            *lately.entry(login).or_default() += 1;
        }
        let mut of_login = by_dovecot;
        for (login, lately) in lately {
            let begun = of_login.get(login).copied().unwrap_or(0);
            let before = self.of_login.get(login).copied().unwrap_or(0);
            let sessions = begun.max(before.min(begun + lately));
            of_login.insert(login.into(), sessions);
        }
        self.of_login = of_login;
        self.all = self.of_login.values().sum();
        if self.tenants_since.plus_seconds(TENANTS_KEPT_S) < asked {
            self.tenants.clear();
            self.tenants_since = asked;
        }
        self.tenants.retain(|login, _| self.of_login.contains_key(login));
        self.count_tenants();
        self.is_counted = true;
    }

    /// The logins of which it has to be known whose they are, this one among them: none while that does not matter.
    pub(super) fn of_unknown_tenant(&self, login: &str) -> Vec<Box<str>> {
        if self.all < self.limits.tenant {
            return Vec::new();
        }
        let is_unknown = |login: &&str| !self.tenants.contains_key(*login);
        let others = self
            .of_login
            .keys()
            .map(AsRef::as_ref)
            .filter(|other| *other != login);
        others.chain([login]).filter(is_unknown).map(Into::into).collect()
    }

    /// Takes whose logins are.
    pub(super) fn learned(&mut self, tenants: impl IntoIterator<Item = (Box<str>, Option<TenantId>)>) {
        self.tenants.extend(tenants);
        self.count_tenants();
    }

    /// Forgets all counts: Dovecot cannot be asked.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.limits, self.tenants_since);
    }

    fn count_tenants(&mut self) {
        self.of_tenant.clear();
        self.of_unknown_tenants = 0;
        for (login, sessions) in &self.of_login {
            match self.tenants.get(login) {
                Some(Some(tenant)) => *self.of_tenant.entry(*tenant).or_default() += sessions,
                Some(None) => {}
                None => self.of_unknown_tenants += sessions,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(0);
    const LIMITS: ShareLimits = ShareLimits {
        inbox: 10,
        tenant: 25,
    };

    fn tenant(number: u128) -> TenantId {
        TenantId(Uuid::from_u128(number))
    }

    fn counts(of: &[(&str, u32)]) -> HashMap<Box<str>, u32> {
        of.iter()
            .map(|(login, sessions)| ((*login).into(), *sessions))
            .collect()
    }

    fn counted(of: &[(&str, u32)]) -> Sessions {
        let mut sessions = Sessions::new(LIMITS, NOW);
        sessions.counted(counts(of), NOW);
        sessions
    }

    /// Lets sessions in until one is not within the shares; how many were, and why no more.
    fn fill(sessions: &mut Sessions, login: &str, now: Timestamp) -> (u32, Verdict) {
        for number in 0.. {
            match sessions.judge(login) {
                Verdict::Within => sessions.let_in(login, now),
                verdict => return (number, verdict),
            }
        }
        unreachable!()
    }

    #[test]
    fn nothing_is_known_before_dovecot_has_counted() {
        let mut sessions = Sessions::new(LIMITS, NOW);
        assert_eq!(sessions.judge("a"), Verdict::Unknown);
        sessions.counted(HashMap::new(), NOW);
        assert_eq!(sessions.judge("a"), Verdict::Within);
        sessions.forget();
        assert_eq!(sessions.judge("a"), Verdict::Unknown);
    }

    #[test]
    fn an_inbox_has_its_share_and_no_more() {
        let mut sessions = counted(&[("a", 4)]);
        assert_eq!(fill(&mut sessions, "a", NOW), (6, Verdict::Beyond(Share::Inbox)));
        assert_eq!(sessions.judge("b"), Verdict::Within);
    }

    #[test]
    fn logins_that_have_not_begun_are_not_forgotten_when_dovecot_counts() {
        let mut sessions = counted(&[("a", 5)]);
        fill(&mut sessions, "a", NOW);
        // One of the five that were let in has begun.
        sessions.counted(counts(&[("a", 6)]), NOW);
        assert_eq!(sessions.judge("a"), Verdict::Beyond(Share::Inbox));
        // None has begun, and the five from before have ended.
        sessions.counted(HashMap::new(), NOW);
        assert_eq!(fill(&mut sessions, "a", NOW), (5, Verdict::Beyond(Share::Inbox)));
        // Whatever has not begun by now does not begin any more.
        let later = NOW.plus_seconds(BEGINS_WITHIN_S + 1);
        sessions.counted(counts(&[("a", 2)]), later);
        assert_eq!(
            fill(&mut sessions, "a", later),
            (8, Verdict::Beyond(Share::Inbox))
        );
    }

    #[test]
    fn a_login_that_has_begun_counts_once() {
        let mut sessions = counted(&[]);
        for _ in 0..6 {
            sessions.let_in("a", NOW);
        }
        sessions.counted(counts(&[("a", 6)]), NOW);
        assert_eq!(fill(&mut sessions, "a", NOW), (4, Verdict::Beyond(Share::Inbox)));
    }

    #[test]
    fn what_dovecot_counts_is_believed_beyond_what_was_known() {
        let mut sessions = counted(&[]);
        sessions.let_in("a", NOW);
        sessions.counted(counts(&[("a", 10)]), NOW);
        assert_eq!(sessions.judge("a"), Verdict::Beyond(Share::Inbox));
    }

    #[test]
    fn a_tenant_has_its_share_over_all_its_inboxes() {
        let mut sessions = counted(&[("a", 9), ("b", 9), ("c", 5)]);
        // Fewer than a tenant may have: whose they are is not asked.
        assert!(sessions.of_unknown_tenant("d").is_empty());
        assert_eq!(fill(&mut sessions, "d", NOW), (2, Verdict::Unknown));
        let mut unknown = sessions.of_unknown_tenant("e");
        unknown.sort();
        assert_eq!(unknown, ["a", "b", "c", "d", "e"].map(Box::from));
        let of = |login: &str, number| (login.into(), Some(tenant(number)));
        sessions.learned([of("a", 1), of("b", 1), of("c", 1), of("d", 1), of("e", 2)]);
        assert_eq!(sessions.judge("c"), Verdict::Beyond(Share::Tenant));
        assert_eq!(sessions.judge("a"), Verdict::Beyond(Share::Tenant));
        assert_eq!(fill(&mut sessions, "e", NOW), (10, Verdict::Beyond(Share::Inbox)));
        // A place of the tenant's is given back.
        let later = NOW.plus_seconds(BEGINS_WITHIN_S + 1);
        sessions.counted(
            counts(&[("a", 9), ("b", 9), ("c", 4), ("d", 2), ("e", 10)]),
            later,
        );
        assert_eq!(
            fill(&mut sessions, "c", later),
            (1, Verdict::Beyond(Share::Tenant))
        );
        assert_eq!(sessions.judge("f"), Verdict::Unknown);
    }

    #[test]
    fn sessions_of_no_inbox_belong_to_no_tenant() {
        let mut sessions = counted(&[("a", 9), ("gone", 20)]);
        sessions.learned([("a".into(), Some(tenant(1))), ("gone".into(), None)]);
        assert_eq!(sessions.judge("a"), Verdict::Within);
        assert!(sessions.of_unknown_tenant("a").is_empty());
    }

    #[test]
    fn whose_a_login_is_is_not_believed_for_ever() {
        let mut sessions = counted(&[("a", 25)]);
        sessions.learned([("a".into(), Some(tenant(1)))]);
        let later = NOW.plus_seconds(TENANTS_KEPT_S + 1);
        sessions.counted(counts(&[("a", 25)]), later);
        assert_eq!(sessions.of_unknown_tenant("a"), ["a".into()]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut sessions = counted(&[]);
        for number in 0..LET_IN_MAX {
            sessions.let_in(&format!("{number}@b.test"), NOW);
        }
        assert_eq!(sessions.judge("a"), Verdict::Unknown);
        sessions.counted(HashMap::new(), NOW.plus_seconds(BEGINS_WITHIN_S + 1));
        assert!(sessions.of_login.is_empty() && sessions.let_in.is_empty() && sessions.tenants.is_empty());
    }
}
