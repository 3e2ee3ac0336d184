//! What leaves the cache, and why: what is too old, then what the limits have no room for, least recently used first, and
//! what may be the site's last copy after all that others hold. Pure: the cache's care asks, and carries out.

use std::time::Duration;

use crate::content::hash::ManifestId;

/// What the cache may take; from policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheRules {
    /// Bytes at most; `None`: `percent_max` says.
    pub bytes_max: Option<u64>,
    /// Of the volume's free bytes and those of the cache.
    pub percent_max: u64,
    /// Bytes of the volume that stay free.
    pub free_bytes_min: u64,
    /// Seconds since the last use after which a content goes; `None`: never.
    pub age_max: Option<u64>,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub manifest: ManifestId,
    /// Bytes that it takes on disk, or is about to.
    pub bytes: u64,
    /// When it was of use last, since the epoch.
    pub used: Duration,
    /// Pinned, wanted or being served: it stays.
    pub stays: bool,
    /// Others of the site hold it, or did lately: the site need not fetch it again for want of this copy.
    pub others_hold: bool,
}

/// How full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of the cache.
    pub occupied: u64,
    /// Free bytes of its volume.
    pub free: u64,
    /// Bytes that are about to be written.
    pub wanted: u64,
    /// The time, seconds since the epoch.
    pub now: u64,
}

/// Why a content was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `max_cache_age`.
    Age,
    /// `max_cache_size` or `max_cache_percent`.
    CacheFull,
    /// `min_free_disk`.
    DiskFull,
}

impl Reason {
    /// The policy behind it.
    pub fn policy(self) -> &'static str {
        match self {
            Reason::Age => "max_cache_age",
            Reason::CacheFull => "max_cache_size, max_cache_percent",
            Reason::DiskFull => "min_free_disk",
        }
    }
}

