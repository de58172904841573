//! What is wrong with the configuration: every problem is collected, none hides another.

use std::fmt;

/// One thing wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key as written in the configuration, e.g. `offload.servers[1].url`.
    pub key: String,
    /// What was expected, and what was found.
    pub message: String,
}

impl Problem {
    /// `message` follows the key in the text: "must be above …, found …".
    #[must_use]
    pub fn new(key: impl Into<String>, message: impl fmt::Display) -> Self {
        Self {
            key: key.into(),
            message: message.to_string(),
        }
    }
}

impl Problem {
    /// Whether one of `others` is about the same key, or one around or within it.
    #[must_use]
    pub fn is_about(&self, others: &[Self]) -> bool {
        others
            .iter()
            .any(|other| other.key.starts_with(&self.key) || self.key.starts_with(&other.key))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.key, self.message)
    }
}
