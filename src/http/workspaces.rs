//! `/v1/workspaces` and their keys.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    App, Deleted, Pagination, Updated,
    answer::Answer,
    deleted,
    etag::{ETag, IfMatch, IfNoneMatch},
    extract::{Authenticated, Ids, Input, JsonBody, Query, field, required},
    lists,
    once::Once,
    problem::{CONDITIONAL, Code, KEYED, OF_ONE, ONCE, PUBLISHING, Problem, WITH_BODY, problems},
};
use crate::{
    model::{
        api_key::ListedKey,
        ids::{KeyId, WorkspaceId},
        made::Made,
        names::{Label, Slug},
        workspace::Workspace,
    },
    ops::{
        edit::Edit,
        keys::{self, KeysOf},
        workspaces::{self as ops, Change},
    },
};

/// What to create.
#[derive(Deserialize, ToSchema)]
pub(super) struct CreateWorkspace {
    /// 1 to 200 characters, no control and no invisible characters.
    #[schema(
        example = "Acme Corp",
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\u200c\u200d\ufe00-\ufe0f][^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*$"
    )]
    name: String,
    /// 1 to 63 of `a-z 0-9 -`, unique within the tenant. Defaults to one that follows from the name.
    #[schema(example = "acme-corp", pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    slug: Option<String>,
}

/// What to change.
#[derive(Deserialize, ToSchema)]
pub(super) struct UpdateWorkspace {
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
    /// Another slug.
    #[serde(default)]
    #[schema(value_type = String, required = false, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    slug: Edit<String>,
}

/// What key to create.
#[derive(Deserialize, ToSchema)]
pub(super) struct CreateWorkspaceKey {
    /// A name for it, to tell keys apart.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\u200c\u200d\ufe00-\ufe0f][^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*$"
    )]
    name: Option<String>,
}

/// A workspace.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Workspace)]
pub(super) struct WorkspaceView {
    id: Uuid,
    name: String,
    slug: String,
    /// Whether it was made with the tenant; that one cannot be deleted.
    is_default: bool,
    inbox_count: u32,
    domain_count: u32,
    #[schema(format = DateTime)]
    created_at: String,
}

/// A page of workspaces, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct WorkspaceList {
    workspaces: Vec<WorkspaceView>,
    pagination: Pagination,
}

/// A key of a workspace, without the key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WorkspaceKey)]
pub(super) struct KeyView {
    id: Uuid,
    /// How the key begins.
    #[schema(example = "wk_4fGh2")]
    prefix: String,
    /// Empty if none was given.
    name: String,
    #[schema(format = DateTime)]
    created_at: String,
}

/// A new key of a workspace.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedWorkspaceKey {
    #[serde(flatten)]
    listed: KeyView,
    /// The key, shown once.
    key: String,
    workspace_id: Uuid,
}

/// The keys of a workspace, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyList {
    keys: Vec<KeyView>,
}

/// What was revoked.
#[derive(Serialize, ToSchema)]
pub(super) struct Revoked {
    /// Always true.
    pub(super) revoked: bool,
    pub(super) id: Uuid,
}

impl From<Workspace> for WorkspaceView {
    fn from(workspace: Workspace) -> Self {
        Self {
            id: workspace.id.0,
            name: workspace.name.to_string(),
            slug: workspace.slug.to_string(),
            is_default: workspace.is_default,
            inbox_count: workspace.inbox_count,
            domain_count: workspace.domain_count,
            created_at: workspace.created_at.to_string(),
        }
    }
}

impl From<ListedKey> for KeyView {
    fn from(key: ListedKey) -> Self {
        Self {
            id: key.id.0,
            prefix: key.fragment,
            name: key.name.map_or_else(String::new, |name| name.to_string()),
            created_at: key.created_at.to_string(),
        }
    }
}

problems!(
    CreateProblems = KEYED,
    WITH_BODY,
    ONCE,
    [Code::PlanLimitReached, Code::SlugTaken]
);
problems!(ListProblems = KEYED);
problems!(ReadProblems = KEYED, OF_ONE);
problems!(
    UpdateProblems = KEYED,
    OF_ONE,
    CONDITIONAL,
    WITH_BODY,
    [Code::SlugTaken]
);
problems!(
    DeleteProblems = KEYED,
    OF_ONE,
    CONDITIONAL,
    PUBLISHING,
    [Code::DefaultWorkspace]
);
problems!(
    CreateKeyProblems = KEYED,
    OF_ONE,
    WITH_BODY,
    ONCE,
    [Code::PlanLimitReached]
);

/// Create a workspace
#[utoipa::path(post, path = "/v1/workspaces", tag = "workspaces", request_body = CreateWorkspace,
    responses((status = 201, description = "Created", body = WorkspaceView), CreateProblems))]
pub(super) async fn create_workspace(
    State(app): State<App>,
    caller: Authenticated,
    once: Once,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&[])?;
    let Input { fields, ignored } = body.command::<CreateWorkspace>()?;
    let name = Label::parse(&fields.name).map_err(|rule| Problem::invalid("name", rule))?;
    let slug = field("slug", fields.slug.as_deref(), Slug::parse)?;
    let request = once.of(&query, &body)?;
    let worker = app.clone();
    app.once(caller.0, request, move |call| async move {
        let created = ops::create(&worker.service, &caller.0, name, slug).await?;
        let (workspace, change) = created.split();
        let made = Made::workspace(workspace.tenant, workspace.id);
        let answer = Answer::new(StatusCode::CREATED, &WorkspaceView::from(workspace), &ignored)?.about(made);
        call.commit(change, answer).await
    })
    .await
}

