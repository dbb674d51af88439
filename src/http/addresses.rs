//! `/v1/inboxes/{id}/addresses`.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    answer::Answer,
    deleted,
    extract::{Authenticated, IdAndName, Ids, Input, JsonBody, Query, field},
    inboxes::{AddressView, workspace_id},
    once::Once,
    problem::{Code, KEYED, OF_ONE, ONCE, PUBLISHING, Problem, WITH_BODY, problems},
};
use crate::{
    model::{address::Address, ids::InboxId, made::Made},
    ops::{addresses as ops, inboxes},
};

/// What to add.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddAddress {
    /// The address: at the service's default domain, or at a verified domain of the inbox's workspace.
    #[schema(
        example = "ada@acme.example",
        format = "idn-email",
        max_length = 318,
        pattern = "^[a-z0-9](([.]?[_-])*[.]?[a-z0-9])*@[^@]+$"
    )]
    email: String,
    /// Whether it becomes the address that the inbox sends from.
    #[schema(default = true)]
    primary: Option<bool>,
    /// The inbox's workspace; for tenant (tk_) keys. Given, the inbox also gets an address that another workspace of the
    /// tenant gave up and that is still kept for it.
    #[schema(value_type = Option<uuid::Uuid>)]
    workspace_id: Option<String>,
}

/// An address that the inbox has now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddedAddress {
    /// Always true.
    ok: bool,
    address: String,
    is_primary: bool,
}

/// The addresses of an inbox, the primary one first.
#[derive(Serialize, ToSchema)]
pub(super) struct AddressList {
    addresses: Vec<AddressView>,
}

/// An address that the inbox has no more.
#[derive(Serialize, ToSchema)]
pub(super) struct RemovedAddress {
    /// Always true.
    deleted: bool,
    address: String,
}

problems!(
    AddProblems = KEYED,
    WITH_BODY,
    ONCE,
    OF_ONE,
    PUBLISHING,
    [
        Code::UsernameReserved,
        Code::DomainNotAllowed,
        Code::PlanLimitReached,
        Code::AddressTaken,
        Code::DomainNotVerified
    ]
);
problems!(ListProblems = KEYED, OF_ONE);
problems!(
    RemoveProblems = KEYED,
    OF_ONE,
    PUBLISHING,
    [Code::CanonicalAddress]
);

/// Add an address to an inbox
///
/// When this answers, mail to the address is accepted and the inbox may send from it. For an address that the inbox has
/// already, it sets whether it is the primary one, and answers 200.
#[utoipa::path(post, path = "/v1/inboxes/{id}/addresses", tag = "addresses", params(("id" = Uuid, Path)),
    request_body = AddAddress,
    responses((status = 201, description = "Added", body = AddedAddress),
        (status = 200, description = "The inbox had it already", body = AddedAddress), AddProblems))]
pub(super) async fn add_address(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    once: Once,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(inboxes::WRITE)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let Input { fields, ignored } = body.command::<AddAddress>()?;
    let address = Address::parse(&fields.email).map_err(|rule| Problem::invalid("email", rule))?;
    let primary = fields.primary.unwrap_or(true);
    let workspace = field("workspaceId", fields.workspace_id.as_deref(), workspace_id)?;
    let request = once.of(&query, &body)?;
    let worker = app.clone();
    app.once(caller.0, request, move |call| async move {
        let (service, id) = (&worker.service, InboxId(id));
        let added = ops::add(service, &caller.0, id, &address, primary, workspace).await?;
        let (added, change) = added.split();
        let status = if added.value.is_new {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let body = AddedAddress {
            ok: true,
            address: address.to_string(),
            is_primary: added.value.is_primary,
        };
        let answer = Answer::new(status, &body, &ignored)?.about(Made::address(id, &address));
        let answer = call.commit(change, answer).await?;
        worker.published(added).await?;
        Ok(answer)
    })
    .await
}

/// List the addresses of an inbox
#[utoipa::path(get, path = "/v1/inboxes/{id}/addresses", tag = "addresses", params(("id" = Uuid, Path)),
    responses((status = 200, description = "All of them", body = AddressList), ListProblems))]
pub(super) async fn list_addresses(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    query: Query,
) -> Result<Json<AddressList>, Problem> {
    caller.may(inboxes::READ)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let addresses = ops::list(&app.service, &caller.0, InboxId(id)).await?;
    Ok(Json(AddressList {
        addresses: addresses.into_iter().map(Into::into).collect(),
    }))
}

/// Remove an address from an inbox
///
/// When this answers, mail to the address is refused and the inbox may not send from it any more. If it was the primary
/// one, the canonical address is primary again.
#[utoipa::path(delete, path = "/v1/inboxes/{id}/addresses/{address}", tag = "addresses",
    params(("id" = Uuid, Path), ("address" = String, Path, format = "idn-email", max_length = 318,
        pattern = "^[A-Za-z0-9](([.]?[_-])*[.]?[A-Za-z0-9])*@[^@]+$", description = "URL-encoded")),
    responses((status = 200, description = "Removed", body = RemovedAddress), RemoveProblems))]
pub(super) async fn remove_address(
    State(app): State<App>,
    caller: Authenticated,
    path: IdAndName,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(inboxes::WRITE)?;
    query.only(&[])?;
    let id = InboxId(path.id);
    let address = Address::parse_folded(&path.name).map_err(|rule| Problem::invalid("address", rule))?;
    let name = address.to_string();
    let deletion = app
        .change(move |service| async move { ops::remove(&service, &caller.0, id, &address).await })
        .await?;
    let body = RemovedAddress {
        deleted: true,
        address: name,
    };
    deleted(deletion, &body)
}
