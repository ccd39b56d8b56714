//! A cable that takes time, or loses frames: they cross it in this process, because few small kernels have netem. Costs
//! CPU for every frame; a link without delay or loss is a plain pair of devices instead.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// A frame, and when it has crossed.
type Crossing = (Instant, Vec<u8>);

/// The cable. Dropping it pulls it out.
pub(super) struct Cable {
    pulled: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Cable {
    /// Joins two ends; each frame arrives so much after it was sent, in either direction, but for so many in a hundred.
    pub(super) fn join(ends: [File; 2], delay: Duration, loss_percent: u32) -> Self {
        let pulled = Arc::new(AtomicBool::new(false));
        let [a, b] = ends;
        let directions = [(a.try_clone().unwrap(), b.try_clone().unwrap()), (b, a)];
        let mut threads = Vec::new();
        for (from, to) in directions {
            let (sender, receiver) = channel();
            let pulled = pulled.clone();
            threads.push(std::thread::spawn(move || take(from, delay, loss_percent, &pulled, &sender)));
            threads.push(std::thread::spawn(move || give(to, &receiver)));
        }
        Self { pulled, threads }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.pulled.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A new Ethernet device in the calling thread's namespace; what its file reads is what the device sends.
pub(super) fn end(name: &str) -> File {
    /// `struct ifreq`, as far as the kernel looks at it here.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
    const ETHERNET_WITHOUT_HEADER: u16 = 0x1002;
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = Request { name: [0; 16], flags: ETHERNET_WITHOUT_HEADER, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    #[allow(unsafe_code)]
    // SAFETY: TUNSETIFF takes a pointer to a `struct ifreq`, 40 bytes, which `Request` is; it reads it and writes it.
    unsafe {
        ioctl(&file, Updater::<TUNSETIFF, Request>::new(&mut request)).unwrap();
    }
    file
}

fn take(mut from: File, delay: Duration, loss_percent: u32, pulled: &AtomicBool, crossing: &Sender<Crossing>) {
    let mut dice = 1u32;
    let tenth = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let mut frame = [0; 2048];
    while !pulled.load(Ordering::Relaxed) {
        // A read would not end when the cable is pulled.
        match poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&tenth)) {
            Ok(0) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        let Ok(length) = from.read(&mut frame) else { return };
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if (dice >> 16) % 100 < loss_percent {
            continue;
        }
        if crossing.send((Instant::now() + delay, frame[..length].to_vec())).is_err() {
            return;
        }
    }
}

fn give(mut to: File, crossing: &Receiver<Crossing>) {
    for (arrives, frame) in crossing {
        std::thread::sleep(arrives.saturating_duration_since(Instant::now()));
        // A device that is down loses what is sent to it.
        let _ = to.write(&frame);
    }
}
