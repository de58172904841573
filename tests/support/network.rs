//! Hosts of their own: network namespaces, each with a link whose speed is set (`tc tbf`). Linux, root and iproute2.
//!
//! Visitors have a host with many addresses, and servers are numbered: 0 is the primary, and the others come after it. The
//! visitors' host stands between the servers: what one fetches from another goes over the other's link.

use std::{
    ffi::OsStr,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

use super::wait::soon;

/// What the names of hosts begin with; the number of the process that made them follows.
const PREFIX: &str = "overspill-test-";

/// Where iproute2 keeps them.
const NAMESPACES: &str = "/run/netns";

/// A network; it goes with its handle, and all that runs there with it.
#[derive(Debug)]
pub(crate) struct Network {
    name: String,
    servers: usize,
}

/// Where something runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Host {
    Visitors,
    Server(usize),
}

// === impl Network ===

impl Network {
    /// Visitors with 254 addresses, and so many servers, each of which sends `rate` at most (as `tc` has it: `"4mbit"`).
    ///
    /// # Panics
    /// On a machine where that can't be made: says what it needs.
    pub(crate) fn new(servers: usize, rate: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        remove_orphans();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            name: format!("{PREFIX}{}-{number}", std::process::id()),
            servers,
        };
        for host in network.hosts() {
            let made = ip(&["netns", "add", &network.host(host)]);
            assert!(
                made.status.success(),
                "this test makes network namespaces, for which it needs Linux, root and iproute2: {}",
                String::from_utf8_lossy(&made.stderr)
            );
            network.must(host, "ip link set lo up");
        }
        // (Not `sysctl`: it is another package.)
        network.run(
            Host::Visitors,
            &["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"],
        );
        // Any of them can be bound to.
        network.must(Host::Visitors, "ip address add 10.77.255.0/24 dev lo");
        for number in 0..servers {
            network.link(number, rate);
        }
        network
    }

    /// The address of a server.
    pub(crate) fn address(number: usize) -> Ipv4Addr {
        let number = u8::try_from(number).expect("a handful of servers");
        Ipv4Addr::new(10, 77, number, 2)
    }

    /// The visitors' addresses.
    pub(crate) fn visitors() -> String {
        let all: Vec<_> = (1..=200).map(|n| format!("10.77.255.{n}")).collect();
        all.join(",")
    }

    /// A program on a host, to be given arguments.
    pub(crate) fn command(
        &self,
        host: Host,
        program: impl AsRef<OsStr>,
    ) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        // It becomes the program: who ends the process ends that.
        command
            .args(["netns", "exec", &self.host(host)])
            .arg(program)
            .kill_on_drop(true);
        command
    }

    /// What `url` answers to who asks on `host`; none where nobody answers, or it is no JSON.
    pub(crate) async fn json(&self, host: Host, url: &str) -> Option<Value> {
        serde_json::from_slice(&self.get(host, url).await?).ok()
    }

    /// What `url` answers to who asks on `host`; none where there is no answer, or a status of 400 and above.
    pub(crate) async fn get(&self, host: Host, url: &str) -> Option<Vec<u8>> {
        let mut curl = self.command(host, "curl");
        curl.args(["-sf", "--max-time", "10", "--noproxy", "*", url]);
        let output = soon("curl ends", curl.output()).await.unwrap();
        output.status.success().then_some(output.stdout)
    }

    /// What is there of it in the file system, as long as it is there.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let hosts = self.hosts().into_iter();
        hosts
            .map(|host| Path::new(NAMESPACES).join(self.host(host)))
            .collect()
    }

    fn link(&self, number: usize, rate: &str) {
        let (visitors, server) = (Host::Visitors, Host::Server(number));
        let (near, far) = (self.host(visitors), self.host(server));
        self.must(
            visitors,
            &format!("ip link add to{number} netns {near} type veth peer name eth0 netns {far}"),
        );
        self.must(
            visitors,
            &format!("ip address add 10.77.{number}.1/24 dev to{number}"),
        );
        self.must(visitors, &format!("ip link set to{number} up"));
        self.must(
            server,
            &format!("ip address add 10.77.{number}.2/24 dev eth0"),
        );
        self.must(server, "ip link set eth0 up");
        self.must(
            server,
            &format!("ip route add default via 10.77.{number}.1"),
        );
        self.must(
            server,
            &format!("tc qdisc add dev eth0 root tbf rate {rate} burst 16kb latency 200ms"),
        );
    }

    fn hosts(&self) -> Vec<Host> {
        let servers = (0..self.servers).map(Host::Server);
        std::iter::once(Host::Visitors).chain(servers).collect()
    }

    fn host(&self, host: Host) -> String {
        match host {
            Host::Visitors => format!("{}-visitors", self.name),
            Host::Server(number) => format!("{}-{number}", self.name),
        }
    }

    /// Runs a command on a host; its words have no blanks.
    fn must(&self, host: Host, command: &str) {
        self.run(host, &command.split(' ').collect::<Vec<_>>());
    }

    fn run(&self, host: Host, command: &[&str]) {
        let name = self.host(host);
        let output = ip(&[&["netns", "exec", &name], command].concat());
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in self.hosts() {
            remove(&self.host(host));
        }
    }
}

fn ip(arguments: &[&str]) -> Output {
    Command::new("ip").args(arguments).output().expect(
        "this test makes network namespaces, for which it needs Linux, root and iproute2: `ip` is not there",
    )
}

/// Takes a host away, and ends what runs there.
fn remove(host: &str) {
    let running = Command::new("ip").args(["netns", "pids", host]).output();
    let running = running.map(|output| output.stdout).unwrap_or_default();
    let running = String::from_utf8_lossy(&running).into_owned();
    let running: Vec<_> = running.split_whitespace().collect();
    if !running.is_empty() {
        let _ = Command::new("kill").arg("-9").args(running).output();
    }
    let _ = Command::new("ip").args(["netns", "del", host]).output();
}

/// Takes away what tests left that were killed.
fn remove_orphans() {
    let Ok(hosts) = fs::read_dir(NAMESPACES) else {
        return;
    };
    for host in hosts.flatten() {
        let name = host.file_name().to_string_lossy().into_owned();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let gone = process.is_some_and(|id| !Path::new("/proc").join(id).exists());
        if gone {
            remove(&name);
        }
    }
}
