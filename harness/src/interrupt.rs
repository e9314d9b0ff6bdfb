//! Ctrl-C: the first asks the run to stop, the second means now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Whether the operator wants the run to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
    now: Arc<AtomicBool>,
}

impl Interrupt {
    /// One that no signal raises.
    pub fn new() -> Interrupt {
        Interrupt::default()
    }

    /// One that SIGINT and SIGTERM raise: once, stop and keep what is finished; twice, without
    /// grace for children; three times, exit with 130 on the spot (children die with the runner).
    pub fn install() -> Result<Interrupt, String> {
        let interrupt = Interrupt::new();
        for signal in [SIGINT, SIGTERM] {
            // Before the other handler of the signal, so that it sees the state before this one.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                130,
                Arc::clone(&interrupt.now),
            )
            .map_err(|e| format!("signal {signal} cannot be handled: {e}"))?;
            let raised = interrupt.clone();
            // SAFETY: the handler only touches two atomics, which is async-signal-safe.
            unsafe { signal_hook::low_level::register(signal, move || raised.raise()) }
                .map_err(|e| format!("signal {signal} cannot be handled: {e}"))?;
        }
        Ok(interrupt)
    }

    /// What a signal does.
    pub fn raise(&self) {
        if self.asked.swap(true, Ordering::SeqCst) {
            self.now.store(true, Ordering::SeqCst);
        }
    }

    /// The run shall stop.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// The run shall stop without grace for its children.
    pub fn now(&self) -> bool {
        self.now.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_means_now() {
        let interrupt = Interrupt::new();
        assert_eq!((interrupt.asked(), interrupt.now()), (false, false));
        interrupt.raise();
        assert_eq!((interrupt.asked(), interrupt.now()), (true, false));
        interrupt.raise();
        assert_eq!((interrupt.asked(), interrupt.now()), (true, true));
    }
}
