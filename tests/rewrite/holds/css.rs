//! Any CSS: the URLs that are found are those that CSS Syntax 3 says, read here a second time and in another way,
//! and what a tokenizer reads after the edit is the same but for them.

use std::ops::Range;

use cssparser::{ParseError, Parser, ParserInput, Token};
use overspill::rewrite::{
    Kind,
    css::{CssUrl, Text, urls},
};

use super::{oracle, site, text};

pub fn css(data: &[u8]) {
    let css = text(data);
    for kind in [Text::Stylesheet, Text::Declarations] {
        check(css, kind);
    }
    let quoted = css.replace('&', "&amp;").replace('"', "&quot;");
    let page = format!("<style>{css}</style><p style=\"{quoted}\">");
    for cors in [true, false] {
        let rewriter = site::rewriter(site::any_rules(), site::allowance(cors));
        let (out, _) = site::rewrite(rewriter, [page.as_bytes()]);
        oracle::assert_only_urls_moved(page.as_bytes(), &out);
    }
}

/// Checks what is found in `css`.
fn check(css: &str, kind: Text) {
    const MOVED: &str = "https://t.example/x.png";
    let found = urls(css, kind);
    let Some(tokens) = tokens(css) else {
        return;
    };
    let mut edited = String::new();
    let mut at = 0;
    for url in &found {
        assert!(at <= url.range.start && url.range.start <= url.range.end);
        edited.push_str(&css[at..url.range.start]);
        edited.push_str(MOVED);
        at = url.range.end;
    }
    edited.push_str(&css[at..]);
    let after = self::tokens(&edited).expect("it is no deeper than before");
    assert_eq!(tokens.len(), after.len(), "{css:?} became {edited:?}");
    let mut left = found.iter().peekable();
    for (old, new) in tokens.iter().zip(&after) {
        match left
            .next_if(|url| old.range.start <= url.range.start && url.range.end <= old.range.end)
        {
            Some(url) => {
                assert_eq!(old.text(), Some(&css[url.range.clone()]));
                assert_eq!(new.text(), Some(MOVED));
            }
            None => assert_eq!(old.token, new.token, "{css:?} became {edited:?}"),
        }
    }
    assert_eq!(left.next(), None, "a URL is no token");
    assert_found(css, kind, &tokens, &found);
}

/// A token of the whole text, blocks opened and closed.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    pub token: Lexed,
    pub range: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Lexed {
    Space,
    Comment(String),
    Ident(String),
    AtKeyword(String),
    /// `url(x)`.
    Url(String),
    String(String),
    Function(String),
    Curly,
    Square,
    Parenthesis,
    /// What ends the block that was opened last.
    End,
    Colon,
    Semicolon,
    Other(String),
}

impl Piece {
    fn text(&self) -> Option<&str> {
        match &self.token {
            Lexed::Url(text) | Lexed::String(text) => Some(text),
            _ => None,
        }
    }

    const fn opens(&self) -> bool {
        matches!(
            self.token,
            Lexed::Function(_) | Lexed::Curly | Lexed::Square | Lexed::Parenthesis
        )
    }
}

/// All tokens of `css`; [`None`] where blocks are nested too deeply to follow.
pub fn tokens(css: &str) -> Option<Vec<Piece>> {
    let mut input = ParserInput::new(css);
    let mut pieces = Vec::new();
    lex(&mut Parser::new(&mut input), &mut pieces, 0).then_some(pieces)
}

fn lex(parser: &mut Parser<'_, '_>, pieces: &mut Vec<Piece>, depth: usize) -> bool {
    // No deeper than the product looks.
    if depth > 30 {
        return false;
    }
    loop {
        let start = parser.position().byte_index();
        let Ok(token) = parser.next_including_whitespace_and_comments() else {
            return true;
        };
        let token = match token {
            Token::WhiteSpace(_) => Lexed::Space,
            Token::Comment(text) => Lexed::Comment((*text).to_owned()),
            Token::Ident(name) => Lexed::Ident(name.to_string()),
            Token::AtKeyword(name) => Lexed::AtKeyword(name.to_string()),
            Token::UnquotedUrl(url) => Lexed::Url(url.to_string()),
            Token::QuotedString(text) => Lexed::String(text.to_string()),
            Token::Function(name) => Lexed::Function(name.to_string()),
            Token::CurlyBracketBlock => Lexed::Curly,
            Token::SquareBracketBlock => Lexed::Square,
            Token::ParenthesisBlock => Lexed::Parenthesis,
            Token::Colon => Lexed::Colon,
            Token::Semicolon => Lexed::Semicolon,
            other => Lexed::Other(format!("{other:?}")),
        };
        let range = start..parser.position().byte_index();
        let piece = Piece { token, range };
        let opens = piece.opens();
        pieces.push(piece);
        if opens {
            let mut is_shallow = true;
            let _: Result<(), ParseError<'_, ()>> = parser.parse_nested_block(|parser| {
                is_shallow = lex(parser, pieces, depth + 1);
                while parser.next().is_ok() {}
                Ok(())
            });
            if !is_shallow {
                return false;
            }
            let end = parser.position().byte_index();
            pieces.push(Piece {
                token: Lexed::End,
                range: end..end,
            });
        }
    }
}

