//! A caller of the API. Every answer is held against the OpenAPI document: its status and code must be in it.

use std::{sync::LazyLock, time::Duration};

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::to_value(inboxd::http::openapi()).unwrap());

/// How long a connection may idle to be used again: clearly less than the server lets it, which is 60 s. On a busy machine a
/// request would meet the server's closing otherwise.
const POOL_IDLE: Duration = Duration::from_secs(5);

/// A caller with one key.
#[derive(Clone, Debug)]
pub struct Api {
    pub base: String,
    pub key: String,
    http: reqwest::Client,
}

/// An answer of the API.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Api {
    pub fn new(base: &str, key: &str) -> Self {
        Self {
            base: base.to_owned(),
            key: key.to_owned(),
            http: reqwest::Client::builder()
                .pool_idle_timeout(POOL_IDLE)
                .build()
                .unwrap(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// The same caller with another key.
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            key: key.to_owned(),
            ..self.clone()
        }
    }

    /// Makes a tenant with a super admin's key: a caller with the tenant's key.
    pub async fn tenant(&self, name: &str) -> Self {
        let made = self.post("/v1/tenants", &json!({ "name": name })).await;
        assert_eq!(made.status, 201, "{made:?}");
        self.with_key(made.text("key"))
    }

    /// A request that is still to be completed and sent.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        // Callers of the reference service send the header on every call, with and without a body.
        let request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .header("Content-Type", "application/json");
        if self.key.is_empty() {
            request
        } else {
            request.header("X-API-Key", &self.key)
        }
    }

    /// Sends a request and checks what holds for every answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.try_send(request)
            .await
            .unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// The same, where the connection may fail.
    pub async fn try_send(&self, request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        let request = request.build()?;
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = self.http.execute(request).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        // RFC 9110, 15.4.5: it has no body.
        let body = match status {
            304 if text.is_empty() => Value::Null,
            _ => serde_json::from_str(&text)
                .unwrap_or_else(|_| panic!("{method} {path}: {status} is not JSON: {text}")),
        };
        let answer = Answer {
            status,
            headers,
            body,
        };
        check(&method, &path, &answer);
        Ok(answer)
    }
}

impl Answer {
    /// A field that is text.
    pub fn text(&self, name: &str) -> &str {
        self.body[name]
            .as_str()
            .unwrap_or_else(|| panic!("no text {name:?} in {self:?}"))
    }

    pub fn id(&self) -> &str {
        self.text("id")
    }

    pub fn code(&self) -> &str {
        self.text("code")
    }

    /// Status and code of an error.
    pub fn error(&self) -> (u16, &str) {
        (self.status, self.code())
    }
}

/// What holds for every answer: it is named, and it is in the document.
fn check(method: &Method, path: &str, answer: &Answer) {
    let id = answer
        .headers
        .get("x-request-id")
        .unwrap_or_else(|| panic!("{method} {path}: no X-Request-Id"));
    assert!(
        uuid::Uuid::parse_str(id.to_str().unwrap()).is_ok(),
        "{method} {path}: {id:?}"
    );
    if answer.status >= 400 && path != "/readyz" {
        assert!(
            !answer.text("error").is_empty() && !answer.text("error").contains('\n'),
            "{answer:?}"
        );
        assert!(
            answer.code().bytes().all(|b| b.is_ascii_uppercase() || b == b'_'),
            "{answer:?}"
        );
    }
    if answer.status == 503 && path != "/readyz" {
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    }
    let Some(operation) = operation_of(method, path) else {
        assert!(
            matches!(answer.status, 404 | 405 | 429),
            "{method} {path} is not in the document: {answer:?}"
        );
        return;
    };
    let response = &operation["responses"][answer.status.to_string()];
    assert!(
        !response.is_null(),
        "{method} {path}: {} is not in the document: {answer:?}",
        answer.status
    );
    let schema = &response["content"]["application/json"]["schema"];
    let alternatives = schema["oneOf"]
        .as_array()
        .map_or(std::slice::from_ref(schema), Vec::as_slice);
    let codes: Vec<&Value> = response["x-codes"].as_array().into_iter().flatten().collect();
    // Where there is another body, too, only an error has a code.
    let must_have_one = !codes.is_empty() && (alternatives.len() == 1 || answer.body.get("code").is_some());
    assert!(
        !must_have_one || codes.contains(&&answer.body["code"]),
        "{method} {path}: the document lacks {}",
        answer.body["code"]
    );
}

/// The operation of the document that a request reaches.
fn operation_of(method: &Method, path: &str) -> Option<&'static Value> {
    let segments: Vec<&str> = path.split('/').collect();
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let (_, item) = paths.iter().find(|(template, _)| {
        let wanted: Vec<&str> = template.split('/').collect();
        wanted.len() == segments.len()
            && wanted
                .iter()
                .zip(&segments)
                .all(|(want, have)| want.starts_with('{') || want == have)
    })?;
    item.get(method.as_str().to_lowercase())
}
