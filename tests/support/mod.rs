//! What the end-to-end tests share: the program as a process, the servers around it, and clients by hand.
//!
//! | module | gives |
//! |---|---|
//! | `program` | the built program with a configuration of its own, killed when its handle goes |
//! | `config` | that configuration: quiet defaults, and the lines that a test is about |
//! | `upstream` | a server to stand in front of, whose `/hold` answers when it is told to |
//! | `offload_server` | an offload server that says of its load what the test wants, and notes who came |
//! | `admin_server` | an admin listener that says what the test wants |
//! | `address` | addresses for programs that others have to know before they are there |
//! | `handing` | the program with sockets that were there before it, and successors that end with the test
//! | `broken_server` | offload servers that refuse, answer 503 or hang |
//! | `client` | requests from any address of 127.0.0.0/8, and answers down to "not a byte" |
//! | `caches` | other people's caches, with the files that make offload servers of them |
//! | `curl` | the real one |
//! | `manuals` | where Debian puts documentation: thousands of real pages |
//! | `network` | hosts of their own, with links of a set speed |
//! | `dns` | a name server |
//! | `frames` | the server's side of HTTP/2, frame by frame |
//! | `process` | other people's programs: nginx, chromedriver |
//! | `tls` | certificates made by openssl, and a TLS client by hand |
//! | `web` | an HTTP client that takes answers as they come |
//! | `webdriver` | a real browser |
//! | `wait` | waiting for a condition: nothing here sleeps and hopes |

pub(crate) mod address;
pub(crate) mod admin_server;
pub(crate) mod broken_server;
pub(crate) mod caches;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod curl;
pub(crate) mod dns;
pub(crate) mod frames;
pub(crate) mod handing;
pub(crate) mod manuals;
pub(crate) mod network;
pub(crate) mod offload_server;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod raw;
pub(crate) mod tls;
pub(crate) mod upstream;
pub(crate) mod wait;
pub(crate) mod web;
pub(crate) mod webdriver;

use std::{fs, path::Path};

use tempfile::TempDir;

/// A folder with these files, which goes away with its handle.
pub(crate) fn folder<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        write(folder.path(), path, content);
    }
    folder
}

/// A page with a picture.
pub(crate) fn small_site() -> TempDir {
    folder([
        ("index.html", b"<title>x</title><img src=/a.png>".as_slice()),
        ("a.png", b"png"),
    ])
}

/// Writes a file at `path` below `root`.
pub(crate) fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}
