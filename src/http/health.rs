//! `/healthz`: the daemon runs. `/readyz`: which of the parts that it needs work.

use std::{collections::BTreeMap, future::Future, pin::Pin, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{OneOfBuilder, Ref, RefOr, Response},
};

use super::{
    App,
    extract::Query,
    problem::{self, ANY, Problem, problems},
};
use crate::{model::Refused, telemetry};

/// How long a part may take to answer before it counts as down.
const PROBE_TIMEOUT_MS: u64 = 3_000;

/// A question to one part: an error says why it is down.
pub type Probe = Box<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>> + Send>>
        + Send
        + Sync,
>;

/// A part that the service needs.
pub struct Part {
    /// Its name in the answer.
    pub name: &'static str,
    /// How it is asked.
    pub probe: Probe,
}

/// Every part that `/readyz` tells of.
#[derive(Default)]
pub struct ReadinessProbes(pub Vec<Part>);

/// The daemon runs.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// Always `ok`.
    status: &'static str,
}

/// Whether every part works.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    ready: bool,
    /// By name: `ok`, or why the part is down.
    #[schema(example = json!({"store": "ok", "maps": "ok", "dovecot": "ok", "postfix": "down: connection refused", "signer": "ok"}))]
    parts: BTreeMap<&'static str, String>,
}

problems!(HealthProblems = ANY);

/// 503 has two bodies: what is down, and an answer that came too late.
pub(super) struct ReadyProblems;

impl IntoResponses for ReadyProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = problem::responses(ANY);
        let unready = StatusCode::SERVICE_UNAVAILABLE.as_str();
        if let Some(RefOr::T(response)) = responses.get_mut(unready) {
            response.description = format!(
                "Some parts do not work; `parts` says which and why. Or {}",
                response.description
            );
            for content in response.content.values_mut() {
                let RefOr::T(content) = content else { continue };
                let bodies = OneOfBuilder::new().item(Ref::from_schema_name("Readiness"));
                let bodies = content.schema.take().into_iter().fold(bodies, OneOfBuilder::item);
                content.schema = Some(bodies.into());
                content.example = None;
            }
        }
        responses
    }
}

/// Whether the daemon runs
#[utoipa::path(get, path = "/healthz", tag = "operation", security(()),
    responses((status = 200, description = "It does", body = Health), HealthProblems))]
pub(super) async fn healthz(query: Query) -> Result<Json<Health>, Problem> {
    query.only(&[])?;
    Ok(Json(Health { status: "ok" }))
}

/// Whether every part works
///
/// Inboxes are created also while a mail server is down: creating needs the store and the maps.
#[utoipa::path(get, path = "/readyz", tag = "operation", security(()),
    params(("parts" = Option<String>, Query, description = "Names of the parts to ask, separated by commas; absent: all",
        example = "store,maps")),
    responses((status = 200, description = "All of them do", body = Readiness), ReadyProblems))]
pub(super) async fn readyz(
    State(app): State<App>,
    query: Query,
) -> Result<(StatusCode, Json<Readiness>), Problem> {
    query.only(&["parts"])?;
    let names = || app.readiness.0.iter().map(|part| part.name);
    let wanted = query.parsed("parts", |value| {
        let wanted: Vec<String> = value.split(',').map(str::to_owned).collect();
        if wanted.iter().all(|wanted| names().any(|name| name == wanted)) {
            return Ok(wanted);
        }
        let known = names().collect::<Vec<_>>().join(", ");
        Err(Refused(format!(
            "must be names of parts, separated by commas: {known}"
        )))
    })?;
    let is_wanted = |part: &&Part| {
        wanted
            .as_ref()
            .is_none_or(|wanted| wanted.iter().any(|name| name == part.name))
    };
    let asked = app.readiness.0.iter().filter(is_wanted).map(|part| async {
        let answer = tokio::time::timeout(Duration::from_millis(PROBE_TIMEOUT_MS), (part.probe)()).await;
        let state = match answer {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("down: {}", telemetry::chain(&*error))),
            Err(_) => Some(format!("down: no answer within {PROBE_TIMEOUT_MS} ms")),
        };
        (part.name, state)
    });
    let answers = futures_util::future::join_all(asked).await;
    let ready = answers.iter().all(|(_, down)| down.is_none());
    let parts = answers
        .into_iter()
        .map(|(name, down)| (name, down.unwrap_or_else(|| "ok".to_owned())))
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok((status, Json(Readiness { ready, parts })))
}
