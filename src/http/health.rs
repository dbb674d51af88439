//! `/healthz`: the daemon runs. `/readyz`: which of the parts that it needs work.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    middleware,
    routing::get,
};
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{OneOfBuilder, Ref, RefOr, Response},
};

use super::{
    App, admission,
    extract::{Query, presented_key},
    problem::{self, ANY, Problem, problems},
    watch,
};
use crate::{
    model::{Refused, api_key::Scope},
    ops::authenticate::authenticate,
    telemetry,
};

/// How long a part may take to answer before it counts as down.
const PROBE_TIMEOUT_MS: u64 = 3_000;
/// For how long the answer of a part is given to others who ask.
const PROBE_SHARED_MS: u64 = 1_000;

/// A question to one part: an error says why it is down.
pub type Probe = Box<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>> + Send>>
        + Send
        + Sync,
>;

/// A part that the service needs.
pub struct Part {
    name: &'static str,
    probe: Probe,
    /// The last answer. Locked while the part is asked, so that it is asked once at a time.
    last: Arc<Mutex<Option<Answer>>>,
}

/// What a part answered: why it is down, or none.
#[derive(Clone)]
struct Answer {
    at: Instant,
    down: Option<String>,
}

impl Part {
    /// A part with its name in the answer, and how it is asked.
    pub fn new(name: &'static str, probe: Probe) -> Self {
        Self {
            name,
            probe,
            last: Arc::default(),
        }
    }

    /// Why the part is down; none if it works. However many ask, the part is asked once at a time, and its answer is
    /// shared for a second.
    async fn down(&self) -> Option<String> {
        let limit = Duration::from_millis(PROBE_TIMEOUT_MS);
        let answer = tokio::time::timeout(limit, self.ask()).await;
        answer.unwrap_or_else(|_| Some(format!("down: no answer within {PROBE_TIMEOUT_MS} ms")))
    }

    async fn ask(&self) -> Option<String> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        let shared = Duration::from_millis(PROBE_SHARED_MS);
        if let Some(answer) = last.as_ref().filter(|answer| answer.at.elapsed() < shared) {
            return answer.down.clone();
        }
        let asked = (self.probe)();
        // In a task of its own: it goes on, and nothing else asks meanwhile, also when this caller does not wait for it.
        let asking = tokio::spawn(async move {
            let down = asked.await.err();
            let down = down.map(|error| format!("down: {}", telemetry::chain(&*error)));
            let at = Instant::now();
            *last = Some(Answer {
                at,
                down: down.clone(),
            });
            down
        });
        asking
            .await
            .unwrap_or_else(|error| Some(format!("down: {error}")))
    }
}

/// Every part that `/readyz` asks.
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
    /// By name: `ok`, or why the part is down. Only for a super admin (sa_) key, and at the metrics' listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!({"store": "ok", "maps": "ok", "dovecot": "ok", "postfix": "down: connection refused", "signer": "ok"}))]
    parts: Option<BTreeMap<&'static str, String>>,
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
                "Some parts do not work; `parts` says which and why, where it is shown. Or {}",
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
/// Inboxes are created also while a mail server is down: creating needs the store and the maps. However many ask, a part is
/// asked once at a time, and its answer is shared for a second. Without a super admin (sa_) key the answer does not say
/// which parts there are; with one, or at the metrics' listener, `parts` says what is wrong.
#[utoipa::path(get, path = "/readyz", tag = "operation", security((), ("apiKey" = []), ("bearer" = [])),
    params(("parts" = Option<String>, Query,
        pattern = "^(store|maps|dovecot|postfix|inotify|signer|inbound)(,(store|maps|dovecot|postfix|inotify|signer|inbound))*$", description = "Names of the parts to ask, separated by commas; absent: all",
        example = "store,maps")),
    responses((status = 200, description = "All of them do", body = Readiness), ReadyProblems))]
pub(super) async fn readyz(
    State(app): State<App>,
    headers: HeaderMap,
    query: Query,
) -> Result<(StatusCode, Json<Readiness>), Problem> {
    let (status, mut readiness) = ask(&app.readiness, &query).await?;
    if !is_operator(&app, &headers).await {
        readiness.parts = None;
    }
    Ok((status, Json(readiness)))
}

/// Whether the request has a super admin's key. A supervisor gets its answer also with a wrong key, and while the store is
/// away.
async fn is_operator(app: &App, headers: &HeaderMap) -> bool {
    let Ok(key) = presented_key(headers) else {
        return false;
    };
    let caller = authenticate(&app.service, &key).await;
    caller.is_ok_and(|caller| matches!(caller.scope, Scope::SuperAdmin))
}

/// `/readyz` for operators: every caller sees the parts.
pub fn readiness_in_detail(probes: Arc<ReadinessProbes>) -> Router {
    let detailed = async |State(probes): State<Arc<ReadinessProbes>>, query: Query| {
        let (status, readiness) = ask(&probes, &query).await?;
        Ok::<_, Problem>((status, Json(readiness)))
    };
    Router::new()
        .route("/readyz", get(detailed))
        .layer(middleware::from_fn(admission::admit))
        .layer(middleware::from_fn(watch::watch))
        .with_state(probes)
}

async fn ask(probes: &ReadinessProbes, query: &Query) -> Result<(StatusCode, Readiness), Problem> {
    query.only(&["parts"])?;
    let names = || probes.0.iter().map(|part| part.name);
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
    let asked = probes.0.iter().filter(is_wanted);
    let answers = asked.map(async |part| (part.name, part.down().await));
    let answers = futures_util::future::join_all(answers).await;
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
    let readiness = Readiness {
        ready,
        parts: Some(parts),
    };
    Ok((status, readiness))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    const CALLERS: usize = 20;

    /// A part that answers when it is allowed to, and counts how often it is asked.
    fn slow_part(fails: bool) -> (Arc<Part>, Arc<Semaphore>, Arc<AtomicUsize>) {
        let (allowed, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (may, count) = (Arc::clone(&allowed), Arc::clone(&asked));
        let probe: Probe = Box::new(move || {
            let may = Arc::clone(&may);
            count.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                may.acquire().await?.forget();
                if fails { Err("refused".into()) } else { Ok(()) }
            })
        });
        (Arc::new(Part::new("part", probe)), allowed, asked)
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_answer() {
        for (fails, expected) in [(false, None), (true, Some("down: refused".to_owned()))] {
            let (part, allowed, asked) = slow_part(fails);
            let callers = join_all((0..CALLERS).map(|_| part.down()));
            let (answers, ()) = tokio::join!(callers, async { allowed.add_permits(1) });
            assert_eq!(answers, vec![expected; CALLERS]);
            assert_eq!(asked.load(Ordering::Relaxed), 1);
        }
    }

    #[tokio::test]
    async fn a_caller_that_goes_does_not_make_the_part_be_asked_twice_at_a_time() {
        let (part, allowed, asked) = slow_part(false);
        let first = Arc::clone(&part);
        let gone = tokio::spawn(async move { first.down().await });
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        let (answer, ()) = tokio::join!(part.down(), async { allowed.add_permits(1) });
        assert_eq!((answer, asked.load(Ordering::Relaxed)), (None, 1));
    }
}
