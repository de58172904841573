//! First sight of a page: it is scanned, and edited in passing where it streams by.
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
    AsciiCompatibleEncoding, HandlerResult, HtmlRewriter, MemorySettings, OutputSink, Selector,
    errors::RewritingError,
    send::{Element, ElementContentHandlers, SendHandlerTypes, Settings},
};

use super::{
    Kinds, Page, Rules, Stay, Target,
    csp::MetaPolicy,
    edit::{Allowance, Edit, Needs, With},
    escape::decode,
    explain::Finding,
    link::Context,
    plan::{Plan, Recorder},
    scope::{Closes, Scopes},
    splice::Splice,
    table::{self, Attributes, Fetch, Links},
};

/// What the scanner may keep of a page: an unfinished tag and the names of the open elements.
const MAX_MEMORY: usize = 1024 * 1024;

/// No sensible tag is longer. Well below [`MAX_MEMORY`], so that whether a tag is too long does not
/// hang on how the page is cut into chunks.
const MAX_TAG: usize = 256 * 1024;

/// The most bytes that wait for what follows them: a `<style>`, which is read as a whole, or the sources of
/// a picture. Longer ones stay as they are.
pub(super) const MAX_STYLE: usize = 32 * 1024;

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
    pub objects: Vec<Arc<str>>,
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
    scopes: Scopes,
    /// The page on its way out; `None` where it is only looked at.
    splice: Option<Splice>,
    recorder: Option<Recorder>,
    findings: Option<Vec<Finding>>,
    /// Edits that wait for what follows in the page, since those before them do.
    pending: Vec<Pending>,
    /// Where the first of the bytes stands that wait.
    hold: Option<usize>,
    style: Option<StyleText>,
    /// How many bytes of the page have passed.
    at: usize,
    /// Whether the fallback script has its place, or gets none.
    fallback_placed: bool,
    bail_out: Option<BailOut>,
}

struct Pending {
    edit: Edit,
    /// Whether it is made at all hangs on what follows.
    undecided: bool,
}

/// The text of a `<style>`, so far.
struct StyleText {
    start: usize,
    bytes: Vec<u8>,
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

    pub(super) fn count(&mut self, object: &Arc<str>) {
        self.links = self.links.saturating_add(1);
        if self.objects.len() < Self::MAX_OBJECTS {
            self.objects.push(object.clone());
        }
    }
}

// === impl Rewriter ===

impl Rewriter {
    /// A rewriter that moves the links of `page` that `rules` and `kinds` allow to `target`.
    #[must_use]
    pub fn new(rules: Arc<Rules>, page: Page, target: Arc<Target>, kinds: Kinds) -> Self {
        Self::allowing(rules, page, Allowance::new(target, kinds))
    }

    /// A rewriter that moves what `allowance` allows.
    #[must_use]
    pub fn allowing(rules: Arc<Rules>, page: Page, allowance: Allowance) -> Self {
        // A page asked for over https gets no http link.
        let moves_anything =
            !allowance.kinds.is_empty() && (allowance.target.https() || !page.https());
        let mut rewriter = Self::with(rules, page);
        if !moves_anything {
            rewriter.stage = Stage::Pass;
        }
        lock(&rewriter.shared).splice = Some(Splice::new(allowance));
        rewriter
    }

    /// Records a plan as well.
    #[must_use]
    pub fn recording(self) -> Self {
        lock(&self.shared).recorder = Some(Recorder::of_stream());
        self
    }

