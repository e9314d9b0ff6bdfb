//! The command line of `touchstone watch`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::{Config, Measure, Round, WatchError, round};
use crate::world::World;

/// What is watched, and for how long.
#[derive(Debug, Args)]
pub struct Options {
    /// A TOML file: what is run, how often, where it is archived, what is called when something
    /// breaks
    pub config: PathBuf,
    /// One round, now: for cron and timers
    #[arg(long, conflicts_with = "rounds")]
    pub once: bool,
    /// End after so many rounds
    #[arg(long, value_name = "N")]
    pub rounds: Option<u64>,
}

/// Watches until its rounds are done; for ever without a number of them. Returns the gravest exit
/// code of all rounds.
pub fn run(options: &Options, world: &World, measure: &Measure) -> Result<i32, WatchError> {
    let config = Config::read(&options.config)?;
    let rounds = if options.once { Some(1) } else { options.rounds };
    let every = config.schedule.as_ref().map(|schedule| schedule.every_minutes);
    let every = match (every, rounds) {
        (Some(minutes), _) => SignedDuration::from_mins(minutes.try_into().unwrap_or(i64::MAX)),
        (None, Some(1)) => SignedDuration::ZERO,
        (None, _) => {
            let file = options.config.display().to_string();
            let what = "no [schedule], and no --once".to_owned();
            return Err(WatchError::Config { file, what });
        }
    };
    let begun = Timestamp::now();
    let mut status = 0;
    for count in 1.. {
        let done = round(world, &config, measure, Timestamp::now())?;
        tell(&done);
        status = graver(status, done.status);
        if rounds.is_some_and(|rounds| count >= rounds) {
            break;
        }
        std::thread::sleep(until_next(begun, Timestamp::now(), every));
    }
    Ok(status)
}

fn tell(done: &Round) {
    let entry = &done.entry;
    let run = entry.run.as_deref().unwrap_or("no run");
    println!("watch     {run}, exit code {}, {} alerts", entry.exit_code, entry.alerts.len());
    entry.alerts.iter().for_each(|line| println!("ALERT     {line}"));
}

/// How long to wait for the next multiple of `every` after `begun`. A round that outlasted its turn
/// skips it.
fn until_next(begun: Timestamp, now: Timestamp, every: SignedDuration) -> Duration {
    let every = every.as_secs().max(1);
    let gone = now.duration_since(begun).as_secs().max(0);
    Duration::from_secs((every - gone % every).unsigned_abs())
}

/// The graver of two exit codes, in the order of a run's: interrupted, usage, 1 over 3 over 4.
fn graver(a: i32, b: i32) -> i32 {
    let rank = |code: i32| match code {
        0 => 0,
        4 => 1,
        3 => 2,
        1 => 3,
        2 => 4,
        _ => 5,
    };
    if rank(b) > rank(a) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_begin_at_multiples() {
        let begun = Timestamp::from_second(1_000).expect("a time");
        let check = |now: i64, expect: u64| {
            let now = Timestamp::from_second(now).expect("a time");
            let wait = until_next(begun, now, SignedDuration::from_mins(1));
            assert_eq!(wait, Duration::from_secs(expect), "{now}");
        };
        check(1_010, 50);
        check(1_059, 1);
        check(1_060, 60);
        check(1_130, 50);
        // A clock that was set back.
        check(900, 60);
    }

    #[test]
    fn the_gravest_code_stays() {
        let all = |codes: &[i32]| codes.iter().copied().fold(0, graver);
        assert_eq!(all(&[0, 0]), 0);
        assert_eq!(all(&[4, 3, 0]), 3);
        assert_eq!(all(&[3, 1, 4]), 1);
        assert_eq!(all(&[1, 2]), 2);
    }
}
