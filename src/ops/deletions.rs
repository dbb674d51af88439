//! Deletions between their transaction and the answer that tells of them.
//!
//! A deletion is answered when its 200 was sent, not when it was written. So it holds a [`Deletion`], a lock in memory,
//! from before it reads the object until its answer was handed to the connection, or dropped. Whoever deletes the same
//! object meanwhile waits for it, and then finds that there is no such object: 404. Only if the answer was no 200 (503,
//! because the mail side could not be written, or none, because the caller's time was up) is the deletion remembered as
//! unanswered, and the same request again finishes it: it publishes what is left and answers 200, once.
//!
//! Whether there are marks does not matter: they are cleared by other tasks, sooner or later than the next request.
//!
//! All of this is in memory. After a restart no deletion is unanswered, because start-up publishes everything that is
//! marked: the same request is then answered 404.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

use super::{Changed, Error};
use crate::{
    model::{
        address::{Address, DomainName},
        api_key::{Caller, Scope},
        ids::{InboxId, TenantId, WorkspaceId},
        maps::MapKey,
    },
    store::{Owner, Tx},
};

/// Unanswered deletions that are remembered; of more, the oldest are forgotten, and trying these again answers 404.
const UNANSWERED_MAX: usize = 10_000;

/// What is deleted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Subject {
    /// A tenant with all that it owns.
    Tenant(TenantId),
    /// A workspace with all that it owns.
    Workspace(WorkspaceId),
    /// An inbox.
    Inbox(InboxId),
    /// A further address of an inbox.
    Address(InboxId, Address),
    /// A registration of a domain.
    Domain(DomainName),
}

/// A subject as the keys of one tenant, or the super admin's, name it. Tenants do not wait for each other.
type Named = (Option<TenantId>, Subject);

/// The deletions that are under way or unanswered in this process. Cheap to clone.
#[derive(Clone, Default, Debug)]
pub struct Deletions {
    locks: Arc<Mutex<HashMap<Named, Arc<tokio::sync::Mutex<()>>>>>,
    unanswered: Arc<Mutex<Unanswered>>,
}

/// Deletions that were written, or may have been, and whose 200 was not sent.
#[derive(Default, Debug)]
struct Unanswered {
    /// The workspace that had the object, if one had it, and the entry's number.
    entries: HashMap<Named, (Option<WorkspaceId>, u64)>,
    /// The same by number: in the order in which they were entered.
    order: BTreeMap<u64, Named>,
    next_number: u64,
}

/// The right to delete one object. Dropped without [`Deletion::answered`], the deletion is unanswered, if it was written.
#[derive(Debug)]
pub struct Deletion {
    named: Named,
    deletions: Deletions,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Deletions {
    /// Claims the right to delete an object, waiting for whoever has it. To be asked for before the transaction.
    pub(super) async fn claim(&self, caller: &Caller, subject: Subject) -> Deletion {
        let named = (tenant_of(caller), subject);
        let lock = Arc::clone(held(&self.locks).entry(named.clone()).or_default());
        let guard = lock.lock_owned().await;
        Deletion {
            named,
            deletions: self.clone(),
            guard: Some(guard),
        }
    }
}

impl Unanswered {
    fn insert(&mut self, named: &Named, workspace: Option<WorkspaceId>) {
        self.remove(named);
        let number = self.next_number;
        self.next_number += 1;
        self.entries.insert(named.clone(), (workspace, number));
        self.order.insert(number, named.clone());
        if self.order.len() > UNANSWERED_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }

    fn remove(&mut self, named: &Named) {
        if let Some((_, number)) = self.entries.remove(named) {
            self.order.remove(&number);
        }
    }
}

impl Deletion {
    /// Notes that the deletion is about to be committed, of an object of this workspace, if it was one's. Whatever becomes
    /// of the commit and its answer, the caller may try again.
    pub(super) fn commits(&self, workspace: Option<WorkspaceId>) {
        held(&self.deletions.unanswered).insert(&self.named, workspace);
    }

