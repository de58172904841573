//! Opening files below a folder, and nowhere else.
//!
//! A path is resolved, symbolic links included, and looked at before it is opened: it has to end below
//! the folder, at a regular file (a pipe would be waited for, a device is no page). All of it happens on
//! the runtime's blocking threads, in one go per question.

use std::{
    fs::Metadata,
    io::{self, ErrorKind, SeekFrom},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, ReadBuf, Take};
use tower_http::services::fs::{Backend, File};

type BoxFuture<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// The files below one folder.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// Absolute and without symbolic links.
    root: Arc<Path>,
}

impl Files {
    /// `root` is canonical.
    pub(super) fn new(root: Arc<Path>) -> Self {
        Self { root }
    }
}

impl Backend for Files {
    type File = SiteFile;
    type Metadata = Metadata;
    type OpenFuture = BoxFuture<SiteFile>;
    type MetadataFuture = BoxFuture<Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let root = Arc::clone(&self.root);
        blocking(move || {
            let (path, _) = resolve(&root, &path)?;
            let file = std::fs::File::open(path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(ErrorKind::NotFound.into());
            }
            let file = tokio::fs::File::from_std(file).take(metadata.len());
            Ok(SiteFile { file, metadata })
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let root = Arc::clone(&self.root);
        blocking(move || {
            let (_, metadata) = resolve(&root, &path)?;
            // A folder may have a folder called index.html; it is no index.
            let is_index = path.file_name().is_some_and(|name| name == "index.html");
            if metadata.is_dir() && is_index {
                Err(ErrorKind::NotFound.into())
            } else {
                Ok(metadata)
            }
        })
    }
}

fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> BoxFuture<T> {
    Box::pin(async move {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(not_there),
            Err(stopped) => Err(io::Error::other(stopped)),
        }
    })
}

/// Where `path` really is, if that is a file or a folder below `root`.
pub(super) fn resolve(root: &Path, path: &Path) -> io::Result<(PathBuf, Metadata)> {
    let path = path.canonicalize()?;
    if !path.starts_with(root) {
        return Err(ErrorKind::NotFound.into());
    }
    let metadata = path.metadata()?;
    if metadata.is_file() || metadata.is_dir() {
        Ok((path, metadata))
    } else {
        Err(ErrorKind::NotFound.into())
    }
}

/// A name that cannot be, or may not be read, is as good as not there.
fn not_there(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::InvalidFilename
        | ErrorKind::InvalidInput
        | ErrorKind::NotADirectory
        | ErrorKind::PermissionDenied => ErrorKind::NotFound.into(),
        // Linux's ELOOP, which has no stable kind: a link to itself is a link to nothing.
        _ if error.raw_os_error() == Some(40) => ErrorKind::NotFound.into(),
        _ => error,
    }
}

/// An open file that is as long as it was when it was opened: what grows is cut there, and what shrinks
/// is an error, since the length is promised before the first byte.
#[derive(Debug)]
pub(super) struct SiteFile {
    file: Take<tokio::fs::File>,
    metadata: Metadata,
}

impl AsyncRead for SiteFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.file).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == before && buf.remaining() > 0;
        if is_end && self.file.limit() > 0 {
            return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for SiteFile {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        let SeekFrom::Start(start) = position else {
            return Err(ErrorKind::Unsupported.into());
        };
        let left = self.metadata.len().saturating_sub(start);
        self.file.set_limit(left);
        Pin::new(self.file.get_mut()).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(self.file.get_mut()).poll_complete(cx)
    }
}

impl File for SiteFile {
    type Metadata = Metadata;
    type MetadataFuture<'a> = std::future::Ready<io::Result<Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        std::future::ready(Ok(self.metadata.clone()))
    }
}
