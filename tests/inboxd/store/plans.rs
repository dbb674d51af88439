//! The statements of the request path use indexes: their cost does not grow with the number of inboxes.
//!
//! The texts are those that run: sqlx logs every statement, and this test reads the log.

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    slice,
    sync::{LazyLock, Mutex},
};

use inboxd::{
    clock::{Clock as _, Machine},
    model::{
        api_key::{ApiKey, KeyKind, Scope},
        dkim::{Algorithm, PublicKey, Selector},
        domain::{Challenge, DkimKey, Domain, DomainStatus},
        ids::{DkimKeyId, DomainId, InboxId, KeyId},
        inbox::SearchText,
        limits::Limits,
        made::Made,
        maps::MapKey,
        metadata::Metadata,
        names::Slug,
        sasl_name::{Generation, SaslName},
        tenant::Tenant,
    },
    ops::PAGE_MAX_OCTETS,
    store::{
        DeletedRows, DomainFilter, DomainSearch, FreshInbox, ImportedInbox, InboxFilter, InboxSearch,
        NewInbox, NewKey, NewSecrets, Owner, SessionsToEnd, Started, Tx,
    },
};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    layer::{Context, SubscriberExt as _},
};

use crate::support::{
    daemon::Database,
    store::{Store, address, at_home, domain, fresh_id, hash, kept_answer, local_part},
};

/// Every distinct statement that any store of this process has run.
static RUN: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(Mutex::default);

/// Statements that read all of something, and may: they run at start, now and then, or on things that are few.
const MAY_SCAN: [(&str, &str); 4] = [
    (
        "SELECT d.name, i.local_part, i.domain FROM domains d LEFT JOIN inboxes i ON i.id = d.catch_all_inbox_id AND \
         i.deleted_at IS NULL WHERE d.verified_at IS NOT NULL AND d.deleted_at IS NULL ORDER BY d.name",
        "all domains, at start",
    ),
    (
        "SELECT d.name, k.sealed_private_key, k.id, k.selector, k.algorithm, k.public_key, k.created_at, k.seen_at, \
         k.retired_at FROM dkim_keys k JOIN domains d ON d.id = k.domain_id WHERE d.verified_at IS NOT NULL AND \
         d.deleted_at IS NULL UNION ALL",
        "the keys of all domains, at start",
    ),
    (
        "SELECT a.local_part AS address_local_part, a.domain AS address_domain, i.id, i.local_part",
        "all addresses, page by page, at start",
    ),
    (
        "INSERT INTO inboxes (id, tenant_id, workspace_id, local_part, domain, requested_local_part,",
        "the scans are planned for a statement that breaks foreign keys, and are left out otherwise (OP_FkIfZero)",
    ),
];

