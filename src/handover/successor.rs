//! Starts the same program once more, and hands it the sockets.

use std::{
    env,
    ffi::OsString,
    fmt, io,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd, RawFd},
    path::PathBuf,
    process::{Child, Command},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt, FdMapping};
use tokio::sync::watch;

use super::{RestartError, SUCCEEDS, predecessor::READY};

/// How long a successor may take until it is ready: it reads its configuration, and resolves names.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked whether this process ends meanwhile.
const LOOK: Duration = Duration::from_millis(100);
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

    /// Starts a successor and waits until it is ready; gives its number. Goes on to its end also where whoever asked does not
    /// wait for it: a successor that is ready serves.
    ///
    /// # Errors
    /// It did not become ready: then all stays as it was.
    pub(crate) async fn restart(self: &Arc<Self>) -> Result<u32, RestartError> {
        let own = self.clone();
        let restarted = tokio::task::spawn_blocking(move || own.succeed()).await;
        restarted.map_err(|error| RestartError::Start(io::Error::other(error)))?
    }

    fn succeed(&self) -> Result<u32, RestartError> {
        let Ok(_alone) = self.busy.try_lock() else {
            return Err(RestartError::Busy);
        };
        if std::process::id() == 1 {
            return Err(RestartError::First);
        }
        if self.successor.borrow().is_some() {
            return Err(RestartError::Busy);
        }
        let (mut child, said) = self.start()?;
        let failed = match self.answer(said) {
            Ok(text) if text == READY => {
                // Held: either it has taken over when this process ends, or it ends as well.
                let sockets = self.sockets();
                if sockets.is_some() {
                    let id = child.id();
                    self.successor.send_replace(Some(id));
                    return Ok(id);
                }
                RestartError::Draining
            }
            // One that has said why ends by itself, with the status that tells it.
            Ok(text) if !text.is_empty() => {
                RestartError::Failed(String::from_utf8_lossy(&text).trim().to_owned())
            }
            Ok(_) => self.status(&mut child),
            Err(failed) => failed,
        };
        // It is gone already, or goes now; and must not stay behind as one whom nobody waited for.
        let _ = child.kill();
        let _ = child.wait();
        Err(failed)
    }

    /// How one ended that said nothing: mostly it has ended by then.
    fn status(&self, child: &mut Child) -> RestartError {
        let began = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => {
                    return RestartError::Failed(format!("it ended with {status}"));
                }
                Ok(None) if self.sockets().is_none() => return RestartError::Draining,
                Ok(None) if began.elapsed() < PATIENCE => thread::sleep(LOOK / 10),
                Ok(None) => return RestartError::Late(PATIENCE.as_secs()),
                Err(error) => return RestartError::Start(error),
            }
        }
    }

    /// What a successor says, as long as there is time for it.
    fn answer(&self, said: io::PipeReader) -> Result<Vec<u8>, RestartError> {
        let began = Instant::now();
        let told = listen(said);
        loop {
            match told.recv_timeout(LOOK) {
                Ok(text) => return Ok(text),
                Err(RecvTimeoutError::Timeout) if self.sockets().is_none() => {
                    return Err(RestartError::Draining);
                }
                Err(RecvTimeoutError::Timeout) if began.elapsed() < PATIENCE => {}
                Err(_) => return Err(RestartError::Late(PATIENCE.as_secs())),
            }
        }
    }

    /// Until a successor has taken over.
    pub(crate) async fn succeeded(&self) {
        let mut successors = self.successor.subscribe();
        // The sender is this one's, which lives on.
        let _ = successors.wait_for(Option::is_some).await;
    }

    /// Closes its handles of the sockets: who connects to a server that ends shall be refused, and not wait. Gives the number
    /// of the process that has taken over; where there is none by now, there will be none.
    pub(crate) fn let_go(&self) -> Option<u32> {
        let mut sockets = self.sockets();
        *sockets = None;
        *self.successor.borrow()
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

/// Hears what a successor says: [`READY`], or all of it.
fn listen(said: io::PipeReader) -> Receiver<Vec<u8>> {
    let (tell, told) = mpsc::channel();
    // Reading from a pipe can't be given up: the thread ends with the successor's end of it.
    let reading = thread::Builder::new().name("overspill-successor".to_owned());
    let reading = reading.spawn(move || {
        let (mut text, mut said) = (Vec::new(), BufReader::new(said.take(LONGEST_REASON)));
        let _ = said.read_until(b'\n', &mut text);
        // One that is ready may hold on to its end, where it has nothing else for a standard input.
        if text != READY {
            let _ = said.read_to_end(&mut text);
        }
        let _ = tell.send(text);
    });
    drop(reading);
    told
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures_util::FutureExt;
    use rustix::process::{Pid, Signal, kill_process};
    use tokio::time::{sleep, timeout};

    use super::*;

    /// Longer than any machine takes.
    const PATIENT: Duration = Duration::from_secs(180);

    /// One whose successors do what `script` says.
    fn restarter(script: &str) -> Arc<Restarter> {
        let arguments = ["-c".into(), script.into()].into();
        Arc::new(Restarter {
            program: "/bin/sh".into(),
            arguments,
            ..Restarter::new()
        })
    }

    fn end(process: u32) {
        let process = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
        kill_process(process, Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_successor_takes_over_though_whoever_asked_for_it_has_gone() {
        let restarter = restarter("echo ready >&0");
        assert!(restarter.restart().now_or_never().is_none());
        timeout(PATIENT, restarter.succeeded()).await.unwrap();
        let again = restarter.restart().await;
        assert!(matches!(again, Err(RestartError::Busy)), "{again:?}");
        assert!(restarter.let_go().is_some());
    }

    #[tokio::test]
    async fn a_successor_that_is_ready_may_hold_on_to_the_pipe() {
        let restarter = restarter("echo ready >&0; exec sleep 600");
        let successor = restarter.restart().await.unwrap();
        end(successor);
    }

    #[tokio::test]
    async fn a_successor_that_starts_ends_with_who_started_it() {
        // Also where it closes what it would speak through.
        for closes in ["", "<&-"] {
            ends_with_who_started_it(closes).await;
        }
    }

    async fn ends_with_who_started_it(closes: &str) {
        let folder = tempfile::tempdir().unwrap();
        let begun = folder.path().join("begun");
        let restarter = restarter(&format!("> {begun:?}; exec sleep 600 {closes}"));
        let own = restarter.clone();
        let restart = tokio::spawn(async move { own.restart().await });
        let begins = async {
            while !fs::exists(&begun).unwrap() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENT, begins).await.unwrap();
        assert_eq!(restarter.let_go(), None);
        let restarted = restart.await.unwrap();
        assert!(
            matches!(restarted, Err(RestartError::Draining)),
            "{restarted:?}"
        );
    }
}
