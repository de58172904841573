//! Any `Link` header: read by RFC 8288 before and after, only URLs of preloads have moved.

use http::{HeaderMap, HeaderValue, header::LINK};
use overspill::rewrite::headers::move_preloads;

use super::{oracle, site};

pub fn link_header(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(LINK, value);
        }
    }
    for cors in [true, false] {
        let mut after = headers.clone();
        let allowance = site::allowance(cors);
        move_preloads(&mut after, &site::any_rules(), site::page(), &allowance);
        let mut again = after.clone();
        move_preloads(&mut again, &site::any_rules(), site::page(), &allowance);
        assert_eq!(again, after, "what has moved moves again");
        let (before, after) = (headers.get_all(LINK), after.get_all(LINK));
        assert_eq!(before.iter().count(), after.iter().count());
        for (before, after) in before.iter().zip(after.iter()) {
            if before != after {
                assert_moved(before.to_str().unwrap(), after.to_str().unwrap());
            }
        }
    }
}

fn assert_moved(before: &str, after: &str) {
    let context = format!("{before:?} became {after:?}");
    let (old, new) = (links(before), links(after));
    let (old, new) = (old.expect(&context), new.expect(&context));
    assert_eq!(old.len(), new.len(), "{context}");
    for ((url, parameters), (moved, same)) in old.iter().zip(&new) {
        if (url, parameters) == (moved, same) {
            continue;
        }
        assert!(url == moved || oracle::is_moved(url, moved), "{context}");
        assert_eq!(parameters.len(), same.len(), "{context}");
        for ((name, old), (same, new)) in parameters.iter().zip(same) {
            assert_eq!(name, same, "{context}");
            if old != new {
                assert_eq!(name, "imagesrcset", "{context}");
                oracle::assert_only_urls_of_set_moved(old, new, &context);
            }
        }
        let get = |name: &str| {
            let parameter = parameters.iter().find(|(known, _)| known == name);
            parameter.map(|(_, value)| value.to_ascii_lowercase())
        };
        let rel = get("rel").expect(&context);
        let to = get("as");
        let module = rel.trim() == "modulepreload"
            && to
                .as_deref()
                .is_none_or(|to| matches!(to.trim(), "" | "script"));
        let movable = ["image", "script", "style", "font", "video", "audio"];
        let preload = rel.split_ascii_whitespace().any(|word| word == "preload")
            && to.is_some_and(|to| movable.contains(&to.as_str()));
        assert!(module || preload, "{context}");
        assert_ne!(
            get("crossorigin").as_deref(),
            Some("use-credentials"),
            "{context}"
        );
    }
}

type Link = (String, Vec<(String, String)>);

/// Appendix B.2 of RFC 8288; [`None`] where a link is none.
fn links(text: &str) -> Option<Vec<Link>> {
    let mut links = Vec::new();
    let mut rest = text;
    let space = |c: char| c == ' ' || c == '\t';
    loop {
        rest = rest.trim_start_matches(|c| space(c) || c == ',');
        if rest.is_empty() {
            return Some(links);
        }
        let (url, after) = rest.strip_prefix('<')?.split_once('>')?;
        let mut parameters = Vec::new();
        rest = after.trim_start_matches(space);
        while let Some(after) = rest.strip_prefix(';') {
            rest = after.trim_start_matches(space);
            let end = rest.find(|c| space(c) || matches!(c, '=' | ';' | ','));
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            rest = after.trim_start_matches(space);
            let mut value = String::new();
            if let Some(after) = rest.strip_prefix('=') {
                rest = after.trim_start_matches(space);
                if let Some(after) = rest.strip_prefix('"') {
                    let mut chars = after.char_indices();
                    let end = loop {
                        match chars.next()? {
                            (_, '\\') => value.push(chars.next()?.1),
                            (at, '"') => break at + 1,
                            (_, c) => value.push(c),
                        }
                    };
                    rest = &after[end..];
                } else {
                    let end = rest.find([';', ',']).unwrap_or(rest.len());
                    value = rest[..end].trim_end_matches(space).to_owned();
                    rest = &rest[end..];
                }
            }
            if !name.is_empty() {
                parameters.push((name.to_ascii_lowercase(), value));
            }
            rest = rest.trim_start_matches(space);
        }
        links.push((url.to_owned(), parameters));
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}
