//! What a request says, parsed: who calls, the query, the body, ids in the path, headers.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{HeaderMap, HeaderValue, header, request::Parts},
};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    App,
    fields::{self, NoFields, Purpose},
    json::{self, parse_strictly},
    problem::{Code, Problem},
    rates::Meter,
};
use crate::{
    model::{Refused, api_key::Caller},
    ops::{
        self, KeyRule, PAGE_MAX,
        authenticate::authenticate,
        edit::{CannotBeRemoved, Edit},
    },
};

/// Largest request body, in octets. Metadata of 16 KiB is the largest thing that any call takes.
pub const BODY_MAX_OCTETS: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT_MS: u64 = 10_000;
/// The header that carries a key, beside `Authorization`.
pub(super) const API_KEY_HEADER: &str = "x-api-key";

/// Who calls: the key that was presented is in force.
#[derive(Clone, Copy, Debug)]
pub struct Authenticated(pub Caller);

impl Authenticated {
    /// Requires a key of a kind that may make the call, before anything else of the request is looked at.
    pub fn may(&self, rule: KeyRule) -> Result<(), Problem> {
        Ok(ops::require(&self.0, rule)?)
    }
}

impl FromRequestParts<App> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let key = presented_key(&parts.headers)?;
        let caller = authenticate(&app.service, &key).await?;
        tracing::Span::current().record("key_id", tracing::field::display(caller.key));
        if let Some(meter) = parts.extensions.get::<Meter>() {
            meter.count_key(caller.key)?;
        }
        Ok(Self(caller))
    }
}

/// The key of a request: from one header or from both, if they agree.
pub(super) fn presented_key(headers: &HeaderMap) -> Result<String, ops::Error> {
    let mut presented: Option<&str> = None;
    let api_keys = headers.get_all(API_KEY_HEADER).iter();
    let api_keys = api_keys.map(|value| value.to_str().map_err(|_| ops::Error::InvalidApiKey));
    let bearers = headers.get_all(header::AUTHORIZATION).iter().filter_map(bearer);
    for key in api_keys.chain(bearers) {
        let key = key?.trim();
        if presented.is_some_and(|other| other != key) {
            return Err(ops::Error::InvalidApiKey);
        }
        presented = Some(key);
    }
    presented
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .ok_or(ops::Error::MissingApiKey)
}

/// The key of a bearer (RFC 6750, 2.1); the scheme's name is case-insensitive (RFC 9110, 11.1). Other schemes are for a
/// proxy in front of the API, and count for nothing here.
fn bearer(value: &HeaderValue) -> Option<Result<&str, ops::Error>> {
    let scheme = value.as_bytes().split(|&octet| octet == b' ').next()?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    let key = value.to_str().ok().and_then(|text| text.split_once(' '));
    Some(key.map(|(_, key)| key).ok_or(ops::Error::InvalidApiKey))
}

/// A query whose names have been seen once each.
#[derive(Clone, Debug)]
pub struct Query(BTreeMap<String, String>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut query = BTreeMap::new();
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(parts.uri.query().unwrap_or_default())
            .map_err(|_| Problem::invalid("query", "must be name=value pairs joined by '&'"))?;
        for (name, value) in pairs {
            if query.insert(name.clone(), value).is_some() {
                return Err(Problem::invalid(&name, "must be given once"));
            }
        }
        Ok(Self(query))
    }
}

impl Query {
    /// Refuses every name but these.
    pub fn only(&self, allowed: &[&str]) -> Result<(), Problem> {
        match self.0.keys().find(|name| !allowed.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) if allowed.is_empty() => {
                Err(Problem::invalid(name, "this call takes no query parameters"))
            }
            Some(name) => {
                let nearest = fields::nearest(name, allowed)
                    .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                let rule = format!(
                    "unknown query parameter{nearest} (this call takes {})",
                    allowed.join(", ")
                );
                Err(Problem::invalid(name, rule))
            }
        }
    }

    /// The value of a name, parsed.
    pub fn parsed<T>(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, Refused>,
    ) -> Result<Option<T>, Problem> {
        self.0
            .get(name)
            .map(|value| parse(value).map_err(|rule| Problem::invalid(name, rule)))
            .transpose()
    }

    /// `true` or `false`; absent is `false`.
    pub fn flag(&self, name: &'static str) -> Result<bool, Problem> {
        match self.0.get(name).map(String::as_str) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::invalid(name, "must be true or false")),
        }
    }

    /// An id. One that is no UUID is none that anything has.
    pub fn id(&self, name: &'static str) -> Result<Option<Uuid>, Problem> {
        self.parsed(name, |value| {
            Uuid::parse_str(value).map_err(|_| Refused("must be a UUID".to_owned()))
        })
    }

    /// How many objects a list answers: 1 to [`PAGE_MAX`].
    pub fn limit(&self) -> Result<Option<u32>, Problem> {
        self.parsed("limit", |value| {
            let limit = value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
            limit.ok_or_else(|| Refused(format!("must be a number from 1 to {PAGE_MAX}")))
        })
    }

    /// Where a list begins, as the page before it said.
    pub fn cursor(&self) -> Result<Option<Uuid>, Problem> {
        self.parsed("cursor", |value| {
            parse_cursor(value).ok_or_else(|| Refused("must be a nextCursor of this list".to_owned()))
        })
    }

    /// The query as it was meant, for telling two requests apart.
    pub fn canonical(&self) -> Vec<u8> {
        serde_urlencoded::to_string(&self.0)
            .unwrap_or_default()
            .into_bytes()
    }
}

