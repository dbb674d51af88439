//! Whether the name servers answer at all.
//!
//! Where they do not, each message would wait for them. Whether one sender's names can be looked up says nothing about that:
//! he may have broken them. So a name is asked for that every name server has an answer to, be it a refusal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::dns;

/// Pause between two questions whether they are back.
const PAUSE_MS: u64 = 30_000;

/// What is known of the name servers.
#[derive(Clone)]
pub(super) struct Away {
    dns: dns::Lookup,
    silent: Arc<AtomicBool>,
    is_asking: Arc<AtomicBool>,
}

impl Away {
    pub(super) fn new(dns: dns::Lookup) -> Self {
        Self {
            dns,
            silent: Arc::default(),
            is_asking: Arc::default(),
        }
    }

    /// Whether they did not answer when they were asked last.
    pub(super) fn is_away(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Asks them for something, beside the message that got no answer; and again and again until they answer.
    pub(super) fn ask(&self) {
        if self.is_asking.swap(true, Ordering::Relaxed) {
            return;
        }
        let away = self.clone();
        tokio::spawn(async move {
            while !away.dns.answers().await {
                if !away.silent.swap(true, Ordering::Relaxed) {
                    tracing::warn!("no name server answers (dns.servers): mail is delivered unjudged");
                }
                tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
            }
            if away.silent.swap(false, Ordering::Relaxed) {
                tracing::info!("a name server answers again");
            }
            away.is_asking.store(false, Ordering::Relaxed);
        });
    }
}
