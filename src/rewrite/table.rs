//! The table: which attributes of which elements link to embedded objects.
//!
//! | element | attribute | moved |
//! |---|---|---|
//! | `img` | `src`, `srcset` | yes |
//! | `source` | `src`, `srcset` | yes |
//! | `video`, `audio` | `src`; `poster` of a video | yes |
//! | `script` | `src` | where the script is classic |
//! | `link` | `href` | stylesheets and icons |
//! | any of `rewrite.attributes` | | yes |
//!
//! An element decides by its own attributes. Only a `source` hangs on others, since it is fetched as
//! the `crossorigin` of its media element or picture says: of an open `video` or `audio` that is known,
//! of a picture's `img`, which comes last, it is waited for.

use lol_html::{html_content::Attribute, send::Element};

use super::{
    Kind,
    link::Context,
    splice::{Edit, With},
    srcset,
};

/// The elements that the scanner has to show, besides those of `rewrite.attributes`.
pub(super) const SELECTOR: &str = "img,source,picture,video,audio,script,link,base,meta,html,\
     template,style,title,textarea,xmp,iframe,noembed,noframes,noscript,plaintext,mi,mo,mn,ms,\
     mtext,annotation-xml,desc,foreignobject,[data-overspill]";

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
pub(super) struct Value {
    /// The raw text, if it is UTF-8. What is not stays: how it would be read hangs on the page's
    /// charset.
    pub(super) raw: String,
    /// Where it begins in the page.
    start: usize,
}

// === impl Attributes ===

impl<'a, 'i> Attributes<'a, 'i> {
    pub(super) fn of(element: &'a Element<'_, 'i>) -> Self {
        let named = element.attributes().iter();
        Self(
            named
                .map(|attribute| (attribute.name(), attribute))
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
        self.get(name).map(Attribute::value)
    }

    /// The value of an attribute that holds URLs; `None` where there is none or it is not UTF-8.
    pub(super) fn value(&self, name: &str) -> Option<Value> {
        let attribute = self.get(name)?;
        let start = attribute.value_source_location()?.bytes().start;
        let text = attribute.value();
        // The scanner reads every page as windows-1252, in which each byte is one character.
        let raw = if text.is_ascii() {
            text
        } else {
            let (bytes, ..) = encoding_rs::WINDOWS_1252.encode(&text);
            String::from_utf8(bytes.into_owned()).ok()?
        };
        Some(Value { raw, start })
    }
}

/// How an element wants its object fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

    pub(super) fn allowed(self, context: &Context) -> bool {
        match self {
            Self::Plain => true,
            Self::Cors => context.target.cors(),
            Self::Credentials => false,
        }
    }
}

/// The edits of one element.
pub(super) fn edits(
    context: &Context,
    tag: &str,
    element: &Element<'_, '_>,
    attributes: &Attributes<'_, '_>,
) -> Vec<Edit> {
    let mut edits = Vec::new();
    if !Fetch::of(attributes).allowed(context) {
        return edits;
    }
    // What looks like one of these within SVG or MathML is something else.
    if is_html(element) {
        match tag {
            "img" => {
                one(context, attributes, "src", Kind::Image, &mut edits);
                set(context, attributes, "srcset", &mut edits);
            }
            "source" => {
                one(context, attributes, "src", Kind::Media, &mut edits);
                set(context, attributes, "srcset", &mut edits);
            }
            "audio" => one(context, attributes, "src", Kind::Media, &mut edits),
            "video" => {
                one(context, attributes, "src", Kind::Media, &mut edits);
                one(context, attributes, "poster", Kind::Image, &mut edits);
            }
            "script" if is_classic(attributes) => {
                checked(context, attributes, "src", Kind::Script, &mut edits);
            }
            "link" => {
                if let Some(kind) = link_kind(attributes) {
                    checked(context, attributes, "href", kind, &mut edits);
                }
            }
            _ => {}
        }
    }
    custom(context, tag, attributes, &mut edits);
    edits
}

fn one(
    context: &Context,
    attributes: &Attributes<'_, '_>,
    name: &str,
    kind: Kind,
    edits: &mut Vec<Edit>,
) {
    if let Some(value) = attributes.value(name) {
        push(context, &value, 0..value.raw.len(), kind, edits);
    }
}

