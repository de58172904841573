//! The URLs of embedded objects in CSS (CSS Syntax 3), found by a real tokenizer.
//!
//! | where | kind | fetched with CORS |
//! |---|---|---|
//! | `background`, `list-style`, `border-image`, `content`, `cursor` and their parts | picture | no |
//! | `mask` and its parts, `shape-outside` | picture | yes |
//! | custom properties | picture | maybe: whoever uses them decides |
//! | `src` in `@font-face` | font | yes |
//! | `@import` in front of all rules | stylesheet | as the server of stylesheets has to |
//!
//! Nothing else is listed: `filter`, `clip-path`, `fill` and the like name parts of documents, which browsers
//! take from the same origin alone.

use std::ops::Range;

use cssparser::{ParseError, Parser, ParserInput, Token};

use super::Kind;

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// The text of a `<style>`.
    Stylesheet,
    /// The value of a `style` attribute.
    Declarations,
}

/// A URL in CSS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CssUrl {
    /// The bytes of the URL itself, without quotes and `url(`.
    pub range: Range<usize>,
    /// What it is fetched as.
    pub kind: Kind,
    /// Whether browsers fetch it with CORS.
    pub cors: bool,
}

/// Blocks within blocks are followed so deep.
const MAX_DEPTH: usize = 32;

/// The URLs of embedded objects, in order. What is in doubt is not listed: URLs with CSS escapes, with
/// modifiers, or without an end.
pub fn urls(css: &str, text: Text) -> Vec<CssUrl> {
    if !may_embed(css.as_bytes()) {
        return Vec::new();
    }
    let mut input = ParserInput::new(css);
    let mut reader = Reader {
        css,
        found: Vec::new(),
        imports: text == Text::Stylesheet,
    };
    let mut parser = Parser::new(&mut input);
    reader.block(&mut parser, Block::Rules, 0);
    reader.found
}

/// Whether there may be anything to find: most CSS of pages embeds nothing, and to know that takes no tokenizer.
fn may_embed(css: &[u8]) -> bool {
    let ends_with = |text: &[u8], end: &[u8]| {
        let start = text.len().checked_sub(end.len());
        start.is_some_and(|start| text[start..].eq_ignore_ascii_case(end))
    };
    // `url(`, `image-set(`; `@import`.
    css.iter().enumerate().any(|(index, b)| match b {
        b'(' => ends_with(&css[..index], b"url") || ends_with(&css[..index], b"-set"),
        b'@' => css[index..].len() > 4 && css[index + 1..index + 4].eq_ignore_ascii_case(b"imp"),
        _ => false,
    })
}

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Rules, declarations, or both: which is not known before it is read.
    Rules,
    /// The declarations of a font.
    FontFace,
    /// What nothing is to be found in.
    Other,
}

/// What a declaration's URLs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Property {
    Picture,
    /// Fetched with CORS; with a fragment it may name a part of a document.
    Cors,
    Font,
    Other,
}

struct Reader<'a> {
    css: &'a str,
    found: Vec<CssUrl>,
    /// Whether an `@import` counts still.
    imports: bool,
}

type Nothing<'i> = Result<(), ParseError<'i, ()>>;

impl Property {
    fn named(name: &str, block: Block) -> Self {
        let name = name.to_ascii_lowercase();
        match (name.as_str(), block) {
            ("src", Block::FontFace) => Self::Font,
            (_, Block::FontFace | Block::Other) => Self::Other,
            (
                "background"
                | "background-image"
                | "list-style"
                | "list-style-image"
                | "border-image"
                | "border-image-source"
                | "-webkit-border-image"
                | "content"
                | "cursor",
                _,
            ) => Self::Picture,
            (
                "mask"
                | "mask-image"
                | "-webkit-mask"
                | "-webkit-mask-image"
                | "mask-border"
                | "mask-border-source"
                | "-webkit-mask-box-image"
                | "-webkit-mask-box-image-source"
                | "shape-outside",
                _,
            ) => Self::Cors,
            (custom, _) if custom.starts_with("--") => Self::Cors,
            _ => Self::Other,
        }
    }
}

