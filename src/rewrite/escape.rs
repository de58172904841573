//! Character references in attribute values: reading and writing them.

use std::borrow::Cow;

use super::edit::Place;

/// Writes URL text so that it can stand in any attribute value, quoted or not.
///
/// A serialised URL holds no space, `"`, `<`, `>` or backquote; what is left is `&`, which could begin
/// a reference, and `'`, which could end the value.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if text.contains(['&', '\'']) {
        Cow::Owned(text.replace('&', "&amp;").replace('\'', "&#39;"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Writes URL text so that it can stand in `place`.
///
/// In CSS, what could end a URL or a string is escaped by a backslash (CSS Syntax 3, 4.3.7), which is right
/// in both.
pub(super) fn write(text: &str, place: Place) -> Cow<'_, str> {
    match place {
        Place::Attribute | Place::Srcset => escape(text),
        Place::Style => css(text),
        Place::StyleAttribute => match css(text) {
            Cow::Borrowed(text) => escape(text),
            Cow::Owned(text) => Cow::Owned(escape(&text).into_owned()),
        },
    }
}

fn css(text: &str) -> Cow<'_, str> {
    let special = |c: char| matches!(c, '\'' | '"' | '(' | ')' | '\\');
    if !text.contains(special) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if special(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    Cow::Owned(escaped)
}

/// Writes any text so that it can stand in an attribute value that may not be quoted.
pub(super) fn escape_unquoted(text: &str) -> String {
    let mut escaped = escape_all(text).into_owned();
    for (space, reference) in [
        (' ', "&#32;"),
        ('\t', "&#9;"),
        ('\n', "&#10;"),
        ('\r', "&#13;"),
        ('\u{c}', "&#12;"),
    ] {
        if escaped.contains(space) {
            escaped = escaped.replace(space, reference);
        }
    }
    escaped
}

/// Writes any text so that it can stand in a quoted attribute value.
pub(super) fn escape_all(text: &str) -> Cow<'_, str> {
    if text.contains(['"', '<', '>']) {
        let text = text.replace('&', "&amp;").replace('\'', "&#39;");
        let text = text.replace('"', "&quot;");
        Cow::Owned(text.replace('<', "&lt;").replace('>', "&gt;"))
    } else {
        escape(text)
    }
}

/// Where the parts of a decoded text stand: its place in the text, then in the raw value, each the beginning
/// of a stretch that is the same in both.
pub(super) type Places = Vec<(usize, usize)>;

/// [`decode`], with where in `raw` each part of the text stands.
pub(super) fn decode_with_places(raw: &str) -> Option<(Cow<'_, str>, Places)> {
    if !raw.contains('&') {
        return Some((decode(raw)?, vec![(0, 0)]));
    }
    let (mut text, mut places) = (String::with_capacity(raw.len()), vec![(0, 0)]);
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        text.push_str(&rest[..at]);
        let (c, used) = reference(&rest[at + 1..])?;
        places.push((text.len(), raw.len() - rest.len() + at));
        text.push(c);
        rest = &rest[at + 1 + used..];
        places.push((text.len(), raw.len() - rest.len()));
    }
    text.push_str(rest);
    (!text.contains('\0')).then_some((Cow::Owned(text), places))
}

/// Whether a text ends with a reference without its semicolon.
pub(super) fn ends_open(text: &str) -> bool {
    text.rfind('&').is_some_and(|at| {
        let mut name = text[at + 1..].bytes();
        name.all(|b| b.is_ascii_alphanumeric() || b == b'#')
    })
}

/// What an attribute value means (HTML standard, 13.2.5.72 to 13.2.5.80: character references).
///
/// `None` where that is in doubt: a name that may be a reference other than the five of XML, a number
/// that the standard maps to something else, or a NUL.
pub(super) fn decode(raw: &str) -> Option<Cow<'_, str>> {
    if raw.contains('\0') {
        return None;
    }
    let Some(first) = raw.find('&') else {
        return Some(Cow::Borrowed(raw));
    };
    let mut text = String::with_capacity(raw.len());
    text.push_str(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some(after) = rest.strip_prefix('&') {
        let (c, used) = reference(after)?;
        text.push(c);
        rest = &after[used..];
        let next = rest.find('&').unwrap_or(rest.len());
        text.push_str(&rest[..next]);
        rest = &rest[next..];
    }
    Some(Cow::Owned(text))
}

/// What the reference behind an `&` means, and how many bytes it takes; `('&', 0)` if it is none.
fn reference(after: &str) -> Option<(char, usize)> {
    if let Some(number) = after.strip_prefix('#') {
        return numeric(number);
    }
    let end = after
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(after.len());
    let name = &after[..end];
    let next = after[end..].chars().next();
    let known = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "" => return Some(('&', 0)),
        // In an attribute, a reference without its semicolon is none where `=` or an alphanumeric
        // follows: this is what keeps "?a=1&copy=2" alive.
        _ if next == Some('=') => return Some(('&', 0)),
        _ => return None,
    };
    match next {
        Some(';') => Some((known, end + 1)),
        Some('=') => Some(('&', 0)),
        _ if name == "apos" => Some(('&', 0)),
        _ => Some((known, end)),
    }
}

/// `123;` or `x7b;` behind `&#`.
fn numeric(number: &str) -> Option<(char, usize)> {
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    let len = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    if len == 0 {
        return Some(('&', 0));
    }
    let c = u32::from_str_radix(&digits[..len], radix)
        .ok()
        .and_then(char::from_u32)
        // 0x80 to 0x9F are read as windows-1252, controls and noncharacters are errors.
        .filter(|c| *c != '\0' && !('\u{80}'..'\u{A0}').contains(c))?;
    let semicolon = usize::from(digits[len..].starts_with(';'));
    let used = 1 + (number.len() - digits.len()) + len + semicolon;
    Some((c, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_as_browsers_do() {
        for (raw, text) in [
            ("a?b=1&amp;c=2", "a?b=1&c=2"),
            ("a?b=1&c=2", "a?b=1&c=2"),
            ("a?b&amp", "a?b&"),
            ("?a&amp=1", "?a&amp=1"),
            ("?a&copy=1", "?a&copy=1"),
            ("?a&lt;&gt;&quot;&apos;", "?a<>\"'"),
            ("&#47;x&#x2F;y&#X2fz", "/x/y/z"),
            ("&#47x", "/x"),
            ("&", "&"),
            ("a&&amp;&", "a&&&"),
            ("&#;&#x;", "&#;&#x;"),
            ("&/", "&/"),
        ] {
            assert_eq!(decode(raw).as_deref(), Some(text), "{raw}");
        }
    }

    #[test]
    fn is_in_doubt_about_other_names() {
        for raw in [
            "&copy;",
            "&sol;x",
            "?a&b",
            "&notit;",
            "&#0;",
            "&#x80;",
            "&#xD800;",
            "&#99999999999;",
            "a\0",
        ] {
            assert_eq!(decode(raw), None, "{raw}");
        }
    }

    #[test]
    fn knows_a_reference_without_its_end() {
        for (text, open) in [
            ("url(&quot", true),
            ("url(&#34", true),
            ("&", true),
            ("url(&quot;", false),
            ("&amp(", false),
            ("url(", false),
        ] {
            assert_eq!(ends_open(text), open, "{text}");
        }
    }

    #[test]
    fn escapes_what_could_end_a_value() {
        assert_eq!(escape("/a&b'c"), "/a&amp;b&#39;c");
        assert!(matches!(escape("/plain=1"), Cow::Borrowed(_)));
    }
}
