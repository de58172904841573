//! What `--help` teaches beside the arguments: examples, and what an exit code means. No line is longer than 78
//! characters, so that it reads well in a narrow terminal.

pub(super) const FIRST_STEPS: &str = "\
First steps:
  See it at work, in a minute:
    overspill demo
  In front of the server that you have, then from the next terminal:
    overspill serve --upstream http://127.0.0.1:3000
    overspill status
  Help for it, on another machine:
    overspill edge --primary https://www.example.com --listen 0.0.0.0:8081
  Before the crowd comes:
    overspill override offload --for 15m

Every command explains itself: overspill COMMAND --help.
Exit codes: 0 done, 1 it could not be done and stderr says why, 2 the
arguments are not understood.";

pub(super) const SERVE: &str = "\
Examples:
  A folder, at http://127.0.0.1:8080:
    overspill serve --site ./public
  In front of a server that is there, for everyone:
    overspill serve --upstream http://127.0.0.1:3000 --listen 0.0.0.0:80
  With offload servers and all else from a file:
    overspill serve --config /etc/overspill.toml

Status, metrics and overrides are at `admin.listen`
(http://127.0.0.1:9901): see `overspill status --help`.
SIGTERM and Ctrl-C drain: what is under way is finished; a second one ends
it at once.
Exit codes: 0 ended as asked, 1 it could not start, and every problem is
told.";

pub(super) const EDGE: &str = "\
Examples:
  A cache for the objects of a site, on any machine:
    overspill edge --primary https://www.example.com --listen 0.0.0.0:8081
  Then, in the configuration of the primary:
    [[offload.servers]]
    name = \"eu\"
    url  = \"https://eu.offload.example\"
    cors = true

`edge.token` and the primary's `offload.token` must be the same.";

pub(super) const DEMO: &str = "\
Examples:
  overspill demo
  overspill demo --fast
  overspill demo --fast --json | jq .

Everything happens on this machine; ports are chosen by the system.";

pub(super) const CHECK: &str = "\
Examples:
  overspill check
  overspill check --config /etc/overspill.toml
  OVERSPILL__LOAD__CPU__OFFLOAD=0.6 overspill check | grep -A3 load.cpu

Exit codes: 0 it is sound, and is printed with secrets hidden; 1 it is not,
and every problem is told with its key.";

pub(super) const EXPLAIN: &str = "\
Examples:
  Which links of a page move, and why the others stay:
    overspill explain public/index.html
    overspill explain https://www.example.com/ --json
  What a running server would do for this client now:
    overspill explain /news/ --client 203.0.113.7
    overspill explain /news/ --client 2001:db8::7 --identity gold-17

Exit codes: 0 explained, 1 the page can't be read, or no server answers.";

pub(super) const CROWD: &str = "\
Examples:
  overspill crowd http://127.0.0.1:8080/
  overspill crowd http://10.0.0.5/ http://10.0.0.5/news/ \\
                  --rate 40 --for 1m --verify
  overspill crowd http://127.0.0.1:8080/ --addresses 127.1.0.0/24 --json
  overspill crowd https://www.example.com/ --i-own-this-site \\
                  --own-host eu.offload.example

Exit codes: 0 the crowd came, whatever became of it; 1 it could not come.";

pub(super) const STATUS: &str = "\
Examples:
  Live, until q, Esc or Ctrl-C (+ and - show less and more of the past):
    overspill status
  One picture, for a mail or a log:
    overspill status --once
  For scripts:
    overspill status --once --json | jq -r .level
    overspill status --json >> status.jsonl
  Of another machine:
    overspill status --admin https://ops.example:9901 --token-file token

Where the output is no terminal one picture is printed, as with --once;
with --json a line each second. When the server goes away the live view
keeps what was known last, says since when, and goes on trying.
Exit codes: 0 shown, 1 no server answers (--once), or the token is wrong.";

pub(super) const OVERRIDE: &str = "\
Examples:
  Before the TV spot:
    overspill override offload --for 15m
  Turn every new visitor away with a page:
    overspill override throttle --for 2m
  Whatever the load says, serve everyone:
    overspill override normal --for 1h
  Let go before the time is over:
    overspill override --release

The longest time is 24h. With it over the load decides again.
Exit codes: 0 it is held, or let go; 1 it is not, and stderr says why.";

pub(super) const RELOAD: &str = "\
Examples:
  overspill check --config /etc/overspill.toml && overspill reload
  overspill reload --admin http://127.0.0.1:9902

The server reads the file that it was started with. What takes effect only
with a restart is named. SIGHUP does the same, and tells the log.
Exit codes: 0 taken over; 1 nothing was: the server goes on with what it
had, and every problem of the file is told.";

pub(super) const RESTART: &str = "\
Examples:
  overspill restart
  overspill restart --admin http://127.0.0.1:9902 --token-file token

The running server starts a successor: the program that is at its place now,
with the same arguments. The successor gets the listening sockets, so no
connection is refused or lost; when it is ready the old process finishes what
is under way, and ends. SIGUSR2 does the same, and tells the log.
Exit codes: 0 a successor serves; 1 there is none: the old process goes on,
and stderr says why.";

pub(super) const DRAIN: &str = "\
Examples:
  overspill drain
  overspill drain --admin http://127.0.0.1:9902 --token-file token

`/readyz` says from then on that it is not ready. SIGTERM does the same.
Exit codes: 0 it drains, 1 it does not, and stderr says why.";

pub(super) const COMPLETIONS: &str = "\
Examples:
  bash, for you:
    overspill completions bash \\
      > ~/.local/share/bash-completion/completions/overspill
  zsh, into a folder of $fpath:
    overspill completions zsh > ~/.zfunc/_overspill
  fish:
    overspill completions fish > ~/.config/fish/completions/overspill.fish
  PowerShell, in $PROFILE:
    overspill completions powershell | Out-String | Invoke-Expression";

pub(super) const MAN: &str = "\
Examples:
  Read it:
    overspill man > overspill.1 && man -l overspill.1
  Install a page for each command:
    overspill man --out /usr/local/share/man/man1";

#[cfg(test)]
mod tests {
    #[test]
    fn every_line_fits_a_terminal_of_80_columns() {
        for text in [
            super::FIRST_STEPS,
            super::SERVE,
            super::EDGE,
            super::DEMO,
            super::CHECK,
            super::EXPLAIN,
            super::CROWD,
            super::STATUS,
            super::OVERRIDE,
            super::RELOAD,
            super::RESTART,
            super::DRAIN,
            super::COMPLETIONS,
            super::MAN,
        ] {
            for line in text.lines() {
                assert!(line.chars().count() <= 78, "{line}");
            }
        }
    }
}
