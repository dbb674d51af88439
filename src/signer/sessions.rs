//! Submission sessions at a time: no inbox has more than its share of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::sasl_name::SaslName;

/// An inbox that has a session already has fewer than the free places divided by this: the fewer are left, the less one inbox
/// gets (dynamic thresholds; Choudhury and Hahne, 1998). Tenants are not known here, and this is what keeps a few inboxes of
/// one from taking all.
const PART_OF_FREE: u32 = 10;

/// Most submission sessions at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionLimits {
    /// All of them (`smtp.sessions_max`).
    pub all: u16,
    /// Of one inbox (`smtp.sessions_per_inbox_max`).
    pub per_inbox: u16,
}

/// The sessions that have begun a message, by who has logged in. A session without one is not known here.
#[derive(Debug)]
pub(super) struct OpenSessions {
    limits: SessionLimits,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    of_inbox: HashMap<Box<str>, u32>,
    all: u32,
}

/// The place of one session, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    inbox: Box<str>,
    of: Arc<OpenSessions>,
}

impl OpenSessions {
    pub(super) fn new(limits: SessionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            open: Mutex::default(),
        })
    }

    /// A place for a session of this login; none while its inbox has as many as it may.
    pub(super) fn take(self: &Arc<Self>, login: &str) -> Option<Place> {
        let inbox = inbox_of(login);
        let mut open = self.open();
        let own = open.of_inbox.get(&inbox).copied().unwrap_or(0);
        let free = u32::from(self.limits.all).saturating_sub(open.all);
        if own >= self.limits.per_inbox.into() || (own > 0 && own * PART_OF_FREE >= free) {
            return None;
        }
        open.of_inbox.insert(inbox.clone(), own + 1);
        open.all += 1;
        Some(Place {
            inbox,
            of: Arc::clone(self),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether it is one for this login.
    pub(super) fn is_of(&self, login: &str) -> bool {
        self.inbox == inbox_of(login)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.open();
        open.all -= 1;
        if let Some(sessions) = open.of_inbox.get_mut(&self.inbox) {
            *sessions -= 1;
            if *sessions == 0 {
                open.of_inbox.remove(&self.inbox);
            }
        }
    }
}

/// All generations of an inbox's credentials share its places. A login by an entry of an earlier release is its own.
fn inbox_of(login: &str) -> Box<str> {
    match SaslName::parse(login) {
        Ok(name) => name.inbox.to_string().into(),
        Err(_) => login.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(inbox: usize, generation: u32) -> String {
        format!("00000000-0000-0000-0000-{inbox:012}.{generation}")
    }

    /// As many places for this inbox as it gets.
    fn fill(sessions: &Arc<OpenSessions>, inbox: usize) -> Vec<Place> {
        std::iter::from_fn(|| sessions.take(&login(inbox, 1))).collect()
    }

    #[test]
    fn an_inbox_has_its_places_and_gives_them_back() {
        let sessions = OpenSessions::new(SessionLimits {
            all: 100,
            per_inbox: 2,
        });
        let [first, rotated, other] =
            [(1, 1), (1, 2), (2, 1)].map(|(inbox, generation)| login(inbox, generation));
        let mut held = vec![sessions.take(&first).unwrap(), sessions.take(&rotated).unwrap()];
        assert!(
            held.iter()
                .all(|place| place.is_of(&first) && !place.is_of(&other))
        );
        assert!(sessions.take(&first).is_none() && sessions.take(&rotated).is_none());
        let others = sessions.take(&other).unwrap();
        held.pop();
        held.push(sessions.take(&first).unwrap());
        assert!(sessions.take(&first).is_none());
        drop((held, others));
        assert!(sessions.open().of_inbox.is_empty());
        assert_eq!(sessions.open().all, 0);
    }

    #[test]
    fn inboxes_that_take_what_they_get_leave_places_for_others() {
        let sessions = OpenSessions::new(SessionLimits {
            all: 600,
            per_inbox: 50,
        });
        let mut held = fill(&sessions, 0);
        assert_eq!(held.len(), 50);
        for inbox in 1..12 {
            held.extend(fill(&sessions, inbox));
        }
        let free = 600 - held.len();
        assert!(free > 150, "{free}");
        // Whoever has none gets one while there is any.
        held.extend((0..free).map(|number| sessions.take(&login(1_000 + number, 1)).unwrap()));
        assert!(sessions.take(&login(0, 1)).is_none());
    }
}