/// List workspaces
#[utoipa::path(get, path = "/v1/workspaces", tag = "workspaces",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "1 to 1000, default 1000"),
        ("cursor" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]{21}[AQgw]$", description = "`nextCursor` of the page before")),
    responses((status = 200, description = "A page", body = WorkspaceList), ListProblems))]
pub(super) async fn list_workspaces(
    State(app): State<App>,
    caller: Authenticated,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&["limit", "cursor"])?;
    let limit = query.limit()?;
    let place = app.pages.take(&caller.0).await?;
    let page = ops::list(&app.service, &caller.0, query.cursor()?.map(WorkspaceId), limit).await?;
    let (items, pagination) = lists::views_of(
        page,
        |id| id.0,
        |workspace: &Workspace| workspace.id.0,
        WorkspaceView::from,
    )?;
    let body = WorkspaceList {
        workspaces: items,
        pagination,
    };
    lists::answer(place, &body)
}

/// Read a workspace
#[utoipa::path(get, path = "/v1/workspaces/{id}", tag = "workspaces", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The workspace", body = WorkspaceView), ReadProblems))]
pub(super) async fn get_workspace(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    known: IfNoneMatch,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::MANAGE)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let workspace = ops::read(&app.service, &caller.0, WorkspaceId(id)).await?;
    known.answer(&tag_of(&workspace)?, WorkspaceView::from(workspace))
}

fn tag_of(workspace: &Workspace) -> Result<ETag, Problem> {
    ETag::of(&WorkspaceView::from(workspace.clone()), &[])
}

/// Change the name or the slug
#[utoipa::path(patch, path = "/v1/workspaces/{id}", tag = "workspaces", params(("id" = Uuid, Path)),
    request_body = UpdateWorkspace,
    responses((status = 200, description = "Changed", body = Updated), UpdateProblems))]
pub(super) async fn update_workspace(
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
    let Input { fields, ignored } = body.change::<UpdateWorkspace>()?;
    let change = Change {
        name: required("name", fields.name, |name| Label::parse(&name))?,
        slug: required("slug", fields.slug, |slug| Slug::parse(&slug))?,
    };
    let condition = expected.condition(tag_of);
    ops::change(&app.service, &caller.0, WorkspaceId(id), &change, &condition).await?;
    Answer::new(StatusCode::OK, &Updated { updated: true, id }, &ignored)
}

/// Delete a workspace
///
/// With all its inboxes, domains and keys. Logins and deliveries have stopped when this answers.
#[utoipa::path(delete, path = "/v1/workspaces/{id}", tag = "workspaces", params(("id" = Uuid, Path)),
    responses((status = 200, description = "Deleted", body = Deleted), DeleteProblems))]
pub(super) async fn delete_workspace(
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
            move |service| async move { ops::delete(&service, &caller.0, WorkspaceId(id), &condition).await },
        )
        .await?;
    deleted(deletion, &Deleted { deleted: true, id })
}

/// Create a key for a workspace
#[utoipa::path(post, path = "/v1/workspaces/{id}/keys", tag = "workspaces", params(("id" = Uuid, Path)),
    request_body(content = Option<CreateWorkspaceKey>),
    responses((status = 201, description = "The key, shown once", body = CreatedWorkspaceKey), CreateKeyProblems))]
pub(super) async fn create_workspace_key(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    once: Once,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::MANAGE)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let Input { fields, ignored } = body.command::<CreateWorkspaceKey>()?;
    let name = field("name", fields.name.as_deref(), Label::parse)?;
    let request = once.of(&query, &body)?;
    let worker = app.clone();
    app.once(caller.0, request, move |call| async move {
        let of = KeysOf::Workspace(WorkspaceId(id));
        let created = keys::create(&worker.service, &caller.0, of, name).await?;
        let ((key, listed), change) = created.split();
        let made = Made::key(listed.id, &key);
        let created = CreatedWorkspaceKey {
            listed: listed.into(),
            key: key.expose().to_owned(),
            workspace_id: id,
        };
        let answer = Answer::new(StatusCode::CREATED, &created, &ignored)?.about(made);
        call.commit(change, answer).await
    })
    .await
}

/// List the keys of a workspace
#[utoipa::path(get, path = "/v1/workspaces/{id}/keys", tag = "workspaces", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The keys in force", body = KeyList), ReadProblems))]
pub(super) async fn list_workspace_keys(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    query: Query,
) -> Result<Json<KeyList>, Problem> {
    caller.may(ops::MANAGE)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let keys = keys::list(&app.service, &caller.0, KeysOf::Workspace(WorkspaceId(id))).await?;
    Ok(Json(KeyList {
        keys: keys.into_iter().map(Into::into).collect(),
    }))
}

/// Revoke a key of a workspace
///
/// It stops working before this answers.
#[utoipa::path(delete, path = "/v1/workspaces/{id}/keys/{keyId}", tag = "workspaces",
    params(("id" = Uuid, Path), ("keyId" = Uuid, Path)),
    responses((status = 200, description = "Revoked", body = Revoked), ReadProblems))]
pub(super) async fn revoke_workspace_key(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<2>,
    query: Query,
) -> Result<Json<Revoked>, Problem> {
    caller.may(ops::MANAGE)?;
    let Ids([id, key]) = ids;
    query.only(&[])?;
    keys::revoke(
        &app.service,
        &caller.0,
        KeysOf::Workspace(WorkspaceId(id)),
        KeyId(key),
    )
    .await?;
    Ok(Json(Revoked {
        revoked: true,
        id: key,
    }))
}
