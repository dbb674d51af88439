//! Bringing in mailboxes that another server knew, with the password hashes that they had there.
//!
//! The rules of a create hold: who may have which name, caps, one transaction with its marks. What differs: nothing is
//! numbered, since a mailbox that moves keeps its address; and an inbox is finished from the moment that it is in the
//! store, because its owner knows the password already, and no create may replace it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::{Error, Settings, place::is_usable};
use crate::{
    clock::{self, Clock, Entropy, Timestamp},
    model::{
        address::{Address, DomainName, LocalPart},
        ids::{InboxId, TenantId, WorkspaceId},
        limits::Limited,
        maps::MapKey,
        passwd_file::Entry,
        tenant::Tenant,
    },
    store::{BULK_ROWS_MAX, Claimant, Db, Holder, ImportedInbox, Tx},
};

/// Mailboxes that are brought in at a time: one transaction.
pub const BATCH_MAX: usize = if BULK_ROWS_MAX < 2_000 {
    BULK_ROWS_MAX
} else {
    2_000
};

/// An import into one workspace.
pub struct Import<'a> {
    /// What is true.
    pub db: &'a Db,
    /// What the operator decided.
    pub settings: &'a Settings,
    /// What time it is.
    pub clock: &'a dyn Clock,
    /// Where ids come from.
    pub entropy: &'a dyn Entropy,
    /// Who is to have the inboxes.
    pub tenant: TenantId,
    /// Where they are to be.
    pub workspace: WorkspaceId,
    /// Which tombstones give way.
    pub claimant: Claimant,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Imported {
    /// How many inboxes are new.
    pub new: u32,
    /// How many were there: the workspace had an inbox with this address already. Nothing of it was changed.
    pub already_there: u32,
    /// Those that somebody else has.
    pub taken: Vec<Address>,
}

/// What an address is to an import.
enum Standing {
    Free,
    AlreadyThere,
    Taken,
}

/// Finds the tenant, and the workspace: its default one, if none is named.
pub async fn target(
    db: &Db,
    tenant: TenantId,
    workspace: Option<WorkspaceId>,
) -> Result<(Tenant, WorkspaceId), Error> {
    let mut tx = db.read().await?;
    let tenant = tx.tenant(tenant).await?.ok_or(Error::NotFound("tenant"))?;
    let workspace = workspace.unwrap_or(tenant.default_workspace);
    match tx.workspace(tenant.id, workspace).await? {
        Some(_) => Ok((tenant, workspace)),
        None => Err(Error::NotFound("workspace")),
    }
}

