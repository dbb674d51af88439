//! `/v1/inboxes`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    App, Deleted, Endpoints, Pagination, Updated,
    answer::Answer,
    deleted,
    docs::{free_form, free_form_or_null},
    etag::{ETag, IfMatch, IfNoneMatch},
    extract::{Authenticated, Ids, Ignored, Input, JsonBody, Query, edit, field},
    lists,
    once::Once,
    problem::{CONDITIONAL, COSTLY, Code, KEYED, OF_ONE, ONCE, PUBLISHING, Problem, WITH_BODY, problems},
};
use crate::{
    model::{
        Refused,
        address::{Address, DomainName, LocalPart},
        api_key::Caller,
        ids::{InboxId, WorkspaceId},
        inbox::{Inbox, InboxAddress, SearchText},
        made::Made,
        metadata::Metadata,
        names::DisplayName,
        password::MailPassword,
    },
    ops::{
        create_inbox::{self, Outcome, create_inbox as allocate},
        edit::Edit,
        inboxes::{self as ops, Description},
    },
    store::{InboxFilter, InboxSearch},
    telemetry::metric,
};

/// What to create.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateInbox {
    /// The local part: 1 to 64 of `a-z 0-9 . _ -`, starting and ending with a letter or digit, without `..`. Without
    /// one, a name is made from the tenant's, and every call makes a new inbox.
    #[schema(
        example = "scout",
        max_length = 64,
        pattern = "^[a-z0-9](([.]?[_-])*[.]?[a-z0-9])*$"
    )]
    username: Option<String>,
    /// The name shown beside the address: at most 200 characters, no control and no invisible characters.
    #[schema(
        example = "Scout",
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*$"
    )]
    display_name: Option<String>,
    /// The service's default domain, or a verified domain of the target workspace.
    #[schema(
        example = "example.com",
        format = "idn-hostname",
        min_length = 3,
        max_length = 253
    )]
    domain: Option<String>,
    /// The target workspace; for tenant (tk_) keys. Defaults to the tenant's default workspace. Given, the inbox also gets
    /// an address that another workspace of the tenant gave up and that is still kept for it.
    #[schema(value_type = Option<Uuid>)]
    workspace_id: Option<String>,
    /// The caller's own data: an object that takes at most 16 KiB as JSON.
    #[schema(schema_with = free_form_or_null, required = false)]
    metadata: Option<Map<String, Value>>,
}

/// What to change.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpdateInbox {
    /// Another display name; null removes it.
    #[serde(default)]
    #[schema(
        value_type = Option<String>,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*$"
    )]
    display_name: Edit<String>,
    /// A JSON merge patch (RFC 7396) of the metadata, which may take 16 KiB; null removes all of it.
    #[serde(default)]
    #[schema(schema_with = free_form_or_null, required = false)]
    metadata: Edit<Map<String, Value>>,
}

/// An inbox.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Inbox)]
pub(super) struct InboxView {
    id: Uuid,
    /// The primary address: the one that it sends from now.
    #[schema(example = "scout@example.com")]
    email: String,
    /// The login of IMAP and SMTP, fixed for ever.
    #[schema(example = "scout@example.com")]
    canonical_email: String,
    /// The local part of the canonical address.
    #[schema(example = "scout")]
    username: String,
    /// The domain of the canonical address.
    domain: String,
    /// Empty if none was given.
    display_name: String,
    workspace_id: Uuid,
    /// Every address that it accepts mail for; exactly one is primary.
    addresses: Vec<AddressView>,
    /// Only in the answers that show the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    imap_password: Option<String>,
    imap: ImapView,
    smtp: SmtpView,
    /// RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime)]
    created_at: String,
    /// The caller's own data.
    #[schema(schema_with = free_form)]
    metadata: Map<String, Value>,
}

/// An address of an inbox.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = InboxAddress)]
pub(super) struct AddressView {
    address: String,
    is_primary: bool,
}

/// How to log in over IMAP.
#[derive(Serialize, ToSchema)]
#[schema(as = ImapEndpoint)]
pub(super) struct ImapView {
    host: String,
    port: u16,
    /// Implicit TLS (RFC 8314).
    tls: bool,
    username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// How to submit mail over SMTP.
#[derive(Serialize, ToSchema)]
#[schema(as = SmtpEndpoint)]
pub(super) struct SmtpView {
    host: String,
    port: u16,
    /// STARTTLS is required (RFC 6409).
    starttls: bool,
    username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// An inbox that is new for the caller, with its credentials.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedInbox {
    #[serde(flatten)]
    inbox: InboxView,
    /// The key of this inbox (`ak_`), shown once.
    api_key: String,
}

/// An inbox that the caller had already, without credentials.
#[derive(Serialize, ToSchema)]
pub(super) struct ExistingInbox {
    #[serde(flatten)]
    inbox: InboxView,
    /// Always true.
    existed: bool,
}

/// A page of inboxes, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct InboxList {
    inboxes: Vec<InboxView>,
    pagination: Pagination,
}

