//! Lists of registrations of custom domains, narrowed by name and status.

use inboxd::{
    clock::{Clock as _, Machine, Timestamp},
    model::{
        domain::{Challenge, Contest, Domain, DomainStatus, lapsed_before},
        ids::{DomainId, WorkspaceId},
        limits::Limits,
        tenant::Tenant,
    },
    store::{DomainFilter, DomainSearch},
};

use crate::support::store::{Store, domain, fresh_id, on_both};

const PENDING_DAYS: u32 = 14;

/// A registration that is written, in one of the states.
async fn registered(
    store: &Store,
    tenant: &Tenant,
    (workspace, name): (WorkspaceId, &str),
    status: DomainStatus,
    now: Timestamp,
) -> Domain {
    // A registration has lapsed from the very moment on that its days are over.
    let created_at = match status {
        DomainStatus::Failed => lapsed_before(now, PENDING_DAYS),
        _ => lapsed_before(now, PENDING_DAYS).plus_seconds(1),
    };
    let mut registered = Domain::registered(
        DomainId(fresh_id()),
        (tenant.id, workspace),
        domain(name),
        Challenge::generate(&Machine),
        created_at,
    );
    let mut tx = store.db.write().await.unwrap();
    assert!(tx.insert_domain(&registered).await.unwrap());
    if matches!(status, DomainStatus::Verified | DomainStatus::Degraded) {
        assert!(tx.verify_domain(registered.id, now).await.unwrap());
        registered.verified_at = Some(now);
        registered.degraded_since = (status == DomainStatus::Degraded).then_some(now);
        tx.write_findings(&registered).await.unwrap();
    }
    if status == DomainStatus::Contested {
        let contest = Contest {
            holder: registered.id,
            since: now,
        };
        tx.write_contest(registered.id, Some(contest)).await.unwrap();
        registered.contest = Some(contest);
    }
    tx.commit().await.unwrap();
    assert_eq!(registered.status(now, PENDING_DAYS), status);
    registered
}

#[tokio::test]
async fn a_list_is_narrowed_by_name_status_and_workspace() {
    use DomainStatus::{Contested, Degraded, Failed, Pending, Verified};
    on_both(async |store| {
        let now = Machine.now();
        let (acme, other) = (
            store.tenant("Acme", Limits::default()).await,
            store.tenant("Other", Limits::default()).await,
        );
        let (home, second) = (acme.default_workspace, store.workspace(&acme, "second").await.id);
        let mut all = Vec::new();
        for (workspace, name, status) in [
            (home, "a.example", Pending),
            (home, "b.example", Verified),
            (home, "c.example", Degraded),
            (home, "d.example", Failed),
            (home, "f.example", Contested),
            (second, "a.example", Pending),
            (second, "b.example", Failed),
            (second, "e.example", Verified),
        ] {
            all.push(registered(&store, &acme, (workspace, name), status, now).await);
        }
        registered(
            &store,
            &other,
            (other.default_workspace, "a.example"),
            Pending,
            now,
        )
        .await;
        all.sort_by_key(|domain| std::cmp::Reverse(domain.id));

        let mut tx = store.db.read().await.unwrap();
        let names = [None, Some(domain("a.example")), Some(domain("none.example"))];
        for workspace in [None, Some(home), Some(second)] {
            for status in [
                None,
                Some(Pending),
                Some(Verified),
                Some(Degraded),
                Some(Contested),
                Some(Failed),
            ] {
                for name in &names {
                    let wanted: Vec<DomainId> = all
                        .iter()
                        .filter(|domain| workspace.is_none_or(|workspace| domain.workspace == workspace))
                        .filter(|domain| {
                            status.is_none_or(|status| domain.status(now, PENDING_DAYS) == status)
                        })
                        .filter(|domain| name.as_ref().is_none_or(|name| domain.name == *name))
                        .map(|domain| domain.id)
                        .collect();
                    let filter = DomainFilter {
                        tenant: acme.id,
                        workspace,
                    };
                    let search = DomainSearch {
                        name: name.as_ref(),
                        status,
                        lapsed_before: lapsed_before(now, PENDING_DAYS),
                    };
                    // One at a time, so that the cursor is used.
                    let mut found = Vec::new();
                    while let page = tx
                        .domains(filter, search, found.last().copied(), 1)
                        .await
                        .unwrap()
                        && !page.is_empty()
                    {
                        found.extend(page.iter().map(|domain| domain.id));
                    }
                    assert_eq!(found, wanted, "{workspace:?} {status:?} {name:?}");
                }
            }
        }
    })
    .await;
}
