//! How busy the processors are: of the container's allowance if there is one, else of the machine.

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    time::Instant as Moment,
};

use sysinfo::System;
use tokio::time::Instant;

use super::{
    Signal, SignalError,
    cgroup::{Account, Cgroups},
    rate::Rate,
};
use crate::units::Ratio;

/// The signal `cpu`.
///
/// With a quota on the own control group or on any above it, the load is the greatest of each
/// group's usage by its quota. An ancestor's quota is shared with siblings, so the ancestor's own
/// usage counts against it, not ours: the process is throttled by a sibling, too. The own group
/// also counts against the processors that it may run on (cpuset and affinity), which can be fewer
/// than its quota. An ancestor's quota counts as no more than the machine has.
///
/// Without a quota: how busy the processors are on the average that this process may run on,
/// whoever keeps them busy, a hypervisor's other guests (`steal`) among them.
#[derive(Debug)]
pub struct Cpu {
    root: PathBuf,
    groups: Cgroups,
    rates: HashMap<PathBuf, Rate>,
    machine: Machine,
}

impl Cpu {
    /// The signal of this process.
    #[must_use]
    pub fn new() -> Self {
        Self::below(PathBuf::from("/"))
    }

    /// Reads `proc` and `sys` below `root`.
    fn below(root: PathBuf) -> Self {
        Self {
            groups: Cgroups::new(root.clone()),
            root,
            rates: HashMap::new(),
            machine: Machine::default(),
        }
    }

    fn of_groups(&mut self, accounts: &[Account], now: Instant) -> Option<Ratio> {
        self.rates
            .retain(|group, _| accounts.iter().any(|account| account.group == *group));
        let online = online(&self.root).map(|cpus| cpus.len());
        let allowed = allowed(&self.root).map(|cpus| cpus.len());
        let loads = accounts.iter().filter_map(|account| {
            let rate = self.rates.entry(account.group.clone()).or_default();
            // Processors' worth of time: nanoseconds a second.
            let used = rate.per_second(account.used, now)? / 1e9;
            let processors = if account.own { allowed } else { online };
            Some(used / allowance(account.quota, processors)?)
        });
        loads.reduce(f64::max).map(Ratio::saturating)
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Signal for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }

    fn sample(&mut self, now: Instant) -> Result<Option<Ratio>, SignalError> {
        let accounts = self.groups.accounts()?;
        if accounts.is_empty() {
            return self.machine.busy(allowed(&self.root).as_deref());
        }
        Ok(self.of_groups(&accounts, now))
    }
}

/// The smaller of a quota and a number of processors, as far as they are known.
fn allowance(quota: Option<f64>, processors: Option<usize>) -> Option<f64> {
    match (quota, processors) {
        (Some(quota), Some(processors)) => Some(quota.min(processors as f64)),
        (quota, processors) => quota.or(processors.map(|number| number as f64)),
    }
}

/// The processors that this process may run on, and that are there; none where that isn't told.
fn allowed(root: &Path) -> Option<Vec<usize>> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut allowed = parse_list(list)?;
    // A process without restriction may run on every processor that could ever be plugged in.
    if let Some(online) = online(root) {
        allowed.retain(|cpu| online.contains(cpu));
    }
    (!allowed.is_empty()).then_some(allowed)
}

fn online(root: &Path) -> Option<Vec<usize>> {
    let list = fs::read_to_string(root.join("sys/devices/system/cpu/online")).ok()?;
    parse_list(&list).filter(|cpus| !cpus.is_empty())
}

/// The kernel's list format, `0-3,8`: see cpuset(7).
fn parse_list(list: &str) -> Option<Vec<usize>> {
    // More than any kernel can have (8192): a broken list must not fill the memory.
    const MOST: usize = 1 << 16;
    let mut cpus = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MOST {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The machine's processors, by `sysinfo`.
#[derive(Debug, Default)]
struct Machine {
    system: Option<System>,
    /// After the last refresh, by the clock that sysinfo itself goes by.
    refreshed: Option<Moment>,
    last: Option<Ratio>,
}

impl Machine {
    /// The mean busy share of the processors `allowed`, or of all.
    fn busy(&mut self, allowed: Option<&[usize]>) -> Result<Option<Ratio>, SignalError> {
        let first = self.refreshed.is_none();
        // Asked more often, sysinfo has nothing new to tell: the last value stands.
        let early = |at: Moment| at.elapsed() < sysinfo::MINIMUM_CPU_UPDATE_INTERVAL;
        if self.refreshed.is_some_and(early) {
            return Ok(self.last);
        }
        let system = match &mut self.system {
            Some(system) => system,
            none => none.insert(System::new().map_err(untold)?),
        };
        system.refresh_cpu_usage();
        if system.cpus().is_empty() {
            return Err(untold("it lists no processors"));
        }
        self.refreshed = Some(Moment::now());
        if !first {
            let cpus = system.cpus().iter();
            let usages = cpus.map(|cpu| (cpu.name(), f64::from(cpu.usage()) / 100.0));
            self.last = mean(usages, allowed).map(Ratio::saturating);
        }
        Ok(self.last)
    }
}

fn untold(reason: impl fmt::Display) -> SignalError {
    SignalError::new(format!("the system tells no processor usage: {reason}"))
}

/// The mean over the processors `allowed`; over all, where none of them has such a name.
fn mean<'a>(
    usages: impl Iterator<Item = (&'a str, f64)> + Clone,
    allowed: Option<&[usize]>,
) -> Option<f64> {
    let is_allowed = |name: &str| {
        let number = name
            .strip_prefix("cpu")
            .and_then(|number| number.parse().ok());
        number.is_some_and(|number| allowed.is_none_or(|allowed| allowed.contains(&number)))
    };
    let of = |usages: &mut dyn Iterator<Item = f64>| {
        let (sum, number) = usages.fold((0.0, 0_u32), |(sum, number), usage| {
            (sum + usage, number + 1)
        });
        (number > 0).then(|| sum / f64::from(number))
    };
    let selected = usages.clone().filter(|(name, _)| is_allowed(name));
    of(&mut selected.map(|(_, usage)| usage)).or_else(|| of(&mut usages.map(|(_, usage)| usage)))
}

#[cfg(test)]
#[path = "cpu_tests.rs"]
mod tests;
