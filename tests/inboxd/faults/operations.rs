//! The operations that are swept: what is there before, the call, and what must hold of its answers.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    api::{Answer, Api},
    daemon::{DEFAULT_DOMAIN, Daemon},
    dns::DnsServer,
    domains::{prove, publish, register},
    inbox::Inbox,
    mail::Mail,
};

/// An operation of the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    /// A create without a name, under an `Idempotency-Key`.
    CreateOnce,
    RotatePassword,
    RotateKey,
    Delete,
    AddAddress,
    RemoveAddress,
    /// Proves a domain whose records are published.
    VerifyDomain,
    /// Of one that is proved.
    DeleteDomain,
    SetCatchAll,
    /// Of a tenant with two inboxes.
    Suspend,
    Resume,
}

/// One operation, to be called on things of its own.
pub struct Trial {
    operation: Operation,
    operator: Api,
    tenant: Api,
    tenant_id: String,
    username: String,
    /// What was there before.
    inboxes: Vec<Inbox>,
    call: Call,
}

struct Call {
    caller: Api,
    method: Method,
    path: String,
    body: Value,
    idempotency_key: Option<String>,
}

/// What must hold in the end.
pub struct Outcome {
    pub logs_in: Vec<Inbox>,
    pub refused: Vec<Inbox>,
}

impl Trial {
    /// Makes what the operation is about: a tenant of its own, and inboxes.
    pub async fn begin(daemon: &Daemon, server: &mut DnsServer, operation: Operation, name: &str) -> Self {
        let operator = daemon.api(&daemon.super_admin);
        let made = operator.post("/v1/tenants", &json!({ "name": name })).await;
        assert_eq!(made.status, 201, "{made:?}");
        let tenant = operator.with_key(made.text("key"));
        let tenant_path = format!("/v1/tenants/{}", made.id());
        let existing = match operation {
            Operation::Create | Operation::CreateOnce | Operation::VerifyDomain | Operation::DeleteDomain => {
                0
            }
            Operation::RotatePassword
            | Operation::RotateKey
            | Operation::Delete
            | Operation::AddAddress
            | Operation::RemoveAddress
            | Operation::SetCatchAll => 1,
            Operation::Suspend | Operation::Resume => 2,
        };
        let mut inboxes = Vec::new();
        for number in 0..existing {
            let username = format!("{name}-{number}");
            inboxes.push(Inbox::of(
                &tenant.post("/v1/inboxes", &json!({ "username": username })).await,
            ));
        }
        let of_inbox = |suffix: &str| format!("/v1/inboxes/{}{suffix}", inboxes[0].id);
        let of_domain = |suffix: &str| format!("/v1/domains/{}{suffix}", own_domain(name));
        let (caller, method, path, body) = match operation {
            Operation::Create => (
                &tenant,
                Method::POST,
                "/v1/inboxes".to_owned(),
                json!({ "username": name }),
            ),
            Operation::CreateOnce => (&tenant, Method::POST, "/v1/inboxes".to_owned(), json!({})),
            Operation::RotatePassword => (&tenant, Method::POST, of_inbox("/rotate-password"), Value::Null),
            Operation::RotateKey => (&tenant, Method::POST, of_inbox("/rotate-key"), Value::Null),
            Operation::Delete => (&tenant, Method::DELETE, of_inbox(""), Value::Null),
            Operation::AddAddress => (
                &tenant,
                Method::POST,
                of_inbox("/addresses"),
                json!({"email": further(name)}),
            ),
            Operation::RemoveAddress => {
                let body = json!({"email": further(name)});
                let added = tenant.post(&of_inbox("/addresses"), &body).await;
                assert_eq!(added.status, 201, "{added:?}");
                let path = of_inbox(&format!("/addresses/{}", further(name)));
                (&tenant, Method::DELETE, path, Value::Null)
            }
            Operation::VerifyDomain => {
                let registered = register(&tenant, &own_domain(name)).await;
                assert_eq!(registered.status, 201, "{registered:?}");
                publish(server, &tenant, &own_domain(name)).await;
                (&tenant, Method::GET, of_domain("/verify"), Value::Null)
            }
            Operation::DeleteDomain => {
                prove(server, &tenant, &own_domain(name)).await;
                (&tenant, Method::DELETE, of_domain(""), Value::Null)
            }
            Operation::SetCatchAll => {
                prove(server, &tenant, &own_domain(name)).await;
                let body = json!({"catchAll": inboxes[0].id});
                (&tenant, Method::PATCH, of_domain(""), body)
            }
            Operation::Suspend => (
                &operator,
                Method::PATCH,
                tenant_path.clone(),
                json!({"suspended": true}),
            ),
            Operation::Resume => {
                let suspended = operator.patch(&tenant_path, &json!({"suspended": true})).await;
                assert_eq!(suspended.status, 200, "{suspended:?}");
                (
                    &operator,
                    Method::PATCH,
                    tenant_path.clone(),
                    json!({"suspended": false}),
                )
            }
        };
        let call = Call {
            caller: caller.clone(),
            method,
            path,
            body,
            idempotency_key: (operation == Operation::CreateOnce).then(|| name.to_owned()),
        };
        Self {
            operation,
            tenant_id: made.id().to_owned(),
            operator,
            tenant,
            username: name.to_owned(),
            inboxes,
            call,
        }
    }

