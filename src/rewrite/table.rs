//! The table: which attributes of which elements link to embedded objects.
//!
//! | element | attribute | moved |
//! |---|---|---|
//! | `img` | `src`, `srcset`, `data-src`, `data-srcset` | yes |
//! | `source` | `src`, `srcset` | yes |
//! | `video`, `audio` | `src`; `poster` of a video | yes |
//! | `input type=image` | `src` | yes |
//! | `script` | `src`; of SVG `href`, `xlink:href` | classic ones; modules with `rewrite.modules`, no import map before them, and CORS |
//! | `link` | `href`, `imagesrcset` | stylesheets, icons, and preloads of what moves; `modulepreload` as modules |
//! | `body`, `table` and its parts | `background` | yes |
//! | `image` (SVG) | `href`, `xlink:href` | yes |
//! | any | `style` | its URLs ([`css`]) |
//! | `style` | its text | its URLs, up to [`MAX_STYLE`](super::scan::MAX_STYLE) |
//! | any of `rewrite.attributes` | | yes |
//!
//! An element decides by its own attributes. Only a `source` hangs on others, since it is fetched as
//! the `crossorigin` of its media element or picture says: of an open `video` or `audio` that is known,
//! of a picture's `img`, which comes last, it is waited for.

use std::{borrow::Cow, ops::Range};

use lol_html::{
    html_content::{Attribute, SourceLocation},
    send::Element,
};

use super::{
    Kind, Stay, css,
    edit::{Edit, Needs, Place, With},
    escape::{decode_with_places, ends_open},
    explain::Finding,
    link::Context,
    srcset,
};

/// The elements that the scanner has to show, besides those of `rewrite.attributes`.
pub(super) const SELECTOR: &str = "img,source,picture,video,audio,input,image,script,link,base,meta,html,\
     [background],[style],template,style,title,textarea,xmp,iframe,noembed,noframes,noscript,plaintext,mi,mo,mn,ms,\
     mtext,annotation-xml,desc,foreignobject,svg,math,[data-overspill]";

/// What an explanation names besides.
pub(super) const OTHERS: &str = "a,area,form,iframe,frame,embed,object,track,use";

/// Whether such an element, in SVG or MathML, holds HTML (HTML standard, 13.2.6: integration points).
pub(super) fn is_integration_point(tag: &str) -> bool {
    matches!(
        tag,
        "mi" | "mo" | "mn" | "ms" | "mtext" | "annotation-xml" | "desc" | "foreignobject"
    )
}

/// Whether the content of such an element is text in HTML, but markup in SVG and MathML.
pub(super) fn is_text_in_html(tag: &str) -> bool {
    matches!(
        tag,
        "script"
            | "style"
            | "title"
            | "textarea"
            | "xmp"
            | "iframe"
            | "noembed"
            | "noframes"
            | "noscript"
            | "plaintext"
    )
}

/// Whether an element is HTML, not SVG or MathML.
pub(super) fn is_html(element: &Element<'_, '_>) -> bool {
    element.namespace_uri() == "http://www.w3.org/1999/xhtml"
}

/// An element's attributes by name. Of equal names the first counts, as in browsers.
pub(super) struct Attributes<'a, 'i>(Vec<(String, &'a Attribute<'i>)>);

/// The value of an attribute as it stands in the page.
pub(super) struct Value<'a> {
    /// The raw text, if it is UTF-8. What is not stays: how it would be read hangs on the page's
    /// charset.
    pub(super) raw: Cow<'a, str>,
    /// Where it begins in the page.
    pub(super) start: usize,
}

// === impl Attributes ===

