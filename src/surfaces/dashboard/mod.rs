//! The page that `piecework dashboard` opens: files of this folder, as they are, that ask the control API. Nothing is built
//! or generated, nothing is loaded from elsewhere, and the page can only look.
//!
//! `app.js` asks and fills in, `draw.js` draws, `style.css` is how it looks in light and dark, wide and narrow.

use crate::surfaces::Asset;

/// Every file of the page.
pub const FILES: &[Asset] = &[
    Asset { path: "/", kind: "text/html; charset=utf-8", bytes: include_bytes!("index.html") },
    Asset { path: "/app.js", kind: "text/javascript; charset=utf-8", bytes: include_bytes!("app.js") },
    Asset { path: "/draw.js", kind: "text/javascript; charset=utf-8", bytes: include_bytes!("draw.js") },
    Asset { path: "/style.css", kind: "text/css; charset=utf-8", bytes: include_bytes!("style.css") },
    Asset { path: "/icon.svg", kind: "image/svg+xml", bytes: include_bytes!("icon.svg") },
];
