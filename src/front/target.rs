//! Is the path one that can be looked up or passed on without a second meaning.

use super::{Rejection, bytes::letters_digits_and};

/// Longest path and query together, in bytes: what nginx and Apache take, too.
pub const MAX_TARGET: usize = 8 * 1024;

/// For whom the path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// It names a file. Nothing is left to interpretation.
    Folder,
    /// It goes on to a server that gives it its own meaning: `/web/https://example.com/` and `/a%2Fb`
    /// are addresses of real applications. Refused is what leads out of a path prefix or turns into
    /// another host.
    Upstream,
}

/// The one name with a leading dot that is meant to be seen (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// Reads the path of `target` (a path and maybe a query) once, decoded, segment by segment.
///
/// Decoding happens once: `%252e` is a name with a percent sign in it, here and for the file system.
///
/// # Errors
/// Says why the target is refused. What is malformed is told before what is hidden.
pub fn check_target(target: &str, rules: Rules) -> Result<(), Rejection> {
    if target.len() > MAX_TARGET {
        return Err(Rejection::TooLong);
    }
    let target = target.as_bytes();
    let end = target.iter().position(|byte| *byte == b'?');
    let path = &target[..end.unwrap_or(target.len())];
    let Some(mut rest) = path.strip_prefix(b"/") else {
        return Err(Rejection::Form);
    };
    if is_usual(path) {
        return Ok(());
    }
    let mut segment = Segment::default();
    let mut hidden = false;
    let mut is_first = true;
    loop {
        let read = match rest {
            [] => break,
            [b'%', high, low, after @ ..] => {
                rest = after;
                let byte = hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low);
                encoded(byte.ok_or(Rejection::Character)?, rules)?
            }
            [byte, after @ ..] => {
                rest = after;
                plain(*byte, rules)?
            }
        };
        match read {
            Read::Byte(byte) => segment.push(byte),
            Read::Separator => {
                segment.check()?;
                if segment.length == 0 && (is_first || rules == Rules::Folder) {
                    return Err(Rejection::EmptySegment);
                }
                hidden |= segment.is_hidden();
                is_first = false;
                segment = Segment::default();
            }
        }
    }
    segment.check()?;
    hidden |= segment.is_hidden();
    if hidden && rules == Rules::Folder {
        return Err(Rejection::Hidden);
    }
    Ok(())
}

