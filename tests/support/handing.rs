//! The program with sockets that were there before it, and its successors.

use std::{net::TcpListener, process::Command};

use command_fds::{CommandFdExt, FdMapping};
use serde_json::Value;

use super::{client::request, program::Program};

/// A process that is ended with this handle: a successor is nobody's child when its predecessor has gone.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// Sends it a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.0, name);
    }

    /// Whether it is there. (One that has ended, and that nobody has waited for, is not.)
    pub(crate) fn is_there(&self) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.0));
        state.is_ok_and(|state| !state.contains(") Z "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_there() {
            signal(self.0, "KILL");
        }
    }
}

/// Sends a signal to a process of the test's own.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Has it start a successor.
pub(crate) async fn restart(program: &Program) -> Process {
    let answer = request("POST", "/api/restart").ask(program.admin).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    Process(said["process"].as_u64().unwrap().try_into().unwrap())
}

/// The program, with `listeners` from file 3 on.
pub(crate) fn with_sockets(
    listeners: Vec<TcpListener>,
    names: Option<&str>,
) -> tokio::process::Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overspill"));
    command.env("LISTEN_FDS", listeners.len().to_string());
    command
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDNAMES");
    if let Some(names) = names {
        command.env("LISTEN_FDNAMES", names);
    }
    let mappings = listeners
        .into_iter()
        .zip(3..)
        .map(|(listener, child_fd)| FdMapping {
            parent_fd: listener.into(),
            child_fd,
        });
    command.fd_mappings(mappings.collect()).unwrap();
    command.into()
}
