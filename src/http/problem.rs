//! Errors as callers see them: the only place that turns an error into a status and a code.

use std::collections::BTreeMap;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use utoipa::openapi::{
    ContentBuilder, Object, ObjectBuilder, Ref, RefOr, ResponseBuilder,
    extensions::ExtensionsBuilder,
    schema::{AdditionalProperties, Schema, SchemaType, Type},
};

use crate::{
    ops::{self, fair_slots::NoSlot},
    publish, telemetry,
};

/// Seconds after which a caller may try again what failed for want of something.
pub(super) const RETRY_AFTER_SECONDS: u16 = 1;

/// The name of the schema of an error's body.
pub const ERROR_SCHEMA: &str = "Error";
/// The codes that a response of the document can have.
pub(super) const CODES_EXTENSION: &str = "x-codes";

/// Declares every code with its status and meaning.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $text:literal, $meaning:literal;)+) => {
        /// A stable code. Every error that the daemon can answer has one.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Code { $(#[doc = $meaning] $name),+ }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The code as it is sent.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// The status that it is sent with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),+ }
            }

            /// What it means, for the reference.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning),+ }
            }
        }
    };
}

codes! {
    ValidationError = BAD_REQUEST, "VALIDATION_ERROR", "A field, query parameter or header has a value that is not allowed, or the body is not JSON; `field` names it.";
    UsernameReserved = BAD_REQUEST, "USERNAME_RESERVED", "The name is kept for the operator on the default domain.";
    MissingApiKey = UNAUTHORIZED, "MISSING_API_KEY", "No key was sent.";
    InvalidApiKey = UNAUTHORIZED, "INVALID_API_KEY", "The key is unknown, revoked or mistyped, or two different ones were sent.";
    Forbidden = FORBIDDEN, "FORBIDDEN", "Keys of this kind cannot make this call.";
    TenantSuspended = FORBIDDEN, "TENANT_SUSPENDED", "The tenant of the key is suspended.";
    DomainNotAllowed = FORBIDDEN, "DOMAIN_NOT_ALLOWED", "The domain is neither the default one nor one of the target workspace.";
    PlanLimitReached = FORBIDDEN, "PLAN_LIMIT_REACHED", "A cap of the tenant is reached; `limit`, `current` and `max` say which and how far.";
    NotFound = NOT_FOUND, "NOT_FOUND", "Nothing within the key's reach has this id, or there is no such call.";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "There is no such call; the `Allow` header lists the methods of this path.";
    RequestTimeout = REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "The body did not arrive in time.";
    UsernameTaken = CONFLICT, "USERNAME_TAKEN", "With `strict`: somebody else has the name.";
    UsernameExhausted = CONFLICT, "USERNAME_EXHAUSTED", "The name and all of its numbered fallbacks are taken.";
    DomainNotVerified = CONFLICT, "DOMAIN_NOT_VERIFIED", "The domain is the workspace's, but not verified yet.";
    AddressTaken = CONFLICT, "ADDRESS_TAKEN", "Another inbox has the address, or it is kept for whoever had it.";
    CanonicalAddress = CONFLICT, "CANONICAL_ADDRESS", "The canonical address is the inbox's for as long as it lives.";
    DomainTaken = CONFLICT, "DOMAIN_TAKEN", "Another has proved the domain, or one above it, and its challenge is still in DNS.";
    DomainLapsed = CONFLICT, "DOMAIN_LAPSED", "The registration was not proved in time; register the domain again.";
    DomainInUse = CONFLICT, "DOMAIN_IN_USE", "Inboxes have their canonical address at the domain; `inboxes` says how many.";
    DefaultWorkspace = CONFLICT, "DEFAULT_WORKSPACE", "The default workspace cannot be deleted.";
    LastKey = CONFLICT, "LAST_KEY", "The tenant would lock itself out: it has no other key in force.";
    SlugTaken = CONFLICT, "SLUG_TAKEN", "Another workspace of the tenant has this slug.";
    IdempotencyInProgress = CONFLICT, "IDEMPOTENCY_IN_PROGRESS", "The first request with this `Idempotency-Key` is still running.";
    PreconditionFailed = PRECONDITION_FAILED, "PRECONDITION_FAILED", "`If-Match` names another state of the object than the current one.";
    PayloadTooLarge = PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", "The body is larger than the service takes.";
    UnsupportedCoding = UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_CONTENT_ENCODING", "The body is in a coding (`Content-Encoding`) that the service does not read; `Accept-Encoding` of the answer names what it does.";
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED", "The `Idempotency-Key` was used with another query or body.";
    RateLimited = TOO_MANY_REQUESTS, "RATE_LIMITED", "The client address, the key or the tenant asks for more than it may: `Retry-After` says when it can again, and `RateLimit-Policy` how often, where a rate is the reason.";
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE, "HEADERS_TOO_LARGE", "The request has more or larger header lines than the service takes.";
    Internal = INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "A bug of the service; the log has more under the request's id.";
    MailStackUnavailable = SERVICE_UNAVAILABLE, "MAIL_STACK_UNAVAILABLE", "The mail side could not be written; nothing is lost, try again.";
    TooManyConnections = SERVICE_UNAVAILABLE, "TOO_MANY_CONNECTIONS", "The client address has as many connections as it may; use those again, or fewer.";
    StoreUnavailable = SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE", "The store did not answer; try again.";
    Overloaded = SERVICE_UNAVAILABLE, "OVERLOADED", "Too many requests of all callers wait for their turn; try again.";
    Timeout = SERVICE_UNAVAILABLE, "TIMEOUT", "The call took too long; it may have had its effect. Try again.";
}

