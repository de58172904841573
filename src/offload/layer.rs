//! The tower layer.

use std::sync::Arc;

use tower_layer::Layer;

use super::{service::Offload, shared::Shared};

/// Wraps a service so that its site outlives its crowd.
///
/// Made by [`Overspill::layer`](crate::Overspill::layer). Clones share everything.
#[derive(Debug, Clone)]
pub struct OffloadLayer {
    shared: Arc<Shared>,
}

impl OffloadLayer {
    /// A layer of this state.
    #[must_use]
    pub const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl<S> Layer<S> for OffloadLayer {
    type Service = Offload<S>;

    fn layer(&self, inner: S) -> Offload<S> {
        Offload::new(inner, self.shared.clone())
    }
}
