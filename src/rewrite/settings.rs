//! `[rewrite]` of the configuration.

use serde::{Deserialize, Serialize};

/// Which links are moved to an offload server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Globs of paths whose objects may be moved, matched on the percent-encoded path; a leading `/`
    /// means the same as none. Default: one pattern of the extensions that pages embed.
    pub include: Vec<String>,
    /// Globs of paths that stay although `include` names them. Default: none.
    pub exclude: Vec<String>,
    /// More places of links, `"element:attribute"`, such as `"img:data-zoom"`; the value is one URL.
    /// Default: none.
    pub attributes: Vec<String>,
    /// Whether module scripts are moved, to servers with `cors`; never behind an import map. What a module
    /// imports by a path from the root comes from the server's root, so its URL should have no path.
    /// Default: false.
    pub modules: bool,
    /// Whether pages get a script that refetches from the primary what an offload server fails to give: once,
    /// after a random while, at most 40 objects a page. Default: false.
    pub fallback: bool,
}

/// The extensions of what pages embed: styles, scripts, pictures, fonts, media.
const EMBEDDED: &str = "**/*.{css,js,mjs,png,jpg,jpeg,gif,webp,avif,svg,ico,bmp,apng,woff,woff2,ttf,\
                        otf,eot,mp4,webm,mp3,m4a,ogg,oga,ogv,opus,wav,flac,mov,m4v}";

impl Default for Settings {
    fn default() -> Self {
        Self {
            include: vec![EMBEDDED.to_owned()],
            exclude: Vec::new(),
            attributes: Vec::new(),
            modules: false,
            fallback: false,
        }
    }
}
