//! What a real browser makes of rewritten pages: Chromium without a window, and real servers around it.

#![cfg(feature = "server")]

mod demo_site;
mod fallback;
mod fixtures;
mod pages;
#[path = "../support/mod.rs"]
mod support;
mod validators;
mod visit;
