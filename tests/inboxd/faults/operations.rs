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
    /// The next six are under an `Idempotency-Key`, too.
    CreateTenantOnce,
    CreateWorkspaceOnce,
    CreateTenantKeyOnce,
    CreateWorkspaceKeyOnce,
    RegisterDomainOnce,
    AddAddressOnce,
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

impl Operation {
    /// Whether it is called with an `Idempotency-Key`.
    pub fn is_once(self) -> bool {
        matches!(
            self,
            Self::CreateOnce
                | Self::CreateTenantOnce
                | Self::CreateWorkspaceOnce
                | Self::CreateTenantKeyOnce
                | Self::CreateWorkspaceKeyOnce
                | Self::RegisterDomainOnce
                | Self::AddAddressOnce
        )
    }

    /// Inboxes that are there before.
    fn inboxes_before(self) -> usize {
        match self {
            Self::Create
            | Self::CreateOnce
            | Self::CreateTenantOnce
            | Self::CreateWorkspaceOnce
            | Self::CreateTenantKeyOnce
            | Self::CreateWorkspaceKeyOnce
            | Self::RegisterDomainOnce
            | Self::VerifyDomain
            | Self::DeleteDomain => 0,
            Self::RotatePassword
            | Self::RotateKey
            | Self::Delete
            | Self::AddAddress
            | Self::AddAddressOnce
            | Self::RemoveAddress
            | Self::SetCatchAll => 1,
            Self::Suspend | Self::Resume => 2,
        }
    }
}

/// One operation, to be called on things of its own.
pub struct Trial {
    operation: Operation,
    operator: Api,
    tenant: Api,
    tenant_id: String,
    workspace_id: String,
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
        let mut inboxes = Vec::new();
        for number in 0..operation.inboxes_before() {
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
            Operation::CreateTenantOnce => {
                let (path, body) = making(operation, &made, name);
                (&operator, Method::POST, path, body)
            }
            Operation::CreateWorkspaceOnce
            | Operation::CreateTenantKeyOnce
            | Operation::CreateWorkspaceKeyOnce
            | Operation::RegisterDomainOnce => {
                let (path, body) = making(operation, &made, name);
                (&tenant, Method::POST, path, body)
            }
            Operation::RotatePassword => (&tenant, Method::POST, of_inbox("/rotate-password"), Value::Null),
            Operation::RotateKey => (&tenant, Method::POST, of_inbox("/rotate-key"), Value::Null),
            Operation::Delete => (&tenant, Method::DELETE, of_inbox(""), Value::Null),
            Operation::AddAddress | Operation::AddAddressOnce => (
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
            idempotency_key: operation.is_once().then(|| name.to_owned()),
        };
        Self {
            operation,
            tenant_id: made.id().to_owned(),
            workspace_id: made.text("defaultWorkspaceId").to_owned(),
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
            | Operation::AddAddressOnce
            | Operation::RemoveAddress
            | Operation::SetCatchAll => self.inboxes.clone(),
            Operation::Delete
            | Operation::Suspend
            | Operation::CreateTenantOnce
            | Operation::CreateWorkspaceOnce
            | Operation::CreateTenantKeyOnce
            | Operation::CreateWorkspaceKeyOnce
            | Operation::RegisterDomainOnce
            | Operation::VerifyDomain
            | Operation::DeleteDomain => Vec::new(),
        }
    }

