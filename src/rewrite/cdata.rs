//! CDATA in SVG and MathML, where the scanner and a browser may read it in two ways.
//!
//! There `<![CDATA[` begins text that ends at `]]>`; in HTML it begins a comment that ends at the first `>`, and in a
//! script or a style it is nothing. The scanner only simulates a parser's namespaces, and can be wrong from the first
//! `<svg>` or `<math>` on, for as long as that is open (or for good, where it is closed by something else than its end
//! tag). So there each CDATA has to be the same in both readings, or what follows is in doubt.

/// Reads the bytes of a page for CDATA that can be read in two ways.
#[derive(Debug, Default)]
pub(super) struct Cdata {
    watched: bool,
    /// Whether it is watched to the end of the page.
    for_good: bool,
    /// Whether what is open would be a script, a style or the like in HTML.
    pub(super) in_text: bool,
    /// So much of its beginning has matched; all of it: within.
    matched: usize,
    brackets: usize,
    after_less_than: bool,
    differs: bool,
}

const BEGINNING: &[u8] = b"<![CDATA[";

// === impl Cdata ===

impl Cdata {
    /// An `svg` or `math` begins. One that ends at once is none for the scanner.
    pub(super) fn open(&mut self, has_content: bool) {
        self.watched = true;
        self.for_good |= !has_content;
    }

    /// It ends, the outermost one or one within; `own`: by its own end tag.
    pub(super) fn close(&mut self, outermost: bool, own: bool) {
        self.for_good |= !own;
        self.watched = self.for_good || self.watched && !outermost;
    }

    pub(super) const fn is_watched(&self) -> bool {
        self.watched
    }

    /// Whether what follows is in doubt.
    pub(super) const fn differs(&self) -> bool {
        self.differs
    }

    /// The next bytes of the page.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        if !self.watched || self.differs {
            return;
        }
        for &byte in bytes {
            if self.matched < BEGINNING.len() {
                self.matched = match byte {
                    _ if byte == BEGINNING[self.matched] => self.matched + 1,
                    b'<' => 1,
                    _ => 0,
                };
                continue;
            }
            match byte {
                b']' => self.brackets += 1,
                b'>' if self.brackets >= 2 => self.matched = 0,
                b'>' => self.differs |= !self.in_text,
                b'/' => self.differs |= self.in_text && self.after_less_than,
                _ => {}
            }
            if byte != b']' {
                self.brackets = 0;
            }
            self.after_less_than = byte == b'<';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(text: &str, in_text: bool) -> bool {
        let whole = {
            let mut cdata = Cdata::default();
            cdata.open(true);
            cdata.in_text = in_text;
            cdata.pass(text.as_bytes());
            cdata.differs()
        };
        let mut cdata = Cdata::default();
        cdata.open(true);
        cdata.in_text = in_text;
        text.bytes().for_each(|byte| cdata.pass(&[byte]));
        assert_eq!(cdata.differs(), whole);
        whole
    }

    #[test]
    fn text_without_an_end_of_the_other_reading_is_the_same_in_both() {
        for (text, as_markup, as_text) in [
            ("a > b </c>", false, false),
            ("<![CDATA[ a ]]> >", false, false),
            ("<![CDATA[ a ]] ]]]>", false, false),
            ("<![CDATA[ a > b ]]>", true, false),
            ("<![CDATA[ </a ]]>", false, true),
            ("<<![CDATA[>", true, false),
            ("<![cdata[>", false, false),
            ("<![CDATA[]>", true, false),
            ("<![CDATA[ ]]><![CDATA[ ] ]>", true, false),
        ] {
            assert_eq!(differs(text, false), as_markup, "{text}");
            assert_eq!(differs(text, true), as_text, "{text}");
        }
    }

    #[test]
    fn nothing_is_watched_outside() {
        let mut cdata = Cdata::default();
        cdata.pass(b"<![CDATA[>");
        cdata.open(true);
        cdata.close(false, true);
        assert!(cdata.is_watched());
        cdata.close(true, true);
        cdata.pass(b"<![CDATA[>");
        assert!(!cdata.differs() && !cdata.is_watched());
        cdata.open(true);
        cdata.close(true, false);
        cdata.pass(b"<![CDATA[>");
        assert!(cdata.differs());
    }
}