fn set(context: &Context, attributes: &Attributes<'_, '_>, name: &str, edits: &mut Vec<Edit>) {
    let Some(value) = attributes.value(name) else {
        return;
    };
    // A reference may stand for what separates candidates; the one that people write does not.
    if value.raw.replace("&amp;", "").contains('&') && !plain_ampersands(&value.raw) {
        return;
    }
    for range in srcset::urls(&value.raw) {
        push(context, &value, range, Kind::Image, edits);
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

fn push(
    context: &Context,
    value: &Value,
    part: std::ops::Range<usize>,
    kind: Kind,
    edits: &mut Vec<Edit>,
) {
    let start = value.start + part.start;
    if let Some(moved) = context.link(&value.raw[part], kind) {
        edits.push(Edit {
            range: start + moved.range.start..start + moved.range.end,
            with: With::Moved {
                text: moved.text,
                object: moved.object,
            },
        });
    }
}

/// A link of an element that may carry `integrity`: that is checked against other origins' bytes only
/// where they come with CORS.
fn checked(
    context: &Context,
    attributes: &Attributes<'_, '_>,
    name: &str,
    kind: Kind,
    edits: &mut Vec<Edit>,
) {
    let integrity = attributes.get("integrity");
    let needs_cors = integrity.is_some() && !attributes.has("crossorigin");
    if needs_cors && !context.target.cors() {
        return;
    }
    let before = edits.len();
    one(context, attributes, name, kind, edits);
    let moved = edits.len() > before;
    let place = integrity.and_then(Attribute::name_source_location);
    if let (true, true, Some(place)) = (moved, needs_cors, place) {
        let start = place.bytes().start;
        edits.push(Edit {
            range: start..start,
            with: With::Text("crossorigin=\"anonymous\" "),
        });
    }
}

/// Whether a script is classic JavaScript (HTML standard, 4.12.1.1, "prepare the script element").
fn is_classic(attributes: &Attributes<'_, '_>) -> bool {
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
        (Some(kind), _) if kind.is_empty() => return true,
        (Some(kind), _) => kind,
        (None, None) => return true,
        (None, Some(language)) => format!("text/{language}"),
    };
    let kind = kind.trim_matches(|c: char| c.is_ascii_whitespace());
    JAVASCRIPT
        .iter()
        .any(|known| known.eq_ignore_ascii_case(kind))
}

/// What a `link` embeds, if all that it says of itself is known.
fn link_kind(attributes: &Attributes<'_, '_>) -> Option<Kind> {
    let rel = attributes.text("rel")?.to_ascii_lowercase();
    let mut kind = None;
    for word in rel.split_ascii_whitespace() {
        match (word, kind) {
            ("stylesheet", None | Some(Kind::Style)) => kind = Some(Kind::Style),
            (
                "icon" | "apple-touch-icon" | "apple-touch-icon-precomposed",
                None | Some(Kind::Image),
            ) => kind = Some(Kind::Image),
            ("shortcut" | "alternate", _) => {}
            _ => return None,
        }
    }
    let css =
        |kind: String| matches!(kind.trim(), "") || kind.trim().eq_ignore_ascii_case("text/css");
    match kind {
        // Other languages' stylesheets are fetched by scripts.
        Some(Kind::Style) if !attributes.text("type").is_none_or(css) => None,
        kind => kind,
    }
}

/// `rewrite.attributes`, but for pairs that the table already speaks of.
fn custom(context: &Context, tag: &str, attributes: &Attributes<'_, '_>, edits: &mut Vec<Edit>) {
    for (element, name) in context.rules.attributes() {
        let pair = (tag, &**name);
        if **element != *tag || is_in_table(pair) {
            continue;
        }
        let Some(value) = attributes.value(name) else {
            continue;
        };
        let kind = match tag {
            "img" | "picture" => Kind::Image,
            _ => Kind::of_path(value.raw.split(['?', '#']).next().unwrap_or_default()),
        };
        push(context, &value, 0..value.raw.len(), kind, edits);
    }
}

/// Pairs with conditions of their own, which `rewrite.attributes` does not lift.
fn is_in_table(pair: (&str, &str)) -> bool {
    matches!(
        pair,
        ("img" | "source", "src" | "srcset")
            | ("audio", "src")
            | ("video", "src" | "poster")
            | ("script", "src")
            | ("link", "href")
    )
}
