//! Control groups: what this process may use of the processors, and what has been used of it.
//!
//! `/proc/self/cgroup` says in which groups the process is, `/proc/self/mountinfo` where their files
//! are. In a container both are relative to something: the mount may show only a part of the tree
//! (its *root*), and with a cgroup namespace the path begins at the container. So the part of the
//! path that the mount's root covers is taken off; where the two don't fit, the mount point itself
//! is the nearest group that can be seen.
//!
//! Sources: cgroups(7), cgroup_namespaces(7), proc_pid_mountinfo(5), and the kernel's
//! `admin-guide/cgroup-v2` (`cpu.max`, `cpu.stat`), `scheduler/sched-bwc` (`cpu.cfs_quota_us`) and
//! `admin-guide/cgroup-v1/cpuacct` (`cpuacct.usage`).

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use super::SignalError;

/// A group that limits this process, or the one that it is in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Account {
    /// Its folder, which tells it from the others.
    pub(super) group: PathBuf,
    /// Whether this is the process's own group, not an ancestor shared with siblings.
    pub(super) own: bool,
    /// How many processors' time it may use, if that is limited.
    pub(super) quota: Option<f64>,
    /// Processor time that it and all groups below it have used, in nanoseconds.
    pub(super) used: u64,
}

/// The groups of this process; found anew when it is moved.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    membership: String,
    /// Version 2, then version 1; in each the own group first, then its ancestors.
    hierarchies: [Vec<Group>; 2],
}

impl Cgroups {
    /// Those found below `root`, which is `/` but in tests.
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            membership: String::new(),
            hierarchies: Default::default(),
        }
    }

    /// Every group with a quota, and the own group beside them; nothing where there is no quota.
    ///
    /// Only those of one hierarchy: where both versions are mounted, the controller is in one of
    /// them, and the process is often in the root of the other, whose usage is the whole machine's.
    pub(super) fn accounts(&mut self) -> Result<Vec<Account>, SignalError> {
        self.find()?;
        for groups in &self.hierarchies {
            let accounts = limited(groups)?;
            if !accounts.is_empty() {
                return Ok(accounts);
            }
        }
        Ok(Vec::new())
    }

    fn find(&mut self) -> Result<(), SignalError> {
        // A kernel without control groups has no such file, other systems neither.
        let membership = read_if_there(&self.root.join("proc/self/cgroup"))?.unwrap_or_default();
        if membership == self.membership {
            return Ok(());
        }
        let mounts = read_if_there(&self.root.join("proc/self/mountinfo"))?.unwrap_or_default();
        let mounts: Vec<_> = mounts.lines().filter_map(Mount::parse).collect();
        self.hierarchies = [
            find_v2(&self.root, &membership, &mounts),
            find_v1(&self.root, &membership, &mounts),
        ];
        self.membership = membership;
        Ok(())
    }
}

/// The groups with a quota and the own one; nothing where there is no quota.
fn limited(groups: &[Group]) -> Result<Vec<Account>, SignalError> {
    let quotas: Vec<_> = groups.iter().map(Group::quota).collect::<Result<_, _>>()?;
    if quotas.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    groups
        .iter()
        .zip(quotas)
        .filter(|(group, quota)| quota.is_some() || group.own)
        .filter_map(|(group, quota)| group.account(quota).transpose())
        .collect()
}

fn find_v2(root: &Path, membership: &str, mounts: &[Mount]) -> Vec<Group> {
    let Some(path) = path_of(membership, "") else {
        return Vec::new();
    };
    let mounts = mounts.iter().filter(|mount| mount.kind == "cgroup2");
    let folders = folders(root, mounts, path).into_iter().enumerate();
    folders
        .map(|(depth, folder)| Group {
            own: depth == 0,
            usage: None,
            folder,
        })
        .collect()
}

fn find_v1(root: &Path, membership: &str, mounts: &[Mount]) -> Vec<Group> {
    let Some(path) = path_of(membership, "cpu") else {
        return Vec::new();
    };
    // Where the two controllers are mounted apart, the group of the same path is the one that
    // accounts for it, whichever one the process is in there.
    let usage = folders(root, of_controller(mounts, "cpuacct"), path);
    let cpu = folders(root, of_controller(mounts, "cpu"), path);
    cpu.into_iter()
        .enumerate()
        .map(|(depth, folder)| Group {
            own: depth == 0,
            usage: Some(usage.get(depth).unwrap_or(&folder).join("cpuacct.usage")),
            folder,
        })
        .collect()
}

/// A group's folder, and where version 1 keeps its usage.
#[derive(Debug)]
struct Group {
    folder: PathBuf,
    own: bool,
    /// `cpuacct.usage` in version 1, none in version 2.
    usage: Option<PathBuf>,
}

