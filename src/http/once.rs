//! `Idempotency-Key`: a call that makes something runs once, and is answered the same way each time.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use serde_json::Value;

use super::{
    App,
    answer::{Answer, with_member},
    extract::{JsonBody, Query, single_header},
    problem::Problem,
};
use crate::{
    model::api_key::Caller,
    ops::{
        self, Service,
        idempotency::{self, Begin, Record},
        uncommitted::Uncommitted,
    },
    telemetry,
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What a caller calls, and the `Idempotency-Key` that it sends, if it does.
#[derive(Clone, Debug)]
pub(super) struct Once {
    path: String,
    key: Option<String>,
}

/// A request that is to run once.
#[derive(Debug)]
pub(super) struct OnceRequest {
    path: String,
    key: String,
    query: Vec<u8>,
    body: Vec<u8>,
    is_lenient: bool,
}

/// A call that is running, with a record if it has an `Idempotency-Key`.
pub(super) struct Call {
    service: Arc<Service>,
    record: Option<Arc<Record>>,
}

impl Call {
    /// Commits what was written, and with it the answer that tells of it, so that it can be given again.
    pub(super) async fn commit(
        &self,
        change: Uncommitted<()>,
        mut answer: Answer,
    ) -> Result<Answer, Problem> {
        let (Some(record), Some(made)) = (&self.record, &answer.made) else {
            change.commit().await?;
            return Ok(answer);
        };
        let status = answer.status.as_u16();
        let kept = idempotency::sealed_answer(&self.service, record, status, &answer.body, made)?;
        change.commit_with(record, &kept).await?;
        answer.is_kept = true;
        Ok(answer)
    }
}

impl<S: Sync> FromRequestParts<S> for Once {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self {
            path: parts.uri.path().to_owned(),
            key: single_header(&parts.headers, IDEMPOTENCY_KEY)?.map(str::to_owned),
        })
    }
}

impl Once {
    /// The request, as it is told apart from others. None if it has no `Idempotency-Key`.
    pub(super) fn of(self, query: &Query, body: &JsonBody) -> Result<Option<OnceRequest>, Problem> {
        let Some(key) = self.key else {
            return Ok(None);
        };
        Ok(Some(OnceRequest {
            path: self.path,
            key,
            query: query.canonical(),
            body: body.canonical()?,
            is_lenient: body.is_lenient(),
        }))
    }
}

impl App {
    /// Runs a call to its end, whether the caller waits for it or hangs up; with an `Idempotency-Key` once. A refusal is
    /// not kept, since it did nothing, and the same request may succeed later.
    pub(super) fn once<F>(
        &self,
        caller: Caller,
        request: Option<OnceRequest>,
        work: impl FnOnce(Call) -> F + Send + 'static,
    ) -> impl Future<Output = Result<Answer, Problem>> + Send
    where
        F: Future<Output = Result<Answer, Problem>> + Send + 'static,
    {
        let app = self.clone();
        // The futures of handlers would hold it several times over.
        let work = move |record| {
            let service = Arc::clone(&app.service);
            Box::pin(work(Call { service, record }))
        };
        let app = self.clone();
        async move {
            let worker = app.clone();
            app.to_the_end(async move {
                match request {
                    None => work(None).await,
                    Some(request) => worker.run_once(&caller, &request, work).await,
                }
            })
            .await
        }
    }

    async fn run_once<F: Future<Output = Result<Answer, Problem>>>(
        &self,
        caller: &Caller,
        request: &OnceRequest,
        work: impl FnOnce(Option<Arc<Record>>) -> F,
    ) -> Result<Answer, Problem> {
        let parts = [request.query.as_slice(), &request.body];
        let begun = idempotency::begin(&self.service, caller, &request.path, &request.key, &parts).await?;
        let record = match begun {
            Begin::First(record) => Arc::new(record),
            Begin::Again(kept) => return self.replay(kept, request.is_lenient).await,
        };
        let answer = match work(Some(Arc::clone(&record))).await {
            Ok(answer) => answer,
            Err(problem) => {
                self.abandon(&record).await;
                return Err(problem);
            }
        };
        if answer.is_kept {
            return Ok(answer);
        }
        match self.finish(&record, &answer).await {
            Ok(()) => Ok(answer),
            Err(error) => {
                // Without its record the first answer could not be given again: better none than two different ones.
                self.abandon(&record).await;
                Err(error.into())
            }
        }
    }

    async fn finish(&self, record: &Record, answer: &Answer) -> Result<(), ops::Error> {
        let (service, status) = (&self.service, answer.status.as_u16());
        match &answer.made {
            None => idempotency::abandon(service, record).await,
            Some(made) => {
                let kept = idempotency::sealed_answer(service, record, status, &answer.body, made)?;
                idempotency::finish(service, record, &kept).await
            }
        }
    }

    /// What cannot be forgotten now is by the next request of the same key: no process works on it.
    async fn abandon(&self, record: &Record) {
        if let Err(error) = idempotency::abandon(&self.service, record).await {
            let error = telemetry::chain(&error);
            tracing::warn!(error, "cannot forget an idempotent request that was refused");
        }
    }

    async fn replay(&self, kept: idempotency::Answer, is_lenient: bool) -> Result<Answer, Problem> {
        let claim = match kept.made.acknowledged() {
            Some(inbox) => Some(self.service.in_flight.claim(inbox).await),
            None => None,
        };
        if let Some(key) = kept.made.to_publish() {
            self.publisher.publish(vec![key]).await?;
        }
        let body = if kept.stale.is_empty() {
            kept.body.to_vec()
        } else {
            let body: Value =
                serde_json::from_slice(&kept.body).map_err(|error| Problem::internal(&error))?;
            let stale: Vec<Value> = kept.stale.iter().map(|stale| stale.as_str().into()).collect();
            with_member(&body, "stale", stale).map_err(|error| Problem::internal(&error))?
        };
        Ok(Answer {
            status: StatusCode::from_u16(kept.status).map_err(|error| Problem::internal(&error))?,
            body,
            is_lenient,
            is_replay: true,
            is_kept: true,
            made: Some(kept.made),
            claim,
        })
    }
}