    /// Calls. No answer, if the connection broke before it came.
    pub async fn call(&self) -> Option<Answer> {
        let call = &self.call;
        // A client of its own: the daemon may be another one than that of the last call.
        let caller = Api::new(&call.caller.base, &call.caller.key);
        let mut request = caller.request(call.method.clone(), &call.path);
        if !call.body.is_null() {
            request = request.json(&call.body);
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        caller.try_send(request).await.ok()
    }

    fn removes(&self) -> bool {
        matches!(
            self.operation,
            Operation::Delete | Operation::RemoveAddress | Operation::DeleteDomain
        )
    }

    /// Whether an answer says that it is done.
    pub fn is_done(&self, answer: &Answer) -> bool {
        // What an earlier call deleted is not there any more.
        match self.operation {
            // Where DNS could not be asked, nothing is proved.
            Operation::VerifyDomain => answer.status < 300 && answer.text("status") == "verified",
            _ => answer.status < 300 || self.removes() && answer.status == 404,
        }
    }

    /// What works right after the first call was answered with success, whatever happens then.
    pub fn promised(&self, answer: &Answer) -> Vec<Inbox> {
        match self.operation {
            Operation::Create | Operation::CreateOnce => vec![Inbox::of(answer)],
            Operation::RotatePassword => vec![self.inboxes[0].with_password(answer.text("imapPassword"))],
            Operation::RotateKey
            | Operation::Resume
            | Operation::AddAddress
            | Operation::RemoveAddress
            | Operation::SetCatchAll => self.inboxes.clone(),
            Operation::Delete | Operation::Suspend | Operation::VerifyDomain | Operation::DeleteDomain => {
                Vec::new()
            }
        }
    }

    /// Postfix takes mail for a further address or a domain, or refuses it, from the answer on.
    pub async fn assert_recipient(&self, mail: &Mail, answer: &Answer) {
        let (recipient, reply) = match self.operation {
            Operation::AddAddress => (further(&self.username), "250"),
            Operation::RemoveAddress => (further(&self.username), "550 5.1.1"),
            // A domain of ours, where nobody has this name.
            Operation::VerifyDomain => (anybody(&self.username), "550 5.1.1"),
            Operation::DeleteDomain => (anybody(&self.username), "554 5.7.1"),
            Operation::SetCatchAll => (anybody(&self.username), "250"),
            _ => return,
        };
        assert!(answer.status < 300, "{answer:?}");
        let mut inbound = mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        inbound.expect(&format!("RCPT TO:<{recipient}>"), reply).await;
    }

    /// What the answers of the first call, if it had a successful one, and of the last one mean. Between them the
    /// daemon may have been killed.
    pub async fn outcome(&self, first: Option<&Answer>, last: &Answer, killed: bool) -> Outcome {
        let mut refused = Vec::new();
        let mut logs_in = Vec::new();
        match self.operation {
            Operation::Create => {
                match (first, last.status) {
                    // The 201 was heard, and is known to have been.
                    (Some(first), 200) => {
                        assert_eq!(first.id(), last.id());
                        logs_in.push(Inbox::of(first));
                    }
                    // Killed before it was written down that it was heard: the same inbox, fresh credentials.
                    (Some(first), 201) if killed => {
                        assert_eq!(first.id(), last.id());
                        refused.push(Inbox::of(first));
                        logs_in.push(Inbox::of(last));
                    }
                    (None, 201) => logs_in.push(Inbox::of(last)),
                    _ => panic!("first {first:?}, then {last:?}"),
                }
                assert_eq!(logs_in[0].email, format!("{}@{DEFAULT_DOMAIN}", self.username));
            }
            Operation::CreateOnce => {
                if let Some(first) = first {
                    assert_eq!((last.status, &last.body), (201, &first.body));
                }
                logs_in.push(Inbox::of(last));
                assert_eq!(logs_in[0].email, format!("{}@{DEFAULT_DOMAIN}", self.username));
            }
            Operation::RotatePassword => {
                let [inbox] = &self.inboxes[..] else {
                    panic!("one inbox")
                };
                refused.push(inbox.clone());
                refused.extend(first.map(|first| inbox.with_password(first.text("imapPassword"))));
                logs_in.push(inbox.with_password(last.text("imapPassword")));
            }
            Operation::RotateKey => {
                let [inbox] = &self.inboxes[..] else {
                    panic!("one inbox")
                };
                let key_works = async |key: &str| {
                    let me = Api::new(&self.tenant.base, key).get("/v1/me").await;
                    assert!(matches!(me.status, 200 | 401), "{me:?}");
                    me.status == 200
                };
                assert!(!key_works(&inbox.key).await, "the old key works");
                if let Some(first) = first {
                    assert!(!key_works(first.text("apiKey")).await, "the key between works");
                }
                assert!(key_works(last.text("apiKey")).await, "the new key does not work");
                logs_in.push(inbox.clone());
            }
            Operation::Delete => {
                let gone = self.tenant.get(&self.call.path).await;
                assert_eq!(gone.status, 404, "{gone:?}");
                refused.extend(self.inboxes.clone());
            }
            Operation::AddAddress | Operation::RemoveAddress => {
                let path = format!("/v1/inboxes/{}/addresses", self.inboxes[0].id);
                let there = self
                    .tenant
                    .get(&path)
                    .await
                    .body
                    .to_string()
                    .contains(&further(&self.username));
                assert_eq!(there, self.operation == Operation::AddAddress);
                logs_in.extend(self.inboxes.clone());
            }
            Operation::VerifyDomain | Operation::DeleteDomain | Operation::SetCatchAll => {
                let path = format!("/v1/domains/{}", own_domain(&self.username));
                let found = self.tenant.get(&path).await;
                match self.operation {
                    Operation::VerifyDomain => assert_eq!(found.text("status"), "verified"),
                    Operation::DeleteDomain => assert_eq!(found.status, 404, "{found:?}"),
                    _ => assert_eq!(found.text("catchAll"), self.inboxes[0].id),
                }
                logs_in.extend(self.inboxes.clone());
            }
            Operation::Suspend => refused.extend(self.inboxes.clone()),
            Operation::Resume => logs_in.extend(self.inboxes.clone()),
        }
        self.assert_counted().await;
        Outcome { logs_in, refused }
    }

    /// The tenant has the inboxes that it must have and no other, and they are counted.
    async fn assert_counted(&self) {
        let expected = match self.operation {
            Operation::Create
            | Operation::CreateOnce
            | Operation::RotatePassword
            | Operation::RotateKey
            | Operation::AddAddress
            | Operation::RemoveAddress
            | Operation::SetCatchAll => 1,
            Operation::Delete | Operation::VerifyDomain | Operation::DeleteDomain => 0,
            Operation::Suspend | Operation::Resume => 2,
        };
        let tenant = self
            .operator
            .get(&format!("/v1/tenants/{}", self.tenant_id))
            .await;
        assert_eq!(tenant.body["inboxCount"], expected, "{tenant:?}");
        if self.operation != Operation::Suspend {
            assert_eq!(super::listed(&self.tenant).await.len(), expected);
        }
    }
}

/// The domain of this trial.
fn own_domain(name: &str) -> String {
    format!("{name}.test")
}

/// What is no address of it.
fn anybody(name: &str) -> String {
    format!("anybody@{}", own_domain(name))
}

/// A further address of the inbox of this trial.
fn further(name: &str) -> String {
    format!("{name}-further@{DEFAULT_DOMAIN}")
}
