//! Where the URLs of a `srcset` stand.

use std::ops::Range;

/// The URLs of a srcset, by the HTML standard's "parse a srcset attribute" (4.8.4.2.2), as byte ranges
/// in order.
///
/// Candidates that the standard drops for their descriptors are listed, too: nothing is fetched for
/// them wherever they point.
pub fn urls(srcset: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let bytes = srcset.as_bytes();
    let mut position = 0;
    std::iter::from_fn(move || {
        let is_between = |b: &u8| is_space(*b) || *b == b',';
        position += bytes[position..]
            .iter()
            .take_while(|b| is_between(b))
            .count();
        let start = position;
        position += bytes[start..].iter().take_while(|b| !is_space(**b)).count();
        if start == position {
            return None;
        }
        let url = &bytes[start..position];
        let commas = url.iter().rev().take_while(|b| **b == b',').count();
        let range = start..position - commas;
        // A comma right behind a URL ends its candidate; else descriptors follow.
        if commas == 0 {
            position += descriptors(&bytes[position..]);
        }
        Some(range)
    })
}

const fn is_space(b: u8) -> bool {
    matches!(b, b'\t' | b'\n' | 0x0C | b'\r' | b' ')
}

/// How long the descriptors are, with the comma that ends them. A comma in parentheses does not, and
/// parentheses don't nest.
fn descriptors(bytes: &[u8]) -> usize {
    let mut in_parens = false;
    for (index, b) in bytes.iter().enumerate() {
        match b {
            b'(' => in_parens = true,
            b')' => in_parens = false,
            b',' if !in_parens => return index + 1,
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(srcset: &str) -> Vec<&str> {
        urls(srcset).map(|range| &srcset[range]).collect()
    }

    #[test]
    fn finds_urls_as_the_standard_does() {
        for (srcset, expected) in [
            ("", vec![]),
            (" , ,, ", vec![]),
            ("a.png", vec!["a.png"]),
            ("a.png 1x, b.png 2x", vec!["a.png", "b.png"]),
            ("a.png,b.png 2x", vec!["a.png,b.png"]),
            ("a.png, b.png", vec!["a.png", "b.png"]),
            ("a.png,,, b.png", vec!["a.png", "b.png"]),
            (",a.png 100w,b.png 200w", vec!["a.png", "b.png"]),
            ("a,b,c.png 1x,d.png", vec!["a,b,c.png", "d.png"]),
            ("data:x,y 1x, b.png 2x", vec!["data:x,y", "b.png"]),
            ("a.png (1x, 2x), b.png", vec!["a.png", "b.png"]),
            ("a.png f(1, ((2), b.png 1x", vec!["a.png", "b.png"]),
            ("a.png (open, b.png 2x", vec!["a.png"]),
            ("a(1,2).png 1x,b.png", vec!["a(1,2).png", "b.png"]),
            ("\n\ta.png\u{c}1x\r,\nb.png", vec!["a.png", "b.png"]),
            ("a.png 1x,\u{a0}b.png", vec!["a.png", "\u{a0}b.png"]),
        ] {
            assert_eq!(found(srcset), expected, "{srcset:?}");
        }
    }
}
