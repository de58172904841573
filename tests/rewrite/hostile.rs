//! Pages that nobody should have written: the right bytes come out, in bounded memory.

use bytes::BytesMut;
use overspill::rewrite::BailOut;

use super::{PREFIX, Random, oracle, rewrite, rewriter, site};

/// What has no links of ours, or none that can be seen, comes out as it went in.
fn assert_unchanged(page: &[u8]) {
    for longest in [usize::MAX - 1, 16 * 1024, 1000] {
        let (out, summary) = rewrite(true, Random(7).chunks(page, longest));
        assert!(out == page, "changed");
        assert_eq!(summary.links, 0);
    }
}

#[test]
fn empty_pages_stay_empty() {
    assert_unchanged(b"");
    let (out, _) = rewrite(true, [&b""[..], b"", b""]);
    assert!(out.is_empty());
}

#[test]
fn one_byte_is_a_page() {
    for byte in 0..=255 {
        assert_unchanged(&[byte]);
    }
}

#[test]
fn binary_comes_out_byte_for_byte() {
    let mut random = Random(42);
    let noise: Vec<u8> = (0..1_000_000).map(|_| random.below(256) as u8).collect();
    assert_unchanged(&noise);
    assert_unchanged(&vec![0; 100_000]);
    assert_unchanged(&b"<".repeat(100_000));
    assert_unchanged(&b"<!--".repeat(100_000));
    assert_unchanged(&b"</".repeat(100_000));
    assert_unchanged(&b"<img ".repeat(20_000));
}

#[test]
fn utf_16_passes() {
    for little in [true, false] {
        let mark = std::iter::once(0xFEFF);
        let units = mark.chain("<img src=\"/a.png\">".encode_utf16());
        let page: Vec<u8> = units
            .flat_map(|unit| {
                if little {
                    unit.to_le_bytes()
                } else {
                    unit.to_be_bytes()
                }
            })
            .collect();
        assert_unchanged(&page);
        let (_, summary) = rewrite(true, page.chunks(1));
        assert_eq!(summary.bail_out, Some(BailOut::Encoding));
    }
}

#[test]
fn deep_nesting_bails_out_and_keeps_every_byte() {
    let mut page = b"<img src=\"/a.png\">".to_vec();
    page.extend(b"<div>".repeat(100_000));
    page.extend(b"<img src=\"/b.png\">");
    for chunk in [page.len(), 4096] {
        let (out, summary) = rewrite(true, page.chunks(chunk));
        assert_eq!(summary.bail_out, Some(BailOut::Memory));
        assert_eq!(summary.links, 1);
        let expected = [b"<img src=\"", PREFIX.as_bytes(), &page[10..]].concat();
        assert!(out == expected, "bytes were lost");
    }
}

#[test]
fn an_attribute_of_ten_megabytes_bails_out_and_keeps_every_byte() {
    let long = "x".repeat(10_000_000);
    let page =
        format!("<img src=\"/a.png\"><img src=\"/b.png\" alt=\"{long}\"><img src=\"/c.png\">");
    for chunk in [page.len(), 16 * 1024] {
        let (out, summary) = rewrite(true, page.as_bytes().chunks(chunk));
        assert_eq!(summary.bail_out, Some(BailOut::TagSize));
        assert_eq!(summary.links, 1);
        assert_eq!(out.len(), page.len() + PREFIX.len());
        assert!(out.ends_with(b"<img src=\"/c.png\">"));
    }
}

#[test]
fn a_hundred_thousand_images_move() {
    let page = "<p><img src=\"/a.png\"></p>\n".repeat(100_000);
    let (out, summary) = rewrite(true, page.as_bytes().chunks(16 * 1024));
    assert_eq!(summary.links, 100_000);
    assert_eq!(
        summary.objects.len(),
        overspill::rewrite::Summary::MAX_OBJECTS
    );
    let expected = format!("<p><img src=\"{PREFIX}/a.png\"></p>\n").repeat(100_000);
    assert!(out == expected.as_bytes());
}

#[test]
fn a_srcset_of_a_hundred_kilobytes_moves_each_url() {
    let set: String = (0..8_000).map(|n| format!("/{n}.png {n}w, ")).collect();
    let page = format!("<img srcset=\"{set}\">");
    let (out, summary) = rewrite(true, page.as_bytes().chunks(999));
    assert_eq!(summary.links, 8_000);
    assert_eq!(oracle::assert_only_urls_moved(page.as_bytes(), &out), 8_000);
}

