//! `process_*` as Prometheus client libraries export them, from `/proc/self`.

use super::family::Family;
use rustix::process::{Resource, getrlimit};

/// Fields of `/proc/self/stat`, counted from the state (proc(5), field 3) as 0.
const UTIME: usize = 11;
const STIME: usize = 12;
const THREADS: usize = 17;
const START: usize = 19;
const VSIZE: usize = 20;
const RSS: usize = 21;

/// Clock ticks a second in `/proc`: 100 on every Linux (USER_HZ).
const TICKS: f64 = 100.0;

/// The families of this process. What cannot be read is 0.
pub fn families() -> Vec<Family> {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name may hold spaces and parentheses: fields are counted behind the last one.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field =
        |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let single = |family: Family, value: f64| family.row(&[], value);
    vec![
        single(
            Family::counter("process_cpu_seconds_total", "User and system CPU time of the process.", &[]),
            (field(UTIME) + field(STIME)) / TICKS,
        ),
        single(Family::gauge("process_open_fds", "Open file descriptors.", &[]), descriptors as f64),
        single(Family::gauge("process_max_fds", "Most file descriptors it may open.", &[]), most as f64),
        single(Family::gauge("process_virtual_memory_bytes", "Virtual memory size.", &[]), field(VSIZE)),
        single(
            Family::gauge("process_resident_memory_bytes", "Resident memory size.", &[]),
            field(RSS) * rustix::param::page_size() as f64,
        ),
        single(
            Family::gauge("process_start_time_seconds", "Start of the process since the epoch.", &[]),
            boot_seconds() + field(START) / TICKS,
        ),
        single(Family::gauge("process_threads", "OS threads in the process.", &[]), field(THREADS)),
    ]
}

/// When the machine booted, seconds since the epoch.
fn boot_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}
