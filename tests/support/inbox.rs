//! Inboxes of a world, and their creators.

use serde_json::json;

use super::{
    api::{Answer, Api},
    world::World,
};

/// An inbox as its creator knows it.
#[derive(Clone, Debug)]
pub struct Inbox {
    pub id: String,
    pub email: String,
    pub password: String,
    /// Its `ak_` key.
    pub key: String,
}

impl Inbox {
    /// From a 201.
    pub fn of(created: &Answer) -> Self {
        assert_eq!(created.status, 201, "{created:?}");
        Self {
            id: created.id().to_owned(),
            email: created.text("canonicalEmail").to_owned(),
            password: created.text("imapPassword").to_owned(),
            key: created.text("apiKey").to_owned(),
        }
    }

    /// The same with another password.
    pub fn with_password(&self, password: &str) -> Self {
        Self {
            password: password.to_owned(),
            ..self.clone()
        }
    }

    /// Its address with a detail behind the local part.
    pub fn with_detail(&self, detail: &str) -> String {
        let (local_part, domain) = self.email.split_once('@').unwrap();
        format!("{local_part}+{detail}@{domain}")
    }
}

/// The file of a message, as the file system has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredMessage {
    pub path: String,
    pub uid: u32,
    pub gid: u32,
}

impl World {
    /// A new tenant, as a client with its key.
    pub async fn tenant(&self, name: &str) -> Api {
        self.operator().tenant(name).await
    }

    /// An inbox of a tenant of its own.
    pub async fn inbox(&self, username: &str) -> Inbox {
        self.create(&self.tenant(username).await, username).await
    }

    /// Creates an inbox with the name that this one is in this world.
    pub async fn create(&self, tenant: &Api, username: &str) -> Inbox {
        let username = self.name(username);
        let created = tenant.post("/v1/inboxes", &json!({ "username": username })).await;
        let inbox = Inbox::of(&created);
        assert_eq!(inbox.email, format!("{username}@{}", self.domain()));
        inbox
    }

    /// Two inboxes: Ada's, which is used, and one that is to be deleted.
    pub async fn ada_and_gone(&self, tenant: &Api) -> (Inbox, Inbox) {
        (
            self.create(tenant, "ada").await,
            self.create(tenant, "gone").await,
        )
    }

    /// Deletes an inbox.
    pub async fn delete(&self, tenant: &Api, inbox: &Inbox) {
        let deleted = tenant.delete(&format!("/v1/inboxes/{}", inbox.id)).await;
        assert_eq!(deleted.status, 200, "{deleted:?}");
    }
}

/// The lines of Postfix's log that say that a delivery to this inbox failed and is to be tried again.
pub fn deferrals(log: &str, inbox: &Inbox) -> Vec<String> {
    // The recipient as the queue has it.
    let to = format!("to=<{}=", inbox.id);
    log.lines()
        .filter(|line| line.contains(&to) && line.contains("status=deferred"))
        .map(str::to_owned)
        .collect()
}
