//! `/v1/tenants`.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    App, Deleted, Pagination, Updated,
    answer::Answer,
    deleted,
    etag::{ETag, IfMatch, IfNoneMatch},
    extract::{Authenticated, Ids, Input, JsonBody, Query, required},
    lists,
    once::Once,
    problem::{CONDITIONAL, KEYED, OF_ONE, ONCE, PUBLISHING, Problem, WITH_BODY, problems},
};
use crate::{
    model::{ids::TenantId, limits::Limits, made::Made, names::Label, tenant::Tenant},
    ops::{
        edit::Edit,
        tenants::{self as ops, Change, LimitsChange},
    },
};

/// What to create.
#[derive(Deserialize, ToSchema)]
pub(super) struct CreateTenant {
    /// 1 to 200 characters, no control and no invisible characters.
    #[schema(
        example = "Acme Corp.",
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\u200c\u200d\ufe00-\ufe0f][^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*$"
    )]
    name: String,
    /// Caps; those left out are the service's defaults.
    limits: Option<LimitsInput>,
}

/// What to change.
#[derive(Deserialize, ToSchema)]
pub(super) struct UpdateTenant {
    /// Another name.
    #[serde(default)]
    #[schema(
        value_type = String,
        required = false,
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\u200c\u200d\ufe00-\ufe0f][^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*$"
    )]
    name: Edit<String>,
    /// Other caps; those left out stay. Null lifts all of them.
    #[serde(default)]
    #[schema(value_type = Option<LimitsInput>)]
    limits: Edit<LimitsInput>,
    /// While suspended, the tenant's keys are refused and nobody logs in to its inboxes; mail is still accepted.
    #[serde(default)]
    #[schema(value_type = bool, required = false)]
    suspended: Edit<bool>,
}

/// Caps; null is none.
#[derive(Deserialize, ToSchema)]
pub(super) struct LimitsInput {
    /// Live inboxes at one time.
    #[serde(default)]
    #[schema(value_type = Option<u32>)]
    inboxes: Edit<u32>,
    /// Custom domains.
    #[serde(default)]
    #[schema(value_type = Option<u32>)]
    domains: Edit<u32>,
    /// Workspaces, the default one included.
    #[serde(default)]
    #[schema(value_type = Option<u32>)]
    workspaces: Edit<u32>,
}

/// Caps; null is none.
#[derive(Serialize, ToSchema)]
#[schema(as = Limits)]
pub(super) struct LimitsView {
    inboxes: Option<u32>,
    domains: Option<u32>,
    workspaces: Option<u32>,
}

/// A tenant.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Tenant)]
pub(super) struct TenantView {
    id: Uuid,
    name: String,
    default_workspace_id: Uuid,
    limits: LimitsView,
    inbox_count: u32,
    workspace_count: u32,
    suspended: bool,
    #[schema(format = DateTime)]
    created_at: String,
}

/// A new tenant with its first key.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedTenant {
    #[serde(flatten)]
    tenant: TenantView,
    /// Its first `tk_` key, shown once.
    key: String,
}

/// A page of tenants, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct TenantList {
    tenants: Vec<TenantView>,
    pagination: Pagination,
}

impl From<LimitsInput> for LimitsChange {
    fn from(input: LimitsInput) -> Self {
        Self {
            inboxes: input.inboxes,
            domains: input.domains,
            workspaces: input.workspaces,
        }
    }
}

impl From<Limits> for LimitsView {
    fn from(limits: Limits) -> Self {
        Self {
            inboxes: limits.inboxes,
            domains: limits.domains,
            workspaces: limits.workspaces,
        }
    }
}

impl From<Tenant> for TenantView {
    fn from(tenant: Tenant) -> Self {
        Self {
            id: tenant.id.0,
            name: tenant.name.to_string(),
            default_workspace_id: tenant.default_workspace.0,
            limits: tenant.limits.into(),
            inbox_count: tenant.inbox_count,
            workspace_count: tenant.workspace_count,
            suspended: tenant.suspended_at.is_some(),
            created_at: tenant.created_at.to_string(),
        }
    }
}

problems!(CreateProblems = KEYED, WITH_BODY, ONCE);
problems!(ListProblems = KEYED);
problems!(ReadProblems = KEYED, OF_ONE);
problems!(UpdateProblems = KEYED, OF_ONE, CONDITIONAL, WITH_BODY, PUBLISHING);
problems!(DeleteProblems = KEYED, OF_ONE, CONDITIONAL, PUBLISHING);