impl<'a, 'i> Attributes<'a, 'i> {
    pub(super) fn of(element: &'a Element<'_, 'i>) -> Self {
        let named = element.attributes().iter();
        Self(
            named
                .map(|attribute| {
                    let place = attribute.name_source_location();
                    (as_read(attribute.name(), place), attribute)
                })
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&'a Attribute<'i>> {
        let mut all = self.0.iter();
        all.find(|(known, _)| known == name)
            .map(|(_, attribute)| *attribute)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The text of an attribute that holds words, without references being read: who writes
    /// `&#109;odule` gets what any unknown word gets.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let attribute = self.get(name)?;
        let place = attribute.value_source_location();
        Some(as_read(attribute.value(), place))
    }

    /// The value of an attribute that holds URLs; `None` where there is none, or it is not UTF-8, or begins
    /// with the mark of an encoding.
    pub(super) fn value(&self, name: &str) -> Option<Value<'static>> {
        let attribute = self.get(name)?;
        let place = attribute.value_source_location()?;
        let start = place.bytes().start;
        let text = attribute.value();
        if has_lost_a_mark(&text, &place) {
            return None;
        }
        // The scanner reads every page as windows-1252, in which each byte is one character.
        let raw = if text.is_ascii() {
            text
        } else {
            let (bytes, ..) = encoding_rs::WINDOWS_1252.encode(&text);
            String::from_utf8(bytes.into_owned()).ok()?
        };
        Some(Value {
            raw: raw.into(),
            start,
        })
    }
}

/// A name or a word, as a browser would know it. With any mark in front it means to them what this one does:
/// nothing.
fn as_read(text: String, place: Option<SourceLocation>) -> String {
    match place {
        Some(place) if has_lost_a_mark(&text, &place) => format!("\u{feff}{text}"),
        _ => text,
    }
}

/// Whether the scanner took the mark of an encoding off a name or a value, and read it in that encoding. Browsers do
/// that with a page's first bytes alone; and what is left does not stand where the location says.
fn has_lost_a_mark(text: &str, place: &SourceLocation) -> bool {
    let bytes = place.bytes().len();
    // In windows-1252 each byte is a character.
    (text.len() != bytes || !text.is_ascii()) && text.chars().count() != bytes
}

/// How an element wants its object fetched; the later, the more it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Fetch {
    /// Without CORS: any server will do.
    #[default]
    Plain,
    /// With CORS: the server has to answer accordingly.
    Cors,
    /// With CORS and credentials, which a server elsewhere never gets.
    Credentials,
}

impl Fetch {
    pub(super) fn of(attributes: &Attributes<'_, '_>) -> Self {
        match attributes.text("crossorigin") {
            None => Self::Plain,
            // A reference could hide the word.
            Some(value) if value.contains('&') => Self::Credentials,
            Some(value) if value.eq_ignore_ascii_case("use-credentials") => Self::Credentials,
            Some(_) => Self::Cors,
        }
    }
}

/// What is found in one element.
pub(super) struct Links<'a> {
    pub(super) context: &'a Context,
    pub(super) tag: &'a str,
    pub(super) fetch: Fetch,
    /// Why all of them stay.
    pub(super) all_stay: Option<Stay>,
    pub(super) edits: Vec<Edit>,
    /// Every link, for who wants to know.
    pub(super) findings: Option<&'a mut Vec<Finding>>,
}

