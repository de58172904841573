//! The thread that writes: lines come through a queue, and go out many at a time.
//!
//! Nobody wakes it: it looks twenty times a second, since to wake a thread costs a request more than all else of its line.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::sync::mpsc::Receiver;

use super::{
    Inner, LINES,
    entry::Entry,
    line::Lines,
    settings::{AccessSettings, Target},
};
use crate::seldom::Seldom;

const PAUSE: Duration = Duration::from_millis(50);
/// What is written at once, in bytes: enough to make the call cheap.
const BATCH: usize = 64 * 1024;
/// After so many it is looked whether there is something else to do.
const ROUND: usize = 1024;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Sink {
    Nowhere,
    Stderr(io::Stderr),
    File { file: File, path: PathBuf },
}

/// Writes what comes through the queue.
pub(super) struct Writer {
    queue: Receiver<(u64, Box<Entry>)>,
    inner: Arc<Inner>,
    sink: Sink,
    lines: Lines,
    /// Lines that are not out yet, and how many.
    buffer: Vec<u8>,
    count: u64,
    /// The last line went out in part.
    is_torn: bool,
    /// The changes that it goes by.
    changed: u64,
    said: Seldom,
}

// === impl Sink ===

impl Sink {
    /// Opens it.
    ///
    /// # Errors
    /// The file can't be opened, or is no file.
    pub(super) fn open(settings: &AccessSettings) -> io::Result<Self> {
        Ok(match settings.target() {
            Target::Nowhere => Self::Nowhere,
            Target::Stderr => Self::Stderr(io::stderr()),
            Target::File(path) => Self::File {
                file: append(path)?,
                path: path.to_path_buf(),
            },
        })
    }

    /// Writes as much as goes in one call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Nowhere => Ok(bytes.len()),
            Self::Stderr(stderr) => stderr.write(bytes),
            Self::File { file, .. } => file.write(bytes),
        }
    }
}

