//! `/v1/domains`.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    App, Pagination,
    answer::Answer,
    deleted,
    etag::{ETag, IfMatch, IfNoneMatch},
    extract::{Authenticated, Input, JsonBody, NameInPath, Query, edit, field},
    inboxes::workspace_id,
    lists,
    once::Once,
    problem::{CONDITIONAL, COSTLY, Code, KEYED, OF_ONE, ONCE, PUBLISHING, Problem, WITH_BODY, problems},
};
use crate::{
    clock::Timestamp,
    model::{
        Refused,
        address::DomainName,
        dns_records::DnsRecord,
        domain::{DomainStatus, Finding, RecordStatus},
        ids::{DomainId, InboxId, WorkspaceId},
        made::Made,
    },
    ops::{
        domains::{self as ops, Registered, Registration},
        edit::Edit,
    },
};

/// What to register.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateDomain {
    /// A domain that somebody can own: not the service's default domain, no public suffix, no address. Unicode is taken,
    /// and stored as A-labels.
    #[schema(
        example = "acme.example",
        format = "idn-hostname",
        min_length = 3,
        max_length = 253
    )]
    domain: String,
    /// The workspace that gets it; for tenant (tk_) keys. Defaults to the tenant's default workspace.
    #[schema(value_type = Option<Uuid>)]
    workspace_id: Option<String>,
}

/// What to change.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpdateDomain {
    /// The inbox that gets mail to what is no address of the domain; null: that mail is refused.
    #[serde(default)]
    #[schema(value_type = Option<Uuid>)]
    catch_all: Edit<String>,
}

/// A custom domain.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Domain)]
pub(super) struct DomainView {
    id: Uuid,
    /// A-labels, lower case.
    #[schema(example = "acme.example")]
    domain: String,
    /// `pending`: its ownership is not proved yet; `contested`: it is, and another tenant has the domain, or one above it, whose
    /// challenge is missing from DNS; `verified`: it is proved, and mail is accepted; `degraded`: the same, but a required
    /// record is missing that was there; `failed`: it was not proved in time and has to be registered again.
    #[schema(value_type = String, pattern = "^(pending|contested|verified|degraded|failed)$")]
    status: &'static str,
    workspace_id: Uuid,
    /// What is to be published, and what DNS said of it when it was asked last.
    dns_records: Vec<RecordView>,
    /// The inbox that gets mail to what is no address of the domain.
    catch_all: Option<Uuid>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// When its ownership was proved.
    #[schema(format = DateTime)]
    verified_at: Option<String>,
    /// When DNS was asked last.
    #[schema(format = DateTime)]
    checked_at: Option<String>,
    /// Since when a required record is missing that was there.
    #[schema(format = DateTime)]
    degraded_since: Option<String>,
    /// Since when this registration contests that of another tenant, or, of a verified one, another tenant has proved the
    /// domain, or one below it, while the challenge here is missing from DNS.
    #[schema(format = DateTime)]
    contested_since: Option<String>,
    /// When the contested domain is handed over, unless the holder's challenge is in DNS again by then.
    #[schema(format = DateTime)]
    handover_at: Option<String>,
}

/// A DNS record.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DnsRecord)]
pub(super) struct RecordView {
    /// `ownership`, `mx`, `spf`, `dkim` or `dmarc`.
    purpose: &'static str,
    /// `TXT` or `MX`.
    r#type: &'static str,
    /// Absolute, without the last dot.
    #[schema(example = "_dmarc.acme.example")]
    name: String,
    value: String,
    /// Of an MX record: its preference.
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u16>,
    /// Whether mail suffers without it; the others are recommended.
    required: bool,
    /// `verified`: it is there; `pending`: it is not there, or DNS was not asked or did not answer; `failed`: something
    /// else is there.
    #[schema(value_type = String, pattern = "^(pending|verified|failed)$")]
    status: &'static str,
    /// Why, in plain words.
    reason: String,
}

/// A page of domains, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct DomainList {
    domains: Vec<DomainView>,
    pagination: Pagination,
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(super) struct DeletedDomain {
    /// Always true.
    deleted: bool,
    domain: String,
}

/// What was released.
#[derive(Serialize, ToSchema)]
pub(super) struct ReleasedDomain {
    /// Always true.
    released: bool,
    domain: String,
}