impl Links<'_> {
    /// The links of one element.
    pub(super) fn find(&mut self, element: &Element<'_, '_>, attributes: &Attributes<'_, '_>) {
        // What looks like one of these within SVG or MathML is something else.
        if is_html(element) {
            self.html(attributes);
        } else {
            self.foreign(attributes);
        }
        self.style(attributes);
        self.custom(attributes);
        if self.findings.is_some() {
            self.others(attributes);
        }
        self.edits.sort_by_key(|edit| edit.range.start);
    }

    fn html(&mut self, attributes: &Attributes<'_, '_>) {
        match self.tag {
            "img" => {
                self.one(attributes, "src", Kind::Image);
                self.set(attributes, "srcset");
                self.one(attributes, "data-src", Kind::Image);
                self.set(attributes, "data-srcset");
            }
            "source" => {
                self.one(attributes, "src", Kind::Media);
                self.set(attributes, "srcset");
            }
            "audio" => self.one(attributes, "src", Kind::Media),
            "video" => {
                self.one(attributes, "src", Kind::Media);
                self.one(attributes, "poster", Kind::Image);
            }
            "input"
                if attributes
                    .text("type")
                    .is_some_and(|kind| kind.eq_ignore_ascii_case("image")) =>
            {
                self.one(attributes, "src", Kind::Image);
            }
            "script" => match script_type(attributes) {
                ScriptType::Classic => self.checked(attributes, "src", Kind::Script),
                ScriptType::Module => self.module(attributes, "src"),
                ScriptType::Other => self.stays(attributes, "src", Stay::NotScript),
            },
            "link" => self.link(attributes),
            "body" | "table" | "tbody" | "thead" | "tfoot" | "tr" | "td" | "th" => {
                self.one(attributes, "background", Kind::Image);
            }
            _ => {}
        }
    }

    /// SVG. Where the scanner is wrong about the namespace, these attributes mean nothing.
    fn foreign(&mut self, attributes: &Attributes<'_, '_>) {
        match self.tag {
            "image" => {
                self.one(attributes, "href", Kind::Image);
                self.one(attributes, "xlink:href", Kind::Image);
            }
            "script" => match script_type(attributes) {
                ScriptType::Classic => {
                    self.one(attributes, "href", Kind::Script);
                    self.one(attributes, "xlink:href", Kind::Script);
                }
                _ => self.stays(attributes, "href", Stay::NotScript),
            },
            _ => {}
        }
    }

    fn one(&mut self, attributes: &Attributes<'_, '_>, name: &'static str, kind: Kind) {
        if let Some(value) = attributes.value(name) {
            self.push(name, &value, 0..value.raw.len(), kind);
        } else if attributes.has(name) {
            self.stays(attributes, name, Stay::Spelling);
        }
    }

    fn set(&mut self, attributes: &Attributes<'_, '_>, name: &'static str) {
        let Some(value) = attributes.value(name) else {
            return;
        };
        // A reference may stand for what separates candidates; the one that people write does not.
        if value.raw.contains('&')
            && value.raw.replace("&amp;", "").contains('&')
            && !plain_ampersands(&value.raw)
        {
            return self.stays(attributes, name, Stay::Reference);
        }
        for range in srcset::urls(&value.raw) {
            self.push_in(Place::Srcset, name, &value, range, Kind::Image);
        }
    }

    fn push(&mut self, name: &str, value: &Value<'_>, part: Range<usize>, kind: Kind) {
        self.push_in(Place::Attribute, name, value, part, kind);
    }

    /// Decides about the URL at `part` of a value.
    fn push_in(
        &mut self,
        place: Place,
        name: &str,
        value: &Value<'_>,
        part: Range<usize>,
        kind: Kind,
    ) {
        let start = value.start + part.start;
        let raw = &value.raw[part];
        let moved = match (self.all_stay, self.fetch) {
            (Some(stay), _) => Err(stay),
            (None, Fetch::Credentials) => Err(Stay::Credentials),
            (None, _) => self.context.link(raw, kind, place),
        };
        let verdict = moved
            .as_ref()
            .map(|moved| moved.needs)
            .map_err(|stay| *stay);
        self.report(name, raw, place, verdict);
        if let Ok(moved) = moved {
            self.edits.push(Edit {
                range: start + moved.range.start..start + moved.range.end,
                needs: Needs {
                    cors: moved.needs.cors || self.fetch == Fetch::Cors,
                    ..moved.needs
                },
                object: Some(moved.object),
                with: With::Moved(place, moved.text),
            });
        }
    }

    fn stays(&mut self, attributes: &Attributes<'_, '_>, name: &str, why: Stay) {
        if self.findings.is_some()
            && let Some(raw) = attributes.text(name)
        {
            self.report(name, &raw, Place::Attribute, Err(why));
        }
    }

    fn report(&mut self, name: &str, raw: &str, place: Place, verdict: Result<Needs, Stay>) {
        let cors = self.fetch == Fetch::Cors;
        if let Some(findings) = &mut self.findings {
            let resolved = self.context.resolve(raw, place);
            findings.push(Finding {
                element: self.tag.to_owned(),
                attribute: name.to_owned(),
                value: raw.to_owned(),
                resolved: resolved.map(String::from),
                needs: verdict.map(|needs| Needs {
                    cors: needs.cors || cors,
                    ..needs
                }),
            });
        }
    }

    /// A link of an element that may carry `integrity`: that is checked against other origins' bytes only
    /// where they come with CORS.
    fn checked(&mut self, attributes: &Attributes<'_, '_>, name: &'static str, kind: Kind) {
        let needs_cors = attributes.has("integrity") && !attributes.has("crossorigin");
        if needs_cors {
            self.fetch = self.fetch.max(Fetch::Cors);
        }
        let before = self.edits.len();
        self.one(attributes, name, kind);
        let integrity = attributes.get("integrity");
        let place = integrity.and_then(Attribute::name_source_location);
        if let (true, Some(moved), Some(place)) = (needs_cors, self.edits.get(before), place) {
            let start = place.bytes().start;
            self.edits.push(Edit {
                range: start..start,
                with: With::Text("crossorigin=\"anonymous\" "),
                ..moved.clone()
            });
        }
    }

    /// A module is fetched with CORS whatever its element says, and so is what it imports.
    fn module(&mut self, attributes: &Attributes<'_, '_>, name: &'static str) {
        if !self.context.rules.modules() || self.context.import_map {
            return self.stays(attributes, name, Stay::Module);
        }
        self.fetch = self.fetch.max(Fetch::Cors);
        self.one(attributes, name, Kind::Script);
    }

    fn link(&mut self, attributes: &Attributes<'_, '_>) {
        match link_relation(attributes) {
            Some(Relation::Object(kind)) => self.checked(attributes, "href", kind),
            Some(Relation::Module) => self.module(attributes, "href"),
            None => self.stays(attributes, "href", Stay::Relation),
        }
        // Of a preload whose picture moves; `href` is for browsers that don't know it.
        if matches!(
            link_relation(attributes),
            Some(Relation::Object(Kind::Image))
        ) {
            self.set(attributes, "imagesrcset");
        }
    }

    fn style(&mut self, attributes: &Attributes<'_, '_>) {
        let Some(value) = attributes.value("style") else {
            return;
        };
        // Most hold colours and sizes.
        if !value.raw.contains(['(', '\\']) {
            return;
        }
        if !self.context.styles_may_change() {
            return self.stays(attributes, "style", Stay::Hashed);
        }
        let Some((text, places)) = decode_with_places(&value.raw) else {
            return self.stays(attributes, "style", Stay::Reference);
        };
        // How the element's own object is fetched says nothing about its style.
        let fetch = std::mem::take(&mut self.fetch);
        for url in css::urls(&text, css::Text::Declarations) {
            let raw = |at: usize| {
                let after = places.partition_point(|(text, _)| *text <= at);
                let (text, raw) = places[after.saturating_sub(1)];
                raw + at - text
            };
            let part = raw(url.range.start)..raw(url.range.end);
            let Some(raw) = value.raw.get(part.clone()) else {
                continue;
            };
            // Behind a quote that is written `&quot` the URL would become a part of that name.
            if ends_open(&value.raw[..part.start]) {
                self.report("style", raw, Place::StyleAttribute, Err(Stay::Reference));
                continue;
            }
            self.fetch = if url.cors { Fetch::Cors } else { Fetch::Plain };
            self.push_in(Place::StyleAttribute, "style", &value, part, url.kind);
        }
        self.fetch = fetch;
    }

    /// The links in the text of a `<style>` that begins at `start` of the page.
    pub(super) fn style_text(&mut self, text: &[u8], start: usize) {
        let Ok(raw) = std::str::from_utf8(text) else {
            return;
        };
        let value = Value {
            raw: raw.into(),
            start,
        };
        for url in css::urls(raw, css::Text::Stylesheet) {
            self.fetch = if url.cors { Fetch::Cors } else { Fetch::Plain };
            self.push_in(Place::Style, "text", &value, url.range, url.kind);
        }
    }

    /// `rewrite.attributes`, but for pairs that the table already speaks of.
    fn custom(&mut self, attributes: &Attributes<'_, '_>) {
        let context = self.context;
        for (element, name) in context.rules.attributes() {
            if **element != *self.tag || is_in_table((self.tag, &**name)) {
                continue;
            }
            let Some(value) = attributes.value(name) else {
                continue;
            };
            let kind = match self.tag {
                "img" | "picture" => Kind::Image,
                _ => Kind::of_path(value.raw.split(['?', '#']).next().unwrap_or_default()),
            };
            self.push(name, &value, 0..value.raw.len(), kind);
        }
    }

    /// What the table says no to.
    fn others(&mut self, attributes: &Attributes<'_, '_>) {
        let (names, why): (&[&str], _) = match self.tag {
            "a" | "area" => (&["href"], Stay::NotEmbedded),
            "form" => (&["action"], Stay::NotEmbedded),
            "iframe" | "frame" | "embed" => (&["src"], Stay::NotEmbedded),
            "object" => (&["data"], Stay::NotEmbedded),
            "base" => (&["href"], Stay::NotEmbedded),
            "track" => (&["src"], Stay::SameOrigin),
            "use" => (&["href", "xlink:href"], Stay::SameOrigin),
            _ => return,
        };
        for name in names {
            if !self
                .context
                .rules
                .attributes()
                .iter()
                .any(|(element, custom)| **element == *self.tag && **custom == **name)
            {
                self.stays(attributes, name, why);
            }
        }
    }
}

