//! Answers of multicast DNS to a question of ours: read or refused, whatever they are.

use piecework::drivers::discovery::answer::{question, read};

/// One run: the first two bytes are the number of the question.
pub fn run(data: &[u8]) {
    let number = data.first_chunk::<2>().map_or(0, |number| u16::from_be_bytes(*number));
    assert!(read(&question(number), number).is_none(), "a question is no answer");
    for told in read(data, number).unwrap_or_default() {
        assert!(told.port != 0 && (1..=8).contains(&told.ips.len()));
    }
}
