//! One run to a GPU: advisory file locks that the kernel releases when the process dies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::digest;
use crate::node::NodeGpu;

/// GPUs that are held; dropping it, or dying, lets them go.
#[derive(Debug)]
#[must_use]
pub struct Held {
    files: Vec<File>,
}

impl Drop for Held {
    fn drop(&mut self) {
        for file in &self.files {
            // Closing alone would leave the lock to a child that is forked and has not called exec
            // yet. Where unlocking fails, closing is what remains.
            let _ = file.unlock();
        }
    }
}

/// Takes all GPUs or none. The files stay in `folder`: removing one could let two runs hold two
/// files of the same name.
pub fn acquire(gpus: &[NodeGpu], folder: &Path) -> Result<Held, String> {
    fs::create_dir_all(folder).map_err(|e| format!("lock folder cannot be made: {e}"))?;
    let mut gpus: Vec<&NodeGpu> = gpus.iter().collect();
    // One order for all runs: of two that start at once, one gets everything.
    gpus.sort_by(|a, b| a.uuid.cmp(&b.uuid));
    gpus.dedup_by(|a, b| a.uuid == b.uuid);
    let mut held = Held { files: Vec::new() };
    for gpu in gpus {
        held.files.push(hold(gpu, folder)?);
    }
    Ok(held)
}

fn hold(gpu: &NodeGpu, folder: &Path) -> Result<File, String> {
    let index = gpu.device.gpu;
    let digest = digest::sha256_hex(gpu.uuid.as_bytes());
    let path = folder.join(format!("gpu-{}.lock", digest::short(&digest)));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| format!("lock of gpu{index} cannot be opened: {e}"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(format!(
                "gpu{index} is in use by another touchstone run{}",
                holder(&mut file)
            ));
        }
        Err(TryLockError::Error(error)) => {
            return Err(format!("gpu{index} cannot be locked: {error}"));
        }
    }
    sign(&mut file).map_err(|e| format!("lock of gpu{index} cannot be written: {e}"))?;
    Ok(file)
}

fn sign(file: &mut File) -> std::io::Result<()> {
    let since = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "pid {}, since {since}", std::process::id())
}

/// What the holder wrote; empty while it is still writing.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(200).read_to_string(&mut text);
    let line = text.lines().next().unwrap_or_default();
    match read {
        Ok(_) if !line.is_empty() => format!(" ({line})"),
        _ => String::new(),
    }
}
