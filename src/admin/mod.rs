//! What the operator sees, on a listener, a runtime and a thread of its own: it answers when nothing else does.

mod settings;

pub use self::settings::AdminSettings;
