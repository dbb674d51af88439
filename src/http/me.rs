//! `/v1/me`: what a key stands for.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    extract::{Authenticated, Query},
    problem::{KEYED, Problem, problems},
};
use crate::model::api_key::Scope;

/// What a key stands for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Me {
    kind: KindView,
    /// The key's own id.
    key_id: Uuid,
    /// Null for a super admin key.
    tenant_id: Option<Uuid>,
    /// Null for super admin and tenant keys.
    workspace_id: Option<Uuid>,
    /// Null for all but inbox keys.
    inbox_id: Option<Uuid>,
}

/// The kind of a key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = KeyKind)]
enum KindView {
    SuperAdmin,
    Tenant,
    Workspace,
    Inbox,
}

problems!(MeProblems = KEYED);

/// What the key stands for
#[utoipa::path(get, path = "/v1/me", tag = "keys",
    responses((status = 200, description = "Kind and reach of the key", body = Me), MeProblems))]
pub(super) async fn me(caller: Authenticated, query: Query) -> Result<Json<Me>, Problem> {
    query.only(&[])?;
    let (kind, tenant_id, workspace_id, inbox_id) = match caller.0.scope {
        Scope::SuperAdmin => (KindView::SuperAdmin, None, None, None),
        Scope::Tenant { tenant } => (KindView::Tenant, Some(tenant.0), None, None),
        Scope::Workspace { tenant, workspace } => {
            (KindView::Workspace, Some(tenant.0), Some(workspace.0), None)
        }
        Scope::Inbox {
            tenant,
            workspace,
            inbox,
        } => (KindView::Inbox, Some(tenant.0), Some(workspace.0), Some(inbox.0)),
    };
    Ok(Json(Me {
        kind,
        key_id: caller.0.key.0,
        tenant_id,
        workspace_id,
        inbox_id,
    }))
}
