//! What a file is, by the end of its name.

use std::path::Path;

use http::HeaderValue;

/// The type of a file, and what is worth doing with it.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub(super) value: HeaderValue,
    /// Text, or nearly.
    pub(super) compressible: bool,
    /// Compressed as it is: nobody puts an encoded file beside it.
    pub(super) compressed: bool,
}

// === impl Kind ===

impl Kind {
    /// Text is UTF-8: without a charset it is read as whatever the reader likes.
    pub(super) fn of(path: &Path) -> Self {
        let guess = mime_guess::from_path(path).first_raw();
        let essence = guess.unwrap_or("application/octet-stream");
        let value = match essence {
            // These without memory of their own, which each request would read.
            "text/html" => HeaderValue::from_static("text/html; charset=utf-8"),
            "text/css" => HeaderValue::from_static("text/css; charset=utf-8"),
            "text/javascript" => HeaderValue::from_static("text/javascript; charset=utf-8"),
            text if text.starts_with("text/") => {
                HeaderValue::try_from(format!("{essence}; charset=utf-8"))
                    .unwrap_or(HeaderValue::from_static("text/plain; charset=utf-8"))
            }
            essence => HeaderValue::from_static(essence),
        };
        Self {
            value,
            compressible: is_compressible(essence),
            compressed: is_compressed(essence),
        }
    }
}

fn is_compressible(essence: &str) -> bool {
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || matches!(
            essence,
            "application/json"
                | "application/javascript"
                | "application/xml"
                | "application/wasm"
                | "application/vnd.ms-fontobject"
                | "font/ttf"
                | "font/otf"
                | "image/bmp"
                | "image/x-icon"
        )
}

fn is_compressed(essence: &str) -> bool {
    if is_compressible(essence) {
        return false;
    }
    let family = essence
        .split_once('/')
        .map_or(essence, |(family, _)| family);
    matches!(family, "image" | "video" | "audio" | "font")
        || matches!(
            essence,
            "application/zip"
                | "application/gzip"
                | "application/zstd"
                | "application/x-bzip2"
                | "application/x-xz"
                | "application/x-7z-compressed"
                | "application/vnd.rar"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_types() {
        for (name, value, compressible, compressed) in [
            ("a.html", "text/html; charset=utf-8", true, false),
            ("a.JS", "text/javascript; charset=utf-8", true, false),
            ("a.json", "application/json", true, false),
            ("a.svg", "image/svg+xml", true, false),
            ("a.wasm", "application/wasm", true, false),
            ("a.png", "image/png", false, true),
            ("a.woff2", "font/woff2", false, true),
            ("a.mp4", "video/mp4", false, true),
            ("a.html.gz", "application/gzip", false, true),
            ("a", "application/octet-stream", false, false),
            ("a.pdf", "application/pdf", false, false),
        ] {
            let kind = Kind::of(Path::new(name));
            assert_eq!(kind.value, value);
            let worth = (kind.compressible, kind.compressed);
            assert_eq!(worth, (compressible, compressed), "{name}");
        }
    }
}
