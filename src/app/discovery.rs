//! Follows the sources of offload servers: what they say becomes the servers that pages link to.

use std::{
    io::Read,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    config,
    offload::{OffloadSettings, Shared},
    servers::{
        Probes, ServerSettings,
        discovery::{Answer, DiscoverySettings, FILE_LIMIT, Records, SourceStatus, Watched, merge},
    },
};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// For how long a file must stay as it is that leaves servers out: whoever writes it may not be done.
const STANDS: Duration = Duration::from_secs(5);

/// The sources, and what they gave last.
pub(super) struct Discovery {
    shared: Weak<Shared>,
    settings: Arc<OffloadSettings>,
    probes: Probes,
    watched: Watched,
    in_file: Vec<ServerSettings>,
    file_error: Option<String>,
    records: Records,
    /// What was left out of the list, said once.
    left_out: Vec<String>,
}

// === impl Discovery ===

impl Discovery {
    /// The file is read before this returns: what it names is there from the start.
    pub(super) fn new(shared: &Arc<Shared>, settings: OffloadSettings, probes: Probes) -> Self {
        let mut discovery = Self {
            shared: Arc::downgrade(shared),
            records: Records::new(settings.discovery.keep),
            settings: Arc::new(settings),
            probes,
            watched: Watched::default(),
            in_file: Vec::new(),
            file_error: None,
            left_out: Vec::new(),
        };
        if let Some(path) = discovery.settings.discovery.file.clone() {
            discovery.look(read(&path));
        }
        discovery.take();
        discovery
    }

    /// Follows the sources for as long as the state lives. `news` tells of a configuration that was read anew; the
    /// sources are the same.
    pub(super) async fn run(mut self, mut news: watch::Receiver<OffloadSettings>) {
        let settings = self.settings.clone();
        let file = &settings.discovery.file;
        let mut looks = ticks(LOOK);
        // A name server that lets us wait must not keep us from the file.
        let (sender, mut answers) = mpsc::channel(1);
        let mut asking = JoinSet::new();
        if settings.discovery.srv.is_some() {
            asking.spawn(ask_again_and_again(settings.discovery.clone(), sender));
        }
        loop {
            tokio::select! {
                _ = looks.tick(), if file.is_some() => {
                    let path = file.clone().unwrap_or_default();
                    let content = tokio::task::spawn_blocking(move || read(&path)).await;
                    if let Ok(content) = content && self.look(content) {
                        self.take();
                    }
                }
                Some(answer) = answers.recv() => {
                    self.records.observe(answer, Instant::now());
                    // Also where nothing changed: the status tells what is wrong with the answer.
                    self.take();
                }
                Ok(()) = news.changed() => {
                    self.settings = Arc::new(news.borrow_and_update().clone());
                    self.take();
                    // Who read it anew may have put the servers in place already: then they are no others here.
                    if let Some(shared) = self.shared.upgrade() {
                        self.probes.follow(shared.snapshot().compiled.servers());
                    }
                }
                else => return,
            }
            if self.shared.strong_count() == 0 {
                return;
            }
        }
    }

    /// Takes in what the file holds; true when something is to be done about it.
    fn look(&mut self, content: Result<Vec<u8>, String>) -> bool {
        let (known, keep) = (&self.in_file, self.settings.discovery.keep);
        let news = self.watched.look(content, Instant::now(), |content| {
            servers_of(content).map_or(Duration::ZERO, |servers| hold(known, &servers, keep))
        });
        let Some(news) = news else {
            return false;
        };
        match servers_of(news) {
            Ok(servers) => {
                tracing::info!(servers = servers.len(), "`offload.discovery.file` was read");
                self.in_file = servers;
                self.file_error = None;
            }
            Err(reason) => {
                let kept = self.in_file.len();
                tracing::error!(
                    reason,
                    kept,
                    "`offload.discovery.file` can't be used: what was known from it stays"
                );
                self.file_error = Some(reason);
            }
        }
        true
    }