/// A cursor is the id of the last object of a page, in a form that invites nobody to make one.
pub fn cursor_of(id: Uuid) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(id.as_bytes())
}

fn parse_cursor(text: &str) -> Option<Uuid> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|octets| Uuid::from_slice(&octets).ok())
}

/// A request body, read whole. No body is an empty object: callers send none where everything is optional.
#[derive(Clone, Debug)]
pub struct JsonBody {
    octets: Vec<u8>,
    is_lenient: bool,
}

/// What a request body says.
#[derive(Debug)]
pub struct Input<T> {
    /// The fields.
    pub fields: T,
    /// What was ignored.
    pub ignored: Ignored,
}

/// The paths of the unknown fields that were ignored because the caller prefers that (RFC 7240, 4.4). None where it does
/// not: there unknown fields are refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ignored(pub Option<Vec<String>>);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Problem> {
        let is_lenient = prefers_lenient(request.headers());
        check_coding(request.headers())?;
        let too_large = || {
            let rule = format!("the body must be at most {BODY_MAX_OCTETS} octets");
            Problem::new(Code::PayloadTooLarge, rule)
        };
        // Before the first octet: a caller may wait to be asked for them (RFC 9110, 10.1.1).
        if request.body().size_hint().lower() > BODY_MAX_OCTETS as u64 {
            return Err(too_large());
        }
        let body = Limited::new(request.into_body(), BODY_MAX_OCTETS);
        let collected = tokio::time::timeout(Duration::from_millis(BODY_TIMEOUT_MS), body.collect()).await;
        match collected {
            Ok(Ok(body)) => Ok(Self {
                octets: body.to_bytes().to_vec(),
                is_lenient,
            }),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(Problem::invalid(
                "body",
                "the connection ended before the body did",
            )),
            Err(_) => Err(Problem::new(
                Code::RequestTimeout,
                format!("the body must arrive within {BODY_TIMEOUT_MS} ms"),
            )),
        }
    }
}

/// Refuses a body in a content coding: there is none that the service reads (RFC 9110, 8.4 and 15.5.16).
fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut names = codings.flat_map(|value| value.as_bytes().split(|&octet| octet == b','));
    let is_plain = names.all(|name| {
        let name = name.trim_ascii();
        name.is_empty() || name.eq_ignore_ascii_case(b"identity")
    });
    if is_plain {
        return Ok(());
    }
    let rule = "Content-Encoding: bodies are read as they are; send this one without a coding";
    Err(Problem::new(Code::UnsupportedCoding, rule))
}

impl JsonBody {
    /// The body of a call that makes or does something.
    pub fn command<T: DeserializeOwned>(&self) -> Result<Input<T>, Problem> {
        self.parse(Purpose::Command)
    }

    /// The body of a PATCH. One that names nothing to change is refused: `updated` would not be true.
    pub fn change<T: DeserializeOwned>(&self) -> Result<Input<T>, Problem> {
        self.parse(Purpose::Change)
    }

    /// Refuses every field, for a call that takes none.
    pub fn nothing(&self) -> Result<Ignored, Problem> {
        Ok(self.command::<NoFields>()?.ignored)
    }

    fn parse<T: DeserializeOwned>(&self, purpose: Purpose) -> Result<Input<T>, Problem> {
        let (fields, ignored) = fields::read(self.object()?, purpose, self.is_lenient)?;
        Ok(Input {
            fields,
            ignored: Ignored(self.is_lenient.then_some(ignored)),
        })
    }

