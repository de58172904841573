//! What holds for any page, on pages made at random.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{Random, oracle, rewrite};

/// Pieces of pages: tags that matter, in forms that matter, and what confuses parsers.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (element(), vec(attribute(), 0..4)).prop_map(|(name, attributes)| {
            format!("<{name}{}>", attributes.concat())
        }),
        3 => select(&[
            "</picture>", "</video>", "</div>", "</svg>", "</template>", "</p>", "</script>", "</table>", "</math>",
            "</noscript>", "</title>", "</style>", "</textarea>", "</foreignObject>",
        ][..]).prop_map(str::to_owned),
        2 => select(&[
            "<p>", "<div>", "<svg>", "<svg/>", "<math>", "<mi>", "<title>", "<style>", "<textarea>", "<table>", "<tr>",
            "<td>", "<noscript>", "<template>", "<foreignObject>", "<desc>", "<b>", "<i>", "<li>", "<head>", "<body>",
            "<!-- ", "-->", "<!doctype html>", "<![CDATA[", "]]>", "<?x ", "</", "<", "&amp;", "\0", "é", "\u{feff}",
            "<div data-overspill=off>", "<iframe>", "<br/>", "\r\n", "'", "\"", ">", "<a", " x=",
        ][..]).prop_map(str::to_owned),
        1 => "[ a-z<>/=\"'&;#]{0,12}",
    ]
}

fn element() -> impl Strategy<Value = &'static str> {
    select(
        &[
            "img",
            "IMG",
            "source",
            "picture",
            "video",
            "audio",
            "script",
            "link",
            "base",
            "image",
            "a",
            "x-viewer",
            "img/",
            "script src=a.js",
        ][..],
    )
}

fn attribute() -> impl Strategy<Value = String> {
    let name = select(
        &[
            " src",
            " srcset",
            " href",
            " poster",
            " SRC",
            " data-zoom",
            " rel",
            " type",
            " crossorigin",
            " integrity",
            " data-overspill",
            " alt",
            "/src",
        ][..],
    );
    let value = prop_oneof![
        4 => url(),
        2 => vec((url(), select(&[" 1x", " 2w", "", " (1,2)", ","][..])), 0..4).prop_map(|set| {
            set.into_iter().map(|(url, descriptor)| url + descriptor + ", ").collect()
        }),
        2 => select(&["stylesheet", "icon", "module", "anonymous", "use-credentials", "off", "text/javascript", ""][..])
            .prop_map(str::to_owned),
    ];
    (name, value, select(&["=\"", "='", "=", " = \"", ""][..])).prop_map(|(name, value, open)| {
        let quote = open.trim_start_matches([' ', '=']);
        match open {
            "" => name.to_owned(),
            _ if quote.is_empty() => format!("{name}{open}{}", value.replace([' ', '"', '\''], "")),
            _ => format!("{name}{open}{}{}", value.replace(quote, ""), quote.trim()),
        }
    })
}

fn url() -> impl Strategy<Value = String> {
    let start = select(
        &[
            "",
            "/",
            "./",
            "../",
            "../../../../",
            "//",
            "///",
            "http:",
            "http://www.example.com",
            "HTTPS://www.example.com/",
            "//www.example.com/",
            "//127.0.0.1:8080/",
            "//other.example/",
            "\\",
            "x/../",
            "%2e%2e/",
            "?",
            "#",
            " /",
            "\t",
            "data:,",
            "&#47;",
            "&#46;&#46;/",
            "&sol;",
            "/&amp;/",
            "http&#58;//www.example.com/",
            "http:\\\\www.example.com\\",
            "/excluded/",
            "//u@www.example.com/",
            "é/",
            "javascript:",
            "...",
            ".//",
        ][..],
    );
    let middle = prop_oneof!["[a-z]{0,3}", "[a-zé%&;./?#:@!'(), \\\\\t\n=]{0,6}"];
    let end = select(
        &[
            ".png",
            ".js",
            ".css",
            "",
            ".png?a=1&b=2",
            ".js?a=1&amp;b",
            ".png#f",
            ".png ",
            "/..",
            "/.",
            ".html",
            ".png&copy",
        ][..],
    );
    (start, middle, end).prop_map(|(start, middle, end)| format!("{start}{middle}{end}"))
}

fn page() -> impl Strategy<Value = String> {
    vec(piece(), 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trees_differ_in_moved_urls_alone(page in page(), cors in any::<bool>()) {
        let (out, _) = rewrite(cors, [page.as_bytes()]);
        oracle::assert_only_urls_moved(page.as_bytes(), &out);
    }

    #[test]
    fn any_chunking_gives_the_same_bytes(page in page(), seed in 1..u64::MAX, longest in 1..40usize) {
        let (whole, summary) = rewrite(true, [page.as_bytes()]);
        let (cut, cut_summary) = rewrite(true, Random(seed).chunks(page.as_bytes(), longest));
        prop_assert_eq!(String::from_utf8_lossy(&cut), String::from_utf8_lossy(&whole));
        prop_assert_eq!(cut_summary, summary);
    }

    #[test]
    fn nothing_to_move_is_byte_identical(page in vec(any::<u8>(), 0..400), seed in 1..u64::MAX) {
        let (out, summary) = rewrite(true, Random(seed).chunks(&page, 50));
        prop_assert!(summary.links > 0 || out == page);
    }

    #[test]
    fn srcset_urls_are_those_of_the_standards_algorithm(set in "[ab,() \t\n\r\u{c}]{0,24}") {
        let found: Vec<_> = overspill::rewrite::srcset::urls(&set).map(|range| set[range].to_owned()).collect();
        prop_assert_eq!(found, standard_srcset(&set));
    }
}

/// "Parse a srcset attribute", step by step as the standard has it, its states spelled out.
fn standard_srcset(input: &str) -> Vec<String> {
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