impl From<Registered> for DomainView {
    fn from(registered: Registered) -> Self {
        let Registered {
            domain,
            status,
            records,
            contest,
        } = registered;
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            id: domain.id.0,
            domain: domain.name.to_string(),
            status: status.as_str(),
            workspace_id: domain.workspace.0,
            dns_records: records.into_iter().map(record_view).collect(),
            catch_all: domain.catch_all.map(|inbox| inbox.0),
            created_at: domain.created_at.to_string(),
            updated_at: domain.updated_at.to_string(),
            verified_at: time(domain.verified_at.filter(|_| domain.is_usable())),
            checked_at: time(domain.checked_at),
            degraded_since: time(domain.degraded_since),
            contested_since: time(contest.map(|(since, _)| since)),
            handover_at: time(contest.map(|(_, due)| due)),
        }
    }
}

fn record_view((record, finding): (DnsRecord, Option<Finding>)) -> RecordView {
    let (status, reason) = match finding {
        None => ("pending", "DNS has not been asked yet".to_owned()),
        Some(finding) => {
            let status = match finding.status {
                RecordStatus::Verified => "verified",
                RecordStatus::Wrong => "failed",
                RecordStatus::Missing | RecordStatus::Unknown => "pending",
            };
            (status, finding.reason)
        }
    };
    RecordView {
        purpose: record.purpose.as_str(),
        r#type: record.record_type(),
        name: record.name,
        value: record.value,
        priority: record.priority,
        required: record.is_required,
        status,
        reason,
    }
}

problems!(
    CreateProblems = KEYED,
    COSTLY,
    WITH_BODY,
    ONCE,
    OF_ONE,
    [Code::PlanLimitReached, Code::DomainTaken]
);
problems!(ListProblems = KEYED, OF_ONE);
problems!(RotateProblems = KEYED, COSTLY, OF_ONE, WITH_BODY, ONCE);
problems!(
    VerifyProblems = KEYED,
    COSTLY,
    OF_ONE,
    PUBLISHING,
    [Code::DomainTaken, Code::DomainLapsed, Code::PlanLimitReached]
);
problems!(
    UpdateProblems = KEYED,
    OF_ONE,
    CONDITIONAL,
    WITH_BODY,
    PUBLISHING,
    [Code::DomainNotVerified]
);
problems!(ReleaseProblems = KEYED, OF_ONE, PUBLISHING);
problems!(
    DeleteProblems = KEYED,
    OF_ONE,
    CONDITIONAL,
    PUBLISHING,
    [Code::DomainInUse]
);

/// The domain in the path, as the document describes it.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "described here, read as a NameInPath")]
struct DomainInPath {
    #[param(format = "idn-hostname", min_length = 3, max_length = 253)]
    domain: String,
}

/// The domain in the path.
fn name_of(path: &NameInPath) -> Result<DomainName, Problem> {
    DomainName::parse(&path.0).map_err(|rule| Problem::invalid("domain", rule))
}

fn tag_of(registered: &Registered) -> Result<ETag, Problem> {
    ETag::of(&DomainView::from(registered.clone()), &[])
}

/// Register a domain
///
/// Nothing is accepted for it until its ownership is proved: publish `dnsRecords` and verify. For a domain that the
/// workspace has registered already, the registration is answered with 200.
#[utoipa::path(post, path = "/v1/domains", tag = "domains", request_body = CreateDomain,
    responses((status = 201, description = "Registered", body = DomainView),
        (status = 200, description = "The workspace has it already", body = DomainView), CreateProblems))]
pub(super) async fn create_domain(
    State(app): State<App>,
    caller: Authenticated,
    once: Once,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&[])?;
    let Input { fields, ignored } = body.command::<CreateDomain>()?;
    let name = DomainName::parse(&fields.domain).map_err(|rule| Problem::invalid("domain", rule))?;
    let workspace = field("workspaceId", fields.workspace_id.as_deref(), workspace_id)?;
    let request = once.of(&query, &body)?;
    let worker = app.clone();
    app.once(caller.0, request, move |call| async move {
        let answer = |status, registered: Registered| {
            let made = Made::domain(registered.domain.id);
            Ok(Answer::new(status, &DomainView::from(registered), &ignored)?.about(made))
        };
        match ops::register(&worker.service, &caller.0, &name, workspace).await? {
            Registration::Existing(registered) => answer(StatusCode::OK, registered),
            Registration::New(registered) => {
                let (registered, change) = registered.split();
                call.commit(change, answer(StatusCode::CREATED, registered)?)
                    .await
            }
        }
    })
    .await
}

