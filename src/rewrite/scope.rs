//! The open elements that those within them hang on.

use super::{
    Stay,
    table::{Attributes, Fetch},
};

/// What is open at a place of the page.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    /// `data-overspill="off"`: nothing within moves.
    pub(super) off: bool,
    /// Whether it is off since markup is in doubt, not since the page says so.
    doubt: bool,
    /// How many `template`s: their content is not part of the page, so a `base` in one is none.
    pub(super) templates: u32,
    /// A `picture`: its sources are fetched as the `crossorigin` of its `img` says, which comes last.
    pub(super) picture: bool,
    /// A `video` or `audio`: its sources are fetched as its `crossorigin` says.
    pub(super) media: Fetch,
}

/// What an end tag ends.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Closes {
    pub(super) off: bool,
    /// What would be text in HTML, or HTML within SVG or MathML.
    pub(super) text: bool,
    pub(super) template: bool,
    pub(super) picture: bool,
    /// A `video` or `audio`; what counts again behind it.
    pub(super) media: Option<Fetch>,
    /// A `<style>`.
    pub(super) style: bool,
    /// An `svg` or `math`.
    pub(super) foreign: bool,
    /// One that is in no other.
    pub(super) outermost: bool,
    /// What would be text in HTML, in SVG or MathML.
    pub(super) foreign_text: bool,
}

// === impl Closes ===

impl Closes {
    pub(super) const fn is_any(self) -> bool {
        self.off
            || self.text
            || self.template
            || self.picture
            || self.media.is_some()
            || self.style
            || self.foreign
    }
}

// === impl Scopes ===

impl Scopes {
    /// An HTML element that can have content begins.
    pub(super) fn open(&mut self, tag: &str, attributes: &Attributes<'_, '_>) -> Closes {
        let mut closes = Closes::default();
        match tag {
            "template" => {
                self.templates += 1;
                closes.template = true;
            }
            "picture" => {
                self.picture = true;
                closes.picture = true;
            }
            "style" => closes.style = true,
            "video" | "audio" => {
                // Of one within another either may be what its sources are fetched for.
                let media = self.media.max(Fetch::of(attributes));
                closes.media = (media != self.media).then_some(self.media);
                self.media = media;
            }
            _ => {}
        }
        closes
    }

    /// Why nothing moves here; `doubt` where markup is, from this element on.
    pub(super) fn why_off(&mut self, doubt: bool) -> Stay {
        self.doubt |= doubt;
        if self.doubt { Stay::Markup } else { Stay::Off }
    }

    /// Whether what the scanner takes for elements here may be text.
    pub(super) const fn in_doubt(&self) -> bool {
        self.off && self.doubt
    }

    pub(super) fn close(&mut self, closes: Closes) {
        self.off &= !closes.off;
        self.doubt &= self.off;
        self.picture &= !closes.picture;
        self.templates -= u32::from(closes.template);
        if let Some(media) = closes.media {
            self.media = media;
        }
    }
}