#[test]
fn a_style_of_fifty_megabytes_passes_and_what_follows_moves() {
    let rule = "p > a { background: url(/in-style.png); color: #123 }\n".repeat(1_000);
    let (mut rewriter, mut out) = (rewriter(true), BytesMut::new());
    let mut push = |text: &str, expected: usize| {
        rewriter.push(text.as_bytes(), &mut out);
        let more = out.len().abs_diff(expected);
        // No more than a style's cap waits.
        assert!(more <= 64 * 1024, "{more}");
        out.clear();
        more
    };
    push("<img src=/a.png><style>", 23 + PREFIX.len());
    let mut behind = 0;
    for _ in 0..1_000 {
        behind = push(&rule, rule.len() + behind);
    }
    assert_eq!(behind, 0, "once it is too long, nothing waits");
    push("</style>", 8);
    push("<img src=/b.png>", 16 + PREFIX.len());
    let summary = rewriter.finish(&mut out);
    assert_eq!((summary.links, summary.bail_out), (2, None));
}

#[test]
fn a_srcset_of_a_megabyte_bails_out_and_keeps_every_byte() {
    let set: String = (0..80_000).map(|n| format!("/{n}.png {n}w, ")).collect();
    assert!(set.len() > 1_000_000);
    let page = format!("<img src=\"/a.png\"><img srcset=\"{set}\"><img src=\"/b.png\">");
    for chunk in [page.len(), 1000] {
        let (out, summary) = rewrite(true, page.as_bytes().chunks(chunk));
        assert_eq!(summary.bail_out, Some(BailOut::TagSize));
        let expected = page.replacen("/a.png", &format!("{PREFIX}/a.png"), 1);
        assert!(out == expected.as_bytes(), "bytes were lost");
    }
}

#[test]
fn tags_and_attributes_that_never_end_keep_every_byte() {
    for open in [
        "<img src=\"/b.png",
        "<img src='/b.png",
        "<img src=/b.png",
        "<img src",
        "<img ",
        "<img",
        "<",
        "</",
        "</p",
        "<!",
        "<!--",
        "<!-",
        "<!doctype",
        "<?",
        "<img src=\"/b.png\" alt=\"x",
        "<script>",
        "<script src=/b.js",
        "<style>p{background:url(/b.png)}",
        "<style>p{background:url(/b.png)}</style",
        "<textarea>",
        "<title>",
        "<picture><source srcset=/b.png>",
        "<svg><style>",
        "<svg><![CDATA[",
        "<plaintext>",
        "<p style=\"background:url(/b.png)",
        "<template>",
        "<meta http-equiv=content-security-policy content=\"img-src 'self'",
    ] {
        for more in ["", "x", " x=\"1", "\n<p>some text</p>\n"] {
            let page = format!("<img src=/a.png>{open}{more}");
            for longest in [page.len(), 3] {
                let (out, summary) = rewrite(true, Random(3).chunks(page.as_bytes(), longest));
                let out = String::from_utf8(out).unwrap();
                assert_eq!(out.replace(PREFIX, ""), page);
                // A tag that is whole all the same, up to the next one's end.
                let moves = [
                    "<img src=/",
                    "<script src=/",
                    "<style>p{background:url(/b.png)}</style",
                ];
                let ends = more.ends_with(">\n");
                let whole = ends && moves.iter().any(|tag| open.starts_with(tag));
                assert_eq!(summary.links, 1 + u32::from(whole), "{page}");
                oracle::assert_only_urls_moved(page.as_bytes(), out.as_bytes());
            }
        }
    }
}

#[test]
fn attributes_that_stand_there_twice_count_once() {
    let mut page = String::from("<img");
    for n in 0..2_000 {
        page += &format!(" src=/{n}.png SRCSET='/{n}.png 2x'");
    }
    page += ">";
    let (out, summary) = rewrite(true, page.as_bytes().chunks(100));
    assert_eq!(summary.links, 2);
    assert_eq!(oracle::assert_only_urls_moved(page.as_bytes(), &out), 2);
    let expected = page.replacen("/0", &format!("{PREFIX}/0"), 2);
    assert!(out == expected.as_bytes());
}

