//! What the kernel says about this process (`proc(5)`); zeros where it says nothing.

/// One look.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seen {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Processor time of all threads since the start.
    pub cpu_seconds: f64,
    /// Open files, sockets and the like.
    pub descriptors: usize,
}

/// Looks now.
pub fn look() -> Seen {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Seen {
        resident_bytes: kib.unwrap_or(0).saturating_mul(1024),
        cpu_seconds: cpu_seconds(),
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1)),
    }
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    std::time::Duration::try_from(time).map_or(0.0, |time| time.as_secs_f64())
}