impl Import<'_> {
    /// Requires that inboxes of the workspace may have addresses at this domain: it is the service's default one, or a
    /// verified one of the workspace.
    pub async fn require_domain(&self, domain: &DomainName) -> Result<(), Error> {
        self.require_domain_in(&mut self.db.read().await?, domain).await
    }

    async fn require_domain_in(&self, tx: &mut Tx, domain: &DomainName) -> Result<(), Error> {
        is_usable(self.settings, tx, self.workspace, domain, "domain").await
    }

    /// How many of these would be new inboxes.
    pub async fn count_new(&self, entries: &[Entry]) -> Result<u32, Error> {
        let mut tx = self.db.read().await?;
        let addresses: Vec<&Address> = entries.iter().map(|entry| &entry.address).collect();
        let standings = self.standings(&mut tx, &addresses, self.clock.now()).await?;
        let new = standings
            .iter()
            .filter(|standing| matches!(standing, Standing::Free));
        Ok(u32::try_from(new.count()).unwrap_or(u32::MAX))
    }

    /// Whether an inbox of this import could have this address now: no inbox has it, and no tombstone that holds.
    pub async fn is_free(&self, address: &Address) -> Result<bool, Error> {
        let mut tx = self.db.read().await?;
        let standings = self.standings(&mut tx, &[address], self.clock.now()).await?;
        Ok(matches!(standings.as_slice(), [Standing::Free]))
    }

    /// Refuses so many new inboxes if the tenant's cap does not allow them.
    pub async fn require_room(&self, new: u32) -> Result<(), Error> {
        let mut tx = self.db.read().await?;
        let tenant = tx.tenant(self.tenant).await?.ok_or(Error::NotFound("tenant"))?;
        match tenant.limits.inboxes {
            Some(max) if tenant.inbox_count.saturating_add(new) > max => Err(Error::PlanLimit {
                limit: Limited::Inboxes,
                current: tenant.inbox_count,
                max,
            }),
            _ => Ok(()),
        }
    }

    /// Brings in a batch of at most [`BATCH_MAX`] entries, none of whose addresses is there twice.
    pub async fn import(&self, entries: &[Entry]) -> Result<Imported, Error> {
        loop {
            if let Some(imported) = self.try_import(entries).await? {
                return Ok(imported);
            }
        }
    }

    /// The same; none, if somebody got one of the addresses between our look and our claim, which only PostgreSQL
    /// allows.
    async fn try_import(&self, entries: &[Entry]) -> Result<Option<Imported>, Error> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        if !tx.lock_tenant(self.tenant).await? {
            return Err(Error::NotFound("tenant"));
        }
        // It may have been deleted since all of it was checked.
        let domains: BTreeSet<&DomainName> = entries.iter().map(|entry| &entry.address.domain).collect();
        for domain in domains {
            self.require_domain_in(&mut tx, domain).await?;
        }
        let addresses: Vec<&Address> = entries.iter().map(|entry| &entry.address).collect();
        let standings = self.standings(&mut tx, &addresses, now).await?;
        let mut imported = Imported::default();
        let mut inboxes = Vec::new();
        for (entry, standing) in entries.iter().zip(standings) {
            match standing {
                Standing::Free => inboxes.push(ImportedInbox {
                    id: InboxId(self.new_id()),
                    address: &entry.address,
                    hash: &entry.hash,
                }),
                Standing::AlreadyThere => imported.already_there += 1,
                Standing::Taken => imported.taken.push(entry.address.clone()),
            }
        }
        if inboxes.is_empty() {
            return Ok(Some(imported));
        }
        // The order of the addresses, so that two transactions which touch the same rows do not wait for each other.
        inboxes.sort_unstable_by_key(|inbox| inbox.address);
        imported.new = u32::try_from(inboxes.len()).unwrap_or(u32::MAX);
        if !tx
            .count_new_inboxes(self.tenant, self.workspace, imported.new)
            .await?
        {
            drop(tx);
            self.require_room(imported.new).await?;
            return Err(Error::NotFound("workspace"));
        }
        if !tx
            .insert_imported(self.claimant, self.workspace, &inboxes, now)
            .await?
        {
            return Ok(None);
        }
        let marks: Vec<(MapKey, Uuid)> = inboxes
            .iter()
            .map(|inbox| (MapKey::Address(inbox.address.clone()), self.new_id()))
            .collect();
        tx.mark_all_unpublished(&marks).await?;
        tx.commit().await?;
        Ok(Some(imported))
    }

    /// The latest of the marks that there are now: the import's own, or one that was made since.
    pub async fn last_mark(&self) -> Result<Option<Uuid>, Error> {
        Ok(self.db.look().await?.last_mark().await?)
    }

    /// How many keys are still to be published of those that were marked until this mark.
    pub async fn unpublished(&self, until: Uuid) -> Result<u64, Error> {
        Ok(self.db.look().await?.unpublished_until(until).await?)
    }

    async fn standings(
        &self,
        tx: &mut Tx,
        addresses: &[&Address],
        now: Timestamp,
    ) -> Result<Vec<Standing>, Error> {
        let mut domains: BTreeMap<&DomainName, Vec<&LocalPart>> = BTreeMap::new();
        for address in addresses {
            domains
                .entry(&address.domain)
                .or_default()
                .push(&address.local_part);
        }
        let mut holders = HashMap::new();
        for (domain, names) in domains {
            for (name, holder) in tx.holders(domain, &names).await? {
                holders.insert((domain, name), holder);
            }
        }
        let standing = |address: &Address| {
            let name = address.local_part.as_str().to_owned();
            match holders.get(&(&address.domain, name)) {
                None => Standing::Free,
                Some(Holder::Inbox(tenant, workspace))
                    if (*tenant, *workspace) == (self.tenant, self.workspace) =>
                {
                    Standing::AlreadyThere
                }
                Some(Holder::Tombstone(tenant, workspace, until))
                    if *until <= now || self.claimant.may_take(*tenant, *workspace) =>
                {
                    Standing::Free
                }
                Some(_) => Standing::Taken,
            }
        };
        Ok(addresses.iter().map(|address| standing(address)).collect())
    }

    fn new_id(&self) -> Uuid {
        clock::new_id(self.clock, self.entropy)
    }
}
