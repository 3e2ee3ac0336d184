//! Lines between sites, and what crosses them.

use piecework_sim::scenario::builtin;

use crate::run;

/// A run in which the line carries more than budget and burst at any time is void: see `checker`.
#[test]
fn the_line_keeps_to_its_budget_whatever_comes_over_it() {
    for seed in 1..4 {
        let outcome = run(builtin("line-budget").expect("it is built in"), seed);
        assert_eq!((outcome.violation.as_deref(), outcome.complete), (None, outcome.wanted), "seed {seed}");
        let branch = outcome.sites.iter().find(|site| site.name == "branch").expect("there is one");
        println!("seed {seed}: {} bytes over at most, {} copies in", branch.over_budget, branch.copies_in);
        // The budget is a fifth of the line; what is over is what it saves up.
        assert!(branch.busy_in <= 205, "seed {seed}: {branch:?}");
        assert!(branch.over_budget > 0 && branch.copies_in <= 1050, "seed {seed}: {branch:?}");
    }
}

/// Each content has gateways of its own, most of which know nothing of the others.
#[test]
fn contents_of_different_machines_share_the_budget_of_their_line() {
    for seed in 1..4 {
        let outcome = run(builtin("line-budget-apart").expect("it is built in"), seed);
        assert_eq!((outcome.violation.as_deref(), outcome.complete), (None, outcome.wanted), "seed {seed}");
        let branch = outcome.sites.iter().find(|site| site.name == "branch").expect("there is one");
        println!("seed {seed}: {} bytes over at most, {} copies in", branch.over_budget, branch.copies_in);
        assert!(branch.busy_in <= 205 && branch.copies_in <= 1050, "seed {seed}: {branch:?}");
    }
}

#[test]
fn who_says_that_it_goes_to_sleep_holds_up_nobody() {
    let told = builtin("sleepers").expect("it is built in");
    let untold = told.replace("announced = true\n", "");
    let mut sums = (0, 0);
    for seed in 1..4 {
        let half = |text: &str| {
            let outcome = run(text, seed);
            assert_eq!((outcome.violation.as_deref(), outcome.complete), (None, outcome.wanted), "seed {seed}");
            (outcome.times.p50, outcome.bound, outcome.origin_copies)
        };
        let ((told, bound, copies), (untold, ..)) = (half(told), half(&untold));
        println!("seed {seed}: half are done after {told} us if told, {untold} if not; bound {bound}, {copies} copies");
        assert!(told * 1000 <= bound * 1060, "seed {seed}: {told} of {bound}");
        assert!(copies <= 1050, "seed {seed}: {copies}");
        sums = (sums.0 + told, sums.1 + untold);
    }
    // Without a word the others wait until leases run out, where it was the last pieces that were being fetched.
    assert!(sums.0 * 11 <= sums.1 * 10, "{sums:?}");
}

#[test]
fn what_the_site_has_is_not_fetched_from_the_origin() {
    let office = r#"
about = "an office whose line is a fifth of its switch"
[content]
size = "64 MiB"
[[origin]]
rate = "1 Gbit/s"
[[site]]
name = "office"
down = "20 Mbit/s"
up = "20 Mbit/s"
[[machines]]
site = "office"
count = 20
down = "100 Mbit/s"
up = "100 Mbit/s"
within = "2 s"
"#;
    for seed in 1..4 {
        let outcome = run(office, seed);
        assert_eq!((outcome.violation.as_deref(), outcome.complete), (None, 20));
        let available = outcome.origin_bytes_with_peer_available * 1000 / outcome.content_bytes;
        println!("seed {seed}: {available} thousandths of the content with a peer available");
        assert!(available <= 20, "seed {seed}: {available} thousandths");
    }
}

#[test]
fn a_content_crosses_the_line_of_each_branch_about_once() {
    let branches = r#"
about = "four branches of eight, and an origin that is nobody's bottleneck"
[content]
size = "64 MiB"
[[origin]]
rate = "500 Mbit/s"
[[site]]
name = "branch"
count = 4
down = "20 Mbit/s"
up = "5 Mbit/s"
latency = "15 ms"
group = "company"
[[machines]]
site = "branch"
count = 8
down = "1 Gbit/s"
up = "1 Gbit/s"
within = "2 s"
[discovery]
remote = 2
"#;
    for seed in 1..4 {
        let outcome = run(branches, seed);
        assert_eq!((outcome.violation.as_deref(), outcome.complete), (None, 32));
        let most = outcome.sites.iter().map(|site| site.copies_in).max().unwrap_or(0);
        println!(
            "seed {seed}: {most} thousandths of the content over the busiest line, {} last",
            outcome.last_over_bound
        );
        assert!(most <= 1150, "seed {seed}: {most} thousandths");
    }
}