/// An error on its way to the caller.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    error: String,
    extra: Map<String, Value>,
    /// The chain of causes, for the log and never for the caller.
    cause: Option<String>,
    /// Seconds after which it can be tried again, where that is known.
    retry_after_s: Option<u64>,
}

impl Problem {
    /// A problem with a sentence for a person.
    pub fn new(code: Code, error: impl Into<String>) -> Self {
        Self {
            code,
            error: error.into(),
            extra: Map::new(),
            cause: None,
            retry_after_s: None,
        }
    }

    /// A field, query parameter or header that has a value that is not allowed.
    pub fn invalid(field: &str, rule: impl std::fmt::Display) -> Self {
        Self::new(Code::ValidationError, format!("{field}: {rule}")).with("field", field)
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// The same, to be tried again after so many seconds.
    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    fn because(mut self, error: &dyn std::error::Error) -> Self {
        self.cause = Some(telemetry::chain(error));
        self
    }

    /// The status that it is sent with.
    pub fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// The body that it is sent with.
    pub fn body(&self) -> Value {
        let mut body = self.extra.clone();
        body.insert("error".to_owned(), Value::from(self.error.as_str()));
        body.insert("code".to_owned(), Value::from(self.code.as_str()));
        Value::Object(body)
    }

    /// Whether the same request can succeed later without a change, and when.
    fn retry_after_header(&self) -> Option<HeaderValue> {
        if let Some(seconds) = self.retry_after_s {
            return Some(HeaderValue::from(seconds));
        }
        let retry = self.status() == StatusCode::SERVICE_UNAVAILABLE
            || matches!(self.code, Code::IdempotencyInProgress | Code::RateLimited);
        retry.then(|| HeaderValue::from(RETRY_AFTER_SECONDS))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if let Some(cause) = &self.cause {
            tracing::error!(code = self.code.as_str(), cause, "a request failed");
        }
        if self.code == Code::Internal {
            telemetry::metric::INTERNAL_ERRORS_TOTAL.increment(&[]);
        }
        let mut response = (self.status(), axum::Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_header() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if self.code == Code::UnsupportedCoding {
            response
                .headers_mut()
                .insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ops::Error> for Problem {
    fn from(error: ops::Error) -> Self {
        Self::of(&error)
    }
}

impl Problem {
    /// What a use case refuses.
    fn of(error: &ops::Error) -> Self {
        use ops::Error as E;
        let text = error.to_string();
        match error {
            E::MissingApiKey => Self::new(Code::MissingApiKey, text),
            E::InvalidApiKey => Self::new(Code::InvalidApiKey, text),
            E::Forbidden(_) => Self::new(Code::Forbidden, text),
            E::TenantSuspended => Self::new(Code::TenantSuspended, text),
            E::NotFound(_) => Self::new(Code::NotFound, text),
            E::Invalid { field, rule } => Self::invalid(field, rule),
            E::UsernameReserved { field, .. } => {
                Self::new(Code::UsernameReserved, text).with("field", *field)
            }
            E::DomainNotAllowed { .. } => Self::new(Code::DomainNotAllowed, text),
            E::DomainNotVerified { .. } => Self::new(Code::DomainNotVerified, text),
            E::PlanLimit { limit, current, max } => Self::new(Code::PlanLimitReached, text)
                .with("limit", limit.as_str())
                .with("current", *current)
                .with("max", *max),
            E::UsernameTaken { wanted } => Self::new(Code::UsernameTaken, text)
                .with("requestedUsername", wanted.local_part.as_str())
                .with("attemptedUsername", wanted.local_part.as_str())
                .with("domain", wanted.domain.as_str()),
            E::UsernameExhausted { wanted, last } => Self::new(Code::UsernameExhausted, text)
                .with("requestedUsername", wanted.local_part.as_str())
                .with("attemptedUsername", last.as_str())
                .with("domain", wanted.domain.as_str()),
            E::AddressTaken(_) => Self::new(Code::AddressTaken, text).with("field", "email"),
            E::CanonicalAddress(_) => Self::new(Code::CanonicalAddress, text),
            E::DomainTaken(_) | E::DomainBelow { .. } => Self::new(Code::DomainTaken, text),
            E::DomainLapsed { .. } => Self::new(Code::DomainLapsed, text),
            E::DomainInUse { inboxes, .. } => Self::new(Code::DomainInUse, text).with("inboxes", *inboxes),
            E::DefaultWorkspace => Self::new(Code::DefaultWorkspace, text),
            E::LastKey => Self::new(Code::LastKey, text),
            E::SlugTaken => Self::new(Code::SlugTaken, text),
            E::PreconditionFailed => Self::new(Code::PreconditionFailed, text),
            E::IdempotencyKeyReused => Self::new(Code::IdempotencyKeyReused, text),
            E::IdempotencyInProgress => Self::new(Code::IdempotencyInProgress, text),
            E::NoSlot { reason, .. } => Self::new(
                match reason {
                    NoSlot::OwnerQueueFull => Code::RateLimited,
                    NoSlot::QueueFull => Code::Overloaded,
                    NoSlot::HungUp => Code::Timeout,
                },
                text,
            ),
            E::Store(source) if source.is_transient() => {
                telemetry::metric::STORE_UNAVAILABLE_TOTAL.increment(&[]);
                Self::new(Code::StoreUnavailable, "the store did not answer; try again").because(source)
            }
            E::Store(_) | E::Seal(_) | E::Hash(_) | E::Dkim(_) | E::Task(_) => Self::internal(error),
            E::Shared(error) => Self::of(error),
        }
    }
}

impl From<publish::Error> for Problem {
    fn from(error: publish::Error) -> Self {
        Self::new(
            Code::MailStackUnavailable,
            "the mail side could not be written; nothing is lost, try again",
        )
        .because(&error)
    }
}

impl Problem {
    /// A bug.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        Self::new(
            Code::Internal,
            "the service failed; this is a bug, and the log has more under the request's id",
        )
        .because(error)
    }
}

/// Codes that every call can answer.
pub const ANY: &[Code] = &[
    Code::ValidationError,
    Code::HeadersTooLarge,
    Code::RateLimited,
    Code::Internal,
    Code::TooManyConnections,
    Code::Timeout,
];
/// Codes that every call with a key can answer.
pub const KEYED: &[Code] = &[
    Code::ValidationError,
    Code::HeadersTooLarge,
    Code::RateLimited,
    Code::MissingApiKey,
    Code::InvalidApiKey,
    Code::Forbidden,
    Code::TenantSuspended,
    Code::Internal,
    Code::TooManyConnections,
    Code::StoreUnavailable,
    Code::Timeout,
];
/// Codes that every call with a body can answer.
pub const WITH_BODY: &[Code] = &[
    Code::RequestTimeout,
    Code::PayloadTooLarge,
    Code::UnsupportedCoding,
];
/// Codes that every call about one object can answer.
pub const OF_ONE: &[Code] = &[Code::NotFound];
/// Codes that every call can answer that does costly work, which is done in turns.
pub const COSTLY: &[Code] = &[Code::RateLimited, Code::Overloaded];
/// Codes that every call can answer that takes an `Idempotency-Key`.
pub const ONCE: &[Code] = &[Code::IdempotencyInProgress, Code::IdempotencyKeyReused];
/// Codes that every change of one object can answer that may carry `If-Match`.
pub const CONDITIONAL: &[Code] = &[Code::PreconditionFailed];
/// Codes that every call can answer that changes what the mail side sees.
pub const PUBLISHING: &[Code] = &[Code::MailStackUnavailable];

/// Names a list of codes as a type that the OpenAPI document takes as responses.
macro_rules! problems {
    ($(#[$doc:meta])* $name:ident = $($list:expr),+) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
                $crate::http::problem::responses(&[$(&$list[..]),+].concat())
            }
        }
    };
}
pub(super) use problems;

/// The responses of a call that can answer these codes: one a status, its schema listing the codes.
pub fn responses(codes: &[Code]) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for &code in codes {
        let same = by_status.entry(code.status().as_u16()).or_default();
        if !same.contains(&code) {
            same.push(code);
        }
    }
    by_status
        .into_iter()
        .map(|(status, codes)| (status.to_string(), RefOr::T(response(&codes))))
        .collect()
}

fn response(codes: &[Code]) -> utoipa::openapi::Response {
    let described: Vec<String> = codes
        .iter()
        .map(|code| format!("`{}`: {}", code.as_str(), code.meaning()))
        .collect();
    let names: Vec<Value> = codes.iter().map(|code| Value::from(code.as_str())).collect();
    let example = json!({ "error": codes[0].meaning(), "code": codes[0].as_str() });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(ERROR_SCHEMA)))
        .example(Some(example))
        .build();
    ResponseBuilder::new()
        .description(described.join("\n\n"))
        .content("application/json", content)
        .extensions(Some(ExtensionsBuilder::new().add(CODES_EXTENSION, names).build()))
        .build()
}

