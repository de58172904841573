//! First sight of a page: it is scanned while it streams by, and edited in passing.
//!
//! lol_html only scans. Its handlers look at elements and queue edits for bytes that its output sink
//! has not seen yet; the sink gets the page unchanged and in order, and applies them. So whatever
//! happens, what is not edited comes out as it came. Where the scanner gives up, it first hands the
//! sink all it holds, and the rest of the page passes without it; edits that were queued are applied
//! still, since they were decided by elements that were complete.
//!
//! Handlers and sink share their state by a mutex, although one thread at a time runs both: a page's
//! future moves between threads, so `Rc<RefCell<_>>` is out, and an uncontended lock costs about what
//! the borrow flag would.

use std::{
    borrow::Cow,
    error::Error,
    fmt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use bytes::BytesMut;
use lol_html::{
    AsciiCompatibleEncoding, HandlerResult, HtmlRewriter, MemorySettings, OutputSink,
    errors::RewritingError,
    send::{Element, ElementContentHandlers, SendHandlerTypes, Settings},
};

use super::{
    Kinds, Page, Rules, Target,
    escape::decode,
    link::Context,
    scope::{Closes, Scopes},
    splice::Splice,
    table::{self, Attributes, Fetch},
};

/// What the scanner may keep of a page: an unfinished tag and the names of the open elements.
const MAX_MEMORY: usize = 1024 * 1024;

/// No sensible tag is longer. Well below [`MAX_MEMORY`], so that whether a tag is too long does not
/// hang on how the page is cut into chunks.
const MAX_TAG: usize = 256 * 1024;

/// Why the rest of a page was passed on as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BailOut {
    /// The scanner would have needed more memory than it may use.
    Memory,
    /// One tag is longer than a tag can sensibly be.
    TagSize,
    /// The page begins with the mark of UTF-16, or declares a charset in which ASCII is not ASCII.
    Encoding,
    /// The page sets a content security policy in a `<meta>`.
    CspMeta,
    /// An AMP page: its scripts and styles are not free to move.
    Amp,
    /// Markup that the scanner may read in another way than browsers do.
    Markup,
}

/// What became of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many URLs were moved; a srcset counts each of its own.
    pub links: u32,
    /// Path and query of what was moved, in order and with repeats; the first
    /// [`Summary::MAX_OBJECTS`].
    pub objects: Vec<Box<str>>,
    /// Why the page's end was passed on as it came, if it was.
    pub bail_out: Option<BailOut>,
}

/// Rewrites one page as it streams by.
///
/// What comes out does not hang on how the page is cut into chunks, and what is kept meanwhile does not
/// grow with the page.
pub struct Rewriter {
    stage: Stage,
    shared: Arc<Mutex<Shared>>,
}

enum Stage {
    /// The first byte of the page, if there is one: its mark takes two.
    Start(Option<u8>),
    Scan(Box<HtmlRewriter<'static, Sink, SendHandlerTypes>>),
    Pass,
}

/// What the handlers and the sink share.
struct Shared {
    context: Context,
    splice: Splice,
    scopes: Scopes,
}

struct Sink(Arc<Mutex<Shared>>);

/// Stops the scanner from within a handler.
#[derive(Debug)]
struct Stop(BailOut);

// === impl BailOut ===

impl BailOut {
    /// All reasons.
    pub const ALL: [Self; 6] = [
        Self::Memory,
        Self::TagSize,
        Self::Encoding,
        Self::CspMeta,
        Self::Amp,
        Self::Markup,
    ];

    /// As metrics name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::TagSize => "tag_size",
            Self::Encoding => "encoding",
            Self::CspMeta => "csp_meta",
            Self::Amp => "amp",
            Self::Markup => "markup",
        }
    }
}

impl From<&RewritingError> for BailOut {
    fn from(error: &RewritingError) -> Self {
        match error {
            RewritingError::MemoryLimitExceeded(_) => Self::Memory,
            RewritingError::ContentHandlerError(error) => error
                .downcast_ref::<Stop>()
                .map_or(Self::Markup, |stop| stop.0),
            _ => Self::Markup,
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.label())
    }
}

impl Error for Stop {}

// === impl Summary ===

impl Summary {
    /// The most objects that are listed.
    pub const MAX_OBJECTS: usize = 512;

    pub(super) fn count(&mut self, object: Box<str>) {
        self.links = self.links.saturating_add(1);
        if self.objects.len() < Self::MAX_OBJECTS {
            self.objects.push(object);
        }
    }
}

// === impl Rewriter ===

