//! Registrations of domains: what they cost, how they are checked, and when they lapse. With a real name server.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use inboxd::{
    clock::{Clock, Entropy, Machine, Timestamp},
    dns::Settings,
    model::{domain::DomainStatus, limits::Limited, names::Label, tenant::Tenant},
    ops::{
        Changed, Error, Service,
        condition::Condition,
        domains::{Registered, read, register, verify},
        edit::Edit,
        hang_up,
        tenants::{self, Change, LimitsChange},
    },
};

use crate::support::{
    dns::DnsServer,
    dns_relay::DnsRelay,
    service::{Parts, service_of, super_admin, tenant_caller},
    store::{Store, domain, on_both},
    wait::until,
};

pub(super) const DAY_S: i64 = 24 * 60 * 60;
/// How long a name server that is silent is waited for.
const DNS_TIMEOUT: Duration = Duration::from_secs(6);

/// The machine's clock, moved.
#[derive(Default)]
pub(super) struct Moved(AtomicI64);

impl Moved {
    pub(super) fn ahead_s(&self, seconds: i64) {
        self.0.store(seconds, SeqCst);
    }
}

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Machine.now().plus_seconds(self.0.load(SeqCst))
    }
}

/// The machine's randomness, counted: no key is made without any.
#[derive(Default)]
pub(super) struct Counted(AtomicUsize);

impl Entropy for Counted {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.fetch_add(buffer.len(), SeqCst);
        Machine.fill(buffer);
    }
}

/// The use cases, a clock that the test moves, and a name server behind a relay.
pub(super) struct Rig {
    pub(super) service: Arc<Service>,
    pub(super) clock: Arc<Moved>,
    entropy: Arc<Counted>,
    pub(super) relay: DnsRelay,
    pub(super) server: DnsServer,
    /// The records of each zone, as the owners of the domains publish them.
    published: BTreeMap<String, Vec<String>>,
}

impl Rig {
    pub(super) async fn new(store: &Store) -> Self {
        let server = DnsServer::start().await;
        let relay = DnsRelay::start(server.address());
        let (clock, entropy) = (Arc::new(Moved::default()), Arc::new(Counted::default()));
        let service = service_of(
            &store.db,
            Parts {
                clock: Arc::clone(&clock) as _,
                entropy: Arc::clone(&entropy) as _,
                dns: Settings {
                    servers: vec![relay.address()],
                    timeout: DNS_TIMEOUT,
                },
            },
        );
        Self {
            service,
            clock,
            entropy,
            relay,
            server,
            published: BTreeMap::new(),
        }
    }

    /// A tenant that may have so many domains.
    pub(super) async fn tenant(&self, name: &str, domains: u32) -> Tenant {
        let limits = LimitsChange {
            domains: Edit::Set(domains),
            ..LimitsChange::default()
        };
        let name = Label::parse(name).unwrap();
        let created = tenants::create(&self.service, &super_admin(), name, limits).await;
        created.unwrap().commit().await.unwrap().0
    }

    async fn cap(&self, tenant: &Tenant, domains: u32) {
        let change = Change {
            limits: LimitsChange {
                domains: Edit::Set(domains),
                ..LimitsChange::default()
            },
            ..Change::default()
        };
        tenants::change(
            &self.service,
            &super_admin(),
            tenant.id,
            &change,
            &Condition::none(),
        )
        .await
        .unwrap();
    }

    pub(super) async fn register(&self, tenant: &Tenant, name: &str) -> Result<Registered, Error> {
        let registered = register(&self.service, &tenant_caller(tenant.id), &domain(name), None).await?;
        registered.commit().await
    }

    /// Registers a domain and publishes its challenge.
    pub(super) async fn registered(&mut self, tenant: &Tenant, name: &str) -> Registered {
        let registered = self.register(tenant, name).await.unwrap();
        self.publish(&registered).await;
        registered
    }

    pub(super) async fn publish(&mut self, registered: &Registered) {
        let name = registered.domain.name.to_string();
        let (record, _) = &registered.records[0];
        let text = format!("{}. TXT \"{}\"", record.name, record.value);
        self.published.entry(name.clone()).or_default().push(text);
        self.serve(&name).await;
    }

    /// Takes a challenge out of DNS.
    pub(super) async fn unpublish(&mut self, registered: &Registered) {
        let name = registered.domain.name.to_string();
        let challenge = registered.domain.challenge.as_str();
        let records = self.published.get_mut(&name).unwrap();
        records.retain(|record| !record.contains(challenge));
        self.serve(&name).await;
    }

