//! Creations that wait at the same time are written together.
//!
//! Nearly every inbox that is asked for by name gets that name, because nobody ever had it. Such creations need no
//! decision: all that wait are written in one transaction of a few statements, however many they are. Whatever is
//! not as simple (a name with a history, a cap that is reached) is left to whoever asked, who then goes the careful way
//! alone, and gets its error there. If the store is away, all are told.

use std::{collections::HashSet, iter};

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::batched::told_to_all;
use crate::{
    clock::Timestamp,
    model::{
        address::{Address, LocalPart},
        api_key::{ApiKey, Scope},
        ids::{InboxId, KeyId, TenantId, WorkspaceId},
        metadata::Metadata,
        names::DisplayName,
        password::PasswordHash,
    },
    store::{Db, Error, FRESH_MAX, FreshInbox, NewInbox, NewKey, NewSecrets},
};

/// Creations that may wait; more of them wait to be let in.
const QUEUE_MAX: usize = 1024;
/// Times that a group is tried: once with all, and once without those that were found not to be simple.
const TRIES_MAX: usize = 2;

/// Where creations wait for each other. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Together(mpsc::Sender<Waiting>);

/// A creation of an inbox at a name that is believed to be free and without a history.
#[derive(Clone, Debug)]
pub(super) struct Fresh {
    /// The id of the inbox.
    pub(super) id: InboxId,
    /// The tenant that owns the workspace.
    pub(super) tenant: TenantId,
    /// The workspace that owns the inbox.
    pub(super) workspace: WorkspaceId,
    /// The address that is asked for.
    pub(super) canonical: Address,
    /// The name shown beside the address.
    pub(super) display_name: Option<DisplayName>,
    /// The caller's own data.
    pub(super) metadata: Metadata,
    /// What Dovecot checks the password against.
    pub(super) hash: PasswordHash,
    /// The recoverable password, sealed.
    pub(super) sealed: Option<Vec<u8>>,
    /// The inbox's key.
    pub(super) key: ApiKey,
    /// The key's id.
    pub(super) key_id: KeyId,
    /// Marks the address as to be published.
    pub(super) mark: Uuid,
    /// When it is created.
    pub(super) created_at: Timestamp,
}

#[derive(Debug)]
struct Waiting {
    fresh: Fresh,
    written: oneshot::Sender<Result<bool, Error>>,
}

impl Together {
    /// The task that writes. It ends when the last of these is gone and everything that waited is written.
    pub fn start(db: Db) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        (Self(sender), tokio::spawn(write_all(db, receiver)))
    }

    /// Writes an inbox together with whoever else waits. `false`: nothing of it is written; it has to go the careful way.
    /// An error says, as that of a commit does, that it is not known to be written.
    pub(super) async fn write(&self, fresh: Fresh) -> Result<bool, Error> {
        let (written, answer) = oneshot::channel();
        if self.0.send(Waiting { fresh, written }).await.is_err() {
            return Ok(false);
        }
        answer.await.unwrap_or(Ok(false))
    }
}

async fn write_all(db: Db, mut waiting: mpsc::Receiver<Waiting>) {
    let mut group = Vec::with_capacity(FRESH_MAX);
    while waiting.recv_many(&mut group, FRESH_MAX).await > 0 {
        // Of two that ask for one address the second has to see what became of the first.
        let mut addresses = HashSet::new();
        let (mut simple, mut careful): (Vec<Waiting>, Vec<Waiting>) = group
            .drain(..)
            .partition(|waiting| addresses.insert(waiting.fresh.canonical.clone()));
        let answers = match write_simple(&db, &mut simple).await {
            Ok(left) => {
                careful.extend(left);
                simple.iter().map(|_| Ok(true)).collect()
            }
            Err(error) => told_to_all(error, simple.len()),
        };
        let answers = answers.into_iter().chain(iter::repeat_with(|| Ok(false)));
        let careful = careful.into_iter().zip(iter::repeat_with(|| Ok(false)));
        for (waiting, answer) in simple.into_iter().zip(answers).chain(careful) {
            // A caller that has gone away needs no answer.
            let _ = waiting.written.send(answer);
        }
    }
}

/// Writes those that are simple, and takes the others out of the group.
async fn write_simple(db: &Db, group: &mut Vec<Waiting>) -> Result<Vec<Waiting>, Error> {
    let mut left = Vec::new();
    for _ in 0..TRIES_MAX {
        if group.is_empty() {
            return Ok(left);
        }
        let mut tx = db.write().await?;
        let rows: Vec<FreshInbox<'_>> = group.iter().map(|waiting| waiting.fresh.row()).collect();
        let refused = tx.insert_fresh_inboxes(&rows).await?;
        if refused.is_empty() {
            tx.commit().await?;
            return Ok(left);
        }
        // Rolled back.
        drop(tx);
        for place in refused.into_iter().rev() {
            left.push(group.swap_remove(place));
        }
    }
    left.append(group);
    Ok(left)
}

impl Fresh {
    fn row(&self) -> FreshInbox<'_> {
        FreshInbox {
            inbox: NewInbox {
                id: self.id,
                tenant: self.tenant,
                workspace: self.workspace,
                canonical: &self.canonical,
                requested: Some(self.requested()),
                display_name: self.display_name.as_ref(),
                metadata: &self.metadata,
                secrets: NewSecrets {
                    password_hash: &self.hash,
                    sealed_password: self.sealed.as_deref(),
                },
                created_at: self.created_at,
            },
            key: NewKey {
                id: self.key_id,
                key: &self.key,
                scope: Scope::Inbox {
                    tenant: self.tenant,
                    workspace: self.workspace,
                    inbox: self.id,
                },
                name: None,
                created_at: self.created_at,
            },
            mark: self.mark,
        }
    }

    fn requested(&self) -> &LocalPart {
        &self.canonical.local_part
    }
}