/// The new key of an inbox.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RotatedKey {
    id: Uuid,
    /// Shown once; the old one does not work any more.
    api_key: String,
}

impl From<InboxAddress> for AddressView {
    fn from(entry: InboxAddress) -> Self {
        Self {
            address: entry.address.to_string(),
            is_primary: entry.is_primary,
        }
    }
}

impl InboxView {
    fn of(inbox: Inbox, endpoints: &Endpoints, password: Option<&MailPassword>) -> Self {
        let login = inbox.canonical.to_string();
        let password = password.map(|password| password.expose().to_owned());
        let (imap, smtp) = (&endpoints.imap, &endpoints.smtp);
        Self {
            id: inbox.id.0,
            email: inbox.primary().to_string(),
            username: inbox.canonical.local_part.to_string(),
            domain: inbox.canonical.domain.to_string(),
            display_name: inbox
                .display_name
                .map_or_else(String::new, |name| name.to_string()),
            workspace_id: inbox.workspace.0,
            addresses: inbox.addresses.into_iter().map(Into::into).collect(),
            imap: ImapView {
                host: imap.host.clone(),
                port: imap.port,
                tls: true,
                username: login.clone(),
                password: password.clone(),
            },
            smtp: SmtpView {
                host: smtp.host.clone(),
                port: smtp.port,
                starttls: true,
                username: login.clone(),
                password: password.clone(),
            },
            imap_password: password,
            canonical_email: login,
            created_at: inbox.created_at.to_string(),
            metadata: inbox.metadata.as_object().clone(),
        }
    }
}

problems!(
    CreateProblems = KEYED,
    COSTLY,
    WITH_BODY,
    ONCE,
    OF_ONE,
    PUBLISHING,
    [
        Code::UsernameReserved,
        Code::DomainNotAllowed,
        Code::PlanLimitReached,
        Code::UsernameTaken,
        Code::UsernameExhausted,
        Code::DomainNotVerified
    ]
);
problems!(ReadProblems = KEYED, OF_ONE);
problems!(UpdateProblems = KEYED, WITH_BODY, OF_ONE, CONDITIONAL);
problems!(DeleteProblems = KEYED, OF_ONE, CONDITIONAL, PUBLISHING);
problems!(RotateKeyProblems = KEYED, WITH_BODY, ONCE, OF_ONE);
problems!(
    RotatePasswordProblems = KEYED,
    COSTLY,
    WITH_BODY,
    ONCE,
    OF_ONE,
    PUBLISHING
);

/// Create an inbox (idempotent on the requested username)
///
/// When this answers 201, IMAP login, SMTP submission and inbound delivery work with the returned credentials, at
/// once, and all of it survives a power cut.
///
/// If the caller has an inbox at exactly `username@domain` already, or one that was requested under this name and
/// got another, that inbox is answered with 200. If somebody else has the name, the first free of `username1` to
/// `username99` is taken, or with `strict` 409 is answered.
#[utoipa::path(post, path = "/v1/inboxes", tag = "inboxes", request_body(content = Option<CreateInbox>),
    params(
        ("strict" = Option<bool>, Query, description = "Answer 409 instead of numbering a name that is taken")),
    responses((status = 201, description = "New, with credentials that work now", body = CreatedInbox),
        (status = 200, description = "The caller had it already; credentials are not shown again", body = ExistingInbox),
        CreateProblems))]
pub(super) async fn create_inbox(
    State(app): State<App>,
    caller: Authenticated,
    once: Once,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::WRITE)?;
    query.only(&["strict"])?;
    let strict = query.flag("strict")?;
    let Input { fields, ignored } = body.command::<CreateInbox>()?;
    let request = create_inbox::Request {
        username: field("username", fields.username.as_deref(), LocalPart::parse)?,
        display_name: field("displayName", fields.display_name.as_deref(), DisplayName::parse)?,
        domain: field("domain", fields.domain.as_deref(), DomainName::parse)?,
        workspace: field("workspaceId", fields.workspace_id.as_deref(), workspace_id)?,
        metadata: fields.metadata.map(metadata).transpose()?.unwrap_or_default(),
        strict,
    };
    let request_once = once.of(&query, &body)?;
    let worker = app.clone();
    app.once(caller.0, request_once, move |_| async move {
        create(&worker, &caller.0, &request, &ignored).await
    })
    .await
}