/// Parts of statements, and the index and the columns of it that they must use: the whole of the question, not only
/// whose inboxes they are.
const MUST_USE: [(&str, &str); 35] = [
    (
        "FROM api_keys r WHERE",
        "api_keys_revoked ((revoked_at,id)>(?,?) AND revoked_at<?)",
    ),
    (
        "FROM domains r WHERE",
        "domains_deleted ((deleted_at,id)>(?,?) AND deleted_at<?)",
    ),
    (
        "FROM inboxes r WHERE",
        "inboxes_deleted ((deleted_at,id)>(?,?) AND deleted_at<?)",
    ),
    (
        "FROM workspaces r WHERE",
        "workspaces_deleted ((deleted_at,id)>(?,?) AND deleted_at<?)",
    ),
    (
        "SELECT e.domain, e.local_part FROM addresses e",
        "addresses_ended (held_until<?)",
    ),
    (
        "FROM domains d WHERE d.deleted_at IS NULL AND d.tenant_id = $1 AND d.id < $2 AND ($4",
        "domains_of_tenant (tenant_id=? AND id<?)",
    ),
    // As many as a tenant has, of which a cap says how many: it reads them in their order, and sorts none.
    (
        "d.tenant_id = $1 AND d.id < $2 AND d.name = $6",
        "domains_of_tenant (tenant_id=? AND id<?)",
    ),
    (
        "d.tenant_id = $1 AND d.id < $2 AND d.workspace_id = $6 AND d.name = $7",
        "domains_registered (workspace_id=? AND name=?)",
    ),
    ("WHERE k.hash IN", "api_keys_hash (hash=?)"),
    (
        "FROM api_keys WHERE tenant_id IS NULL AND workspace_id IS NULL AND inbox_id IS NULL",
        "api_keys_listed (tenant_id=? AND workspace_id=?)",
    ),
    (
        "FROM api_keys WHERE tenant_id = $1 AND workspace_id IS NULL AND inbox_id IS NULL",
        "api_keys_listed (tenant_id=? AND workspace_id=?)",
    ),
    (
        "FROM api_keys WHERE tenant_id = $1 AND workspace_id = $2 AND inbox_id IS NULL",
        "api_keys_listed (tenant_id=? AND workspace_id=?)",
    ),
    (
        "AND i.requested_local_part = $4",
        "inboxes_requested (tenant_id=? AND domain=? AND requested_local_part=?)",
    ),
    (
        "w.id = COALESCE($2",
        "workspaces_of_tenant (tenant_id=? AND id=?)",
    ),
    ("WHERE a.inbox_id > $1", "addresses_of_inbox (inbox_id>?)"),
    (
        "AND requested_local_part = $3",
        "inboxes_requested (tenant_id=? AND domain=? AND requested_local_part=?)",
    ),
    (
        "requested_local_part IS NULL AND acknowledged_at IS NULL",
        "inboxes_unfinished (workspace_id=? AND domain=?)",
    ),
    (
        "n.local_part = $5",
        "inboxes_named (tenant_id=? AND local_part=?)",
    ),
    (
        "local_part IN ($5, $6,",
        "sqlite_autoindex_addresses_1 (domain=? AND local_part=?)",
    ),
    (
        "WHERE a.domain = $1 AND a.local_part IN (",
        "sqlite_autoindex_addresses_1 (domain=? AND local_part=?)",
    ),
    (
        "WHERE mark <= $1 AND end_sessions_since IS NULL",
        "unpublished_mark (mark<?)",
    ),
    (
        "(SELECT inbox_id FROM addresses WHERE domain",
        "sqlite_autoindex_addresses_1 (domain=? AND local_part=?)",
    ),
    (
        "FROM wanted w JOIN addresses a",
        "sqlite_autoindex_addresses_1 (domain=? AND local_part=?)",
    ),
    (
        "SELECT tenant_id, domain, requested_local_part FROM inboxes",
        "inboxes_requested (tenant_id=? AND domain=? AND requested_local_part=?)",
    ),
    (
        "FROM unpublished WHERE map_key IN",
        "sqlite_autoindex_unpublished_1 (map_key=?)",
    ),
    (
        "DELETE FROM unpublished WHERE mark IN",
        "unpublished_mark (mark=?)",
    ),
    (
        "UPDATE inboxes SET acknowledged_at",
        "sqlite_autoindex_inboxes_1 (id=?)",
    ),
    (
        "SET inbox_count = inbox_count + $1 WHERE deleted_at IS NULL AND (max",
        "sqlite_autoindex_tenants_1 (id=?)",
    ),
    (
        "SET inbox_count = inbox_count + $1 WHERE deleted_at IS NULL AND id",
        "sqlite_autoindex_workspaces_1 (id=?)",
    ),
    (
        "WHERE (a.domain, a.local_part) > ($1, $2)",
        "sqlite_autoindex_addresses_1 ((domain,local_part)>(?,?))",
    ),
    (
        "tenant_id = $1 AND id < $2 ORDER BY",
        "inboxes_of_tenant (tenant_id=? AND id<?)",
    ),
    (
        "tenant_id = $1 AND id < $2 AND workspace_id = $4 ORDER BY",
        "inboxes_of_workspace (workspace_id=? AND id<?)",
    ),
    (
        "WHERE tenant_id = $1 AND inbox_id IS NULL AND held_until > $2 ORDER BY",
        "COVERING INDEX addresses_held (tenant_id=? AND held_until>?)",
    ),
    (
        "UPDATE addresses SET held_until = $1 WHERE inbox_id IS NULL AND (domain, local_part) IN",
        "sqlite_autoindex_addresses_1 (domain=? AND local_part=?)",
    ),
    (
        "FROM idempotent_requests WHERE caller_key_id",
        "idempotent_requests_key (caller_key_id=? AND path=? AND idempotency_key=?)",
    ),
];

/// Keeps what sqlx logs of statements: a short text in `summary`, and the whole in `db.statement` if it is longer.
struct Recorder;