    /// Postfix takes mail for a further address or a domain, or refuses it, from the answer on.
    pub async fn assert_recipient(&self, mail: &Mail, answer: &Answer) {
        let (recipient, reply) = match self.operation {
            Operation::AddAddress | Operation::AddAddressOnce => (further(&self.username), "250"),
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
            Operation::CreateTenantOnce
            | Operation::CreateWorkspaceOnce
            | Operation::CreateTenantKeyOnce
            | Operation::CreateWorkspaceKeyOnce
            | Operation::RegisterDomainOnce => self.assert_made_once(first, last).await,
            Operation::AddAddress | Operation::AddAddressOnce | Operation::RemoveAddress => {
                if self.operation == Operation::AddAddressOnce {
                    assert_eq!(last.status, 201, "{last:?}");
                }
                let path = format!("/v1/inboxes/{}/addresses", self.inboxes[0].id);
                let there = self
                    .tenant
                    .get(&path)
                    .await
                    .body
                    .to_string()
                    .contains(&further(&self.username));
                assert_eq!(there, self.operation != Operation::RemoveAddress);
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

    /// One object was made, however often the call was repeated, and its first answer is given again.
    async fn assert_made_once(&self, first: Option<&Answer>, last: &Answer) {
        assert_eq!(last.status, 201, "{last:?}");
        if let Some(first) = first {
            assert_eq!(last.body, first.body);
        }
        let (caller, path, objects, expected) = match self.operation {
            Operation::CreateTenantOnce => (&self.operator, "/v1/tenants".to_owned(), "tenants", 1),
            Operation::CreateWorkspaceOnce => (&self.tenant, "/v1/workspaces".to_owned(), "workspaces", 1),
            // Its first key is there from the start.
            Operation::CreateTenantKeyOnce => {
                let path = format!("/v1/tenants/{}/keys", self.tenant_id);
                (&self.tenant, path, "keys", 2)
            }
            Operation::CreateWorkspaceKeyOnce => {
                let path = format!("/v1/workspaces/{}/keys", self.workspace_id);
                (&self.tenant, path, "keys", 1)
            }
            Operation::RegisterDomainOnce => (&self.tenant, "/v1/domains".to_owned(), "domains", 1),
            _ => panic!("{:?} makes no such object", self.operation),
        };
        let listed = caller.get(&path).await;
        let named = matches!(
            self.operation,
            Operation::CreateTenantOnce | Operation::CreateWorkspaceOnce
        );
        let found: Vec<&Value> = listed.body[objects]
            .as_array()
            .unwrap()
            .iter()
            .filter(|object| !named || object["name"] == customer(&self.username))
            .collect();
        assert_eq!(found.len(), expected, "{found:?}");
        assert!(found.iter().any(|object| object["id"] == last.id()), "{found:?}");
        if let Some(key) = last.body["key"].as_str() {
            let me = Api::new(&self.tenant.base, key).get("/v1/me").await;
            assert_eq!(me.status, 200, "the key does not work: {me:?}");
        }
    }

    /// The tenant has the inboxes that it must have and no other, and they are counted.
    async fn assert_counted(&self) {
        let expected = match self.operation {
            Operation::Create
            | Operation::CreateOnce
            | Operation::RotatePassword
            | Operation::RotateKey
            | Operation::AddAddress
            | Operation::AddAddressOnce
            | Operation::RemoveAddress
            | Operation::SetCatchAll => 1,
            Operation::Delete
            | Operation::CreateTenantOnce
            | Operation::CreateWorkspaceOnce
            | Operation::CreateTenantKeyOnce
            | Operation::CreateWorkspaceKeyOnce
            | Operation::RegisterDomainOnce
            | Operation::VerifyDomain
            | Operation::DeleteDomain => 0,
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

/// Path and body of a call that makes something, a tenant or something in the one that was made with this answer.
fn making(operation: Operation, tenant: &Answer, name: &str) -> (String, Value) {
    match operation {
        Operation::CreateTenantOnce => ("/v1/tenants".to_owned(), json!({"name": customer(name)})),
        // Without a slug, so that a second one would not be refused.
        Operation::CreateWorkspaceOnce => ("/v1/workspaces".to_owned(), json!({"name": customer(name)})),
        Operation::CreateTenantKeyOnce => (format!("/v1/tenants/{}/keys", tenant.id()), json!({})),
        Operation::CreateWorkspaceKeyOnce => {
            let workspace = tenant.text("defaultWorkspaceId");
            (format!("/v1/workspaces/{workspace}/keys"), json!({}))
        }
        Operation::RegisterDomainOnce => ("/v1/domains".to_owned(), json!({"domain": own_domain(name)})),
        _ => panic!("{operation:?} makes no such thing"),
    }
}

/// The domain of this trial.
fn own_domain(name: &str) -> String {
    format!("{name}.test")
}

/// The name of what this trial makes.
fn customer(name: &str) -> String {
    format!("Customer of {name}")
}

/// What is no address of it.
fn anybody(name: &str) -> String {
    format!("anybody@{}", own_domain(name))
}

/// A further address of the inbox of this trial.
fn further(name: &str) -> String {
    format!("{name}-further@{DEFAULT_DOMAIN}")
}