/// Create a tenant
///
/// With its default workspace and its first key.
#[utoipa::path(post, path = "/v1/tenants", tag = "tenants", request_body = CreateTenant,
    responses((status = 201, description = "The tenant and its key, shown once", body = CreatedTenant), CreateProblems))]
pub(super) async fn create_tenant(
    State(app): State<App>,
    caller: Authenticated,
    once: Once,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&[])?;
    let Input { fields, ignored } = body.command::<CreateTenant>()?;
    let name = Label::parse(&fields.name).map_err(|rule| Problem::invalid("name", rule))?;
    let limits = fields.limits.map_or_else(LimitsChange::default, Into::into);
    let request = once.of(&query, &body)?;
    let worker = app.clone();
    app.once(caller.0, request, move |call| async move {
        let created = ops::create(&worker.service, &caller.0, name, limits).await?;
        let ((tenant, key), change) = created.split();
        let made = Made::tenant(tenant.id).showing_key(&key);
        let created = CreatedTenant {
            tenant: tenant.into(),
            key: key.expose().to_owned(),
        };
        let answer = Answer::new(StatusCode::CREATED, &created, &ignored)?.about(made);
        call.commit(change, answer).await
    })
    .await
}

/// List tenants
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "1 to 1000, default 1000"),
        ("cursor" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]{21}[AQgw]$", description = "`nextCursor` of the page before")),
    responses((status = 200, description = "A page", body = TenantList), ListProblems))]
pub(super) async fn list_tenants(
    State(app): State<App>,
    caller: Authenticated,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&["limit", "cursor"])?;
    let limit = query.limit()?;
    let place = app.pages.take(&caller.0).await?;
    let page = ops::list(&app.service, &caller.0, query.cursor()?.map(TenantId), limit).await?;
    let (items, pagination) =
        lists::views_of(page, |id| id.0, |tenant: &Tenant| tenant.id.0, TenantView::from)?;
    let body = TenantList {
        tenants: items,
        pagination,
    };
    lists::answer(place, &body)
}

/// Read a tenant
#[utoipa::path(get, path = "/v1/tenants/{id}", tag = "tenants", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The tenant", body = TenantView), ReadProblems))]
pub(super) async fn get_tenant(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    known: IfNoneMatch,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::MANAGE)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let tenant = ops::read(&app.service, &caller.0, TenantId(id)).await?;
    known.answer(&tag_of(&tenant)?, TenantView::from(tenant))
}

fn tag_of(tenant: &Tenant) -> Result<ETag, Problem> {
    ETag::of(&TenantView::from(tenant.clone()), &[])
}

/// Change the name, the caps, or suspend and resume
///
/// When this answers to a suspension, logins are refused and open sessions have ended. Caps below what is in use
/// take nothing away; they only refuse more.
#[utoipa::path(patch, path = "/v1/tenants/{id}", tag = "tenants", params(("id" = Uuid, Path)), request_body = UpdateTenant,
    responses((status = 200, description = "Changed", body = Updated), UpdateProblems))]
pub(super) async fn update_tenant(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    expected: IfMatch,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::MANAGE)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let Input { fields, ignored } = body.change::<UpdateTenant>()?;
    let change = Change {
        name: required("name", fields.name, |name| Label::parse(&name))?,
        limits: match fields.limits {
            Edit::Keep => LimitsChange::default(),
            Edit::Clear => LimitsChange::NONE,
            Edit::Set(limits) => limits.into(),
        },
        suspended: required("suspended", fields.suspended, Ok)?,
    };
    let condition = expected.condition(tag_of);
    app.change(move |service| async move {
        ops::change(&service, &caller.0, TenantId(id), &change, &condition).await
    })
    .await?;
    Answer::new(StatusCode::OK, &Updated { updated: true, id }, &ignored)
}

/// Delete a tenant
///
/// With everything that it owns. Logins and deliveries have stopped when this answers.
#[utoipa::path(delete, path = "/v1/tenants/{id}", tag = "tenants", params(("id" = Uuid, Path)),
    responses((status = 200, description = "Deleted", body = Deleted), DeleteProblems))]
pub(super) async fn delete_tenant(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    expected: IfMatch,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::MANAGE)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let condition = expected.condition(tag_of);
    let deletion = app
        .change(
            move |service| async move { ops::delete(&service, &caller.0, TenantId(id), &condition).await },
        )
        .await?;
    deleted(deletion, &Deleted { deleted: true, id })
}