#[test]
fn urls_with_any_character_are_read_as_a_browser_reads_them() {
    let mut moved = 0;
    let bytes = (0..=255_u8).map(|byte| vec![byte]);
    let others = [
        "\u{85}",
        "\u{a0}",
        "\u{ad}",
        "é",
        "ß",
        "\u{200b}",
        "\u{2028}",
        "\u{3002}",
        "\u{fe0f}",
        "\u{feff}",
        "\u{ff0e}",
        "\u{ff0f}",
        "\u{fffd}",
        "𝄞",
        "&#0;",
        "&#9;",
        "&#10;",
        "&#13;",
        "&#32;",
        "&#127;",
        "&#128;",
        "&#160;",
        "&#xd800;",
        "&Tab;",
        "&NewLine;",
        "%",
        "%0",
        "%2f",
        "%2E",
        "%00",
        "%%",
        "\r\n",
        "..",
        "/./",
        "/../",
        "\\..\\",
        "//",
        "@",
        ":",
        ":80",
        "?#",
        "#?",
        "[",
        "]",
        "[::1]",
        "|",
        "^",
        "`",
        "{",
        "}",
        "<",
        ">",
    ];
    let others = others.into_iter().map(|text| text.as_bytes().to_vec());
    for class in bytes.chain(others) {
        let urls = [
            "{}/a.png",
            "/{}a.png",
            "/a{}b.png",
            "/a/{}/b.png",
            "/a.png{}",
            "/a.png?{}",
            "/a.png?x={}&amp;y",
            "/a.png#{}",
            "//www.example.com{}/a.png",
            "//{}www.example.com/a.png",
            "http:{}//www.example.com/a.png",
            "ht{}tp://www.example.com/a.png",
            "{}",
            "../{}a.png",
            ".{}./a.png",
        ];
        for [before, after] in [
            ["<img src=\"", "\">"],
            ["<img srcset='", " 1x, /b.png 2x'>"],
            ["<p style=\"background:url('", "')\">"],
            ["<style>p{background:url(", ")}</style>"],
        ] {
            let mut page = Vec::new();
            for url in urls {
                page.extend_from_slice(before.as_bytes());
                let parts: Vec<_> = url.split("{}").map(str::as_bytes).collect();
                page.extend_from_slice(&parts.join(&class[..]));
                page.extend_from_slice(after.as_bytes());
            }
            let (out, _) = site::rewrite(
                site::rewriter(site::any_rules(), site::allowance(true)),
                page.chunks(5),
            );
            moved += oracle::assert_only_urls_moved(&page, &out);
        }
    }
    assert!(moved > 10_000, "{moved} moved");
}

#[test]
fn bytes_of_no_charset_and_of_several_are_passed_on() {
    let mut random = Random(11);
    let samples: [&[u8]; 8] = [
        b"\xff\xfe",
        b"\xc3\x28",
        b"\xe2\x82",
        b"\xf0\x9f\x98\x80",
        b"\x83\x5c",
        b"\xa4\xa2",
        b"\x1b$B$\"\x1b(B",
        b"\xed\xa0\x80",
    ];
    for _ in 0..300 {
        let mut page = Vec::new();
        for _ in 0..12 {
            page.extend_from_slice(samples[random.below(samples.len())]);
            let around: [&[u8]; 6] = [
                b"<img src=\"/a.png\" alt=\"",
                b"\"><img src=",
                b" ><p style='background:url(/",
                b")'>",
                b"<meta charset=utf-8>",
                b"<style>p{background:url(/b.png)}</style>",
            ];
            page.extend_from_slice(around[random.below(around.len())]);
        }
        let (out, _) = rewrite(true, random.chunks(&page, 40));
        oracle::assert_only_urls_moved(&page, &out);
    }
}

#[test]
fn a_long_page_is_not_kept() {
    let mut rewriter = rewriter(true);
    let chunk =
        "<p>text <picture><source srcset=\"/a.webp\"><img src=\"/a.png\"></picture>".repeat(200);
    let mut out = BytesMut::new();
    let mut longest = 0;
    for _ in 0..250 {
        rewriter.push(b"<div>", &mut out);
        rewriter.push(chunk.as_bytes(), &mut out);
        rewriter.push(b"</div>", &mut out);
        longest = longest.max(out.capacity());
        out.clear();
    }
    let summary = rewriter.finish(&mut out);
    assert_eq!(summary.bail_out, None);
    assert_eq!(summary.links, 100_000);
    // What comes out with a chunk is that chunk and the prefixes in it.
    assert!(longest < 8 * chunk.len(), "{longest}");
}