    fn with(rules: Arc<Rules>, page: Page) -> Self {
        let fallback_placed = !rules.fallback();
        let shared = Shared {
            context: Context::new(rules, page),
            scopes: Scopes::default(),
            splice: None,
            recorder: None,
            findings: None,
            pending: Vec::new(),
            hold: None,
            style: None,
            at: 0,
            fallback_placed,
            bail_out: None,
        };
        Self {
            stage: Stage::Start(None),
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Takes the next bytes of the page and appends what is ready to `out`.
    pub fn push(&mut self, chunk: &[u8], out: &mut BytesMut) {
        if let Stage::Start(first) = self.stage {
            return self.start(first, chunk, out);
        }
        self.swap(out);
        match &mut self.stage {
            Stage::Scan(scanner) => {
                if let Err(error) = scanner.write(chunk) {
                    self.bail_out((&error).into());
                }
            }
            _ => lock(&self.shared).pass(chunk),
        }
        self.swap(out);
    }

    fn swap(&self, out: &mut BytesMut) {
        if let Some(splice) = &mut lock(&self.shared).splice {
            std::mem::swap(&mut splice.out, out);
        }
    }

    /// The page has ended: appends what was held back and tells what was done. What is pushed
    /// afterwards passes unchanged.
    pub fn finish(&mut self, out: &mut BytesMut) -> Summary {
        let stage = std::mem::replace(&mut self.stage, Stage::Pass);
        self.swap(out);
        match stage {
            Stage::Start(first) => {
                let first = first.as_slice();
                lock(&self.shared).pass(first);
            }
            Stage::Scan(scanner) => {
                if let Err(error) = scanner.end() {
                    self.bail_out((&error).into());
                }
            }
            Stage::Pass => {}
        }
        let mut shared = lock(&self.shared);
        let at = shared.at;
        shared.decide(None, at);
        let bail_out = shared.bail_out;
        let Some(splice) = &mut shared.splice else {
            return Summary::default();
        };
        std::mem::swap(&mut splice.out, out);
        Summary {
            bail_out,
            ..std::mem::take(&mut splice.summary)
        }
    }

    /// The plan that was recorded, once the page has ended; `None` where it would be too large.
    pub fn take_plan(&mut self) -> Option<Plan> {
        let mut shared = lock(&self.shared);
        let bail_out = shared.bail_out;
        shared.recorder.take()?.finish(bail_out)
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
        let at = shared.at;
        shared.decide(None, at);
        shared.bail_out = Some(reason);
    }
}

/// Looks at a page that is there as a whole, and makes its plan; `None` where that would be too large.
pub(super) fn plan(rules: Arc<Rules>, page: Page, body: &[u8]) -> Option<Plan> {
    let mut rewriter = Rewriter::with(rules, page);
    lock(&rewriter.shared).recorder = Some(Recorder::of_whole());
    let mut nothing = BytesMut::new();
    rewriter.push(body, &mut nothing);
    rewriter.finish(&mut nothing);
    rewriter.take_plan()
}

/// Looks at every link of a page, also those that no rule speaks of.
pub(super) fn findings(
    rules: Arc<Rules>,
    page: Page,
    body: &[u8],
) -> (Vec<Finding>, Option<BailOut>) {
    let mut rewriter = Rewriter::with(rules, page);
    lock(&rewriter.shared).findings = Some(Vec::new());
    let mut nothing = BytesMut::new();
    rewriter.push(body, &mut nothing);
    rewriter.finish(&mut nothing);
    let mut shared = lock(&rewriter.shared);
    let bail_out = shared.bail_out;
    (shared.findings.take().unwrap_or_default(), bail_out)
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
        lock(&self.0).pass(chunk);
    }
}

fn scanner(shared: &Arc<Mutex<Shared>>) -> HtmlRewriter<'static, Sink, SendHandlerTypes> {
    let (rules, explains) = {
        let shared = lock(shared);
        (shared.context.rules.clone(), shared.findings.is_some())
    };
    let selector: &Selector = if explains {
        rules.everything()
    } else {
        rules.selector()
    };
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
        .append_element_content_handler((Cow::Borrowed(selector), handler));
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
        let tag_range = element.source_location().bytes();
        let is_html = table::is_html(element);
        let mut closes = Closes::default();
        let mut fetch = Fetch::of(&attributes);
        if is_html {
            match tag {
                "html" if is_amp(&attributes) => return Err(Stop(BailOut::Amp)),
                "meta" => self.meta(&attributes, tag_range.end)?,
                "base" if self.scopes.templates == 0 => self.base(&attributes),
                "img" if self.scopes.picture => self.decide(Some(fetch), tag_range.end),
                "script" if table::is_import_map(&attributes) => self.context.import_map = true,
                _ => closes = self.scopes.open(tag, &attributes),
            }
        } else if tag == "base" && attributes.has("href") {
            // The scanner may be wrong about the namespace; see above.
            self.context.doubt_base();
        }
        let off = |value: String| value.trim().eq_ignore_ascii_case("off");
        // It shows a `title` as HTML in either case.
        let text = table::is_text_in_html(tag) && (tag == "title" || !is_html);
        if text && !element.can_have_content() {
            return Err(Stop(BailOut::Markup));
        }
        let point = table::is_integration_point(tag);
        let switched_off = attributes.text("data-overspill").is_some_and(off);
        let stays = self.scopes.off || switched_off || point || text && tag != "script";
        if stays || text {
            closes.text = text || point;
            closes.off = !self.scopes.off && element.can_have_content();
            self.scopes.off |= closes.off;
            closes.style = false;
        }
        if tag == "source" {
            fetch = fetch.max(self.scopes.media);
        }
        let all_stay = stays.then_some(if switched_off {
            Stay::Off
        } else {
            self.scopes.why_off(text || point)
        });
        if all_stay.is_none() || self.findings.is_some() {
            let mut links = Links {
                context: &self.context,
                tag,
                fetch,
                all_stay,
                edits: Vec::new(),
                findings: self.findings.as_mut(),
            };
            links.find(element, &attributes);
            let edits = links.edits;
            if !edits.is_empty() && is_html {
                self.place_fallback(tag_range.start);
            }
            let undecided = tag == "source" && self.scopes.picture;
            self.queue(edits, undecided, tag_range.end);
        }
        if closes.style {
            self.begin_style(tag_range.end);
        }
        Ok(closes)
    }

    /// Edits of one element, which is complete at `until`.
    fn queue(&mut self, edits: Vec<Edit>, undecided: bool, until: usize) {
        if let (true, Some(first)) = (undecided, edits.first()) {
            self.hold(first.range.start);
        }
        for edit in edits {
            if self.hold.is_some() {
                // They can't be written before those that wait.
                self.pending.push(Pending { edit, undecided });
            } else {
                self.emit(edit, until);
            }
        }
    }

    fn emit(&mut self, edit: Edit, until: usize) {
        match (&mut self.recorder, &mut self.splice) {
            (Some(recorder), Some(splice)) => {
                recorder.record(edit.clone(), until);
                splice.queue(edit);
            }
            (Some(recorder), None) => recorder.record(edit, until),
            (None, Some(splice)) => splice.queue(edit),
            (None, None) => {}
        }
    }

    fn hold(&mut self, place: usize) {
        let place = *self.hold.get_or_insert(place);
        if let Some(splice) = &mut self.splice {
            splice.hold(place);
        }
    }

    /// How what is undecided is fetched: at `until` of the page that is known. `None`: it stays.
    fn decide(&mut self, fetch: Option<Fetch>, until: usize) {
        for Pending {
            mut edit,
            undecided,
        } in std::mem::take(&mut self.pending)
        {
            match fetch {
                None | Some(Fetch::Credentials) if undecided => continue,
                Some(Fetch::Cors) if undecided => edit.needs.cors = true,
                _ => {}
            }
            self.emit(edit, until);
        }
        self.hold = None;
        self.style = None;
        if let Some(splice) = &mut self.splice {
            splice.release();
        }
    }

    fn begin_style(&mut self, start: usize) {
        self.hold(start);
        self.style = Some(StyleText {
            start,
            bytes: Vec::new(),
        });
    }

    /// A `<style>` ends: all of its text has passed.
    fn end_style(&mut self) {
        let Some(text) = self.style.take() else {
            return;
        };
        let mut links = Links {
            context: &self.context,
            tag: "style",
            fetch: Fetch::Plain,
            all_stay: (!self.context.styles_may_change()).then_some(Stay::Hashed),
            edits: Vec::new(),
            findings: self.findings.as_mut(),
        };
        links.style_text(&text.bytes, text.start);
        let edits = links.edits;
        let until = self.at;
        self.queue(edits, false, until);
        if !self.pending.iter().any(|pending| pending.undecided) {
            self.decide(None, until);
        }
    }

    /// The fallback script stands in front of the first element whose link moves.
    fn place_fallback(&mut self, start: usize) {
        if std::mem::replace(&mut self.fallback_placed, true) {
            return;
        }
        let edit = Edit {
            range: start..start,
            needs: Needs::default(),
            object: None,
            with: With::Fallback,
        };
        self.queue(vec![edit], false, start);
    }

    /// The next bytes of the page, unchanged and in order.
    fn pass(&mut self, bytes: &[u8]) {
        if let Some(recorder) = &mut self.recorder {
            recorder.pass(bytes);
        }
        if let Some(style) = &mut self.style {
            let before = style.start.saturating_sub(self.at).min(bytes.len());
            style.bytes.extend_from_slice(&bytes[before..]);
        }
        if let Some(splice) = &mut self.splice {
            splice.pass(bytes);
        }
        self.at += bytes.len();
        if self
            .hold
            .is_some_and(|hold| self.at.saturating_sub(hold) > MAX_STYLE)
        {
            self.decide(None, self.at);
        }
    }

    /// A `<meta>` that changes what can be done with what follows.
    fn meta(&mut self, attributes: &Attributes<'_, '_>, until: usize) -> Result<(), Stop> {
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
                self.policy(attributes, until)
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

    /// A policy in the page counts for what follows it (HTML standard, 4.2.5.3): it is widened where it
    /// stands, and what it leaves no room for stays from there on. What stands before it was let in
    /// without it, so nothing is wrong with what has moved.
    fn policy(&mut self, attributes: &Attributes<'_, '_>, until: usize) -> Result<(), Stop> {
        let Some(value) = attributes.value("content") else {
            // None at all, or one that can't be read.
            return match attributes.has("content") {
                true => Err(Stop(BailOut::CspMeta)),
                false => Ok(()),
            };
        };
        let text = decode(&value.raw).ok_or(Stop(BailOut::CspMeta))?;
        let policy = MetaPolicy::new(&text);
        self.context.narrow(&policy);
        // It may not let the script in.
        self.fallback_placed = true;
        let edit = Edit {
            range: value.start..value.start + value.raw.len(),
            needs: Needs::default(),
            object: None,
            with: With::Policy(text.into()),
        };
        self.queue(vec![edit], false, until);
        Ok(())
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
        if closes.style {
            self.end_style();
        }
        if closes.picture {
            self.decide(Some(Fetch::Plain), self.at);
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

/// Refuses charsets that shift ASCII away. UTF-16 means UTF-8 in a `<meta>`.
fn check_charset(label: &str) -> Result<(), Stop> {
    let shifts =
        |charset| charset == encoding_rs::ISO_2022_JP || charset == encoding_rs::REPLACEMENT;
    match encoding_rs::Encoding::for_label(label.as_bytes()) {
        Some(charset) if shifts(charset) => Err(Stop(BailOut::Encoding)),
        _ => Ok(()),
    }
}