pub(super) fn workspace_id(text: &str) -> Result<WorkspaceId, Refused> {
    Uuid::parse_str(text)
        .map(WorkspaceId)
        .map_err(|_| Refused("must be a UUID".to_owned()))
}

fn metadata(object: Map<String, Value>) -> Result<Metadata, Problem> {
    Metadata::new(object).map_err(|rule| Problem::invalid("metadata", rule))
}

/// Allocates, publishes, sees, answers.
async fn create(
    app: &App,
    caller: &Caller,
    request: &create_inbox::Request,
    ignored: &Ignored,
) -> Result<Answer, Problem> {
    match allocate(&app.service, caller, request).await? {
        Outcome::Existing(inbox) => {
            let made = Made::inbox(inbox.id);
            let inbox = InboxView::of(*inbox, &app.endpoints, None);
            let body = ExistingInbox { inbox, existed: true };
            Ok(Answer::new(StatusCode::OK, &body, ignored)?.about(made))
        }
        Outcome::Created(changed) => {
            let created = app.published_new(*changed).await?;
            let completed = if created.completed { "true" } else { "false" };
            metric::INBOXES_CREATED_TOTAL.increment(&[completed]);
            let made = Made::inbox(created.inbox.id)
                .showing_key(&created.key)
                .showing_password(&created.password.hash)
                .acknowledging();
            let inbox = InboxView::of(created.inbox, &app.endpoints, Some(&created.password.clear));
            let body = CreatedInbox {
                inbox,
                api_key: created.key.expose().to_owned(),
            };
            let answer = Answer::new(StatusCode::CREATED, &body, ignored)?;
            Ok(Answer {
                made: Some(made),
                claim: Some(created.claim),
                ..answer
            })
        }
    }
}

/// List inboxes
///
/// Newest first. An inbox (ak_) key lists its one inbox. Passwords are never in a list. With `domain` or `q`, at most 10,000
/// inboxes are read for one page: it may hold fewer than `limit`, even none, while `nextCursor` goes on.
#[utoipa::path(get, path = "/v1/inboxes", tag = "inboxes",
    params(
        ("workspace" = Option<Uuid>, Query, description = "Only those of this workspace; for tenant (tk_) keys"),
        ("username" = Option<String>, Query, max_length = 64, pattern = "^[a-z0-9](([.]?[_-])*[.]?[a-z0-9])*$", description = "Only those whose canonical address has this local part"),
        ("email" = Option<String>, Query, format = "idn-email", max_length = 318, pattern = "^[A-Za-z0-9](([.]?[_-])*[.]?[A-Za-z0-9])*@[^@]+$", description = "Only the one that has this address"),
        ("domain" = Option<String>, Query, format = "idn-hostname", min_length = 3, max_length = 253, description = "Only those whose canonical address is at this domain"),
        ("q" = Option<String>, Query, min_length = 1, max_length = 100, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "Only those whose username or display name holds this; the case of a-z makes no difference"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "1 to 1000, default 1000"),
        ("cursor" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]{21}[AQgw]$", description = "`nextCursor` of the page before")),
    responses((status = 200, description = "A page", body = InboxList), ReadProblems))]
pub(super) async fn list_inboxes(
    State(app): State<App>,
    caller: Authenticated,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::READ)?;
    query.only(&["workspace", "username", "email", "domain", "q", "limit", "cursor"])?;
    let filter = InboxFilter {
        workspace: query.id("workspace")?.map(WorkspaceId),
        username: query.parsed("username", LocalPart::parse)?,
        email: query.parsed("email", Address::parse_folded)?,
        before: query.cursor()?.map(InboxId),
    };
    let search = InboxSearch {
        domain: query.parsed("domain", DomainName::parse)?,
        text: query.parsed("q", SearchText::parse)?,
    };
    let limit = query.limit()?;
    let place = app.pages.take(&caller.0).await?;
    let page = ops::list(&app.service, &caller.0, filter, &search, limit).await?;
    let view = |inbox| InboxView::of(inbox, &app.endpoints, None);
    let (inboxes, pagination) = lists::views_of(page, |id| id.0, |inbox: &Inbox| inbox.id.0, view)?;
    lists::answer(place, &InboxList { inboxes, pagination })
}