impl Group {
    fn quota(&self) -> Result<Option<f64>, SignalError> {
        if self.usage.is_none() {
            let path = self.folder.join("cpu.max");
            let Some(text) = read_if_there(&path)? else {
                return Ok(None);
            };
            return parse_cpu_max(&text).ok_or_else(|| {
                SignalError::unexpected(&path, "\"max\" or a quota, and a period", &text)
            });
        }
        let number = |name: &str| -> Result<Option<i64>, SignalError> {
            let path = self.folder.join(name);
            let Some(text) = read_if_there(&path)? else {
                return Ok(None);
            };
            let number = text.trim().parse().map(Some);
            number.map_err(|_| SignalError::unexpected(&path, "a number", &text))
        };
        let (quota, period) = (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?);
        Ok(match (quota, period) {
            // −1 is no limit; the kernel allows no period of 0.
            (Some(quota), Some(period)) if quota > 0 && period > 0 => {
                Some(quota as f64 / period as f64)
            }
            _ => None,
        })
    }

    /// None where the group has no quota and tells no usage: then it says nothing.
    fn account(&self, quota: Option<f64>) -> Result<Option<Account>, SignalError> {
        let used = match self.used() {
            Ok(used) => used,
            Err(_) if quota.is_none() => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Account {
            group: self.folder.clone(),
            own: self.own,
            quota,
            used,
        }))
    }

    fn used(&self) -> Result<u64, SignalError> {
        if let Some(path) = &self.usage {
            let text = read(path)?;
            let nanoseconds = text.trim().parse();
            return nanoseconds.map_err(|_| SignalError::unexpected(path, "nanoseconds", &text));
        }
        let path = self.folder.join("cpu.stat");
        let text = read(&path)?;
        text.lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
            .and_then(|microseconds| microseconds.trim().parse::<u64>().ok())
            .map(|microseconds| microseconds.saturating_mul(1_000))
            .ok_or_else(|| SignalError::unexpected(&path, "a line `usage_usec`", &text))
    }
}

/// `max 100000` or `150000 100000`; the outer none is what can't be read.
fn parse_cpu_max(text: &str) -> Option<Option<f64>> {
    let mut fields = text.split_whitespace();
    let quota = fields.next()?;
    // The kernel's default, which it always prints.
    let period: f64 = fields.next().unwrap_or("100000").parse().ok()?;
    if quota == "max" {
        return Some(None);
    }
    let quota: f64 = quota.parse().ok()?;
    let processors = quota / period;
    (processors.is_finite() && processors > 0.0).then_some(Some(processors))
}

/// The path of the process in the hierarchy with `controller`; `""` is version 2.
fn path_of<'a>(membership: &'a str, controller: &str) -> Option<&'a str> {
    membership.lines().find_map(|line| {
        // id:controllers:path, and the path may contain colons.
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match controller {
            "" => id == "0" && controllers.is_empty(),
            _ => controllers.split(',').any(|name| name == controller),
        };
        found.then_some(path)
    })
}

/// A mount of a control-group hierarchy.
#[derive(Debug, PartialEq)]
struct Mount {
    /// Which folder of the hierarchy is mounted: `/` unless only a part of it can be seen.
    root: String,
    point: String,
    /// `cgroup` or `cgroup2`.
    kind: String,
    /// In version 1 the controllers are among them.
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        // 36 35 98:0 /root /mount/point options [optional fields] - kind source options
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut file_system = file_system.split(' ');
        let kind = file_system.next()?;
        kind.starts_with("cgroup").then_some(())?;
        Some(Self {
            root: unescape(mount.next()?),
            point: unescape(mount.next()?),
            kind: kind.to_owned(),
            options: file_system.nth(1).unwrap_or_default().to_owned(),
        })
    }
}

fn of_controller<'a>(mounts: &'a [Mount], name: &str) -> impl Iterator<Item = &'a Mount> {
    mounts.iter().filter(move |mount| {
        mount.kind == "cgroup" && mount.options.split(',').any(|option| option == name)
    })
}

/// Blanks, tabs, newlines and backslashes stand as three octal digits after a backslash.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (code, character)| {
        text.replace(code, character)
    })
}

/// The folder of the group at `path`, and of every ancestor that can be seen, the deepest first.
fn folders<'a>(root: &Path, mounts: impl Iterator<Item = &'a Mount>, path: &str) -> Vec<PathBuf> {
    let mounts: Vec<_> = mounts.collect();
    let below_mount = mounts
        .iter()
        .find_map(|mount| Some((*mount, below(&mount.root, path)?)));
    let Some((mount, below)) =
        below_mount.or_else(|| mounts.first().map(|mount| (*mount, PathBuf::new())))
    else {
        return Vec::new();
    };
    let point = root.join(mount.point.trim_start_matches('/'));
    below.ancestors().map(|below| point.join(below)).collect()
}

/// `path` as seen from `root`; none where it is not below it, or only by way of `..`, which a
/// process outside of its own namespace's root has.
fn below(root: &str, path: &str) -> Option<PathBuf> {
    let below = Path::new(path).strip_prefix(root).ok()?;
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    below.components().all(plain).then(|| below.to_owned())
}

fn read(path: &Path) -> Result<String, SignalError> {
    std::fs::read_to_string(path).map_err(|error| SignalError::unreadable(path, &error))
}

fn read_if_there(path: &Path) -> Result<Option<String>, SignalError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SignalError::unreadable(path, &error)),
    }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