    /// There is no such object. If this caller's deletion of it is unanswered: what is left to publish of it. Else
    /// [`Error::NotFound`].
    pub(super) async fn resume(
        self,
        tx: &mut Tx,
        caller: &Caller,
        what: &'static str,
    ) -> Result<Changed<Self>, Error> {
        let entered = held(&self.deletions.unanswered).entries.get(&self.named).copied();
        let reaches = entered.is_some_and(|(workspace, _)| match caller.scope {
            Scope::SuperAdmin | Scope::Tenant { .. } => true,
            Scope::Workspace { workspace: own, .. } => workspace == Some(own),
            Scope::Inbox { .. } => false,
        });
        if !reaches {
            return Err(Error::NotFound(what));
        }
        let publish = match &self.named.1 {
            Subject::Tenant(id) => tx.unpublished_of(Owner::Tenant(*id)).await?,
            Subject::Workspace(id) => tx.unpublished_of(Owner::Workspace(*id)).await?,
            Subject::Inbox(id) => tx.unpublished_of(Owner::Inbox(*id)).await?,
            Subject::Address(inbox, address) => {
                if tx.has_left_unpublished(*inbox, address).await? {
                    vec![MapKey::Address(address.clone())]
                } else {
                    Vec::new()
                }
            }
            Subject::Domain(name) => tx.unpublished_at(name).await?,
        };
        Ok(Changed { value: self, publish })
    }

    /// The 200 has been handed to the connection.
    pub fn answered(self) {
        held(&self.deletions.unanswered).remove(&self.named);
    }
}

impl Drop for Deletion {
    fn drop(&mut self) {
        let mut locks = held(&self.deletions.locks);
        drop(self.guard.take());
        // One reference is the register's own; without another no caller waits.
        if locks
            .get(&self.named)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.named);
        }
    }
}

/// The tenant whose key this is.
fn tenant_of(caller: &Caller) -> Option<TenantId> {
    match caller.scope {
        Scope::SuperAdmin => None,
        Scope::Tenant { tenant } | Scope::Workspace { tenant, .. } | Scope::Inbox { tenant, .. } => {
            Some(tenant)
        }
    }
}

/// These locks are held for a few instructions that cannot panic half-way.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        clock::{Machine, new_id},
        model::ids::KeyId,
    };

    fn tenant_key() -> Caller {
        Caller {
            key: KeyId(new_id(&Machine, &Machine)),
            scope: Scope::Tenant {
                tenant: TenantId(new_id(&Machine, &Machine)),
            },
        }
    }

    fn inbox() -> Subject {
        Subject::Inbox(InboxId(new_id(&Machine, &Machine)))
    }

    fn is_unanswered(deletion: &Deletion) -> bool {
        held(&deletion.deletions.unanswered)
            .entries
            .contains_key(&deletion.named)
    }

    #[tokio::test]
    async fn the_second_deletion_waits_for_the_first() {
        let (deletions, caller, subject) = (Deletions::default(), tenant_key(), inbox());
        let first = deletions.claim(&caller, subject.clone()).await;
        let mut second = Box::pin(deletions.claim(&caller, subject.clone()));
        let waited = tokio::time::timeout(Duration::from_millis(20), second.as_mut()).await;
        assert!(waited.is_err(), "it did not wait");
        // Another tenant's keys name another object.
        drop(deletions.claim(&tenant_key(), subject).await);
        first.answered();
        drop(second.await);
        assert!(held(&deletions.locks).is_empty(), "locks are left behind");
    }

    #[tokio::test]
    async fn a_deletion_is_unanswered_from_its_commit_until_its_answer() {
        let (deletions, caller, subject) = (Deletions::default(), tenant_key(), inbox());
        let first = deletions.claim(&caller, subject.clone()).await;
        assert!(!is_unanswered(&first));
        first.commits(None);
        drop(first);
        let second = deletions.claim(&caller, subject.clone()).await;
        assert!(is_unanswered(&second));
        second.answered();
        let third = deletions.claim(&caller, subject).await;
        assert!(!is_unanswered(&third));
        assert!(held(&deletions.unanswered).order.is_empty());
    }

    #[tokio::test]
    async fn of_too_many_unanswered_deletions_the_oldest_are_forgotten() {
        let (deletions, caller, first) = (Deletions::default(), tenant_key(), inbox());
        deletions.claim(&caller, first.clone()).await.commits(None);
        let second = inbox();
        deletions.claim(&caller, second.clone()).await.commits(None);
        for _ in 2..=UNANSWERED_MAX {
            deletions.claim(&caller, inbox()).await.commits(None);
        }
        assert!(!is_unanswered(&deletions.claim(&caller, first).await));
        assert!(is_unanswered(&deletions.claim(&caller, second).await));
        assert_eq!(held(&deletions.unanswered).entries.len(), UNANSWERED_MAX);
    }
}
