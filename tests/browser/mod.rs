//! What a real browser makes of rewritten pages: Chromium without a window, and real servers around it.

mod demo_site;
mod fallback;
mod fixtures;
mod pages;
mod validators;
mod visit;
