//! The machine: its processors, its name, this process's memory.

use crate::clock;
use crate::report::Table;
use std::time::Duration;
use turnpike_shm::memory::Memory;

/// The processors to use: `wanted`, or the last one first (the first is where everybody else runs).
pub fn cpus(wanted: &[usize]) -> Vec<usize> {
    if wanted.is_empty() {
        let all = core_affinity::get_core_ids().unwrap_or_default();
        all.iter().rev().map(|core| core.id).collect()
    } else {
        wanted.to_vec()
    }
}

/// Pins this thread to the processor `cpus[index]`.
///
/// # Errors
/// If there is none, or the kernel refuses it.
pub fn pin(cpus: &[usize], index: usize) -> Result<(), String> {
    let Some(&id) = cpus.get(index) else {
        return Err(format!(
            "{} processors are needed and {} named or present: see --cpus",
            index + 1,
            cpus.len()
        ));
    };
    if core_affinity::set_for_current(core_affinity::CoreId { id }) {
        Ok(())
    } else {
        Err(format!("cannot run on processor {id}: see --cpus"))
    }
}

/// Memory of `bytes` bytes, from hugepages if enough of them are free, and whether it is.
///
/// # Errors
/// If there is not that much.
pub fn memory(bytes: usize) -> Result<(Memory, bool), String> {
    if let Ok(memory) = Memory::huge(bytes) {
        return Ok((memory, true));
    }
    let memory = Memory::ordinary(bytes).map_err(|error| format!("no memory for {bytes} bytes: {error}"))?;
    Ok((memory, false))
}

/// What memory lies on, in words.
pub const fn pages(huge: bool) -> &'static str {
    if huge { "2 MB" } else { "2 MB transparent" }
}

fn line_of(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn kilobytes(path: &str, key: &str) -> u64 {
    let text = line_of(path, key).unwrap_or_default();
    text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Memory of a process in bytes, on ordinary pages; 0 if there is none.
pub fn resident(process: u32) -> u64 {
    kilobytes(&format!("/proc/{process}/status"), "VmRSS")
}

/// Processor time that a process has used, to a hundredth of a second; none if there is no such process.
pub fn processor_time(process: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Behind the name, which may have spaces in it: utime and stime are the 14th and 15th field (proc(5)).
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Memory of this process in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resident {
    /// On ordinary pages and transparent large ones.
    pub ordinary: u64,
    /// Of that, on transparent large pages.
    pub transparent: u64,
    /// On reserved large pages.
    pub huge: u64,
}

impl Resident {
    /// What it is now.
    pub fn now() -> Self {
        Self {
            ordinary: kilobytes("/proc/self/status", "VmRSS"),
            transparent: kilobytes("/proc/self/smaps_rollup", "AnonHugePages"),
            huge: kilobytes("/proc/self/status", "HugetlbPages"),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.ordinary + self.huge
    }

    /// What came since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            ordinary: self.ordinary.saturating_sub(before.ordinary),
            transparent: self.transparent.saturating_sub(before.transparent),
            huge: self.huge.saturating_sub(before.huge),
        }
    }

    /// Which pages it lies on, in words.
    pub fn pages(&self) -> String {
        let total = self.total().max(1);
        let small = self.ordinary.saturating_sub(self.transparent);
        let parts = [(self.huge, "2 MB"), (self.transparent, "2 MB transparent"), (small, "4 kB")];
        let shares =
            parts.iter().map(|(bytes, name)| (bytes * 100 / total, name)).filter(|(share, _)| *share > 1);
        let mut words: Vec<String> = shares.map(|(share, name)| format!("{share} % on {name}")).collect();
        if let [only] = &words[..]
            && only.starts_with("100")
        {
            words = vec![only.replace("100 % on ", "")];
        }
        words.join(", ")
    }
}

/// Says in a table what it was measured on.
pub fn describe(table: &mut Table) {
    let model = line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
    // Not what this thread may use: it is pinned.
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processors = processors.lines().filter(|line| line.starts_with("processor")).count();
    table.condition(
        "machine",
        format!("{model}, {processors} processors, TSC {:.2} GHz, load {load} before", clock::hz() / 1e9),
    );
}
