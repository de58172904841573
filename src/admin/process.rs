//! The figures of this process, by the names that Prometheus's own client libraries give them.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// This process as of now. What the system does not tell is left out.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// User and system time, in seconds.
    pub(super) cpu_seconds: Option<f64>,
    /// In bytes.
    pub(super) resident_memory: Option<u64>,
    /// In bytes.
    pub(super) virtual_memory: Option<u64>,
    /// Seconds since 1970.
    pub(super) start_time: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) most_open_files: Option<u64>,
}

/// Asks the system.
pub(super) fn figures() -> Figures {
    let pid = Pid::from_u32(std::process::id());
    let Ok(mut system) = System::new() else {
        return Figures::default();
    };
    let kind = ProcessRefreshKind::nothing().with_cpu().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    let Some(process) = system.process(pid) else {
        return Figures::default();
    };
    Figures {
        cpu_seconds: Some(process.accumulated_cpu_time() as f64 / 1e3),
        resident_memory: Some(process.memory()),
        virtual_memory: Some(process.virtual_memory()),
        start_time: Some(process.start_time()),
        open_files: process.open_files().map(|files| files as u64),
        most_open_files: process.open_files_limit().map(|files| files as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let figures = figures();
        assert!(figures.resident_memory.unwrap() > 100_000);
        assert!(figures.start_time.unwrap() > 1_600_000_000);
    }
}
