//! What DNS has answered about one message: asked once, and no more often than [`LOOKUPS_MAX`].

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use mail_auth::{DnsError, DnssecStatus, Error, MX, Parameters, RecordSet, ResolverCache, Txt};

/// Look-ups of one message, beside those of its authors' policies, and of SPF, which has limits of its own (RFC 7208, 4.6.4).
const LOOKUPS_MAX: usize = 150;

/// The answers. What is asked beyond the limit is as if it were not there: a sender that needs more has itself to blame.
#[derive(Default)]
pub(super) struct Answers {
    asked: AtomicUsize,
    txt: Table<Box<str>, Txt>,
    mx: Table<Box<str>, RecordSet<MX>>,
    ipv4: Table<Box<str>, RecordSet<Ipv4Addr>>,
    ipv6: Table<Box<str>, RecordSet<Ipv6Addr>>,
    ptr: Table<IpAddr, RecordSet<Box<str>>>,
}

type Table<K, V> = Mutex<HashMap<K, V>>;

impl Answers {
    /// Parameters of a verification that uses these answers.
    pub(super) fn with<P>(&self, params: P) -> Parameters<'_, P, Self, Self, Self, Self, Self> {
        Parameters {
            params,
            cache_txt: Some(self),
            cache_mx: Some(self),
            cache_ptr: Some(self),
            cache_ipv4: Some(self),
            cache_ipv6: Some(self),
        }
    }

    /// Notes a TXT record that was looked up already. The name ends in a dot and is in lower case.
    pub(super) fn note(&self, name: &str, answer: Txt) {
        lock(&self.txt).insert(name.into(), answer);
    }

    /// Counts a look-up that is about to be made. Returns the answer of one that is not made any more.
    fn count<V>(&self, none: impl FnOnce() -> V) -> Option<V> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        (asked >= LOOKUPS_MAX).then(none)
    }

    fn find<K, V, Q>(&self, table: &Table<K, V>, name: &Q, none: impl FnOnce() -> V) -> Option<V>
    where
        K: Borrow<Q> + Eq + Hash,
        V: Clone,
        Q: Eq + Hash + ?Sized,
    {
        let known = lock(table).get(name).cloned();
        known.or_else(|| self.count(none))
    }
}

fn lock<T>(table: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_records<T>() -> RecordSet<T> {
    RecordSet {
        rrset: std::sync::Arc::new([]),
        dnssec_status: DnssecStatus::Indeterminate,
    }
}

/// A table of [`Answers`] as the crate uses it.
macro_rules! table {
    ($field:ident, $key:ty, $value:ty, $none:expr) => {
        impl ResolverCache<$key, $value> for Answers {
            fn get<Q>(&self, name: &Q) -> Option<$value>
            where
                $key: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                self.find(&self.$field, name, || $none)
            }

            fn remove<Q>(&self, name: &Q) -> Option<$value>
            where
                $key: Borrow<Q>,
                Q: Hash + Eq + ?Sized,
            {
                lock(&self.$field).remove(name)
            }

            fn insert(&self, name: $key, value: $value, _: Instant) {
                lock(&self.$field).insert(name, value);
            }
        }
    };
}

table!(
    txt,
    Box<str>,
    Txt,
    Txt::Error(Error::Dns(DnsError::InvalidRecordType))
);
table!(mx, Box<str>, RecordSet<MX>, no_records());
table!(ipv4, Box<str>, RecordSet<Ipv4Addr>, no_records());
table!(ipv6, Box<str>, RecordSet<Ipv6Addr>, no_records());
table!(ptr, IpAddr, RecordSet<Box<str>>, no_records());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_once_and_no_message_asks_for_ever() {
        let answers = Answers::default();
        let name: &str = "a.test.";
        assert!(ResolverCache::<Box<str>, RecordSet<Ipv4Addr>>::get(&answers, name).is_none());
        ResolverCache::insert(
            &answers,
            Box::from(name),
            no_records::<Ipv4Addr>(),
            Instant::now(),
        );
        for _ in 0..LOOKUPS_MAX * 2 {
            assert!(ResolverCache::<Box<str>, RecordSet<Ipv4Addr>>::get(&answers, name).is_some());
        }
        for number in 1..LOOKUPS_MAX * 2 {
            let name = format!("{number}.test.");
            let answer = ResolverCache::<Box<str>, Txt>::get(&answers, name.as_str());
            assert_eq!(answer.is_some(), number >= LOOKUPS_MAX, "{number}");
        }
        // What is known stays known.
        answers.note("b.test.", Txt::Error(Error::ParseError));
        let known = ResolverCache::<Box<str>, Txt>::get(&answers, "b.test.");
        assert!(matches!(known, Some(Txt::Error(Error::ParseError))));
    }
}
