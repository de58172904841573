//! The limit of open files.

/// A connection is an open file, in this process both ends of it may be, and many systems allow a process no more
/// than 1024 unless it asks.
pub(super) fn allow_many_connections() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        // The most that macOS grants; elsewhere as many as anyone needs.
        const ENOUGH: u64 = if cfg!(target_os = "macos") {
            10_240
        } else {
            1 << 20
        };
        let mut limit = getrlimit(Resource::Nofile);
        let Some(now) = limit.current.filter(|now| *now < ENOUGH) else {
            return;
        };
        limit.current = Some(
            limit
                .maximum
                .map_or(ENOUGH, |most| most.min(ENOUGH))
                .max(now),
        );
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}
