//! What a change requires of the state that it changes.

use std::fmt;

use super::Error;

/// A requirement on the current state of an object, checked in the transaction of the change: two callers who read the
/// same state do not overwrite each other's change.
pub struct Condition<T>(Option<Box<Holds<T>>>);

type Holds<T> = dyn Fn(&T) -> bool + Send + Sync;

impl<T> Condition<T> {
    /// Every state will do.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The state must be one for which this holds.
    pub fn new(holds: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(holds)))
    }

    /// Whether anything is required, so that the state has to be read.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Fails with `PreconditionFailed` if the state is another one.
    pub fn require(&self, state: &T) -> Result<(), Error> {
        match &self.0 {
            Some(holds) if !holds(state) => Err(Error::PreconditionFailed),
            _ => Ok(()),
        }
    }
}

impl<T> fmt::Debug for Condition<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.0.is_some()).finish()
    }
}
