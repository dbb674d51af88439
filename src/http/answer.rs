//! The answer to a call that makes or changes something, before it is sent.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;

use super::{extract::Ignored, problem::Problem, sent::SentBody, uncached};
use crate::{model::ids::InboxId, ops::in_flight::Claim};

/// Says which preferences were applied (RFC 7240, 3).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A status and a JSON body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    /// Whether unknown fields were to be ignored.
    pub(super) is_lenient: bool,
    /// The inbox that was created, if one was.
    pub(super) inbox: Option<InboxId>,
    /// Acknowledges its creation once the body was handed to the connection.
    pub(super) claim: Option<Claim>,
}

impl Answer {
    /// An answer, with the unknown fields of the request that were ignored.
    pub(super) fn new(status: StatusCode, body: &impl Serialize, ignored: &Ignored) -> Result<Self, Problem> {
        let body = match &ignored.0 {
            Some(fields) if !fields.is_empty() => with_member(body, "ignoredFields", fields),
            _ => serde_json::to_vec(body),
        };
        Ok(Self {
            status,
            body: body.map_err(|error| Problem::internal(&error))?,
            is_lenient: ignored.0.is_some(),
            inbox: None,
            claim: None,
        })
    }
}

/// A JSON object with one more member.
fn with_member(body: &impl Serialize, name: &str, value: &[String]) -> Result<Vec<u8>, serde_json::Error> {
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
        response
    }
}
