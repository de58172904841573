//! Other people's programs that tests start: nginx, chromedriver. Each ends with its handle.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::wait::PATIENCE;

/// A program that is ended, by its process alone, when this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `command`; gives the lines that it writes to the stream that `output` takes out.
pub(crate) fn start<R: Read + Send + 'static>(
    command: &mut Command,
    output: impl FnOnce(&mut Child) -> Option<R>,
) -> (Running, Receiver<String>) {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("can't start {command:?}: {error}"));
    let (send, lines) = mpsc::channel();
    let output = output(&mut child).expect("the stream is a pipe");
    // Reads on when nobody listens any more: a full pipe would stop the program.
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    (Running(child), lines)
}

/// Waits for the first line of which `find` makes something; the lines that there were, where the program
/// ends without one.
pub(crate) fn wait_for<T>(
    lines: &Receiver<String>,
    find: impl Fn(&str) -> Option<T>,
) -> Result<T, String> {
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => match find(&line) {
                Some(found) => return Ok(found),
                None => seen.push(line),
            },
            Err(RecvTimeoutError::Disconnected) => return Err(seen.join("\n")),
            Err(RecvTimeoutError::Timeout) => {
                panic!("no such line; until now:\n{}", seen.join("\n"))
            }
        }
    }
}

/// A real nginx.
#[derive(Debug)]
pub(crate) struct Nginx {
    /// Where it is, such as `http://127.0.0.1:40124`.
    pub(crate) url: String,
    _running: Running,
    folder: tempfile::TempDir,
}

impl Nginx {
    /// Serves the files of `root` to pages of other origins.
    pub(crate) fn start(root: &Path) -> Self {
        let root = root.display();
        Self::configured(
            "",
            &format!("root {root}; add_header Access-Control-Allow-Origin *;"),
        )
    }

    /// With these lines in its `http` and its `server`. Relative paths are below a folder of its own.
    pub(crate) fn configured(http: &str, server: &str) -> Self {
        // A port that is free now may be taken a moment later, by a test beside this one.
        (0..5)
            .find_map(|_| Self::try_start(http, server))
            .expect("a free port")
    }

    /// A line for each request that was answered.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap()
    }

    fn try_start(http: &str, server: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let file = folder.path().join("nginx.conf");
        let lines = configuration(address, http, server, folder.path());
        fs::write(&file, lines).unwrap();
        let mut command = Command::new(program("nginx"));
        command.arg("-p").arg(folder.path()).arg("-c").arg(&file);
        let (mut running, _) = start(command.stderr(Stdio::piped()), |child| child.stderr.take());
        // Only then the port is its own: until it gives up, another may answer there.
        let has_it = || folder.path().join("nginx.pid").exists();
        running.listens(address, has_it).then(|| Self {
            url: format!("http://{address}"),
            _running: running,
            folder,
        })
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Running {
    /// Waits until it has the port and takes connections; false where it ended instead.
    fn listens(&mut self, address: SocketAddr, has_it: impl Fn() -> bool) -> bool {
        loop {
            if self.0.try_wait().unwrap().is_some() {
                return false;
            }
            if has_it() && TcpStream::connect(address).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// One process in the foreground, that writes into its own folder alone.
fn configuration(address: SocketAddr, http: &str, server: &str, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    include /etc/nginx/mime.types;
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
    server {{
        listen {address};
        {server}
    }}
}}
"#
    )
}

/// Servers are in folders that are not on everybody's path.
pub(crate) fn program(name: &str) -> PathBuf {
    let system = Path::new("/usr/sbin").join(name);
    if system.exists() { system } else { name.into() }
}