impl Reader<'_> {
    /// Reads what a block holds, up to its end.
    fn block(&mut self, parser: &mut Parser<'_, '_>, block: Block, depth: usize) {
        let mut property = Property::Other;
        let mut name: Option<String> = None;
        let mut next = Block::Rules;
        loop {
            let start = parser.position().byte_index();
            let Ok(token) = parser.next_including_whitespace() else {
                return;
            };
            let token = token.clone();
            let named = name.take();
            match token {
                Token::WhiteSpace(_) => name = named,
                Token::Ident(ident) if property == Property::Other => {
                    name = Some(ident.to_string())
                }
                Token::Colon => {
                    if let Some(named) = named {
                        property = Property::named(&named, block);
                    }
                }
                Token::Semicolon => (property, next) = (Property::Other, Block::Rules),
                Token::AtKeyword(keyword) => {
                    property = Property::Other;
                    next = self.at_rule(parser, &keyword, depth);
                }
                Token::CurlyBracketBlock => {
                    self.imports = false;
                    let inner = if block == Block::Other { block } else { next };
                    self.nested(parser, inner, depth);
                    (property, next) = (Property::Other, Block::Rules);
                }
                Token::UnquotedUrl(_)
                | Token::QuotedString(_)
                | Token::Function(_)
                | Token::ParenthesisBlock
                | Token::SquareBracketBlock => {
                    self.value(parser, &token, start, property, depth, false);
                }
                _ => {}
            }
        }
    }

    fn nested(&mut self, parser: &mut Parser<'_, '_>, block: Block, depth: usize) {
        let _: Nothing<'_> = parser.parse_nested_block(|parser| {
            if depth < MAX_DEPTH {
                self.block(parser, block, depth + 1);
            }
            Ok(())
        });
    }

    /// A token of a value that may be, or hold, a URL. In `image-set()` strings are URLs.
    fn value(
        &mut self,
        parser: &mut Parser<'_, '_>,
        token: &Token<'_>,
        start: usize,
        property: Property,
        depth: usize,
        strings: bool,
    ) {
        match token {
            Token::UnquotedUrl(url) => {
                let end = parser.position().byte_index();
                self.unquoted(start..end, url, property);
            }
            Token::QuotedString(string) if strings => {
                let end = parser.position().byte_index();
                self.quoted(start..end, string, property);
            }
            Token::Function(name) if name.eq_ignore_ascii_case("url") => {
                let _: Nothing<'_> = parser.parse_nested_block(|parser| {
                    if let Some((range, string)) = only_string(parser) {
                        self.quoted(range, &string, property);
                    }
                    Ok(())
                });
            }
            Token::Function(_) | Token::ParenthesisBlock | Token::SquareBracketBlock => {
                let strings = matches!(token, Token::Function(name)
                    if name.eq_ignore_ascii_case("image-set") || name.eq_ignore_ascii_case("-webkit-image-set"));
                let _: Nothing<'_> = parser.parse_nested_block(|parser| {
                    if depth < MAX_DEPTH {
                        self.values(parser, property, depth + 1, strings);
                    }
                    Ok(())
                });
            }
            _ => {}
        }
    }

    fn values(
        &mut self,
        parser: &mut Parser<'_, '_>,
        property: Property,
        depth: usize,
        strings: bool,
    ) {
        loop {
            parser.skip_whitespace();
            let start = parser.position().byte_index();
            let Ok(token) = parser.next_including_whitespace() else {
                return;
            };
            let token = token.clone();
            self.value(parser, &token, start, property, depth, strings);
        }
    }

    /// What an at-rule's block holds. Its prelude is read here: nothing of it is a declaration.
    fn at_rule(&mut self, parser: &mut Parser<'_, '_>, keyword: &str, depth: usize) -> Block {
        let is = |name: &str| keyword.eq_ignore_ascii_case(name);
        let import = is("import") && depth == 0 && self.imports;
        if !(is("charset") || is("layer") || is("import")) {
            self.imports = false;
        }
        let block = match keyword.to_ascii_lowercase().as_str() {
            "font-face" => Block::FontFace,
            "media" | "supports" | "layer" | "container" | "scope" | "starting-style"
            | "keyframes" | "-webkit-keyframes" | "page" => Block::Rules,
            _ => Block::Other,
        };
        let _: Nothing<'_> = parser.parse_until_before(
            cssparser::Delimiter::Semicolon | cssparser::Delimiter::CurlyBracketBlock,
            |parser| {
                if import {
                    self.import(parser);
                }
                while parser.next().is_ok() {}
                Ok(())
            },
        );
        block
    }

    fn import(&mut self, parser: &mut Parser<'_, '_>) {
        parser.skip_whitespace();
        let start = parser.position().byte_index();
        let Ok(token) = parser.next() else { return };
        let token = token.clone();
        let end = parser.position().byte_index();
        let before = self.found.len();
        match &token {
            Token::QuotedString(string) => self.quoted(start..end, string, Property::Picture),
            _ => self.value(parser, &token, start, Property::Picture, MAX_DEPTH, false),
        }
        for import in &mut self.found[before..] {
            import.kind = Kind::Style;
        }
    }

    /// `url(x)`.
    fn unquoted(&mut self, token: Range<usize>, url: &str, property: Property) {
        let text = &self.css[token.clone()];
        let Some(inner) = text.get(4..).and_then(|inner| inner.strip_suffix(')')) else {
            return;
        };
        let spaces = |c: char| c.is_ascii_whitespace();
        let start = token.start + 4 + inner.len() - inner.trim_start_matches(spaces).len();
        self.push(
            start..start + inner.trim_matches(spaces).len(),
            url,
            property,
        );
    }

    /// `"x"`.
    fn quoted(&mut self, token: Range<usize>, url: &str, property: Property) {
        let text = self.css[token.clone()].as_bytes();
        if let [first @ (b'"' | b'\''), .., last] = text
            && first == last
        {
            self.push(token.start + 1..token.end - 1, url, property);
        }
    }

    fn push(&mut self, range: Range<usize>, url: &str, property: Property) {
        // What is written with escapes is not what it looks like.
        if self.css.get(range.clone()) != Some(url)
            || url.contains(['\\', '\0', '\n', '\r', '\x0c'])
        {
            return;
        }
        let (kind, cors) = match property {
            Property::Picture => (Kind::Image, false),
            Property::Cors if url.contains('#') => return,
            Property::Cors => (Kind::Image, true),
            Property::Font => (Kind::Font, true),
            Property::Other => return,
        };
        self.found.push(CssUrl { range, kind, cors });
    }
}