#[derive(Default)]
struct Statement {
    summary: String,
    whole: String,
}

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.whole),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut statement = Statement::default();
        event.record(&mut statement);
        let text = if statement.whole.is_empty() {
            statement.summary
        } else {
            statement.whole
        };
        RUN.lock()
            .unwrap()
            .insert(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

/// Runs every statement of the request path once.
#[expect(clippy::too_many_lines, reason = "one call of everything there is")]
async fn call_everything(store: &Store) {
    let tenant = store.tenant("Acme", Limits::default()).await;
    let home = tenant.default_workspace;
    let inbox = store
        .inbox_requested(&tenant, home, "scout1@example.com", Some("scout"))
        .await;
    let (now, scout) = (Machine.now(), address("scout1@example.com"));
    let caller = KeyId(fresh_id());
    let key = ApiKey::generate(KeyKind::Inbox, &Machine);
    let mut tx = store.db.write().await.unwrap();
    tx.insert_key(&NewKey {
        id: caller,
        key: &key,
        scope: Scope::Inbox {
            tenant: tenant.id,
            workspace: home,
            inbox,
        },
        name: None,
        created_at: now,
    })
    .await
    .unwrap();
    assert!(tx.keys_by_hash(&[key.hash(), key.hash()]).await.unwrap()[0].is_some());
    let wanted = address("new@example.com");
    tx.place(tenant.id, Some(home), Some(&wanted))
        .await
        .unwrap()
        .unwrap();
    tx.tenant(tenant.id).await.unwrap().unwrap();
    tx.tenants(None, 10).await.unwrap();
    tx.update_tenant(&tenant).await.unwrap();
    tx.lock_tenant(tenant.id).await.unwrap();
    tx.count_new_inbox(tenant.id).await.unwrap();
    tx.count_new_workspace(tenant.id).await.unwrap();
    tx.count_gone(tenant.id, 1, 1).await.unwrap();
    tx.workspace(tenant.id, home).await.unwrap().unwrap();
    tx.workspaces(tenant.id, None, 10).await.unwrap();
    tx.change_workspace_slug(home, &Slug::parse("home").unwrap())
        .await
        .unwrap();
    tx.count_inboxes_of_workspace(home, 1).await.unwrap();
    for scope in [
        Scope::SuperAdmin,
        Scope::Tenant { tenant: tenant.id },
        Scope::Workspace {
            tenant: tenant.id,
            workspace: home,
        },
    ] {
        tx.keys_of(scope).await.unwrap();
    }
    tx.revoke_key(caller, now).await.unwrap();
    tx.inbox(inbox).await.unwrap().unwrap();
    tx.inbox_at(&scout).await.unwrap().unwrap();
    for workspace in [None, Some(home)] {
        tx.inbox_requested_as(tenant.id, workspace, &address("scout@example.com"))
            .await
            .unwrap()
            .unwrap();
    }
    tx.unfinished_unnamed_inboxes(home, &domain("example.com"), 10)
        .await
        .unwrap();
    for filtered in 0..8 {
        let filter = InboxFilter {
            workspace: (filtered & 1 != 0).then_some(home),
            username: (filtered & 2 != 0).then(|| local_part("scout1")),
            email: (filtered & 4 != 0).then(|| scout.clone()),
            before: None,
        };
        tx.inboxes(tenant.id, &filter, 10, PAGE_MAX_OCTETS).await.unwrap();
        for searched in 1..4 {
            let search = InboxSearch {
                domain: (searched & 1 != 0).then(|| domain("example.com")),
                text: (searched & 2 != 0).then(|| SearchText::parse("out").unwrap()),
            };
            tx.search_inboxes(tenant.id, &filter, &search, 10, PAGE_MAX_OCTETS, 100)
                .await
                .unwrap();
        }
    }
    tx.inbox_secrets(inbox).await.unwrap().unwrap();
    tx.renew_secrets(
        inbox,
        NewSecrets {
            password_hash: &hash(2),
            sealed_password: None,
        },
    )
    .await
    .unwrap();
    let sasl_name = SaslName {
        inbox,
        generation: Generation(NonZeroU32::new(2).unwrap()),
    };
    assert!(tx.replace_hash(sasl_name, &hash(2), &hash(3)).await.unwrap());
    tx.describe_inbox(inbox, None, &Metadata::default())
        .await
        .unwrap();
    tx.acknowledge_inboxes(&[inbox, inbox], now).await.unwrap();
    tx.taken_names(
        &domain("example.com"),
        &[local_part("scout")],
        at_home(&tenant),
        now,
    )
    .await
    .unwrap();
    let further = address("sales@example.com");
    assert!(
        tx.claim_address(&further, at_home(&tenant), inbox, None, now)
            .await
            .unwrap()
    );
    assert!(tx.make_primary(inbox, &further, now).await.unwrap());
    assert!(tx.leave_address(inbox, &further, now).await.unwrap());
    assert!(!tx.has_left_unpublished(inbox, &further).await.unwrap());
    let before = now.plus_seconds(-1);
    assert_eq!(tx.release_tombstones(tenant.id, 0, 10, before).await.unwrap(), 1);
    assert_eq!(tx.inbox_cap(tenant.id).await.unwrap(), Some(None));
    tx.address_states(&[&scout, &scout]).await.unwrap();
    tx.tenants_at(&[scout.clone(), scout.clone()]).await.unwrap();
    tx.tenants_of(&[inbox, inbox]).await.unwrap();
    tx.address_states_after(None, 10).await.unwrap();
    tx.address_states_after_inbox(None, 10).await.unwrap();
    tx.domain_of_workspace(home, &domain("example.com"))
        .await
        .unwrap();
    call_everything_of_domains(&mut tx, &tenant, inbox).await;
    let key = MapKey::Address(scout);
    tx.mark_unpublished(&key, fresh_id(), SessionsToEnd::All, now)
        .await
        .unwrap();
    let pending = tx
        .unpublished_keys(&[key.clone(), key])
        .await
        .unwrap()
        .pop()
        .unwrap();
    tx.unpublished(None, 10).await.unwrap();
    tx.clear_unpublished(&[pending.clone(), pending]).await.unwrap();
    call_everything_in_bulk(&mut tx, &tenant).await;
    let fresh = [("new", fresh_id()), ("newer", fresh_id())].map(|(name, id)| {
        (
            InboxId(id),
            address(&format!("{name}@example.com")),
            ApiKey::generate(KeyKind::Inbox, &Machine),
        )
    });
    let (password_hash, scope) = (hash(3), Scope::Tenant { tenant: tenant.id });
    let metadata = Metadata::default();
    let rows = fresh.each_ref().map(|(id, canonical, key)| FreshInbox {
        inbox: NewInbox {
            id: *id,
            tenant: tenant.id,
            workspace: home,
            canonical,
            requested: Some(&canonical.local_part),
            display_name: None,
            metadata: &metadata,
            secrets: NewSecrets {
                password_hash: &password_hash,
                sealed_password: None,
            },
            created_at: now,
        },
        key: NewKey {
            id: KeyId(fresh_id()),
            key,
            scope,
            name: None,
            created_at: now,
        },
        mark: fresh_id(),
    });
    assert_eq!(tx.insert_fresh_inboxes(&rows).await.unwrap(), Vec::<usize>::new());
    let started = Started {
        id: fresh_id(),
        caller,
        path: "/v1/inboxes".to_owned(),
        idempotency_key: "k".to_owned(),
        request_hash: [0; 32],
        started_at: now,
        owner: tenant.id.0,
    };
    tx.start_idempotent(&started, 1).await.unwrap();
    tx.kept_request(&started).await.unwrap().unwrap();
    tx.keep_answer(started.id, &kept_answer(Made::inbox(inbox)))
        .await
        .unwrap();
    for unfinished in [false, true] {
        tx.forget_requests_before(now.plus_seconds(-1), unfinished)
            .await
            .unwrap();
    }
    tx.abandon_request(started.id).await.unwrap();
    tx.forget_request(started.id).await.unwrap();
    tx.sealing_key_fingerprint().await.unwrap();
    for owner in [
        Owner::Inbox(inbox),
        Owner::Workspace(home),
        Owner::Tenant(tenant.id),
    ] {
        tx.addresses_of(owner).await.unwrap();
        tx.unpublished_of(owner).await.unwrap();
        tx.delete_inboxes_of(owner, now, now).await.unwrap();
        tx.revoke_keys_of(owner, now).await.unwrap();
    }
    tx.delete_workspace(home, now).await.unwrap();
    tx.delete_tenant(tenant.id, now).await.unwrap();
    tx.unpublished_since().await.unwrap();
    tx.remove_tombstones(before, 10).await.unwrap();
    for rows in DeletedRows::ALL {
        tx.deleted_rows(rows, now, None, 10).await.unwrap();
        tx.remove_rows(rows, &[fresh_id()]).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// Runs every statement of an import once, for two inboxes at a time.
async fn call_everything_of_domains(tx: &mut Tx, tenant: &Tenant, inbox: InboxId) {
    let now = Machine.now();
    let (workspace, name) = (tenant.default_workspace, domain("acme.example"));
    let acme = Domain {
        checked_at: Some(now),
        ..Domain::registered(
            DomainId(fresh_id()),
            (tenant.id, workspace),
            name.clone(),
            Challenge::generate(&Machine),
            now,
        )
    };
    assert!(tx.insert_domain(&acme).await.unwrap());
    tx.renew_domain(&acme).await.unwrap();
    tx.write_findings(&acme).await.unwrap();
    assert!(tx.verify_domain(acme.id, now).await.unwrap());
    tx.set_catch_all(acme.id, Some(inbox), now).await.unwrap();
    assert!(tx.domain(acme.id).await.unwrap().is_some());
    for workspace in [None, Some(workspace)] {
        let filter = DomainFilter {
            tenant: tenant.id,
            workspace,
        };
        assert!(tx.domain_named(filter, &name).await.unwrap().is_some());
        for name in [None, Some(&name)] {
            let search = DomainSearch {
                name,
                status: Some(DomainStatus::Verified),
                lapsed_before: now,
            };
            assert_eq!(tx.domains(filter, search, None, 10).await.unwrap().len(), 1);
        }
    }
    assert_eq!(tx.count_domains(tenant.id, now).await.unwrap(), 1);
    assert_eq!(
        tx.verified_domains(slice::from_ref(&name)).await.unwrap().len(),
        1
    );
    assert_eq!(tx.domain_states(&[&name], &name).await.unwrap().len(), 1);
    assert_eq!(tx.all_domain_states(&name).await.unwrap().len(), 1);
    assert_eq!(tx.domains_to_check(now, 10).await.unwrap().len(), 1);
    assert_eq!(tx.count_inboxes_at(tenant.id, &name).await.unwrap(), 0);
    let (left, without_primary) = tx.leave_domain(&name, now).await.unwrap();
    assert!(left.is_empty() && without_primary.is_empty());
    let key = DkimKey {
        id: DkimKeyId(fresh_id()),
        public: PublicKey {
            selector: Selector::parse("s1").unwrap(),
            algorithm: Algorithm::Ed25519Sha256,
            octets: vec![1; 32],
        },
        created_at: now,
        seen_at: None,
        retired_at: None,
    };
    tx.insert_dkim_key(Some(acme.id), &key, &[1]).await.unwrap();
    assert_eq!(tx.dkim_keys(Some(acme.id)).await.unwrap(), slice::from_ref(&key));
    tx.update_dkim_key(&key).await.unwrap();
    tx.delete_dkim_key(key.id).await.unwrap();
    tx.delete_dkim_keys(acme.id).await.unwrap();
    let mark = MapKey::Domain(name.clone());
    tx.mark_unpublished(&mark, fresh_id(), SessionsToEnd::None, now)
        .await
        .unwrap();
    assert_eq!(tx.unpublished_at(&name).await.unwrap(), slice::from_ref(&mark));
    for owner in [
        Owner::Workspace(workspace),
        Owner::Tenant(tenant.id),
        Owner::Inbox(inbox),
    ] {
        assert!(
            tx.unpublished_of(owner).await.unwrap().contains(&mark),
            "{owner:?}"
        );
    }
    let pending = tx.unpublished_keys(&[mark]).await.unwrap();
    tx.clear_unpublished(&pending).await.unwrap();
    tx.delete_domain(acme.id, now).await.unwrap();
    for owner in [
        Owner::Inbox(inbox),
        Owner::Workspace(workspace),
        Owner::Tenant(tenant.id),
    ] {
        tx.delete_dkim_keys_of(owner).await.unwrap();
        assert_eq!(tx.clear_catch_alls_of(owner, now).await.unwrap(), []);
        assert_eq!(tx.delete_domains_of(owner, now).await.unwrap(), []);
    }
}

async fn call_everything_in_bulk(tx: &mut Tx, tenant: &Tenant) {
    let names = ["ada", "bob"].map(local_part);
    let addresses = names
        .each_ref()
        .map(|name| address(&format!("{name}@example.com")));
    tx.holders(&domain("example.com"), &names.each_ref())
        .await
        .unwrap();
    let counted = tx.count_new_inboxes(tenant.id, tenant.default_workspace, 2).await;
    assert!(counted.unwrap());
    let hash = hash(1);
    let inboxes = addresses.each_ref().map(|address| ImportedInbox {
        id: InboxId(fresh_id()),
        address,
        hash: &hash,
    });
    let inserted = tx.insert_imported(at_home(tenant), tenant.default_workspace, &inboxes, Machine.now());
    assert!(inserted.await.unwrap());
    let marks = addresses.map(|address| (MapKey::Address(address), fresh_id()));
    tx.mark_all_unpublished(&marks).await.unwrap();
    let last = marks.iter().map(|(_, mark)| *mark).max().unwrap();
    assert_eq!(tx.last_mark().await.unwrap(), Some(last));
    assert_eq!(tx.unpublished_until(last).await.unwrap(), 2);
}

/// SQLite's plan for a statement, a line a step.
async fn plan(db: &mut SqliteConnection, statement: &str) -> Vec<String> {
    let rows: Vec<(i64, i64, i64, String)> =
        sqlx::query_as(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")))
            .fetch_all(db)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    rows.into_iter().map(|(.., step)| step).collect()
}

#[tokio::test]
async fn no_statement_of_the_request_path_reads_a_whole_table() {
    let recording = tracing_subscriber::registry().with(
        // Nobody else in this process logs statements; what the daemon logs is in its own process.
        Recorder.with_filter(Targets::new().with_target("sqlx::query", tracing::Level::DEBUG)),
    );
    tracing::subscriber::set_global_default(recording).unwrap();
    let store = Store::new(Database::Sqlite).await;
    call_everything(&store).await;
    store.db.close().await;

    let statements: Vec<String> = RUN
        .lock()
        .unwrap()
        .iter()
        .filter(|text| {
            ["SELECT ", "WITH ", "INSERT INTO ", "UPDATE ", "DELETE FROM "]
                .iter()
                .any(|start| text.starts_with(start))
        })
        // Those of the migrator and of tests that read the catalogue.
        .filter(|text| {
            [
                "_sqlx_migrations",
                "sqlite_master",
                "pg_",
                "information_schema",
                "current_database()",
            ]
            .iter()
            .all(|other| !text.contains(other))
        })
        .cloned()
        .collect();
    assert!(
        statements.len() > 60,
        "the log shows too few statements: {statements:#?}"
    );
    let mut db = SqliteConnection::connect(&store.url).await.unwrap();
    let (mut excused, mut asked) = (BTreeSet::new(), BTreeSet::new());
    for statement in &statements {
        let steps = plan(&mut db, statement).await;
        let scans = steps
            .iter()
            // A scan of the page that a subquery picked is as long as the page; one of the values of the statement
            // itself is as long as the statement.
            .any(|step| {
                step.starts_with("SCAN ")
                    && !["VALUES CLAUSE", "CONSTANT ROW", "CONSTANT ROWS"]
                        .iter()
                        .any(|values| step.ends_with(values))
                    && !["SCAN i", "SCAN w", "SCAN page"].contains(&step.as_str())
            });
        let sorts = steps.iter().any(|step| step == "USE TEMP B-TREE FOR ORDER BY");
        for (part, index) in MUST_USE.iter().filter(|(part, _)| statement.contains(part)) {
            asked.insert(*part);
            assert!(
                steps.iter().any(|step| step.contains(index)),
                "{statement}\nshould use {index}, and does:\n{steps:#?}"
            );
        }
        match MAY_SCAN.iter().find(|(start, _)| statement.starts_with(start)) {
            Some((start, _)) => {
                excused.insert(*start);
            }
            None => assert!(!scans && !sorts, "{statement}\n{steps:#?}"),
        }
    }
    assert_eq!(excused.len(), MAY_SCAN.len(), "an excuse that nothing needs");
    assert_eq!(
        asked.len(),
        MUST_USE.len(),
        "a demand that nothing meets: {asked:#?}"
    );
}
