//! The OpenAPI document and the reference page.

mod bodies;
mod headers;

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Extension, Router,
    body::Bytes,
    http::header,
    response::{IntoResponse, Response as HttpResponse},
};
use serde_json::Value;
use utoipa::openapi::{
    Components, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr, Required, Response, Server, Tag,
    path::{Operation, ParameterBuilder, ParameterIn},
    schema::{AdditionalProperties, Array, ArrayBuilder, Object, ObjectBuilder, Schema, SchemaType, Type},
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{
    App,
    etag::TAGS_PATTERN,
    extract::Query,
    problem::{ANY, Code, ERROR_SCHEMA, Problem, error_schema, problems},
};
use crate::{model::made::Stale, ops::idempotency::KEY_MAX_OCTETS};

const DESCRIPTION: &str = "One HTTP call allocates an address; when it answers 201, IMAP login, SMTP submission and inbound \
delivery work with the returned credentials, at once, and survive a power cut.

Send a key as `X-API-Key` or as `Authorization: Bearer`. What a key does not reach does not exist for it: 404. Kinds: `sa_` \
(super admin: tenants), `tk_` (one tenant), `wk_` (one workspace), `ak_` (one inbox).

Unknown fields of a body and unknown query parameters are refused, unless the call is told `Prefer: handling=lenient`: then \
unknown fields of the body are ignored and listed in `ignoredFields`.

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
    let mut server = Server::new("/");
    server.description = Some("The service that serves this document".to_owned());
    OpenApiBuilder::new()
        .info(info)
        .tags(Some(tags))
        .security(Some(either))
        .servers(Some([server]))
        .build()
}

/// The caller's own data: an object with members of any name and type.
pub(super) fn free_form() -> Object {
    ObjectBuilder::new()
        .description(Some(
            "The caller's own data: members of any name and type, at most 16 KiB as JSON. In a change it is a JSON merge patch \
             (RFC 7396): null removes a member, and null instead of an object all of them.",
        ))
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::FreeForm(true)))
        .build()
}

/// The same, or null.
pub(super) fn free_form_or_null() -> Object {
    let mut object = free_form();
    object.schema_type = SchemaType::Array(vec![Type::Object, Type::Null]);
    object
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
/// In Prometheus's text format; in its protobuf format, which has native histograms, too, where `Accept` prefers it. On a
/// listener of their own (`metrics.listen`), or with the API where that is empty.
#[utoipa::path(get, path = "/metrics", tag = "operation", security(()),
    responses((status = 200, description = "The metrics", content(
            (String = "text/plain"),
            (String = "application/vnd.google.protobuf"))),
        (status = 404, description = "They have a listener of their own")))]
#[expect(dead_code, reason = "described here, served by the daemon")]
fn metrics() {}

/// What holds for every call: how keys are sent, and the id in every answer.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    bodies::close(&mut document);
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "apiKey",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))),
    );
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components
        .schemas
        .insert(ERROR_SCHEMA.to_owned(), error_schema().into());
    let (mut answered, mut kept) = (BTreeSet::new(), BTreeSet::new());
    for item in document.paths.paths.values_mut() {
        if let (Some(get), true) = (&mut item.get, item.patch.is_some()) {
            tag_answers(get);
            for change in [&mut item.patch, &mut item.delete].into_iter().flatten() {
                add_parameter(
                    change,
                    "If-Match",
                    "`*`, or the `ETag` of the state that the change is meant for: another state is answered with 412.",
                    tags(),
                );
            }
        }
        if let Some(post) = item.post.as_mut().filter(|post| can_run_once(post)) {
            kept.append(&mut run_once(post));
        }
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
            &mut item.put,
        ];
        for operation in operations.into_iter().flatten() {
            headers::declare(operation);
            if operation.request_body.is_some() {
                answered.append(&mut prefer_lenient(operation));
            }
        }
    }
    let ignored_fields = ArrayBuilder::new().items(text()).description(Some(
        "With `Prefer: handling=lenient`: the unknown fields of the request, which were ignored.",
    ));
    add_member(components, &answered, "ignoredFields", &ignored_fields.build());
    let words = [Stale::Deleted, Stale::Password, Stale::Key].map(|stale| Value::from(stale.as_str()));
    let word = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words));
    let stale = ArrayBuilder::new().items(word.build()).description(Some(
        "Of an answer that is given again (`Idempotent-Replayed: true`), what does not hold any more: the object is `deleted`, \
         or the mailbox `password` or the API `key` that it shows was rotated or revoked. Absent if all of it holds.",
    ));
    add_member(components, &kept, "stale", &stale.build());
    document.paths.paths.extend(beside().paths.paths);
    document
}

