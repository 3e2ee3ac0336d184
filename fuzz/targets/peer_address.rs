//! Addresses of peers, from links and command lines: what is taken names one place, and prints to the same one.

use piecework::drivers::transport::{Place, Target};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(target) = text.parse::<Target>() else { return };
    let [place] = target.places.as_slice() else { panic!("{} places", target.places.len()) };
    let again = place.to_string().parse::<Target>().expect("what was printed");
    match (place, again.places.as_slice()) {
        (Place::Socket(address), [Place::Socket(read)]) => {
            assert!(address.port() != 0);
            // An address may have been written with what an address alone cannot say.
            assert_eq!((address.ip(), address.port()), (read.ip(), read.port()));
        }
        (Place::Name { port, .. }, [_]) => assert!(*port != 0),
        other => panic!("{other:?}"),
    }
}
