//! Ranges are in order, apart and within the text, and what they leave out is no URL.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overspill::rewrite::srcset;

fuzz_target!(|set: &str| {
    let mut end = 0;
    for range in srcset::urls(set) {
        assert!(end <= range.start && range.start < range.end);
        let url = &set[range.clone()];
        assert!(!url.contains(['\t', '\n', '\u{c}', '\r', ' ']));
        assert!(!url.starts_with(',') && !url.ends_with(','));
        end = range.end;
    }
    // Moving every URL moves none of the ranges' bounds against the text between them.
    let mut moved = String::new();
    let mut at = 0;
    for range in srcset::urls(set) {
        moved.push_str(&set[at..range.start]);
        moved.push_str("https://t.example/");
        moved.push_str(&set[range.clone()]);
        at = range.end;
    }
    moved.push_str(&set[at..]);
    let urls: Vec<_> = srcset::urls(&moved).map(|range| &moved[range]).collect();
    let expected: Vec<_> = srcset::urls(set)
        .map(|range| format!("https://t.example/{}", &set[range]))
        .collect();
    assert_eq!(urls, expected);
});
