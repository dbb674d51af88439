//! What a change does to one value that may be missing.

/// A change of a value that may be missing, such as a display name or a cap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Edit<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is removed.
    Clear,
    /// It becomes this.
    Set(T),
}

impl<T> Edit<T> {
    /// The value after the change.
    pub fn applied_to(self, value: Option<T>) -> Option<T> {
        match self {
            Self::Keep => value,
            Self::Clear => None,
            Self::Set(new) => Some(new),
        }
    }

    /// The same change of a parsed value.
    pub fn map<U, E>(self, parse: impl FnOnce(T) -> Result<U, E>) -> Result<Edit<U>, E> {
        Ok(match self {
            Self::Keep => Edit::Keep,
            Self::Clear => Edit::Clear,
            Self::Set(value) => Edit::Set(parse(value)?),
        })
    }

    /// The new value of something that cannot be removed: none if it stays. Fails if it is to be removed.
    pub fn required(self) -> Result<Option<T>, CannotBeRemoved> {
        match self {
            Self::Keep => Ok(None),
            Self::Clear => Err(CannotBeRemoved),
            Self::Set(value) => Ok(Some(value)),
        }
    }
}

/// A value was to be removed that there always is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CannotBeRemoved;