    /// Lets the name server answer what is published of a domain.
    pub(super) async fn serve(&mut self, name: &str) {
        let zone = self.published[name].join("\n");
        self.server.set_zone(name, &zone).await;
    }

    pub(super) async fn verify(&self, tenant: &Tenant, name: &str) -> Result<Registered, Error> {
        let verified = verify(&self.service, &tenant_caller(tenant.id), &domain(name)).await;
        verified.map(|changed: Changed<Registered>| changed.value)
    }

    pub(super) async fn status(&self, tenant: &Tenant, name: &str) -> DomainStatus {
        let read = read(&self.service, &tenant_caller(tenant.id), &domain(name)).await;
        read.unwrap().status
    }

    /// How often the challenge of a domain was asked for.
    fn asked(&self, name: &str) -> usize {
        self.relay.asked(&format!("_inboxd-challenge.{name}"))
    }
}

/// The refusal itself, also where several callers share it.
pub(super) fn refusal(error: &Error) -> &Error {
    match error {
        Error::Shared(error) => refusal(error),
        error => error,
    }
}

#[track_caller]
fn assert_limit(outcome: Result<Registered, Error>, current: u32) {
    let error = outcome.unwrap_err();
    assert!(
        matches!(refusal(&error), Error::PlanLimit { limit: Limited::Domains, current: found, .. } if *found == current),
        "{error:?}"
    );
}

#[track_caller]
fn assert_lapsed(outcome: Result<Registered, Error>) {
    let error = outcome.unwrap_err();
    assert!(matches!(refusal(&error), Error::DomainLapsed { .. }), "{error:?}");
    assert!(error.to_string().contains("register the domain again"), "{error}");
}

#[tokio::test]
async fn a_registration_that_the_plan_refuses_costs_no_key() {
    on_both(async |store| {
        let rig = Rig::new(&store).await;
        let acme = rig.tenant("Acme", 2).await;
        let before = rig.entropy.0.load(SeqCst);
        rig.register(&acme, "one.test").await.unwrap();
        let one = rig.entropy.0.load(SeqCst) - before;
        assert!(one > 256, "a key of 2048 bits takes more than {one} octets");
        rig.register(&acme, "two.test").await.unwrap();
        let before = rig.entropy.0.load(SeqCst);
        for number in 0..5 {
            assert_limit(rig.register(&acme, &format!("n{number}.test")).await, 2);
        }
        assert_eq!(rig.entropy.0.load(SeqCst), before, "keys were made");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cap_holds_for_registrations_at_the_same_time() {
    on_both(async |store| {
        let rig = Rig::new(&store).await;
        let acme = rig.tenant("Acme", 2).await;
        let names: Vec<String> = (0..12).map(|number| format!("n{number}.test")).collect();
        let outcomes = join_all(names.iter().map(|name| rig.register(&acme, name))).await;
        let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), 2);
        for refused in refused {
            assert_limit(refused, 2);
        }
        let mut tx = store.db.read().await.unwrap();
        for made in made {
            let keys = tx.dkim_keys(Some(made.unwrap().domain.id)).await.unwrap();
            assert_eq!(keys.len(), 2);
        }
    })
    .await;
}

#[tokio::test]
async fn those_who_let_a_domain_be_checked_at_the_same_time_share_one_check() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let acme = rig.tenant("Acme", 2).await;
        rig.registered(&acme, "acme.test").await;
        rig.relay.silence("_inboxd-challenge.acme.test");
        let rig = &rig;
        let checks = join_all((0..30).map(|_| rig.verify(&acme, "acme.test")));
        let answered = async {
            until("DNS is asked", || async {
                (rig.asked("acme.test") > 0).then_some(())
            })
            .await;
            rig.relay.answer("_inboxd-challenge.acme.test");
        };
        let (checked, ()) = tokio::join!(checks, answered);
        for checked in checked {
            assert_eq!(checked.unwrap().status, DomainStatus::Verified);
        }
        // A name server is asked twice before it counts as silent.
        let asked = rig.asked("acme.test");
        assert!((1..=2).contains(&asked), "it was asked {asked} times");
    })
    .await;
}

