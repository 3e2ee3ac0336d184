//! A page of a listing of object storage: read or refused, whatever it is. What is told is the path of a URL, and an answer is
//! no larger than the page.

use piecework::drivers::sources::read_page;

pub fn run(data: &[u8]) {
    let Some(page) = read_page(data) else { return };
    let mut bytes = page.next.as_ref().map_or(0, String::len);
    for object in &page.objects {
        assert!((1..=1024).contains(&object.key.len()) && !object.tag.is_empty());
        assert!(!object.key.split('/').any(|part| matches!(part, "" | "." | "..")), "{}", object.key);
        assert!(!object.key.chars().any(char::is_control));
        bytes += object.key.len() + object.tag.len();
    }
    assert!(bytes <= data.len());
}
