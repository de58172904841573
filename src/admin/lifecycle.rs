//! Where the process is in its life.

use tokio::sync::watch;

/// Where the process is in its life. Clones share it.
#[derive(Debug, Clone)]
pub struct Lifecycle(watch::Sender<u8>);

// === impl Lifecycle ===

impl Lifecycle {
    /// Not serving yet.
    pub const STARTING: u8 = 0;
    /// Serving.
    pub const SERVING: u8 = 1;
    /// Finishing what is under way.
    pub const DRAINING: u8 = 2;
    /// Nothing is served any more: who watches is let go.
    pub const ENDED: u8 = 3;

    /// Just started.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(Self::STARTING))
    }

    /// The phase.
    #[must_use]
    pub fn get(&self) -> u8 {
        *self.0.borrow()
    }

    /// The phase in a word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self.get() {
            Self::STARTING => "starting",
            Self::SERVING => "serving",
            _ => "draining",
        }
    }

    /// The site is served.
    pub fn serving(&self) {
        self.reach(Self::SERVING);
    }

    /// The end begins.
    pub fn drain(&self) {
        self.reach(Self::DRAINING);
    }

    /// Nothing is served any more.
    pub fn end(&self) {
        self.reach(Self::ENDED);
    }

    /// Until the end begins.
    pub async fn drained(&self) {
        self.until(Self::DRAINING).await;
    }

    /// Until `phase` is reached.
    pub async fn until(&self, phase: u8) {
        let mut phases = self.0.subscribe();
        // The sender is this one, which lives on.
        let _ = phases.wait_for(|reached| *reached >= phase).await;
    }

    /// No phase comes twice.
    fn reach(&self, phase: u8) {
        self.0.send_if_modified(|reached| {
            let is_new = *reached < phase;
            *reached = phase.max(*reached);
            is_new
        });
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}