#[tokio::test]
async fn what_a_check_finds_is_written_although_its_caller_has_hung_up() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let acme = rig.tenant("Acme", 2).await;
        rig.registered(&acme, "acme.test").await;
        rig.relay.silence("_inboxd-challenge.acme.test");
        let (caller, hung_up) = hang_up::caller();
        let (service, tenant) = (Arc::clone(&rig.service), acme.id);
        let asking = tokio::spawn(hang_up::run_for(hung_up, async move {
            verify(&service, &tenant_caller(tenant), &domain("acme.test")).await
        }));
        until("DNS is asked", || async {
            (rig.asked("acme.test") > 0).then_some(())
        })
        .await;
        drop(caller);
        let gone = asking.await.unwrap().unwrap_err();
        assert!(matches!(gone, Error::NoSlot { .. }), "{gone:?}");
        rig.relay.answer("_inboxd-challenge.acme.test");
        let rig = &rig;
        until("it is verified", || async {
            (rig.status(&acme, "acme.test").await == DomainStatus::Verified).then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_name_servers_are_silent_holds_up_its_own_checks_alone() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let (slow, acme) = (rig.tenant("Slow", 100).await, rig.tenant("Acme", 2).await);
        rig.registered(&acme, "acme.test").await;
        rig.relay.silence("silent.test");
        let names: Vec<String> = (0..8).map(|number| format!("n{number}.silent.test")).collect();
        for name in &names {
            rig.register(&slow, name).await.unwrap();
        }
        let rig = Arc::new(rig);
        let waiting: Vec<_> = names
            .iter()
            .cycle()
            .take(80)
            .map(|name| {
                let (rig, slow, name) = (Arc::clone(&rig), slow.clone(), name.clone());
                tokio::spawn(async move { rig.verify(&slow, &name).await.map(|checked| checked.status) })
            })
            .collect();
        let asked = || names.iter().filter(|name| rig.asked(name) > 0).count();
        until("four are checked", || async { (asked() == 4).then_some(()) }).await;
        let honest = rig.verify(&acme, "acme.test").await.unwrap();
        assert_eq!(honest.status, DomainStatus::Verified);
        assert_eq!(
            asked(),
            4,
            "the tenant has more than its share, or its checks ended before"
        );
        assert!(
            waiting.iter().any(|waiting| !waiting.is_finished()),
            "its checks ended before"
        );
    })
    .await;
}

#[tokio::test]
async fn a_lapsed_registration_is_not_verified_and_the_cap_holds_whatever_the_timing() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let acme = rig.tenant("Acme", 2).await;
        let names: Vec<String> = (0..6).map(|number| format!("n{number}.test")).collect();
        for (round, pair) in (0..).zip(names.chunks(2)) {
            rig.clock.ahead_s(round * 16 * DAY_S);
            for name in pair {
                rig.registered(&acme, name).await;
            }
            assert_limit(rig.register(&acme, "more.test").await, 2);
        }
        for name in &names[..4] {
            assert_eq!(rig.status(&acme, name).await, DomainStatus::Failed);
            assert_lapsed(rig.verify(&acme, name).await);
            assert_eq!(rig.asked(name), 0, "DNS is asked for nothing");
            // Nor is it registered again while others use up the plan.
            assert_limit(rig.register(&acme, name).await, 2);
        }
        for name in &names[4..] {
            assert_eq!(
                rig.verify(&acme, name).await.unwrap().status,
                DomainStatus::Verified
            );
        }
        // Registered again it counts, and has another challenge: what was published proves nothing.
        rig.cap(&acme, 3).await;
        let again = rig.register(&acme, &names[0]).await.unwrap();
        assert_eq!(again.status, DomainStatus::Pending);
        assert_limit(rig.register(&acme, &names[1]).await, 3);
        assert_eq!(
            rig.verify(&acme, &names[0]).await.unwrap().status,
            DomainStatus::Pending
        );
        // A cap that is lowered holds for what was registered before.
        rig.publish(&again).await;
        rig.cap(&acme, 2).await;
        assert_limit(rig.verify(&acme, &names[0]).await, 2);
        assert_eq!(rig.status(&acme, &names[0]).await, DomainStatus::Pending);
        rig.cap(&acme, 3).await;
        assert_eq!(
            rig.verify(&acme, &names[0]).await.unwrap().status,
            DomainStatus::Verified
        );
    })
    .await;
}

#[tokio::test]
async fn a_registration_that_lapses_while_dns_is_asked_is_not_verified() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let acme = rig.tenant("Acme", 2).await;
        rig.registered(&acme, "acme.test").await;
        rig.relay.silence("_inboxd-challenge.acme.test");
        let rig = &rig;
        let late = async {
            until("DNS is asked", || async {
                (rig.asked("acme.test") > 0).then_some(())
            })
            .await;
            rig.clock.ahead_s(15 * DAY_S);
            rig.relay.answer("_inboxd-challenge.acme.test");
        };
        let (checked, ()) = tokio::join!(rig.verify(&acme, "acme.test"), late);
        assert_lapsed(checked);
        assert_eq!(rig.status(&acme, "acme.test").await, DomainStatus::Failed);
    })
    .await;
}
