//! Frames of the data protocol: bytes of a peer are read, refused or wait for more, and nothing else.

use piecework::wire::frame::{Front, Kind, front};
use piecework::wire::message::Frame;

/// One run. What is read must encode to bytes that read the same.
pub fn run(data: &[u8]) {
    let mut rest = data;
    // A stream of frames, as far as it goes.
    while let Ok(front) = front(rest) {
        let taken = match front {
            Front::NeedMore(at_least) => {
                assert!(at_least > rest.len());
                break;
            }
            Front::Control(frame, taken) => {
                check(&frame);
                taken
            }
            Front::Piece(header, taken) => {
                let mut again = Vec::new();
                header.encode(&mut again).expect("what was read has a shape that can be");
                assert_eq!(Some(again.as_slice()), rest.get(..taken));
                taken.saturating_add(header.payload_bytes as usize)
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
    }
    // One body, read as every kind.
    for kind in Kind::ALL {
        if let Ok(frame) = Frame::decode(*kind, data) {
            check(&frame);
        }
    }
}

fn check(frame: &Frame) {
    let mut again = Vec::new();
    frame.encode(&mut again);
    assert_eq!(front(&again), Ok(Front::Control(frame.clone(), again.len())));
}
