//! Blocks of shell, run as they stand but for this:
//!
//! | stands there | is here |
//! |---|---|
//! | an address, a port or a name of an example | where the test has its own: [`Shell::with`] |
//! | `cargo run --release -- X`, `cargo install …` | `overspill X`, and nothing: the program is built already |
//! | `curl` | `curl --fail-with-body`, so that a refusal fails |
//! | a length of minutes | one of seconds: [`Shell::with`] |
//! | `~`, folders of the system | a folder of the test's own |
//! | `overspill status --json`, which goes on | its first line |
//! | configuration | defaults, on free ports |

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Stdio};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::blocks::Block;
use crate::support::{folder, wait::soon};

/// A page with an object of its own, and what a site has beside it.
pub(crate) const PAGE: &str =
    "<!doctype html><title>Home</title><link rel=stylesheet href=/a.css><img src=/a.png>";

/// A folder with a site, and what stands where in the examples.
pub(crate) struct Shell {
    pub(crate) folder: TempDir,
    replaced: Vec<(String, String)>,
    variables: Vec<(String, String)>,
}

/// What a line printed.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Shell {
    pub(crate) fn new() -> Self {
        let folder = folder([
            ("public/index.html", PAGE.as_bytes()),
            ("public/a.css", b"a{}"),
            ("public/a.png", b"png"),
            (".local/share/bash-completion/completions/.keep", b""),
            ("man1/.keep", b""),
        ]);
        let shell = Self {
            folder,
            replaced: Vec::new(),
            variables: Vec::new(),
        };
        shell.command_called(
            "overspill",
            &format!("exec '{}' \"$@\"", env!("CARGO_BIN_EXE_overspill")),
        );
        shell.command_called(
            "curl",
            "PATH=${PATH#*:} exec curl --fail-with-body --show-error \"$@\"",
        );
        let (home, site, man) = (shell.path("."), shell.path("public"), shell.path("man1"));
        shell
            .variable("HOME", &home)
            .with("/usr/local/share/man/man1", man)
            .variable("OVERSPILL__PRIMARY__SITE", &site)
            .variable("OVERSPILL__ADMIN__LISTEN", "127.0.0.1:0")
            .with("cargo run --release --", "overspill")
    }

    /// The same where `this` stands for `that`.
    pub(crate) fn with(mut self, this: &str, that: impl Into<String>) -> Self {
        self.replaced.push((this.to_owned(), that.into()));
        self
    }

    /// The same with a variable of the environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A path below the folder.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Puts a command into the way of the one that the system has.
    pub(crate) fn command_called(&self, name: &str, script: &str) {
        let path = self.folder.path().join("bin").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The lines of a block, with all of an example's own in place.
    fn lines(&self, block: &Block) -> Vec<String> {
        let text = block.text.replace("\\\n", " ");
        let replaced = |line: &str| {
            self.replaced
                .iter()
                .fold(line.to_owned(), |line, (this, that)| {
                    line.replace(this, that)
                })
        };
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with("cargo install "))
            .map(replaced)
            .collect()
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("OVERSPILL") || name == "RUST_LOG" {
                command.env_remove(&*name);
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.path("bin")))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .kill_on_drop(true)
            .stdin(Stdio::null());
        command
    }

    /// Starts a block whose last line goes on until it is ended.
    pub(crate) fn start(&self, block: &Block) -> Child {
        let mut lines = self.lines(block);
        let last = lines.pop().unwrap();
        // Its process is the one that ends with the handle.
        lines.push(format!("exec {last}"));
        let mut command = self.command(&lines.join("\n"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// Runs a block line by line, each to its end, and calls `after` with each line and what it printed.
    pub(crate) async fn run(&self, block: &Block, mut after: impl AsyncFnMut(&str, &Printed)) {
        let mut exports = String::new();
        for line in self.lines(block) {
            if line.starts_with("export ") {
                exports += &format!("{line}\n");
                continue;
            }
            let goes_on = line.contains("overspill status --json");
            let shown = if goes_on {
                "exec 3< <(%\n); head -n 1 <&3; kill $!"
            } else {
                "%"
            };
            let script = format!("{exports}{}", shown.replace('%', &line));
            let output = soon(&line, self.command(&script).output()).await.unwrap();
            let printed = Printed {
                stdout: String::from_utf8(output.stdout).unwrap(),
                stderr: String::from_utf8(output.stderr).unwrap(),
            };
            let place = &block.place;
            let Printed { stdout, stderr } = &printed;
            assert!(output.status.success(), "{place}: {line}\n{stdout}{stderr}");
            after(&line, &printed).await;
        }
    }
}

/// Whether a shell can read a script, be it never so long.
pub(crate) async fn is_script(path: &Path) -> bool {
    let mut command = Command::new("bash");
    command.arg("-n").arg(path);
    command.status().await.unwrap().success()
}
