//! What callers were promised.

use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use crate::support::{api::Answer, inbox::Inbox};

/// What must hold for an inbox.
#[derive(Clone, Debug)]
pub enum Promise {
    /// This password logs in, and mail is taken for the address and from it.
    LetIn(String),
    /// It is deleted: no login, no mail.
    Refused,
    /// A change was asked for and not answered: the state before it or the one after.
    Open,
}

/// Every inbox of which somebody was told that it exists, in the order of telling.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<Vec<(Inbox, Promise)>>,
    is_power_gone: AtomicBool,
}

impl Ledger {
    /// Somebody got a 201: the entry's place.
    pub fn created(&self, inbox: Inbox) -> usize {
        let mut entries = self.entries();
        let promise = Promise::LetIn(inbox.password.clone());
        entries.push((inbox, promise));
        entries.len() - 1
    }

    /// A change is about to be asked for.
    pub fn begin(&self, place: usize) {
        self.settle(place, Promise::Open);
    }

    /// It was answered.
    pub fn settle(&self, place: usize, promise: Promise) {
        self.entries()[place].1 = promise;
    }

    pub fn all(&self) -> Vec<(Inbox, Promise)> {
        self.entries().clone()
    }

    /// How many have another password than at first.
    pub fn rotated(&self) -> usize {
        let is_rotated = |(inbox, promise): &&(Inbox, Promise)| matches!(promise, Promise::LetIn(password) if *password != inbox.password);
        self.entries().iter().filter(is_rotated).count()
    }

    pub fn deleted(&self) -> usize {
        let entries = self.entries();
        entries
            .iter()
            .filter(|(_, promise)| matches!(promise, Promise::Refused))
            .count()
    }

    /// The power is about to go: from now on, requests may fail.
    pub fn power_goes(&self, gone: bool) {
        self.is_power_gone.store(gone, Ordering::SeqCst);
    }

    pub fn is_power_gone(&self) -> bool {
        self.is_power_gone.load(Ordering::SeqCst)
    }

    /// Fails unless a request could only be refused because there is no power, and was refused so that its caller tries
    /// again.
    pub fn assert_no_power(&self, answer: &Answer) {
        assert!(self.is_power_gone(), "refused under power: {answer:?}");
        assert_eq!(answer.status, 503, "{answer:?}");
    }

    fn entries(&self) -> MutexGuard<'_, Vec<(Inbox, Promise)>> {
        self.entries.lock().unwrap()
    }
}
