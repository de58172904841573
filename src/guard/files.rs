//! The limit of open files. A connection is an open file, and many systems allow a process no more than 1024 of them
//! unless it asks.

/// The most that macOS grants; elsewhere as many as anyone needs.
#[cfg(unix)]
const ENOUGH: u64 = if cfg!(target_os = "macos") {
    10_240
} else {
    1 << 20
};

/// Asks for as many as the system lets this process have.
pub(crate) fn allow_many_connections() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        let Some(now) = limit.current.filter(|now| *now < ENOUGH) else {
            return;
        };
        let most = limit.maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
        if most <= now {
            return;
        }
        limit.current = Some(most);
        match setrlimit(Resource::Nofile, limit) {
            Ok(()) => tracing::debug!(from = now, to = most, "the limit of open files is raised"),
            Err(error) => tracing::debug!(%error, "the limit of open files stays as it is"),
        }
    }
}

/// How many files may be open at once; [`None`]: nobody says.
pub(super) fn most() -> Option<u64> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit};
        getrlimit(Resource::Nofile).current
    }
    #[cfg(not(unix))]
    None
}
