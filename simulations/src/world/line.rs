//! The budgets of sites' lines: who shares one, and how it is kept to.

use std::collections::BTreeSet;

use piecework::swarm::event::Event;
use piecework::wire::limits::SHARING_COUNT_MAX;
use piecework::wire::line_divisor;

use crate::world::{State, World};

/// How the budget of a site's line is kept to.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// Bytes a second; 0: none.
    pub(crate) rate: u64,
    /// Bytes that have come beyond it, as a bucket that it empties; in millionths.
    over: u128,
    at: u64,
    /// The most that this ever was, in bytes.
    pub(crate) over_most: u64,
}

impl Budget {
    /// One of so many bytes a second; 0: none.
    pub(crate) fn of(rate: u64) -> Self {
        Self { rate, ..Self::default() }
    }

    /// Payload came over the line.
    fn came(&mut self, bytes: u64, now: u64) {
        let emptied = u128::from(self.rate) * u128::from(now - self.at);
        self.over = self.over.saturating_sub(emptied) + u128::from(bytes) * 1_000_000;
        self.at = now;
        self.over_most = self.over_most.max((self.over / 1_000_000) as u64);
    }
}

impl World {
    /// A site has one content more or less to fetch: they share the budget of its line. As in the node each machine tells of
    /// [`SHARING_COUNT_MAX`] at most; that all hear of it at once is the model's.
    pub(crate) fn share_line(&mut self, machine: u32) {
        let site = self.machines[machine as usize].site;
        if self.sites[site as usize].budget.rate == 0 {
            return;
        }
        let mut lacking: Vec<(u32, Vec<u32>)> = Vec::new();
        for ((machine, content), share) in &self.share_of {
            let it = &self.shares[*share as usize];
            if self.machines[*machine as usize].site != site || it.state != State::Online || it.truth.is_complete() {
                continue;
            }
            match lacking.last_mut() {
                Some((last, contents)) if last == machine => contents.push(*content),
                _ => lacking.push((*machine, vec![*content])),
            }
        }
        let told = lacking.iter().flat_map(|(_, contents)| contents.iter().take(SHARING_COUNT_MAX));
        let all = told.collect::<BTreeSet<_>>().len();
        for (machine, contents) in lacking {
            let by = line_divisor(all, contents.len());
            for content in contents {
                let share = self.share_of[&(machine, content)];
                if std::mem::replace(&mut self.shares[share as usize].line_shared_by, by) != by {
                    self.tell(share, Event::LineShared { by });
                }
            }
        }
    }

    /// Payload has come to a machine over its site's line.
    pub(crate) fn crossed(&mut self, machine: u32, bytes: u64) {
        let site = self.machines[machine as usize].site;
        let now = self.now;
        let budget = &mut self.sites[site as usize].budget;
        if budget.rate > 0 {
            budget.came(bytes, now);
            self.check_budget(site);
        }
    }
}