/// Whether nothing in `path` can be wrong, which is so of nearly all: each byte is a letter, a digit, or one of those that
/// mean nothing by themselves, and no segment is empty or begins with a dot.
fn is_usual(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        if !USUAL[usize::from(byte)] || (before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

static USUAL: [bool; 256] = letters_digits_and(b"/-._~");

enum Read {
    Byte(u8),
    Separator,
}

/// A byte that stands in the path as it is.
fn plain(byte: u8, rules: Rules) -> Result<Read, Rejection> {
    match byte {
        b'/' => Ok(Read::Separator),
        // RFC 3986 has no place for them; a percent sign without two digits has come here, too.
        // Browsers read `\` as `/`.
        0..=b' ' | 0x7f | b'\\' | b'%' => Err(Rejection::Character),
        0x80.. if rules == Rules::Folder => Err(Rejection::Character),
        _ => Ok(Read::Byte(byte)),
    }
}

/// A byte that was percent-encoded.
fn encoded(byte: u8, rules: Rules) -> Result<Read, Rejection> {
    match byte {
        0..=0x1f | 0x7f => Err(Rejection::Character),
        b'/' | b'\\' if rules == Rules::Folder => Err(Rejection::Character),
        // A server that decodes before it splits sees a separator here.
        b'/' | b'\\' => Ok(Read::Separator),
        _ => Ok(Read::Byte(byte)),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// What has been seen of a decoded segment. Its first bytes are enough to know it by.
#[derive(Default)]
struct Segment {
    length: usize,
    first: [u8; WELL_KNOWN.len()],
}

impl Segment {
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.first.get_mut(self.length) {
            *slot = byte;
        }
        self.length += 1;
    }

    /// `..;x` is `..` to servers that know path parameters.
    fn check(&self) -> Result<(), Rejection> {
        let is_parent =
            self.first.starts_with(b"..") && (self.length == 2 || self.first[2] == b';');
        if is_parent {
            Err(Rejection::Traversal)
        } else {
            Ok(())
        }
    }

    fn is_hidden(&self) -> bool {
        self.first[0] == b'.' && !(self.first == WELL_KNOWN && self.length == WELL_KNOWN.len())
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::{Rejection::*, *};

    #[test]
    fn tells_paths_from_tricks() {
        for (target, folder, upstream) in [
            ("/", Ok(()), Ok(())),
            ("/a/b.css?x=//..%00", Ok(()), Ok(())),
            ("/a/", Ok(()), Ok(())),
            ("/a%20b", Ok(()), Ok(())),
            ("/a..b/c...", Ok(()), Ok(())),
            ("/%252e%252e/", Ok(()), Ok(())),
            ("/.well-known/acme", Ok(()), Ok(())),
            ("/%2ewell-known/acme", Ok(()), Ok(())),
            ("/.well-knowns", Err(Hidden), Ok(())),
            ("/.well-know", Err(Hidden), Ok(())),
            ("/.git/config", Err(Hidden), Ok(())),
            ("/a/.env", Err(Hidden), Ok(())),
            ("/a/%2eenv", Err(Hidden), Ok(())),
            ("/./a", Err(Hidden), Ok(())),
            ("/...", Err(Hidden), Ok(())),
            ("/.git/%zz", Err(Character), Err(Character)),
            ("/..", Err(Traversal), Err(Traversal)),
            ("/../etc/passwd", Err(Traversal), Err(Traversal)),
            ("/a/..", Err(Traversal), Err(Traversal)),
            ("/a/%2e%2e/b", Err(Traversal), Err(Traversal)),
            ("/a/%2E./b", Err(Traversal), Err(Traversal)),
            ("/a/..;x=1/b", Err(Traversal), Err(Traversal)),
            ("/a/..%2fb", Err(Character), Err(Traversal)),
            ("/a/..%5cb", Err(Character), Err(Traversal)),
            ("/a%2fb", Err(Character), Ok(())),
            ("/a%5Cb", Err(Character), Ok(())),
            ("/a\\b", Err(Character), Err(Character)),
            ("/\\evil.example", Err(Character), Err(Character)),
            ("/%5cevil.example", Err(Character), Err(EmptySegment)),
            ("/%2f%2fevil", Err(Character), Err(EmptySegment)),
            ("//evil.example/..", Err(EmptySegment), Err(EmptySegment)),
            ("//", Err(EmptySegment), Err(EmptySegment)),
            ("/a//b", Err(EmptySegment), Ok(())),
            ("/a//", Err(EmptySegment), Ok(())),
            ("/a%00", Err(Character), Err(Character)),
            ("/a%0d%0aX", Err(Character), Err(Character)),
            ("/a%7f", Err(Character), Err(Character)),
            ("/a%", Err(Character), Err(Character)),
            ("/a%2", Err(Character), Err(Character)),
            ("/a%g0", Err(Character), Err(Character)),
            ("/a%+1", Err(Character), Err(Character)),
            ("/a b", Err(Character), Err(Character)),
            ("/\u{e9}", Err(Character), Ok(())),
            ("/%c3%a9", Ok(()), Ok(())),
            ("", Err(Form), Err(Form)),
            ("*", Err(Form), Err(Form)),
            ("a/b", Err(Form), Err(Form)),
        ] {
            assert_eq!(
                check_target(target, Rules::Folder),
                folder,
                "folder {target}"
            );
            assert_eq!(
                check_target(target, Rules::Upstream),
                upstream,
                "upstream {target}"
            );
        }
    }

    #[test]
    fn takes_eight_kibibytes_and_no_more() {
        for rules in [Rules::Folder, Rules::Upstream] {
            let target = format!("/{}?{}", "a".repeat(100), "b".repeat(MAX_TARGET - 102));
            assert_eq!(check_target(&target, rules), Ok(()));
            assert_eq!(check_target(&format!("{target}b"), rules), Err(TooLong));
        }
    }

    /// Paths made of the pieces that tricks are made of.
    fn paths() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/"),
            Just("."),
            Just(".."),
            Just("%2e"),
            Just("%2E"),
            Just("%2f"),
            Just("%5c"),
            Just("\\"),
            Just("%00"),
            Just("%25"),
            Just("a"),
            Just(";"),
            Just("%"),
            Just(".well-known"),
            Just("%c3%a9"),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn what_a_folder_takes_names_a_place_below_it(path in paths()) {
            if check_target(&path, Rules::Folder).is_ok() {
                // A name that is no UTF-8 is still a name.
                let decoded = percent_encoding::percent_decode_str(&path[1..]).decode_utf8_lossy();
                for component in Path::new(&*decoded).components() {
                    prop_assert!(matches!(component, Component::Normal(name)
                        if name == ".well-known" || !name.to_str().unwrap().starts_with('.')), "{path}");
                }
                prop_assert!(!decoded.contains("//") && !decoded.starts_with('/') && !decoded.contains('\\'));
            }
        }

        #[test]
        fn what_goes_upstream_stays_on_its_host_and_below_its_prefix(path in paths()) {
            if check_target(&path, Rules::Upstream).is_ok() {
                // What is no UTF-8 is an application's own business.
                let decoded = percent_encoding::percent_decode_str(&path).decode_utf8_lossy();
                // As browsers and lenient servers read it.
                let lenient = decoded.replace('\\', "/");
                prop_assert!(!lenient.starts_with("//"), "{path}");
                prop_assert!(lenient.split('/').all(|segment| segment != ".."), "{path}");
            }
        }

        #[test]
        fn any_text_is_answered(path in "\\PC*") {
            let _ = check_target(&path, Rules::Folder);
            let _ = check_target(&path, Rules::Upstream);
        }
    }
}