fn beside() -> OpenApi {
    let mut beside = <Beside as utoipa::OpenApi>::openapi();
    if let Some(page) = beside
        .paths
        .paths
        .get_mut("/docs")
        .and_then(|item| item.get.as_mut())
    {
        headers::declare(page);
        if let Some(RefOr::T(moved)) = page.responses.responses.get_mut("303") {
            headers::add(moved, "Location", "The page, below the base path.", Type::String);
        }
    }
    beside
}

fn tags() -> Object {
    let mut tags = text();
    tags.pattern = Some(TAGS_PATTERN.to_owned());
    tags
}

fn text() -> Object {
    ObjectBuilder::new().schema_type(Type::String).build()
}

/// Adds an optional member to schemas.
fn add_member(components: &mut Components, schemas: &BTreeSet<String>, member: &str, schema: &Array) {
    for name in schemas {
        if let Some(RefOr::T(described)) = components.schemas.get_mut(name)
            && let Some(object) = own_members(described)
        {
            object.properties.insert(member.to_owned(), schema.clone().into());
        }
    }
}

/// Adds a header that a request may have.
fn add_parameter(operation: &mut Operation, name: &str, description: &str, schema: Object) {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build();
    operation
        .parameters
        .get_or_insert_default()
        .push(parameter.into());
}

/// Describes that the answer has a tag, and is left out for who knows it.
fn tag_answers(operation: &mut Operation) {
    add_headers(
        operation,
        (
            "If-None-Match",
            "`ETag`s that the caller knows: one of these is answered with 304.",
            tags(),
        ),
        ("ETag", "A strong tag of what is shown."),
    );
    let mut known = Response::new("The caller has it already: `If-None-Match` names its `ETag`.");
    headers::add(&mut known, "ETag", "The tag that is named.", Type::String);
    operation
        .responses
        .responses
        .insert("304".to_owned(), known.into());
}

/// Adds a header that a request may have, and one that its answers may have. Returns the names of the schemas of these.
fn add_headers(
    operation: &mut Operation,
    request: (&str, &str, Object),
    answer: (&str, &str),
) -> BTreeSet<String> {
    let (name, description, schema) = request;
    add_parameter(operation, name, description, schema);
    let mut names = BTreeSet::new();
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if !status.starts_with('2') {
            continue;
        }
        headers::add(response, answer.0, answer.1, Type::String);
        for content in response.content.values() {
            if let RefOr::T(content) = content
                && let Some(RefOr::Ref(schema)) = &content.schema
                && let Some(name) = schema.ref_location.rsplit('/').next()
            {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// Describes that the caller may prefer unknown fields to be ignored.
fn prefer_lenient(operation: &mut Operation) -> BTreeSet<String> {
    let description = "`handling=lenient` (RFC 7240): unknown fields of the body are ignored, and listed in `ignoredFields`.";
    add_headers(
        operation,
        ("Prefer", description, text()),
        ("Preference-Applied", "`handling=lenient`, if that was asked for."),
    )
}

/// Whether a call takes an `Idempotency-Key`: it can answer that the key was used with another request.
fn can_run_once(operation: &Operation) -> bool {
    let status = Code::IdempotencyKeyReused.status();
    operation.responses.responses.contains_key(status.as_str())
}

/// Describes that the call can be made to run once.
fn run_once(operation: &mut Operation) -> BTreeSet<String> {
    let mut key = text();
    key.pattern = Some(format!("^[!-~]{{1,{KEY_MAX_OCTETS}}}$"));
    let description = "For 24 hours the same key, caller, path, query and body (compared as JSON) gets the first answer again, \
         secrets included. Refusals are not kept.";
    add_headers(
        operation,
        ("Idempotency-Key", description, key),
        ("Idempotent-Replayed", "`true` if the answer was given before."),
    )
}

/// The members of an object that are not another schema's.
fn own_members(schema: &mut Schema) -> Option<&mut Object> {
    match schema {
        Schema::Object(object) => Some(object),
        Schema::AllOf(all) => all.items.iter_mut().rev().find_map(|item| match item {
            RefOr::T(schema) => own_members(schema),
            RefOr::Ref(_) => None,
        }),
        _ => None,
    }
}

problems!(DocumentProblems = ANY);

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "operation", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object), DocumentProblems))]
pub(super) async fn openapi_json(
    Extension(document): Extension<Document>,
    query: Query,
) -> Result<HttpResponse, Problem> {
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