/// List domains
#[utoipa::path(get, path = "/v1/domains", tag = "domains",
    params(("workspace" = Option<Uuid>, Query, description = "Only those of this workspace; for tenant (tk_) keys"),
        ("name" = Option<String>, Query, format = "idn-hostname", min_length = 3, max_length = 253, description = "Only registrations of exactly this domain"),
        ("status" = Option<String>, Query, pattern = "^(pending|verified|degraded|failed)$",
            description = "Only those with this status"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "1 to 1000, default 1000"),
        ("cursor" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]{21}[AQgw]$", description = "`nextCursor` of the page before")),
    responses((status = 200, description = "A page", body = DomainList), ListProblems))]
pub(super) async fn list_domains(
    State(app): State<App>,
    caller: Authenticated,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&["workspace", "name", "status", "limit", "cursor"])?;
    let name = query.parsed("name", DomainName::parse)?;
    let limit = query.limit()?;
    let place = app.pages.take(&caller.0).await?;
    let page = ops::list(
        &app.service,
        &caller.0,
        query.id("workspace")?.map(WorkspaceId),
        (name.as_ref(), query.parsed("status", DomainStatus::parse)?),
        query.cursor()?.map(DomainId),
        limit,
    )
    .await?;
    let (items, pagination) = lists::views_of(
        page,
        |id| id.0,
        |registered: &Registered| registered.domain.id.0,
        DomainView::from,
    )?;
    let body = DomainList {
        domains: items,
        pagination,
    };
    lists::answer(place, &body)
}

/// Read a domain
///
/// As DNS said when it was asked last. A tenant (tk_) key that has registered it in several workspaces is shown the
/// verified registration, or else the newest.
#[utoipa::path(get, path = "/v1/domains/{domain}", tag = "domains", params(DomainInPath),
    responses((status = 200, description = "The domain", body = DomainView), ListProblems))]
pub(super) async fn get_domain(
    State(app): State<App>,
    caller: Authenticated,
    path: NameInPath,
    known: IfNoneMatch,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&[])?;
    let registered = ops::read(&app.service, &caller.0, &name_of(&path)?).await?;
    known.answer(&tag_of(&registered)?, DomainView::from(registered))
}

/// Verify a domain
///
/// Asks DNS now. When this answers that the domain is verified, mail to its addresses is accepted. Those who ask at the
/// same time share one check. While another tenant has the domain, or one above it, this is 409 for as long as its challenge
/// is in DNS, and otherwise `contested` until `handoverAt`. A registration that was not proved in time cannot be verified: register the domain again.
#[utoipa::path(get, path = "/v1/domains/{domain}/verify", tag = "domains", params(DomainInPath),
    responses((status = 200, description = "What DNS says", body = DomainView), VerifyProblems))]
pub(super) async fn verify_domain(
    State(app): State<App>,
    caller: Authenticated,
    path: NameInPath,
    query: Query,
) -> Result<Json<DomainView>, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&[])?;
    let name = name_of(&path)?;
    let worker = app.clone();
    let registered = app
        .to_the_end(async move {
            let changed = ops::verify(&worker.service, &caller.0, &name).await?;
            let registered = worker.published(changed).await?;
            Ok(ops::finish_hand_over(&worker.service, registered).await?)
        })
        .await?;
    Ok(Json(registered.into()))
}

/// Release a domain
///
/// Takes a verified domain from its holder at once: whoever proves it next has it. The holder's inboxes whose canonical
/// address is at the domain are deleted, and its addresses are taken from the others; mail that is stored stays under the
/// inboxes' ids. When this answers, no mail for the domain is accepted any more.
#[utoipa::path(post, path = "/v1/domains/{domain}/release", tag = "domains", params(DomainInPath),
    responses((status = 200, description = "Released", body = ReleasedDomain), ReleaseProblems))]
pub(super) async fn release_domain(
    State(app): State<App>,
    caller: Authenticated,
    path: NameInPath,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::RELEASE)?;
    query.only(&[])?;
    let name = name_of(&path)?;
    let domain = name.to_string();
    let release = app
        .change(move |service| async move { ops::release_with_key(&service, &caller.0, &name).await })
        .await?;
    let body = ReleasedDomain {
        released: true,
        domain,
    };
    deleted(release, &body)
}

