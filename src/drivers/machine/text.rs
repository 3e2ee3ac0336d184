//! The program's own code in memory. What it ran at its start stays mapped, and the kernel spares mapped code when it
//! looks for pages to give to others; a daemon at rest runs little of it.

use std::path::Path;

/// Gives back the pages of this program's code; those that are still used come back from the page cache as they are run.
/// Returns the bytes of address space that this was done for, 0 where nothing could be.
pub fn give_back() -> u64 {
    let Ok(program) = std::env::current_exe() else { return 0 };
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return 0 };
    let code = maps.lines().filter_map(|line| code_of(line, &program));
    code.filter(|(start, length)| {
        // SAFETY: a private mapping of a file that is executed and not written is the same when it is read again: nothing is
        // relocated in code, and the kernel refuses to write to a file that is being executed. Ranges that are no longer
        // mapped, or wrong, are refused by the call.
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(*start), *length, libc::MADV_DONTNEED) == 0 }
    })
    .fold(0, |sum, (_, length)| sum + length as u64)
}

/// Start and length of a mapping of the program's code, from a line of `/proc/self/maps` (proc_pid_maps(5)).
fn code_of(line: &str, program: &Path) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let code = words.next()? == "r-xp";
    let path = words.nth(3)?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let length = end.checked_sub(start).filter(|length| *length > 0)?;
    (code && Path::new(path) == program).then_some((start, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_and_nothing_else() {
        let program = Path::new("/usr/bin/piecework");
        let found = |line: &str| code_of(line, program);
        assert_eq!(found("5500-5800 r-xp 00001000 fd:00 17   /usr/bin/piecework"), Some((0x5500, 0x300)));
        for line in [
            // Relocated data is read-only too, and must not be read anew.
            "5500-5800 r--p 00001000 fd:00 17   /usr/bin/piecework",
            "5500-5800 rw-p 00001000 fd:00 17   /usr/bin/piecework",
            "5500-5800 r-xp 00001000 fd:00 17   /usr/lib/libc.so.6",
            "5800-5500 r-xp 00001000 fd:00 17   /usr/bin/piecework",
            "r-xp",
            "",
        ] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn the_program_runs_on_without_its_pages() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("Linux");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
        };
        let before = resident();
        assert!(give_back() > 0);
        assert!(resident() <= before);
    }
}
