//! The OpenAPI document and the reference page.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Bytes,
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::openapi::{
    HeaderBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr, Server, Tag,
    path::Operation,
    schema::{ObjectBuilder, Type},
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{
    App,
    extract::Query,
    problem::{ANY, Problem, problems},
};

const DESCRIPTION: &str = "One HTTP call allocates an address; when it answers 201, IMAP login, SMTP submission and inbound \
delivery work with the returned credentials, at once, and survive a power cut.

Send a key as `X-API-Key` or as `Authorization: Bearer`. What a key does not reach does not exist for it: 404. Kinds: `sa_` \
(super admin: tenants), `tk_` (one tenant), `wk_` (one workspace), `ak_` (one inbox).

Every error is `{\"error\": \"a sentence for a person\", \"code\": \"STABLE_CODE\"}`, with further fields where a code says so. 503 \
means try again, and carries `Retry-After`. Every answer carries `X-Request-Id`, which is in every log line of the request. Bodies \
may take 64 KiB and 10 seconds to arrive, a call 30 seconds. A page of a list has at most 1,000 objects and about 1 MiB: \
`nextCursor` says whether there is another one. `Keep-Alive: timeout=N` says how long a connection is kept open without a \
request. A path without a call answers 404 `NOT_FOUND`, a method without one \
405 `METHOD_NOT_ALLOWED`.";

/// The document without its paths.
pub(super) fn document() -> OpenApi {
    let license = LicenseBuilder::new()
        .name("MIT OR Apache-2.0")
        .identifier(Some("MIT OR Apache-2.0"))
        .build();
    let info = InfoBuilder::new()
        .title("inboxd")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(license))
        .build();
    let mut tags = Vec::new();
    for (name, text) in [
        ("inboxes", "Addresses with a mailbox behind them"),
        ("addresses", "The names of an inbox"),
        ("domains", "A tenant's own domains: registered, proved, watched"),
        ("workspaces", "Isolation containers of a tenant, and their keys"),
        ("tenants", "For the operator of the service"),
        ("keys", "What a key stands for"),
        ("operation", "For whoever runs the daemon; no key needed"),
    ] {
        let mut tag = Tag::new(name);
        tag.description = Some(text.to_owned());
        tags.push(tag);
    }
    let either = [
        SecurityRequirement::new("apiKey", [] as [&str; 0]),
        SecurityRequirement::new("bearer", [] as [&str; 0]),
    ];
    OpenApiBuilder::new()
        .info(info)
        .tags(Some(tags))
        .security(Some(either))
        .servers(Some([Server::new("/")]))
        .build()
}

/// What is served beside the calls of the API.
#[derive(utoipa::OpenApi)]
#[openapi(paths(docs_page, metrics))]
struct Beside;

/// The reference page
///
/// For people; everything that it shows is in the program.
#[utoipa::path(get, path = "/docs", tag = "operation", security(()),
    responses((status = 200, description = "The page", body = String, content_type = "text/html"),
        (status = 303, description = "To the page, where the slash at the end is missing")))]
#[expect(dead_code, reason = "described here, served by the page's library")]
fn docs_page() {}

/// Metrics
///
/// In Prometheus's text format. On a listener of their own (`metrics.listen`), or with the API where that is empty.
#[utoipa::path(get, path = "/metrics", tag = "operation", security(()),
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain"),
        (status = 404, description = "They have a listener of their own")))]
#[expect(dead_code, reason = "described here, served by the daemon")]
fn metrics() {}

/// What holds for every call: how keys are sent, and the id in every answer.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "apiKey",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))),
    );
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
            &mut item.put,
        ];
        operations.into_iter().flatten().for_each(name_the_request);
    }
    document
        .paths
        .paths
        .extend(<Beside as utoipa::OpenApi>::openapi().paths.paths);
    document
}

fn name_the_request(operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let text = ObjectBuilder::new().schema_type(Type::String).build();
            let header = HeaderBuilder::new()
                .schema(Some(text))
                .description(Some("Names the request in the log."))
                .build();
            response.headers.insert("X-Request-Id".to_owned(), header.into());
        }
    }
}

problems!(DocumentProblems = ANY);

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "operation", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object), DocumentProblems))]
pub(super) async fn openapi_json(
    Extension(document): Extension<Document>,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&[])?;
    let text = document
        .0
        .as_ref()
        .as_ref()
        .map_err(|error| Problem::internal(error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text.clone()).into_response())
}

/// The document as it is sent. One text for all: callers that take it slowly hold no copies of it.
#[derive(Clone, Debug)]
pub(super) struct Document(Arc<Result<Bytes, serde_json::Error>>);

impl Document {
    /// The document of an API below this path.
    pub(super) fn new(base_path: &str) -> Self {
        let mut document = super::openapi();
        if !base_path.is_empty() {
            document.servers = Some(vec![Server::new(base_path)]);
        }
        Self(Arc::new(serde_json::to_vec(&document).map(Bytes::from)))
    }
}

/// The reference page at `/docs`: everything that it shows is in the binary.
pub(super) fn reference() -> Router<App> {
    // Where it is from the page, whatever is in front of both.
    let config = Config::new(["../openapi.json"])
        .validator_url("none")
        .doc_expansion("list")
        .persist_authorization(false);
    SwaggerUi::new("/docs").config(config).into()
}
