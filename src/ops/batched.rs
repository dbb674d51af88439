//! Questions to the store that wait at the same time are asked together, on one connection.
//!
//! A question that is asked alone costs more for getting a connection, and for waking the thread behind it, than for the
//! look-up. Each is answered by what the store says after it was asked: nothing is kept.

use std::future::Future;

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// Questions that may wait; more of them wait to be let in.
const QUEUE_MAX: usize = 1024;
/// Questions asked together.
const TOGETHER_MAX: usize = 64;

/// Where questions wait for each other.
#[derive(Debug)]
pub(super) struct Batched<Q, A>(mpsc::Sender<(Q, oneshot::Sender<A>)>);

impl<Q: Send + 'static, A: Send + 'static> Batched<Q, A> {
    /// The task that asks. It ends when there is nobody left who could have a question.
    ///
    /// `ask` returns the answers in the order of the questions, or fewer, if it could not ask: whoever has none asks
    /// alone, and gets an error of its own.
    pub(super) fn start<Asking: Future<Output = Vec<A>> + Send>(
        ask: impl Fn(Vec<Q>) -> Asking + Send + 'static,
    ) -> (Self, JoinHandle<()>) {
        let (sender, mut waiting) = mpsc::channel::<(Q, oneshot::Sender<A>)>(QUEUE_MAX);
        let asking = tokio::spawn(async move {
            let mut some = Vec::with_capacity(TOGETHER_MAX);
            while waiting.recv_many(&mut some, TOGETHER_MAX).await > 0 {
                let (questions, askers): (Vec<Q>, Vec<_>) = some.drain(..).unzip();
                for (asker, answer) in askers.into_iter().zip(ask(questions).await) {
                    // A caller that has gone away needs no answer.
                    let _ = asker.send(answer);
                }
            }
        });
        (Self(sender), asking)
    }

    /// The answer; `None`: ask alone.
    pub(super) async fn ask(&self, question: Q) -> Option<A> {
        let (asker, answer) = oneshot::channel();
        self.0.send((question, asker)).await.ok()?;
        answer.await.ok()
    }
}