    /// The object that the body is.
    fn object(&self) -> Result<Map<String, Value>, Problem> {
        if self.octets.iter().all(u8::is_ascii_whitespace) {
            return Ok(Map::new());
        }
        match parse_strictly(&self.octets).map_err(|rule| Problem::invalid("body", rule))? {
            Value::Object(object) => Ok(object),
            // Where a body is optional as a whole, null is as good as none.
            Value::Null => Ok(Map::new()),
            _ => Err(Problem::invalid("body", "must be a JSON object")),
        }
    }

    /// The same octets for every body that is the same JSON value, for telling two requests apart.
    pub fn canonical(&self) -> Result<Vec<u8>, Problem> {
        Ok(json::canonical(&Value::Object(self.object()?)).into_bytes())
    }

    /// Whether the caller prefers unknown fields to be ignored.
    pub fn is_lenient(&self) -> bool {
        self.is_lenient
    }
}

/// Whether `Prefer: handling=lenient` is sent. Of a preference that is given twice the first counts, and what cannot be
/// read is ignored (RFC 7240, 2).
fn prefers_lenient(headers: &HeaderMap) -> bool {
    let preferences = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    for preference in preferences {
        let (preference, _parameters) = preference.split_once(';').unwrap_or((preference, ""));
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        if name.trim().eq_ignore_ascii_case("handling") {
            return value.trim().trim_matches('"').eq_ignore_ascii_case("lenient");
        }
    }
    false
}

/// The ids in the path, in order. One that is no UUID is one that nothing has: 404 like any other.
#[derive(Clone, Debug)]
pub struct Ids<const N: usize>(pub [Uuid; N]);

impl<S: Send + Sync, const N: usize> FromRequestParts<S> for Ids<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let values = in_path(parts, state).await?;
        let ids: Option<Vec<Uuid>> = values.iter().map(|value| Uuid::parse_str(value).ok()).collect();
        ids.and_then(|ids| ids.try_into().ok())
            .map(Self)
            .ok_or_else(unknown)
    }
}

/// A name in the path, decoded.
#[derive(Clone, Debug)]
pub struct NameInPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for NameInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let values: [String; 1] = in_path(parts, state).await?.try_into().map_err(|_| unknown())?;
        let [name] = values;
        Ok(Self(name))
    }
}

/// An id in the path, and behind it a name, decoded.
#[derive(Clone, Debug)]
pub struct IdAndName {
    /// The id.
    pub id: Uuid,
    /// The name.
    pub name: String,
}

impl<S: Send + Sync> FromRequestParts<S> for IdAndName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let values: [String; 2] = in_path(parts, state).await?.try_into().map_err(|_| unknown())?;
        let [id, name] = values;
        let id = Uuid::parse_str(&id).map_err(|_| unknown())?;
        Ok(Self { id, name })
    }
}

async fn in_path<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<Vec<String>, Problem> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| unknown())?;
    Ok(params.iter().map(|(_, value)| value.to_owned()).collect())
}

fn unknown() -> Problem {
    Problem::new(Code::NotFound, "there is nothing with this id")
}

/// A header that may be given once.
pub fn single_header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::invalid(name, "must be given once"));
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_| Problem::invalid(name, "must be visible ASCII"))
}

/// Parses an optional field of a body with a rule of the model.
pub fn field<T>(
    name: &'static str,
    value: Option<&str>,
    parse: impl Fn(&str) -> Result<T, Refused>,
) -> Result<Option<T>, Problem> {
    value
        .map(|text| parse(text).map_err(|rule: Refused| invalid(name, &rule)))
        .transpose()
}

/// Parses a field of a PATCH that null removes.
pub fn edit<T>(
    name: &'static str,
    value: Edit<String>,
    parse: impl Fn(&str) -> Result<T, Refused>,
) -> Result<Edit<T>, Problem> {
    value.map(|text| parse(&text).map_err(|rule| invalid(name, &rule)))
}

/// Parses a field of a PATCH that cannot be removed.
pub fn required<T, U>(
    name: &'static str,
    value: Edit<T>,
    parse: impl Fn(T) -> Result<U, Refused>,
) -> Result<Option<U>, Problem> {
    value
        .required()
        .map_err(|CannotBeRemoved| Problem::invalid(name, "cannot be removed, so it must not be null"))?
        .map(|value| parse(value).map_err(|rule| invalid(name, &rule)))
        .transpose()
}

fn invalid(name: &str, rule: &impl Display) -> Problem {
    Problem::invalid(name, rule)
}
