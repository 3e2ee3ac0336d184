//! Links, and how long things take over them: each link carries one block after the other, in the order in which they
//! come. A block costs the same few steps whatever else is under way.
//!
//! A block's first byte enters the next link while its last is still on the one before: what it takes over a path is
//! its time on the slowest link, plus latency, plus the queues it meets.

use crate::units::Rate;

/// What TCP has under way before the first acknowledgement, bytes.
const INITIAL_WINDOW: u64 = 14_600;

/// One direction of a line; both, where it is half-duplex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// A line in one direction.
#[derive(Debug, Clone)]
pub struct Link {
    /// What it carries.
    pub rate: Rate,
    /// When all that was given to it has gone.
    pub free_at: u64,
    /// Bytes that went over it, payload and control, headers left out.
    pub bytes: u64,
    /// Of these, control messages.
    pub control_bytes: u64,
    /// Microseconds it was busy.
    pub busy: u64,
    /// Bytes of control messages that make up no whole microsecond yet.
    loose: u64,
    /// Taken by traffic of people.
    pub foreground: u64,
    /// Fair flows fill it: its queue stands.
    pub full: bool,
}

impl Link {
    /// What is left of its rate for us.
    fn rate_left(&self) -> Rate {
        // People's traffic never takes a line whole: a fiftieth is left, as fair queueing would leave it.
        Rate(self.rate.0.saturating_sub(self.foreground).max(self.rate.0 / 50).max(1))
    }

    /// Few bytes go over it, behind what queues; returns the whole microseconds that they take.
    fn take_loose(&mut self, bytes: u64, now: u64) -> u64 {
        let rate = self.rate_left().0;
        self.loose += bytes * 1_000_000;
        let takes = self.loose / rate;
        self.loose -= takes * rate;
        self.busy += takes;
        self.free_at = self.free_at.max(now) + takes;
        takes
    }
}

/// Where something goes: links in order, and one-way latency over all of them.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    links: [LinkId; 6],
    count: u8,
    /// One way, in microseconds.
    pub latency: u64,
}

impl Path {
    /// A path over at most six links.
    pub fn new(links: &[LinkId], latency: u64) -> Self {
        let mut path = Self { links: [LinkId(0); 6], count: 0, latency };
        for (to, from) in path.links.iter_mut().zip(links) {
            *to = *from;
            path.count += 1;
        }
        path
    }

    /// Its links in order.
    pub fn links(&self) -> &[LinkId] {
        &self.links[..usize::from(self.count)]
    }
}

/// When a block goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    /// Its first byte leaves.
    pub begins: u64,
    /// Its last byte has left the first link.
    pub left: u64,
    /// Its last byte is there.
    pub arrives: u64,
}

/// All links of a world.
#[derive(Debug, Default)]
pub struct Network {
    links: Vec<Link>,
    /// A control message waits behind that much time of payload at most.
    buffer: u64,
}

impl Network {
    /// No link yet; control messages wait behind `buffer` microseconds of payload at most.
    pub fn new(buffer: u64) -> Self {
        Self { links: Vec::new(), buffer }
    }

    /// Adds a link.
    pub fn add(&mut self, rate: Rate) -> LinkId {
        self.links.push(Link {
            rate,
            free_at: 0,
            bytes: 0,
            control_bytes: 0,
            busy: 0,
            loose: 0,
            foreground: 0,
            full: false,
        });
        LinkId(self.links.len() as u32 - 1)
    }

    /// A link.
    pub fn link(&self, id: LinkId) -> &Link {
        &self.links[id.0 as usize]
    }

    /// A link, to change what it carries.
    pub fn link_mut(&mut self, id: LinkId) -> &mut Link {
        &mut self.links[id.0 as usize]
    }

    /// What people's traffic leaves of a link, in bytes a second.
    pub fn left(&self, id: LinkId) -> u64 {
        self.link(id).rate_left().0
    }

    /// When a block may be given to a path, so that no link of it has more than about a block queued: whoever sends over
    /// a full link is held up, as TCP does it, and what is not sent can still be taken back.
    pub fn ready_at(&self, path: &Path, bytes: u64) -> u64 {
        let mut ready = 0;
        for id in path.links() {
            let link = self.link(*id);
            let slack = link.rate_left().time_of(bytes) + path.latency;
            ready = ready.max(link.free_at.saturating_sub(slack));
        }
        ready
    }

