//! Any srcset: its URLs are those of the standard's algorithm, and moving them moves no bound between them.

use overspill::rewrite::srcset::urls;

use super::{oracle, site, text};

pub fn srcset(data: &[u8]) {
    let set = text(data);
    let ranges: Vec<_> = urls(set).collect();
    let found: Vec<_> = ranges
        .iter()
        .map(|range| set[range.clone()].to_owned())
        .collect();
    assert_eq!(found, standard(set));
    let mut moved = String::new();
    let mut at = 0;
    for range in &ranges {
        assert!(at <= range.start && range.start < range.end);
        moved.push_str(&set[at..range.start]);
        moved.push_str("https://t.example/");
        moved.push_str(&set[range.clone()]);
        at = range.end;
    }
    moved.push_str(&set[at..]);
    let again: Vec<_> = urls(&moved).map(|range| moved[range].to_owned()).collect();
    let expected: Vec<_> = found
        .iter()
        .map(|url| format!("https://t.example/{url}"))
        .collect();
    assert_eq!(again, expected);

    let quoted = set.replace('"', "&quot;");
    for value in [&quoted, &quoted.replace('&', "&amp;")] {
        let page = format!("<img srcset=\"{value}\">");
        let rewriter = site::rewriter(site::any_rules(), site::allowance(false));
        let (out, summary) = site::rewrite(rewriter, [page.as_bytes()]);
        let moved = oracle::assert_only_urls_moved(page.as_bytes(), &out);
        assert_eq!(moved, summary.links);
    }
}

/// "Parse a srcset attribute" (HTML standard, 4.8.4.2.2), step by step, its states spelled out.
fn standard(input: &str) -> Vec<String> {
    enum State {
        InDescriptor,
        InParens,
        AfterDescriptor,
    }
    let input: Vec<char> = input.chars().collect();
    let space = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | '\r' | ' ');
    let mut position = 0;
    let mut candidates = Vec::new();
    loop {
        // Splitting loop: spaces and commas.
        while position < input.len() && (space(input[position]) || input[position] == ',') {
            position += 1;
        }
        if position == input.len() {
            return candidates;
        }
        let mut url = String::new();
        while position < input.len() && !space(input[position]) {
            url.push(input[position]);
            position += 1;
        }
        if url.ends_with(',') {
            while url.ends_with(',') {
                url.pop();
            }
            candidates.push(url);
            continue;
        }
        // Descriptor tokenizer.
        while position < input.len() && space(input[position]) {
            position += 1;
        }
        let mut state = State::InDescriptor;
        while let Some(&c) = input.get(position) {
            match state {
                State::InDescriptor if space(c) => state = State::AfterDescriptor,
                State::InDescriptor if c == ',' => {
                    position += 1;
                    break;
                }
                State::InDescriptor if c == '(' => state = State::InParens,
                State::InDescriptor => {}
                State::InParens if c == ')' => state = State::InDescriptor,
                State::InParens => {}
                State::AfterDescriptor if space(c) => {}
                State::AfterDescriptor => {
                    state = State::InDescriptor;
                    position -= 1;
                }
            }
            position += 1;
        }
        candidates.push(url);
    }
}
