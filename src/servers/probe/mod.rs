//! Asks the offload servers how they are: one task for every question to every server.
//!
//! The first question is asked at once. An answer may take as long as the time between two questions, and
//! 5 s at most. After a bad answer about its health a server is asked again soon. Tasks end when the returned handle is dropped, or their server is no longer among those that it
//! follows.

mod ask;
mod load;

pub(super) use self::{
    ask::{connector, root_cause},
    load::authorization,
};

use std::{sync::Arc, time::Duration};

use http::{StatusCode, Uri};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use self::{ask::HttpClient, load::Question};
use super::{
    health::Answer,
    server::{Server, Servers},
    settings::HealthSettings,
};

/// The longest that an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// So many times as soon is a server asked again that is well as far as is known, and gave a bad answer. Pages go on
/// naming it until it is known to be ill, and that takes several of them.
const SOONER: u32 = 8;
/// How often the servers' names are looked up again.
const LOOK_UP: Duration = Duration::from_secs(60);

/// The probes of all servers; dropping it ends them.
#[derive(Debug)]
pub struct Probes {
    token: String,
    client: Option<HttpClient>,
    tasks: Vec<(Arc<Server>, JoinSet<()>)>,
}

// === impl Probes ===

impl Probes {
    /// Starts asking. `token` is shown with every question for an ORCA report. Must be called within a Tokio
    /// runtime.
    #[must_use]
    pub fn start(servers: &Servers, token: &str) -> Self {
        let mut probes = Self {
            token: token.to_owned(),
            client: None,
            tasks: Vec::new(),
        };
        probes.follow(servers);
        probes
    }

    /// Asks these servers from now on: those that are new, beside those of them that are asked already.
    pub fn follow(&mut self, servers: &Servers) {
        let is_in = |known: &Arc<Server>| servers.iter().any(|server| Arc::ptr_eq(server, known));
        self.tasks.retain(|(server, _)| is_in(server));
        let is_asked = |server: &Arc<Server>| {
            let mut asked = self.tasks.iter();
            asked.any(|(known, _)| Arc::ptr_eq(server, known))
        };
        let new: Vec<_> = servers.iter().filter(|server| !is_asked(server)).collect();
        if new.is_empty() {
            return;
        }
        let client = match self.client.take().map_or_else(HttpClient::new, Ok) {
            Ok(client) => &*self.client.insert(client),
            Err(error) => {
                // Nobody is asked, so every server stays "not yet probed", and this says why.
                tracing::error!(%error, "no certificate authorities: offload servers can't be asked");
                return;
            }
        };
        for server in new {
            let tasks = ask(server, client, &self.token);
            self.tasks.push((server.clone(), tasks));
        }
    }
}

/// Every question to one server.
fn ask(server: &Arc<Server>, client: &HttpClient, token: &str) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let HealthSettings::Probe(health) = &server.settings().health {
        // A prefix keeps its path: `https://cdn.example/site` is asked for `/site` + `health.path`.
        let url = format!(
            "{}{}",
            server.url().as_str().trim_end_matches('/'),
            health.path
        );
        if let Ok(uri) = url.parse::<Uri>() {
            tasks.spawn(ask_for_health(
                client.clone(),
                server.clone(),
                uri,
                health.every,
            ));
        }
    }
    if let Some(question) = Question::of(server, token) {
        tasks.spawn(question.ask(client.clone(), server.clone()));
    }
    tasks.spawn(look_up(server.clone()));
    tasks
}

/// Asks every `every`; a late question is not made up for.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn ask_for_health(client: HttpClient, server: Arc<Server>, uri: Uri, every: Duration) {
    let mut ticks = ticks(every);
    let patience = every.clamp(Duration::from_millis(500), PATIENCE);
    loop {
        ticks.tick().await;
        let asked = timeout(patience, client.get(&uri, None)).await;
        server.observe_health(match asked {
            Ok(Ok(response)) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Answer::Busy
            }
            Ok(Ok(response)) if response.status() == StatusCode::MISDIRECTED_REQUEST => {
                Answer::Bad(format!(
                    "it answered {}: it does not go by the name in its URL",
                    response.status()
                ))
            }
            Ok(Ok(response)) if response.status().as_u16() < 500 => Answer::Good,
            Ok(Ok(response)) => Answer::Bad(format!("it answered {}", response.status())),
            Ok(Err(reason)) => Answer::Bad(reason),
            Err(_) => Answer::Bad(format!("no answer within {patience:?}")),
        });
        if server.is_in_doubt() {
            ticks.reset_after(every / SOONER);
        }
    }
}

async fn look_up(server: Arc<Server>) {
    let mut ticks = ticks(LOOK_UP);
    loop {
        ticks.tick().await;
        let addresses = match server.url().host() {
            Some(url::Host::Ipv4(address)) => vec![address.into()],
            Some(url::Host::Ipv6(address)) => vec![address.into()],
            Some(url::Host::Domain(name)) => match tokio::net::lookup_host((name, 0)).await {
                Ok(found) => found.map(|address| address.ip()).collect(),
                // Keep what was known: a name server that fails has not moved anybody.
                Err(_) => continue,
            },
            None => return,
        };
        server.observe_addresses(addresses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::settings::HealthProbe;

    /// Killed right after a good answer: the first bad one comes with the next question, the others soon.
    #[test]
    fn who_is_killed_is_known_to_be_ill_within_3_s() {
        let HealthProbe {
            every, failures, ..
        } = HealthProbe::default();
        let ill = every + every / SOONER * (failures - 1);
        // The control loop has to see it, too.
        assert!(ill <= Duration::from_millis(2_500), "{ill:?}");
    }
}