/// Whether no `&` stands for a space, a comma or a parenthesis.
fn plain_ampersands(srcset: &str) -> bool {
    super::escape::decode(srcset).is_some_and(|decoded| {
        let separators = |text: &str| {
            let separator = |c: &char| matches!(c, ',' | '(' | ')') || c.is_ascii_whitespace();
            text.chars().filter(separator).count()
        };
        separators(&decoded) == separators(srcset)
    })
}

/// What a script is, by its attributes.
enum ScriptType {
    Classic,
    Module,
    Other,
}

/// Whether a script is an import map.
pub(super) fn is_import_map(attributes: &Attributes<'_, '_>) -> bool {
    attributes
        .text("type")
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("importmap") || kind.contains('&'))
}

/// What a script is (HTML standard, 4.12.1.1, "prepare the script element").
fn script_type(attributes: &Attributes<'_, '_>) -> ScriptType {
    const JAVASCRIPT: [&str; 16] = [
        "application/ecmascript",
        "application/javascript",
        "application/x-ecmascript",
        "application/x-javascript",
        "text/ecmascript",
        "text/javascript",
        "text/javascript1.0",
        "text/javascript1.1",
        "text/javascript1.2",
        "text/javascript1.3",
        "text/javascript1.4",
        "text/javascript1.5",
        "text/jscript",
        "text/livescript",
        "text/x-ecmascript",
        "text/x-javascript",
    ];
    let language = || {
        attributes
            .text("language")
            .filter(|language| !language.is_empty())
    };
    let kind = match (attributes.text("type"), language()) {
        (Some(kind), _) if kind.is_empty() => return ScriptType::Classic,
        (Some(kind), _) => kind,
        (None, None) => return ScriptType::Classic,
        (None, Some(language)) => format!("text/{language}"),
    };
    let kind = kind.trim_matches(|c: char| c.is_ascii_whitespace());
    let is = |known: &&str| known.eq_ignore_ascii_case(kind);
    if JAVASCRIPT.iter().any(is) {
        ScriptType::Classic
    } else if is(&"module") {
        ScriptType::Module
    } else {
        ScriptType::Other
    }
}