    /// Makes what the sources gave the servers.
    fn take(&mut self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let discovery = &self.settings.discovery;
        let records: Vec<_> = self
            .records
            .iter()
            .map(|record| {
                let server = discovery.server(&record);
                (record, server)
            })
            .collect();
        let (found, left_out) = merge(&self.settings.servers, &self.in_file, &records);
        if left_out != self.left_out {
            for server in left_out.iter().take(10) {
                tracing::warn!(server, "an offload server that was found is left out");
            }
            if left_out.len() > 10 {
                tracing::warn!(more = left_out.len() - 10, "others are left out, too");
            }
            self.left_out = left_out;
        }
        if let Some(servers) = shared.replace_servers(&self.settings, &found, Instant::now()) {
            self.probes.follow(&servers);
        }
        shared.discovered(self.status(records.len()));
    }

    fn status(&self, records: usize) -> Vec<SourceStatus> {
        let discovery = &self.settings.discovery;
        let file = discovery.file.as_ref().map(|path| SourceStatus {
            source: "file",
            what: path.display().to_string(),
            servers: self.in_file.len(),
            error: self.file_error.clone(),
        });
        let srv = discovery.srv.as_ref().map(|name| SourceStatus {
            source: "srv",
            what: name.clone(),
            servers: records,
            error: self.records.error().map(str::to_owned),
        });
        file.into_iter().chain(srv).collect()
    }
}

fn servers_of(content: &Result<Vec<u8>, String>) -> Result<Vec<ServerSettings>, String> {
    let content = content.as_deref().map_err(Clone::clone)?;
    let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?;
    config::servers_in(text).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        problems.join("; ")
    })
}

/// How long a file has to stay as it is that names these `servers` in place of those that are `known`.
fn hold(known: &[ServerSettings], servers: &[ServerSettings], keep: Duration) -> Duration {
    let is_named = |one: &ServerSettings| servers.iter().any(|server| server.name == one.name);
    let gone = known.iter().filter(|one| !is_named(one)).count();
    let hold = match gone {
        0 => return Duration::ZERO,
        _ if servers.is_empty() => keep,
        _ => keep.min(STANDS),
    };
    tracing::info!(
        gone,
        ?hold,
        "`offload.discovery.file` leaves servers out: they go once it has stayed so"
    );
    hold
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    // To open a pipe would be to wait for whoever writes to it.
    let kind = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !kind.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut content = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut content))
        .map_err(|error| error.to_string())?;
    if content.len() as u64 > FILE_LIMIT {
        return Err(format!("it is longer than {FILE_LIMIT} bytes"));
    }
    Ok(content)
}

#[cfg(feature = "srv")]
type Asked = Result<crate::servers::discovery::NameServer, String>;
#[cfg(not(feature = "srv"))]
type Asked = std::convert::Infallible;

#[cfg(feature = "srv")]
fn name_server(settings: &DiscoverySettings) -> Option<Asked> {
    let name = settings.srv.as_ref()?;
    Some(crate::servers::discovery::NameServer::new(
        settings.name_server,
        name,
    ))
}

#[cfg(not(feature = "srv"))]
fn name_server(_: &DiscoverySettings) -> Option<Asked> {
    None
}

async fn ask_again_and_again(settings: DiscoverySettings, answers: mpsc::Sender<Answer>) {
    let name_server = name_server(&settings);
    let mut questions = ticks(settings.every);
    loop {
        questions.tick().await;
        if answers.send(ask(name_server.as_ref()).await).await.is_err() {
            return;
        }
    }
}

async fn ask(name_server: Option<&Asked>) -> Answer {
    match name_server {
        #[cfg(feature = "srv")]
        Some(Ok(name_server)) => name_server.ask().await,
        #[cfg(feature = "srv")]
        Some(Err(reason)) => Answer::Failed(reason.clone()),
        #[cfg(not(feature = "srv"))]
        Some(never) => match *never {},
        None => Answer::Empty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<ServerSettings> {
        let server = |name: &&str| ServerSettings {
            name: (*name).to_owned(),
            ..ServerSettings::default()
        };
        names.iter().map(server).collect()
    }

    #[test]
    fn who_is_left_out_stays_for_some_looks_and_all_for_longer() {
        let keep = Duration::from_secs(60);
        let known = named(&["a", "b"]);
        for (servers, keep, expected) in [
            (&["b", "a", "c"][..], keep, Duration::ZERO),
            (&["b", "c"], keep, STANDS),
            (&[], keep, keep),
            (&["b"], Duration::from_secs(1), Duration::from_secs(1)),
            (&[], Duration::ZERO, Duration::ZERO),
        ] {
            assert_eq!(hold(&known, &named(servers), keep), expected, "{servers:?}");
        }
    }
}
