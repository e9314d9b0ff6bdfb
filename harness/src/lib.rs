//! The runner of Touchstone: claims, cases, evidence, goldens, the judge, children, reports.
//!
//! Flow: `Claim -> Case -> child on GPUs -> Evidence file -> read back -> judge(+ goldens) ->
//! Verdict -> { libtest line, JUnit, checklist, summary }`.
//!
//! Invariants:
//! - This crate knows no CUDA, no NVML and no claim by name. A node is seen through [`node::Node`].
//! - Measuring never compares with a bound; [`judge`] never touches a device or a clock.
//! - A live verdict is computed from the evidence file just written, read back from disk.
//! - Types that are serialised are frozen: unknown fields are refused, a schema number leads.

pub mod app;
pub mod attest;
pub mod audit;
pub mod bless;
pub mod case;
pub mod child;
pub mod claim;
pub mod compare;
pub mod detector;
pub mod digest;
pub mod evidence;
pub mod files;
pub mod golden;
pub mod interrupt;
pub mod judge;
pub mod lint;
pub mod live;
pub mod lock;
pub mod node;
pub mod options;
pub mod pages;
pub mod publish;
pub mod record;
pub mod recorded;
pub mod recover;
pub mod register;
mod relay;
pub mod report;
pub mod run;
pub mod schedule;
pub mod selfcheck;
pub mod shared;
pub mod statistics;
pub mod watch;
pub mod watchdog;
pub mod word;
pub mod world;