/// The schema of the body of every error: one, so that generated clients have one type for all of them.
pub fn error_schema() -> Schema {
    let code = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(
            "A stable code to decide by; which ones a call can answer with a status is in its description, and in `x-codes`. \
             Later versions may have more.",
        ))
        .examples(Code::ALL.iter().map(|code| code.as_str()));
    let mut body = ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Object))
        .description(Some("An error. Some codes carry further fields."))
        .property("error", text("A sentence for a person."))
        .property("code", code)
        .required("error")
        .required("code");
    for (name, schema) in extra_fields() {
        body = body.property(name, schema);
    }
    Schema::Object(
        body.additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .build(),
    )
}

/// The fields that some codes carry beyond `error` and `code`.
fn extra_fields() -> [(&'static str, Object); 8] {
    let number = |what: &str| {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .description(Some(what))
            .build()
    };
    [
        (
            "field",
            text("The field, query parameter or header that was refused."),
        ),
        (
            "limit",
            text(
                "Of `PLAN_LIMIT_REACHED`, which cap: `inboxes`, `addresses`, `domains`, `workspaces` or `keys`.",
            ),
        ),
        ("current", number("Of `PLAN_LIMIT_REACHED`: how many there are.")),
        ("max", number("Of `PLAN_LIMIT_REACHED`: how many there may be.")),
        (
            "inboxes",
            number("Of `DOMAIN_IN_USE`: how many inboxes there are."),
        ),
        (
            "requestedUsername",
            text("Of `USERNAME_TAKEN` and `USERNAME_EXHAUSTED`: what was asked for."),
        ),
        (
            "attemptedUsername",
            text("Of the same: the last name that was tried."),
        ),
        ("domain", text("Of the same: at which domain.")),
    ]
}

fn text(what: &str) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(what))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn causes_are_for_the_log_and_not_for_the_caller() {
        let source = publish::Error::Stopped;
        let problem = Problem::from(source);
        assert!(problem.cause.is_some());
        assert!(!problem.body().to_string().contains("stopped"));
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }
}
