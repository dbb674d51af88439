//! Changes that are written and not committed yet, so that the answer that tells of them can be committed with them.

use std::sync::Arc;

use super::{Error, costly::Turn, idempotency::Record};
use crate::store::{KeptAnswer, Tx};

/// What an operation wrote in a transaction that is still open, and what the answer is about. Dropped, it is undone.
#[derive(Debug)]
#[must_use = "nothing has happened until it is committed"]
pub struct Uncommitted<T> {
    value: T,
    tx: Tx,
    /// Held until the commit.
    turn: Option<Arc<Turn>>,
}

impl<T> Uncommitted<T> {
    pub(super) fn new(value: T, tx: Tx) -> Self {
        let turn = None;
        Self { value, tx, turn }
    }

    /// The same, where the turn to do costly work lasts until the commit.
    pub(super) fn in_turn(self, turn: Arc<Turn>) -> Self {
        Self {
            turn: Some(turn),
            ..self
        }
    }

    /// What the answer is about, and the rest, which is still to be committed.
    pub fn split(self) -> (T, Uncommitted<()>) {
        let Self { value, tx, turn } = self;
        (value, Uncommitted { value: (), tx, turn })
    }

    /// Makes the changes durable.
    pub async fn commit(self) -> Result<T, Error> {
        self.tx.commit().await?;
        drop(self.turn);
        Ok(self.value)
    }

    /// Makes the changes durable together with the answer to the request that made them: after a crash there are both or
    /// neither, so that the same request again never makes a second object.
    pub async fn commit_with(mut self, record: &Record, answer: &KeptAnswer) -> Result<T, Error> {
        self.tx.keep_answer(record.id(), answer).await?;
        self.commit().await
    }
}
