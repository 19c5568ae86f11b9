//! What the operating system says about the host.

use std::fs;

/// The host as far as the system tells.
#[derive(Clone, Debug)]
pub struct Machine {
    pub product: String,
    /// Numbers of the CPUs that this process may use.
    pub cpus: Vec<usize>,
    pub clock_mhz: Option<u32>,
    /// The machine's or the container's, whichever is less.
    pub memory_bytes: u64,
    /// The largest that the first CPU reaches.
    pub cache_bytes: Option<u64>,
}

/// Taken for the cache where the system does not tell: more than any processor has, so that buffers of
/// a multiple of it are read from memory (the largest is the 504 MiB of a Xeon 6980P, 2024).
const ASSUMED_CACHE: u64 = 512 << 20;

impl Machine {
    /// `None` where the system does not say how much memory there is: the probes are sized by it.
    pub fn look() -> Option<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok();
        let of = |key: &str| {
            let line = cpuinfo.as_deref()?.lines().find(|line| line.starts_with(key))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let clock = of("cpu MHz").and_then(|mhz| mhz.parse::<f64>().ok());
        let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
        let kib: u64 = meminfo.lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok()
        })?;
        let total = kib << 10;
        let limit = fs::read_to_string("/sys/fs/cgroup/memory.max")
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        Some(Self {
            product: of("model name").unwrap_or_else(|| format!("{} CPU", std::env::consts::ARCH)),
            cpus: cpus(),
            clock_mhz: clock.map(|mhz| mhz.round() as u32).filter(|&mhz| mhz > 0),
            memory_bytes: limit.map_or(total, |limit| limit.min(total)),
            cache_bytes: largest_cache(),
        })
    }

    /// Bytes of cache that probes must exceed; what is assumed still leaves room for them in memory.
    pub fn cache_to_exceed(&self) -> u64 {
        self.cache_bytes.unwrap_or(ASSUMED_CACHE.min(self.memory_bytes / 16))
    }
}

/// Of the first CPU, at any level.
fn largest_cache() -> Option<u64> {
    let sizes = (0..8).filter_map(|index| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = fs::read_to_string(path).ok()?;
        text.trim().strip_suffix('K')?.parse::<u64>().ok()
    });
    sizes.max().map(|kib| kib << 10)
}

/// Average number of runnable threads over the last minute.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

#[cfg(target_os = "linux")]
fn cpus() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let allowed = sched_getaffinity(None).ok();
    let listed =
        |set: CpuSet| (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect::<Vec<_>>();
    allowed.map(listed).filter(|cpus| !cpus.is_empty()).unwrap_or_else(counted)
}

#[cfg(not(target_os = "linux"))]
fn cpus() -> Vec<usize> {
    counted()
}

fn counted() -> Vec<usize> {
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Keeps the calling thread on one CPU where the system can; elsewhere timings only scatter more.
pub fn pin_to(cpu: usize) {
    #[cfg(target_os = "linux")]
    {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cpu;
}

/// Nanoseconds that threads have run, and have waited for a CPU that something else held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turns(Vec<(u64, u64)>);

/// The kernel's books on some threads.
#[derive(Clone, Debug, Default)]
pub struct Books {
    threads: Vec<u32>,
}

impl Books {
    /// `threads` as [`thread_number`] gives them.
    pub fn new(threads: Vec<u32>) -> Self {
        Self { threads }
    }

    /// `None` where the system does not keep them for every thread (a kernel without
    /// `CONFIG_SCHED_INFO`, some sandboxes): then nobody knows how long they waited.
    pub fn turns(&self) -> Option<Turns> {
        let read = |thread: &u32| {
            let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
            turn(&text)
        };
        let turns: Option<Vec<_>> = self.threads.iter().map(read).collect();
        turns.filter(|turns| !turns.is_empty()).map(Turns)
    }
}

/// Nanoseconds run and waited: the first two numbers of a `schedstat`. One that runs and counts
/// nothing is not kept.
fn turn(schedstat: &str) -> Option<(u64, u64)> {
    let mut fields = schedstat.split_whitespace().map(str::parse);
    let (run, waited) = (fields.next()?.ok()?, fields.next()?.ok()?);
    (run > 0).then_some((run, waited))
}

impl Turns {
    /// Seconds that `wall` would have been, had no thread waited for a CPU since `before`: less the
    /// longest wait, but no less than the longest run.
    pub fn without_waits(&self, before: &Self, wall: f64) -> f64 {
        let since = self.0.iter().zip(&before.0);
        let spent: Vec<(u64, u64)> = since
            .map(|(now, then)| (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1)))
            .collect();
        let run = spent.iter().map(|(run, _)| *run).max().expect("books of a thread");
        let waited = spent.iter().map(|(_, waited)| *waited).max().expect("as above");
        (wall - waited as f64 / 1e9).max(run as f64 / 1e9).min(wall)
    }
}

/// The calling thread's number, for [`Books`].
pub fn thread_number() -> Option<u32> {
    #[cfg(target_os = "linux")]
    return u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).ok();
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_a_cpu_are_taken_off_but_never_what_was_run() {
        let before = Turns(vec![(0, 0), (5, 5)]);
        let after = Turns(vec![(1_000_000_000, 500_000_000), (900_000_005, 200_000_005)]);
        assert_eq!(after.without_waits(&before, 1.75), 1.25);
        assert_eq!(after.without_waits(&before, 1.2), 1.0);
    }

    #[test]
    fn books_that_are_not_kept_are_unknown_and_not_free_of_waits() {
        assert_eq!(turn("2249687 150 1\n"), Some((2_249_687, 150)));
        // As a kernel without scheduler statistics writes it.
        assert_eq!(turn("0 0 0\n"), None);
        assert_eq!(turn(""), None);
        assert_eq!(Books::default().turns(), None);
        assert_eq!(Books::new(vec![u32::MAX]).turns(), None);
    }

    #[test]
    fn an_unknown_cache_is_taken_for_larger_than_any_as_far_as_memory_goes() {
        let machine = |cache_bytes, memory_bytes| Machine {
            product: "some CPU".into(),
            cpus: vec![0],
            clock_mhz: None,
            memory_bytes,
            cache_bytes,
        };
        assert_eq!(machine(Some(8 << 20), 64 << 30).cache_to_exceed(), 8 << 20);
        assert_eq!(machine(None, 64 << 30).cache_to_exceed(), 512 << 20);
        assert_eq!(machine(None, 1 << 30).cache_to_exceed(), 64 << 20);
    }
}