impl CacheRules {
    /// Bytes that the cache may have on a volume with so much room.
    pub fn bytes_max(&self, room: &Room) -> u64 {
        let share = u128::from(room.free.saturating_add(room.occupied)) * u128::from(self.percent_max.min(100)) / 100;
        self.bytes_max.unwrap_or_else(|| u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// What is to go, in this order. What stays is never named, so the limits may not be met by it.
    pub fn plan(&self, mut held: Vec<Held>, room: &Room) -> Vec<(Held, Reason)> {
        held.retain(|entry| !entry.stays);
        let is_old = |entry: &Held| self.age_max.is_some_and(|max| room.now.saturating_sub(entry.used.as_secs()) > max);
        // Equal times fall by the id, so that two looks give one answer.
        held.sort_by_key(|entry| (!is_old(entry), !is_old(entry) && !entry.others_hold, entry.used, entry.manifest));
        let bytes_max = self.bytes_max(room);
        let (mut occupied, mut free) =
            (room.occupied.saturating_add(room.wanted), room.free.saturating_sub(room.wanted));
        let mut going = Vec::new();
        for entry in held {
            let reason = if is_old(&entry) {
                Reason::Age
            } else if occupied > bytes_max {
                Reason::CacheFull
            } else if free < self.free_bytes_min {
                Reason::DiskFull
            } else {
                break;
            };
            occupied = occupied.saturating_sub(entry.bytes);
            free = free.saturating_add(entry.bytes);
            going.push((entry, reason));
        }
        going
    }

    /// How full it will be once these have gone.
    pub fn after(&self, going: &[(Held, Reason)], room: &Room) -> Room {
        let bytes = going.iter().map(|(entry, _)| entry.bytes).fold(0, u64::saturating_add);
        Room { occupied: room.occupied.saturating_sub(bytes), free: room.free.saturating_add(bytes), ..*room }
    }

    /// Whether what is wanted fits now; else which policy it would break.
    pub fn fits(&self, room: &Room) -> Result<(), Reason> {
        if room.occupied.saturating_add(room.wanted) > self.bytes_max(room) {
            return Err(Reason::CacheFull);
        }
        if room.free < room.wanted.saturating_add(self.free_bytes_min) {
            return Err(Reason::DiskFull);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: CacheRules =
        CacheRules { bytes_max: Some(100), percent_max: 20, free_bytes_min: 50, age_max: Some(10) };

    fn held(id: u8, bytes: u64, used: u64) -> Held {
        let used = Duration::from_secs(used);
        Held { manifest: ManifestId::new([id; 32]), bytes, used, stays: false, others_hold: false }
    }

    fn going(rules: CacheRules, held: &[Held], room: Room) -> Vec<(u8, Reason)> {
        rules.plan(held.to_vec(), &room).iter().map(|(held, why)| (held.manifest.as_bytes()[0], *why)).collect()
    }

    #[test]
    fn the_old_go_first_then_the_least_recently_used_until_the_rest_fits() {
        let all = [held(1, 40, 95), held(2, 40, 85), held(3, 40, 96), held(4, 40, 97)];
        let room = Room { occupied: 160, free: 1000, wanted: 0, now: 100 };
        assert_eq!(going(RULES, &all, room), [(2, Reason::Age), (1, Reason::CacheFull)]);
        let wanted = Room { wanted: 40, ..room };
        assert_eq!(going(RULES, &all, wanted).last(), Some(&(3, Reason::CacheFull)));
        let plan = RULES.plan(all.to_vec(), &wanted);
        assert_eq!(RULES.fits(&RULES.after(&plan, &wanted)), Ok(()));
        let full = Room { occupied: 80, free: 20, wanted: 0, now: 100 };
        assert_eq!(going(RULES, &all[2..], full), [(3, Reason::DiskFull)]);
        assert_eq!(going(RULES, &all[2..], Room { free: 50, ..full }), []);
    }

    #[test]
    fn the_last_copy_of_a_site_goes_after_what_others_hold() {
        let shared = |id, used| Held { others_hold: true, ..held(id, 40, used) };
        let all = [held(1, 40, 95), shared(2, 98), held(3, 40, 96), shared(4, 97)];
        let room = |occupied| Room { occupied, free: 1000, wanted: 0, now: 100 };
        assert_eq!(going(RULES, &all, room(160)), [(4, Reason::CacheFull), (2, Reason::CacheFull)]);
        assert_eq!(going(RULES, &all, room(200)).last(), Some(&(1, Reason::CacheFull)), "and then by use");
        let old = [held(1, 40, 80), shared(2, 85), shared(3, 99), held(4, 40, 99)];
        let expected = [(1, Reason::Age), (2, Reason::Age), (3, Reason::CacheFull)];
        assert_eq!(going(RULES, &old, room(181)), expected, "what is too old is no copy worth keeping");
    }

    #[test]
    fn what_is_pinned_or_in_use_stays_whatever_the_limits() {
        let pinned = [Held { stays: true, ..held(1, 500, 0) }, held(2, 1, 99)];
        let room = Room { occupied: 501, free: 0, wanted: 0, now: 100 };
        assert_eq!(going(RULES, &pinned, room), [(2, Reason::CacheFull)]);
        assert_eq!(RULES.fits(&Room { occupied: 500, ..room }), Err(Reason::CacheFull));
        assert_eq!(RULES.fits(&Room { occupied: 0, free: 60, wanted: 11, now: 0 }), Err(Reason::DiskFull));
        assert_eq!(RULES.fits(&Room { occupied: 0, free: 61, wanted: 11, now: 0 }), Ok(()));
    }

    #[test]
    fn without_a_size_the_percentage_is_of_what_is_free_and_what_is_cached() {
        let rules = CacheRules { bytes_max: None, age_max: None, ..RULES };
        let room = Room { occupied: 300, free: 700, wanted: 0, now: 100 };
        assert_eq!(rules.bytes_max(&room), 200);
        assert_eq!(going(rules, &[held(1, 100, 1), held(2, 200, 2)], room), [(1, Reason::CacheFull)]);
        assert_eq!(rules.bytes_max(&Room { occupied: u64::MAX, free: u64::MAX, ..room }), u64::MAX / 5);
    }
}
