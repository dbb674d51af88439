//! Takes passwords from Dovecot's workers and has the costly hashes replaced that they were verified against.
//!
//! One task reads the pipe, and does nothing else, so that it is empty again at once; another replaces one hash after the
//! other. What finds no room between them is dropped: the next login hands it over again.

use std::{fs::File, io, sync::Arc, time::Duration};

use tokio::{net::unix::pipe, sync::mpsc, task::JoinHandle, time::MissedTickBehavior};

use crate::{
    clock::Clock,
    maps::{self, Layout, VerifiedPasswords},
    model::verified_password::{Messages, VerifiedPassword},
    ops::{
        Service,
        replace_hash::{Outcome, replace_hash},
    },
    publish::Publisher,
    telemetry::{self, metric::COSTLY_HASHES_TOTAL},
};

/// Passwords that may wait for their hash.
const WAITING_MAX: usize = 64;
/// Pause between two renewals of the lease; the script in Dovecot takes one for 15 s.
const LEASE_PAUSE_S: u64 = 5;

/// What the tasks work with.
pub(super) struct Parts {
    pub layout: Layout,
    pub service: Arc<Service>,
    pub publisher: Publisher,
    pub clock: Arc<dyn Clock>,
}

/// Starts the tasks, which end when they are to stop.
pub(super) fn start(parts: Parts, stopped: tokio::sync::watch::Receiver<()>) -> [JoinHandle<()>; 2] {
    let (verified, waiting) = mpsc::channel(WAITING_MAX);
    let Parts {
        layout,
        service,
        publisher,
        clock,
    } = parts;
    let receiving = receive(layout, clock, verified, stopped.clone());
    let replacing = replace(service, publisher, waiting, stopped);
    [tokio::spawn(receiving), tokio::spawn(replacing)]
}

/// Removes the pipe, where hashes are not to be replaced.
pub(super) async fn remove_pipe(layout: Layout) -> Result<(), super::Error> {
    Ok(tokio::task::spawn_blocking(move || VerifiedPasswords::remove(&layout)).await??)
}

/// Reads the pipe for as long as there is one, and makes another one when its folder was removed.
async fn receive(
    layout: Layout,
    clock: Arc<dyn Clock>,
    verified: mpsc::Sender<VerifiedPassword>,
    stopped: tokio::sync::watch::Receiver<()>,
) {
    let mut until = std::pin::pin!(super::wait_until_closed(stopped));
    let mut was_reported = false;
    loop {
        let failed = tokio::select! {
            () = &mut until => return,
            failed = receive_from_one(&layout, &*clock, &verified, &mut was_reported) => failed,
        };
        match failed {
            Ok(()) => {}
            Err(_) if was_reported => {}
            Err(error) => {
                was_reported = true;
                let error = telemetry::chain(&error);
                tracing::warn!(error, "cannot take verified passwords from Dovecot; trying again");
            }
        }
        tokio::select! {
            () = &mut until => return,
            () = tokio::time::sleep(Duration::from_secs(LEASE_PAUSE_S)) => {}
        }
    }
}

/// Why the pipe cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    #[error("keep the pipe for verified passwords")]
    Maps(#[from] maps::Error),
    #[error("read verified passwords")]
    Read(#[from] io::Error),
    #[error("a task of this process failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Returns when the pipe has lost its name.
async fn receive_from_one(
    layout: &Layout,
    clock: &dyn Clock,
    verified: &mpsc::Sender<VerifiedPassword>,
    was_reported: &mut bool,
) -> Result<(), ReceiveError> {
    let layout = layout.clone();
    let opened = tokio::task::spawn_blocking(move || VerifiedPasswords::open(&layout));
    let (mut passwords, file): (VerifiedPasswords, File) = opened.await??;
    let pipe = pipe::Receiver::from_file(file)?;
    let mut messages = Messages::default();
    let mut pause = tokio::time::interval(Duration::from_secs(LEASE_PAUSE_S));
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = pause.tick() => {}
            ready = pipe.readable() => ready?,
        }
        read_all(&pipe, &mut messages, verified)?;
        let now = clock.now().as_seconds();
        let renewed = tokio::task::spawn_blocking(move || {
            let is_in_place = passwords.is_in_place();
            let renewed = passwords.renew_lease(now);
            (passwords, is_in_place, renewed)
        });
        let (same, is_in_place, renewed) = renewed.await?;
        if !is_in_place {
            return Ok(());
        }
        renewed?;
        *was_reported = false;
        passwords = same;
    }
}

/// Reads until the pipe is empty.
fn read_all(
    pipe: &pipe::Receiver,
    messages: &mut Messages,
    verified: &mpsc::Sender<VerifiedPassword>,
) -> io::Result<()> {
    loop {
        match pipe.try_read(messages.room()) {
            Ok(octets) => messages.read(octets, |message| {
                let parsed = message.and_then(|message| VerifiedPassword::parse(message).ok());
                let Some(password) = parsed else {
                    return COSTLY_HASHES_TOTAL.increment(&["malformed"]);
                };
                if verified.try_send(password).is_err() {
                    COSTLY_HASHES_TOTAL.increment(&["dropped"]);
                }
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Replaces hashes, one after the other. One that fails is left as it is, until the next login.
async fn replace(
    service: Arc<Service>,
    publisher: Publisher,
    mut waiting: mpsc::Receiver<VerifiedPassword>,
    stopped: tokio::sync::watch::Receiver<()>,
) {
    let mut until = std::pin::pin!(super::wait_until_closed(stopped));
    loop {
        let password = tokio::select! {
            () = &mut until => return,
            password = waiting.recv() => password,
        };
        let Some(password) = password else { return };
        let inbox = password.sasl_name.inbox;
        let outcome = match replace_hash(&service, password).await {
            Ok(changed) => {
                // What is not published now is published later, and until then the entry has the hash of before, which is
                // of the same password.
                if !changed.publish.is_empty()
                    && let Err(error) = publisher.publish(changed.publish).await
                {
                    tracing::warn!(%inbox, error = telemetry::chain(&error), "cannot publish a replaced password hash yet");
                }
                match changed.value {
                    Outcome::Replaced => "replaced",
                    Outcome::Stale => "stale",
                    Outcome::Kept => "kept",
                }
            }
            Err(error) => {
                tracing::warn!(%inbox, error = telemetry::chain(&error), "cannot replace a costly password hash");
                "failed"
            }
        };
        COSTLY_HASHES_TOTAL.increment(&[outcome]);
        if outcome == "replaced" {
            tracing::info!(%inbox, "replaced a costly password hash by one of our own scheme");
        }
    }
}