/// Read a domain's records as a zone file
#[utoipa::path(get, path = "/v1/domains/{domain}/zone", tag = "domains", params(DomainInPath),
    responses((status = 200, description = "RFC 1035, 5; names are absolute", body = String, content_type = "text/dns"),
        ListProblems))]
pub(super) async fn domain_zone(
    State(app): State<App>,
    caller: Authenticated,
    path: NameInPath,
    query: Query,
) -> Result<impl IntoResponse, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&[])?;
    let zone = ops::zone(&app.service, &caller.0, &name_of(&path)?).await?;
    // RFC 4027.
    Ok(([(header::CONTENT_TYPE, "text/dns; charset=utf-8")], zone))
}

/// Change a domain
#[utoipa::path(patch, path = "/v1/domains/{domain}", tag = "domains", params(DomainInPath),
    request_body = UpdateDomain,
    responses((status = 200, description = "Changed", body = DomainView), UpdateProblems))]
pub(super) async fn update_domain(
    State(app): State<App>,
    caller: Authenticated,
    path: NameInPath,
    expected: IfMatch,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&[])?;
    let name = name_of(&path)?;
    let Input { fields, ignored } = body.change::<UpdateDomain>()?;
    let condition = expected.condition(tag_of);
    let registered = match edit("catchAll", fields.catch_all, inbox_id)? {
        Edit::Keep => ops::read(&app.service, &caller.0, &name).await?,
        change @ (Edit::Clear | Edit::Set(_)) => {
            let catch_all = change.applied_to(None);
            app.change(move |service| async move {
                ops::set_catch_all(&service, &caller.0, &name, catch_all, &condition).await
            })
            .await?
        }
    };
    Answer::new(StatusCode::OK, &DomainView::from(registered), &ignored)
}

fn inbox_id(text: &str) -> Result<InboxId, Refused> {
    Uuid::parse_str(text)
        .map(InboxId)
        .map_err(|_| Refused("must be the id of an inbox of the domain's workspace, or null".to_owned()))
}

/// Make new DKIM keys
///
/// They are in `dnsRecords` from now on, and sign from when a check has seen their records; until then, and for the mail
/// that is under way after that, the old records have to stay.
#[utoipa::path(post, path = "/v1/domains/{domain}/dkim/rotate", tag = "domains", params(DomainInPath),
    responses((status = 200, description = "The domain, with the new records", body = DomainView), RotateProblems))]
pub(super) async fn rotate_dkim(
    State(app): State<App>,
    caller: Authenticated,
    path: NameInPath,
    once: Once,
    query: Query,
    body: JsonBody,
) -> Result<Answer, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&[])?;
    let ignored = body.nothing()?;
    let name = name_of(&path)?;
    let request = once.of(&query, &body)?;
    let worker = app.clone();
    app.once(caller.0, request, move |_| async move {
        let registered = ops::rotate_dkim(&worker.service, &caller.0, &name).await?;
        let made = Made::domain(registered.domain.id);
        Ok(Answer::new(StatusCode::OK, &DomainView::from(registered), &ignored)?.about(made))
    })
    .await
}

/// Delete a domain
///
/// When this answers, no mail for it is accepted any more, and its names are free. Its addresses are taken from the inboxes that have them beside
/// their canonical one; inboxes whose canonical address is at the domain have to be deleted first.
#[utoipa::path(delete, path = "/v1/domains/{domain}", tag = "domains", params(DomainInPath),
    responses((status = 200, description = "Deleted", body = DeletedDomain), DeleteProblems))]
pub(super) async fn delete_domain(
    State(app): State<App>,
    caller: Authenticated,
    path: NameInPath,
    expected: IfMatch,
    query: Query,
) -> Result<Response, Problem> {
    caller.may(ops::MANAGE)?;
    query.only(&[])?;
    let name = name_of(&path)?;
    let domain = name.to_string();
    let condition = expected.condition(tag_of);
    let deletion = app
        .change(move |service| async move { ops::delete(&service, &caller.0, &name, &condition).await })
        .await?;
    let body = DeletedDomain {
        deleted: true,
        domain,
    };
    deleted(deletion, &body)
}
