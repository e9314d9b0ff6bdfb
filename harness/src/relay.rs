//! Standard output that may close: `| head`, a pager that quits, a log collector that dies.
//!
//! libtest-mimic prints and panics where a print fails, which would cost the run its manifest. So what
//! is no terminal is written through a pipe whose other end is always read; what the reader no longer
//! takes is dropped, and the run goes on to its reports.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

/// A relay between this process and its standard output, until [`Relay::end`].
#[derive(Debug)]
pub struct Relay {
    outside: OwnedFd,
    pump: JoinHandle<()>,
}

impl Relay {
    /// Puts a relay before standard output; `None` where that is a terminal, or cannot be had.
    pub fn begin() -> Option<Relay> {
        let stdout = rustix::stdio::stdout();
        if rustix::termios::isatty(stdout) {
            return None;
        }
        // Children get their own output and must not keep the pipe open.
        let outside = rustix::io::fcntl_dupfd_cloexec(stdout, 3).ok()?;
        let (inlet, outlet) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
        let target = File::from(outside.try_clone().ok()?);
        rustix::stdio::dup2_stdout(&outlet).ok()?;
        let pump = std::thread::spawn(move || pump(File::from(inlet), target));
        Some(Relay { outside, pump })
    }

    /// Takes the relay away once everything printed has gone through it.
    pub fn end(self) {
        // What cannot be printed any more is lost either way.
        let _ = std::io::stdout().flush();
        if rustix::stdio::dup2_stdout(&self.outside).is_ok() {
            let _ = self.pump.join();
        }
    }
}

fn pump(mut inlet: File, mut target: File) {
    let mut buffer = [0; 8192];
    let mut open = true;
    while let Ok(count @ 1..) = inlet.read(&mut buffer) {
        open = open && target.write_all(&buffer[..count]).is_ok();
    }
}