impl Rewriter {
    /// A rewriter that moves the links of `page` that `rules` and `kinds` allow to `target`.
    #[must_use]
    pub fn new(rules: Arc<Rules>, page: Page, target: Arc<Target>, kinds: Kinds) -> Self {
        let context = Context::new(rules, page, target.clone(), kinds);
        let stage = if context.moves_anything() {
            Stage::Start(None)
        } else {
            Stage::Pass
        };
        let shared = Shared {
            context,
            splice: Splice::new(target),
            scopes: Scopes::default(),
        };
        Self {
            stage,
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Takes the next bytes of the page and appends what is ready to `out`.
    pub fn push(&mut self, chunk: &[u8], out: &mut BytesMut) {
        if let Stage::Start(first) = self.stage {
            return self.start(first, chunk, out);
        }
        std::mem::swap(&mut lock(&self.shared).splice.out, out);
        match &mut self.stage {
            Stage::Scan(scanner) => {
                if let Err(error) = scanner.write(chunk) {
                    self.bail_out((&error).into());
                }
            }
            _ => lock(&self.shared).splice.pass(chunk),
        }
        std::mem::swap(&mut lock(&self.shared).splice.out, out);
    }

    /// The page has ended: appends what was held back and tells what was done. What is pushed
    /// afterwards passes unchanged.
    pub fn finish(&mut self, out: &mut BytesMut) -> Summary {
        let stage = std::mem::replace(&mut self.stage, Stage::Pass);
        std::mem::swap(&mut lock(&self.shared).splice.out, out);
        match stage {
            Stage::Start(first) => {
                let first = first.as_slice();
                lock(&self.shared).splice.pass(first);
            }
            Stage::Scan(scanner) => {
                if let Err(error) = scanner.end() {
                    self.bail_out((&error).into());
                }
            }
            Stage::Pass => {}
        }
        let mut shared = lock(&self.shared);
        shared.splice.decide(false);
        std::mem::swap(&mut shared.splice.out, out);
        std::mem::take(&mut shared.splice.summary)
    }

    /// The first two bytes tell whether the page is in UTF-16.
    fn start(&mut self, first: Option<u8>, chunk: &[u8], out: &mut BytesMut) {
        let (mark, rest) = match (first, chunk) {
            (_, []) => return,
            (None, [one]) => {
                self.stage = Stage::Start(Some(*one));
                return;
            }
            (None, [one, two, ..]) => ([*one, *two], chunk),
            (Some(one), [two, ..]) => ([one, *two], chunk),
        };
        if matches!(mark, [0xFE, 0xFF] | [0xFF, 0xFE]) {
            self.bail_out(BailOut::Encoding);
        } else {
            self.stage = Stage::Scan(Box::new(scanner(&self.shared)));
        }
        if let Some(one) = first {
            self.push(&[one], out);
        }
        self.push(rest, out);
    }

    /// From here on the page passes as it is. The scanner has handed over all that it held.
    fn bail_out(&mut self, reason: BailOut) {
        self.stage = Stage::Pass;
        let mut shared = lock(&self.shared);
        shared.splice.decide(false);
        shared.splice.summary.bail_out = Some(reason);
    }
}

impl fmt::Debug for Rewriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewriter").finish_non_exhaustive()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // A panic in a handler ends its page; the state is never looked at again.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

// === scanner ===

impl OutputSink for Sink {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        lock(&self.0).splice.pass(chunk);
    }
}

fn scanner(shared: &Arc<Mutex<Shared>>) -> HtmlRewriter<'static, Sink, SendHandlerTypes> {
    let rules = lock(shared).context.rules.clone();
    let memory = MemorySettings::new()
        .with_max_allowed_memory_usage(MAX_MEMORY)
        .with_graceful_bail_out_on_memory_limit_exceeded(true);
    let handler = {
        let shared = shared.clone();
        ElementContentHandlers::default()
            .element(move |element: &mut Element<'_, '_>| on_element(&shared, element))
    };
    let settings = Settings::new_send()
        // Every byte is a character in it and comes back as the same byte, whatever the charset is.
        .with_encoding(*WINDOWS_1252)
        .with_adjust_charset_on_meta_tag(false)
        .with_strict(false)
        .with_memory_settings(memory)
        .with_graceful_bail_out_on_content_handler_error(true)
        .append_element_content_handler((Cow::Borrowed(rules.selector()), handler));
    HtmlRewriter::new(settings, Sink(shared.clone()))
}

static WINDOWS_1252: LazyLock<AsciiCompatibleEncoding> = LazyLock::new(|| {
    AsciiCompatibleEncoding::new(encoding_rs::WINDOWS_1252)
        .expect("windows-1252 is ASCII-compatible")
});

fn on_element(shared: &Arc<Mutex<Shared>>, element: &mut Element<'_, '_>) -> HandlerResult {
    if element.source_location().bytes().len() > MAX_TAG {
        return Err(Stop(BailOut::TagSize).into());
    }
    let tag = element.tag_name();
    let closes = lock(shared).element(&tag, element)?;
    if closes.is_any() && element.can_have_content() {
        let shared = shared.clone();
        element.on_end_tag(Box::new(move |end| {
            // In HTML, only its own end tag ends text, and no other leaves an integration point.
            if closes.text && end.name() != tag {
                return Err(Stop(BailOut::Markup).into());
            }
            lock(&shared).close(closes);
            Ok(())
        }))?;
    }
    Ok(())
}