/// What a `link` embeds.
enum Relation {
    Object(Kind),
    Module,
}

/// What a `link` embeds, if all that it says of itself is known.
fn link_relation(attributes: &Attributes<'_, '_>) -> Option<Relation> {
    let rel = attributes.text("rel")?.to_ascii_lowercase();
    let mut kind = None;
    for word in rel.split_ascii_whitespace() {
        let word_kind = match word {
            "stylesheet" => Kind::Style,
            "icon" | "apple-touch-icon" | "apple-touch-icon-precomposed" => Kind::Image,
            "preload" => preload_kind(&attributes.text("as")?)?,
            "modulepreload" if rel.trim() == "modulepreload" => {
                // Workers and the like are bound to the origin.
                let script = |to: String| matches!(to.trim(), "" | "script");
                return attributes
                    .text("as")
                    .is_none_or(script)
                    .then_some(Relation::Module);
            }
            "shortcut" | "alternate" => continue,
            _ => return None,
        };
        if kind.is_some_and(|kind| kind != word_kind) {
            return None;
        }
        kind = Some(word_kind);
    }
    let css =
        |kind: String| matches!(kind.trim(), "") || kind.trim().eq_ignore_ascii_case("text/css");
    match kind? {
        // Other languages' stylesheets are fetched by scripts.
        Kind::Style if !attributes.text("type").is_none_or(css) => None,
        kind => Some(Relation::Object(kind)),
    }
}

/// What a preload fetches, by its `as`: such an object moves, and so does the preload of it. What is fetched
/// by scripts, workers' and tracks' files stay, and so do their preloads.
pub(super) fn preload_kind(to: &str) -> Option<Kind> {
    let kinds = [
        ("image", Kind::Image),
        ("script", Kind::Script),
        ("style", Kind::Style),
        ("font", Kind::Font),
        ("video", Kind::Media),
        ("audio", Kind::Media),
    ];
    let mut kinds = kinds.into_iter();
    kinds
        .find(|(name, _)| to.eq_ignore_ascii_case(name))
        .map(|(_, kind)| kind)
}

/// Pairs with conditions of their own, which `rewrite.attributes` does not lift.
fn is_in_table(pair: (&str, &str)) -> bool {
    matches!(
        pair,
        (_, "style")
            | ("img" | "source", "src" | "srcset")
            | ("img", "data-src" | "data-srcset")
            | ("input", "src")
            | ("audio", "src")
            | ("video", "src" | "poster")
            | ("script", "src")
            | ("link", "href" | "imagesrcset")
            | ("image", "href" | "xlink:href")
            | (
                "body" | "table" | "tbody" | "thead" | "tfoot" | "tr" | "td" | "th",
                "background"
            )
    )
}
