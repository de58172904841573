//! What a crowd is like.

use std::time::Duration;

use url::Url;

use super::{Reach, Sources};

/// What a crowd is like.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What visitors come for, each page as likely as the others.
    pub pages: Vec<Url>,
    /// After that a visitor goes away, whatever has arrived.
    pub patience: Duration,
    /// At most so many are there at once; who comes then is not started.
    pub most: usize,
    /// Where visitors come from.
    pub sources: Sources,
    /// Whom they may visit.
    pub reach: Reach,
    /// A cookie of this name tells visitors apart.
    pub cookie: Option<String>,
    /// The same seed gives the same crowd.
    pub seed: u64,
}

impl Settings {
    /// How long visitors wait where nothing else is said.
    pub const PATIENCE: Duration = Duration::from_secs(10);
    /// How many there may be at once where nothing else is said.
    pub const MOST: usize = 4_000;
    /// The seed where nothing else is said.
    pub const SEED: u64 = 1;

    /// A crowd for `pages`, on this machine or in a private network.
    #[must_use]
    pub fn new(pages: Vec<Url>) -> Self {
        Self {
            pages,
            patience: Self::PATIENCE,
            most: Self::MOST,
            sources: Sources::Auto,
            reach: Reach::default(),
            cookie: None,
            seed: Self::SEED,
        }
    }
}
