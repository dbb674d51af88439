//! The HTTP API: JSON in, JSON out. A handler reads like its sentence: extract, do, publish, answer.

mod addresses;
mod admission;
mod answer;
mod base_path;
mod browsers;
mod client_address;
mod docs;
mod domains;
mod etag;
mod extract;
mod fields;
mod health;
mod host;
mod inboxes;
mod json;
mod lists;
mod me;
pub mod metrics;
mod once;
pub mod problem;
mod proxies;
mod rates;
mod security_headers;
mod sent;
pub mod server;
mod settings;
mod tenant_keys;
mod tenants;
mod unread;
mod unread_body;
mod watch;
mod workspaces;

use std::{future::Future, sync::Arc};

use axum::{
    Extension, Router,
    extract::Request,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::{
    browsers::Origins,
    health::{Part, Probe, ReadinessProbes, readiness_in_detail},
    lists::PagePlaces,
    proxies::{ForwardedHeader, TrustedProxies},
    settings::{Connections, Quotas, Settings},
};
use self::{
    lists::Pagination,
    problem::{Code, Problem},
    rates::RateLimits,
    sent::SentBody,
};
use crate::{
    ops::{self, Changed, Service, deletions::Deletion, hang_up},
    publish::Publisher,
};

/// What every handler works with. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The use cases and what they work with.
    pub service: Arc<Service>,
    /// Publishes changes to the mail side.
    pub publisher: Publisher,
    /// Where callers find the mail servers.
    pub endpoints: Arc<Endpoints>,
    /// The parts whose state `/readyz` reports.
    pub readiness: Arc<ReadinessProbes>,
    /// The places of the pages of lists.
    pub pages: Arc<PagePlaces>,
}

/// Where callers find the mail servers, as answers tell them.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// IMAP over implicit TLS.
    pub imap: Host,
    /// Submission with STARTTLS.
    pub smtp: Host,
}

/// A host and a port.
#[derive(Clone, Debug)]
pub struct Host {
    /// Host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl App {
    /// Runs a change to its end, whether the caller waits for it or hangs up. What was begun is finished; what only
    /// waits for its turn is given up.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        // Dropped with this future, when the caller hangs up or its time is over.
        let (_caller, hung_up) = hang_up::caller();
        tokio::spawn(hang_up::run_for(hung_up, work).in_current_span())
            .await
            .unwrap_or_else(|error| Err(Problem::internal(&error)))
    }

    /// Publishes what an operation changed, and returns what it is about.
    async fn published<T>(&self, changed: Changed<T>) -> Result<T, Problem> {
        if !changed.publish.is_empty() {
            self.publisher.publish(changed.publish).await?;
        }
        Ok(changed.value)
    }

    /// The same for a new inbox, whose login is to be seen.
    async fn published_new<T>(&self, changed: Changed<T>) -> Result<T, Problem> {
        self.publisher.publish_new(changed.publish).await?;
        Ok(changed.value)
    }

    /// Runs an operation that changes what the mail side sees to its end: written, and published.
    async fn change<T, F>(
        &self,
        operation: impl FnOnce(Arc<Service>) -> F + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<Changed<T>, ops::Error>> + Send,
    {
        let app = self.clone();
        self.to_the_end(async move {
            let changed = operation(Arc::clone(&app.service)).await?;
            app.published(changed).await
        })
        .await
    }
}

/// The calls of the API and their description.
fn calls() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(docs::document())
        .routes(routes!(inboxes::create_inbox, inboxes::list_inboxes))
        .routes(routes!(
            inboxes::get_inbox,
            inboxes::update_inbox,
            inboxes::delete_inbox
        ))
        .routes(routes!(addresses::add_address, addresses::list_addresses))
        .routes(routes!(addresses::remove_address))
        .routes(routes!(inboxes::rotate_password))
        .routes(routes!(inboxes::rotate_key))
        .routes(routes!(domains::create_domain, domains::list_domains))
        .routes(routes!(
            domains::get_domain,
            domains::update_domain,
            domains::delete_domain
        ))
        .routes(routes!(domains::verify_domain))
        .routes(routes!(domains::release_domain))
        .routes(routes!(domains::domain_zone))
        .routes(routes!(domains::rotate_dkim))
        .routes(routes!(workspaces::create_workspace, workspaces::list_workspaces))
        .routes(routes!(
            workspaces::get_workspace,
            workspaces::update_workspace,
            workspaces::delete_workspace
        ))
        .routes(routes!(
            workspaces::create_workspace_key,
            workspaces::list_workspace_keys
        ))
        .routes(routes!(workspaces::revoke_workspace_key))
        .routes(routes!(tenants::create_tenant, tenants::list_tenants))
        .routes(routes!(
            tenants::get_tenant,
            tenants::update_tenant,
            tenants::delete_tenant
        ))
        .routes(routes!(
            tenant_keys::create_tenant_key,
            tenant_keys::list_tenant_keys
        ))
        .routes(routes!(tenant_keys::revoke_tenant_key))
        .routes(routes!(me::me))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(docs::openapi_json))
}

/// The OpenAPI 3.1 document, generated from the code.
pub fn openapi() -> utoipa::openapi::OpenApi {
    docs::complete(calls().into_openapi())
}

/// The whole API, and what is served beside it, below the base path.
pub fn router(app: App, settings: &Settings, beside: Router) -> Router {
    let rates = Arc::new(RateLimits::new(settings.clone()));
    let (router, _) = calls().split_for_parts();
    let router = router
        .merge(docs::reference())
        .fallback(no_such_call)
        .method_not_allowed_fallback(no_such_method)
        .layer(Extension(docs::Document::new(&settings.base_path)))
        .with_state(app);
    let outside = Router::new().fallback(not_below);
    let [api, outside] = [router, outside].map(|router| around(router, settings, &rates));
    base_path::below(&settings.base_path, api.merge(beside), outside)
}

/// What holds for every answer.
fn around(router: Router, settings: &Settings, rates: &Arc<RateLimits>) -> Router {
    let router = router
        .layer(middleware::from_fn_with_state(Arc::clone(rates), rates::limit))
        .layer(middleware::from_fn(admission::admit));
    let router = match browsers::layer(&settings.origins) {
        Some(cors) => router
            .layer(cors)
            .layer(middleware::from_fn(admission::admit_preflight)),
        None => router,
    };
    router
        .layer(middleware::from_fn(watch::watch))
        .layer(middleware::from_fn(security_headers::add))
}

async fn not_below() -> Problem {
    Problem::new(
        Code::NotFound,
        "there is no such call; all are below http.base_path",
    )
}

async fn no_such_call() -> Problem {
    Problem::new(Code::NotFound, "there is no such call; /docs lists them")
}

async fn no_such_method(request: Request) -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        format!("there is no {} here; /docs lists the calls", request.method()),
    )
}

/// What was changed.
#[derive(Serialize, ToSchema)]
struct Updated {
    /// Always true.
    updated: bool,
    /// The object's id.
    id: uuid::Uuid,
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
struct Deleted {
    /// Always true.
    deleted: bool,
    /// The id that the object had.
    id: uuid::Uuid,
}

/// The answer to a deletion, which is unanswered until the connection takes it.
fn deleted(deletion: Deletion, body: &impl Serialize) -> Result<Response, Problem> {
    let octets = serde_json::to_vec(body).map_err(|error| Problem::internal(&error))?;
    let body = SentBody::body(octets, deletion);
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// An answer that may carry secrets is for the caller alone.
fn uncached(status: StatusCode, body: impl IntoResponse) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], body).into_response()
}
