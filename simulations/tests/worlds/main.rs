//! What holds in every world: theory, determinism, and a hundred small worlds of chance.

mod chance;
mod sharing;
mod sites;
mod strangers;
mod theory;
mod wishes;

use piecework_sim::outcome::Outcome;
use piecework_sim::scenario::{Policy, Scenario, parse};

/// A scenario from its text.
fn scenario(text: &str) -> Scenario {
    parse("a test's scenario", text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn run(text: &str, seed: u64) -> Outcome {
    run_as(text, seed, Policy::Piecework)
}

fn run_as(text: &str, seed: u64, policy: Policy) -> Outcome {
    piecework_sim::run("test", scenario(text), seed, policy, &mut |_| {}).expect("it was checked")
}

/// A crowd around one seed, all links alike.
fn crowd(mib: u64, machines: u64) -> String {
    format!(
        r#"
about = "a crowd around one seed"
[content]
size = "{mib} MiB"
[[site]]
name = "lan"
down = "100 Gbit/s"
up = "100 Gbit/s"
[[machines]]
name = "seed"
site = "lan"
count = 1
down = "100 Mbit/s"
up = "100 Mbit/s"
seed = true
[[machines]]
site = "lan"
count = {machines}
down = "100 Mbit/s"
up = "100 Mbit/s"
"#
    )
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let (first, again, other) = (run(&crowd(16, 12), 1), run(&crowd(16, 12), 1), run(&crowd(16, 12), 2));
    assert_eq!(first, again);
    assert_ne!(first.trace, other.trace);
    assert_eq!((first.violation.as_deref(), first.complete), (None, 12));
}

#[test]
fn a_recorded_engine_replays_to_the_same_actions_and_a_forged_log_does_not() {
    use piecework_sim::record::{Error, Recorder, replay};
    use piecework_sim::world::World;
    let folder = std::env::temp_dir().join(format!("piecework-sim-replay-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let log = folder.join("log.jsonl");
    let mut world = World::new(scenario(&crowd(8, 6)), 3, Policy::Piecework).expect("it was checked");
    let share = world.share_of(3).expect("there is a machine 3");
    world.record(Recorder::create(&log, share).expect("a file"));
    world.run(&mut |_| {});
    assert!(world.record_failed().is_none());
    let replayed = replay(&log).expect("the same engine");
    assert!(replayed.events > 50 && replayed.actions > 20, "{replayed:?}");
    let text = std::fs::read_to_string(&log).expect("it was written");
    std::fs::write(&log, text.replacen("Interested(true)", "Interested(false)", 1)).expect("a file");
    assert!(matches!(replay(&log), Err(Error::Differs { .. })));
    std::fs::write(&log, "{}\n").expect("a file");
    assert!(matches!(replay(&log), Err(Error::Form { line: 1, .. })));
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[test]
fn every_baseline_brings_everything_to_everybody() {
    let office = r#"
about = "an office"
[content]
size = "8 MiB"
[[origin]]
rate = "100 Mbit/s"
[[site]]
name = "office"
down = "50 Mbit/s"
up = "50 Mbit/s"
[[machines]]
site = "office"
count = 6
down = "100 Mbit/s"
up = "100 Mbit/s"
"#;
    for policy in [Policy::Piecework, Policy::Http, Policy::Sequential, Policy::Bittorrent, Policy::Random] {
        let outcome = run_as(office, 1, policy);
        assert_eq!((outcome.violation.as_deref(), outcome.complete), (None, 6), "{}", policy.name());
    }
    assert_eq!(run_as(office, 1, Policy::Http).origin_copies, 6000);
}

#[test]
fn many_small_contents_are_shared_each_for_itself() {
    let outcome = run(
        r#"
about = "a long tail"
[content]
size = "1 MiB"
count = 40
wanted_by = 4
within = "20 s"
[[origin]]
rate = "100 Mbit/s"
[[site]]
name = "office"
down = "50 Mbit/s"
up = "50 Mbit/s"
[[machines]]
site = "office"
count = 8
down = "100 Mbit/s"
up = "100 Mbit/s"
within = "60 s"
"#,
        1,
    );
    assert_eq!((outcome.violation.as_deref(), outcome.complete), (None, 160));
    assert!(outcome.origin_copies < 2000, "{}", outcome.origin_copies);
}
