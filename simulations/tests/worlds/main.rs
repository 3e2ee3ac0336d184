//! What holds in every world.

use piecework_sim::scenario::{Policy, parse};

/// A small crowd around one seed.
const CROWD: &str = r#"
about = "a small crowd"
[content]
size = "16 MiB"
[[site]]
name = "lan"
down = "1 Gbit/s"
up = "1 Gbit/s"
[[machines]]
name = "seed"
site = "lan"
count = 1
down = "100 Mbit/s"
up = "100 Mbit/s"
seed = true
[[machines]]
site = "lan"
count = 12
down = "100 Mbit/s"
up = "100 Mbit/s"
"#;

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let run = |seed| {
        let scenario = parse("crowd", CROWD).expect("it makes sense");
        piecework_sim::run("crowd", scenario, seed, Policy::Piecework, &mut |_| {}).expect("it can be built")
    };
    let (first, again, other) = (run(1), run(1), run(2));
    assert_eq!(first, again);
    assert_ne!(first.trace, other.trace);
    assert_eq!((first.violation.as_deref(), first.complete), (None, 12));
}