/// Opens a file, so that several processes can add whole lines to it.
fn append(path: &Path) -> io::Result<File> {
    // A pipe without a reader would be waited for.
    if let Ok(kind) = path.metadata().map(|metadata| metadata.file_type())
        && !kind.is_file()
        && !is_device(kind)
    {
        return Err(io::Error::other("it is no file"));
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}

#[cfg(unix)]
fn is_device(kind: std::fs::FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_char_device(&kind)
}

#[cfg(not(unix))]
fn is_device(_kind: std::fs::FileType) -> bool {
    false
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        queue: Receiver<(u64, Box<Entry>)>,
        inner: Arc<Inner>,
        sink: Sink,
        lines: Lines,
    ) -> Self {
        Self {
            queue,
            inner,
            sink,
            lines,
            buffer: Vec::new(),
            count: 0,
            is_torn: false,
            changed: 0,
            said: Seldom::default(),
        }
    }

    /// Until it is told to end, and all that came before is written.
    pub(super) fn run(mut self) {
        loop {
            // Asked before: what came before that is then in the queue.
            let ends = self.inner.ends.load(Relaxed);
            // As well. Lines bring their changes along; what nobody writes after has to come by itself.
            let changed = self.inner.changed.load(Acquire);
            let mut taken = self.round();
            if changed > self.changed {
                for _ in 0..LINES / ROUND {
                    if taken < ROUND {
                        break;
                    }
                    taken = self.round();
                }
                self.go_by(changed);
            }
            if self.inner.reopens.swap(false, Relaxed) {
                self.reopen();
            }
            if taken == ROUND {
                continue;
            }
            if ends {
                return;
            }
            // Where nothing comes nobody is woken for nothing; what came just before may have to wait until something does.
            if self.inner.is_on() || taken > 0 {
                thread::park_timeout(PAUSE);
            } else {
                thread::park();
            }
        }
    }

    /// Goes by the changes up to that number, and not beyond.
    fn go_by(&mut self, number: u64) {
        if number <= self.changed {
            return;
        }
        self.flush();
        while self.changed < number {
            self.changed += 1;
            let Some(change) = self.inner.changes().pop_front() else {
                return;
            };
            (self.sink, self.lines) = (change.sink, Lines::new(change.format));
            self.is_torn = false;
        }
    }

    /// Writes what has come; gives how much that was.
    fn round(&mut self) -> usize {
        let mut taken = 0;
        while taken < ROUND
            && let Ok((changed, entry)) = self.queue.try_recv()
        {
            taken += 1;
            self.go_by(changed);
            self.inner.waiting.fetch_sub(entry.size(), Relaxed);
            self.inner.export(&entry);
            if entry.stands_for > 0 {
                self.lines.write(&entry, &mut self.buffer);
                self.count += 1;
            }
            if self.buffer.len() >= BATCH {
                self.flush();
            }
        }
        self.flush();
        taken
    }

    /// Whole lines in one call, where that takes them.
    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let mut out = std::mem::take(&mut self.buffer);
        if self.is_torn {
            out.insert(0, b'\n');
        }
        let mut rest = &out[..];
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(0) => break,
                Ok(taken) => {
                    self.is_torn = rest[taken - 1] != b'\n';
                    rest = &rest[taken..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if self.said.is_due() {
                        tracing::warn!(%error, "can't write the access log; its lines are lost, and counted");
                    }
                    break;
                }
            }
        }
        let lost = rest.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let counts = &self.inner.counts;
        counts
            .written
            .fetch_add(self.count.saturating_sub(lost), Relaxed);
        counts.dropped.fetch_add(lost, Relaxed);
        self.count = 0;
        out.clear();
        // A crowd's buffer is not kept for ever.
        out.shrink_to(2 * BATCH);
        self.buffer = out;
    }

    /// The file of that name may be another one now.
    fn reopen(&mut self) {
        let Sink::File { file, path } = &mut self.sink else {
            return;
        };
        match append(path) {
            Ok(opened) => {
                *file = opened;
                self.is_torn = false;
                tracing::info!(path = %path.display(), "access log opened again");
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "can't open the access log again; going on with the old file");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{
            Mutex,
            atomic::{AtomicBool, AtomicU64, AtomicUsize},
        },
        time::Instant,
    };

    use tokio::sync::mpsc;

    use super::{
        super::{AccessLog, Format, LineCounts, Sampler, sample::Kind},
        *,
    };

    /// The thread may be held up anywhere, for as long as it takes for two changes and what is asked between them.
    #[test]
    fn each_line_goes_where_it_was_to_go_when_it_came() {
        let (queue, waiting) = mpsc::channel(LINES);
        let inner = Arc::new(Inner {
            queue,
            waiting: AtomicUsize::new(0),
            sampler: Sampler::new(1.0, 1000),
            begun: Instant::now(),
            shared: None,
            counts: Arc::new(LineCounts::default()),
            writes: AtomicBool::new(false),
            changes: Mutex::default(),
            changed: AtomicU64::new(0),
            exporter: None,
            reopens: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        let lines = Lines::new(Format::Common);
        let mut writer = Writer::new(waiting, inner.clone(), Sink::Nowhere, lines);
        let log = AccessLog(inner);
        let folder = tempfile::tempdir().unwrap();
        let files = ["one", "two", "three"].map(|name| folder.path().join(name));
        for (number, file) in (1..).zip(&files) {
            let settings = AccessSettings {
                path: file.to_str().unwrap().to_owned(),
                ..AccessSettings::default()
            };
            log.take(log.prepare(&settings).unwrap());
            for _ in 0..number {
                let entry = Entry {
                    stands_for: 1,
                    ..Entry::closed([127, 0, 0, 1].into())
                };
                log.0.put(Kind::Usual, entry);
            }
        }
        assert_eq!(writer.round(), 6);
        let lines = files.map(|file| fs::read_to_string(file).unwrap().lines().count());
        assert_eq!(lines, [1, 2, 3]);
        // A change after which nothing comes.
        log.take(log.prepare(&AccessSettings::default()).unwrap());
        writer.go_by(4);
        assert!(log.0.changes().is_empty());
    }
}
