//! Looks for new files of the certificates.
//!
//! Whoever renews a certificate writes two files, and may be seen between the two. So files that fit are taken at once,
//! and those that do not are only complained about when they stand for a look; what is in use stays in use.

use std::{
    fs::Metadata,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    Certificates, TlsSettings,
    certificate::date,
    certificates::{Kept, Set},
};
use crate::{journal::Event, seldom::Seldom};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Takes new files of `certificates` into use, and tells `tell` of it; until it is given up.
pub(crate) async fn watch(certificates: Certificates, tell: impl Fn(Event) + Send + 'static) {
    watch_by(Looker::look, certificates, tell).await;
}

/// The same; `look` is what is done at each.
async fn watch_by(
    look: impl Fn(&mut Looker, &Kept) -> Option<Event> + Copy + Send + 'static,
    certificates: Certificates,
    tell: impl Fn(Event) + Send + 'static,
) {
    let crashed = Seldom::default();
    let kept = certificates.kept();
    let mut looker = Looker::new(&kept.current());
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looks = kept.clone();
        // The disk may let one wait.
        let looked = tokio::task::spawn_blocking(move || {
            let told = look(&mut looker, &looks);
            (looker, told)
        });
        let (back, told) = match looked.await {
            Ok(looked) => looked,
            Err(crash) if crash.is_panic() => {
                if crashed.is_due() {
                    tracing::error!(%crash, "a look at the certificates has crashed; the next one follows");
                }
                (Looker::new(&kept.current()), None)
            }
            // The runtime ends.
            Err(_) => return,
        };
        looker = back;
        if let Some(told) = told {
            tell(told);
        }
    }
}

/// What a file was like.
type Seen = Option<(Option<SystemTime>, u64, Id)>;

/// What tells a file from another one in its place: device, inode and the time of its last change, which
/// also tells of permissions.
#[cfg(unix)]
type Id = (u64, u64, i64, i64);
#[cfg(not(unix))]
type Id = ();

fn seen(path: &Path) -> Seen {
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok(), file.len(), id(&file)))
}

#[cfg(unix)]
fn id(file: &Metadata) -> Id {
    use std::os::unix::fs::MetadataExt;
    (file.dev(), file.ino(), file.ctime(), file.ctime_nsec())
}

#[cfg(not(unix))]
fn id(_: &Metadata) -> Id {}

/// Knows what the files were like at the last look.
#[derive(Debug)]
pub(super) struct Looker {
    /// Those that name the files.
    settings: Arc<TlsSettings>,
    paths: Vec<PathBuf>,
    seen: Vec<Seen>,
    /// What is wrong with them, until it is told.
    wrong: Option<String>,
    /// Told of one that has ended.
    ended: bool,
}

// === impl Looker ===

impl Looker {
    pub(super) fn new(set: &Set) -> Self {
        let paths = set.settings.pairs("");
        let paths: Vec<PathBuf> = paths
            .flat_map(|(_, certificate, key)| [certificate.to_owned(), key.to_owned()])
            .collect();
        Self {
            // As if they were new: they may have changed since they were read.
            seen: Vec::new(),
            settings: set.settings.clone(),
            paths,
            wrong: None,
            ended: false,
        }
    }

    pub(super) fn look(&mut self, kept: &Kept) -> Option<Event> {
        let current = kept.current();
        if !Arc::ptr_eq(&self.settings, &current.settings) {
            *self = Self::new(&current);
        }
        let seen: Vec<Seen> = self.paths.iter().map(|path| self::seen(path)).collect();
        if seen == self.seen {
            self.watch_end(&current);
            let error = Some(self.wrong.take()?);
            return Some(Event::Certificates {
                names: Vec::new(),
                until: String::new(),
                error,
            });
        }
        let is_first = self.seen.is_empty();
        // What changes from here on shows at the next look.
        self.seen = seen;
        match kept.renew(&current) {
            Ok(set) => {
                self.wrong = None;
                self.ended = false;
                (!is_first).then(|| {
                    set.warn(SystemTime::now());
                    Event::Certificates {
                        names: set.names(),
                        until: set.ends().map(date).unwrap_or_default(),
                        error: None,
                    }
                })
            }
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                self.wrong = Some(problems.join("; "));
                None
            }
        }
    }

    /// Warns once where one has ended that is in use.
    fn watch_end(&mut self, set: &Set) {
        let now = SystemTime::now();
        let ended = set.ends().is_some_and(|ends| ends <= now);
        if ended && !self.ended {
            set.warn(now);
        }
        self.ended = ended;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[tokio::test]
    async fn a_look_that_crashes_is_followed_by_the_next() {
        static LOOKS: AtomicU32 = AtomicU32::new(0);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
        let settings = TlsSettings {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            ..TlsSettings::default()
        };
        let certificates = Certificates::read(&settings, "primary.tls").unwrap();
        let (tell, mut told) = unbounded_channel();
        let look = |_: &mut Looker, _: &Kept| {
            assert_ne!(LOOKS.fetch_add(1, SeqCst), 0, "a crash");
            Some(Event::Certificates {
                names: Vec::new(),
                until: String::new(),
                error: None,
            })
        };
        let watching = tokio::spawn(watch_by(look, certificates, move |event| {
            let _ = tell.send(event);
        }));
        let looked = tokio::time::timeout(LOOK * 180, told.recv()).await;
        assert!(looked.expect("it is looked again").is_some());
        watching.abort();
    }
}
