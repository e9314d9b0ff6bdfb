//! What a hang leaves: a folder of plain texts without a name of the machine, and whether it holds what it should.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::{Hang, Watched, threads};
use crate::child::{End, Redactor};
use crate::files;

/// Most bytes of a log in a bundle: more than [`crate::child::Log`] keeps.
pub const LOG_BYTES: usize = 64 * 1024;

/// What a file of a bundle has to say to be there: the stage is given.
type Says = fn(text: &str, stage: &str) -> bool;

/// The files of a bundle, and what each has to say.
const PIECES: [(&str, Says); 8] = [
    ("hang.txt", |text, stage| text.lines().any(|line| line == format!("stage: {stage}"))),
    ("command.txt", |text, _| !text.trim().is_empty()),
    ("environment.txt", |text, _| text.lines().any(|line| line.contains('='))),
    ("versions.txt", |text, _| text.lines().any(|line| line.contains(": "))),
    ("log.txt", |text, stage| {
        text.lines().any(|line| line == format!("{}{stage}", crate::record::PROGRESS))
    }),
    ("threads.txt", |text, _| text.lines().any(|line| line.starts_with("thread "))),
    // A frame of the first thread at least: what hangs hangs there, or it waits for what does.
    ("stacks.txt", |text, _| {
        let behind = text.lines().skip_while(|line| !line.starts_with("thread ")).skip(1);
        behind.take_while(|line| line.starts_with(' ')).any(|line| line.contains(" 0x"))
    }),
    ("flight.txt", |text, _| !text.trim().is_empty()),
];

/// What the watchdog does not know by itself.
#[derive(Debug, Default, Clone)]
pub struct Account {
    /// Program and arguments that start the process again.
    pub command: Vec<String>,
    /// Variables of its environment that matter to it.
    pub environment: BTreeMap<String, String>,
    /// Versions of what it uses.
    pub versions: BTreeMap<String, String>,
    /// What [`super::stacks`] wrote as it ended; empty where it wrote nothing.
    pub stacks: String,
    /// Its flight record: what it had handed to the device, the last behind the others.
    pub flight: Vec<String>,
}

/// Writes the bundle of a hang; nothing in it names the machine or holds a secret.
///
/// Errors: the process was not ended, or a file cannot be written.
pub fn write(
    folder: &Path,
    watched: &Watched,
    account: &Account,
    redactor: &Redactor,
) -> Result<(), String> {
    let hang = watched.hang.as_ref().ok_or("a bundle of a process that was not ended")?;
    let lines = |all: &BTreeMap<String, String>, between: &str| -> String {
        let line = |(name, value): (&String, &String)| format!("{name}{between}{value}\n");
        all.iter().map(line).collect()
    };
    let environment = account.environment.iter().map(|(name, value)| {
        (name.clone(), if is_secret(name) { "(left out)".to_owned() } else { value.clone() })
    });
    let flight = match account.flight.as_slice() {
        [] => "nothing was handed to the device\n".to_owned(),
        lines => lines.join("\n") + "\n",
    };
    let stacks = match account.stacks.as_str() {
        "" => "the process wrote no stacks as it ended\n".to_owned(),
        stacks => stacks.to_owned(),
    };
    let texts = [
        ("hang.txt", about(hang, watched, account)),
        ("command.txt", quoted(&account.command) + "\n"),
        ("environment.txt", lines(&environment.collect(), "=")),
        ("versions.txt", lines(&account.versions, ": ")),
        ("log.txt", watched.finished.log.excerpt(LOG_BYTES, redactor)),
        ("threads.txt", threads::render(&hang.threads)),
        ("stacks.txt", stacks),
        ("flight.txt", flight),
    ];
    for (name, text) in texts {
        files::write(&folder.join(name), redactor.apply(&text).as_bytes())?;
    }
    Ok(())
}

/// What is wrong with a bundle of a hang in `stage`: a file that is missing or does not say what it should, or that
/// says what the redactor would have replaced. Empty is whole.
pub fn missing(folder: &Path, stage: &str, redactor: &Redactor) -> Vec<String> {
    let wrong = |(name, says): &(&str, Says)| match files::read(&folder.join(name)) {
        Err(_) => Some(format!("{name} is missing")),
        Ok(text) if !says(&text, stage) => Some(format!("{name} does not say what it should")),
        Ok(text) if redactor.apply(&text) != text => Some(format!("{name} names the machine")),
        Ok(_) => None,
    };
    PIECES.iter().filter_map(wrong).collect()
}

/// The page to read first.
fn about(hang: &Hang, watched: &Watched, account: &Account) -> String {
    let ended = match &watched.finished.end {
        End::Exited(status) => status.to_string(),
        End::Unkillable => "could not be killed".to_owned(),
        End::Lost(why) => why.clone(),
    };
    let mut text = format!(
        "stage: {}\nbudget: {:.3} s\nafter: {:.3} s\nstarted: {}\nended: {ended}\nprocesses left: {}\n",
        hang.stage,
        hang.most.as_secs_f64(),
        hang.after.as_secs_f64(),
        watched.finished.started,
        watched.left,
    );
    let last = account.flight.last().map_or("nothing", String::as_str);
    let _ = writeln!(text, "last in the flight record: {last}");
    for (stage, time) in &watched.stages {
        let _ = writeln!(text, "time in {stage}: {:.3} s", time.as_secs_f64());
    }
    text
}

/// A name of a variable whose value nobody else may see.
fn is_secret(name: &str) -> bool {
    let name = name.to_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL", "AUTH"].iter().any(|part| name.contains(part))
}

/// A command line that a shell takes.
fn quoted(command: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@".contains(c);
    let word = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &[&str], expect: &str) {
        let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(quoted(&words), expect);
    }

    #[test]
    fn a_shell_takes_the_command() {
        check(&["a", "--b", "c=1"], "a --b c=1");
        check(&["a", "b c", "it's", ""], r"a 'b c' 'it'\''s' ''");
        check(&["a", r#"{"x":1}"#], r#"a '{"x":1}'"#);
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in ["NCCL_API_KEY", "Some_Token", "MY_PASSWORD", "X_AUTH"] {
            assert!(is_secret(name), "{name}");
        }
        assert!(!is_secret("NCCL_NVLS_ENABLE") && !is_secret("CUDA_VISIBLE_DEVICES"));
    }
}
