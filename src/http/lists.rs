//! Pages of lists: bounded in octets, and so many at a time.
//!
//! A page may be large, and its caller may take it slowly. So few of them exist at a time, from the first read of the
//! store until the connection has handed the last octet to the kernel, and one tenant has a share of them only. All other
//! answers are small.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{extract, problem::Problem};
use crate::{
    model::api_key::{Caller, Scope},
    ops::{PAGE_MAX_OCTETS, inboxes::Page},
};

/// Most pages that exist at a time.
const PAGES_MAX: usize = 32;
/// Most of them that one tenant has.
const PAGES_PER_TENANT_MAX: usize = 8;
/// Most tenants that are remembered though they have no page.
const IDLE_TENANTS_MAX: usize = 256;

/// How a list goes on.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pagination {
    /// At most this many objects are in one answer.
    limit: u32,
    /// Give it as `cursor` to get the next page; null on the last one. A page may be shorter than `limit` because it would
    /// be too large otherwise: this alone says whether there is another one.
    next_cursor: Option<String>,
}

/// The places of pages.
#[derive(Debug)]
pub struct PagePlaces {
    all: Arc<Semaphore>,
    tenants: Mutex<HashMap<Uuid, Weak<Semaphore>>>,
}

/// The place of one page, free again when this is dropped. The list of an inbox's own key is small and needs none.
#[derive(Debug)]
pub(super) struct PagePlace(#[expect(dead_code, reason = "held until it is dropped")] Option<Place>);

#[derive(Debug)]
struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_tenant: OwnedSemaphorePermit,
    /// Keeps the tenant's share known for as long as it has a page.
    _tenant: Arc<Semaphore>,
}

impl Default for PagePlaces {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(PAGES_MAX)),
            tenants: Mutex::default(),
        }
    }
}

impl PagePlaces {
    /// Waits for a place for a page for this caller: first in its tenant's share, then among all.
    pub(super) async fn take(&self, caller: &Caller) -> Result<PagePlace, Problem> {
        let share = self.share_of(match caller.scope {
            Scope::SuperAdmin => Uuid::nil(),
            Scope::Tenant { tenant } | Scope::Workspace { tenant, .. } => tenant.0,
            Scope::Inbox { .. } => return Ok(PagePlace(None)),
        });
        let closed = |error| Problem::internal(&error);
        let of_tenant = Arc::clone(&share).acquire_owned().await.map_err(closed)?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.map_err(closed)?;
        Ok(PagePlace(Some(Place {
            _of_all: of_all,
            _of_tenant: of_tenant,
            _tenant: share,
        })))
    }

    fn share_of(&self, tenant: Uuid) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = tenants.get(&tenant).and_then(Weak::upgrade) {
            return share;
        }
        if tenants.len() >= IDLE_TENANTS_MAX {
            tenants.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(PAGES_PER_TENANT_MAX));
        tenants.insert(tenant, Arc::downgrade(&share));
        share
    }
}

/// The objects of a page as callers see them, as many as [`PAGE_MAX_OCTETS`] have room for and at least one, and how the
/// list goes on.
pub(super) fn views_of<T, Id, V: Serialize>(
    page: Page<T, Id>,
    uuid_of: impl Fn(&Id) -> Uuid,
    id_of: impl Fn(&T) -> Uuid,
    view_of: impl Fn(T) -> V,
) -> Result<(Vec<V>, Pagination), Problem> {
    let mut next = page.next.as_ref().map(uuid_of);
    let (mut views, mut octets, mut last) = (Vec::new(), 0, None);
    for item in page.items {
        let id = id_of(&item);
        let view = view_of(item);
        octets += size_of(&view)?;
        if octets > PAGE_MAX_OCTETS && last.is_some() {
            next = last;
            break;
        }
        last = Some(id);
        views.push(view);
    }
    let pagination = Pagination {
        limit: page.limit,
        next_cursor: next.map(extract::cursor_of),
    };
    Ok((views, pagination))
}

/// The answer with a page. Its place is free when the last octet of it is freed.
pub(super) fn answer(place: PagePlace, body: &impl Serialize) -> Result<Response, Problem> {
    let octets = serde_json::to_vec(body).map_err(|error| Problem::internal(&error))?;
    let held = HeldOctets {
        octets,
        _place: place,
    };
    let body = Body::from(Bytes::from_owner(held));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

struct HeldOctets {
    octets: Vec<u8>,
    _place: PagePlace,
}

impl AsRef<[u8]> for HeldOctets {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// How many octets a value takes as JSON.
fn size_of(value: &impl Serialize) -> Result<usize, Problem> {
    struct Count(usize);

    impl io::Write for Count {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0 += octets.len();
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).map_err(|error| Problem::internal(&error))?;
    Ok(count.0)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::model::ids::{KeyId, TenantId};

    fn page(sizes: &[usize], next: Option<u128>) -> Page<(u128, usize), u128> {
        Page {
            items: (1..).zip(sizes.iter().copied()).collect(),
            limit: 1000,
            next,
        }
    }

    /// How many objects a page of objects of these sizes has, and after which one the next begins.
    fn cut(sizes: &[usize], next: Option<u128>) -> (usize, Option<String>) {
        let page = page(sizes, next);
        let cut = views_of(
            page,
            |&id| Uuid::from_u128(id),
            |item| Uuid::from_u128(item.0),
            |item| "x".repeat(item.1),
        );
        let (views, pagination) = cut.unwrap();
        (views.len(), pagination.next_cursor)
    }

    #[test]
    fn a_page_ends_before_it_is_too_large_and_the_next_begins_there() {
        let cursor = |id| Some(extract::cursor_of(Uuid::from_u128(id)));
        assert_eq!(cut(&[10, 10], None), (2, None));
        assert_eq!(cut(&[10, 10], Some(2)), (2, cursor(2)));
        let third = PAGE_MAX_OCTETS / 3;
        assert_eq!(cut(&[third; 5], Some(5)), (2, cursor(2)));
        assert_eq!(cut(&[third; 3], None), (2, cursor(2)));
        // One that is too large by itself is a page of its own.
        assert_eq!(cut(&[PAGE_MAX_OCTETS * 2, 1], None), (1, cursor(1)));
        assert_eq!(cut(&[], None), (0, None));
    }

    #[test]
    fn a_tenant_has_its_share_of_the_places_and_leaves_the_rest() {
        let places = PagePlaces::default();
        let caller = |tenant| Caller {
            key: KeyId(Uuid::nil()),
            scope: Scope::Tenant {
                tenant: TenantId(Uuid::from_u128(tenant)),
            },
        };
        let now = |tenant| places.take(&caller(tenant)).now_or_never().map(Result::unwrap);
        let mut held: Vec<_> = (0..PAGES_PER_TENANT_MAX).map(|_| now(1).unwrap()).collect();
        assert!(now(1).is_none());
        assert!(now(2).is_some());
        held.pop();
        held.push(now(1).unwrap());
        assert!(now(1).is_none());
        let mut tenant = 2;
        while held.len() < PAGES_MAX {
            held.push(now(tenant).unwrap());
            tenant += 1;
        }
        assert!(now(1_000).is_none());
        held.clear();
        assert!(now(1_000).is_some());
    }

    #[test]
    fn tenants_without_a_page_are_forgotten() {
        let places = PagePlaces::default();
        for tenant in 0..10 * IDLE_TENANTS_MAX {
            places.share_of(Uuid::from_u128(tenant as u128));
        }
        assert!(places.tenants.lock().unwrap().len() <= IDLE_TENANTS_MAX);
    }
}
