//! Starts the same program once more, and hands it the sockets.

use std::{
    env,
    ffi::OsString,
    fmt, io,
    io::Read,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd, RawFd},
    path::PathBuf,
    process::{Child, Command},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use tokio::sync::watch;

use super::{RestartError, SUCCEEDS, predecessor::READY};

/// How long a successor may take until it is ready: it reads its configuration, and resolves names.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first file that is handed over, by the convention of systemd.
const FIRST: RawFd = 3;
/// Nobody explains himself at greater length.
const LONGEST_REASON: u64 = 64 << 10;

/// Starts a successor when it is asked to, once.
pub(crate) struct Restarter {
    program: OsString,
    /// Where the program was when this process began: what is there now may be another version.
    place: Option<PathBuf>,
    arguments: Vec<OsString>,
    /// [`None`]: this process ends, and the sockets are not its own to hand over any more. Not held for long.
    sockets: Mutex<Option<Vec<Passed>>>,
    /// Held while one starts.
    busy: tokio::sync::Mutex<()>,
    /// The process that has taken over.
    successor: watch::Sender<Option<u32>>,
}

/// A socket that is handed on.
#[derive(Debug)]
struct Passed {
    name: &'static str,
    configured: SocketAddr,
    file: OwnedFd,
}

impl fmt::Debug for Restarter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Restarter")
            .field("program", &self.program)
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

// === impl Restarter ===

impl Restarter {
    /// With the program and the arguments of this process, and no socket yet.
    pub(crate) fn new() -> Self {
        let mut arguments = env::args_os();
        let program = arguments.next().unwrap_or_default();
        Self {
            program,
            place: env::current_exe().ok(),
            arguments: arguments.collect(),
            sockets: Mutex::new(Some(Vec::new())),
            busy: tokio::sync::Mutex::default(),
            successor: watch::Sender::new(None),
        }
    }

    /// Hands `listener` on as well, which the configuration has at `configured`.
    ///
    /// # Errors
    /// There are too many open files.
    pub(crate) fn hand_on(
        &self,
        name: &'static str,
        configured: SocketAddr,
        listener: &TcpListener,
    ) -> io::Result<()> {
        let file = listener.as_fd().try_clone_to_owned()?;
        if let Some(sockets) = &mut *self.sockets() {
            sockets.push(Passed {
                name,
                configured,
                file,
            });
        }
        Ok(())
    }

    /// Starts a successor and waits until it is ready; gives its number.
    ///
    /// # Errors
    /// It did not become ready: then all stays as it was.
    pub(crate) async fn restart(&self) -> Result<u32, RestartError> {
        let Ok(_alone) = self.busy.try_lock() else {
            return Err(RestartError::Busy);
        };
        if std::process::id() == 1 {
            return Err(RestartError::First);
        }
        if self.successor.borrow().is_some() {
            return Err(RestartError::Busy);
        }
        let (child, said) = self.start()?;
        let started = tokio::task::spawn_blocking(move || ready(child, said)).await;
        let id = started.map_err(|error| RestartError::Start(io::Error::other(error)))??;
        self.successor.send_replace(Some(id));
        Ok(id)
    }

    /// Until a successor has taken over; gives its number.
    pub(crate) async fn succeeded(&self) -> u32 {
        let mut successors = self.successor.subscribe();
        // The sender is this one's, which lives on.
        match successors.wait_for(Option::is_some).await {
            Ok(successor) => successor.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Closes its handles of the sockets: who connects to a server that ends shall be refused, and not wait.
    pub(crate) fn let_go(&self) {
        *self.sockets() = None;
    }

    fn start(&self) -> Result<(Child, io::PipeReader), RestartError> {
        match self.spawn(&self.program) {
            Err(RestartError::Start(error)) if error.kind() == io::ErrorKind::NotFound => {
                // It may have been started under a name that is none.
                match &self.place {
                    Some(place) => self.spawn(place.as_os_str()),
                    None => Err(RestartError::Start(error)),
                }
            }
            started => started,
        }
    }

    fn spawn(&self, program: &std::ffi::OsStr) -> Result<(Child, io::PipeReader), RestartError> {
        let (said, says) = io::pipe().map_err(RestartError::Start)?;
        let (mut mappings, mut names, mut configured) = (Vec::new(), Vec::new(), Vec::new());
        {
            let sockets = self.sockets();
            let sockets = sockets.as_ref().ok_or(RestartError::Draining)?;
            for (passed, child_fd) in sockets.iter().zip(FIRST..) {
                let parent_fd = passed.file.try_clone().map_err(RestartError::Start)?;
                mappings.push(FdMapping {
                    parent_fd,
                    child_fd,
                });
                names.push(passed.name);
                configured.push(format!("{}={}", passed.name, passed.configured));
            }
        }
        let mut command = Command::new(program);
        command
            .args(&self.arguments)
            .stdin(says)
            .env("LISTEN_FDS", mappings.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env(SUCCEEDS, configured.join(","))
            // They name this process.
            .env_remove("LISTEN_PID")
            .env_remove("WATCHDOG_PID");
        command
            .fd_mappings(mappings)
            .map_err(|error| RestartError::Start(io::Error::other(error)))?;
        let child = command.spawn().map_err(RestartError::Start)?;
        // The pipe closes with the successor's end of it: this one's are dropped here, with the command.
        Ok((child, said))
    }

    fn sockets(&self) -> MutexGuard<'_, Option<Vec<Passed>>> {
        // Nothing in there panics half-way.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until `child` has said that it is ready, and gives its number. One that is not ends.
fn ready(mut child: Child, said: io::PipeReader) -> Result<u32, RestartError> {
    let (tell, told) = mpsc::channel();
    // Reading from a pipe can't be given up: the thread ends with the successor's end of it.
    let reading = thread::Builder::new().name("overspill-successor".to_owned());
    let reading = reading.spawn(move || {
        let mut text = Vec::new();
        let _ = said.take(LONGEST_REASON).read_to_end(&mut text);
        let _ = tell.send(text);
    });
    let answer = match reading {
        Ok(_) => told.recv_timeout(PATIENCE),
        Err(_) => Err(RecvTimeoutError::Disconnected),
    };
    if matches!(&answer, Ok(text) if text == READY) {
        return Ok(child.id());
    }
    // One that has said why ends by itself, with the status that tells it.
    let failed = match answer {
        Ok(text) if !text.is_empty() => {
            RestartError::Failed(String::from_utf8_lossy(&text).trim().to_owned())
        }
        Ok(_) => match child.wait() {
            Ok(status) => RestartError::Failed(format!("it ended with {status}")),
            Err(error) => RestartError::Start(error),
        },
        Err(_) => RestartError::Late(PATIENCE.as_secs()),
    };
    // It is gone already, or goes now; and must not stay behind as one whom nobody waited for.
    let _ = child.kill();
    let _ = child.wait();
    Err(failed)
}
