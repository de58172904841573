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
    cdata::Cdata,
    csp::MetaPolicy,
    edit::{Allowance, Edit, Needs, Object, With},
    escape::decode,
    explain::Finding,
    link::Context,
    plan::{Plan, Recorder},
    scope::{Closes, Scopes},
    splice::Splice,
    table::{self, Attributes, Fetch, Links},
};

/// What the scanner may keep of a page: an unfinished tag and the names of the open elements. It takes every
/// element to be open whose end tag is left out, as it may be of paragraphs, list items and cells: this is enough
/// for 32,000 of them.
const MAX_MEMORY: usize = 4 * 1024 * 1024;

/// No sensible tag is longer. Well below [`MAX_MEMORY`], so that whether a tag is too long does not
/// hang on how the page is cut into chunks.
const MAX_TAG: usize = 256 * 1024;

/// A page that streams by is scanned in pieces of this size: the scanner copies a piece as soon as a tag
/// goes on beyond it.
pub(super) const PIECE: usize = 4 * 1024;

/// The most bytes that wait for what follows them: a `<style>`, which is read as a whole, or the sources of
/// a picture. Longer ones stay as they are.
pub(super) const MAX_STYLE: usize = 32 * 1024;

/// So many places the fallback script may have: which is the first hangs on what the server takes.
const FALLBACK_PLACES: u32 = 64;

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
    /// The page sets a content security policy in a `<meta>` that can't be read, or where markup is in doubt.
    CspMeta,
    /// An AMP page: its scripts and styles are not free to move.
    Amp,
    /// Markup that the scanner may read in another way than browsers do.
    Markup,
    /// The page is another one than its ETag says: from where they differ.
    Changed,
}

/// What became of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many URLs were moved; a srcset counts each of its own.
    pub links: u32,
    /// Hashes of the paths of what was moved, in order and with repeats; the first
    /// [`Summary::MAX_OBJECTS`].
    pub objects: Vec<u64>,
    /// How many URLs went to which server, where the page's objects are spread over several.
    pub servers: Vec<(usize, u32)>,
    /// Why the page's end was passed on as it came, if it was.
    pub bail_out: Option<BailOut>,
}

/// Rewrites one page as it streams by.
///
/// What comes out does not hang on how the page is cut into chunks, and what is kept meanwhile does not
/// grow with the page.
pub struct Rewriter {
    stage: Stage,
    /// Whether the page is there as a whole, and comes as one chunk.
    whole: bool,
    /// So many bytes the scanner was given.
    pushed: usize,
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
    /// Those of them that wait like the edits that they tell of.
    open_findings: Vec<usize>,
    /// Edits that wait for what follows in the page, since those before them do.
    pending: Vec<Pending>,
    /// Where the first of the bytes stands that wait.
    hold: Option<usize>,
    style: Option<StyleText>,
    cdata: Cdata,
    /// How many bytes of the page have passed.
    at: usize,
    /// What has moved that the fallback script is for: where it stays, so does the script.
    fallback_wanted: Option<(Needs, Option<Object>)>,
    /// How many places the fallback script may still have.
    fallback_places: u32,
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
    /// Empty where the page is on its way out: there it waits already.
    bytes: Vec<u8>,
}

struct Sink(Arc<Mutex<Shared>>);

/// Stops the scanner from within a handler.
#[derive(Debug)]
struct Stop(BailOut);

// === impl BailOut ===

impl BailOut {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::Memory,
        Self::TagSize,
        Self::Encoding,
        Self::CspMeta,
        Self::Amp,
        Self::Markup,
        Self::Changed,
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
            Self::Changed => "changed",
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

    pub(super) fn count(&mut self, object: u64) {
        self.links = self.links.saturating_add(1);
        if self.objects.len() < Self::MAX_OBJECTS {
            self.objects.push(object);
        }
    }