/// Where a URL, or a string, stands.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    /// In a declaration: of which property, and whether it can be one at all.
    Declaration(String, Holds, Sense),
    /// The URL of an `@import` that counts.
    Import,
    /// In what stands before the block of a rule that is no at-rule.
    Selector,
    /// In an at-rule, before its block.
    AtRule,
    /// In what is dropped.
    Nowhere,
}

/// What a block is for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Holds {
    /// Styles of elements.
    Styles,
    /// A font.
    Font,
    /// Nothing known.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sense {
    Full,
    /// Its value holds what no value of such a property does.
    None,
}

/// A URL as the standard's parser finds it.
#[derive(Debug)]
struct Seen {
    range: Range<usize>,
    url: String,
    place: Place,
}

const PICTURES: [&str; 9] = [
    "background",
    "background-image",
    "border-image",
    "border-image-source",
    "-webkit-border-image",
    "content",
    "cursor",
    "list-style",
    "list-style-image",
];
const WITH_CORS: [&str; 9] = [
    "mask",
    "mask-border",
    "mask-border-source",
    "mask-image",
    "-webkit-mask",
    "-webkit-mask-box-image",
    "-webkit-mask-box-image-source",
    "-webkit-mask-image",
    "shape-outside",
];
/// Properties whose URLs are parts of documents, or code.
const NOT_MOVABLE: [&str; 13] = [
    "-moz-binding",
    "-webkit-clip-path",
    "-webkit-filter",
    "backdrop-filter",
    "behavior",
    "clip-path",
    "fill",
    "filter",
    "marker",
    "marker-end",
    "marker-mid",
    "marker-start",
    "stroke",
];
const OF_STYLES: [&str; 9] = [
    "-webkit-keyframes",
    "container",
    "keyframes",
    "layer",
    "media",
    "page",
    "scope",
    "starting-style",
    "supports",
];

fn assert_found(css: &str, kind: Text, tokens: &[Piece], found: &[CssUrl]) {
    let mut reader = Reader {
        css,
        tokens,
        at: 0,
        seen: Vec::new(),
        imports: kind == Text::Stylesheet,
    };
    match kind {
        Text::Stylesheet => reader.stylesheet(),
        Text::Declarations => reader.contents(tokens.len(), Holds::Styles),
    }
    let mut seen = reader.seen;
    seen.sort_by_key(|seen| seen.range.start);
    for url in found {
        let place = seen
            .iter()
            .find(|seen| seen.range == url.range)
            .map_or(&Place::Nowhere, |seen| &seen.place);
        match place {
            Place::Declaration(name, Holds::Styles | Holds::Nothing, Sense::Full) => {
                assert!(!NOT_MOVABLE.contains(&name.as_str()), "{url:?} in {css:?}");
            }
            Place::AtRule => panic!("{url:?} in {css:?}"),
            // What is dropped may say what it likes.
            _ => {}
        }
    }
    // What is written with escapes is left alone.
    if css.contains('\\') {
        return;
    }
    for seen in seen {
        let Some((kind, cors)) = seen.expected() else {
            continue;
        };
        let plain = css.get(seen.range.clone()) == Some(&seen.url)
            && !seen.url.contains(['\0', '\n', '\r', '\x0c']);
        if plain && !(kind == Kind::Image && cors && seen.url.contains('#')) {
            let expected = CssUrl {
                range: seen.range,
                kind,
                cors,
            };
            assert!(found.contains(&expected), "{expected:?} not in {css:?}");
        }
    }
}

impl Seen {
    /// What it is fetched as, and whether with CORS.
    fn expected(&self) -> Option<(Kind, bool)> {
        match &self.place {
            Place::Import => Some((Kind::Style, false)),
            Place::Declaration(name, Holds::Styles, Sense::Full) => {
                if PICTURES.contains(&name.as_str()) {
                    Some((Kind::Image, false))
                } else if WITH_CORS.contains(&name.as_str()) || name.starts_with("--") {
                    Some((Kind::Image, true))
                } else {
                    None
                }
            }
            Place::Declaration(name, Holds::Font, Sense::Full) if name == "src" => {
                Some((Kind::Font, true))
            }
            _ => None,
        }
    }
}

