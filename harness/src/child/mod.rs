//! A case in a child process of its own: what the child does, and how its parent watches it.
//!
//! The parent takes a crash, a hang, a kill or a broken result for what it is and turns it into an
//! [`Outcome`](crate::evidence::Outcome) that says with numbers what happened. Whatever a child
//! leaves behind in its process group ends with it.

mod inside;
mod log;
mod outcome;
mod process;
mod redact;

pub use inside::{ChildResult, Ended, main};
pub use log::{HEAD_BYTES, Log, TAIL_BYTES};
pub use outcome::{Context, LOG_TAIL_BYTES, part, unrun, word};
pub use process::{
    End, Finished, GRACE, Launch, Process, Show, UNKILLABLE, Why, spawn, start, start_shown,
};
pub use redact::{Redactor, redact, safe};
