//! Other people's caches, with the files in `config/` that make offload servers of them.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use super::{
    address::own_address,
    process::{Running, program, start},
};

/// What the files say where everyone has something of their own.
const TOKEN: &str = "a long secret";

/// A cache in front of a primary; it ends with its handle.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) address: SocketAddr,
    _running: Running,
    _folder: TempDir,
}

impl Cache {
    /// nginx with `config/nginx-offload.conf`.
    pub(crate) fn nginx(primary: SocketAddr, token: &str) -> Self {
        Self::nginx_with(primary, token, &[])
    }

    /// The same with `changes` to the file.
    pub(crate) fn nginx_with(primary: SocketAddr, token: &str, changes: &[(&str, &str)]) -> Self {
        Self::start(|address, folder| {
            let ready = changed(
                include_str!("../../config/nginx-offload.conf"),
                &[
                    ("server 127.0.0.1:8080;", &format!("server {primary};")),
                    ("listen 8081;", &format!("listen {address};")),
                    (
                        "/var/cache/nginx/overspill",
                        &format!("{}/cache", folder.display()),
                    ),
                    (TOKEN, token),
                ],
            );
            fs::write(folder.join("offload.conf"), changed(&ready, changes)).unwrap();
            let file = folder.join("nginx.conf");
            let folder = folder.display();
            let around = format!(
                "daemon off; master_process off; pid {folder}/pid; error_log stderr;\n\
                 events {{ worker_connections 512; }}\n\
                 http {{ access_log off; include /etc/nginx/mime.types; proxy_temp_path {folder}/proxy;\n\
                 client_body_temp_path {folder}/body; fastcgi_temp_path {folder}/fastcgi;\n\
                 uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
                 include {folder}/offload.conf; }}\n"
            );
            fs::write(&file, around).unwrap();
            let mut command = Command::new(program("nginx"));
            command
                .arg("-p")
                .arg(format!("{folder}"))
                .arg("-c")
                .arg(file);
            command
        })
    }

    /// Varnish with `config/varnish-offload.vcl`.
    pub(crate) fn varnish(primary: SocketAddr, token: &str) -> Self {
        Self::start(|address, folder| {
            let ready = changed(
                include_str!("../../config/varnish-offload.vcl"),
                &[
                    (
                        ".host = \"127.0.0.1\";",
                        &format!(".host = \"{}\";", primary.ip()),
                    ),
                    (
                        ".port = \"8080\";",
                        &format!(".port = \"{}\";", primary.port()),
                    ),
                    (TOKEN, token),
                ],
            );
            let file = folder.join("offload.vcl");
            fs::write(&file, ready).unwrap();
            let mut command = Command::new(program("varnishd"));
            // Without a jail it runs as whoever runs the tests.
            command.args(["-j", "none", "-F", "-s", "malloc,64m", "-a"]);
            command.arg(address.to_string()).arg("-f").arg(file);
            command.arg("-n").arg(folder.join("work"));
            command
        })
    }

    /// Starts what `command` makes for an address of its own and a folder, and waits until it listens.
    pub(crate) fn start(command: impl Fn(SocketAddr, &Path) -> Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = own_address();
        let mut command = command(address, folder.path());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let (mut running, said) = start(&mut command, |child| child.stderr.take());
        while TcpStream::connect(address).is_err() {
            if running.has_ended() {
                let said: Vec<_> = said.iter().collect();
                panic!("{command:?} ended:\n{}", said.join("\n"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Self {
            address,
            _running: running,
            _folder: folder,
        }
    }

    /// What its links begin with.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// `text` with each of the values in its place; a line that must be changed has to be there.
fn changed(text: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}
