//! The built program as a process.

use std::{
    fs,
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{
    client::{get, post},
    config::Config,
    wait::{soon, until},
};

/// `overspill serve`, killed when its handle goes.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    /// Where the site is.
    pub(crate) site: SocketAddr,
    /// Where status and overrides are.
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    folder: TempDir,
}

/// The program, to be given arguments; nothing of this process's environment configures it.
pub(crate) fn command() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_overspill")))
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("OVERSPILL") || name == "RUST_LOG" {
            command.env_remove(&*name);
        }
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// What a run of the program that ends by itself left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program with `config` in a file, to its end.
pub(crate) async fn run(arguments: &[&str], config: &str) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overspill.toml");
    fs::write(&path, config).unwrap();
    let mut command = command();
    command
        .args(arguments)
        .arg("--config")
        .arg(&path)
        .current_dir(folder.path());
    let output = soon("the program ends", command.output()).await.unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Program {
    /// Starts `overspill serve` and waits until it is ready.
    pub(crate) async fn serve(config: &Config) -> Self {
        Self::start("serve", config).await
    }

    /// Starts `overspill edge` and waits until it is ready.
    pub(crate) async fn edge(config: &Config) -> Self {
        Self::start("edge", config).await
    }

    /// The same as [`serve`](Self::serve) where the shell has done `first`, such as `ulimit -n 100`.
    pub(crate) async fn serve_after(first: &str, config: &Config) -> Self {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{first}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_overspill"));
        Self::start_by(shell, "serve", config).await
    }

    async fn start(command_name: &str, config: &Config) -> Self {
        let program = Command::new(env!("CARGO_BIN_EXE_overspill"));
        Self::start_by(program, command_name, config).await
    }

    /// Starts `program`, which is this one in the end, as `overspill COMMAND_NAME`.
    pub(crate) async fn start_by(program: Command, command_name: &str, config: &Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overspill.toml");
        fs::write(&path, config.to_string()).unwrap();
        let mut child = clean(program)
            .args(["--log", "json", command_name, "--config"])
            .arg(&path)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (mut site, mut admin) = (None, None);
        while site.is_none() || admin.is_none() {
            let line = soon("the program says where it listens", lines.next_line())
                .await
                .unwrap();
            let Some(line) = line else {
                panic!(
                    "it ended:\n{}\nwith the configuration\n{config}",
                    log.lock().unwrap().join("\n")
                );
            };
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let address = |key: &str| {
                let (_, address) = event[key].as_str()?.split_once("://")?;
                address.parse::<SocketAddr>().ok()
            };
            site = site.or(address("site"));
            admin = admin.or(address("admin"));
            log.lock().unwrap().push(line);
        }
        let rest = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                rest.lock().unwrap().push(line);
            }
        });
        let program = Self {
            child,
            site: site.unwrap(),
            admin: admin.unwrap(),
            log,
            folder,
        };
        until("ready", async || {
            (get("/readyz").ask(program.admin).await.status == 200).then_some(())
        })
        .await;
        program
    }

    /// Its configuration.
    pub(crate) fn config_file(&self) -> std::path::PathBuf {
        self.folder.path().join("overspill.toml")
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Everything that it logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// `GET /api/status`.
    pub(crate) async fn status(&self) -> Value {
        let answer = get("/api/status").ask(self.admin).await;
        assert_eq!(answer.status, 200);
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// What the status says of the offload server called `name`.
    pub(crate) async fn server(&self, name: &str) -> Value {
        named(&self.status().await["servers"], name)
    }

    /// What the status says of the signal called `name`.
    pub(crate) async fn signal(&self, name: &str) -> Value {
        named(&self.status().await["signals"], name)
    }

    /// Waits until the status is as `is` says.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        until(what, async || {
            last = self.status().await;
            is(&last).then(|| last.clone())
        })
        .await
    }

    /// Waits for a level.
    pub(crate) async fn until_level(&self, level: &str) {
        self.until(level, |status| status["level"] == level).await;
    }

    /// Waits until an offload server gets work, or gets none.
    pub(crate) async fn until_usable(&self, server: &str, usable: bool) -> Value {
        let what = format!("{server} usable: {usable}");
        let status = self
            .until(&what, |status| {
                named(&status["servers"], server)["usable"] == usable
            })
            .await;
        named(&status["servers"], server)
    }

    /// Holds a level by hand.
    pub(crate) async fn hold_level(&self, level: &str) {
        let body = json!({ "level": level, "for": "1h" }).to_string();
        let answer = post("/api/override", &body).ask(self.admin).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn terminate(self) -> Option<i32> {
        let id = self.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .await
                .unwrap()
                .success()
        );
        self.ended().await
    }

    /// Ends it at once, as a machine that fails would; its handle still knows where it was.
    pub(crate) async fn kill(&mut self) {
        soon("the program is killed", self.child.kill())
            .await
            .unwrap();
    }

    /// Waits until it has ended by itself; gives its exit code.
    pub(crate) async fn ended(mut self) -> Option<i32> {
        soon("the program ends", self.child.wait())
            .await
            .unwrap()
            .code()
    }
}

/// The element called `name`.
pub(crate) fn named(list: &Value, name: &str) -> Value {
    let found = list
        .as_array()
        .and_then(|list| list.iter().find(|item| item["name"] == name));
    found
        .unwrap_or_else(|| panic!("nothing is called {name} in {list}"))
        .clone()
}
