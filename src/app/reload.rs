//! The configuration, read anew while the process runs.
//!
//! All that can change changes at once, or nothing does: the new configuration is checked as a whole before anything is
//! touched, and requests go by one snapshot, the old or the new. What is known of servers, the level, what visitors
//! were told and the averages of the load go on. Where `overspill serve` serves, that changes too, for connections that
//! come. What is bound to the process (listeners, the administrator's, secrets that other parts hold) waits for the next
//! start, and is named.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use serde_json::Value;

use super::Overspill;
use crate::{
    config::{ConfigError, Settings},
    journal::Event,
    problem::Problem,
};

/// What a reload has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// The keys that have other values now.
    pub changed: Vec<String>,
    /// The keys whose new values wait for the next start.
    pub restart_needed: Vec<String>,
}

/// Builds all that the second settings have otherwise than the first, and gives what puts it in its place.
pub(super) type Prepare =
    dyn Fn(&Settings, &Settings) -> Result<Box<dyn FnOnce() + Send>, Vec<Problem>> + Send + Sync;
type Read = dyn Fn() -> Result<Settings, ConfigError> + Send + Sync;

/// Reads a configuration again and gives it to an [`Overspill`].
pub struct Reloader {
    overspill: Overspill,
    read: Box<Read>,
    serves: Option<Box<Prepare>>,
    /// One at a time.
    busy: Mutex<()>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}

// === impl Reloader ===

impl Reloader {
    /// `read` gives the configuration as it is then.
    pub fn new(
        overspill: Overspill,
        read: impl Fn() -> Result<Settings, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            overspill,
            read: Box::new(read),
            serves: None,
            busy: Mutex::default(),
        }
    }

    /// Changes what is served, too.
    #[cfg(feature = "server")]
    #[must_use]
    pub fn serving(mut self, renewals: super::Renewals) -> Self {
        self.serves = Some(Box::new(move |old, new| renewals.prepare(old, new)));
        self
    }

    /// Reads and applies. May wait for the disk.
    ///
    /// # Errors
    /// Every problem of the configuration: then all stays as it was.
    pub fn reload(&self) -> Result<Reloaded, ConfigError> {
        let _alone = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(feature = "server")]
        let _told = crate::handover::reloading();
        let reloaded = (self.read)()
            .and_then(|settings| self.overspill.reload_with(settings, self.serves.as_deref()));
        if let Err(error) = &reloaded {
            let event = Event::Reload {
                changed: Vec::new(),
                restart_needed: Vec::new(),
                error: Some(error.to_string()),
            };
            let journal = &self.overspill.shared().journal;
            journal.record(event, SystemTime::now());
        }
        reloaded
    }
}

/// The new settings as far as a running process can take them; `serves`: with what it serves.
pub(super) fn applicable(old: &Settings, new: &Settings, serves: bool) -> Settings {
    let mut settings = new.clone();
    let (primary, kept) = (&mut settings.primary, &old.primary);
    primary.listen = kept.listen;
    match (&mut primary.tls, &kept.tls) {
        (Some(tls), Some(kept)) if serves => {
            if tls.redirect.is_none() {
                // It goes on until the restart, to where it has sent visitors until now.
                tls.redirect_port = kept.redirect_port;
            }
            tls.redirect = kept.redirect;
            if tls.redirect.is_none() {
                tls.redirect_port = None;
            }
        }
        // What is spoken at an address stays. (The files that it names are looked at all the time.)
        (tls, kept) => tls.clone_from(kept),
    }
    if !serves {
        primary.site.clone_from(&kept.site);
        primary.upstream.clone_from(&kept.upstream);
        primary.proxy = kept.proxy;
        primary.limits = kept.limits;
        primary.files.clone_from(&kept.files);
        primary.trusted_proxies.clone_from(&kept.trusted_proxies);
        settings.access_log.clone_from(&old.access_log);
    }
    settings.load.interval = old.load.interval;
    settings.load.smoothing = old.load.smoothing;
    // The probes, the stay cookies and whoever warms edges up know it.
    settings.offload.token.clone_from(&old.offload.token);
    settings.offload.discovery = old.offload.discovery.clone();
    // They are counted by their positions.
    settings.throttle.classes.clone_from(&old.throttle.classes);
    settings.edge.clone_from(&old.edge);
    settings.admin = old.admin.clone();
    settings
}

