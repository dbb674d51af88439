//! What is measured: a world, its clients, and the inboxes in it.

use inboxd::{clock::Machine, model::password::MailPassword};

use super::{
    limits::Limits,
    scale::Scale,
    support::{api::Api, daemon::DEFAULT_DOMAIN, inbox::Inbox, world::World},
};

/// Most clients at a time.
pub const CLIENTS_MAX: usize = 64;

/// A world that is measured.
pub struct Bench<'a> {
    pub world: &'a mut World,
    pub scale: Scale,
    pub limits: Limits,
    /// One tenant a client.
    pub tenants: Vec<Api>,
    /// Inboxes so far.
    pub inboxes: usize,
    /// Loads so far: names are distinct.
    pub loads: usize,
    pub seeds: Seeds,
}

/// The inboxes that were imported to grow the world.
#[derive(Clone)]
pub struct Seeds {
    /// Who has them.
    pub tenant: String,
    /// How many there are.
    pub count: usize,
    /// The password of all of them.
    password: MailPassword,
    hash: String,
}

impl<'a> Bench<'a> {
    pub async fn new(world: &'a mut World, scale: Scale, limits: Limits) -> Self {
        let mut tenants = Vec::with_capacity(CLIENTS_MAX);
        for number in 0..CLIENTS_MAX {
            tenants.push(world.tenant(&format!("Client {number}")).await);
        }
        let me = world.tenant("Seeded").await.get("/v1/me").await;
        let password = MailPassword::generate(&Machine);
        let hash = password.hash(&Machine).unwrap();
        Self {
            world,
            scale,
            limits,
            tenants,
            inboxes: 0,
            loads: 0,
            seeds: Seeds {
                tenant: me.text("tenantId").to_owned(),
                count: 0,
                password,
                hash: hash.as_str().to_owned(),
            },
        }
    }
}

impl Seeds {
    /// The address of one of them.
    pub fn email(number: usize) -> String {
        format!("seed-{number}@{DEFAULT_DOMAIN}")
    }

    /// One of them, another for each number; neighbours in time are none in any order.
    pub fn some(&self, number: usize) -> Inbox {
        /// Prime, and larger than the number of neighbours in a page of anything.
        const STRIDE: usize = 7_919;
        Inbox {
            id: String::new(),
            email: Self::email(number * STRIDE % self.count),
            password: self.password.expose().to_owned(),
            key: String::new(),
        }
    }

    /// Lines of a passwd-file for so many more.
    pub fn more(&self, count: usize) -> String {
        let line = |number| format!("{}:{}\n", Self::email(number), self.hash);
        (self.count..self.count + count).map(line).collect()
    }
}
