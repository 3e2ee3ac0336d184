//! Blocks one after the other on links, against max-min fair sharing of them.

use crate::{crowd, run};

/// A few worlds under both ways; the differences are printed (`--nocapture`), and are not large.
#[test]
fn fifo_links_and_fair_sharing_agree() {
    let office = r#"
about = "an office"
[content]
size = "16 MiB"
[[origin]]
rate = "100 Mbit/s"
[[site]]
name = "office"
down = "20 Mbit/s"
up = "20 Mbit/s"
[[machines]]
site = "office"
count = 8
down = "100 Mbit/s"
up = "100 Mbit/s"
"#;
    let alone = "about = \"one machine\"\n[content]\nsize = \"32 MiB\"\n[[origin]]\nrate = \"50 Mbit/s\"\n[[site]]\n\
                 name = \"s\"\ndown = \"1 Gbit/s\"\nup = \"1 Gbit/s\"\n[[machines]]\nsite = \"s\"\ncount = 1\n\
                 down = \"100 Mbit/s\"\nup = \"100 Mbit/s\"\n";
    let worlds = [
        ("one", alone.to_owned(), 20),
        ("office", office.to_owned(), 250),
        ("pair", crowd(32, 1), 20),
        ("crowd", crowd(32, 16), 350),
    ];
    for (name, text, apart) in worlds {
        let fifo = run(&text, 1);
        let fair = run(&format!("{text}\n[model]\nsharing = \"max-min\"\n"), 1);
        for outcome in [&fifo, &fair] {
            assert_eq!((outcome.violation.as_deref(), outcome.complete), (None, outcome.wanted), "{name}");
            assert!(outcome.last_at >= outcome.bound, "{name}");
        }
        let percent = |a: u64, b: u64| (a as i64 - b as i64) * 1000 / b as i64;
        let (last, mean) = (percent(fifo.last_at, fair.last_at), percent(fifo.times.mean, fair.times.mean));
        println!(
            "{name}: last {} us FIFO, {} us max-min ({last} permille); mean {} and {} ({mean} permille)",
            fifo.last_at, fair.last_at, fifo.times.mean, fair.times.mean
        );
        assert!(last.abs() <= apart && mean.abs() <= apart, "{name}: {last} and {mean} permille apart");
    }
}
