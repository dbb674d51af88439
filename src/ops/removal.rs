//! The end of deleted rows: of revoked keys, and of domains, inboxes and workspaces that were deleted.
//!
//! A row goes when nothing needs it: the change that deleted it has been published, no call that knew it is under way,
//! and no tombstone or kept answer refers to it. Mail is not touched: what lies under an id that no live inbox has is
//! mail of a deleted one.

use super::Service;
use crate::{
    store::{self, DeletedRows, RemovalCursor},
    telemetry::metric,
};

/// How long a deleted row stays at least: longer than any call that began before it was deleted.
const GRACE_S: i64 = 120;
/// Rows of one page, and so of one transaction.
const PAGE_ROWS: u32 = 200;
/// Pages of each kind that one pass reads. Rows that have to stay are read again when the walk begins again.
const PAGES_MAX: usize = 50;

/// Where the walk over each kind of rows is. A new one begins at the oldest.
#[derive(Clone, Default, Debug)]
pub struct Walk([Option<RemovalCursor>; DeletedRows::ALL.len()]);

/// Removes the deleted rows that nothing needs, in short transactions, and goes on where the last pass ended. Returns
/// how many rows it removed.
pub async fn remove_deleted(service: &Service, walk: &mut Walk) -> Result<u64, store::Error> {
    let mut tx = service.db.read().await?;
    let now = service.now();
    // A change is dated a little before its mark is made; the grace is more than that.
    let all_is_published_until = tx.unpublished_since().await?.map_or(now, |since| since.min(now));
    drop(tx);
    let until = all_is_published_until.plus_seconds(-GRACE_S);
    let mut all = 0;
    for _ in 0..PAGES_MAX {
        let mut tx = service.db.write().await?;
        let removed = tx.remove_tombstones(until, PAGE_ROWS).await?;
        tx.commit().await?;
        metric::ROWS_REMOVED_TOTAL.add(removed, &["addresses"]);
        all += removed;
        if removed < u64::from(PAGE_ROWS) {
            break;
        }
    }
    for (rows, cursor) in DeletedRows::ALL.into_iter().zip(&mut walk.0) {
        for _ in 0..PAGES_MAX {
            let mut tx = service.db.read().await?;
            let page = tx.deleted_rows(rows, until, *cursor, PAGE_ROWS).await?;
            drop(tx);
            if !page.removable.is_empty() {
                let mut tx = service.db.write().await?;
                let removed = tx.remove_rows(rows, &page.removable).await?;
                tx.commit().await?;
                metric::ROWS_REMOVED_TOTAL.add(removed, &[rows.table()]);
                all += removed;
            }
            *cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(all)
}