/// Read an inbox
///
/// With its password, unless the service keeps no recoverable copy.
#[utoipa::path(get, path = "/v1/inboxes/{id}", tag = "inboxes", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The inbox", body = InboxView), ReadProblems))]
pub(super) async fn get_inbox(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    known: IfNoneMatch,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::READ)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let (state, password) = ops::read(&app.service, &caller.0, InboxId(id)).await?;
    let tag = tag_of(&state, &app.endpoints)?;
    let view = InboxView::of(state.inbox, &app.endpoints, password.as_ref());
    let mut response = known.answer(&tag, view)?;
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The tag of an inbox. Its password is in it as it is stored: a digest of it in clear could be guessed at.
fn tag_of(state: &ops::State, endpoints: &Endpoints) -> Result<ETag, Problem> {
    let sealed = state.secrets.sealed_password.as_deref();
    let view = InboxView::of(state.inbox.clone(), endpoints, None);
    ETag::of(&view, sealed.unwrap_or_default())
}

/// Change the display name or the metadata
#[utoipa::path(patch, path = "/v1/inboxes/{id}", tag = "inboxes", params(("id" = Uuid, Path)), request_body = UpdateInbox,
    responses((status = 200, description = "Changed", body = Updated), UpdateProblems))]
pub(super) async fn update_inbox(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    expected: IfMatch,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::WRITE)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let Input { fields, ignored } = body.change::<UpdateInbox>()?;
    let change = Description {
        display_name: edit("displayName", fields.display_name, DisplayName::parse)?,
        metadata: fields.metadata,
    };
    let endpoints = Arc::clone(&app.endpoints);
    let condition = expected.condition(move |state| tag_of(state, &endpoints));
    ops::describe(&app.service, &caller.0, InboxId(id), &change, &condition).await?;
    Answer::new(StatusCode::OK, &Updated { updated: true, id }, &ignored)
}

/// Delete an inbox
///
/// Logins and deliveries have stopped, and open sessions have ended, when this answers. For a time only its workspace gets
/// its addresses. Deleting it again answers 404, unless this answered 503: then the same request finishes it.
#[utoipa::path(delete, path = "/v1/inboxes/{id}", tag = "inboxes", params(("id" = Uuid, Path)),
    responses((status = 200, description = "Deleted", body = Deleted), DeleteProblems))]
pub(super) async fn delete_inbox(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    expected: IfMatch,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::WRITE)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let endpoints = Arc::clone(&app.endpoints);
    let condition = expected.condition(move |state| tag_of(state, &endpoints));
    let deletion = app
        .change(move |service| async move { ops::delete(&service, &caller.0, InboxId(id), &condition).await })
        .await?;
    deleted(deletion, &Deleted { deleted: true, id })
}

/// Rotate the password of an inbox
///
/// When this answers, the old password is refused and every session that was opened with it has ended.
#[utoipa::path(post, path = "/v1/inboxes/{id}/rotate-password", tag = "inboxes", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The inbox with its new password", body = InboxView), RotatePasswordProblems))]
pub(super) async fn rotate_password(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    once: Once,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::READ)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let ignored = body.nothing()?;
    let request = once.of(&query, &body)?;
    let worker = app.clone();
    app.once(caller.0, request, move |_| async move {
        let changed = ops::rotate_password(&worker.service, &caller.0, InboxId(id)).await?;
        let (inbox, password) = worker.published(changed).await?;
        let made = Made::inbox(inbox.id).showing_password(&password.hash);
        let body = InboxView::of(inbox, &worker.endpoints, Some(&password.clear));
        Ok(Answer::new(StatusCode::OK, &body, &ignored)?.about(made))
    })
    .await
}

/// Rotate the key of an inbox
///
/// The old `ak_` key stops working before this answers.
#[utoipa::path(post, path = "/v1/inboxes/{id}/rotate-key", tag = "inboxes", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The new key", body = RotatedKey), RotateKeyProblems))]
pub(super) async fn rotate_key(
    State(app): State<App>,
    caller: Authenticated,
    ids: Ids<1>,
    once: Once,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::WRITE)?;
    let Ids([id]) = ids;
    query.only(&[])?;
    let ignored = body.nothing()?;
    let request = once.of(&query, &body)?;
    let worker = app.clone();
    app.once(caller.0, request, move |_| async move {
        let key = ops::rotate_key(&worker.service, &caller.0, InboxId(id)).await?;
        let made = Made::inbox(InboxId(id)).showing_key(&key);
        let body = RotatedKey {
            id,
            api_key: key.expose().to_owned(),
        };
        Ok(Answer::new(StatusCode::OK, &body, &ignored)?.about(made))
    })
    .await
}