// === impl Shared ===

impl Shared {
    /// A start tag: what it means for what follows, and its edits.
    ///
    /// The scanner only simulates a parser's namespaces, and is wrong about `<svg/>` and about an `svg`
    /// that an outer element's end tag closes: it still takes what follows for SVG, and the text of a
    /// script there for markup. Where HTML stands within SVG or MathML, it does not see CDATA. So nothing
    /// moves within what would be text in HTML, nor there.
    fn element(&mut self, tag: &str, element: &Element<'_, '_>) -> Result<Closes, Stop> {
        let attributes = Attributes::of(element);
        let mut closes = Closes::default();
        if table::is_html(element) {
            match tag {
                "html" if is_amp(&attributes) => return Err(Stop(BailOut::Amp)),
                "meta" => meta(&attributes)?,
                "base" if self.scopes.templates == 0 => self.base(&attributes),
                "img" if self.scopes.picture => {
                    let allowed = Fetch::of(&attributes).allowed(&self.context);
                    self.splice.decide(allowed);
                }
                _ => closes = self.scopes.open(tag, &attributes),
            }
        } else if tag == "base" && attributes.has("href") {
            // The scanner may be wrong about the namespace; see below.
            self.context.doubt_base();
        }
        let off = |value: String| value.trim().eq_ignore_ascii_case("off");
        // It shows a `title` as HTML in either case.
        let text = table::is_text_in_html(tag) && (tag == "title" || !table::is_html(element));
        if text && !element.can_have_content() {
            return Err(Stop(BailOut::Markup));
        }
        let point = table::is_integration_point(tag);
        if self.scopes.off || text || point || attributes.text("data-overspill").is_some_and(off) {
            closes.text = text || point;
            closes.off = !self.scopes.off && element.can_have_content();
            self.scopes.off |= closes.off;
            return Ok(closes);
        }
        let source = tag == "source";
        if source && !self.scopes.media.allowed(&self.context) {
            return Ok(closes);
        }
        let edits = table::edits(&self.context, tag, element, &attributes);
        if source && self.scopes.picture {
            self.splice.queue_undecided(edits);
        } else {
            self.splice.queue(edits);
        }
        Ok(closes)
    }

    fn base(&mut self, attributes: &Attributes<'_, '_>) {
        match (attributes.value("href"), attributes.text("href")) {
            (Some(href), _) => self.context.set_base(&href.raw),
            (None, Some(href)) if href.is_empty() => self.context.set_base(""),
            // Not UTF-8.
            (None, Some(_)) => self.context.doubt_base(),
            (None, None) => {}
        }
    }

    fn close(&mut self, closes: Closes) {
        self.scopes.close(closes);
        if closes.picture {
            self.splice.decide(true);
        }
    }
}

/// `<html amp>` and `<html ⚡>`, with the variants for mail and ads.
fn is_amp(attributes: &Attributes<'_, '_>) -> bool {
    // As windows-1252 reads its three bytes.
    const LIGHTNING: &str = "\u{e2}\u{161}\u{a1}";
    let amp =
        |name: &str| matches!(name, "amp" | "amp4ads" | "amp4email") || name.starts_with(LIGHTNING);
    attributes.names().any(amp)
}

/// A `<meta>` that changes what can be done with what follows.
fn meta(attributes: &Attributes<'_, '_>) -> Result<(), Stop> {
    if let Some(charset) = attributes.text("charset") {
        check_charset(&charset)?;
    }
    let Some(equiv) = attributes.text("http-equiv") else {
        return Ok(());
    };
    match decode(&equiv) {
        // What can't be read may be a policy.
        None => Err(Stop(BailOut::CspMeta)),
        Some(equiv) if equiv.eq_ignore_ascii_case("content-security-policy") => {
            Err(Stop(BailOut::CspMeta))
        }
        Some(equiv) if equiv.eq_ignore_ascii_case("content-type") => {
            let content = attributes.text("content").unwrap_or_default();
            let content = content.to_ascii_lowercase();
            match content.split_once("charset=") {
                Some((_, charset)) => check_charset(charset.trim_matches(['"', '\'', ' '])),
                None => Ok(()),
            }
        }
        Some(_) => Ok(()),
    }
}

/// Refuses charsets that shift ASCII away. UTF-16 means UTF-8 in a `<meta>`.
fn check_charset(label: &str) -> Result<(), Stop> {
    let shifts =
        |charset| charset == encoding_rs::ISO_2022_JP || charset == encoding_rs::REPLACEMENT;
    match encoding_rs::Encoding::for_label(label.as_bytes()) {
        Some(charset) if shifts(charset) => Err(Stop(BailOut::Encoding)),
        _ => Ok(()),
    }
}