/// The keys whose values differ; of a list the list.
pub(super) fn differences(old: &Settings, new: &Settings) -> Vec<String> {
    let tree = |settings: &Settings| serde_json::to_value(settings).unwrap_or_default();
    let mut keys = Vec::new();
    differ("", &tree(old), &tree(new), &mut keys);
    keys
}

fn differ(path: &str, old: &Value, new: &Value, keys: &mut Vec<String>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        if old != new {
            keys.push(path.to_owned());
        }
        return;
    };
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let path = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        let of = |table: &serde_json::Map<String, Value>| table.get(name).cloned();
        let (before, after) = (of(before), of(after));
        differ(
            &path,
            &before.unwrap_or_default(),
            &after.unwrap_or_default(),
            keys,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::from_toml(text).unwrap()
    }

    #[test]
    fn keys_that_differ_are_named() {
        let old = settings("mode = \"report\"\noffload.hold = \"30s\"");
        let new = settings(
            "offload.hold = \"1m\"\noffload.servers = [{ name = \"eu\", url = \"http://eu.example\" }]\n\
             throttle.retry_after = \"20s\"",
        );
        let keys = [
            "mode",
            "offload.hold",
            "offload.servers",
            "throttle.retry_after",
        ];
        assert_eq!(differences(&old, &new), keys);
        assert!(differences(&new, &new).is_empty());
    }

    #[test]
    fn what_is_bound_to_the_process_stays() {
        let old = settings("primary.listen = \"127.0.0.1:1\"");
        let new = settings(
            "primary.listen = \"127.0.0.1:2\"\nprimary.hosts = [\"a.example\"]\nadmin.token = \"x\"\n\
             offload.token = \"secret\"\nload.release = 0.1",
        );
        let applied = applicable(&old, &new, false);
        assert_eq!(
            differences(&old, &applied),
            ["load.release", "primary.hosts"]
        );
        assert_eq!(
            differences(&applied, &new),
            ["admin.token", "offload.token", "primary.listen"]
        );
    }

    #[test]
    fn what_is_served_changes_where_somebody_serves_it_and_addresses_stay() {
        let tls = "primary.tls.certificate = \"a.pem\"\nprimary.tls.key = \"a.key\"\n";
        let old = settings(tls);
        let lines = "primary.tls.redirect = \"127.0.0.1:1\"\nprimary.tls.redirect_port = 2\n\
                     primary.tls.hsts = \"1h\"\nprimary.limits.requests = 3\nprimary.trusted_proxies = [\"10.0.0.0/8\"]";
        let new = settings(&format!("{tls}{lines}"));
        let applied = applicable(&old, &new, false);
        assert!(differences(&old, &applied).is_empty());
        let applied = applicable(&old, &new, true);
        assert_eq!(
            differences(&old, &applied),
            [
                "primary.limits.requests",
                "primary.tls.hsts",
                "primary.trusted_proxies"
            ]
        );
        assert_eq!(
            differences(&applied, &new),
            ["primary.tls.redirect", "primary.tls.redirect_port"]
        );
        // A redirect that is taken away goes on until the restart, to the port that it named.
        let removed = applicable(&new, &old, true);
        let kept = removed.primary.tls.expect("there is TLS in both");
        assert_eq!(kept.redirect_port.map(u16::from), Some(2));
        assert_eq!(kept.redirect, new.primary.tls.as_ref().unwrap().redirect);
        // Whether it is TLS that is spoken at an address is not changed under those who come to it.
        let plain = applicable(&old, &settings(""), true);
        assert_eq!(differences(&old, &plain), Vec::<String>::new());
    }
}