/// The string that is all there is, and where it stands.
fn only_string(parser: &mut Parser<'_, '_>) -> Option<(Range<usize>, String)> {
    parser.skip_whitespace();
    let start = parser.position().byte_index();
    let string = match parser.next() {
        Ok(Token::QuotedString(string)) => string.to_string(),
        _ => return None,
    };
    let range = start..parser.position().byte_index();
    parser.is_exhausted().then_some((range, string))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn found(css: &str, text: Text) -> Vec<(&str, Kind, bool)> {
        let urls = urls(css, text).into_iter();
        urls.map(|url| (&css[url.range], url.kind, url.cors))
            .collect()
    }

    fn pictures(css: &str) -> Vec<&str> {
        let found = found(css, Text::Stylesheet).into_iter();
        found
            .filter(|(_, kind, cors)| *kind == Kind::Image && !cors)
            .map(|(url, ..)| url)
            .collect()
    }

    #[test]
    fn finds_pictures_in_every_spelling() {
        for (css, expected) in [
            ("a{background:url(a.png)}", vec!["a.png"]),
            ("a{background:#fff URL(  a.png\n) no-repeat}", vec!["a.png"]),
            (
                "a{background-image:url('a.png'),url( \"b.png\" )}",
                vec!["a.png", "b.png"],
            ),
            (
                "a:hover{color:red;list-style:url(a.png)!important}",
                vec!["a.png"],
            ),
            (
                "@media (min-width:1px){a{content:url(a.png)}b{cursor:url(b.cur),auto}}",
                vec!["a.png", "b.cur"],
            ),
            (
                "a{background:image-set('a.png' 1x, url(b.png) 2x type('image/png'))}",
                vec!["a.png", "b.png"],
            ),
            (
                "a{background:-webkit-image-set(url(a.png) 1x)}",
                vec!["a.png"],
            ),
            (
                "/* url(no.png) */a{/**/border-image:url(a.png) 3}",
                vec!["a.png"],
            ),
            ("a{&:hover{background:url(a.png)}}", vec!["a.png"]),
            ("<!-- a{background:url(a.png)} -->", vec!["a.png"]),
            ("a{background:url(a.png", vec![]),
            ("a{background:url('a.png)}", vec![]),
            ("a{background:url(a\\.png)}", vec![]),
            ("a{background:url('a\\2e png')}", vec![]),
            ("a{background:url('a.png' x)}", vec![]),
            ("a{background:url(a b.png)}", vec![]),
            (
                "a{filter:url(a.svg#f);clip-path:url(b.svg#c);fill:url(c.svg#d);x:url(d.png)}",
                vec![],
            ),
            ("a{quotes:'url(a.png)'}a[href='url(b.png)']{}", vec![]),
            (
                "@namespace url(http://a.example/x);@supports (background:url(a.png)){}",
                vec![],
            ),
            ("@property --x{syntax:'*';background:url(a.png)}", vec![]),
        ] {
            assert_eq!(pictures(css), expected, "{css}");
        }
    }

    #[test]
    fn knows_fonts_imports_and_what_needs_cors() {
        assert_eq!(
            found(
                "@font-face{font-family:x;src:local('x'),url(a.woff2) format('woff2')}\
                 a{mask-image:url(m.png);-webkit-mask:url(m.svg#m);shape-outside:url(s.png);--b:url(b.png)}",
                Text::Stylesheet
            ),
            [
                ("a.woff2", Kind::Font, true),
                ("m.png", Kind::Image, true),
                ("s.png", Kind::Image, true),
                ("b.png", Kind::Image, true),
            ]
        );
        assert_eq!(
            found(
                "@charset \"x\";@layer a,b;@import 'a.css';@import url(b.css) screen;a{}@import 'late.css';",
                Text::Stylesheet
            ),
            [("a.css", Kind::Style, false), ("b.css", Kind::Style, false)]
        );
        assert_eq!(
            found(
                "color:red;background:url(a.png);src:url(b.woff)",
                Text::Declarations
            ),
            [("a.png", Kind::Image, false)]
        );
        assert_eq!(found("@import 'a.css'", Text::Declarations), []);
        assert_eq!(pictures("@import ;a{background:url(a.png)}"), ["a.png"]);
    }

    #[test]
    fn depth_and_length_are_no_harm() {
        let deep = format!("a{{background:url(a.png);{}", "b{(".repeat(100_000));
        assert_eq!(pictures(&deep), ["a.png"]);
        let long = "a{background:url(a.png)}".repeat(20_000);
        assert_eq!(pictures(&long).len(), 20_000);
    }

    fn piece() -> impl Strategy<Value = &'static str> {
        select(
            &[
                "a",
                "{",
                "}",
                ";",
                ":",
                "url(",
                ")",
                "\"",
                "'",
                "background",
                "@import ",
                "@media x",
                "x.png",
                "/*",
                "*/",
                "\\",
                "\n",
                " ",
                "(",
                "@font-face",
                "src",
                "--x",
                "image-set(",
                "é",
                ",",
                "#",
                "<!--",
            ][..],
        )
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(pieces in vec(piece(), 0..40)) {
            let css = pieces.concat();
            for text in [Text::Stylesheet, Text::Declarations] {
                let mut at = 0;
                for url in urls(&css, text) {
                    prop_assert!(url.range.start >= at);
                    prop_assert!(css.get(url.range.clone()).is_some());
                    at = url.range.end;
                }
            }
        }

        #[test]
        fn exactly_what_was_put_there_is_found(
            rules in vec((select(&["background", "content", "filter", "mask", "src"][..]), "[a-z0-9/._-]{1,12}", 0..4u8), 0..8),
        ) {
            let mut css = String::from("/* url(comment.png) */ @namespace url(ns);");
            let mut expected = Vec::new();
            for (property, url, form) in &rules {
                let url = format!("/{url}");
                let value = match form {
                    0 => format!("url({url})"),
                    1 => format!("url(\"{url}\")"),
                    2 => format!("red url( '{url}' )"),
                    _ => format!("image-set('{url}' 1x)"),
                };
                css += &format!("a:b{{quotes:'url(string.png)';{property}:{value};color:red}}");
                match *property {
                    "background" | "content" => expected.push((url, false)),
                    "mask" => expected.push((url, true)),
                    _ => {}
                }
            }
            let found: Vec<_> = urls(&css, Text::Stylesheet)
                .into_iter()
                .map(|url| (css[url.range].to_owned(), url.cors))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
