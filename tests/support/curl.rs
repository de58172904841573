//! The real curl: what visitors' programs make of the answers.

use std::process::Stdio;

use tokio::process::Command;

use super::wait::soon;

/// What curl said.
#[derive(Debug)]
pub(crate) struct Curl {
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// Head and body, as with `-i`.
    pub(crate) stdout: String,
    /// Its complaint.
    #[allow(dead_code, reason = "to be seen where a test fails")]
    pub(crate) stderr: String,
}

/// Runs curl.
pub(crate) async fn curl(arguments: &[&str]) -> Curl {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--include", "--noproxy", "*"])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = soon("curl ends", command.output())
        .await
        .expect("curl is installed");
    Curl {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