    /// Sends a block over a path, behind what is on each of its links.
    pub fn send(&mut self, path: &Path, bytes: u64, now: u64) -> Passage {
        let mut passage = Passage { begins: now, left: now, arrives: now };
        let last = path.links().len().saturating_sub(1);
        for (place, id) in path.links().iter().enumerate() {
            let link = &mut self.links[id.0 as usize];
            let takes = link.rate_left().time_of(bytes);
            let starts = link.free_at.max(passage.begins);
            link.free_at = starts + takes;
            link.bytes += bytes;
            link.busy += takes;
            if place == 0 {
                (passage.begins, passage.left) = (starts, link.free_at);
            }
            passage.arrives = passage.arrives.max(link.free_at);
            if place == last {
                passage.arrives += path.latency;
            }
        }
        passage
    }

    /// Microseconds by which a connection's first bytes come later than at the path's full rate, since TCP begins with ten
    /// segments and has twice as many under way after each round trip (RFC 6928; RFC 5681, 3.1).
    pub fn slow_start(&self, path: &Path, round_trip: u64) -> u64 {
        let rate = path.links().iter().map(|link| self.left(*link)).min().unwrap_or(1);
        let full = u128::from(rate) * u128::from(round_trip) / 1_000_000;
        let (mut window, mut sent, mut trips) = (INITIAL_WINDOW, 0u64, 0u64);
        while u128::from(window) < full {
            sent += window;
            window *= 2;
            trips += 1;
        }
        (trips * round_trip).saturating_sub(Rate(rate).time_of(sent))
    }

    /// Acknowledgements take their bytes' time of every link of a path; nobody waits for them.
    pub fn acknowledge(&mut self, path: &Path, bytes: u64, now: u64) {
        for id in path.links() {
            let link = &mut self.links[id.0 as usize];
            link.take_loose(bytes, now);
        }
    }

    /// Sends a control message: it takes its bytes' time of every link, and waits behind full queues, not behind all
    /// that is promised to a link.
    pub fn say(&mut self, path: &Path, bytes: u64, now: u64) -> u64 {
        let mut at = now + path.latency;
        for id in path.links() {
            let buffer = self.buffer;
            let link = &mut self.links[id.0 as usize];
            link.bytes += bytes;
            link.control_bytes += bytes;
            let queue = link.free_at.saturating_sub(now);
            let takes = link.take_loose(bytes, now);
            at += if link.full { buffer } else { queue.min(buffer) } + takes;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_needs_some_round_trips_where_the_line_is_long() {
        let mut network = Network::default();
        let path = Path::new(&[network.add(Rate(12_500_000))], 10_000);
        assert_eq!(network.slow_start(&path, 200), 0);
        // Five round trips of 20 ms bring 452,600 bytes, which the line alone takes 36,208 us for.
        assert_eq!(network.slow_start(&path, 20_000), 100_000 - 36_208);
    }

    #[test]
    fn a_block_takes_its_time_on_the_slowest_link_and_queues_behind_others() {
        let mut network = Network::default();
        let (fast, slow) = (network.add(Rate(10_000_000)), network.add(Rate(1_000_000)));
        let path = Path::new(&[fast, slow], 500);
        let first = network.send(&path, 1_000_000, 0);
        assert_eq!(first, Passage { begins: 0, left: 100_000, arrives: 1_000_500 });
        let second = network.send(&path, 1_000_000, 0);
        assert_eq!(second, Passage { begins: 100_000, left: 200_000, arrives: 2_000_500 });
        // A slow first link does not keep a fast second one busy.
        let back = Path::new(&[slow, fast], 0);
        network.send(&back, 1_000_000, 5_000_000);
        assert_eq!(network.link(fast).free_at, 5_100_000);
    }

    #[test]
    fn words_wait_behind_a_queue_and_not_behind_all_that_is_promised() {
        let mut network = Network::new(5_000);
        let link = network.add(Rate(1_000_000));
        let path = Path::new(&[link], 100);
        assert_eq!(network.say(&path, 100, 0), 200);
        network.send(&path, 10_000_000, 1_000);
        assert_eq!(network.say(&path, 100, 1_000), 1_000 + 100 + 5_000 + 100);
        let before = network.link(link).free_at;
        (0..100).for_each(|_| _ = network.say(&path, 50, 1_000));
        assert_eq!(network.link(link).free_at - before, 5_000, "small messages add up");
    }
}
