//! The answer to a call that makes or changes something, before it is sent.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;

use super::{extract::Ignored, problem::Problem, sent::SentBody, uncached};
use crate::{model::made::Made, ops::in_flight::Claim};

/// Says which preferences were applied (RFC 7240, 3).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Says that an answer was given before.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A status and a JSON body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    /// Whether unknown fields were to be ignored.
    pub(super) is_lenient: bool,
    /// Whether it was given before.
    pub(super) is_replay: bool,
    /// Whether it is kept already, to be given again.
    pub(super) is_kept: bool,
    /// What it is about, where it can be given again.
    pub(super) made: Option<Made>,
    /// Acknowledges its creation once the body was handed to the connection.
    pub(super) claim: Option<Claim>,
}

impl Answer {
    /// An answer, with the unknown fields of the request that were ignored.
    pub(super) fn new(status: StatusCode, body: &impl Serialize, ignored: &Ignored) -> Result<Self, Problem> {
        let body = match &ignored.0 {
            Some(fields) if !fields.is_empty() => with_member(body, "ignoredFields", fields.as_slice()),
            _ => serde_json::to_vec(body),
        };
        Ok(Self {
            status,
            body: body.map_err(|error| Problem::internal(&error))?,
            is_lenient: ignored.0.is_some(),
            is_replay: false,
            is_kept: false,
            made: None,
            claim: None,
        })
    }

    /// The same, about something: it may be given again.
    pub(super) fn about(mut self, made: Made) -> Self {
        self.made = Some(made);
        self
    }
}

/// A JSON object with one more member.
pub(super) fn with_member(
    body: &impl Serialize,
    name: &str,
    value: impl Into<Value>,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut body = serde_json::to_value(body)?;
    if let Value::Object(object) = &mut body {
        object.insert(name.to_owned(), value.into());
    }
    serde_json::to_vec(&body)
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let body = match self.claim {
            Some(claim) => SentBody::body(self.body, claim),
            None => Body::from(self.body),
        };
        let mut response = uncached(self.status, ([(header::CONTENT_TYPE, "application/json")], body));
        if self.is_lenient {
            response
                .headers_mut()
                .insert(PREFERENCE_APPLIED, HeaderValue::from_static("handling=lenient"));
        }
        if self.is_replay {
            response
                .headers_mut()
                .insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}
