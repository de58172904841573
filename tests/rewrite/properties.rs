//! What holds for any page, on pages made at random.

use std::cell::Cell;

use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{TestError, TestRunner},
};

use super::{PREFIX, Random, holds, oracle, rewrite};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

// === any page ===

/// Pieces of pages: tags that matter, in forms that matter, and what confuses parsers.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (element(), vec(attribute(), 0..4)).prop_map(|(name, attributes)| {
            format!("<{name}{}>", attributes.concat())
        }),
        6 => (select(ROWS), vec(url(), 3)).prop_map(|(row, urls)| filled(row.html, &urls)),
        3 => select(&[
            "</picture>", "</video>", "</div>", "</svg>", "</template>", "</p>", "</script>", "</table>", "</math>",
            "</noscript>", "</title>", "</style>", "</textarea>", "</foreignObject>", "</desc>", "</mi>", "</select>",
        ][..]).prop_map(str::to_owned),
        2 => select(&[
            "<p>", "<div>", "<svg>", "<svg/>", "<math>", "<mi>", "<title>", "<style>", "<textarea>", "<table>", "<tr>",
            "<td>", "<noscript>", "<template>", "<foreignObject>", "<desc>", "<b>", "<i>", "<li>", "<head>", "<body>",
            "<!-- ", "-->", "<!doctype html>", "<![CDATA[", "]]>", "<?x ", "</", "<", "&amp;", "\0", "é", "\u{feff}",
            "<div data-overspill=off>", "<iframe>", "<br/>", "\r\n", "'", "\"", ">", "<a", " x=", "<select>",
            "<picture>", "<video crossorigin>", "<frameset>", "<script type=importmap>{}</script>",
            "<meta http-equiv=Content-Security-Policy content=\"img-src 'self'; script-src 'none'\">",
            "<meta http-equiv=Content-Security-Policy content=\"default-src 'self'; style-src 'sha256-x'\">",
            "<meta http-equiv=refresh content='0; url=/a.png'>", "<meta charset=iso-2022-jp>", "<html amp>",
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
            "input",
            "td",
            "body",
            "style",
            "meta",
            "track",
            "object",
            "use",
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
            " xlink:href",
            " poster",
            " SRC",
            " background",
            " data-src",
            " data-srcset",
            " data-zoom",
            " imagesrcset",
            " style",
            " rel",
            " as",
            " type",
            " http-equiv",
            " content",
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
        2 => css_text(),
        2 => select(&[
            "stylesheet", "icon", "preload", "modulepreload", "module", "image", "style", "font", "anonymous",
            "use-credentials", "off", "text/javascript", "content-security-policy", "img-src 'self'", "",
        ][..]).prop_map(str::to_owned),
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

fn css_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => select(&[
            "a{", "}", ";", "background:", "mask:url(", "content:", "filter:url(", "--x:url(", "url(", ")", "image-set(",
            "\"", "'", "@import ", "@font-face{src:url(", "@media x{", "/*", "*/", "\\", "\n", " ", "<!--", ",", "é", "(", "{",
        ][..]).prop_map(str::to_owned),
        2 => url(),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn page() -> impl Strategy<Value = String> {
    vec(piece(), 0..24).prop_map(|pieces| pieces.concat())
}

fn words(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => select(words).prop_map(str::to_owned),
        1 => "[ -~\u{80}-\u{ff}]{0,4}",
    ];
    vec(word, 0..16).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn trees_differ_in_moved_urls_alone(page in page(), cors in any::<bool>()) {
        let (out, _) = rewrite(cors, [page.as_bytes()]);
        oracle::assert_only_urls_moved(page.as_bytes(), &out);
        holds::rewrite(page.as_bytes());
    }

    #[test]
    fn any_chunking_gives_the_same_bytes(page in page(), seed in 1..u64::MAX, longest in 1..40usize) {
        let (whole, summary) = rewrite(true, [page.as_bytes()]);
        let (cut, cut_summary) = rewrite(true, Random(seed).chunks(page.as_bytes(), longest));
        prop_assert_eq!(String::from_utf8_lossy(&cut), String::from_utf8_lossy(&whole));
        prop_assert_eq!(cut_summary, summary);
    }

    #[test]
    fn a_plan_gives_what_a_scan_does(page in page()) {
        holds::plan(page.as_bytes());
    }

    #[test]
    fn another_page_under_the_same_plan_is_a_correct_page(same in page(), page in page(), other in page()) {
        holds::plan(format!("{same}{page}\x1e{same}{other}").as_bytes());
    }

    #[test]
    fn what_is_explained_is_what_happens(page in page()) {
        holds::explain(page.as_bytes());
    }

    #[test]
    fn srcset_urls_are_those_of_the_standards_algorithm(set in "[ab,() \t\n\r\u{c}\u{1}]{0,24}") {
        holds::srcset(set.as_bytes());
    }

    #[test]
    fn css_urls_are_those_of_the_standards_syntax(css in css_text()) {
        holds::css(css.as_bytes());
    }

    #[test]
    fn references_are_read_as_a_parser_reads_them(value in prop_oneof![url(), words(&[
        "&", "#", "x", "47", ";", "amp", "AMP", "lt", "quot", "apos", "sol", "colon", "copy", "not", "it", "=", "/", ".",
        "?", "0", "128", "1F600", "<", "'",
    ])]) {
        holds::references(value.as_bytes());
    }

    #[test]
    fn policies_let_in_the_server_and_nothing_else(policy in words(&[
        "default-src", "img-src", "script-src", "script-src-elem", "style-src", "font-src", "media-src", "child-src",
        "worker-src", "object-src", " ", " ", " ", ";", ";", ",", "'self'", "'none'", "'strict-dynamic'", "*", "https:", "'nonce-x'",
        "https://eu.offload.example", "upgrade-insecure-requests", "base-uri", "\n",
    ])) {
        holds::csp(policy.as_bytes());
    }

    #[test]
    fn conditions_confirm_what_a_client_would_get_again(tags in words(&[
        "\"", "\"", "W/\"", "abc", "{eu}", "{us}", "{own}", ",", ", ", "\n", "\n", "*", "-ov12345678", "\"abc{eu}\"", "\"abc\"",
    ])) {
        holds::conditions(tags.as_bytes());
        holds::conditions(format!("\"abc\"\n{tags}").as_bytes());
    }

    #[test]
    fn caching_is_never_loosened(head in words(&[
        "200", "404", "\n", "\ncontent-type: text/html", "\ncache-control: ", "\ncache-control: ", "max-age=", "60", "9",
        "s-maxage=9", ",", ", ", "no-store", "no-cache", "private", "public", "\"", "\\", "=", "\nage: 5", "\netag: \"a\"",
        "\ncontent-encoding: gzip", "\ncontent-disposition: ", "attachment", ";", "\nexpires: 0", "\nvary: cookie",
    ])) {
        holds::caching(head.as_bytes());
    }

    #[test]
    fn preloads_in_headers_move_and_nothing_else(link in words(&[
        "</a.png>", "<b.js>", "<//other.example/c.css>", "<", ">", ";", "; ", ",", ", ", "rel=preload", "rel=\"x preload\"",
        "rel=next", "as=image", "as=\"script\"", "as=style", "as=fetch", "crossorigin", "=use-credentials", "integrity=x",
        "imagesrcset=", "\"", "\\", "\n", "title=\"a, b\"",
    ])) {
        holds::link_header(link.as_bytes());
    }

    #[test]
    fn codings_give_back_what_they_took(how in any::<u8>(), bytes in vec(any::<u8>(), 0..200), times in 1..20usize) {
        let mut input = vec![how];
        input.extend(bytes.repeat(times));
        holds::coding(&input);
    }
}

// === exactly what should move ===

/// A row of the table: HTML with a place for each of its links.
#[derive(Debug, Clone, Copy)]
struct Row {
    html: &'static str,
    moves: Moves,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Moves {
    Always,
    /// To a server whose answers may be read from elsewhere.
    WithCors,
    Never,
}

const fn row(html: &'static str, moves: Moves) -> Row {
    Row { html, moves }
}

const ROWS: &[Row] = {
    use Moves::{Always, Never, WithCors};
    &[
        row("<img src=\"{}\">", Always),
        row("<IMG alt=x SRC={}>", Always),
        row("<img srcset='{}'>", Always),
        row("<img srcset=\"{} 1x, {} 2x\" src='{}'>", Always),
        row(
            "<img data-src=\"{}\" data-srcset=\"{} 300w,{} 600w\">",
            Always,
        ),
        row("<img data-zoom=\"{}\">", Always),
        row("<img crossorigin src=\"{}\">", WithCors),
        row("<img crossorigin=use-credentials src=\"{}\">", Never),
        row("<img data-overspill=off src=\"{}\" srcset=\"{}\">", Never),
        row(
            "<picture><source srcset=\"{}, {} 2x\"><img src=\"{}\"></picture>",
            Always,
        ),
        row("<picture><source srcset={}></picture>", Always),
        row(
            "<picture><source srcset=\"{}\"><img crossorigin src=\"{}\"></picture>",
            WithCors,
        ),
        row(
            "<picture><source srcset=\"{}\"><img crossorigin=use-credentials></picture>",
            Never,
        ),
        row("<video src=\"{}\" poster='{}'></video>", Always),
        row(
            "<video><source src=\"{}\"><source src=\"{}\"></video>",
            Always,
        ),
        row("<video crossorigin><source src=\"{}\"></video>", WithCors),
        row("<video><track src=\"{}\"></video>", Never),
        row("<audio src=\"{}\"></audio>", Always),
        row("<audio><source src={}></audio>", Always),
        row("<script src=\"{}\"></script>", Always),
        row(
            "<script async type=\"text/javascript\" src={}></script>",
            Always,
        ),
        row("<script type=module src=\"{}\"></script>", Never),
        row("<script type=application/json src=\"{}\"></script>", Never),
        row("<script>var a = '{}';</script>", Never),
        row("<svg><script href=\"{}\"></script></svg>", Always),
        row("<svg><script xlink:href=\"{}\"></script></svg>", Always),
        row(
            "<svg><image href=\"{}\"/><image xlink:href='{}'/></svg>",
            Always,
        ),
        row(
            "<svg><use href=\"{}\"/><use xlink:href=\"{}\"/></svg>",
            Never,
        ),
        row(
            "<svg><a href=\"{}\"></a><feImage href=\"{}\"/></svg>",
            Never,
        ),
        row("<link rel=stylesheet href=\"{}\">", WithCors),
        row(
            "<link rel='alternate stylesheet' title=x href='{}'>",
            WithCors,
        ),
        row("<link rel=\"shortcut icon\" href=\"{}\">", Always),
        row("<link rel=apple-touch-icon href={}>", Always),
        row(
            "<link rel=preload as=image href=\"{}\" imagesrcset=\"{} 1x, {} 2x\">",
            Always,
        ),
        row("<link rel=preload as=script href=\"{}\">", Always),
        row("<link rel=preload as=style href=\"{}\">", WithCors),
        row(
            "<link rel=preload as=font crossorigin href=\"{}\">",
            WithCors,
        ),
        row("<link rel=preload as=video href=\"{}\">", Always),
        row("<link rel=preload as=fetch href=\"{}\">", Never),
        row("<link rel=modulepreload href=\"{}\">", Never),
        row(
            "<link rel=manifest href=\"{}\"><link rel=next href=\"{}\">",
            Never,
        ),
        row(
            "<link rel=canonical href=\"{}\"><link rel=prefetch href=\"{}\">",
            Never,
        ),
        row("<input type=image src=\"{}\">", Always),
        row("<input src=\"{}\"><input type=text src=\"{}\">", Never),
        row(
            "<table background=\"{}\"><tr background={}><td background='{}'></table>",
            Always,
        ),
        row(
            "<table><thead background='{}'><tr><th background=\"{}\"></thead></table>",
            Always,
        ),
        row(
            "<table><tbody background='{}'></tbody><tfoot background=\"{}\"></table>",
            Always,
        ),
        row("<div background=\"{}\"></div>", Never),
        row("<p style=\"background:url({})\"></p>", Always),
        row("<p style='color:red;list-style:url(\"{}\")'></p>", Always),
        row("<p style=\"mask-image:url('{}')\"></p>", WithCors),
        row("<p style=\"filter:url('{}')\"></p>", Never),
        row(
            "<style>p{background:url({})}q{content:url('{}')}</style>",
            Always,
        ),
        row(
            "<style>@import \"{}\";@import url({}) screen;</style>",
            WithCors,
        ),
        row(
            "<style>@font-face{src:url({}),url(\"{}\")}</style>",
            WithCors,
        ),
        row("<style>p{clip-path:url({})}/* url({}) */</style>", Never),
        row(
            "<a href=\"{}\" ping=\"{}\"></a><map><area href=\"{}\"></map>",
            Never,
        ),
        row(
            "<form action=\"{}\"></form><iframe src=\"{}\"></iframe>",
            Never,
        ),
        row("<object data=\"{}\"></object><embed src=\"{}\">", Never),
        row(
            "<noscript><img src=\"{}\"></noscript><!-- <img src=\"{}\"> -->",
            Never,
        ),
        row("<textarea><img src=\"{}\"></textarea>", Never),
        row("<template><img src=\"{}\"></template>", Always),
        row(
            "<div data-overspill=off><img src=\"{}\"><script src=\"{}\"></script></div>",
            Never,
        ),
        row(
            "<script integrity=sha256-x crossorigin src=\"{}\"></script>",
            WithCors,
        ),
        row("<p>{}</p>", Never),
    ]
};

/// The row with these links in its places.
fn filled(row: &str, links: &[String]) -> String {
    let mut parts = row.split("{}");
    let mut html = parts.next().unwrap_or_default().to_owned();
    for (part, link) in parts.zip(links.iter().cycle()) {
        html += link;
        html += part;
    }
    html
}

/// A link to an object of the site, and where it moves.
fn own() -> impl Strategy<Value = (String, String)> {
    let start = select(
        &[
            ("/", "/"),
            ("", "/docs/guide/"),
            ("./", "/docs/guide/"),
            ("../", "/docs/"),
            ("../../../", "/"),
            ("http://www.example.com/", "/"),
            ("https://WWW.example.com/", "/"),
            ("//www.example.com:80/", "/"),
            ("//127.0.0.1:8080/", "/"),
        ][..],
    );
    let path = "[a-z][a-z0-9_~.-]{0,5}(/(%20|%2B|%c3%a4)?[A-Za-z,;@!]{0,4}[a-z]){0,2}";
    let end = select(
        &[
            ".png",
            ".css",
            ".js",
            ".woff2",
            ".webp?w=1",
            ".mp4#t=1",
            ".svg?a=1&amp;b=2",
            ".gif?%20",
        ][..],
    );
    (start, path, end).prop_map(|((start, folder), path, end)| {
        (
            format!("{start}{path}{end}"),
            format!("{PREFIX}{folder}{path}{end}"),
        )
    })
}

/// A link that stays wherever it stands.
fn foreign() -> impl Strategy<Value = String> {
    let start = select(
        &[
            "https://other.example/",
            "//other.example/",
            "http://www.example.com:81/",
            "//user@www.example.com/",
            "/excluded/",
            "../../excluded/",
            "ftp://www.example.com/",
        ][..],
    );
    prop_oneof![
        4 => (start, "[a-z]{1,4}", select(&[".png", ".js?x=1&amp;y=2", ".css#f"][..]))
            .prop_map(|(start, name, end)| format!("{start}{name}{end}")),
        1 => select(&[
            "data:image/png;base64,AAAA", "blob:http://www.example.com/1.png", "javascript:void-0", "#a.png", "page.html",
            "/api/data.json", "/",
        ][..]).prop_map(str::to_owned),
    ]
}

#[derive(Debug, Clone)]
enum Link {
    Own(String, String),
    Foreign(String),
}

fn link() -> impl Strategy<Value = Link> {
    prop_oneof![
        2 => own().prop_map(|(link, moved)| Link::Own(link, moved)),
        1 => foreign().prop_map(Link::Foreign),
    ]
}

impl Link {
    fn before(&self) -> String {
        match self {
            Self::Own(link, _) | Self::Foreign(link) => link.clone(),
        }
    }

    fn after(&self) -> String {
        match self {
            Self::Own(_, moved) => moved.clone(),
            Self::Foreign(link) => link.clone(),
        }
    }
}

/// In `<style>` no reference is one.
fn fits(row: &Row, link: &str) -> bool {
    let in_text = row.html.starts_with("<style");
    // A fragment may name a part of a document, which browsers take from the same origin alone.
    let is_mask = row.html.contains("mask-image");
    !(is_mask && link.contains('#')
        || in_text && link.contains('&')
        || row.html.contains("url({})") && link.contains(['(', '\'']))
}

fn rows() -> impl Strategy<Value = Vec<(Row, Vec<Link>)>> {
    let row = (select(ROWS), vec(link(), 3)).prop_filter("the link fits", |(row, links)| {
        links.iter().all(|link| fits(row, &link.before()))
    });
    vec(row, 0..12)
}

/// CSS as people and their tools write it.
fn valid_css() -> impl Strategy<Value = (String, String)> {
    let plain = select(
        &[
            "color:red",
            "margin:0 1px",
            "quotes:'url(a.png)'",
            "width:calc(1px + 2%)",
        ][..],
    );
    let property = select(
        &[
            "background",
            "background-image",
            "list-style",
            "border-image",
            "content",
            "cursor",
            "BACKGROUND",
        ][..],
    );
    let form = select(
        &[
            "url({})",
            "url( {} )",
            "url('{}')",
            "url(\"{}\")",
            "URL({}) no-repeat,red",
            "image-set('{}' 1x)",
            "image-set(url({}) 1x, 'data:,x' 2x)",
            "linear-gradient(red,blue),url({}) !important",
            "/* url(x.png) */ url({})",
        ][..],
    );
    let link = link().prop_filter("CSS knows no references", |link| {
        !link.before().contains(['&', '(', '\''])
    });
    let declaration = (property, form, link, plain).prop_map(|(property, form, link, plain)| {
        let text = |link: String| {
            let value = form.replace("{}", &link);
            format!("{plain};{property}: {value};")
        };
        (text(link.before()), text(link.after()))
    });
    let rule = (
        select(
            &[
                "a:hover",
                ".b > c::before",
                "@media (min-width: 1px) { d",
                "@supports (x: y) { e",
                "[f='url(x)']",
            ][..],
        ),
        vec(declaration, 0..4),
    );
    vec(rule, 0..6).prop_map(|rules| {
        let (mut before, mut after) = (String::new(), String::new());
        for (selector, declarations) in rules {
            let close = if selector.starts_with('@') {
                "}}\n"
            } else {
                "} "
            };
            for (text, index) in [(&mut before, 0), (&mut after, 1)] {
                *text += selector;
                *text += " { ";
                for (old, new) in &declarations {
                    *text += if index == 0 { old } else { new };
                }
                *text += close;
            }
        }
        (before, after)
    })
}

/// A srcset as the standard allows authors to write it (4.8.4.2.1).
fn valid_srcset() -> impl Strategy<Value = (String, String)> {
    let descriptor = select(&["", " 1x", " 2.5x", " 100w", "\n200w", " 100w 50h", "  3x "][..]);
    let between = select(&[", ", ",\n\t", " , "][..]);
    vec((link(), descriptor, between), 0..8).prop_map(|candidates| {
        let (mut before, mut after) = (String::new(), String::new());
        for (link, descriptor, between) in candidates {
            before += &format!("{}{descriptor}{between}", link.before());
            after += &format!("{}{descriptor}{between}", link.after());
        }
        (before, after)
    })
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn all_of_the_table_moves_and_nothing_else(rows in rows(), cors in any::<bool>(), seed in 1..u64::MAX) {
        let (mut page, mut expected) = ("<!doctype html><body>".to_owned(), String::new());
        expected += &page;
        for (row, links) in &rows {
            let before: Vec<_> = links.iter().map(Link::before).collect();
            let after: Vec<_> = links.iter().map(Link::after).collect();
            let moves = match row.moves {
                Moves::Always => true,
                Moves::WithCors => cors,
                Moves::Never => false,
            };
            page += &filled(row.html, &before);
            expected += &filled(row.html, if moves { &after } else { &before });
        }
        let (out, _) = rewrite(cors, Random(seed).chunks(page.as_bytes(), 50));
        prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn every_url_of_a_valid_srcset_moves((set, moved) in valid_srcset()) {
        for [open, close] in [["<img srcset=\"", "\">"], ["<picture><source srcset='\n ", "'></picture>"]] {
            let (out, _) = rewrite(false, [format!("{open}{set}{close}").as_bytes()]);
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{open}{moved}{close}"));
        }
    }

    #[test]
    fn every_url_of_valid_css_moves((css, moved) in valid_css()) {
        let page = |css: &str| format!("<style>\n{css}</style><p style=\"--a:{{{}}}\">", css.replace('"', "&quot;"));
        let (out, _) = rewrite(true, [page(&css).as_bytes()]);
        let out = String::from_utf8(out).unwrap();
        let (style, _) = out.split_once("</style>").unwrap();
        prop_assert_eq!(style, format!("<style>\n{moved}"));
        oracle::assert_only_urls_moved(page(&css).as_bytes(), out.as_bytes());
    }
}

#[test]
fn nothing_to_move_is_byte_identical() {
    let moved = Cell::new(0);
    let result = TestRunner::new(config(300)).run(
        &(rows(), vec(foreign(), 3), 1..u64::MAX),
        |(rows, links, seed)| {
            let with = |links: &[String]| -> String {
                let rows = rows
                    .iter()
                    .filter(|(row, _)| links.iter().all(|link| fits(row, link)));
                rows.map(|(row, _)| filled(row.html, links)).collect()
            };
            let page = with(&links);
            let (out, summary) = rewrite(true, Random(seed).chunks(page.as_bytes(), 50));
            prop_assert_eq!(String::from_utf8(out).unwrap(), page);
            prop_assert_eq!(summary.links, 0);
            // It is not for want of places: there, other links move.
            let page = with(&["/a.png".to_owned()]);
            moved.set(moved.get() + rewrite(true, [page.as_bytes()]).1.links);
            Ok(())
        },
    );
    if let Err(TestError::Fail(reason, input)) = result {
        panic!("{reason}: {input:?}");
    }
    assert!(moved.get() > 500, "only {} would move", moved.get());
}