#[test]
fn an_endless_picture_holds_no_more_than_it_may() {
    let mut rewriter = rewriter(true);
    let mut out = BytesMut::new();
    rewriter.push(b"<picture><source srcset=\"/a.webp\">", &mut out);
    let text = [b'x'; 1024];
    for _ in 0..64 {
        rewriter.push(&text, &mut out);
    }
    assert!(out.len() > 32 * 1024);
    rewriter.push(b"<img src=\"/b.png\">", &mut out);
    let summary = rewriter.finish(&mut out);
    assert_eq!(summary.links, 1);
    assert!(out.starts_with(b"<picture><source srcset=\"/a.webp\">"));
}

#[test]
fn pages_cut_anywhere_keep_their_bytes() {
    let page = b"<picture><source srcset='/a.png, /b.png'><img src=/c.png alt='<'></picture><script src=\"d.js\"></script>";
    let (whole, _) = rewrite(true, [&page[..]]);
    let whole = String::from_utf8(whole).unwrap();
    for end in 0..page.len() {
        let (out, _) = rewrite(true, page[..end].chunks(3));
        let out = String::from_utf8(out).unwrap();
        let back = out
            .replace(&format!("{PREFIX}/docs/guide/"), "")
            .replace(PREFIX, "");
        assert_eq!(back.as_bytes(), &page[..end]);
    }
    assert_eq!(whole.matches(PREFIX).count(), 4);
}

#[test]
fn what_is_pushed_after_the_end_passes() {
    let mut rewriter = rewriter(true);
    let mut out = BytesMut::new();
    rewriter.push(b"<img src=/a.png>", &mut out);
    assert_eq!(rewriter.finish(&mut out).links, 1);
    rewriter.push(b"<img src=/a.png>", &mut out);
    assert_eq!(rewriter.finish(&mut out).links, 0);
    assert!(out.ends_with(b"><img src=/a.png>"));
}

#[test]
fn text_that_looks_like_links_is_left_alone() {
    let mut wrong = Vec::new();
    for before in [
        "<svg/>",
        "<math/>",
        "<svg><desc/>",
        "<svg><desc></svg>",
        "<svg><p>",
        "<svg><font color=x>",
        "<svg></p>",
        "<math><mi></math>",
        "<math><annotation-xml encoding='text/html'></math>",
        "<svg><title></svg></title></svg>",
        "<table><svg><tr>",
        "<select>",
        "<table><select>",
        "<svg><svg/>",
        "<frameset>",
        "<template>",
        "<svg><foreignObject/><svg/>",
        "<p><svg></p>",
        "<svg></svg/>",
        "<b><svg></b>",
        "<svg><b>",
        "<math><mglyph>",
        "<math><mi><mglyph>",
        "<math><mtext><malignmark>",
        "<svg><![CDATA[<img src='/c.png'>]]>",
        "<svg><image></svg>",
        "<noscript>",
        "<noscript><p></noscript>",
        "<head><noscript><style></noscript>",
        "<plaintext>",
        "<table><style></style>",
        "<textarea><svg></textarea>",
        "<svg><svg><div>",
        "<svg><math><svg><p>",
        "<div><svg></div>",
        "<svg><style></style></svg>",
        "<svg><title/>",
        "<svg/><title/>",
        "<svg/><base href=/x/><div>",
    ] {
        for element in [
            "script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes",
        ] {
            for after in [
                "",
                "</svg>",
                "</math>",
                "<div>",
                "<![CDATA[>",
                "<![CDATA[]]>",
            ] {
                let page = format!(
                    "{before}{after}<{element}>]]>'<img src=\"/a.png\">'</{element}>]]><img src=\"/b.png\">"
                );
                let (out, _) = rewrite(true, [page.as_bytes()]);
                let same = std::panic::catch_unwind(|| {
                    oracle::assert_only_urls_moved(page.as_bytes(), &out)
                });
                if same.is_err() {
                    wrong.push(page);
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