    pub(super) fn count_server(&mut self, server: usize) {
        match self.servers.iter_mut().find(|(known, _)| *known == server) {
            Some((_, links)) => *links += 1,
            None => self.servers.push((server, 1)),
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
        let moves_anything = allowance.moves_from(page.https());
        let mut rewriter = Self::with(rules, page);
        if !moves_anything {
            rewriter.stage = Stage::Pass;
        }
        lock(&rewriter.shared).splice = Some(Splice::new(allowance));
        rewriter
    }

    /// Records a plan as well, unless nothing may move to this server, so that nothing is looked at.
    #[must_use]
    pub fn recording(self) -> Self {
        if !matches!(self.stage, Stage::Pass) {
            lock(&self.shared).recorder = Some(Recorder::of_stream());
        }
        self
    }

    fn with(rules: Arc<Rules>, page: Page) -> Self {
        let fallback_places = if rules.fallback() { FALLBACK_PLACES } else { 0 };
        let shared = Shared {
            context: Context::new(rules, page),
            scopes: Scopes::default(),
            splice: None,
            recorder: None,
            findings: None,
            open_findings: Vec::new(),
            pending: Vec::new(),
            hold: None,
            style: None,
            cdata: Cdata::default(),
            at: 0,
            fallback_wanted: None,
            fallback_places,
            bail_out: None,
        };
        Self {
            stage: Stage::Start(None),
            whole: false,
            pushed: 0,
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Takes the next bytes of the page and appends what is ready to `out`.
    pub fn push(&mut self, chunk: &[u8], out: &mut BytesMut) {
        if let Stage::Start(first) = self.stage {
            return self.start(first, chunk, out);
        }
        self.swap(out);
        let piece = if self.whole { chunk.len() } else { PIECE };
        for piece in chunk.chunks(piece.max(1)) {
            self.scan(piece);
        }
        self.swap(out);
    }

    fn scan(&mut self, piece: &[u8]) {
        let Stage::Scan(scanner) = &mut self.stage else {
            return lock(&self.shared).pass(piece);
        };
        if let Err(error) = scanner.write(piece) {
            return self.bail_out((&error).into());
        }
        self.pushed += piece.len();
        // What it keeps is a tag. One that has no end, since its quote has none, would hold up the page.
        if self.pushed - lock(&self.shared).at > MAX_TAG
            && let Stage::Scan(scanner) = std::mem::replace(&mut self.stage, Stage::Pass)
        {
            let reason = scanner
                .end()
                .map_or_else(|error| (&error).into(), |()| BailOut::TagSize);
            self.bail_out(reason);
        }
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

    /// The plan that was recorded, once the page has ended; `None` where it would be too large, and without
    /// [`recording`](Self::recording).
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
pub(super) fn plan(rules: Arc<Rules>, page: Page, body: &[u8], recorder: Recorder) -> Option<Plan> {
    let mut rewriter = Rewriter::with(rules, page);
    lock(&rewriter.shared).recorder = Some(recorder);
    rewriter.whole = true;
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
    rewriter.whole = true;
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
            let own = end.name() == tag;
            // In HTML, only its own end tag ends text, and no other leaves an integration point.
            let mut shared = lock(&shared);
            if closes.text && !own || shared.cdata.differs() {
                return Err(Stop(BailOut::Markup).into());
            }
            shared.close(closes, own, end.source_location().bytes().end);
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
    /// moves within what would be text in HTML, nor there, nor behind CDATA that may be something else.
    fn element(&mut self, tag: &str, element: &Element<'_, '_>) -> Result<Closes, Stop> {
        if self.cdata.differs() {
            return Err(Stop(BailOut::Markup));
        }
        let attributes = Attributes::of(element);
        let tag_range = element.source_location().bytes();
        let is_html = table::is_html(element);
        let mut closes = Closes::default();
        let mut fetch = Fetch::of(&attributes);
        // What looks like an element may be text.
        let doubt = self.scopes.in_doubt();
        if is_html {
            match tag {
                "html" if is_amp(&attributes) => return Err(Stop(BailOut::Amp)),
                "meta" => self.meta(&attributes, tag_range.end)?,
                "base" if doubt && attributes.has("href") => self.context.doubt_base(),
                "base" if self.scopes.templates == 0 => self.base(&attributes),
                "img" if self.scopes.picture && !doubt => {
                    self.decide(Some(fetch), tag_range.end);
                }
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
        if text && !is_html && tag != "title" {
            closes.foreign_text = !std::mem::replace(&mut self.cdata.in_text, true);
        }
        if matches!(tag, "svg" | "math") {
            closes.foreign = true;
            closes.outermost = !self.cdata.is_watched();
            self.cdata.open(element.can_have_content());
        }
        if tag == "source" {
            fetch = fetch.max(self.scopes.media);
        }
        let all_stay = stays.then_some(if switched_off {
            Stay::Off
        } else {
            self.scopes
                .why_off((text || point) && element.can_have_content())
        });
        if all_stay.is_none() || self.findings.is_some() {
            let found = self.findings.as_ref().map_or(0, Vec::len);
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
            if let Some(edit) = edits.first() {
                self.fallback_wanted = Some((edit.needs, edit.object));
            }
            // A script in front of a drawing would be one of SVG, and one in a template never runs.
            if is_html && self.scopes.templates == 0 {
                self.place_fallback(tag_range.start);
            }
            let undecided = tag == "source" && self.scopes.picture;
            if let (true, Some(findings)) = (undecided, &self.findings) {
                self.open_findings.extend(found..findings.len());
            }
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
        for open in std::mem::take(&mut self.open_findings) {
            if let Some(finding) = self.findings.as_mut().and_then(|all| all.get_mut(open)) {
                finding.decide(fetch);
            }
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

    /// A `<style>` ends with an end tag up to `until`: all of its text has passed.
    fn end_style(&mut self, until: usize) {
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
        let waiting = self
            .splice
            .as_ref()
            .map(|splice| splice.held_from(text.start));
        links.style_text(waiting.unwrap_or(&text.bytes), text.start);
        let edits = links.edits;
        self.queue(edits, false, until);
        if !self.pending.iter().any(|pending| pending.undecided) {
            self.decide(None, until);
        }
    }

    /// The fallback script stands in front of the first element whose link moves, or as soon after it as it can.
    /// Which one that is hangs on the server: it may have several places, and takes the first.
    fn place_fallback(&mut self, start: usize) {
        // Its own link hangs on the base, as any.
        if self.fallback_places == 0 || !self.context.base_is_own() {
            return;
        }
        let Some((needs, object)) = self.fallback_wanted.take() else {
            return;
        };
        self.fallback_places -= 1;
        let edit = Edit {
            range: start..start,
            needs,
            object,
            with: With::Fallback,
        };
        self.queue(vec![edit], false, start);
    }

    /// The next bytes of the page, unchanged and in order.
    fn pass(&mut self, bytes: &[u8]) {
        if let Some(recorder) = &mut self.recorder {
            recorder.pass(bytes);
        }
        if let (Some(style), None) = (&mut self.style, &self.splice) {
            let before = style.start.saturating_sub(self.at).min(bytes.len());
            style.bytes.extend_from_slice(&bytes[before..]);
        }
        if let Some(splice) = &mut self.splice {
            splice.pass(bytes);
        }
        self.cdata.pass(bytes);
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
        // As a text it must not change, as a policy it would have to.
        if self.scopes.in_doubt() {
            return Err(Stop(BailOut::CspMeta));
        }
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
        if !policy.allows_own_script() {
            self.fallback_places = 0;
        }
        let edit = Edit {
            range: value.start..value.start + value.raw.len(),
            needs: Needs::default(),
            object: None,
            with: With::Policy {
                text: text.into(),
                // White space would have ended the value.
                quoted: value.raw.contains(|c: char| c.is_ascii_whitespace()),
            },
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

    /// What an end tag up to `until` closes. Without the tag it would be open, so the tag is part of what decides.
    /// `own`: it is its own end tag.
    fn close(&mut self, closes: Closes, own: bool, until: usize) {
        self.scopes.close(closes);
        self.cdata.in_text &= !closes.foreign_text;
        if closes.foreign {
            self.cdata.close(closes.outermost, own);
        }
        if closes.style {
            self.end_style(until);
        }
        if closes.picture {
            self.decide(Some(Fetch::Plain), until);
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
