//! What a client says, made harmless: nobody forges lines, or speaks to the terminal that shows them.

use std::char::REPLACEMENT_CHARACTER;

/// Appends `text` for between quotes, as nginx and Apache write it: visible ASCII but for `"` and `\`, all else as
/// `\xHH`.
pub(super) fn quoted(text: &[u8], line: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    // Nearly always there is nothing to escape.
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| !is_plain(byte)) {
        line.extend_from_slice(&rest[..at]);
        let byte = rest[at];
        line.extend_from_slice(b"\\x");
        line.extend([byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]));
        rest = &rest[at + 1..];
    }
    line.extend_from_slice(rest);
}

/// Appends `text` as a JSON string (RFC 8259 section 7) of visible ASCII; bytes that are no UTF-8 become U+FFFD.
pub(super) fn json(text: &[u8], line: &mut Vec<u8>) {
    line.push(b'"');
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.bytes().position(|byte| !is_plain(byte)) {
            line.extend_from_slice(&rest.as_bytes()[..at]);
            let mut letters = rest[at..].chars();
            if let Some(letter) = letters.next() {
                escape(letter, line);
            }
            rest = letters.as_str();
        }
        line.extend_from_slice(rest.as_bytes());
        if !chunk.invalid().is_empty() {
            escape(REPLACEMENT_CHARACTER, line);
        }
    }
    line.push(b'"');
}

fn escape(letter: char, line: &mut Vec<u8>) {
    match letter {
        '"' | '\\' => line.extend([b'\\', letter as u8]),
        _ => {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                line.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(with: impl Fn(&[u8], &mut Vec<u8>), text: &[u8]) -> String {
        let mut line = Vec::new();
        with(text, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn what_could_be_misread_is_escaped() {
        for (text, in_quotes, in_json) in [
            (&b"/a?b=c d"[..], "/a?b=c d", "\"/a?b=c d\""),
            (b"a\"b\\c", "a\\x22b\\x5Cc", "\"a\\\"b\\\\c\""),
            (
                b"\r\n\x1b[2J\x7f",
                "\\x0D\\x0A\\x1B[2J\\x7F",
                "\"\\u000d\\u000a\\u001b[2J\\u007f\"",
            ),
            (
                "é\u{9b}😀".as_bytes(),
                "\\xC3\\xA9\\xC2\\x9B\\xF0\\x9F\\x98\\x80",
                "\"\\u00e9\\u009b\\ud83d\\ude00\"",
            ),
            (b"\xff\xfe!", "\\xFF\\xFE!", "\"\\ufffd\\ufffd!\""),
            (b"", "", "\"\""),
        ] {
            assert_eq!(written(quoted, text), in_quotes);
            assert_eq!(written(json, text), in_json);
        }
    }

    proptest! {
        #[test]
        fn between_quotes_there_is_visible_ascii_that_can_be_read_back(text: Vec<u8>) {
            let line = written(quoted, &text);
            prop_assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"'));
            let mut back = Vec::new();
            let mut rest = line.as_bytes();
            while let Some((first, after)) = rest.split_first() {
                rest = after;
                if *first == b'\\' {
                    let digits = std::str::from_utf8(&after[1..3]).unwrap();
                    back.push(u8::from_str_radix(digits, 16).unwrap());
                    rest = &after[3..];
                } else {
                    back.push(*first);
                }
            }
            prop_assert_eq!(back, text);
        }

        #[test]
        fn serde_reads_back_what_json_says(text: Vec<u8>) {
            let line = written(json, &text);
            prop_assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let back: String = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(back, String::from_utf8_lossy(&text));
        }
    }
}