/// CSS Syntax 3, section 5, step by step.
struct Reader<'a> {
    css: &'a str,
    tokens: &'a [Piece],
    at: usize,
    seen: Vec<Seen>,
    /// Whether an `@import` still counts.
    imports: bool,
}

impl<'a> Reader<'a> {
    fn next(&self) -> Option<&'a Lexed> {
        self.tokens.get(self.at).map(|piece| &piece.token)
    }

    fn skip_space(&mut self) {
        while matches!(self.next(), Some(Lexed::Space | Lexed::Comment(_))) {
            self.at += 1;
        }
    }

    /// Behind the component value that begins at `at`.
    fn after(&self, at: usize) -> usize {
        if !self.tokens[at].opens() {
            return at + 1;
        }
        let mut depth = 0;
        for (index, piece) in self.tokens[at..].iter().enumerate() {
            if piece.opens() {
                depth += 1;
            } else if piece.token == Lexed::End {
                depth -= 1;
            }
            if depth == 0 {
                return at + index + 1;
            }
        }
        unreachable!("what is opened is closed")
    }

    /// "Consume a stylesheet's contents".
    fn stylesheet(&mut self) {
        loop {
            self.skip_space();
            match self.next() {
                None => return,
                Some(Lexed::Other(text)) if text == "CDO" || text == "CDC" => self.at += 1,
                Some(Lexed::AtKeyword(name)) => {
                    let name = name.to_ascii_lowercase();
                    self.at_rule(&name, self.tokens.len(), Holds::Styles, true);
                }
                Some(_) => {
                    self.qualified_rule(self.tokens.len(), false, Holds::Styles);
                }
            }
        }
    }

    /// "Consume an at-rule".
    fn at_rule(&mut self, name: &str, end: usize, within: Holds, top: bool) {
        self.at += 1;
        let start = self.at;
        let mut stop = start;
        while stop < end && !matches!(self.tokens[stop].token, Lexed::Semicolon | Lexed::Curly) {
            stop = self.after(stop);
        }
        let is_statement = stop == end || self.tokens[stop].token == Lexed::Semicolon;
        if top && name == "import" && self.imports && is_statement {
            self.import(start, stop);
        } else {
            self.urls(start..stop, false, &Place::AtRule);
        }
        if top && !matches!(name, "import" | "charset") && !(name == "layer" && is_statement) {
            self.imports = false;
        }
        self.at = stop;
        if self.at == end {
            return;
        }
        if is_statement {
            self.at += 1;
            return;
        }
        let holds = match within {
            Holds::Styles if name == "font-face" => Holds::Font,
            Holds::Styles if OF_STYLES.contains(&name) => Holds::Styles,
            _ => Holds::Nothing,
        };
        self.block(holds);
    }

    /// The contents of the block that begins here, and its end.
    fn block(&mut self, holds: Holds) {
        let after = self.after(self.at);
        self.at += 1;
        self.contents(after - 1, holds);
        self.at = after;
    }

    fn import(&mut self, start: usize, end: usize) {
        self.at = start;
        self.skip_space();
        let first = self.at;
        if first < end {
            let place = match self.tokens[first].token {
                Lexed::String(_) | Lexed::Url(_) => Place::Import,
                Lexed::Function(ref name) if name.eq_ignore_ascii_case("url") => Place::Import,
                _ => Place::Nowhere,
            };
            let after = self.after(first);
            let strings = matches!(self.tokens[first].token, Lexed::String(_));
            self.urls(first..after, strings, &place);
        }
    }

    /// "Consume a block's contents".
    fn contents(&mut self, end: usize, holds: Holds) {
        while self.at < end {
            match self.next() {
                Some(Lexed::Space | Lexed::Comment(_) | Lexed::Semicolon) => self.at += 1,
                Some(Lexed::AtKeyword(name)) => {
                    let name = name.to_ascii_lowercase();
                    self.at_rule(&name, end, holds, false);
                }
                _ => {
                    let start = self.at;
                    if !self.declaration(end, holds) {
                        self.at = start;
                        self.qualified_rule(end, true, holds);
                    }
                }
            }
        }
    }

    /// "Consume a declaration"; whether there is one.
    fn declaration(&mut self, end: usize, holds: Holds) -> bool {
        let Some(Lexed::Ident(name)) = self.next() else {
            return false;
        };
        let name = name.to_ascii_lowercase();
        self.at += 1;
        while self.at < end && matches!(self.next(), Some(Lexed::Space | Lexed::Comment(_))) {
            self.at += 1;
        }
        if self.at == end || self.next() != Some(&Lexed::Colon) {
            return false;
        }
        self.at += 1;
        let start = self.at;
        let (mut blocks, mut others, mut sense) = (0, 0, Sense::Full);
        while self.at < end && self.next() != Some(&Lexed::Semicolon) {
            match &self.tokens[self.at].token {
                Lexed::Space | Lexed::Comment(_) => {}
                Lexed::Curly => blocks += 1,
                token => {
                    if matches!(token, Lexed::Colon | Lexed::AtKeyword(_)) {
                        sense = Sense::None;
                    }
                    others += 1;
                }
            }
            self.at = self.after(self.at);
        }
        let is_custom = name.starts_with("--");
        if blocks > 0 && others > 0 && !is_custom {
            return false;
        }
        if blocks > 0 {
            sense = Sense::None;
        }
        let value = start..self.at;
        self.urls(value, false, &Place::Declaration(name, holds, sense));
        true
    }

    /// "Consume a qualified rule".
    fn qualified_rule(&mut self, end: usize, nested: bool, holds: Holds) {
        let start = self.at;
        while self.at < end && self.next() != Some(&Lexed::Curly) {
            if nested && self.next() == Some(&Lexed::Semicolon) {
                break;
            }
            self.at = self.after(self.at);
        }
        let prelude = start..self.at;
        let mut first = self.tokens[prelude.clone()]
            .iter()
            .map(|piece| &piece.token)
            .filter(|token| !matches!(token, Lexed::Space | Lexed::Comment(_)));
        let is_custom = matches!(first.next(), Some(Lexed::Ident(name)) if name.starts_with("--"))
            && first.next() == Some(&Lexed::Colon);
        let has_block = self.at < end && self.next() == Some(&Lexed::Curly);
        let place = if has_block && !is_custom {
            Place::Selector
        } else {
            Place::Nowhere
        };
        self.urls(prelude, false, &place);
        if !has_block {
            return;
        }
        self.imports = false;
        // No selector has these.
        let odd = self.tokens[start..self.at]
            .iter()
            .any(|piece| matches!(piece.token, Lexed::AtKeyword(_) | Lexed::Semicolon));
        if is_custom {
            self.at = self.after(self.at);
        } else {
            self.block(if odd || holds == Holds::Font {
                Holds::Nothing
            } else {
                holds
            });
        }
    }

    /// Every URL in a list of component values. `strings`: a string in it is one.
    fn urls(&mut self, range: Range<usize>, strings: bool, place: &Place) {
        let mut at = range.start;
        while at < range.end {
            let after = self.after(at);
            let piece = &self.tokens[at];
            match &piece.token {
                Lexed::Url(url) => {
                    let text = &self.css[piece.range.clone()];
                    let inner = text.get(4..).and_then(|text| text.strip_suffix(')'));
                    if let Some(inner) = inner {
                        let space = |c: char| c.is_ascii_whitespace();
                        let left = inner.trim_start_matches(space);
                        let start = piece.range.end - 1 - left.len();
                        self.see(
                            start..start + left.trim_end_matches(space).len(),
                            url,
                            place,
                        );
                    }
                }
                Lexed::String(text) if strings => {
                    let range = piece.range.start + 1..piece.range.end - 1;
                    self.see(range, text, place);
                }
                Lexed::Function(name) => {
                    let name = name.to_ascii_lowercase();
                    let inner = at + 1..after - 1;
                    let strings = match name.as_str() {
                        "url" => self.is_one_string(inner.clone()),
                        "image-set" | "-webkit-image-set" => true,
                        _ => false,
                    };
                    if name != "url" || strings {
                        self.urls(inner, strings, place);
                    }
                }
                Lexed::Square | Lexed::Parenthesis => self.urls(at + 1..after - 1, false, place),
                _ => {}
            }
            at = after;
        }
    }

    fn is_one_string(&self, range: Range<usize>) -> bool {
        let mut tokens = self.tokens[range]
            .iter()
            .map(|piece| &piece.token)
            .filter(|token| !matches!(token, Lexed::Space | Lexed::Comment(_)));
        matches!(tokens.next(), Some(Lexed::String(_))) && tokens.next().is_none()
    }

    fn see(&mut self, range: Range<usize>, url: &str, place: &Place) {
        // A string without its end is left alone.
        let last = self.css.as_bytes().get(range.end);
        if range.start <= range.end && last.is_some() {
            self.seen.push(Seen {
                range,
                url: url.to_owned(),
                place: place.clone(),
            });
        }
    }
}
