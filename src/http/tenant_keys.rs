//! `/v1/tenants/{id}/keys`.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    App,
    answer::Answer,
    extract::{Authenticated, Ids, Input, JsonBody, Query, field},
    once::Once,
    problem::{Code, KEYED, OF_ONE, ONCE, Problem, WITH_BODY, problems},
    workspaces::Revoked,
};
use crate::{
    model::{
        api_key::ListedKey,
        ids::{KeyId, TenantId},
        made::Made,
        names::Label,
    },
    ops::keys::{self, KeysOf},
};

/// What key to create.
#[derive(Deserialize, ToSchema)]
pub(super) struct CreateTenantKey {
    /// A name for it, to tell keys apart.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\u200c\u200d\ufe00-\ufe0f][^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*$"
    )]
    name: Option<String>,
}

/// A key of a tenant, without the key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TenantKey)]
pub(super) struct TenantKeyView {
    id: Uuid,
    /// How the key begins.
    #[schema(example = "tk_4fGh2")]
    prefix: String,
    /// Empty if none was given.
    name: String,
    #[schema(format = DateTime)]
    created_at: String,
}

/// A new key of a tenant.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedTenantKey {
    #[serde(flatten)]
    listed: TenantKeyView,
    /// The key, shown once.
    key: String,
    tenant_id: Uuid,
}

/// The keys of a tenant, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct TenantKeyList {
    keys: Vec<TenantKeyView>,
}

impl From<ListedKey> for TenantKeyView {
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
    OF_ONE,
    WITH_BODY,
    ONCE,
    [Code::PlanLimitReached]
);
problems!(ListProblems = KEYED, OF_ONE);
problems!(RevokeProblems = KEYED, OF_ONE, [Code::LastKey]);

/// Create a key for a tenant
///
/// The others stay in force. With a super admin (sa_) key, or one of the tenant's own (tk_).
#[utoipa::path(post, path = "/v1/tenants/{id}/keys", tag = "tenants", params(("id" = Uuid, Path)),
    request_body(content = Option<CreateTenantKey>),
    responses((status = 201, description = "The key, shown once", body = CreatedTenantKey), CreateProblems))]
pub(super) async fn create_tenant_key(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    once: Once,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(keys::MANAGE_TENANT_KEYS)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let Input { fields, ignored } = body.command::<CreateTenantKey>()?;
    let name = field("name", fields.name.as_deref(), Label::parse)?;
    let request = once.of(&query, &body)?;
    let worker = app.clone();
    app.once(caller.0, request, move |call| async move {
        let of = KeysOf::Tenant(TenantId(id));
        let created = keys::create(&worker.service, &caller.0, of, name).await?;
        let ((key, listed), change) = created.split();
        let made = Made::key(listed.id, &key);
        let created = CreatedTenantKey {
            listed: listed.into(),
            key: key.expose().to_owned(),
            tenant_id: id,
        };
        let answer = Answer::new(StatusCode::CREATED, &created, &ignored)?.about(made);
        call.commit(change, answer).await
    })
    .await
}

/// List the keys of a tenant
#[utoipa::path(get, path = "/v1/tenants/{id}/keys", tag = "tenants", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The keys in force", body = TenantKeyList), ListProblems))]
pub(super) async fn list_tenant_keys(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    query: Query,
) -> Result<Json<TenantKeyList>, Problem> {
    caller.may(keys::MANAGE_TENANT_KEYS)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let keys = keys::list(&app.service, &caller.0, KeysOf::Tenant(TenantId(id))).await?;
    Ok(Json(TenantKeyList {
        keys: keys.into_iter().map(Into::into).collect(),
    }))
}

/// Revoke a key of a tenant
///
/// It stops working before this answers. A tenant cannot revoke the last of its own keys; a super admin can.
#[utoipa::path(delete, path = "/v1/tenants/{id}/keys/{keyId}", tag = "tenants",
    params(("id" = Uuid, Path), ("keyId" = Uuid, Path)),
    responses((status = 200, description = "Revoked", body = Revoked), RevokeProblems))]
pub(super) async fn revoke_tenant_key(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<2>,
    query: Query,
) -> Result<Json<Revoked>, Problem> {
    caller.may(keys::MANAGE_TENANT_KEYS)?;
    let Ids([id, key]) = ids;
    query.only(&[])?;
    keys::revoke(&app.service, &caller.0, KeysOf::Tenant(TenantId(id)), KeyId(key)).await?;
    Ok(Json(Revoked {
        revoked: true,
        id: key,
    }))
}
