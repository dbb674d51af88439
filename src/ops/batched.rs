//! Questions to the store that wait at the same time are asked together, on one connection.
//!
//! A question that is asked alone costs more for getting a connection, and for waking the thread behind it, than for the
//! look-up. Each is answered by what the store says after it was asked: nothing is kept.

use std::{future::Future, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{store::Error, telemetry};

/// Questions that may wait; more of them wait to be let in.
const QUEUE_MAX: usize = 1024;
/// Questions asked together.
const TOGETHER_MAX: usize = 64;

/// A question and who asks it.
type Waiting<Q, A> = (Q, oneshot::Sender<Result<A, Error>>);

/// Where questions wait for each other.
#[derive(Debug)]
pub(super) struct Batched<Q, A>(mpsc::Sender<Waiting<Q, A>>);

impl<Q: Send + 'static, A: Send + 'static> Batched<Q, A> {
    /// The task that asks. It ends when there is nobody left who could have a question.
    ///
    /// `ask` returns the answers in the order of the questions. If it fails because the store is away, all who asked are
    /// told; if it fails otherwise, one question may be to blame, and each is asked alone.
    pub(super) fn start<Asking: Future<Output = Result<Vec<A>, Error>> + Send>(
        ask: impl Fn(Vec<Q>) -> Asking + Send + 'static,
    ) -> (Self, JoinHandle<()>) {
        let (sender, mut waiting) = mpsc::channel::<Waiting<Q, A>>(QUEUE_MAX);
        let asking = tokio::spawn(async move {
            let mut some = Vec::with_capacity(TOGETHER_MAX);
            while waiting.recv_many(&mut some, TOGETHER_MAX).await > 0 {
                let (questions, askers): (Vec<Q>, Vec<_>) = some.drain(..).unzip();
                let answers = match ask(questions).await {
                    Ok(answers) => answers.into_iter().map(Ok).collect(),
                    Err(error) => told_to_all(error, askers.len()),
                };
                for (asker, answer) in askers.into_iter().zip(answers) {
                    // A caller that has gone away needs no answer.
                    let _ = asker.send(answer);
                }
            }
        });
        (Self(sender), asking)
    }

    /// The answer; `None`: ask alone.
    pub(super) async fn ask(&self, question: Q) -> Result<Option<A>, Error> {
        let (asker, answer) = oneshot::channel();
        if self.0.send((question, asker)).await.is_err() {
            return Ok(None);
        }
        answer.await.ok().transpose()
    }
}

/// An error for each of so many, if the store is away; none, if one of them may be to blame.
pub(super) fn told_to_all<T>(error: Error, count: usize) -> Vec<Result<T, Error>> {
    if !error.is_transient() {
        tracing::warn!(
            error = telemetry::chain(&error),
            count,
            "cannot do together what was asked for; each is tried alone"
        );
        return Vec::new();
    }
    let error = Arc::new(error);
    (0..count)
        .map(|_| Err(Error::Together(Arc::clone(&error))))
        .collect()
}
