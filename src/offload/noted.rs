//! Which of the control loop's changes are worth a line.
//!
//! A share moves with every step, and a server that is full takes work again a moment later: a line for each would
//! hide what matters. So a change is told when it is large enough, and not again for a while; what counts is the
//! difference to what was told last, so that nothing is missed for good.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    journal::Event,
    servers::{Server, ServerState, Servers},
    units::Ratio,
};

/// The share is told when it has moved so far.
const STEP: f64 = 0.10;
/// And at most so often.
const SHARE_EVERY: Duration = Duration::from_secs(1);
/// That a server is full, or no longer full, is told at most so often of each.
const FULL_EVERY: Duration = Duration::from_secs(10);

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Noted {
    share: Ratio,
    share_at: Option<Instant>,
    /// In the order of the servers.
    servers: Vec<NotedServer>,
    events: Vec<Event>,
}

#[derive(Debug)]
struct NotedServer {
    server: Arc<Server>,
    takes: bool,
    /// It takes none, but will as soon as it is less busy.
    is_there: bool,
    is_ill: bool,
    at: Option<Instant>,
}

// === impl Noted ===

impl Noted {
    /// Whatever is always worth a line.
    pub(super) fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// What is to be told.
    pub(super) fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The share as of now, and how many times its first threshold the load is.
    pub(super) fn share(&mut self, share: Ratio, load: f64, now: Instant) {
        let (from, to) = (self.share.get(), share.get());
        let reached = from != to && (to == 0.0 || to == 1.0);
        let is_due = self
            .share_at
            .is_none_or(|at| now.saturating_duration_since(at) >= SHARE_EVERY);
        if is_due && (reached || (to - from).abs() >= STEP) {
            self.event(Event::Share { from, to, load });
            (self.share, self.share_at) = (share, Some(now));
        }
    }

    /// The servers as of now.
    pub(super) fn servers(&mut self, servers: &Servers, states: &[ServerState], now: Instant) {
        let is_same = self.servers.len() == servers.len()
            && std::iter::zip(&self.servers, servers.iter())
                .all(|(noted, server)| Arc::ptr_eq(&noted.server, server));
        if !is_same {
            self.follow(servers);
        }
        for (noted, state) in self.servers.iter_mut().zip(states) {
            self.events.extend(noted.observe(state, now));
        }
    }

    /// Goes on with other servers: of those that stay it is known what was told.
    fn follow(&mut self, servers: &Servers) {
        let mut known = std::mem::take(&mut self.servers);
        let noted = |server: &Arc<Server>| {
            let position = known
                .iter()
                .position(|noted| noted.server.name() == server.name());
            let known = position.map(|position| known.swap_remove(position));
            NotedServer {
                server: server.clone(),
                takes: known.as_ref().is_some_and(|known| known.takes),
                is_there: known.as_ref().is_some_and(|known| known.is_there),
                is_ill: known.as_ref().is_some_and(|known| known.is_ill),
                at: known.and_then(|known| known.at),
            }
        };
        self.servers = servers.iter().map(noted).collect();
    }
}

// === impl NotedServer ===

impl NotedServer {
    fn observe(&mut self, state: &ServerState, now: Instant) -> Option<Event> {
        let is_ill = state.health == "ill";
        let why_not = (is_ill, state.is_there);
        let is_other =
            state.takes != self.takes || (!state.takes && why_not != (self.is_ill, self.is_there));
        // It only is busy, or only was.
        let is_fullness = state.is_there && self.is_there;
        let is_due = self
            .at
            .is_none_or(|at| now.saturating_duration_since(at) >= FULL_EVERY);
        if !is_other || (is_fullness && !is_due) {
            return None;
        }
        *self = Self {
            server: self.server.clone(),
            takes: state.takes,
            is_there: state.is_there,
            is_ill,
            at: Some(now),
        };
        Some(Event::Server {
            server: self.server.name().to_owned(),
            usable: state.takes,
            reason: state.reason.clone(),
            load: state.load,
            threshold: self.server.settings().threshold.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::ServerSettings;

    fn ratio(value: f64) -> Ratio {
        Ratio::new(value).unwrap()
    }

    #[test]
    fn a_share_is_told_by_tenths_and_not_all_the_time() {
        let (mut noted, start) = (Noted::default(), Instant::now());
        let mut told = Vec::new();
        for (millis, share) in [
            (0, 0.25),
            (250, 0.40),
            (500, 0.45),
            (1_000, 0.50),
            (2_000, 0.55),
            (3_000, 0.59),
            (4_000, 0.02),
            (5_000, 0.0),
        ] {
            noted.share(ratio(share), 1.0, start + Duration::from_millis(millis));
            told.extend(noted.take().into_iter().map(|event| match event {
                Event::Share { from, to, .. } => (from, to),
                other => panic!("{other:?}"),
            }));
        }
        assert_eq!(told, [(0.0, 0.25), (0.25, 0.5), (0.5, 0.02), (0.02, 0.0)]);
    }

    #[test]
    fn a_server_that_dies_is_told_at_once_and_one_that_is_full_now_and_then() {
        let (mut noted, start) = (Noted::default(), Instant::now());
        let settings = ServerSettings {
            name: "eu".to_owned(),
            ..ServerSettings::default()
        };
        let url = url::Url::parse("http://127.0.0.1:9").unwrap();
        let server = Arc::new(Server::new(settings, url, start));
        let unknown = server.state(start, std::time::SystemTime::UNIX_EPOCH);
        let servers: Servers = vec![server].into();
        let well = |takes| ServerState {
            takes,
            is_there: true,
            health: "well",
            ..unknown.clone()
        };
        let ill = ServerState {
            takes: false,
            is_there: false,
            health: "ill",
            ..unknown.clone()
        };
        let mut told = |millis: u64, state: &ServerState| {
            let now = start + Duration::from_millis(millis);
            noted.servers(&servers, std::slice::from_ref(state), now);
            let told = noted.take().into_iter().map(|event| match event {
                Event::Server { usable, .. } => usable,
                other => panic!("{other:?}"),
            });
            told.collect::<Vec<bool>>()
        };
        assert!(told(0, &unknown).is_empty());
        assert_eq!(told(250, &well(true)), [true]);
        assert!(told(500, &well(false)).is_empty(), "full, a moment later");
        assert!(told(750, &well(true)).is_empty());
        assert_eq!(told(11_000, &well(false)), [false], "still full");
        assert_eq!(told(11_250, &ill), [false], "ill, whatever was told before");
        assert!(told(11_500, &ill).is_empty());
        assert_eq!(told(12_000, &well(true)), [true], "back");
    }
}
