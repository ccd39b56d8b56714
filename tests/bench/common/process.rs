//! What a process costs: time, CPU and memory, as the kernel counts them in /proc.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::support::process::{PATIENCE, Process};

/// How often memory is looked at. The kernel keeps the peak, so only what is taken in a process's last moment is missed.
const INTERVAL: Duration = Duration::from_millis(5);

/// What one run of a program cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// From its start to its end, in seconds.
    pub seconds: f64,
    /// User and system time, in seconds.
    pub cpu: f64,
    /// The most memory it had at once, in bytes.
    pub memory: u64,
}

/// The most memory that a process has had so far, in bytes; None once it has ended.
pub fn peak_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Runs a program to its end, which has to be a good one.
///
/// # Panics
/// When it is not, quoting the program.
pub fn measured(command: &mut Command) -> Cost {
    let began = Instant::now();
    let process = Process::spawn(command);
    let (pid, ended, memory) = (process.id(), AtomicBool::new(false), AtomicU64::new(0));
    let seconds = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                memory.fetch_max(peak_memory(pid).unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(INTERVAL);
            }
        });
        // Not reaped yet, so that the kernel still has its account.
        let id = Pid::from_raw(pid as i32).unwrap();
        let waited = rustix::process::waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let seconds = began.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
        waited.unwrap();
        seconds
    });
    let cpu = cpu_seconds(pid);
    process.wait(PATIENCE).ok();
    Cost { seconds, cpu, memory: memory.into_inner() }
}

/// User and system time of a process so far, to a hundredth of a second.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
