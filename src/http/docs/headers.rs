//! The headers that answers carry, beside those that a call declares itself.

use utoipa::openapi::{HeaderBuilder, Object, ObjectBuilder, RefOr, Response, path::Operation, schema::Type};

use super::super::problem::{CODES_EXTENSION, Code};

/// A header of answers: its name, what it means, and the answers that can have it.
struct Declared {
    name: &'static str,
    description: &'static str,
    kind: Type,
    is_sent: fn(&Answer) -> bool,
}

/// An answer of the document.
struct Answer<'a> {
    status: &'a str,
    response: &'a Response,
}

impl Answer<'_> {
    /// Whether it can have this code.
    fn has(&self, code: Code) -> bool {
        let codes = self.response.extensions.as_ref();
        let codes = codes
            .and_then(|extensions| extensions.get(CODES_EXTENSION))
            .and_then(|codes| codes.as_array());
        codes.is_some_and(|codes| codes.iter().any(|name| name == code.as_str()))
    }
}

const DECLARED: [Declared; 6] = [
    Declared {
        name: "X-Request-Id",
        description: "Names the request in the log.",
        kind: Type::String,
        is_sent: |_| true,
    },
    Declared {
        name: "RateLimit-Policy",
        description: "The quota that the call counts against (draft-ietf-httpapi-ratelimit-headers-10): its name, `q` calls in \
                      `w` seconds. Absent where the quota is off, and where the request was refused before it was counted.",
        kind: Type::String,
        is_sent: |answer| !answer.has(Code::HeadersTooLarge),
    },
    Declared {
        name: "RateLimit",
        description: "What is left of that quota: `r` calls at once, and all of it in `t` seconds. Present where \
                      `RateLimit-Policy` is.",
        kind: Type::String,
        is_sent: |answer| !answer.has(Code::HeadersTooLarge),
    },
    Declared {
        name: "Retry-After",
        description: "Seconds after which the same request can be tried again. Of 409 it comes with `IDEMPOTENCY_IN_PROGRESS`, \
                      of `/readyz` with an error only.",
        kind: Type::Integer,
        is_sent: |answer| matches!(answer.status, "429" | "503") || answer.has(Code::IdempotencyInProgress),
    },
    Declared {
        name: "WWW-Authenticate",
        description: "`Bearer`: how a key is sent.",
        kind: Type::String,
        is_sent: |answer| answer.status == "401",
    },
    Declared {
        name: "Accept-Encoding",
        description: "The codings of a body that the service reads.",
        kind: Type::String,
        is_sent: |answer| answer.status == "415",
    },
];

/// Declares on each answer of a call the headers that it can have.
pub(super) fn declare(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let answer = Answer { status, response };
        let sent: Vec<&Declared> = DECLARED
            .iter()
            .filter(|declared| (declared.is_sent)(&answer))
            .collect();
        for declared in sent {
            add(
                response,
                declared.name,
                declared.description,
                declared.kind.clone(),
            );
        }
    }
}

/// Declares a header of one answer.
pub(super) fn add(response: &mut Response, name: &str, description: &str, kind: Type) {
    let schema: Object = ObjectBuilder::new().schema_type(kind).build();
    let header = HeaderBuilder::new()
        .schema(Some(schema))
        .description(Some(description))
        .build();
    response.headers.insert(name.to_owned(), header.into());
}
