//! Links: what is taken prints to a link of the same meaning.

use piecework::content::Link;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(link) = text.parse::<Link>() {
        assert!(Link::is_link(text));
        assert_eq!(link.to_string().parse::<Link>(), Ok(link));
    }
}
